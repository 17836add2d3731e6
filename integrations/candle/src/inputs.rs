//! What a loss can be given besides log-probs, each of it optional.

use candle_core::{DType, Result, Tensor};

use crate::checks;
use crate::targets::Targets;

/// What a loss can be given besides log-probs: [`dpo_kernels::loss::PairInputs`] as tensors on the device of the logits,
/// all of it optional. S sequences, N pairs.
///
/// Values of the loss are replaced by those of their tensors, pair by pair, and have the same ranges. What the loss has
/// no use for is refused. No gradient runs to any of them.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{PairInputs, PairLoss, Targets, dpo_loss_with};
///
/// // Two pairs; the second is worth half, and is to be won by a margin of 1.
/// let device = Device::Cpu;
/// let inputs = PairInputs {
///     weight: Some(Tensor::new(&[1f32, 0.5], &device)?),
///     margin: Some(Tensor::new(&[0f32, 1.0], &device)?),
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
#[derive(Debug, Clone, Default)]
pub struct PairInputs {
    /// `[S]` f32: log-probs under the reference, in nats. Without them the reference is 0 everywhere.
    pub ref_logps: Option<Tensor>,
    /// `[S]` u32: what a loss divides log-ratios or log-probs by, where that is not the number of scored rows; 0 counts
    /// as 1.
    pub lengths: Option<Tensor>,
    /// `[N]` f32: β, finite and above 0.
    pub beta: Option<Tensor>,
    /// `[N]` f32: γ, the margin of rewards to be won by: the difference of ground-truth rewards, say.
    pub margin: Option<Tensor>,
    /// `[N]` f32: a factor of the pair's loss, from 0, finite.
    pub weight: Option<Tensor>,
    /// `[N]` f32: ε.
    pub label_smoothing: Option<Tensor>,
    /// `[S]` f32: logarithms of weights; a pair's loss is multiplied by exp of the sum of its two sequences'. WPO (Zhou
    /// et al. 2024, arXiv:2406.11827) takes [`TokenMetrics::sequence_log_weights`](crate::TokenMetrics) here.
    pub sequence_log_weights: Option<Tensor>,
    /// `[M]` f32: log-probs of completions under prompts that are not theirs, for KTO's baseline.
    pub kl_logps: Option<Tensor>,
    /// `[M]` f32: the same under the reference; 0 if left out.
    pub kl_ref_logps: Option<Tensor>,
    /// Scalar, f32: what the sum of the pair losses is divided by, finite and above 0, instead of what the loss says.
    pub normalizer: Option<Tensor>,
    /// Scalar, f32: what [`PairLoss::sft`](crate::PairLoss::sft) divides by, finite and above 0, instead of this batch's
    /// number of scored chosen tokens.
    pub chosen_tokens: Option<Tensor>,
}

impl PairInputs {
    /// Of the reference alone.
    pub(crate) fn of_reference(ref_logps: Option<&Tensor>) -> Self {
        PairInputs { ref_logps: ref_logps.cloned(), ..PairInputs::default() }
    }

    /// The same, contiguous, if every type, shape and device is what it should be for `logits`.
    pub(crate) fn checked(&self, targets: &Targets, logits: &Tensor) -> Result<Self> {
        let check = |name: &'static str, dtype, given: &Option<Tensor>, shape: &[usize]| {
            let Some(tensor) = given else { return Ok(None) };
            checks::dtype(name, tensor, &[dtype])?;
            checks::same_device(name, tensor, logits)?;
            checks::shape(name, tensor, shape)?;
            tensor.contiguous().map(Some)
        };
        let floats = |name, given, shape: &[usize]| check(name, DType::F32, given, shape);
        let (sequences, pairs) = ([targets.sequences()], [targets.pairs()]);
        let mismatched = [self.kl_logps.as_ref().map_or(0, Tensor::elem_count)];
        Ok(PairInputs {
            ref_logps: floats("ref_logps", &self.ref_logps, &sequences)?,
            lengths: check("lengths", DType::U32, &self.lengths, &sequences)?,
            beta: floats("beta", &self.beta, &pairs)?,
            margin: floats("margin", &self.margin, &pairs)?,
            weight: floats("weight", &self.weight, &pairs)?,
            label_smoothing: floats("label_smoothing", &self.label_smoothing, &pairs)?,
            sequence_log_weights: floats("sequence_log_weights", &self.sequence_log_weights, &sequences)?,
            kl_logps: floats("kl_logps", &self.kl_logps, &mismatched)?,
            kl_ref_logps: floats("kl_ref_logps", &self.kl_ref_logps, &mismatched)?,
            normalizer: floats("normalizer", &self.normalizer, &[])?,
            chosen_tokens: floats("chosen_tokens", &self.chosen_tokens, &[])?,
        })
    }
}
