//! The CPU backend: f32 vectors, threads over rows, each pass at about the speed of memory.
//!
//! The three stages, each callable alone, and the first two together:
//!
//! | stage | function | from | to |
//! |---|---|---|---|
//! | logps | [`logps`] | logits, labels | token and sequence log-probs, logsumexp |
//! | pair_loss | [`pair_loss`] | log-probs | loss, metrics, c_s |
//! | logps + pair_loss | [`forward`] | logits, labels | all of these |
//! | backward | [`backward`], [`backward_in_place`] | logits, labels, logsumexp, c_s | dlogits |
//! | forward, and backward but for c_s | [`factored`], [`factored_in_place`] | logits, labels | all of these; the gradient that c_s multiplies |
//!
//! Work runs on the current rayon thread pool. The forward reads the logits once and the backward reads and writes them
//! once; ignored rows are not read, and nothing is allocated but results that do not fit in the buffers given.
//!
//! A row's result depends on that row alone: the bits are the same whatever the number of threads, the other rows of
//! the batch, and the alignment of the buffers. Instructions are chosen when the program runs: AVX-512 or AVX2 with FMA
//! on x86-64, otherwise what every processor of the target has. These do the same operations in the same order, so
//! that between processors bits may differ for two reasons alone: without a fused multiply-add (SSE2), products are
//! rounded too, and the reference of a row is subtracted on its own; and `ln` and `exp` of f64 are the platform's.
//!
//! One training step with two pairs of three tokens, over a vocabulary of five:
//!
//! ```
//! use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, cpu};
//!
//! let batch = HostBatch::padded(4, 3, 5, LabelAlignment::Aligned);
//! let logits: Vec<f32> = (0..4 * 3 * 5).map(|i| (i * 7 % 11) as f32 * 0.1).collect();
//! let labels: [i64; 12] = [0, 1, 2, 3, 4, -100, 0, 0, 1, -100, 2, 3];
//! let ref_logps = [-5.0, -3.5, -4.5, -3.0];
//! let loss = PairLoss::sigmoid(0.1)?;
//!
//! let mut out = Forward::default();
//! cpu::forward(&batch, &logits, labels[..].into(), &PairInputs::reference(&ref_logps), &loss, &mut out)?;
//! out.logps.status.check()?;
//! assert!(out.pairs.metrics.loss > 0.0);
//!
//! let mut dlogits = vec![0.0; logits.len()];
//! cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?;
//! assert_eq!(dlogits[5 * 5..6 * 5], [0.0; 5]); // row 5 is ignored
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

mod block;
mod element;
mod exp2;
mod exponents;
mod metric_sums;
mod online_sum;
mod prefetch;
mod row;
mod row_gradient;
mod row_logp;
mod row_metrics;
mod simd;
mod streaming;
mod tasks;
mod transform;

mod backward;
mod backward_inputs;
mod factored;
mod forward;
pub mod lm_head;
mod logps;
mod pair_loss;

pub use backward::{backward, backward_in_place};
pub use backward_inputs::{BackwardInputs, Logsumexp};
pub use factored::{factored, factored_in_place};
pub use forward::forward;
pub use logps::logps;
pub use pair_loss::pair_loss;
pub use simd::{InstructionSet, use_at_most};
