//! Losses that are made of others by options and sums: each with its row and its constructor.

use super::info::LossInfo;
use super::pair_loss::PairLoss;
use super::parameter::Parameter;
use super::range::Range;
use crate::error::Result;

pub(super) static LOSSES: [LossInfo; 5] = [
    LossInfo {
        formula: "−log σ(β(a/n_w − b/n_l))",
        source: "TRL; SimPO, arXiv:2405.14734",
        needs: "reference, lengths",
        ranges: "β 1 to 10",
        beta: 2.0,
        ..LossInfo::of_others("sigmoid_norm", |beta, _| PairLoss::sigmoid_norm(beta))
    },
    LossInfo {
        formula: "−log σ(β logp_w/n_w − β logp_l/n_l − γ)",
        source: "SimPO, arXiv:2405.14734",
        needs: "lengths, no reference",
        ranges: "β 2 to 10, γ/β 0.3 to 0.8",
        beta: 2.0,
        parameters: &[GAMMA],
        ..LossInfo::of_others("simpo", |beta, [gamma, _]| PairLoss::simpo(beta, gamma))
    },
    LossInfo {
        formula: "−log σ(β(logp_w − logp_l)) + α nll",
        source: "CPO, arXiv:2401.08417",
        needs: "lengths, no reference",
        ranges: "β 0.1, α 1",
        parameters: &[ALPHA],
        ..LossInfo::of_others("cpo", |beta, [alpha, _]| PairLoss::cpo(beta, alpha))
    },
    LossInfo {
        formula: "−log σ(z) + α nll",
        source: "RPO, arXiv:2404.19733",
        needs: "reference, lengths",
        ranges: "α 0.2 to 1",
        parameters: &[ALPHA],
        ..LossInfo::of_others("rpo", |beta, [alpha, _]| PairLoss::rpo(beta, alpha))
    },
    LossInfo {
        formula: "nll + λ odds_ratio",
        source: "ORPO, arXiv:2403.07691",
        needs: "lengths, no reference",
        ranges: "λ 0.05 to 0.5",
        ..LossInfo::of_others("orpo", |lambda, _| PairLoss::orpo(lambda))
    },
];

/// Of SimPO: half of β.
const GAMMA: Parameter = Parameter { name: "gamma", usual: |beta| 0.5 * beta, range: Range::FROM_ZERO };

/// The weight of the chosen's negative log-likelihood.
const ALPHA: Parameter = Parameter { name: "alpha", usual: |_| 1.0, range: Range::FROM_ZERO };

/// # Combinations
impl PairLoss {
    /// [`sigmoid`](Self::sigmoid) over log-ratios divided by their lengths: −log σ(β(a/n_w − b/n_l)), TRL's
    /// `sigmoid_norm` (Meng et al. 2024, arXiv:2405.14734, have it without a reference). β is usually 1 to 10 here.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn sigmoid_norm(beta: impl Into<f64>) -> Result<Self> {
        Ok(PairLoss::sigmoid(beta)?.with_length_normalization())
    }

    /// SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6): −log σ(β logp_w/n_w − β logp_l/n_l − γ), without a
    /// reference. β is usually 2 to 10, γ/β 0.3 to 0.8.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `gamma` unless it is finite and not negative.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// // The chosen leads by 1 nat a token, which at β = 2 is a margin of 2; γ = 1 of it is the target.
    /// let chosen = Sequence { logp: -4.0, ref_logp: None, length: 4 };
    /// let rejected = Sequence { logp: -6.0, ref_logp: None, length: 3 };
    /// let pair = PairLoss::simpo(2.0, 1.0)?.pair(chosen, rejected)?;
    /// assert_eq!(pair.loss, dpo_kernels::loss::softplus(-1.0));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn simpo(beta: impl Into<f64>, gamma: impl Into<f64>) -> Result<Self> {
        let loss = PairLoss::sigmoid_norm(beta)?.without_reference();
        loss.with_gamma(GAMMA.check(gamma.into())?)
    }

    /// CPO (Xu et al. 2024, arXiv:2401.08417, eq. 5): −log σ(β(logp_w − logp_l)) + α NLL of the chosen, without a
    /// reference. The NLL is [per token](Self::nll), as in its authors' code. β is usually 0.1, α 1.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `alpha` unless it is finite and not negative.
    pub fn cpo(beta: impl Into<f64>, alpha: impl Into<f64>) -> Result<Self> {
        Ok(PairLoss::rpo(beta, alpha)?.without_reference())
    }

    /// RPO (Pang et al. 2024, "Iterative reasoning preference optimization", arXiv:2404.19733, eq. 1):
    /// −log σ(z) + α [NLL](Self::nll) of the chosen. β is usually 0.1, α 0.2 to 1; at α = 0 it is DPO.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `alpha` unless it is finite and not negative.
    pub fn rpo(beta: impl Into<f64>, alpha: impl Into<f64>) -> Result<Self> {
        let dpo = PairLoss::sigmoid(beta)?;
        dpo.and(PairLoss::nll(), ALPHA.check(alpha.into())?)
    }

    /// ORPO (Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7): [`nll`](Self::nll) + λ [`odds_ratio`](Self::odds_ratio).
    /// λ is usually 0.1, and is the β of the rewards that are reported.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, which is λ.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// // Where both sequences have the same odds, the odds ratio adds λ ln 2 to 1 nat a token.
    /// let alike = Sequence { logp: -4.0, ref_logp: None, length: 4 };
    /// let pair = PairLoss::orpo(0.5)?.pair(alike, alike)?;
    /// assert_eq!(pair.loss, 1.0 + 0.5 * std::f64::consts::LN_2);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn orpo(lambda: impl Into<f64>) -> Result<Self> {
        let lambda = Range::ABOVE_ZERO.check("beta", lambda.into())?;
        let nll = PairLoss::nll().with_length_normalization();
        let orpo = nll.and(PairLoss::odds_ratio(), lambda)?.without_reference();
        Ok(PairLoss { beta: lambda, has_beta: true, ..orpo })
    }
}
