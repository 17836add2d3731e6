//! The exponents y that make e^(x − R) = 2^y: y = (x − R) log₂ e.

use super::simd::Simd;

/// log₂ e as an f32, which is (1 − 2⁻²⁶·¹) log₂ e.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// The largest |R| that goes into the addend of the multiply-add. |R|·L is then below 2¹⁷, and rounding it to f32 moves
/// R by no more than 2⁻⁸.
const LARGEST_IN_OFFSET: f32 = 65_536.0;

/// The reference R of a row, from which its exponents count: y = (x − R)·L, with L = log₂ e times the scale that a
/// transform defers.
///
/// It is kept as two numbers for which y = (x − shift)·L + offset:
///
/// - Usually the shift is 0 and the offset −R·L, so that y takes one fused multiply-add. The offset is rounded to f32;
///   [`value`](Self::value) is the R that belongs to the rounded one.
/// - The shift is R and the offset 0 if R is so large that this rounding would move it too far, or if the processor has
///   no fused multiply-add and would round the product x·L, which may be much larger than y.
///
/// Either way y is rounded relative to its own size, not to that of x and R: once, and twice with a shift. So
/// the natural logarithm y ln 2 has an error below |x − R|·(2⁻²⁴ + 2⁻²⁶), and below |x − R|·(2⁻²³ + 2⁻²⁶) with a
/// shift; where L is not log₂ e itself, rounding it adds 2⁻²⁴.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reference {
    /// L.
    exponent_scale: f32,
    shift: f32,
    offset: f32,
}

impl Reference {
    /// A reference within 2⁻⁸ of `r`, in the form that suits the instructions of `S`.
    pub fn new<S: Simd>(r: f32, exponent_scale: f32) -> Self {
        if S::FUSED && (r * exponent_scale).abs() <= LARGEST_IN_OFFSET * LOG2_E {
            Reference { exponent_scale, shift: 0.0, offset: -(r * exponent_scale) }
        } else {
            Reference { exponent_scale, shift: r, offset: 0.0 }
        }
    }

    /// −f32::MAX, below all finite numbers.
    pub fn least(exponent_scale: f32) -> Self {
        Reference { exponent_scale, shift: -f32::MAX, offset: 0.0 }
    }

    /// R.
    pub fn value(self) -> f64 {
        f64::from(self.shift) - f64::from(self.offset) / f64::from(self.exponent_scale)
    }

    /// Whether the shift is not 0.
    pub fn is_shifted(self) -> bool {
        self.shift != 0.0
    }

    /// y of N vectors x; it is NaN where both x and R are the same infinity. `SHIFTED` is
    /// [`is_shifted`](Self::is_shifted), which callers test once for many vectors.
    #[inline(always)]
    pub fn exponents<S: Simd, const SHIFTED: bool, const N: usize>(
        self,
        simd: S,
        mut x: [S::F32s; N],
    ) -> [S::F32s; N] {
        if SHIFTED {
            for x in &mut x {
                *x = simd.sub(*x, simd.splat(self.shift));
            }
        }
        for x in &mut x {
            *x = simd.mul_add(*x, simd.splat(self.exponent_scale), simd.splat(self.offset));
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::element::{CHUNK, Element};
    use crate::cpu::simd::{Kernel, run_on_each};

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
                reference.exponents::<S, true, _>(simd, x)
            } else {
                reference.exponents::<S, false, _>(simd, x)
            };
            for (out, vector) in out.as_chunks_mut().0.iter_mut().zip(vectors) {
                *out = simd.lanes(vector);
            }
            (reference.value(), out)
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
