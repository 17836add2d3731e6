//! Vectors of 16 f32, and the choice of the instruction set that works on them.
//!
//! A kernel is written once, over [`Simd`]; [`run`] compiles it once for each instruction set and takes the best
//! that the processor has. All of them see the same 16 lanes in the same order, as one register, as two or as an array,
//! so a kernel's bits differ in one respect alone: [`Simd::mul_add`] rounds once where there is a fused
//! multiply-add (AVX-512, AVX2 with FMA, NEON), and twice where there is none.

#[cfg(target_arch = "x86_64")]
mod x86;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Something to compute with vectors.
///
/// `run` and all that it calls must be `#[inline(always)]`: what is inlined into [`run`]'s functions is compiled with
/// their instruction set, the rest without it.
pub trait Kernel {
    /// The result.
    type Output;
    /// The computation, with the vectors of `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the widest vectors that this processor has.
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = x86::Avx512::detect() {
            return avx512.run(kernel);
        }
        if let Some(avx2) = x86::Avx2::detect() {
            return avx2.run(kernel);
        }
    }
    kernel.run(Portable)
}

/// Operations on all lanes of vectors at once. A value of the type is the proof that the processor has them.
///
/// # Safety
///
/// `F32s` is 16 f32 and `U32s` 16 u32, lane after lane in memory, without padding.
pub unsafe trait Simd: Copy {
    /// 16 f32.
    type F32s: Copy;
    /// 16 u32.
    type U32s: Copy;
    /// Whether [`mul_add`](Self::mul_add) rounds once.
    const FUSED: bool;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32s;
    /// `x` in every lane.
    fn splat_u32(self, x: u32) -> Self::U32s;

    /// a + b.
    fn add(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// a − b.
    fn sub(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// a·b.
    fn mul(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// a ÷ b.
    fn div(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// a·b + c, rounded once if the processor can, twice otherwise.
    fn mul_add(self, a: Self::F32s, b: Self::F32s, c: Self::F32s) -> Self::F32s;
    /// The smaller one; `b` where either is NaN.
    fn min(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// The larger one; `b` where either is NaN.
    fn max(self, a: Self::F32s, b: Self::F32s) -> Self::F32s;
    /// All bits of the lanes where a > b.
    fn greater(self, a: Self::F32s, b: Self::F32s) -> Self::U32s;
    /// Whether a > b in any lane.
    fn any_greater(self, a: Self::F32s, b: Self::F32s) -> bool;

    /// The bits of floats.
    fn bits(self, x: Self::F32s) -> Self::U32s;
    /// The floats with these bits.
    fn floats(self, x: Self::U32s) -> Self::F32s;
    /// a & b.
    fn and(self, a: Self::U32s, b: Self::U32s) -> Self::U32s;
    /// a | b.
    fn or(self, a: Self::U32s, b: Self::U32s) -> Self::U32s;
    /// a + b mod 2³².
    fn add_u32(self, a: Self::U32s, b: Self::U32s) -> Self::U32s;
    /// x << BITS.
    fn shl<const BITS: u32>(self, x: Self::U32s) -> Self::U32s;
    /// x >> BITS.
    fn shr<const BITS: u32>(self, x: Self::U32s) -> Self::U32s;

    /// 32 f16, two to a lane, in order: the first 16, the last 16.
    fn widen_f16(self, halves: Self::U32s) -> [Self::F32s; 2];
    /// The inverse, rounding to nearest, ties to even.
    fn narrow_f16(self, wide: [Self::F32s; 2]) -> Self::U32s;

    /// Writes past the caches where the processor can: a buffer larger than they are is then not read before it is
    /// written. [`fence`](Self::fence) must follow before anyone else may rely on what was written.
    ///
    /// # Safety
    ///
    /// `to` is aligned to 64 bytes and valid for a write of as many.
    unsafe fn stream(self, x: Self::U32s, to: *mut Self::U32s);
    /// Orders what was streamed before what is written from here on.
    fn fence(self);

    /// ⌊x⌋ of numbers of magnitude below 2²²; NaN of NaN.
    fn floor(self, x: Self::F32s) -> Self::F32s;

    /// x − ⌊x⌋, rounded down, for x from −152 to 128; elsewhere a number from 0 to 1. NaN of NaN.
    #[inline(always)]
    fn fract(self, x: Self::F32s) -> Self::F32s {
        let x = self.exponent(x);
        let floor = self.floor(x);
        let nearest = self.sub(x, floor);
        // It is inexact for −½ < x < 0 alone. What was rounded up then is too large by what is exact to find out.
        let minus_one = self.greater(self.add(nearest, floor), x);
        self.floats(self.add_u32(self.bits(nearest), minus_one))
    }

    /// p·2^⌊x⌋, rounded once, for p from 1 to 2: 0 below x = −151 and ∞ from 128 on. NaN where either is NaN.
    #[inline(always)]
    fn scale(self, p: Self::F32s, x: Self::F32s) -> Self::F32s {
        // By two factors, since the integer reaches beyond the exponents of one f32 at both ends. To add 1.5·2²³ to an
        // integer leaves it in the low bits of the sum; with the bias on top these are an exponent, to be shifted in
        // place.
        let n = self.floor(self.exponent(x));
        let round = self.splat(ROUND + 127.0);
        let half = self.mul_add(n, self.splat(0.5), round);
        let rest = self.add(self.sub(n, self.sub(half, round)), round);
        let power_of_two = |biased| self.floats(self.shl::<23>(self.bits(biased)));
        self.mul(self.mul(p, power_of_two(half)), power_of_two(rest))
    }

    /// x, no further out than powers of two are f32: 2⁻¹⁵² times a number below 2 rounds to 0, and 2¹²⁸ is ∞. In this
    /// order of arguments NaN passes through.
    #[inline(always)]
    fn exponent(self, x: Self::F32s) -> Self::F32s {
        self.min(self.splat(128.0), self.max(self.splat(-152.0), x))
    }

    /// The lanes one by one.
    #[inline(always)]
    fn lanes(self, x: Self::F32s) -> [f32; LANES] {
        // SAFETY: 16 f32 in the one as in the other.
        unsafe { std::mem::transmute_copy(&x) }
    }
}

/// Asks for the line of the caches that holds `address`. That need not be valid; nothing happens then.
#[inline(always)]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of the target has the instruction, and it neither reads nor faults as far as a program
    // can tell.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    // Elsewhere there is no stable intrinsic.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Adding this to a number of magnitude below 2²² rounds it to an integer, and subtracting it again leaves that.
const ROUND: f32 = 12_582_912.0; // 1.5·2²³

/// Arrays, which the compiler makes vectors of with what every processor of the target has: SSE2 on x86-64, NEON on
/// aarch64.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

/// Whether `f32::mul_add` is an instruction. Where it is a library call, two roundings are the lesser evil.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: arrays are what the contract says.
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
        // By bits, free of branches. An f16's magnitude, its exponent moved to where f32 has one, is 2¹¹² times too
        // small; the product is exact, subnormals included.
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
            // Normal: round at bit 13, half of the odd last bit's ties upwards; the carry may go into the exponent.
            let normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)).wrapping_sub(112 << 23) >> 13;
            // Subnormal: ½ has its last bit where f16 has its smallest, so that the sum rounds there.
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
        // SAFETY: as the caller promised. The language has no streaming store, so this is an ordinary one.
        unsafe { to.write(x) }
    }
    #[inline(always)]
    fn fence(self) {}
}

/// Runs a kernel with every set of instructions that this processor has, the portable one last.
#[cfg(test)]
pub fn run_on_each<K: Kernel + Clone>(kernel: &K) -> Vec<(&'static str, K::Output)> {
    let mut outputs = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        outputs.extend(x86::Avx512::detect().map(|simd| ("AVX-512", simd.run(kernel.clone()))));
        outputs.extend(x86::Avx2::detect().map(|simd| ("AVX2", simd.run(kernel.clone()))));
    }
    outputs.push(("portable", kernel.clone().run(Portable)));
    outputs
}
