//! eˣ for f32, without a branch: e^(x − R) = 2^y with y = (x − R) log₂ e, one fused multiply-add.

use super::simd::Simd;

/// log₂ e, as an f32: L = (1 − 2⁻²⁶·¹) log₂ e.
pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// References up to this size go into the multiply-add. R·L is then below 2¹⁷, and rounding it moves R by no more than
/// 2⁻⁸.
const NEAR: f32 = 65_536.0;

/// R, what exponents are taken relative to, in the form that costs least: y = (x − shift)·L + offset. For logits that
/// are to be scaled, L is the scale's multiple; it is given to each function, since there is usually but the one.
///
/// The shift is 0 and the offset −R·L for an R of ordinary size; where that would round R too coarsely, or rounds the
/// product x·L before the sum (no fused multiply-add), the shift is R and the offset 0. Either way x − R loses
/// nothing however large the two are: y is rounded once (twice with a shift), relative to itself, and R is
/// [`value`](Self::value), to f64's precision. All in all, the natural logarithm y ln 2 has an error below
/// |x − R|·(2⁻²⁴ + 2⁻²⁶), and |x − R|·(2⁻²³ + 2⁻²⁶) with a shift; 2⁻²⁴ more with a scale, whose multiple is rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reference {
    shift: f32,
    offset: f32,
}

impl Reference {
    /// −f32::MAX.
    pub const LOWEST: Reference = Reference { shift: -f32::MAX, offset: 0.0 };

    /// The nearest one to `r` that the instructions of `S` are exact with, which is within 2⁻⁸ of it.
    pub fn new<S: Simd>(r: f32, l: f32) -> Self {
        if S::FUSED && (r * l).abs() <= NEAR * LOG2_E {
            Reference { shift: 0.0, offset: -(r * l) }
        } else {
            Reference { shift: r, offset: 0.0 }
        }
    }

    /// R.
    pub fn value(self, l: f32) -> f64 {
        f64::from(self.shift) - f64::from(self.offset) / f64::from(l)
    }

    /// Whether there is a shift.
    pub fn is_shifted(self) -> bool {
        self.shift != 0.0
    }

    /// (x − R)·L of N vectors. ∞ − ∞ is NaN. `SHIFTED` is [`is_shifted`](Self::is_shifted), asked once for many.
    #[inline(always)]
    pub fn exponents<S: Simd, const SHIFTED: bool, const N: usize>(
        self,
        simd: S,
        mut x: [S::F32s; N],
        l: f32,
    ) -> [S::F32s; N] {
        if SHIFTED {
            x = each(x, |x| simd.sub(x, simd.splat(self.shift)));
        }
        each(x, |x| simd.mul_add(x, simd.splat(l), simd.splat(self.offset)))
    }
}

/// 2ᵗ for t from 0 to 1, from the highest power down: the polynomial whose largest relative error is least, 2⁻²³·⁴⁵
/// (found by Remez exchange, with the constant term held at 1 so that 2⁰ is exact).
pub(super) const EXP2: [f32; 6] =
    [1.867_130_7e-3, 9.017_029e-3, 5.579_991_3e-2, 2.401_644_6e-1, 6.931_513e-1, 1.0];

/// The same for results that are rounded to 16 bits: 2⁻¹⁸·³⁹, a hundredth of what rounding to f16 takes, and less of
/// bf16.
pub(super) const EXP2_16: [f32; 5] = [1.342_668_6e-2, 5.224_247_3e-2, 2.412_802e-1, 6.930_448_4e-1, 1.0];

/// 2^y of N vectors by a polynomial. With [`EXP2`] the relative error is below 2⁻²², with [`EXP2_16`] below 2⁻¹⁸,
/// where the result is a normal number.
///
/// Gives 0 at −∞ and below −151, ∞ from 128 on, NaN at NaN; subnormal results are rounded, not flushed.
///
/// The vectors go in step: one's chain of dependent operations is some 40 cycles long, and further ahead than a few
/// of these the processor does not look for work.
#[inline(always)]
pub(super) fn exp2<S: Simd, const N: usize>(
    simd: S,
    y: [S::F32s; N],
    polynomial: &'static [f32],
) -> [S::F32s; N] {
    let t = each(y, |y| simd.fract(y));
    let mut p = [simd.splat(polynomial[0]); N];
    for coefficient in &polynomial[1..] {
        p = each_two(p, t, |p, t| simd.mul_add(p, t, simd.splat(*coefficient)));
    }
    each_two(p, y, |p, y| simd.scale(p, y))
}

/// `f` of each of N vectors. (`array::map` is not sure to be inlined, and then not into what instruction set.)
#[inline(always)]
pub(super) fn each<V: Copy, const N: usize>(mut vectors: [V; N], f: impl Fn(V) -> V) -> [V; N] {
    for vector in &mut vectors {
        *vector = f(*vector);
    }
    vectors
}

/// `f` of each of N pairs of vectors.
#[inline(always)]
pub(super) fn each_two<V: Copy, const N: usize>(mut a: [V; N], b: [V; N], f: impl Fn(V, V) -> V) -> [V; N] {
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

    /// e^(x − R) relative to R's own value, with references of every size.
    #[derive(Clone)]
    struct Exponents(f32, [f32; CHUNK]);

    impl Kernel for Exponents {
        type Output = (f64, [f32; CHUNK]);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> (f64, [f32; CHUNK]) {
            let reference = Reference::new::<S>(self.0, LOG2_E);
            let mut out = [0.0; CHUNK];
            let x = f32::load(simd, &self.1);
            let vectors = if reference.is_shifted() {
                reference.exponents::<S, true, _>(simd, x, LOG2_E)
            } else {
                reference.exponents::<S, false, _>(simd, x, LOG2_E)
            };
            for (out, vector) in out.as_chunks_mut().0.iter_mut().zip(vectors) {
                *out = simd.lanes(vector);
            }
            (reference.value(LOG2_E), out)
        }
    }

    #[test]
    fn references_lose_nothing() {
        for r in [
            0.0,
            1.0,
            -0.3,
            17.77,
            -1e4,
            1.000_1e4,
            65_504.0,
            65_536.0,
            65_537.5,
            -3e6,
            1.7e9,
            1e30,
            -f32::MAX,
        ] {
            // From r down to 100 below it, and some above.
            let x: [f32; CHUNK] = std::array::from_fn(|i| r - 2.1 * i as f32 + 5.0);
            for (set, (value, found)) in run_on_each(&Exponents(r, x)) {
                assert!((value - f64::from(r)).abs() <= 2f64.powi(-8), "{set}: {value} for {r}");
                for (x, y) in x.into_iter().zip(found) {
                    let exact = f64::from(x) - value;
                    let error = (f64::from(y) * std::f64::consts::LN_2 - exact).abs();
                    let bound = exact.abs() * (2f64.powi(-23) + 2f64.powi(-26));
                    assert!(error <= bound, "{set}: {x} − {r}: off by {error:e}, allowed {bound:e}");
                }
            }
        }
    }
}
