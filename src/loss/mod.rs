//! Pair losses: functions from the log-probs of a pair to a loss and to one coefficient per sequence.
//!
//! This is `pair_loss`, and the whole of the coefficient contract: `logps` and `backward` know nothing of what happens here.
//! With log-ratios a = logp_w − ref_logp_w and b = logp_l − ref_logp_l, lengths n_w and n_l, and f′ of the
//! [`Divergence`], losses are functions of
//!
//! ```text
//! u = βa,  v = βb                       the rewards r̂_w and r̂_l        (β/n_w and β/n_l where length-normalised)
//! z = β(f′(a) − f′(b)) − γ              their difference, less what it is to be won by
//! ```
//!
//! | what | where |
//! |---|---|
//! | a loss with its parameters, checked | [`PairLoss`] |
//! | every loss by its name, with formula and source | [`ALL`] |
//! | per-pair values, lengths, baselines, normalisers | [`PairInputs`] |
//! | f-divergences | [`Divergence`] |
//!
//! Rewards are β·log-ratio whatever the loss makes of the log-ratios (divided by n where the loss is
//! [length-normalised](PairLoss::with_length_normalization)), and so are margins, u − v, and the accuracy. Each loss
//! is written once for the host, in f64, and once for the device, in f32.
//!
//! Where the textbook form of a loss is not a number though its limit is one, the limit is returned: e⁻ᶻ σ(z/τ) of
//! DiscoPOP at z = −1000 is 0, not ∞·0; σ(−z) log σ(−z) of EXO at z = ∞ is 0; odds near 1 go by expm1.

mod divergence;
mod inputs;
mod kind;
mod math;
mod pair_stage;
mod table;

use crate::error::{Error, Result};
use crate::memory::Extent;
use crate::pairs::Pairs;
use crate::results::PairOutputs;
use crate::sequences::IndexArray;

pub use divergence::Divergence;
pub use inputs::{PairInputs, PairTensors};
pub use kind::{Kind, Term};
pub use math::{sigmoid, softplus};
pub use table::{ALL, LossInfo};

pub(crate) use inputs::PairInputLens;
pub(crate) use pair_stage::PairStage;

/// Losses that one [`PairLoss`] can sum.
pub const MAX_TERMS: usize = 4;

/// What the sum of the pair losses is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Normalizer {
    /// The number of pairs of the batch; of sequences where they are [unpaired](Pairs::Unpaired).
    #[default]
    Pairs,
    /// The number of scored tokens of the batch's pairs, chosen and rejected.
    Tokens,
    /// A number: of pairs of the global batch, say, under data parallelism or gradient accumulation.
    Number(f64),
}

/// A loss over pairs, or a weighted sum of several, with its parameters checked.
///
/// [`ALL`] is the table of them. A constructor takes what a loss cannot be without; what is optional is added by
/// `with_…`, and refused where the loss has no use for it.
///
/// ```
/// use dpo_kernels::loss::{Divergence, PairLoss};
///
/// // DPO, conservative DPO, and DPO under the Jensen–Shannon divergence.
/// let loss = PairLoss::sigmoid(0.1)?;
/// assert_eq!(loss.beta(), 0.1);
/// loss.with_label_smoothing(0.05)?;
/// loss.with_divergence(Divergence::JensenShannon)?;
/// // MPO: a weighted sum.
/// PairLoss::sigmoid(0.1)?.weighted(0.8)?.and(PairLoss::bco_pair(0.1)?, 0.2)?.and(PairLoss::sft(0.1)?, 1.0)?;
/// // By name, as TRL spells it.
/// assert_eq!(PairLoss::named("ipo", 0.1)?, PairLoss::ipo(0.1)?);
///
/// assert!(PairLoss::sigmoid(f32::NAN).is_err());
/// assert!(PairLoss::hinge(0.1)?.with_label_smoothing(0.1).is_err());
/// assert!(PairLoss::aot(0.1)?.with_divergence(Divergence::ForwardKl).is_err());
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    terms: [Term; MAX_TERMS],
    term_count: usize,
    beta: f64,
    gamma: f64,
    divergence: Divergence,
    length_normalized: bool,
    reference_free: bool,
    normalizer: Normalizer,
    baseline: Option<f64>,
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

/// # Losses of the margin z
impl PairLoss {
    /// DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): −log σ(z).
    ///
    /// `beta` (usually 0.01 to 0.5) is how much a nat of log-ratio counts. With
    /// [label smoothing](Self::with_label_smoothing) ε it is conservative DPO (Mitchell 2023, "A note on DPO with
    /// noisy preferences"), −(1 − ε) log σ(z) − ε log σ(−z): a preference is taken to be flipped with probability ε.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `beta` is finite and above 0; so have all constructors.
    pub fn sigmoid(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Sigmoid, beta)
    }

    /// [`sigmoid`](Self::sigmoid) over log-ratios divided by their lengths: −log σ(β(a/n_w − b/n_l)), TRL's
    /// `sigmoid_norm` (Meng et al. 2024, arXiv:2405.14734, have it without a reference). β is usually 1 to 10 here.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn sigmoid_norm(beta: impl Into<f64>) -> Result<Self> {
        Ok(PairLoss::sigmoid(beta)?.with_length_normalization())
    }

    /// SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6): −log σ(β logp_w/n_w − β logp_l/n_l − γ), without a
    /// reference. β is usually 2 to 10, γ/β 0.3 to 0.8.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `gamma` unless it is finite and not negative.
    pub fn simpo(beta: impl Into<f64>, gamma: impl Into<f64>) -> Result<Self> {
        let gamma = check_from_zero("gamma", gamma.into())?;
        let loss = PairLoss::sigmoid_norm(beta)?;
        Ok(PairLoss { gamma, reference_free: true, ..loss })
    }

    /// CPO (Xu et al. 2024, arXiv:2401.08417, eq. 5): −log σ(β(logp_w − logp_l)) + α NLL of the chosen, without a
    /// reference. The NLL is [per token](Self::nll), as in its authors' code. β is usually 0.1, α 1.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `alpha` unless it is finite and not negative.
    pub fn cpo(beta: impl Into<f64>, alpha: impl Into<f64>) -> Result<Self> {
        PairLoss::rpo(beta, alpha).map(|loss| PairLoss { reference_free: true, ..loss })
    }

    /// RPO (Pang et al. 2024, "Iterative reasoning preference optimization", arXiv:2404.19733, eq. 1):
    /// −log σ(z) + α [NLL](Self::nll) of the chosen. β is usually 0.1, α 0.2 to 1; at α = 0 it is DPO.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `alpha` unless it is finite and not negative.
    pub fn rpo(beta: impl Into<f64>, alpha: impl Into<f64>) -> Result<Self> {
        let loss = PairLoss::sigmoid(beta)?;
        let alpha = check_from_zero("alpha", alpha.into())?;
        loss.and(PairLoss::nll(loss.beta)?, alpha)
    }

    /// SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425; over log-ratios, Liu et al. 2023, RSO, arXiv:2309.06657):
    /// max(0, 1 − z). A pair past its margin has a coefficient of exactly 0.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn hinge(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Hinge, beta)
    }

    /// IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17): (a/n_w − b/n_l − 1/(2β))², TRL's form, averaged over
    /// tokens. Rewards are reported as for DPO, β·log-ratio. β is usually 0.01 to 1. A γ is of rewards: 1/(2β) grows
    /// by γ/β.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn ipo(beta: impl Into<f64>) -> Result<Self> {
        let mut loss = PairLoss::of(Kind::Ipo, beta)?;
        loss.terms[0].length_normalized = true;
        Ok(loss)
    }

    /// EXO for pairs (Ji et al. 2024, arXiv:2402.00856, eq. 16): the KL of σ(z) from the smoothed label,
    /// σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε). ε is usually 0.001 to 0.1. It is 0 at
    /// z = log((1 − ε)/ε).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `label_smoothing` unless it is above 0 and at most 0.5.
    pub fn exo_pair(beta: impl Into<f64>, label_smoothing: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::ExoPair, beta)?.with_label_smoothing(label_smoothing)
    }

    /// Robust DPO (Chowdhury et al. 2024, arXiv:2403.00409, eq. 12): (−(1 − ε) log σ(z) + ε log σ(−z))/(1 − 2ε),
    /// unbiased where a share ε of the preferences is flipped.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `label_smoothing` unless it is from 0 to below 0.5.
    pub fn robust(beta: impl Into<f64>, label_smoothing: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Robust, beta)?.with_label_smoothing(label_smoothing)
    }

    /// DiscoPOP's log-ratio modulated loss (Lu et al. 2024, arXiv:2406.08414, eq. 5): −log σ(z)(1 − m) + e⁻ᶻ m with
    /// m = σ(z/τ). τ is usually 0.05. Where z is very negative, e⁻ᶻ m is computed as one exponential, which is
    /// finite; TRL's ∞·0 is NaN from z = −88 (f32) or −709 (f64) on.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `tau` unless it is above 0 and below 1: from there on the loss would be
    /// exponential in −z.
    pub fn discopop(beta: impl Into<f64>, tau: impl Into<f64>) -> Result<Self> {
        let tau = tau.into();
        if !(tau > 0.0 && tau < 1.0) {
            return Err(Error::value("tau", "a number above 0 and below 1", tau));
        }
        PairLoss::of(Kind::Discopop { tau }, beta)
    }
}

/// # Losses of the rewards u and v
impl PairLoss {
    /// NCA for pairs (Chen et al. 2024, arXiv:2402.05369, eq. 11): −log σ(u) − ½ log σ(−u) − ½ log σ(−v).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn nca_pair(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::NcaPair, beta)
    }

    /// BCO (Jung et al. 2024, arXiv:2404.04656) without its reward shift, as TRL's `bco_pair`:
    /// −log σ(u) − log σ(−v).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn bco_pair(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::BcoPair, beta)
    }

    /// SPPO with hard labels (Wu et al. 2024, arXiv:2405.00675, eq. 4.7): (a − 1/(2β))² + (b + 1/(2β))².
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn sppo_hard(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::SppoHard, beta)
    }

    /// APO-zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 5): 1 − σ(u) + σ(v), for a policy worse than the
    /// chosen answers. Its tails go by σ(u)σ(−u), where TRL's y(1 − y) is 0 from u = 17 (f32) on.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn apo_zero(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::ApoZero, beta)
    }

    /// APO-down (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 6): σ(u) + 1 − σ(u − v), for a policy better than
    /// the chosen answers.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn apo_down(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::ApoDown, beta)
    }

    /// KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8): λ_D σ(βz₀ − u) for a desirable answer, λ_U σ(v − βz₀)
    /// for an undesirable one, over [unpaired](Pairs::Unpaired) sequences, or over pairs as their sum. λ_D and λ_U
    /// are 1 unless [said otherwise](Self::with_kto_weights).
    ///
    /// z₀, in nats, is the divergence of policy from reference: a [number](Self::with_baseline), or estimated from
    /// [`PairInputs::kl_logps`]; one of them is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn kto(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Kto { desirable: 1.0, undesirable: 1.0 }, beta)
    }
}

/// # Losses that sort the pairs of a batch
impl PairLoss {
    /// AOT for paired data (Melnyk et al. 2024, arXiv:2406.05882, alg. 2): with d_k the k-th smallest of β(logp_w −
    /// logp_l) less the k-th smallest of β(ref_logp_w − ref_logp_l), −(1 − ε) log σ(d_k) − ε log σ(−d_k). A pair has
    /// the loss of its policy margin's rank. Equals are ranked in their order, NaN last.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn aot(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Aot, beta)
    }

    /// AOT for unpaired data (Melnyk et al. 2024, arXiv:2406.05882, alg. 1): as [`aot`](Self::aot) with d_k the k-th
    /// smallest chosen reward less the k-th smallest rejected reward. A pair has the loss of its chosen's rank.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn aot_unpaired(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::AotUnpaired, beta)
    }
}

/// # Losses of log-probs, without a reference
///
/// β only scales the rewards that are reported.
impl PairLoss {
    /// Supervised fine-tuning on the chosen: −(sum of their log-probs)/(number of their scored tokens), both over the
    /// batch. Its sum is divided by that number whatever the [`Normalizer`] is;
    /// [`PairInputs::chosen_tokens`] gives that of a larger batch. NaN where there is no such token.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn sft(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Sft, beta)
    }

    /// Negative log-likelihood of the chosen per token, each pair with the same weight: −logp_w/n_w.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn nll(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::Nll, beta)
    }

    /// ORPO (Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7): [`nll`](Self::nll) + λ [`odds_ratio`](Self::odds_ratio).
    /// λ is usually 0.1 and is β where rewards are reported.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, which is λ.
    pub fn orpo(lambda: impl Into<f64>) -> Result<Self> {
        let odds_ratio = PairLoss::odds_ratio(lambda)?;
        let nll = PairLoss::nll(odds_ratio.beta)?.with_length_normalization();
        Ok(PairLoss { reference_free: true, ..nll.and(odds_ratio, odds_ratio.beta)? })
    }

    /// ORPO's second term: −log σ(log odds(p_w) − log odds(p_l)) with odds(p) = p/(1 − p) and p = e^(logp/n).
    /// Infinite where a rejected sequence has probability 1.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn odds_ratio(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(Kind::OddsRatio, beta)
    }
}

/// # Options
impl PairLoss {
    fn of(kind: Kind, beta: impl Into<f64>) -> Result<Self> {
        let beta = Error::check_positive("beta", beta.into())?;
        let term = Term { kind, weight: 1.0, label_smoothing: 0.0, length_normalized: false };
        Ok(PairLoss {
            terms: [term; MAX_TERMS],
            term_count: 1,
            beta,
            gamma: 0.0,
            divergence: Divergence::ReverseKl,
            length_normalized: false,
            reference_free: false,
            normalizer: Normalizer::Pairs,
            baseline: None,
        })
    }

    /// A loss of [`ALL`] by its name, as TRL spells it, with the table's values for what is not β.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `loss` with the names there are.
    pub fn named(name: &str, beta: impl Into<f64>) -> Result<Self> {
        (LossInfo::named(name)?.make)(beta.into())
    }

    /// Multiplies the loss by `weight`: the first term of a weighted sum.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and above 0.
    pub fn weighted(mut self, weight: impl Into<f64>) -> Result<Self> {
        let weight = Error::check_positive("weight", weight.into())?;
        self.terms[..self.term_count].iter_mut().for_each(|term| term.weight *= weight);
        Ok(self)
    }

    /// Adds `weight` times another loss: mixed preference optimisation (Wang et al. 2024, arXiv:2411.10442). Rewards
    /// stay those of `self`, whose normaliser and KTO baseline count unless only `other` has one. A weight of 0 adds
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `weight` unless it is finite and not negative; `beta`, `gamma` or `divergence`
    /// where the two differ in what both have, `terms` for more than [`MAX_TERMS`] or a second sorting loss of one
    /// kind, and `loss` where one has a reference to look at and the other must not have one.
    pub fn and(mut self, other: PairLoss, weight: impl Into<f64>) -> Result<Self> {
        let weight = check_from_zero("weight", weight.into())?;
        let alike = |argument, one: f64, other: f64| {
            if one == other {
                Ok(())
            } else {
                Err(Error::value(argument, format!("{one}, as before"), other))
            }
        };
        alike("beta", self.beta, other.beta)?;
        let margins = [self, other].map(|loss| loss.terms().iter().any(|term| term.kind.is_of_margin()));
        match margins {
            [true, true] => alike("gamma", self.gamma, other.gamma)?,
            [false, true] => self.gamma = other.gamma,
            _ => (),
        }
        if self.divergence != other.divergence {
            let expected = format!("{:?}, as before", self.divergence);
            return Err(Error::value("divergence", expected, format!("{:?}", other.divergence)));
        }
        let indifferent = |loss: &PairLoss| loss.terms().iter().all(|term| term.kind.ignores_reference());
        if self.reference_free != other.reference_free && !indifferent(&self) && !indifferent(&other) {
            return Err(Error::value("loss", "losses that all have a reference, or none", "both kinds"));
        }
        self.reference_free |= other.reference_free;
        self.baseline = self.baseline.or(other.baseline);
        if weight == 0.0 {
            return Ok(self);
        }
        for term in other.terms() {
            let sorts_twice = term.kind.couples_pairs() && self.terms().iter().any(|t| t.kind == term.kind);
            if self.term_count == MAX_TERMS || sorts_twice {
                let expected = format!("at most {MAX_TERMS} losses, and each sorting loss once");
                return Err(Error::value("terms", expected, format!("another {:?}", term.kind)));
            }
            self.terms[self.term_count] = Term { weight: weight * term.weight, ..*term };
            self.term_count += 1;
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
        for term in &mut self.terms[..self.term_count] {
            if term.kind.label_smoothing().is_some() {
                term.label_smoothing = label_smoothing;
            }
        }
        Ok(self)
    }

    fn check_label_smoothing(&self, value: f64, found: impl Fn() -> String) -> Result<()> {
        let mut ranges = self.terms().iter().filter_map(|term| term.kind.label_smoothing()).peekable();
        if ranges.peek().is_none() {
            return Err(Error::value("label_smoothing", "none, for a loss without it", found()));
        }
        match ranges.find(|(_, fits)| !fits(value)) {
            None => Ok(()),
            Some((range, _)) => Err(Error::value("label_smoothing", range, found())),
        }
    }

    /// Divides each log-ratio by its sequence's number of scored tokens: r̂ = β(logp − ref_logp)/n.
    ///
    /// Log-probs stay sums, of policy and reference alike; c_s carries the 1/n. Losses of log-probs are not
    /// concerned, but the rewards that are reported with them are.
    pub fn with_length_normalization(mut self) -> Self {
        self.terms[..self.term_count].iter_mut().for_each(|term| term.length_normalized = true);
        PairLoss { length_normalized: true, ..self }
    }

    /// Lets z be won by `gamma`: z = r̂_w − r̂_l − γ. [`PairInputs::gamma`] gives each pair its own.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite, and for a loss that is not of the margin z.
    pub fn with_gamma(self, gamma: impl Into<f64>) -> Result<Self> {
        let gamma = gamma.into();
        if !gamma.is_finite() {
            return Err(Error::value("gamma", "a finite number", gamma));
        }
        self.check_takes_gamma("gamma")?;
        Ok(PairLoss { gamma, ..self })
    }

    fn check_takes_gamma(&self, argument: &'static str) -> Result<()> {
        if self.terms().iter().any(|term| term.kind.is_of_margin()) {
            return Ok(());
        }
        Err(Error::value(argument, "none, for a loss that is not of the margin z", "one"))
    }

    /// Values log-ratios by another f-divergence.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for an α that is not finite, and for a loss that is not of the margin z, which has no other
    /// than the reverse KL.
    pub fn with_divergence(self, divergence: Divergence) -> Result<Self> {
        let divergence = divergence.check()?;
        let takes_it = self.terms().iter().all(|term| term.kind.is_of_margin());
        if divergence != Divergence::ReverseKl && !takes_it {
            let expected = "the reverse KL, for a loss that is not of the margin z";
            return Err(Error::value("divergence", expected, format!("{divergence:?}")));
        }
        Ok(PairLoss { divergence, ..self })
    }

    /// λ_D and λ_U of [`kto`](Self::kto). Where there are n_D desirable and n_U undesirable sequences, λ_D n_D/(λ_U
    /// n_U) is to lie between 1 and 3/2.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless they are finite and above 0, and for a loss without KTO.
    pub fn with_kto_weights(
        mut self,
        desirable: impl Into<f64>,
        undesirable: impl Into<f64>,
    ) -> Result<Self> {
        let desirable = Error::check_positive("desirable", desirable.into())?;
        let undesirable = Error::check_positive("undesirable", undesirable.into())?;
        self.check_is_kto("desirable")?;
        for term in &mut self.terms[..self.term_count] {
            if let Kind::Kto { .. } = term.kind {
                term.kind = Kind::Kto { desirable, undesirable };
            }
        }
        Ok(self)
    }

    /// KTO's z₀, in nats.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and not negative, and for a loss without KTO.
    pub fn with_baseline(self, baseline: impl Into<f64>) -> Result<Self> {
        let baseline = check_from_zero("baseline", baseline.into())?;
        self.check_is_kto("baseline")?;
        Ok(PairLoss { baseline: Some(baseline), ..self })
    }

    fn is_kto(&self) -> bool {
        self.terms().iter().any(|term| matches!(term.kind, Kind::Kto { .. }))
    }

    fn check_is_kto(&self, argument: &'static str) -> Result<()> {
        if self.is_kto() {
            Ok(())
        } else {
            Err(Error::value(argument, "none, for a loss without KTO", "one"))
        }
    }

    /// Divides the sum of the pair losses by `normalizer` instead of the number of pairs: the pair count of the
    /// global batch, say, under data parallelism or gradient accumulation.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and above 0.
    pub fn with_normalizer(self, normalizer: impl Into<f64>) -> Result<Self> {
        let normalizer = Error::check_positive("normalizer", normalizer.into())?;
        Ok(PairLoss { normalizer: Normalizer::Number(normalizer), ..self })
    }

    /// Divides the sum of the pair losses by the number of scored tokens of its pairs, chosen and rejected. A batch
    /// without one has an infinite loss.
    pub fn with_token_normalizer(self) -> Self {
        PairLoss { normalizer: Normalizer::Tokens, ..self }
    }

    /// The losses of the sum.
    pub fn terms(&self) -> &[Term] {
        &self.terms[..self.term_count]
    }

    /// The temperature β.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The flip probability ε; 0 where no loss of the sum takes one.
    pub fn label_smoothing(&self) -> f64 {
        self.terms().iter().map(|term| term.label_smoothing).fold(0.0, f64::max)
    }

    /// Whether rewards are divided by sequence lengths.
    pub fn length_normalized(&self) -> bool {
        self.length_normalized
    }

    /// Whether it must not be given reference log-probs.
    pub fn is_reference_free(&self) -> bool {
        self.reference_free
    }

    /// γ.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// What log-ratios are valued by.
    pub fn divergence(&self) -> Divergence {
        self.divergence
    }

    /// KTO's z₀, where it is a number.
    pub fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// What the sum of the pair losses is divided by.
    pub fn normalizer(&self) -> Normalizer {
        self.normalizer
    }

    /// The loss of one pair alone and its derivatives, with k = 1.
    pub fn pair(&self, chosen: Sequence, rejected: Sequence) -> PairTerms {
        let ref_logps = [chosen.ref_logp, rejected.ref_logp];
        let stage = PairStage {
            pairs: Pairs::Concatenated,
            logps: &[chosen.logp, rejected.logp],
            scored: Some(&[chosen.length, rejected.length]),
            inputs: &PairInputs { normalizer: Some(1.0), ..PairInputs::reference(&ref_logps) },
            loss: self,
        };
        let mut out = PairOutputs::default();
        let extent = Extent { sequences: 2, rows: 2, pairs: 1 };
        stage.run(out.slices(&extent).expect("vectors take any length"));
        PairTerms {
            loss: out.pair_losses[0],
            chosen_reward: out.chosen_rewards[0],
            rejected_reward: out.rejected_rewards[0],
            chosen_coef: out.coef[0],
            rejected_coef: out.coef[1],
        }
    }

    /// Checks what `pair_loss` is given, for `sequences` sequences: what the loss needs is there, what it has no use for is
    /// not, and all of it has the length it should have. `scored` is that of the numbers of scored rows, of `logps`.
    pub(crate) fn check_inputs<A: IndexArray>(
        &self,
        pairs: &Pairs<A>,
        sequences: usize,
        given: &PairInputLens,
        scored: Option<usize>,
    ) -> Result<()> {
        let unpaired = match pairs {
            Pairs::None => {
                return Err(Error::value("pairs", "a layout with pairs, for a loss", "Pairs::None"));
            }
            Pairs::Unpaired { .. } => true,
            _ => false,
        };
        if unpaired && let Some(term) = self.terms().iter().find(|term| !term.kind.is_sided()) {
            let expected = format!("pairs, for {:?}, which compares two sequences", term.kind);
            return Err(Error::value("pairs", expected, "Pairs::Unpaired"));
        }
        let count = pairs.count(sequences);
        let lengths = [
            ("ref_logps", "[sequences]", sequences, given.ref_logps),
            ("lengths", "[sequences]", sequences, given.lengths.or(scored)),
            ("scored", "[sequences]", sequences, scored),
            ("beta", "[pairs]", count, given.beta),
            ("gamma", "[pairs]", count, given.gamma),
            ("weight", "[pairs]", count, given.weight),
            ("label_smoothing", "[pairs]", count, given.label_smoothing),
            ("sequence_log_weights", "[sequences]", sequences, given.sequence_log_weights),
            ("kl_ref_logps", "[kl_logps]", given.kl_logps.unwrap_or(0), given.kl_ref_logps),
        ];
        for (argument, shape, expected, found) in lengths {
            found.map(|found| Error::check_len(argument, shape, expected, found)).transpose()?;
        }
        self.check_useful(given)?;
        self.check_sufficient(given, scored)
    }

    fn check_useful(&self, given: &PairInputLens) -> Result<()> {
        if self.reference_free && given.ref_logps.is_some() {
            return Err(Error::value("ref_logps", "none, for a loss without a reference", "some"));
        }
        if given.gamma.is_some() {
            self.check_takes_gamma("gamma")?;
        }
        if given.label_smoothing.is_some() && !self.terms().iter().any(|t| t.kind.label_smoothing().is_some())
        {
            return Err(Error::value("label_smoothing", "none, for a loss without it", "some"));
        }
        let per_pair = [
            ("beta", given.beta),
            ("weight", given.weight),
            ("label_smoothing", given.label_smoothing),
            ("sequence_log_weights", given.sequence_log_weights),
        ];
        if self.terms().iter().any(|term| term.kind.couples_pairs())
            && let Some((argument, _)) = per_pair.into_iter().find(|(_, found)| found.is_some())
        {
            return Err(Error::value(argument, "none, for a loss that sorts the pairs", "some"));
        }
        if given.kl_logps.is_some() {
            self.check_is_kto("kl_logps")?;
        }
        if given.kl_logps == Some(0) {
            return Err(Error::value("kl_logps", "at least one", 0));
        }
        let sft = self.terms().iter().any(|term| term.kind == Kind::Sft);
        if given.chosen_tokens.is_some() && !sft {
            return Err(Error::value("chosen_tokens", "none, for a loss without sft", "some"));
        }
        Ok(())
    }

    fn check_sufficient(&self, given: &PairInputLens, scored: Option<usize>) -> Result<()> {
        let missing = |argument, because| Err(Error::Missing { argument, because });
        let divides = |term: &Term| term.length_normalized || term.kind.needs_lengths();
        if given.lengths.or(scored).is_none() && (self.length_normalized || self.terms().iter().any(divides))
        {
            return missing("lengths", "the loss is length-normalised");
        }
        let sft = self.terms().iter().any(|term| term.kind == Kind::Sft);
        let counts_chosen = sft && given.chosen_tokens.is_none();
        if scored.is_none() && (counts_chosen || self.normalizer == Normalizer::Tokens) {
            return missing("scored", "the loss is divided by a number of tokens");
        }
        if self.is_kto() && self.baseline.is_none() && given.kl_logps.is_none() {
            return missing("kl_logps", "KTO has no baseline");
        }
        Ok(())
    }

    /// Refuses per-pair values that are out of their ranges.
    pub(crate) fn check_values<F: Copy + Into<f64>>(&self, inputs: &PairInputs<'_, F>) -> Result<()> {
        inputs.check_values()?;
        for (at, &epsilon) in inputs.label_smoothing.unwrap_or_default().iter().enumerate() {
            let epsilon = epsilon.into();
            self.check_label_smoothing(epsilon, || format!("{epsilon} at {at}"))?;
        }
        Ok(())
    }
}

/// The table's loss of this name with its usual β.
impl std::str::FromStr for PairLoss {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let info = LossInfo::named(name)?;
        (info.make)(info.beta)
    }
}

fn check_from_zero(argument: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(Error::value(argument, "a finite number from 0", value))
    }
}
