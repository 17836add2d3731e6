//! Vectors of 16 f32, and the choice of the instruction set that works on them.
//!
//! A kernel is written once, over [`Simd`]; [`run`] compiles it once for each instruction set and takes the best
//! that the processor has. All of them see the same 16 lanes in the same order, as one register, as two or as an array,
//! so a kernel's bits differ in one respect alone: [`Simd::mul_add`] rounds once where there is a fused
//! multiply-add (AVX-512, AVX2 with FMA, NEON), and twice where there is none.

mod exponent;
mod instruction_set;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use exponent::LEAST_EXPONENT;
pub use instruction_set::{InstructionSet, use_at_most};
use portable::Portable;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Something to compute with vectors.
///
/// `run` and all that it calls must be `#[inline(always)]`. What is inlined into the functions of [`run`] is compiled
/// for their instruction sets. What is not inlined is compiled for the least one, and calls a function for each
/// operation of a greater one. A closure cannot be so marked, so kernels have loops instead.
pub trait Kernel {
    /// The result.
    type Output;
    /// The computation, with the vectors of `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the widest vectors that this processor has, of those that [may be used](use_at_most).
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if InstructionSet::Avx512.is_allowed()
            && let Some(avx512) = x86::Avx512::detect()
        {
            return avx512.run(kernel);
        }
        if InstructionSet::Avx2.is_allowed()
            && let Some(avx2) = x86::Avx2::detect()
        {
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
    fn fract(self, x: Self::F32s) -> Self::F32s;
    /// p·2^⌊x⌋, rounded once, for p from 1 to 2: 0 below x = −151 and ∞ from 128 on. NaN where either is NaN.
    fn scale(self, p: Self::F32s, x: Self::F32s) -> Self::F32s;

    /// The lanes one by one.
    #[inline(always)]
    fn lanes(self, x: Self::F32s) -> [f32; LANES] {
        // SAFETY: by the contract of `Simd`, F32s is 16 f32 in this order, without padding.
        unsafe { std::mem::transmute_copy(&x) }
    }
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
