//! [`Simd::fract`] and [`Simd::scale`] by other operations, for processors that have no instruction for them.

use super::Simd;

/// 2 to this rounds to 0, and so does its product with a number below 2.
pub const LEAST_EXPONENT: f32 = -152.0;

/// 2 to this is infinite.
const GREATEST_EXPONENT: f32 = 128.0;

/// Adding this to a number of magnitude below 2²² rounds the number to an integer, which subtracting it again leaves.
pub const ROUND: f32 = 12_582_912.0; // 1.5·2²³

/// x, or the nearest exponent whose power of two is an f32, 0 or ∞. NaN stays NaN, as the second argument of both
/// operations.
#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::F32s) -> S::F32s {
    simd.min(simd.splat(GREATEST_EXPONENT), simd.max(simd.splat(LEAST_EXPONENT), x))
}

/// [`Simd::fract`].
#[inline(always)]
pub fn fract<S: Simd>(simd: S, x: S::F32s) -> S::F32s {
    let x = clamp(simd, x);
    let floor = simd.floor(x);
    let nearest = simd.sub(x, floor);
    // The subtraction is inexact only for −½ < x < 0. Where it rounded up, adding the floor again, which is exact,
    // gives more than x, and subtracting 1 from the bits gives the number below.
    let minus_one = simd.greater(simd.add(nearest, floor), x);
    simd.floats(simd.add_u32(simd.bits(nearest), minus_one))
}

/// [`Simd::scale`].
#[inline(always)]
pub fn scale<S: Simd>(simd: S, p: S::F32s, x: S::F32s) -> S::F32s {
    // 2ⁿ is the product of two powers of two, since n exceeds the exponents of one f32 at both ends. Adding 1.5·2²³
    // to an integer leaves that integer in the low bits of the sum. With the exponent's bias added too, these bits
    // are the exponent of the power of two, and a shift puts them in their place.
    let n = simd.floor(clamp(simd, x));
    let round = simd.splat(ROUND + 127.0);
    let half = simd.mul_add(n, simd.splat(0.5), round);
    let rest = simd.add(simd.sub(n, simd.sub(half, round)), round);
    let half = simd.floats(simd.shl::<23>(simd.bits(half)));
    let rest = simd.floats(simd.shl::<23>(simd.bits(rest)));
    simd.mul(simd.mul(p, half), rest)
}
