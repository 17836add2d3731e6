//! f-divergences: what a log-ratio is worth to a loss of the margin.

use super::math::{sigmoid, vanishing};
use super::range::{Range, same_in_f32};
use crate::error::Result;

/// The f-divergence that regularises the policy (Wang et al. 2023, "Beyond Reverse KL", arXiv:2309.16240).
///
/// A loss over margins takes z = β(f′(a) − f′(b)) where a and b are the log-ratios of chosen and rejected, and this is
/// f′. A constant of f′ cancels in z, but for a [length-normalised](super::PairLoss::with_length_normalization) loss,
/// where it is multiplied by β/n_w − β/n_l: f′(0) is 0 in all that follow. Rewards are reported as β·log-ratio all the
/// same.
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

/// f′(x) = (eᵐ − 1)/n, with m = nx up to `most`.
#[derive(Clone, Copy)]
struct Power {
    /// n.
    order: f64,
    most: f64,
}

impl Power {
    fn exponent(self, x: f64) -> f64 {
        let exponent = self.order * x;
        if exponent > self.most { self.most } else { exponent }
    }

    /// β_w f′(a) − β_l f′(b) where a power overflows: the larger one is taken out of the difference, in two halves, of
    /// which neither overflows before the result does.
    fn large_difference(self, (beta_w, a): (f64, f64), (beta_l, b): (f64, f64)) -> f64 {
        let (of_a, of_b) = (self.exponent(a), self.exponent(b));
        let largest = of_a.max(of_b).min(f64::MAX);
        let half = (0.5 * largest).exp();
        let rest = beta_w * (of_a - largest).exp() - beta_l * (of_b - largest).exp();
        (vanishing(vanishing(rest, half), half) - (beta_w - beta_l)) / self.order
    }
}

impl Divergence {
    /// Whether the two are one to the kernels.
    pub(super) fn is_same_in_f32(self, other: Divergence) -> bool {
        match (self, other) {
            (Divergence::Alpha(one), Divergence::Alpha(other)) => same_in_f32(one, other),
            _ => self == other,
        }
    }

    pub(super) fn check(self) -> Result<Self> {
        match self {
            Divergence::Alpha(alpha) => Range::FINITE.check("alpha", alpha).map(Divergence::Alpha),
            valid => Ok(valid),
        }
    }

    /// f′ of those that are powers of e.
    fn power(self) -> Option<Power> {
        match self {
            Divergence::ForwardKl => Some(Power { order: -1.0, most: f64::INFINITY }),
            Divergence::Alpha(alpha) if alpha != 1.0 => Some(Power { order: alpha - 1.0, most: ALPHA_CLAMP }),
            _ => None,
        }
    }

    /// f′(x).
    fn f_prime(self, x: f64) -> f64 {
        match (self, self.power()) {
            (_, Some(power)) => power.exponent(x).exp_m1() / power.order,
            // log 2 + log σ(x) = −log((1 + e⁻ˣ)/2), of which nothing is lost near x = 0; f64::min drops a NaN, which the
            // second term keeps.
            (Divergence::JensenShannon, None) => x.min(0.0) - (0.5 * (-x.abs()).exp_m1()).ln_1p(),
            (_, None) => x,
        }
    }

    /// β_w f′(a) − β_l f′(b), where `w` is (β_w, a) and `l` is (β_l, b).
    pub(super) fn difference(self, w: (f64, f64), l: (f64, f64)) -> f64 {
        let difference = w.0 * self.f_prime(w.1) - l.0 * self.f_prime(l.1);
        match self.power() {
            Some(power) if !difference.is_finite() => power.large_difference(w, l),
            _ => difference,
        }
    }

    /// `factor` times the derivative of f′ at x.
    pub(super) fn times_slope(self, factor: f64, x: f64) -> f64 {
        match (self, self.power()) {
            (_, Some(power)) => {
                let exponent = power.order * x;
                // eᵐ in two halves, of which neither overflows before the product does.
                let half = if exponent > power.most { 0.0 } else { (0.5 * exponent).exp() };
                vanishing(vanishing(factor, half), half)
            }
            (Divergence::JensenShannon, None) => vanishing(factor, sigmoid(-x)),
            (_, None) => factor,
        }
    }
}
