//! Direct Preference Optimization losses of [`dpo_kernels`] as [candle](candle_core) operations.
//!
//! [`dpo_loss`] takes logits and gives a scalar whose `backward()` is the fused gradient: the logits are read
//! once forward and once backward, and no tensor of their size is made on the way but the gradient itself.
//! The reference model's pass is [`sequence_logps`]. Both read the labels, the layout and what becomes of the
//! logits from one [`Targets`]. What the loss is given besides, the reference's log-probs first of all, is
//! [`PairInputs`]; [`ref_cache`] keeps the reference's log-probs in a file. A loss of one's own is made of
//! [`sequence_logps`] or [`token_logps`] in candle's operations, and has the same fused backward.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use dpo_kernels_candle::{LabelAlignment, PairInputs, PairLoss, Targets, dpo_loss, sequence_logps};
//!
//! let device = Device::Cpu;
//! // Two pairs, chosen first: sequences 0 and 1 are chosen, 2 and 3 rejected. −100 is not scored.
//! let labels = Tensor::new(
//!     &[[-100i64, 3, 1, 4], [-100, 1, 5, -100], [-100, 2, 6, 5], [-100, 3, 5, -100]],
//!     &device,
//! )?;
//! let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
//!
//! let reference_logits = Tensor::zeros((4, 4, 8), DType::F32, &device)?;
//! let ref_logps = sequence_logps(&reference_logits, &targets)?;
//!
//! let logits = Var::from_tensor(&reference_logits)?;
//! let inputs = PairInputs::reference(&ref_logps);
//! let output = dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?)?;
//! let gradients = output.loss.backward()?;
//!
//! // Policy and reference are one: all rewards are 0 and the loss is log 2.
//! assert_eq!(output.metrics()?.margin, 0.0);
//! assert_eq!(output.loss.to_scalar::<f32>()?, 2f32.ln());
//! assert_eq!(gradients.get(&logits).unwrap().dims(), [4, 4, 8]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Logits are f32, f16 or bf16, on the CPU or, with the feature `cuda`, on an NVIDIA GPU, where all work is
//! queued on candle's own stream and the host waits for nothing until it asks for a value, or gives a head labels that are on the GPU.

#![warn(unsafe_op_in_unsafe_fn)]

mod checks;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod graph;
mod head_graph;
mod inputs;
mod keys;
mod lm_head;
mod logits;
mod no_gradient;
mod ops;
mod output;
mod selection;
mod targets;
mod tensors;

pub use dpo_kernels::loss::ALL;
pub use dpo_kernels::{
    IGNORE_INDEX, LabelAlignment, MeanTokenMetrics, MetricsLevel, PairLoss, PairMetrics, Pairs, Status,
    Transform, ref_cache,
};

pub use crate::inputs::PairInputs;
pub use crate::lm_head::{LmHead, linear_dpo_loss, linear_sequence_logps, linear_token_logps};
pub use crate::ops::{dpo_loss, sequence_logps, token_logps, token_metrics};
pub use crate::output::{DpoOutput, TokenMetrics};
pub use crate::targets::Targets;
pub use crate::tensors::{Pending, Tensors};

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
