//! Logits in memory, as vectors of f32.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// Vectors that are loaded, computed and stored together.
pub const VECTORS: usize = 4;

/// Elements of as many.
pub const CHUNK: usize = VECTORS * LANES;

/// A number type that the vectors can load and store. [`Logit`](crate::Logit)'s own secret: no type outside this
/// crate can be one.
///
/// A chunk spreads over the lanes of its vectors in an order of the type's choosing, which is always the same.
///
/// # Safety
///
/// The type has no padding, and every bit pattern is a value of it. `Packed` is an array of registers.
pub unsafe trait Element: Copy {
    /// A chunk in its own type, in registers of 64 bytes.
    type Packed<S: Simd>: AsRef<[S::U32s]>;

    /// Widens exactly.
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS];

    /// Rounds to nearest, ties to even; beyond the largest finite value gives an infinity. NaN stays NaN, but must be
    /// one without a payload, or with one that came from [`load`](Self::load): a bf16 has no room for others, and
    /// to look out for them would be a tenth of the time of a gradient.
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> Self::Packed<S>;
}

/// The bytes of a chunk, in registers.
#[inline(always)]
fn registers<T: Element, S: Simd, const N: usize>(chunk: &[T; CHUNK]) -> [S::U32s; N] {
    const { assert!(size_of::<[S::U32s; N]>() == size_of::<[T; CHUNK]>()) }
    // SAFETY: as many bytes, all of them initialised, since T has no padding; any bits are a register of integers.
    unsafe { std::ptr::from_ref(chunk).cast::<[S::U32s; N]>().read_unaligned() }
}

/// Writes a packed chunk.
#[inline(always)]
pub fn store<T: Element, S: Simd>(packed: T::Packed<S>, to: &mut [T; CHUNK]) {
    const { assert!(size_of::<T::Packed<S>>() == size_of::<[T; CHUNK]>()) }
    // SAFETY: as many bytes, and any bits are a T.
    unsafe { std::ptr::from_mut(to).cast::<T::Packed<S>>().write_unaligned(packed) }
}

/// Writes a packed chunk past the caches; [`Simd::fence`] must follow.
///
/// # Safety
///
/// `to` is aligned to 64 bytes.
#[inline(always)]
pub unsafe fn stream<T: Element, S: Simd>(simd: S, packed: T::Packed<S>, to: &mut [T; CHUNK]) {
    const { assert!(size_of::<T::Packed<S>>() == size_of::<[T; CHUNK]>()) }
    let to = std::ptr::from_mut(to).cast::<S::U32s>();
    for (i, register) in packed.as_ref().iter().enumerate() {
        // SAFETY: as many bytes, any bits are a T, and `to` is aligned.
        unsafe { simd.stream(*register, to.add(i)) }
    }
}

// SAFETY: a plain number.
unsafe impl Element for f32 {
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

// SAFETY: a plain number.
unsafe impl Element for f16 {
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

/// The bf16 of a pair whose place is the upper half of the f32.
const UPPER: u32 = 0xffff_0000;

// A bf16 is the upper half of an f32, and a lane of 32 bits holds two: the lower one is shifted to its place, the upper
// one is there already. So no value ever changes its lane.
//
// SAFETY: a plain number.
unsafe impl Element for bf16 {
    type Packed<S: Simd> = [S::U32s; 2];

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &[Self; CHUNK]) -> [S::F32s; VECTORS] {
        let [low, high] = registers::<bf16, S, 2>(chunk);
        let lower = |pairs| simd.floats(simd.shl::<16>(pairs));
        let upper = |pairs| simd.floats(simd.and(pairs, simd.splat_u32(UPPER)));
        [lower(low), upper(low), lower(high), upper(high)]
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, wide: [S::F32s; VECTORS]) -> [S::U32s; 2] {
        let [a, b, c, d] = wide;
        [pair_bf16(simd, a, b), pair_bf16(simd, c, d)]
    }
}

/// Two bf16 per lane, rounded to nearest, ties to even.
#[inline(always)]
fn pair_bf16<S: Simd>(simd: S, lower: S::F32s, upper: S::F32s) -> S::U32s {
    let lower = simd.shr::<16>(round_bf16(simd, lower));
    simd.or(lower, simd.and(round_bf16(simd, upper), simd.splat_u32(UPPER)))
}

/// Bits whose upper half is the nearest bf16. A NaN whose lower half is 0 has no carry, and stays a NaN.
#[inline(always)]
fn round_bf16<S: Simd>(simd: S, x: S::F32s) -> S::U32s {
    let bits = simd.bits(x);
    // Half of the last bit that is kept, less one: what lies in the middle goes up only if that bit is odd.
    let odd = simd.and(simd.shr::<16>(bits), simd.splat_u32(1));
    simd.add_u32(simd.add_u32(bits, simd.splat_u32(0x7fff)), odd)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::batch::Logit;
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
    fn agrees_with_half<T: Logit + PartialEq + Debug>(from_bits: fn(u16) -> T, is_nan: fn(T) -> bool) {
        let ulp = 2f32.powi(-8);
        for factor in [1.0, 1.0 + ulp, 1.0 - ulp, 1.0 + ulp / 8.0, -1.5, 3e-5, 1e-39, 7e4, 3e38] {
            for first in (0..=u16::MAX).step_by(CHUNK) {
                let chunk: [T; CHUNK] = std::array::from_fn(|i| from_bits(first + i as u16));
                for (set, found) in run_on_each(&Times(chunk, factor)) {
                    for (x, found) in chunk.into_iter().zip(found) {
                        let expected = T::from_f32(x.to_f32() * factor);
                        let same = found == expected || (is_nan(found) && is_nan(expected));
                        assert!(same, "{set}: {x:?} * {factor:e} = {found:?}, expected {expected:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn f16_agrees_with_half() {
        agrees_with_half(f16::from_bits, f16::is_nan);
    }

    #[test]
    fn bf16_agrees_with_half() {
        agrees_with_half(bf16::from_bits, bf16::is_nan);
    }
}
