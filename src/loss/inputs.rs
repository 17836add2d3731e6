//! What floor 2 reads besides log-probs, each of it optional.

use crate::error::{Error, Result};

/// What floor 2 reads besides log-probs; all of it may be left out. `F` is `f32`, or `f64` in
/// [`reference`](crate::reference). S sequences, N pairs.
///
/// Values of the loss are replaced by those of their tensors, pair by pair, and have the same ranges.
///
/// ```
/// use dpo_kernels::batch::PairOutputs;
/// use dpo_kernels::loss::PairInputs;
/// use dpo_kernels::{HostBatch, PairLoss, cpu};
///
/// // Two pairs; the second is worth half, and is to be won by a margin of 1.
/// let (batch, loss) = (HostBatch::padded(4, 1, 1), PairLoss::sigmoid(0.5)?);
/// let inputs = PairInputs { weight: Some(&[1.0, 0.5]), margin: Some(&[0.0, 1.0]), ..PairInputs::default() };
/// let mut out = PairOutputs::default();
/// cpu::pair_loss_with(&batch, &[-3.0, -3.0, -3.0, -5.0], None, &inputs, &loss, &mut out)?;
/// assert_eq!(out.pair_losses[0], 2.0 * out.pair_losses[1]);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairInputs<'a, F> {
    /// `[S]`: log-probs under the reference, in nats. Without them the reference is 0 everywhere.
    pub ref_logps: Option<&'a [F]>,
    /// `[S]`: what a loss divides log-ratios or log-probs by, where that is not the number of scored rows; 0 counts
    /// as 1. TRL's n, for one, also counts a completion's first token, which no row predicts.
    pub lengths: Option<&'a [u32]>,
    /// `[N]`: β, finite and above 0.
    pub beta: Option<&'a [F]>,
    /// `[N]`: γ, the margin of rewards to be won by: the difference of ground-truth rewards, say
    /// (Touvron et al. 2023, arXiv:2307.09288, eq. 2; Amini et al. 2024, "DPO with an offset", arXiv:2402.10571).
    pub margin: Option<&'a [F]>,
    /// `[N]`: a factor of the pair's loss, from 0, finite.
    pub weight: Option<&'a [F]>,
    /// `[N]`: ε.
    pub label_smoothing: Option<&'a [F]>,
    /// `[S]`: logarithms of weights; a pair's loss is multiplied by exp of the sum of its two sequences'. No gradient
    /// goes through it. WPO (Zhou et al. 2024, arXiv:2406.11827) takes the mean over scored tokens of
    /// logp_t − log Σ_v p_v² here.
    pub sequence_log_weights: Option<&'a [F]>,
    /// `[M]`: log-probs of completions under prompts that are not theirs. KTO's baseline is
    /// z₀ = max(0, mean(kl_logps − kl_ref_logps)); no gradient goes through it.
    pub kl_logps: Option<&'a [F]>,
    /// `[M]`: the same under the reference; 0 if left out.
    pub kl_ref_logps: Option<&'a [F]>,
    /// What the sum of the pair losses is divided by, finite and above 0, instead of what the loss says.
    pub normalizer: Option<F>,
    /// What [`PairLoss::sft`](super::PairLoss::sft) divides by, finite and above 0, instead of this batch's number
    /// of scored chosen tokens: that of the global batch.
    pub chosen_tokens: Option<F>,
}

impl<F> Default for PairInputs<'_, F> {
    fn default() -> Self {
        PairInputs {
            ref_logps: None,
            lengths: None,
            beta: None,
            margin: None,
            weight: None,
            label_smoothing: None,
            sequence_log_weights: None,
            kl_logps: None,
            kl_ref_logps: None,
            normalizer: None,
            chosen_tokens: None,
        }
    }
}

/// Which inputs are given, and how long they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    pub ref_logps: Option<usize>,
    pub lengths: Option<usize>,
    pub beta: Option<usize>,
    pub margin: Option<usize>,
    pub weight: Option<usize>,
    pub label_smoothing: Option<usize>,
    pub sequence_log_weights: Option<usize>,
    pub kl_logps: Option<usize>,
    pub kl_ref_logps: Option<usize>,
    pub chosen_tokens: bool,
    /// Numbers of scored rows, of floor 1.
    pub scored: Option<usize>,
}

impl<'a, F: Copy + Into<f64>> PairInputs<'a, F> {
    /// Of the reference alone.
    pub(crate) fn of_reference(ref_logps: Option<&'a [F]>) -> Self {
        PairInputs { ref_logps, ..PairInputs::default() }
    }

    pub(crate) fn given(&self, scored: Option<&[u32]>) -> Given {
        let len = |values: Option<&[F]>| values.map(<[F]>::len);
        Given {
            ref_logps: len(self.ref_logps),
            lengths: self.lengths.map(<[u32]>::len),
            beta: len(self.beta),
            margin: len(self.margin),
            weight: len(self.weight),
            label_smoothing: len(self.label_smoothing),
            sequence_log_weights: len(self.sequence_log_weights),
            kl_logps: len(self.kl_logps),
            kl_ref_logps: len(self.kl_ref_logps),
            chosen_tokens: self.chosen_tokens.is_some(),
            scored: scored.map(<[u32]>::len),
        }
    }

    /// Refuses what a device could only turn into NaN.
    pub(crate) fn check_values(&self) -> Result<()> {
        let all = |argument, expected: &str, values: Option<&[F]>, fits: fn(f64) -> bool| {
            let values = values.unwrap_or_default();
            match values.iter().position(|&value| !fits(value.into())) {
                None => Ok(()),
                Some(at) => {
                    let found: f64 = values[at].into();
                    Err(Error::value(argument, expected, format!("{found} at {at}")))
                }
            }
        };
        all("beta", "finite numbers above 0", self.beta, |x| x.is_finite() && x > 0.0)?;
        all("margin", "finite numbers", self.margin, f64::is_finite)?;
        all("weight", "finite numbers from 0", self.weight, |x| x.is_finite() && x >= 0.0)?;
        for (argument, number) in [("normalizer", self.normalizer), ("chosen_tokens", self.chosen_tokens)] {
            number.map(|number| Error::check_positive(argument, number.into())).transpose()?;
        }
        Ok(())
    }
}
