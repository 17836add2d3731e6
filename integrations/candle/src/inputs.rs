//! What a loss can be given besides log-probs, each of it optional.

use candle_core::{DType, Result, Tensor};
use dpo_kernels::loss::PairTensors;

use crate::checks;
use crate::targets::Targets;

/// What a loss can be given besides log-probs, as tensors on the device of the logits, all of it optional: arrays are f32,
/// `lengths` is u32, single numbers are scalars of f32.
///
/// What the loss has no use for is refused. No gradient runs to any of them. WPO takes
/// [`TokenMetrics::sequence_log_weights`](crate::TokenMetrics) as they are.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{PairInputs, PairLoss, Targets, dpo_loss_with};
///
/// // Two pairs; the second is worth half, and is to be won by a margin of 1.
/// let device = Device::Cpu;
/// let inputs = PairInputs {
///     weight: Some(Tensor::new(&[1f32, 0.5], &device)?),
///     gamma: Some(Tensor::new(&[0f32, 1.0], &device)?),
///     ..PairInputs::default()
/// };
/// let targets = Targets::padded(&Tensor::new(&[[0i64, 1], [0, 2], [0, 3], [0, 4]], &device)?)?;
/// let logits = Tensor::zeros((4, 2, 5), DType::F32, &device)?;
/// let output = dpo_loss_with(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1).unwrap())?;
/// let pair_losses: Vec<f32> = output.pair_losses.to_vec1()?;
/// // −log σ(0), and −log σ(−1)/2.
/// assert!((pair_losses[0] - 0.693147).abs() < 1e-6 && (pair_losses[1] - 0.656631).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub type PairInputs = PairTensors<Tensor, Tensor, Tensor>;

/// Of the reference alone.
pub(crate) fn of_reference(ref_logps: Option<&Tensor>) -> PairInputs {
    PairInputs { ref_logps: ref_logps.cloned(), ..PairInputs::default() }
}

/// The same, contiguous, if every type, shape and device is what it should be for `logits`.
pub(crate) fn checked(inputs: &PairInputs, targets: &Targets, logits: &Tensor) -> Result<PairInputs> {
    let check = |name: &'static str, tensor: &Tensor, dtype, shape: &[usize]| {
        checks::dtype(name, tensor, &[dtype])?;
        checks::same_device(name, tensor, logits)?;
        checks::shape(name, tensor, shape)?;
        tensor.contiguous()
    };
    let mismatched = inputs.kl_logps.as_ref().map_or(0, Tensor::elem_count);
    let len = |name| match name {
        "ref_logps" | "sequence_log_weights" => targets.sequences(),
        "kl_logps" | "kl_ref_logps" => mismatched,
        _ => targets.pairs(),
    };
    inputs.as_ref().try_map(
        |name, floats| check(name, floats, DType::F32, &[len(name)]),
        |name, counts| check(name, counts, DType::U32, &[targets.sequences()]),
        |name, number| check(name, number, DType::F32, &[]),
    )
}
