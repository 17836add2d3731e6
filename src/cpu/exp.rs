//! eˣ for f32, branch-free, so that a loop over it becomes vector instructions.

/// Below, eˣ rounds to 0 (the smallest subnormal is 2⁻¹⁴⁹ ≈ e⁻¹⁰³·³).
const LOWEST: f32 = -105.0;
/// Above, eˣ rounds to infinity (the largest finite value is just under e⁸⁸·⁷³).
const HIGHEST: f32 = 89.0;

/// Adding this to a number of magnitude below 2²² leaves its nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0; // 1.5·2²³

/// ln 2 in two parts: the first has 9 significant bits, so that its product with an integer below 2⁸ is exact.
const LN_2_HI: f32 = 0.693_359_4;
const LN_2_LO: f32 = -2.121_944_4e-4;

/// eˣ, with a relative error below 2⁻²² where the result is a normal number.
///
/// Gives 0 at −∞ and below −103.98, ∞ above 88.73, NaN at NaN; subnormal results are rounded, not flushed.
///
/// x = n ln 2 + t with |t| ≤ ln 2 / 2, and eᵗ = 1 + t + t²·P(t) with the minimax polynomial of Cephes' `expf`
/// (Moshier 1989). No fused multiply-add: it would be a library call on targets without the instruction, and its
/// result would depend on the target.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons, not `clamp`: the compiler makes them one instruction each, and NaN passes through.
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };

    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let t = (x - n * LN_2_HI) - n * LN_2_LO;

    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * t + coefficient;
    }
    let mantissa = p * (t * t) + t + 1.0;

    // 2ⁿ by two factors: n reaches from -152 to 128, which is beyond the exponents of one f32 at both ends.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    mantissa * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2ⁿ for n from -126 to 127; some number otherwise, which is what a NaN's exponent comes to.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 97th float of either sign between the limits, subnormals included.
    #[test]
    fn relative_error_is_below_2_to_the_minus_22() {
        let mut worst: f64 = 0.0;
        for limit in [HIGHEST, LOWEST] {
            let sign = limit.to_bits() & 0x8000_0000;
            for magnitude in (0..limit.abs().to_bits()).step_by(97) {
                let x = f32::from_bits(sign | magnitude);
                let exact = f64::from(x).exp();
                let found = f64::from(exp(x));
                if exact > f64::from(f32::MAX) {
                    assert!(found >= f64::from(f32::MAX), "exp({x}) = {found}");
                } else {
                    // Below the normal numbers a rounding is half of the smallest subnormal.
                    let unit = exact.max(f64::from(f32::MIN_POSITIVE));
                    worst = worst.max((found - exact).abs() / unit);
                }
            }
        }
        assert!(worst < 2f64.powi(-22), "relative error {worst:e} = 2^{:.2}", worst.log2());
    }

    #[test]
    fn edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-f32::MAX), 0.0);
        assert_eq!(exp(-103.0), f32::from_bits(1));
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-f32::NAN).is_nan());
    }
}
