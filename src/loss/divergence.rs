//! f-divergences: what a log-ratio is worth to a loss of the margin.

use super::math::{ValueSlope, sigmoid, softplus};
use super::range::Range;
use crate::error::Result;

/// The f-divergence that regularises the policy (Wang et al. 2023, "Beyond Reverse KL", arXiv:2309.16240).
///
/// A loss over margins takes z = β(f′(a) − f′(b)) where a and b are the log-ratios of chosen and rejected, and this
/// is f′, up to constants, which cancel. Rewards are reported as β·log-ratio all the same.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// f′(x) = x: DPO.
    #[default]
    ReverseKl,
    /// f′(x) = 1 − e⁻ˣ.
    ForwardKl,
    /// f′(x) = log 2 + log σ(x).
    JensenShannon,
    /// f′(x) = (e^min((α−1)x, 80) − 1)/(α − 1): TRL's form, clamped as TRL clamps it in f32. At α = 1 it is x. With
    /// α < 1 it is −(e^{−(1−α)x} − 1)/(1 − α), the divergence that is the forward KL at α = 0.
    Alpha(f64),
}

/// The exponent of [`Divergence::Alpha`] is constant beyond this, so that its exponential stays finite in f32.
const ALPHA_CLAMP: f64 = 80.0;

impl Divergence {
    pub(super) fn check(self) -> Result<Self> {
        match self {
            Divergence::Alpha(alpha) => Range::FINITE.check("alpha", alpha).map(Divergence::Alpha),
            valid => Ok(valid),
        }
    }

    /// f′(x) and its derivative.
    pub(super) fn f_prime(self, x: f64) -> ValueSlope {
        match self {
            Divergence::ReverseKl => ValueSlope { value: x, slope: 1.0 },
            Divergence::ForwardKl => ValueSlope { value: -(-x).exp_m1(), slope: (-x).exp() },
            Divergence::JensenShannon => {
                ValueSlope { value: std::f64::consts::LN_2 - softplus(-x), slope: sigmoid(-x) }
            }
            Divergence::Alpha(1.0) => ValueSlope { value: x, slope: 1.0 },
            Divergence::Alpha(alpha) => {
                let order = alpha - 1.0;
                let exponent = order * x;
                if exponent > ALPHA_CLAMP {
                    ValueSlope { value: ALPHA_CLAMP.exp_m1() / order, slope: 0.0 }
                } else {
                    ValueSlope { value: exponent.exp_m1() / order, slope: exponent.exp() }
                }
            }
        }
    }
}
