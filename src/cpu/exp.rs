//! eˣ for f32, without a branch.

use super::simd::Simd;

/// Below, eˣ rounds to 0 (the smallest subnormal is 2⁻¹⁴⁹ ≈ e⁻¹⁰³·³).
const LOWEST: f32 = -105.0;
/// Above, eˣ rounds to infinity (the largest finite value is just under e⁸⁸·⁷³).
const HIGHEST: f32 = 89.0;

/// Adding this to a number of magnitude below 2²² rounds it to an integer, and subtracting it again leaves that.
const ROUND: f32 = 12_582_912.0; // 1.5·2²³

/// ln 2 in two parts: the first has 9 significant bits, so that its product with an integer below 2⁸ is exact, fused
/// or not.
const LN_2_HI: f32 = 0.693_359_4;
const LN_2_LO: f32 = -2.121_944_4e-4;

/// eᵗ for |t| ≤ ln 2 / 2, from the highest power down: the polynomial whose largest relative error is least, 2⁻²³·³⁸
/// (found by Remez exchange, with the constant term held at 1 so that e⁰ is exact).
const POLYNOMIAL: [f32; 6] = [8.290_276e-3, 4.189_816e-2, 1.666_763_8e-1, 4.999_914_8e-1, 9.999_997e-1, 1.0];

/// eˣ of N vectors, with a relative error below 2⁻²² where the result is a normal number.
///
/// Gives 0 at −∞ and below −103.98, ∞ above 88.73, NaN at NaN; subnormal results are rounded, not flushed.
///
/// The vectors go in step: one's chain of dependent operations is some 60 cycles long, and further ahead than a few
/// of these the processor does not look for work.
#[inline(always)]
pub(super) fn exp<S: Simd, const N: usize>(simd: S, x: [S::F32s; N]) -> [S::F32s; N] {
    // In this order of arguments NaN passes through.
    let x = each(x, |x| simd.min(simd.splat(HIGHEST), simd.max(simd.splat(LOWEST), x)));

    // x = n ln 2 + t with |t| ≤ ln 2 / 2.
    let n = each(x, |x| simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), simd.splat(ROUND)));
    let n = each(n, |n| simd.sub(n, simd.splat(ROUND)));
    let t = each_two(n, x, |n, x| simd.mul_add(n, simd.splat(-LN_2_HI), x));
    let t = each_two(n, t, |n, t| simd.mul_add(n, simd.splat(-LN_2_LO), t));

    let mut p = [simd.splat(POLYNOMIAL[0]); N];
    for coefficient in &POLYNOMIAL[1..] {
        p = each_two(p, t, |p, t| simd.mul_add(p, t, simd.splat(*coefficient)));
    }
    each_two(p, n, |p, n| simd.scale(p, n))
}

/// `f` of each of N vectors. (`array::map` is not sure to be inlined, and then not into what instruction set.)
#[inline(always)]
pub(super) fn each<V: Copy, const N: usize>(mut vectors: [V; N], f: impl Fn(V) -> V) -> [V; N] {
    for vector in &mut vectors {
        *vector = f(*vector);
    }
    vectors
}

#[inline(always)]
fn each_two<V: Copy, const N: usize>(mut a: [V; N], b: [V; N], f: impl Fn(V, V) -> V) -> [V; N] {
    for (a, b) in a.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    a
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cpu::element::{CHUNK, Element};
    use crate::cpu::simd::{Kernel, run_on_each};

    #[derive(Clone)]
    struct Exp([f32; CHUNK]);

    impl Kernel for Exp {
        type Output = [f32; CHUNK];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; CHUNK] {
            let mut out = [0.0; CHUNK];
            let vectors = exp(simd, f32::load(simd, &self.0));
            for (out, vector) in out.as_chunks_mut().0.iter_mut().zip(vectors) {
                *out = simd.lanes(vector);
            }
            out
        }
    }

    /// The largest error of any instruction set over `bits`, each `step`-th float of them, relative to the larger of eˣ
    /// and the smallest normal number. NaN and overflow must be met exactly.
    fn worst_error(bits: std::ops::RangeInclusive<u32>, step: u32) -> f64 {
        let (first, count) = (*bits.start(), (bits.end() - bits.start()) / step + 1);
        let chunk_error = |chunk: u32| {
            // Beyond the last float: zeros.
            let float = |i: usize| {
                let i = chunk * CHUNK as u32 + i as u32;
                if i < count { f32::from_bits(first + i * step) } else { 0.0 }
            };
            let x: [f32; CHUNK] = std::array::from_fn(float);
            let exact = x.map(|x| f64::from(x).exp());
            let mut worst: f64 = 0.0;
            for (set, found) in run_on_each(&Exp(x)) {
                for ((x, exact), found) in x.into_iter().zip(exact).zip(found) {
                    if exact > f64::from(f32::MAX) {
                        assert!(found >= f32::MAX, "{set}: exp({x}) = {found}");
                    } else if x.is_nan() {
                        assert!(found.is_nan(), "{set}: exp({x}) = {found}");
                    } else {
                        let unit = exact.max(f64::from(f32::MIN_POSITIVE));
                        worst = worst.max((f64::from(found) - exact).abs() / unit);
                    }
                }
            }
            worst
        };
        (0..count.div_ceil(CHUNK as u32)).into_par_iter().map(chunk_error).reduce(|| 0.0, f64::max)
    }

    fn assert_below_2_to_the_minus_22(worst: f64) {
        assert!(worst < 2f64.powi(-22), "relative error {worst:e} = 2^{:.2}", worst.log2());
    }

    /// All that the polynomial is for, |x| ≤ ln 2 / 2, down to where eˣ rounds to 1 or its neighbour.
    #[test]
    fn every_float_of_the_reduced_range() {
        let (least, most) = (2f32.powi(-25).to_bits(), (std::f32::consts::LN_2 / 2.0).to_bits());
        for sign in [0, 1 << 31] {
            assert_below_2_to_the_minus_22(worst_error(sign | least..=sign | most, 1));
        }
    }

    /// Every 97th float there is, subnormals, infinities and NaNs included.
    #[test]
    fn floats_of_every_size() {
        assert_below_2_to_the_minus_22(worst_error(0..=u32::MAX, 97));
    }

    #[test]
    fn edges() {
        let edges = [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (-f32::MAX, 0.0),
            (-103.0, f32::from_bits(1)),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ];
        for (x, expected) in edges {
            for (set, found) in run_on_each(&Exp([x; CHUNK])) {
                assert_eq!(found, [expected; CHUNK], "{set}: exp({x})");
            }
        }
    }
}
