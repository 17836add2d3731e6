//! Logits in memory, as vectors of f32.

use half::{bf16, f16};

use super::exp2::{EXP2, EXP2_16};
use super::simd::{LANES, Simd};
use crate::dtype::Logit;

/// Vectors that are loaded, computed and stored together.
pub const VECTORS: usize = 4;

/// Elements of a chunk, which is that many vectors.
pub const CHUNK: usize = VECTORS * LANES;

/// A type of logits that vectors can load and store.
///
/// Which element of a chunk is in which lane of which vector depends on the type, and on nothing else.
///
/// # Safety
///
/// The type has no padding, and every bit pattern is a value of it. `Packed` is an array of registers.
pub unsafe trait Element: Logit {
    /// The polynomial of [`exp2`](super::exp2::exp2) that is precise enough for a result of this type.
    const GRADIENT_EXP2: &'static [f32];

    /// A chunk in its own type, in registers of 64 bytes.
    type Packed<S: Simd>: AsRef<[S::U32s]>;

    /// Widens exactly.
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS];

    /// Rounds to nearest; a number beyond the largest finite value becomes an infinity. A number in the middle between
    /// two neighbours goes to the even one as f16, but away from zero as bf16, which takes half as many instructions
    /// and is as near.
    ///
    /// NaN stays NaN if it has no payload or one that [`load`](Self::load) gave it. A bf16 has no room for others, and
    /// to check for them would cost more than the rounding.
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> Self::Packed<S>;
}

/// The bytes of a chunk, unchanged.
#[inline(always)]
fn registers<T: Element, S: Simd, const N: usize>(chunk: &[T; CHUNK]) -> [S::U32s; N] {
    const { assert!(size_of::<[S::U32s; N]>() == size_of::<[T; CHUNK]>()) }
    // SAFETY: by the assertion, the two have as many bytes. All are initialised, since T has no padding, and any bits
    // are a register of integers.
    unsafe { std::ptr::from_ref(chunk).cast::<[S::U32s; N]>().read_unaligned() }
}

/// Writes a packed chunk.
#[inline(always)]
pub fn store<T: Element, S: Simd>(packed: T::Packed<S>, to: &mut [T; CHUNK]) {
    const { assert!(size_of::<T::Packed<S>>() == size_of::<[T; CHUNK]>()) }
    // SAFETY: by the assertion, the two have as many bytes, and any bits are a T.
    unsafe { std::ptr::from_mut(to).cast::<T::Packed<S>>().write_unaligned(packed) }
}

// SAFETY: a number without padding, of which every bit pattern is a value; `Packed` is an array of registers.
unsafe impl Element for f32 {
    const GRADIENT_EXP2: &'static [f32] = &EXP2;
    type Packed<S: Simd> = [S::U32s; 4];

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS] {
        let [a, b, c, d] = registers::<f32, S, 4>(chunk);
        [simd.floats(a), simd.floats(b), simd.floats(c), simd.floats(d)]
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> [S::U32s; 4] {
        let [a, b, c, d] = wide;
        [simd.bits(a), simd.bits(b), simd.bits(c), simd.bits(d)]
    }
}

// SAFETY: a number without padding, of which every bit pattern is a value; `Packed` is an array of registers.
unsafe impl Element for f16 {
    const GRADIENT_EXP2: &'static [f32] = &EXP2_16;
    type Packed<S: Simd> = [S::U32s; 2];

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS] {
        let [low, high] = registers::<f16, S, 2>(chunk);
        let ([a, b], [c, d]) = (simd.widen_f16(low), simd.widen_f16(high));
        [a, b, c, d]
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> [S::U32s; 2] {
        let [a, b, c, d] = wide;
        [simd.narrow_f16([a, b]), simd.narrow_f16([c, d])]
    }
}

/// The upper half of a lane.
const UPPER_HALF: u32 = 0xffff_0000;

// A bf16 is the upper half of an f32, and a lane of 32 bits holds two of them. Widening shifts the lower one up and
// masks the upper one, which is in its place already; so no value changes its lane.
//
// SAFETY: a number without padding, of which every bit pattern is a value; `Packed` is an array of registers.
unsafe impl Element for bf16 {
    const GRADIENT_EXP2: &'static [f32] = &EXP2_16;
    type Packed<S: Simd> = [S::U32s; 2];

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS] {
        let [low, high] = registers::<bf16, S, 2>(chunk);
        let ([a, b], [c, d]) = (widen_bf16(simd, low), widen_bf16(simd, high));
        [a, b, c, d]
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> [S::U32s; 2] {
        let [a, b, c, d] = wide;
        [narrow_bf16(simd, [a, b]), narrow_bf16(simd, [c, d])]
    }
}

/// The lower and the upper bf16 of each lane.
#[inline(always)]
fn widen_bf16<S: Simd>(simd: S, pairs: S::U32s) -> [S::F32s; 2] {
    [simd.floats(simd.shl::<16>(pairs)), simd.floats(simd.and(pairs, simd.splat_u32(UPPER_HALF)))]
}

/// The inverse of [`widen_bf16`], rounding to nearest, ties away from zero.
#[inline(always)]
fn narrow_bf16<S: Simd>(simd: S, [lower, upper]: [S::F32s; 2]) -> S::U32s {
    // Adding half of the last bit that is kept rounds to nearest. It cannot turn a NaN whose lower half is 0 into
    // something else, since nothing is carried.
    let half = simd.splat_u32(0x8000);
    let lower = simd.shr::<16>(simd.add_u32(simd.bits(lower), half));
    let upper = simd.and(simd.add_u32(simd.bits(upper), half), simd.splat_u32(UPPER_HALF));
    simd.or(lower, upper)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::cpu::simd::{Kernel, run_on_each};

    /// Widens a chunk, multiplies it by a number, and narrows it again.
    #[derive(Clone)]
    struct Times<T>([T; CHUNK], f32);

    impl<T: Element> Kernel for Times<T> {
        type Output = [T; CHUNK];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [T; CHUNK] {
            let Times(mut chunk, factor) = self;
            let mut wide = T::load(simd, &chunk);
            for x in &mut wide {
                *x = simd.mul(*x, simd.splat(factor));
            }
            store::<T, S>(T::pack(simd, wide), &mut chunk);
            chunk
        }
    }

    /// Every pattern of 16 bits, times numbers that lead to ties, overflow and subnormals, against `half`, one by one.
    fn agrees_with_half<T: Element + PartialEq + Debug>(
        from_bits: fn(u16) -> T,
        is_nan: fn(T) -> bool,
        nearest: fn(f32) -> T,
    ) {
        let ulp = 2f32.powi(-8);
        for factor in [1.0, 1.0 + ulp, 1.0 - ulp, 1.0 + ulp / 8.0, -1.5, 3e-5, 1e-39, 7e4, 3e38] {
            for first in (0..=u16::MAX).step_by(CHUNK) {
                let chunk: [T; CHUNK] = std::array::from_fn(|i| from_bits(first + i as u16));
                for (set, found) in run_on_each(&Times(chunk, factor)) {
                    for (x, found) in chunk.into_iter().zip(found) {
                        let expected = nearest(x.to_f32() * factor);
                        let same = found == expected || (is_nan(found) && is_nan(expected));
                        assert!(same, "{set}: {x:?} * {factor:e} = {found:?}, expected {expected:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn f16_agrees_with_half() {
        agrees_with_half(f16::from_bits, f16::is_nan, f16::from_f32);
    }

    #[test]
    fn bf16_agrees_with_half() {
        // `half` rounds ties to even, and this crate's vectors round them away from zero.
        let nearest = |x: f32| {
            let (upper, lower) = ((x.to_bits() >> 16) as u16, x.to_bits() as u16);
            if lower == 0x8000 { bf16::from_bits(upper + 1) } else { bf16::from_f32(x) }
        };
        agrees_with_half(bf16::from_bits, bf16::is_nan, nearest);
    }
}
