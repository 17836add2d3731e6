//! Losses of log-probs, without a reference: each with its row, its formula and its constructor.

use super::function::{FunctionOf, Slopes};
use super::kind::Kind;
use super::math::{ValueSlope, complement, softplus};
use super::pair_loss::PairLoss;

pub(super) static LOSSES: [&Kind; 3] = [&SFT, &NLL, &ODDS_RATIO];

static SFT: Kind = Kind {
    formula: "−Σ logp_w/Σ n_w",
    source: "supervised fine-tuning",
    needs: "scored",
    ..Kind::new(13, "sft", FunctionOf::BatchMeanLogp(|x| ValueSlope { value: -x, slope: -1.0 }))
};

static NLL: Kind = Kind {
    formula: "−logp_w/n_w",
    source: "supervised fine-tuning",
    needs: "lengths",
    ..Kind::new(14, "nll", FunctionOf::MeanLogp(|x| ValueSlope { value: -x, slope: -1.0 }))
};

static ODDS_RATIO: Kind = Kind {
    formula: "−log σ(log odds(e^(logp_w/n_w)) − log odds(e^(logp_l/n_l)))",
    source: "ORPO, arXiv:2403.07691",
    needs: "lengths",
    ..Kind::new(15, "odds_ratio", FunctionOf::MeanLogps(odds_ratio))
};

fn odds_ratio(x: f64, y: f64) -> Slopes {
    let (rest_w, rest_l) = (complement(x), complement(y));
    let log_odds_ratio = (x - y) + (rest_l.ln() - rest_w.ln());
    // The derivatives of log(1 + odds_l/odds_w), numerator and denominator divided by the probability of the rejected.
    let denominator = (x - y).exp() * rest_l + rest_w;
    Slopes {
        loss: softplus(-log_odds_ratio),
        chosen: -1.0 / denominator,
        rejected: rest_w / rest_l / denominator,
    }
}

/// # Losses of log-probs, without a reference
///
/// They read no β, and pairs with a β of their own are refused. Alone, they report rewards at the table's β, 0.1, or at that
/// of [`named`](Self::named).
impl PairLoss {
    /// Supervised fine-tuning on the chosen: −(sum of their log-probs)/(number of their scored tokens), both over the
    /// batch. Its sum is divided by that number whatever the [`Normalizer`](super::Normalizer) is;
    /// [`PairInputs::chosen_tokens`](super::PairInputs) gives that of a larger batch. 0 where there is no such token.
    pub fn sft() -> Self {
        PairLoss::of_logps(&SFT)
    }

    /// Negative log-likelihood of the chosen per token, each pair with the same weight: −logp_w/n_w.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// let sequence = |logp, length| Sequence { logp, ref_logp: None, length };
    /// assert_eq!(PairLoss::nll().pair(sequence(-6.0, 4), sequence(-1.0, 2))?.loss, 1.5);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn nll() -> Self {
        PairLoss::of_logps(&NLL)
    }

    /// The second term of [`orpo`](Self::orpo): −log σ(log odds(p_w) − log odds(p_l)) with odds(p) = p/(1 − p) and
    /// p = e^(logp/n). Infinite where a rejected sequence has probability 1; 0 where a sequence has a length of 0, and
    /// so no probability.
    pub fn odds_ratio() -> Self {
        PairLoss::of_logps(&ODDS_RATIO)
    }
}
