//! Direct Preference Optimization losses of [`dpo_kernels`] as [candle](candle_core) operations.
//!
//! [`dpo_loss`] takes logits and gives a scalar whose `backward()` is the fused gradient: the logits are read once
//! forward and once backward, and no tensor of their size is made on the way but the gradient itself. The
//! reference model's pass is [`sequence_logps`]. Both read the labels, the layout and what becomes of the logits from
//! one [`Targets`]. Per-pair values and normalisers are [`PairInputs`], for [`dpo_loss_with`]; [`ref_cache`] keeps the
//! reference's log-probs in a file.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use dpo_kernels_candle::{PairLoss, Targets, dpo_loss, sequence_logps};
//!
//! let device = Device::Cpu;
//! // Two pairs, chosen first: sequences 0 and 1 are chosen, 2 and 3 rejected. −100 is not scored.
//! let labels = Tensor::new(
//!     &[[-100i64, 3, 1, 4], [-100, 1, 5, -100], [-100, 2, 6, 5], [-100, 3, 5, -100]],
//!     &device,
//! )?;
//! let targets = Targets::padded(&labels)?;
//!
//! let reference_logits = Tensor::zeros((4, 4, 8), DType::F32, &device)?;
//! let ref_logps = sequence_logps(&reference_logits, &targets)?;
//!
//! let logits = Var::from_tensor(&reference_logits)?;
//! let output = dpo_loss(&logits, &targets, Some(&ref_logps), &PairLoss::sigmoid(0.1).unwrap())?;
//! let gradients = output.loss.backward()?;
//!
//! // Policy and reference are one: all rewards are 0 and the loss is log 2.
//! assert_eq!(output.metrics()?.margin, 0.0);
//! assert_eq!(output.loss.to_scalar::<f32>()?, 2f32.ln());
//! assert_eq!(gradients.get(&logits).unwrap().dims(), [4, 4, 8]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Logits are f32, f16 or bf16, on the CPU or, with the feature `cuda`, on an NVIDIA GPU, where all work is queued
//! on candle's own stream and the host waits for nothing until it asks for a value.

mod checks;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod inputs;
mod output;
mod rows;
mod targets;

use candle_core::{Device, Error, Result, Tensor};
pub use dpo_kernels::batch::{IGNORE_INDEX, MeanTokenMetrics, PairMetrics, Status};
pub use dpo_kernels::loss::ALL;
pub use dpo_kernels::{LabelAlignment, PairLoss, Pairs, Transform, ref_cache};

pub use crate::inputs::PairInputs;
pub use crate::output::{DpoOutput, TokenMetrics};
use crate::rows::Rows;
pub use crate::targets::Targets;

/// The DPO loss of a batch of pairs, differentiable by the logits.
///
/// `logits` is `[S, T, V]` for [padded](Targets::padded) targets and `[rows, V]` for [packed](Targets::packed)
/// ones. A view of the first V of more columns (a padded vocabulary) is read where it lies; views that are strided
/// otherwise are made contiguous first. `ref_logps` is `[S]` in f32, what [`sequence_logps`] gave for the reference
/// model's logits; without it the reference log-probs are 0. No gradient runs to it.
///
/// The scalar [`loss`](DpoOutput::loss) may stand in further arithmetic, such as an auxiliary loss or a factor: its
/// own upstream gradient goes into the fused backward pass.
///
/// # Errors
///
/// A candle error that names the argument if it has the wrong type, shape or device, or that carries a
/// [`dpo_kernels::Error`]. What is wrong with values of labels and logits is in [`DpoOutput::status`].
pub fn dpo_loss(
    logits: &Tensor,
    targets: &Targets,
    ref_logps: Option<&Tensor>,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    dpo_loss_with(logits, targets, &inputs::of_reference(ref_logps), loss)
}

/// [`dpo_loss`] with everything that a loss can be given.
///
/// # Errors
///
/// As [`dpo_loss`]; also for what the loss has no use for, or lacks. Values that are out of their ranges are refused on
/// the CPU; a GPU, which alone sees them, makes them NaN in the loss of their pair.
pub fn dpo_loss_with(
    logits: &Tensor,
    targets: &Targets,
    inputs: &PairInputs,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let rows = Rows::new(logits, targets)?;
    let inputs = inputs::checked(inputs, targets, logits)?;
    match logits.device() {
        Device::Cpu => cpu::dpo_loss(&rows, targets, &inputs, loss),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::dpo_loss(device, &rows, targets, &inputs, loss),
        other => Err(unsupported(other)),
    }
}

/// Log-probs of whole sequences, `[S]` in f32 and in nats: the sum over the scored tokens of each. No gradient.
///
/// Shapes are those of [`dpo_loss`]; the pairs of `targets` are not looked at, but for
/// [`ld_alpha`](Targets::with_ld_alpha). A log-prob does not depend on the other sequences in the call, so those of a
/// frozen reference can be computed once and kept: [`ref_cache`] does, under [`Targets::sequence_keys`].
///
/// # Errors
///
/// As [`dpo_loss`]. A bad label or a non-finite row makes the log-prob of its sequence non-finite.
pub fn sequence_logps(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let without = Targets { token_metrics: false, ..targets.clone() };
    Ok(logps(logits, &without)?.0)
}

/// Metrics of every token, without a loss and without a gradient: what WPO, for one, weighs sequences by before its loss
/// is computed. Where they are only to be logged, [`Targets::with_token_metrics`] has them from the loss's own read.
///
/// # Errors
///
/// As [`sequence_logps`].
pub fn token_metrics(logits: &Tensor, targets: &Targets) -> Result<TokenMetrics> {
    let (_, metrics) = logps(logits, &targets.clone().with_token_metrics())?;
    Ok(metrics.expect("they were asked for"))
}

fn logps(logits: &Tensor, targets: &Targets) -> Result<(Tensor, Option<TokenMetrics>)> {
    let rows = Rows::new(logits, targets)?;
    match logits.device() {
        Device::Cpu => cpu::logps(&rows, targets),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::logps(device, &rows, targets),
        other => Err(unsupported(other)),
    }
}

fn unsupported(device: &Device) -> Error {
    Error::msg(format!(
        "logits: expected a device that this crate was built for, found {:?}",
        device.location()
    ))
}

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
