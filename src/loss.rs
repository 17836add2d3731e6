//! Pair losses: functions from the log-probs of a pair to a loss and to one coefficient per sequence.
//!
//! This is floor 2, and the whole of the coefficient contract: floors 1 and 3 know nothing of what happens here.
//! The arithmetic is f64 on f32 inputs; there are two numbers per pair, so width costs nothing.

use crate::batch::{IndexArray, Pairs};
use crate::error::{Error, Result};

/// A loss over pairs, with its parameters checked.
///
/// The DPO loss (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): with r̂ = β(logp − ref_logp) and
/// u = r̂_w − r̂_l,
///
/// ```text
/// loss      = −log σ(u)
/// ∂loss/∂u  = −σ(−u) = −σ(r̂_l − r̂_w)
/// ```
///
/// With label smoothing ε (conservative DPO, Mitchell 2023, "A note on DPO with noisy preferences"), a preference
/// is taken to be flipped with probability ε:
///
/// ```text
/// loss      = −(1 − ε) log σ(u) − ε log σ(−u)
/// ∂loss/∂u  = ε − σ(−u)
/// ```
///
/// ```
/// use dpo_kernels::loss::PairLoss;
///
/// let loss = PairLoss::sigmoid(0.1)?.with_label_smoothing(0.05)?;
/// assert_eq!(loss.beta(), 0.1);
/// assert!(PairLoss::sigmoid(f32::NAN).is_err());
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    beta: f64,
    label_smoothing: f64,
    length_normalized: bool,
    normalizer: Option<f64>,
}

/// What a loss knows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Sum of its token log-probs under the policy, in nats.
    pub logp: f64,
    /// The same under the reference; 0 when there is none.
    pub ref_logp: f64,
    /// Tokens that length normalisation divides by; 0 counts as 1.
    pub length: u32,
}

/// What a loss makes of one pair, before the normaliser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairTerms {
    /// The pair's loss.
    pub loss: f64,
    /// r̂_w.
    pub chosen_reward: f64,
    /// r̂_l.
    pub rejected_reward: f64,
    /// ∂loss/∂logp_w.
    pub chosen_coef: f64,
    /// ∂loss/∂logp_l.
    pub rejected_coef: f64,
}

impl PairLoss {
    /// The DPO loss with temperature `beta` (usually 0.01 to 0.5): how much a nat of log-ratio counts.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `beta` is finite and above 0.
    pub fn sigmoid(beta: impl Into<f64>) -> Result<Self> {
        let beta = Error::check_positive("beta", beta.into())?;
        Ok(PairLoss { beta, label_smoothing: 0.0, length_normalized: false, normalizer: None })
    }

    /// Takes preferences to be flipped with probability `label_smoothing`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it lies in `[0, 0.5]`: beyond, the loss would train against the preferences.
    pub fn with_label_smoothing(self, label_smoothing: impl Into<f64>) -> Result<Self> {
        let label_smoothing = label_smoothing.into();
        if !(0.0..=0.5).contains(&label_smoothing) {
            return Err(Error::value("label_smoothing", "a number from 0 to 0.5", label_smoothing));
        }
        Ok(PairLoss { label_smoothing, ..self })
    }

    /// Divides each log-ratio by its sequence's number of scored tokens: r̂ = β(logp − ref_logp)/n.
    ///
    /// Log-probs stay sums, of policy and reference alike; c_s carries the 1/n.
    pub fn with_length_normalization(self) -> Self {
        PairLoss { length_normalized: true, ..self }
    }

    /// Divides the sum of the pair losses by `normalizer` instead of the number of pairs: the pair count of the
    /// global batch, say, under data parallelism or gradient accumulation.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and above 0.
    pub fn with_normalizer(self, normalizer: impl Into<f64>) -> Result<Self> {
        let normalizer = Error::check_positive("normalizer", normalizer.into())?;
        Ok(PairLoss { normalizer: Some(normalizer), ..self })
    }

    /// The temperature β.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The flip probability ε.
    pub fn label_smoothing(&self) -> f64 {
        self.label_smoothing
    }

    /// Whether log-ratios are divided by sequence lengths.
    pub fn length_normalized(&self) -> bool {
        self.length_normalized
    }

    /// What the sum of the losses of `pairs` pairs is divided by.
    pub fn normalizer(&self, pairs: usize) -> f64 {
        self.normalizer.unwrap_or(pairs as f64)
    }

    /// The loss of one pair and its derivatives, with k = 1.
    pub fn pair(&self, chosen: Sequence, rejected: Sequence) -> PairTerms {
        let scale = |s: Sequence| {
            let length = if self.length_normalized { s.length.max(1) } else { 1 };
            self.beta / f64::from(length)
        };
        let (chosen_scale, rejected_scale) = (scale(chosen), scale(rejected));
        let chosen_reward = chosen_scale * (chosen.logp - chosen.ref_logp);
        let rejected_reward = rejected_scale * (rejected.logp - rejected.ref_logp);
        let margin = chosen_reward - rejected_reward;
        let flip = self.label_smoothing;
        // ε·softplus(u) is skipped at ε = 0, where u = ∞ would make it 0·∞.
        let flipped = if flip > 0.0 { flip * softplus(margin) } else { 0.0 };
        let slope = flip - sigmoid(-margin);
        PairTerms {
            loss: (1.0 - flip) * softplus(-margin) + flipped,
            chosen_reward,
            rejected_reward,
            chosen_coef: chosen_scale * slope,
            rejected_coef: -rejected_scale * slope,
        }
    }

    /// Checks what floor 2 is given, for `sequences` sequences: lengths are needed exactly by length normalisation.
    pub(crate) fn check_inputs<A: IndexArray>(
        &self,
        pairs: &Pairs<A>,
        sequences: usize,
        ref_logps: Option<usize>,
        lengths: Option<usize>,
    ) -> Result<()> {
        if matches!(pairs, Pairs::None) {
            return Err(Error::value("pairs", "a layout with pairs, for a loss", "Pairs::None"));
        }
        if let Some(found) = ref_logps {
            Error::check_len("ref_logps", "[sequences]", sequences, found)?;
        }
        match lengths {
            Some(found) => Error::check_len("lengths", "[sequences]", sequences, found),
            None if self.length_normalized => {
                Err(Error::Missing { argument: "lengths", because: "the loss is length-normalised" })
            }
            None => Ok(()),
        }
    }
}

/// log(1 + eˣ), without overflow and without losing the tail.
pub fn softplus(x: f64) -> f64 {
    // f64::max drops a NaN; the second term keeps it.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1/(1 + e⁻ˣ), without overflow and without losing the tail.
pub fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
