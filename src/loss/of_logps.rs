//! Losses of log-probs, without a reference: each with its row, its formula and its constructor.

use super::function::{FunctionOf, Slopes};
use super::kind::Kind;
use super::math::{ValueSlope, complement, softplus};
use super::pair_loss::PairLoss;
use crate::error::Result;

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
/// β only scales the rewards that are reported; pairs with a β of their own are refused.
impl PairLoss {
    /// Supervised fine-tuning on the chosen: −(sum of their log-probs)/(number of their scored tokens), both over the
    /// batch. Its sum is divided by that number whatever the [`Normalizer`](super::Normalizer) is;
    /// [`PairInputs::chosen_tokens`](super::PairInputs) gives that of a larger batch. 0 where there is no such token.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn sft(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&SFT, beta, &[])
    }

    /// Negative log-likelihood of the chosen per token, each pair with the same weight: −logp_w/n_w.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn nll(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&NLL, beta, &[])
    }

    /// The second term of [`orpo`](Self::orpo): −log σ(log odds(p_w) − log odds(p_l)) with odds(p) = p/(1 − p) and
    /// p = e^(logp/n). Infinite where a rejected sequence has probability 1; 0 where a sequence has a length of 0, and
    /// so no probability.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn odds_ratio(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&ODDS_RATIO, beta, &[])
    }
}
