//! What a loss can be given besides log-probs, each of it optional.

use candle_core::{DType, Result, Tensor};
use dpo_kernels::loss::PairTensors;

use crate::checks;
use crate::targets::Targets;

/// What a loss can be given besides log-probs, as tensors on the device of the logits: arrays are
/// f32, `lengths` is u32, single numbers are scalars of f32.
///
/// [`PairInputs::reference`](PairTensors::reference) is the log-probs of the reference and nothing else; a
/// loss that compares with a reference needs them, unless it is [without
/// one](crate::PairLoss::without_reference). What the loss has no use for is refused. No gradient runs to any
/// of them. WPO ([`with_wpo_weights`](crate::PairLoss::with_wpo_weights)) takes
/// [`TokenMetrics::sequence_log_weights`](crate::TokenMetrics) as they are.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{LabelAlignment, PairInputs, PairLoss, Targets, dpo_loss};
///
/// // Two pairs; the second is worth half, and is to be won by a margin of 1.
/// let device = Device::Cpu;
/// let (weight, gamma) = (Tensor::new(&[1f32, 0.5], &device)?, Tensor::new(&[0f32, 1.0], &device)?);
/// let inputs = PairInputs { weight: Some(&weight), gamma: Some(&gamma), ..PairInputs::default() };
/// let labels = Tensor::new(&[[0i64, 1], [0, 2], [0, 3], [0, 4]], &device)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let logits = Tensor::zeros((4, 2, 5), DType::F32, &device)?;
/// let output = dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?.without_reference())?;
/// let pair_losses: Vec<f32> = output.pair_losses.to_vec1()?;
/// // −log σ(0), and −log σ(−1)/2.
/// assert!((pair_losses[0] - 0.693147).abs() < 1e-6 && (pair_losses[1] - 0.656631).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub type PairInputs<'a> = PairTensors<&'a Tensor, &'a Tensor, &'a Tensor>;

/// [`PairInputs`] that are contiguous, and of the types, shapes and device that they should be.
pub(crate) type CheckedInputs = PairTensors<Tensor, Tensor, Tensor>;

/// Checks `inputs` against the targets and the logits, and makes them contiguous.
pub(crate) fn checked(inputs: &PairInputs<'_>, targets: &Targets, logits: &Tensor) -> Result<CheckedInputs> {
    let check = |name: &'static str, tensor: &Tensor, dtype, shape: &[usize]| {
        checks::dtype(name, tensor, &[dtype])?;
        checks::same_device(name, tensor, logits)?;
        checks::shape(name, tensor, shape)?;
        tensor.contiguous()
    };
    let mismatched = inputs.kl_logps.map_or(0, Tensor::elem_count);
    let len = |name| match name {
        "ref_logps" | "sequence_log_weights" => targets.sequences(),
        "kl_logps" | "kl_ref_logps" => mismatched,
        _ => targets.pairs(),
    };
    inputs.try_map(
        |name, floats| check(name, floats, DType::F32, &[len(name)]),
        |name, counts| check(name, counts, DType::U32, &[targets.sequences()]),
        |name, number| check(name, number, DType::F32, &[]),
    )
}
