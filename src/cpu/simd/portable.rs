//! Vectors as arrays.

use super::exponent::{self, ROUND};
use super::{LANES, Simd};

/// Arrays, which the compiler makes vectors of with what every processor of the target has: SSE2 on x86-64, NEON on
/// aarch64.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

/// Whether `f32::mul_add` is an instruction. Elsewhere it is a slow library call, and a product and a sum replace it.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: an array has its elements in order and no padding.
unsafe impl Simd for Portable {
    type F32s = [f32; LANES];
    type U32s = [u32; LANES];
    const FUSED: bool = FUSED;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32s {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> Self::U32s {
        [x; LANES]
    }

    #[inline(always)]
    fn add(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32s, b: Self::F32s, c: Self::F32s) -> Self::F32s {
        if FUSED { std::array::from_fn(|i| a[i].mul_add(b[i], c[i])) } else { self.add(self.mul(a, b), c) }
    }
    #[inline(always)]
    fn min(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::F32s, b: Self::F32s) -> Self::F32s {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn floor(self, x: Self::F32s) -> Self::F32s {
        // `f32::floor` is a library call on SSE2.
        map(x, |x| {
            let nearest = (x + ROUND) - ROUND;
            nearest - if nearest > x { 1.0 } else { 0.0 }
        })
    }
    // These two are long as arrays. They may be calls, since no other instruction set is at stake here, and inlined they
    // would take a third of the time that the crate takes to compile.
    #[inline(never)]
    fn fract(self, x: Self::F32s) -> Self::F32s {
        exponent::fract(self, x)
    }
    #[inline(never)]
    fn scale(self, p: Self::F32s, x: Self::F32s) -> Self::F32s {
        exponent::scale(self, p, x)
    }
    #[inline(always)]
    fn greater(self, a: Self::F32s, b: Self::F32s) -> Self::U32s {
        zip(a, b, |a, b| if a > b { u32::MAX } else { 0 })
    }
    #[inline(always)]
    fn any_greater(self, a: Self::F32s, b: Self::F32s) -> bool {
        zip(a, b, |a, b| a > b).into_iter().fold(false, |any, greater| any | greater)
    }

    #[inline(always)]
    fn bits(self, x: Self::F32s) -> Self::U32s {
        map(x, f32::to_bits)
    }
    #[inline(always)]
    fn floats(self, x: Self::U32s) -> Self::F32s {
        map(x, f32::from_bits)
    }
    #[inline(always)]
    fn and(self, a: Self::U32s, b: Self::U32s) -> Self::U32s {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::U32s, b: Self::U32s) -> Self::U32s {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn add_u32(self, a: Self::U32s, b: Self::U32s) -> Self::U32s {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn shl<const BITS: u32>(self, x: Self::U32s) -> Self::U32s {
        map(x, |x| x << BITS)
    }
    #[inline(always)]
    fn shr<const BITS: u32>(self, x: Self::U32s) -> Self::U32s {
        map(x, |x| x >> BITS)
    }

    #[inline(always)]
    fn widen_f16(self, halves: Self::U32s) -> [Self::F32s; 2] {
        // This works on bits, without a branch. An f16's magnitude whose bits are moved to where f32 has its exponent
        // is 2¹¹² times too small. The product that corrects this is exact, for subnormals too.
        let widen = |half: u32| {
            let magnitude = (half & 0x7fff) << 13;
            let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
            let scaled = f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23);
            f32::from_bits(scaled.to_bits() | special | ((half & 0x8000) << 16))
        };
        let half = |i: usize| halves[i / 2] >> (16 * (i % 2));
        [std::array::from_fn(|i| widen(half(i))), std::array::from_fn(|i| widen(half(i + LANES)))]
    }
    #[inline(always)]
    fn narrow_f16(self, wide: [Self::F32s; 2]) -> Self::U32s {
        let narrow = |x: f32| {
            let sign = (x.to_bits() >> 16) & 0x8000;
            let magnitude = x.to_bits() & 0x7fff_ffff;
            // A normal result is rounded at bit 13, to the even neighbour if it is in the middle. The carry may go into
            // the exponent.
            let normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)).wrapping_sub(112 << 23) >> 13;
            // A subnormal result is rounded by adding ½, whose last bit is the least that f16 has.
            let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
            let finite = if magnitude < 113 << 23 { subnormal } else { normal };
            let infinite = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite }; // from 65520 on
            let nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
            sign | if magnitude > 0x7f80_0000 { nan } else { infinite }
        };
        let flat = |i: usize| narrow(wide[i / LANES][i % LANES]);
        std::array::from_fn(|i| flat(2 * i) | flat(2 * i + 1) << 16)
    }

    #[inline(always)]
    unsafe fn stream(self, x: Self::U32s, to: *mut Self::U32s) {
        // SAFETY: the caller promises an address that is valid for the write and aligned. The language has no streaming
        // store, so this is an ordinary one.
        unsafe { to.write(x) }
    }
    #[inline(always)]
    fn fence(self) {}
}
