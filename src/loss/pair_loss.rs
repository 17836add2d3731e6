//! A loss over pairs, as a value: the weighted sum of its terms, with what all of them share.

use super::divergence::Divergence;
use super::kind::Kind;
use super::normalizer::Normalizer;
use super::parameter::{MAX_PARAMETERS, Parameter};
use super::range::{Range, same_in_f32};
use crate::error::Result;

/// Losses that one [`PairLoss`] can sum.
pub const MAX_TERMS: usize = 4;

/// A loss over pairs, or a weighted sum of several, with its parameters checked.
///
/// [`ALL`](super::ALL) is the table of them. A constructor takes what a loss cannot be without; what is optional is
/// added by `with_…`, and refused where the loss has no use for it.
///
/// ```
/// use dpo_kernels::loss::{Divergence, PairLoss};
///
/// // DPO, conservative DPO, and DPO under the Jensen–Shannon divergence.
/// let dpo = PairLoss::sigmoid(0.1)?;
/// let conservative = dpo.with_label_smoothing(0.05)?;
/// let jensen_shannon = dpo.with_divergence(Divergence::JensenShannon)?;
/// // MPO: a weighted sum.
/// let mpo = dpo.weighted(0.8)?.and(PairLoss::bco_pair(0.1)?, 0.2)?.and(PairLoss::sft(), 1.0)?;
/// assert_eq!(mpo.terms().len(), 3);
/// // By name, as TRL spells it.
/// assert_eq!(PairLoss::named("ipo", 0.1)?, PairLoss::ipo(0.1)?);
///
/// assert!(PairLoss::sigmoid(f32::NAN).is_err());
/// assert!(PairLoss::hinge(0.1)?.with_label_smoothing(0.1).is_err());
/// assert!(PairLoss::aot(0.1)?.with_divergence(Divergence::ForwardKl).is_err());
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a loss is a value: its options return another one"]
pub struct PairLoss {
    pub(super) terms: [Term; MAX_TERMS],
    pub(super) term_count: usize,
    /// Of the rewards that are reported.
    pub(super) beta: f64,
    /// Whether that is a β of a loss of the sum, and not the usual one of losses that have none.
    pub(super) has_beta: bool,
    pub(super) gamma: f64,
    pub(super) divergence: Divergence,
    pub(super) length_normalized: bool,
    pub(super) reference_free: bool,
    pub(super) normalizer: Normalizer,
    pub(super) baseline: Option<f64>,
    pub(super) wpo_weights: bool,
}

/// One loss of a weighted sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Which.
    pub kind: &'static Kind,
    /// Its weight, finite and not negative.
    pub weight: f64,
    /// Its temperature β, which pairs may replace by [their own](super::PairInputs::beta). A loss of log-probs does not read
    /// it.
    pub beta: f64,
    /// ε, where the loss takes it.
    pub label_smoothing: f64,
    /// Whether it divides log-ratios by lengths.
    pub length_normalized: bool,
    /// The numbers of its own, in the order of [`LossInfo::parameters`](super::LossInfo::parameters); 0 where it has
    /// none.
    pub parameters: [f64; MAX_PARAMETERS],
}

impl PairLoss {
    /// One loss alone. Parameters that are left out at the end have their usual values.
    pub(super) fn of(kind: &'static Kind, beta: impl Into<f64>, parameters: &[f64]) -> Result<Self> {
        let beta = Range::ABOVE_ZERO.check("beta", beta.into())?;
        let values = Parameter::or_usual(kind.parameters, beta, parameters)?;
        for (parameter, value) in kind.parameters.iter().zip(values) {
            parameter.check(value)?;
        }
        Ok(PairLoss::of_checked(kind, beta, values))
    }

    /// The same for a loss that does not read β and has no parameters, so that nothing of it could be wrong.
    pub(super) fn of_logps(kind: &'static Kind) -> Self {
        PairLoss::of_checked(kind, kind.beta, [0.0; MAX_PARAMETERS])
    }

    fn of_checked(kind: &'static Kind, beta: f64, parameters: [f64; MAX_PARAMETERS]) -> Self {
        let term = Term {
            kind,
            weight: 1.0,
            beta,
            label_smoothing: kind.label_smoothing.map_or(0.0, |epsilon| epsilon.usual),
            length_normalized: kind.length_normalized,
            parameters,
        };
        PairLoss {
            terms: [term; MAX_TERMS],
            term_count: 1,
            beta,
            has_beta: kind.reads_beta(),
            gamma: 0.0,
            divergence: Divergence::ReverseKl,
            length_normalized: false,
            reference_free: false,
            normalizer: Normalizer::Pairs,
            baseline: None,
            wpo_weights: false,
        }
    }

    pub(super) fn terms_mut(&mut self) -> &mut [Term] {
        &mut self.terms[..self.term_count]
    }

    /// Whether there was room for the term.
    pub(super) fn push(&mut self, term: Term) -> bool {
        let has_room = self.term_count < MAX_TERMS;
        if has_room {
            self.terms[self.term_count] = term;
            self.term_count += 1;
        }
        has_room
    }

    /// Whether a loss of the sum has a property.
    pub(super) fn any(&self, property: impl Fn(&Kind) -> bool) -> bool {
        self.terms().iter().any(|term| property(term.kind))
    }

    /// The losses of the sum.
    pub fn terms(&self) -> &[Term] {
        &self.terms[..self.term_count]
    }

    /// The temperature β of the rewards that are reported: that of the first loss of the sum that has one, as all have but
    /// those of log-probs; orpo has λ. Each loss of the sum reads [its own](Term::beta).
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// Whether the losses of the sum that read a β have the same, as f32: only then can pairs have
    /// [one of their own](super::PairInputs).
    pub fn has_one_beta(&self) -> bool {
        let mut betas = self.terms().iter().filter(|term| term.kind.reads_beta()).map(|term| term.beta);
        let first = betas.next();
        betas.all(|beta| first.is_some_and(|first| same_in_f32(first, beta)))
    }

    /// The flip probability ε; 0 where no loss of the sum takes one.
    pub fn label_smoothing(&self) -> f64 {
        self.terms().iter().map(|term| term.label_smoothing).fold(0.0, f64::max)
    }

    /// Whether rewards are divided by sequence lengths.
    pub fn length_normalized(&self) -> bool {
        self.length_normalized
    }

    /// Whether it must not be given reference log-probs, because it is [without a reference](Self::without_reference).
    pub fn is_reference_free(&self) -> bool {
        self.reference_free
    }

    /// Whether it must be given reference log-probs: a loss of the sum compares with a reference, and it is not
    /// [without one](Self::without_reference).
    pub fn needs_reference(&self) -> bool {
        !self.reference_free && self.any(|kind| !kind.ignores_reference())
    }

    /// The target margin γ.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// The f-divergence by which log-ratios are valued.
    pub fn divergence(&self) -> Divergence {
        self.divergence
    }

    /// KTO's z₀, where it is a number.
    pub fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// Whether a pass must be given [`PairInputs::kl_logps`](super::PairInputs), from which the baseline is estimated:
    /// a loss of the sum compares with one, and none is [set](Self::with_baseline).
    pub fn estimates_baseline(&self) -> bool {
        self.baseline.is_none() && self.any(Kind::needs_baseline)
    }

    /// Whether a pair's weight is [WPO's](Self::with_wpo_weights).
    pub fn has_wpo_weights(&self) -> bool {
        self.wpo_weights
    }

    /// Whether any of its terms is divided by a [normalizer](Self::normalizer): not `sft`, which is divided by the number of
    /// chosen tokens.
    pub fn takes_normalizer(&self) -> bool {
        self.any(|kind| !kind.counts_chosen_tokens())
    }

    /// What the sum of the pair losses is divided by.
    pub fn normalizer(&self) -> Normalizer {
        self.normalizer
    }
}
