//! 2^y of vectors of f32, without a branch.

use super::simd::Simd;

/// Coefficients of a polynomial for 2ᵗ with t from 0 to 1, the highest power first. Its largest relative error is the
/// least possible, 2⁻²³·⁴⁵; it was found by Remez exchange with the constant term held at 1, so that 2⁰ is exact.
pub const EXP2: [f32; 6] = [1.867_130_7e-3, 9.017_029e-3, 5.579_991_3e-2, 2.401_644_6e-1, 6.931_513e-1, 1.0];

/// A shorter polynomial for results that are rounded to 16 bits, with a relative error of 2⁻¹⁸·³⁹. That is a hundredth
/// of the error of rounding to f16, and less of that of rounding to bf16.
pub const EXP2_16: [f32; 5] = [1.342_668_6e-2, 5.224_247_3e-2, 2.412_802e-1, 6.930_448_4e-1, 1.0];

/// 2^y of N vectors. The relative error is below 2⁻²² with the polynomial [`EXP2`] and below 2⁻¹⁸ with [`EXP2_16`],
/// where the result is a normal number.
///
/// The result is 0 at −∞ and below −151, ∞ from 128 on, and NaN at NaN. Subnormal results are rounded, not flushed.
///
/// The operations alternate between the vectors. Those of one vector depend on each other and take some 40 cycles
/// together, and the processor does not look far enough ahead to find the next vector's by itself.
#[inline(always)]
pub fn exp2<S: Simd, const N: usize>(simd: S, y: [S::F32s; N], polynomial: &'static [f32]) -> [S::F32s; N] {
    let mut t = y;
    for t in &mut t {
        *t = simd.fract(*t);
    }
    let mut p = [simd.splat(polynomial[0]); N];
    for coefficient in &polynomial[1..] {
        for (p, t) in p.iter_mut().zip(t) {
            *p = simd.mul_add(*p, t, simd.splat(*coefficient));
        }
    }
    for (p, y) in p.iter_mut().zip(y) {
        *p = simd.scale(*p, y);
    }
    p
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cpu::element::{CHUNK, Element};
    use crate::cpu::simd::{Kernel, run_on_each};

    #[derive(Clone)]
    struct Exp2([f32; CHUNK], &'static [f32]);

    impl Kernel for Exp2 {
        type Output = [f32; CHUNK];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; CHUNK] {
            let mut out = [0.0; CHUNK];
            let vectors = exp2(simd, f32::load(simd, &self.0), self.1);
            for (out, vector) in out.as_chunks_mut().0.iter_mut().zip(vectors) {
                *out = simd.lanes(vector);
            }
            out
        }
    }

    /// The largest errors with both polynomials, of any instruction set over `bits`, each `step`-th float of them,
    /// relative to the larger of 2^y and the smallest normal number. NaN and overflow must be met exactly, and sets
    /// with a fused multiply-add must agree to the bit.
    fn worst_errors(bits: std::ops::RangeInclusive<u32>, step: u32) -> [f64; 2] {
        let (first, count) = (*bits.start(), (bits.end() - bits.start()) / step + 1);
        let chunk_errors = |chunk: u32| {
            // Beyond the last float: zeros.
            let float = |i: usize| {
                let i = chunk * CHUNK as u32 + i as u32;
                if i < count { f32::from_bits(first + i * step) } else { 0.0 }
            };
            let y: [f32; CHUNK] = std::array::from_fn(float);
            let exact = y.map(|y| f64::from(y).exp2());
            let polynomials: [&'static [f32]; 2] = [&EXP2, &EXP2_16];
            polynomials.map(|polynomial| {
                let sets = run_on_each(&Exp2(y, polynomial));
                let mut worst: f64 = 0.0;
                for (set, found) in &sets {
                    for ((y, exact), &found) in y.into_iter().zip(exact).zip(found) {
                        if exact > f64::from(f32::MAX) {
                            assert!(found >= f32::MAX, "{set}: exp2({y}) = {found}");
                        } else if y.is_nan() {
                            assert!(found.is_nan(), "{set}: exp2({y}) = {found}");
                        } else {
                            let unit = exact.max(f64::from(f32::MIN_POSITIVE));
                            worst = worst.max((f64::from(found) - exact).abs() / unit);
                        }
                    }
                }
                let fused = sets.iter().filter(|(set, _)| *set != "portable");
                for ((a, first), (b, second)) in fused.clone().zip(fused.skip(1)) {
                    let bits = |x: &[f32; CHUNK]| x.map(|x| if x.is_nan() { 0 } else { x.to_bits() });
                    assert_eq!(bits(first), bits(second), "{a} and {b}: exp2({y:?})");
                }
                worst
            })
        };
        let larger = |a: [f64; 2], b: [f64; 2]| [a[0].max(b[0]), a[1].max(b[1])];
        (0..count.div_ceil(CHUNK as u32)).into_par_iter().map(chunk_errors).reduce(|| [0.0; 2], larger)
    }

    fn assert_below_2_to_the_minus_22_and_18([precise, short]: [f64; 2]) {
        assert!(precise < 2f64.powi(-22), "relative error {precise:e} = 2^{:.2}", precise.log2());
        assert!(short < 2f64.powi(-18), "relative error {short:e} = 2^{:.2}", short.log2());
    }

    /// All that the polynomials are for, from −1 to 1, down to where 2^y rounds to 1 or its neighbour.
    #[test]
    fn every_float_of_the_reduced_range() {
        let (least, most) = (2f32.powi(-25).to_bits(), 1f32.to_bits());
        for sign in [0, 1 << 31] {
            assert_below_2_to_the_minus_22_and_18(worst_errors(sign | least..=sign | most, 1));
        }
    }

    /// Every 97th float there is, subnormals, infinities and NaNs included.
    #[test]
    fn floats_of_every_size() {
        assert_below_2_to_the_minus_22_and_18(worst_errors(0..=u32::MAX, 97));
    }

    #[test]
    fn edges() {
        let edges = [
            (0.0, 1.0),
            (-0.0, 1.0),
            (1.0, 2.0),
            (f32::NEG_INFINITY, 0.0),
            (-f32::MAX, 0.0),
            (-149.0, f32::from_bits(1)),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (128.0, f32::INFINITY),
        ];
        for (y, expected) in edges {
            for (set, found) in run_on_each(&Exp2([y; CHUNK], &EXP2)) {
                assert_eq!(found, [expected; CHUNK], "{set}: exp2({y})");
            }
        }
    }
}
