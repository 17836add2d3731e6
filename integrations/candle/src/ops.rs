//! The operations: `dpo_loss`, and what a trainer asks of logits without a loss.

use candle_core::{Device, Error, Result, Tensor};
use dpo_kernels::{LogpsTensors, MetricsLevel, PairLoss};

use crate::inputs::{PairInputs, checked};
use crate::logits::Logits;
use crate::output::{DpoOutput, TokenMetrics};
use crate::selection;
use crate::targets::Targets;
use crate::tensors::Tensors;

/// The DPO loss of a batch of pairs, differentiable by the logits.
///
/// `logits` is `[S, T, V]` for [padded](Targets::padded) targets and `[rows, V]` for [packed](Targets::packed)
/// ones. A view of the first V of more columns (a padded vocabulary) is read where it lies; views that are strided
/// otherwise are made contiguous first. `inputs` are the reference's log-probs, `[S]` in f32 as [`sequence_logps`] gave
/// them, and whatever else the loss can be given. `ref_logps` are needed unless the loss is
/// [without a reference](PairLoss::without_reference). No gradient runs to them.
///
/// The scalar [`loss`](DpoOutput::loss) may stand in further arithmetic, such as an auxiliary loss or a factor: its
/// own upstream gradient goes into the fused backward pass.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use dpo_kernels_candle::{PairInputs, PairLoss, Targets, dpo_loss};
///
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
/// let ref_logps = Tensor::new(&[-4f32, -4.5], &Device::Cpu)?;
/// let logits = Var::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
/// let (targets, loss) = (Targets::padded(&labels)?, PairLoss::sigmoid(0.1)?);
/// let output = dpo_loss(&logits, &targets, &PairInputs::reference(&ref_logps), &loss)?;
/// let gradients = output.loss.backward()?;
/// assert_eq!(gradients.get(&logits).unwrap().dims(), [2, 3, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// A candle error that names the argument if it has the wrong type, shape or device, or that carries a
/// [`dpo_kernels::Error`]; also for what the loss has no use for, or lacks. Values of `inputs` that are out of their ranges
/// are refused on the CPU; a GPU, which alone sees them, makes them NaN in the loss of their pair. What is wrong with
/// values of labels and logits is in [`DpoOutput::status`].
pub fn dpo_loss(
    logits: &Tensor,
    targets: &Targets,
    inputs: &PairInputs<'_>,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let logits = Logits::new(logits, targets)?;
    let inputs = checked(inputs, targets, &logits.tensor)?;
    let wanted = selection::logps_of_loss(targets);
    let (loss, out) = match logits.tensor.device() {
        Device::Cpu => crate::cpu::dpo_loss(&logits, targets, &inputs, loss, &wanted),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::dpo_loss(device, &logits, targets, &inputs, loss, &wanted),
        other => Err(unsupported(other)),
    }?;
    Ok(DpoOutput::new(loss, out))
}

/// Log-probs of whole sequences, `[S]` in f32 and in nats: the sum over the scored tokens of each. No gradient.
///
/// Shapes are those of [`dpo_loss`]; the pairs of `targets` are not looked at, but for
/// [`ld_alpha`](Targets::with_ld_alpha). A log-prob does not depend on the other sequences in the call, so those of a
/// frozen reference can be computed once and kept: [`ref_cache`](crate::ref_cache) does, under
/// [`Targets::sequence_keys`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{Targets, sequence_logps};
///
/// let targets = Targets::padded(&Tensor::new(&[[-100i64, 3, 1], [-100, 2, -100]], &Device::Cpu)?)?;
/// let logps: Vec<f32> = sequence_logps(&Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?, &targets)?.to_vec1()?;
/// // Two scored tokens and one, each as probable as the seven others.
/// assert!((logps[0] + 2.0 * 8f32.ln()).abs() < 1e-6 && (logps[1] + 8f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`dpo_loss`]. A bad label or a non-finite row makes the log-prob of its sequence non-finite.
pub fn sequence_logps(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let out = logps(logits, targets, MetricsLevel::None)?;
    Ok(out.logps.expect("every pass asks for it"))
}

/// Metrics of every token up to `level`, without a loss and without a gradient: what WPO, for one, weighs sequences by
/// before its loss is computed. Where they are only to be logged, [`Targets::with_token_metrics`] has them from the
/// loss's own read; what `targets` says of that is not looked at here.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{MetricsLevel, PairInputs, PairLoss, Targets, dpo_loss, token_metrics};
///
/// let targets = Targets::padded(&Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?)?;
/// let logits = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
/// // WPO: pairs that the policy would hardly write count less.
/// let metrics = token_metrics(&logits, &targets, MetricsLevel::All)?;
/// let weights = metrics.sequence_log_weights.as_ref();
/// let ref_logps = Tensor::new(&[-4.2f32, -4.1], &Device::Cpu)?;
/// let inputs = PairInputs { sequence_log_weights: weights, ..PairInputs::reference(&ref_logps) };
/// dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?.with_wpo_weights())?;
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`sequence_logps`].
pub fn token_metrics(logits: &Tensor, targets: &Targets, level: MetricsLevel) -> Result<TokenMetrics> {
    Ok(logps(logits, targets, level)?.metrics.unwrap_or_default())
}

fn logps(logits: &Tensor, targets: &Targets, level: MetricsLevel) -> Result<LogpsTensors<Tensors>> {
    let logits = Logits::new(logits, targets)?;
    let (targets, wanted) = (targets.without_loss(), selection::logps(level));
    match logits.tensor.device() {
        Device::Cpu => crate::cpu::logps(&logits, &targets, &wanted),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::logps(device, &logits, &targets, &wanted),
        other => Err(unsupported(other)),
    }
}

fn unsupported(device: &Device) -> Error {
    Error::msg(format!(
        "logits: expected a device that this crate was built for, found {:?}",
        device.location()
    ))
}
