//! What every loss can be given: weights and sums, label smoothing, lengths, margins, divergences, normalisers.

use super::divergence::Divergence;
use super::kind::Kind;
use super::normalizer::Normalizer;
use super::pair_loss::{MAX_TERMS, PairLoss, Term};
use super::range::{Range, same_in_f32};
use crate::error::{Error, Result};

/// # Options
impl PairLoss {
    /// Multiplies the loss by `weight`: the first term of a weighted sum.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and above 0.
    pub fn weighted(mut self, weight: impl Into<f64>) -> Result<Self> {
        let weight = Range::ABOVE_ZERO.check("weight", weight.into())?;
        self.terms_mut().iter_mut().for_each(|term| term.weight *= weight);
        Ok(self)
    }

    /// Adds `weight` times another loss: mixed preference optimisation (Wang et al. 2024, arXiv:2411.10442). Each loss keeps
    /// its β. Rewards stay those of `self`, unless it has no β, being of log-probs alone. The normaliser and KTO baseline are
    /// those of `self` unless only `other` has one. Where one of the two has
    /// [WPO's weights](Self::with_wpo_weights), so has the sum. A weight of 0 adds no loss.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `weight` unless it is finite and not negative; `gamma` or `divergence` where the two
    /// differ, as f32, in what both have; `terms` for more than [`MAX_TERMS`] or a second loss that sorts the same; and
    /// `loss` where one has a reference to look at and the other must not have one. Losses of log-probs go with either.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    ///
    /// let mpo = PairLoss::sigmoid(0.1)?.weighted(0.8)?.and(PairLoss::bco_pair(0.25)?, 0.2)?.and(PairLoss::sft(), 1.0)?;
    /// let terms: Vec<_> = mpo.terms().iter().map(|term| (term.kind.name(), term.weight)).collect();
    /// assert_eq!(terms, [("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0)]);
    /// // Each loss has a β of its own; the rewards that are reported are those of the first.
    /// assert_eq!((mpo.terms()[1].beta, mpo.beta()), (0.25, 0.1));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn and(mut self, other: PairLoss, weight: impl Into<f64>) -> Result<Self> {
        let weight = Range::FROM_ZERO.check("weight", weight.into())?;
        if !self.has_beta && weight != 0.0 {
            (self.beta, self.has_beta) = (other.beta, other.has_beta);
        }
        match [self, other].map(|loss| loss.any(Kind::is_of_margin)) {
            [true, true] if !same_in_f32(self.gamma, other.gamma) => {
                return Err(Error::value("gamma", format!("{}, as before", self.gamma), other.gamma));
            }
            [false, true] => self.gamma = other.gamma,
            _ => (),
        }
        if !self.divergence.is_same_in_f32(other.divergence) {
            let expected = format!("{:?}, as before", self.divergence);
            return Err(Error::value("divergence", expected, format!("{:?}", other.divergence)));
        }
        // Whether there is a reference is the word of those that would compare with it.
        match [self, other].map(|loss| loss.any(|kind| !kind.ignores_reference())) {
            [true, true] if self.reference_free != other.reference_free => {
                return Err(Error::value("loss", "losses that all have a reference, or none", "both kinds"));
            }
            [false, true] => self.reference_free = other.reference_free,
            _ => (),
        }
        self.baseline = self.baseline.or(other.baseline);
        self.wpo_weights |= other.wpo_weights;
        if weight == 0.0 {
            return Ok(self);
        }
        for term in other.terms() {
            // What is sorted has room once for each way of sorting.
            let sorts_again = term.kind.couples_pairs() && self.any(|kind| kind.sorts() == term.kind.sorts());
            if sorts_again || !self.push(Term { weight: weight * term.weight, ..*term }) {
                let expected = format!("at most {MAX_TERMS} losses, and each sorting loss once");
                return Err(Error::value("terms", expected, format!("another {}", term.kind.name())));
            }
        }
        Ok(self)
    }

    /// Takes preferences to be flipped with probability `label_smoothing`: for all losses of a sum that take it.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it lies in their range (0 to 0.5 for sigmoid and aot, where more would train against
    /// the preferences; below 0.5 for robust; above 0 for exo_pair), and for a loss that takes none.
    pub fn with_label_smoothing(mut self, label_smoothing: impl Into<f64>) -> Result<Self> {
        let label_smoothing = label_smoothing.into();
        self.check_label_smoothing(label_smoothing, || label_smoothing.to_string())?;
        for term in self.terms_mut().iter_mut().filter(|term| term.kind.takes_label_smoothing()) {
            term.label_smoothing = label_smoothing;
        }
        Ok(self)
    }

    /// The same over log-probs where it is over log-ratios, for a policy that has no reference: ref_logp is 0, and none may
    /// be given. Elsewhere this is called `reference_free`. [`simpo`](Self::simpo), [`cpo`](Self::cpo) and
    /// [`orpo`](Self::orpo) are so already. Any other loss that compares with a reference refuses to go without one, so that
    /// a reference that was forgotten is not taken to be 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, PairInputs, PairLoss, reference};
    ///
    /// let (batch, dpo) = (HostBatch::for_pair_loss(2), PairLoss::sigmoid(0.5)?);
    /// let loss_of = |loss| reference::pair_loss(&batch, &[-3.0, -5.0], None, &PairInputs::NONE, &loss);
    /// assert!(loss_of(dpo).is_err(), "DPO compares with a reference");
    /// // The margin is that of the log-probs alone: 2 nats at β = 0.5.
    /// assert_eq!(loss_of(dpo.without_reference())?.pair_losses, [dpo_kernels::loss::softplus(-1.0)]);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn without_reference(self) -> Self {
        PairLoss { reference_free: true, ..self }
    }

    /// Divides each log-ratio by its sequence's number of scored tokens: r̂ = β(logp − ref_logp)/n.
    ///
    /// Log-probs stay sums, of policy and reference alike; c_s carries the 1/n. Losses of log-probs are not
    /// concerned, but the rewards that are reported with them are.
    pub fn with_length_normalization(mut self) -> Self {
        self.terms_mut().iter_mut().for_each(|term| term.length_normalized = true);
        PairLoss { length_normalized: true, ..self }
    }

    /// Sets the target margin, by which z is to be won: z = r̂_w − r̂_l − γ.
    /// [`PairInputs::gamma`](super::PairInputs) gives each pair its own.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite, and for a loss that is not of the margin z.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// // A lead of 2 nats at β = 0.5 is a margin of 1, which is what it is to be won by.
    /// let chosen = Sequence { logp: -3.0, ref_logp: Some(-5.0), length: 1 };
    /// let rejected = Sequence { logp: -4.0, ref_logp: Some(-4.0), length: 1 };
    /// let pair = PairLoss::sigmoid(0.5)?.with_gamma(1.0)?.pair(chosen, rejected)?;
    /// assert_eq!(pair.loss, std::f64::consts::LN_2);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn with_gamma(self, gamma: impl Into<f64>) -> Result<Self> {
        let gamma = Range::FINITE.check("gamma", gamma.into())?;
        self.check_takes_gamma()?;
        Ok(PairLoss { gamma, ..self })
    }

    /// Values log-ratios by another f-divergence.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for an α that is not finite, and for a loss that is not of the margin z, which has no other
    /// than the reverse KL.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::{Divergence, Sequence};
    ///
    /// // Under the forward KL, f′(a) = 1 − e⁻ᵃ is at most 1, however far a log-ratio goes.
    /// let chosen = Sequence { logp: -1.0, ref_logp: Some(-1000.0), length: 1 };
    /// let rejected = Sequence { logp: -9.0, ref_logp: Some(-9.0), length: 1 };
    /// let pair = PairLoss::hinge(0.25)?.with_divergence(Divergence::ForwardKl)?.pair(chosen, rejected)?;
    /// assert_eq!(pair.loss, 1.0 - 0.25);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn with_divergence(self, divergence: Divergence) -> Result<Self> {
        let divergence = divergence.check()?;
        if divergence != Divergence::ReverseKl && self.any(|kind| !kind.is_of_margin()) {
            let expected = "the reverse KL, for a loss that is not of the margin z";
            return Err(Error::value("divergence", expected, format!("{divergence:?}")));
        }
        Ok(PairLoss { divergence, ..self })
    }

    /// Sets KTO's z₀, in nats.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and not negative, and for a loss that has no baseline.
    pub fn with_baseline(self, baseline: impl Into<f64>) -> Result<Self> {
        let baseline = Range::FROM_ZERO.check("baseline", baseline.into())?;
        self.check_has_baseline("baseline")?;
        Ok(PairLoss { baseline: Some(baseline), ..self })
    }

    /// Weighs pairs as WPO does (Zhou et al. 2024, arXiv:2406.11827, eq. 2): by min(1, e^(ω_w + ω_l)), where the ω of a
    /// sequence is the mean over its scored tokens of log p_y − log Σ_v p_v². A pass must be given those as
    /// [`PairInputs::sequence_log_weights`](super::PairInputs), and the forward of the policy computes them as
    /// [`TokenMetrics::sequence_log_weights`](crate::TokenMetrics). Without this option a pair's weight is
    /// e^(ω_w + ω_l), which may be above 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, PairInputs, PairLoss, reference};
    ///
    /// // The answers of the first pair are as likely as any that the policy samples, and more; those of the second less.
    /// let (batch, loss) = (HostBatch::for_pair_loss(4), PairLoss::sigmoid(0.1)?.with_wpo_weights());
    /// let log_weights = Some(&[0.5, -0.5, 0.25, -0.5][..]);
    /// let inputs = PairInputs { sequence_log_weights: log_weights, ..PairInputs::reference(&[-3.0; 4]) };
    /// let out = reference::pair_loss(&batch, &[-3.0; 4], None, &inputs, &loss)?;
    /// assert_eq!(out.pair_losses[0], std::f64::consts::LN_2);
    /// assert_eq!(out.pair_losses[1], (-1.0f64).exp() * std::f64::consts::LN_2);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn with_wpo_weights(self) -> Self {
        PairLoss { wpo_weights: true, ..self }
    }

    /// Divides the sum of the pair losses by `normalizer` instead of the number of pairs: the pair count of the
    /// global batch, say, under data parallelism or gradient accumulation.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and above 0.
    pub fn with_normalizer(self, normalizer: impl Into<f64>) -> Result<Self> {
        let normalizer = Range::ABOVE_ZERO.check("normalizer", normalizer.into())?;
        Ok(PairLoss { normalizer: Normalizer::Number(normalizer), ..self })
    }

    /// Divides the sum of the pair losses by the number of scored tokens of its pairs, chosen and rejected. A batch
    /// without one has a loss of 0, and coefficients of 0.
    pub fn with_token_normalizer(self) -> Self {
        PairLoss { normalizer: Normalizer::Tokens, ..self }
    }
}
