//! Losses that sort the pairs of a batch: each with its row and its constructor.

use super::function::FunctionOf;
use super::kind::Kind;
use super::of_margin::{LABEL_SMOOTHING, smoothed_sigmoid};
use super::pair_loss::PairLoss;
use crate::error::Result;

pub(super) static LOSSES: [&Kind; 2] = [&AOT, &AOT_UNPAIRED];

static AOT: Kind = Kind {
    formula: "sigmoid of sorted β(logp_w − logp_l) − sorted β(ref_logp_w − ref_logp_l)",
    source: "AOT, arXiv:2406.05882",
    needs: "reference, many pairs",
    ranges: "ε 0 to 0.5",
    label_smoothing: Some(LABEL_SMOOTHING),
    ..Kind::new(8, "aot", FunctionOf::SortedMargins(|d, pair| smoothed_sigmoid(d, pair.label_smoothing)))
};

static AOT_UNPAIRED: Kind = Kind {
    formula: "sigmoid of sorted u − sorted v",
    source: "AOT, arXiv:2406.05882",
    needs: "reference, many pairs",
    ranges: "ε 0 to 0.5",
    label_smoothing: Some(LABEL_SMOOTHING),
    ..Kind::new(
        9,
        "aot_unpaired",
        FunctionOf::SortedRewards(|d, pair| smoothed_sigmoid(d, pair.label_smoothing)),
    )
};

/// # Losses that sort the pairs of a batch
impl PairLoss {
    /// AOT for paired data (Melnyk et al. 2024, arXiv:2406.05882, alg. 2): with d_k the k-th smallest of β(logp_w −
    /// logp_l) less the k-th smallest of β(ref_logp_w − ref_logp_l), −(1 − ε) log σ(d_k) − ε log σ(−d_k). A pair has
    /// the loss of its policy margin's rank. Equals are ranked in their order.
    ///
    /// A margin that is NaN is ranked last, as if it were infinite, and makes the loss and the coefficients of its own pair
    /// NaN. Where it is the reference's, so is the loss of the pair whose policy margin is the largest, since that is
    /// compared with it. The other pairs have the partners that infinity would leave them.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn aot(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&AOT, beta, &[])
    }

    /// AOT for unpaired data (Melnyk et al. 2024, arXiv:2406.05882, alg. 1): as [`aot`](Self::aot) with d_k the k-th
    /// smallest chosen reward less the k-th smallest rejected reward. A pair has the loss of its chosen's rank.
    ///
    /// A reward that is NaN is ranked last, and makes the loss and the coefficients of its own pair NaN. It is compared with
    /// the largest reward of the other side, whose coefficient is NaN too, and if that is a chosen one, its pair's loss.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn aot_unpaired(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&AOT_UNPAIRED, beta, &[])
    }
}
