//! Fused kernels for Direct Preference Optimization (DPO) over large-vocabulary logits.
//!
//! DPO (Rafailov et al. 2023, arXiv:2305.18290) trains a policy π_θ on pairs of a prompt x, a chosen answer y_w and a
//! rejected one y_l, with a supervised loss. In the notation used throughout:
//!
//! ```text
//! token      logp[r]  = z[r, y_r] − logsumexp_v z[r, v]           one row r of logits per token position
//! sequence   logp_s   = Σ logp[r]                                 over the scored rows of s
//! reward     r̂        = β (logp_s − ref_logp_s)
//! margin     u        = r̂_w − r̂_l
//! loss       −log σ(u)
//! coef       c_w      = −β σ(−u) k,   c_l = +β σ(−u) k            k = upstream gradient ÷ normaliser
//! logits     ∂L/∂z[r,v] = c_s (1[v = y_r] − softmax(z[r])[v])     exactly 0 in rows that are not scored
//! ```
//!
//! ```
//! use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, cpu};
//!
//! // One pair, chosen first: two sequences of two rows, over a vocabulary of three. −100 is not scored.
//! let batch = HostBatch::padded(2, 2, 3, LabelAlignment::Aligned);
//! let logits = [2.0f32, 0.0, 1.0, 0.0, 3.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
//! let labels = [0i64, 1, 2, -100];
//!
//! let (inputs, loss) = (PairInputs::reference(&[-1.0, -1.5]), PairLoss::sigmoid(0.1)?);
//! let mut out = Forward::default();
//! cpu::forward(&batch, &logits, labels[..].into(), &inputs, &loss, &mut out)?;
//! out.logps.status.check()?;
//! assert!(out.pairs.margins[0] > 0.0 && out.pairs.metrics.loss < 2f32.ln());
//!
//! let mut dlogits = [0.0; 12];
//! cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?.check()?;
//! // Down the gradient, the chosen tokens become more probable and the rejected one less.
//! assert!(dlogits[0] < 0.0 && dlogits[4] < 0.0 && dlogits[8] > 0.0);
//! # Ok::<(), dpo_kernels::Error>(())
//! ```
//!
//! **The coefficient contract.** Everything between the sums and the backward pass is one number per sequence, c_s.
//! The work is three stages: (1) logits to log-probs, (2) log-probs to loss, metrics and c_s, (3) logits, logsumexp
//! and c_s to the gradient. `logps` and `pair_loss` fuse into one pass over the logits, `backward` is another, and each is also
//! callable alone, so a [loss of your own](bring_your_own_loss) needs `logps` and `backward` only. [`recipes`] has what a
//! trainer does around them: gradient accumulation, data parallelism, the last batch.
//!
//! | module | what |
//! |---|---|
//! | [`Batch`], [`Labels`], [`Sequences`], [`Pairs`] | shapes and layouts, checked |
//! | [`Logps`], [`TokenMetrics`], [`PairOutputs`] | results, declared once for every [`memory`] |
//! | [`loss`] | the losses: `pair_loss` |
//! | [`cpu`] | the three stages in f32 on threads |
#![cfg_attr(feature = "cuda", doc = "| [`cuda`] | the three stages on a GPU |")]
//! | [`ref_cache`] | log-probs under the reference, kept in a file |
//! | [`mod@reference`] | the three stages in f64 and plain loops: the oracle |
//! | [`theory`] | what DPO is an optimum of, over finite candidate sets |
//!
//! Non-finite values are never hidden: a NaN in a scored row is a NaN in its pair's loss, and what a pass finds in its
//! data is in the [`Status`] beside the results. The same inputs give the same bits, and a row's bits do not depend on
//! its neighbours. Bad arguments are an [`Error`] that names the argument, what was expected and what came.
#![deny(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

mod batch;
mod coef;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dtype;
mod error;
mod labels;
pub mod lm_head;
pub mod loss;
pub mod memory;
mod metrics;
mod pairs;
pub mod ref_cache;
pub mod reference;
mod results;
mod sequences;
mod status;
pub mod theory;
mod transform;

/// The crate of [`DpoPass`](cuda::DpoPass)'s streams and slices, in the version that it takes.
#[cfg(feature = "cuda")]
pub use cudarc;
/// The crate of the 16-bit types that logits can have, in the version that it takes.
pub use half;

pub use batch::{Batch, HostBatch};
pub use coef::{Coef, EntropyCoef};
pub use dtype::{DType, Logit};
pub use error::{Error, Result};
pub use labels::{IGNORE_INDEX, LabelAlignment, LabelType, Labels};
pub use lm_head::{LmHead, LmHeadGradients, LmHeadPlan, WantedGradients, Way};
pub use loss::{PairInputs, PairLoss};
pub use metrics::{MeanTokenMetrics, PairMetrics};
pub use pairs::{PairTokens, Pairs};
pub use results::{
    Forward, ForwardSlices, ForwardTensors, Logps, LogpsSlices, LogpsTensors, MetricsLevel, PairOutputSlices,
    PairOutputTensors, PairOutputs, TokenMetricSlices, TokenMetricTensors, TokenMetrics,
};
pub use sequences::{IndexArray, Sequences};
pub use status::{GradientStatus, Status};
pub use transform::Transform;

#[doc = include_str!("../docs/bring-your-own-loss.md")]
pub mod bring_your_own_loss {}

#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

/// The README's examples, compiled and run as tests.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../README.md")]
struct Readme;
