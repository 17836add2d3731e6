//! x86-64: AVX-512 as one register of 16 lanes, AVX2 with FMA and F16C as two of 8.

use core::arch::x86_64::*;

use super::{Kernel, Simd, exponent};

/// AVX-512F and AVX-512DQ, which only the first coprocessors lack.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx512 {
    /// The only way to a value: its existence proves that the processor has the instructions.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
        has.then_some(Avx512(()))
    }

    /// Runs a kernel compiled for AVX-512.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512dq")]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { compiled(self, kernel) }
    }
}

impl Avx2 {
    /// The only way to a value: its existence proves that the processor has the instructions.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }

    /// Runs a kernel compiled for AVX2, FMA and F16C.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { compiled(self, kernel) }
    }
}

type F = __m512;
type U = __m512i;

/// Methods that are one expression of intrinsics.
macro_rules! ops {
    ($(fn $name:ident$(<const $bits:ident: u32>)?($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name$(<const $bits: u32>)?(self, $($arg: $type),*) -> $result {
            // SAFETY: `self` exists, so the processor has the instructions, and none of them accesses memory.
            unsafe { $body }
        }
    )*};
}

// SAFETY: a register's lanes lie in memory one after the other.
unsafe impl Simd for Avx512 {
    type F32s = F;
    type U32s = U;
    const FUSED: bool = true;

    ops! {
        fn splat(x: f32) -> F = _mm512_set1_ps(x);
        fn splat_u32(x: u32) -> U = _mm512_set1_epi32(x as i32);
        fn add(a: F, b: F) -> F = _mm512_add_ps(a, b);
        fn sub(a: F, b: F) -> F = _mm512_sub_ps(a, b);
        fn mul(a: F, b: F) -> F = _mm512_mul_ps(a, b);
        fn div(a: F, b: F) -> F = _mm512_div_ps(a, b);
        fn mul_add(a: F, b: F, c: F) -> F = _mm512_fmadd_ps(a, b, c);
        fn min(a: F, b: F) -> F = _mm512_min_ps(a, b);
        fn max(a: F, b: F) -> F = _mm512_max_ps(a, b);
        fn floor(x: F) -> F = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
        fn greater(a: F, b: F) -> U = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), -1);
        fn any_greater(a: F, b: F) -> bool = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0;
        fn bits(x: F) -> U = _mm512_castps_si512(x);
        fn floats(x: U) -> F = _mm512_castsi512_ps(x);
        fn and(a: U, b: U) -> U = _mm512_and_si512(a, b);
        fn or(a: U, b: U) -> U = _mm512_or_si512(a, b);
        fn add_u32(a: U, b: U) -> U = _mm512_add_epi32(a, b);
        fn shl<const BITS: u32>(x: U) -> U = _mm512_slli_epi32::<BITS>(x);
        fn shr<const BITS: u32>(x: U) -> U = _mm512_srli_epi32::<BITS>(x);
        fn widen_f16(halves: U) -> [F; 2] = [
            _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
        ];
        fn narrow_f16(wide: [F; 2]) -> U = {
            let [low, high] = wide;
            let low = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low);
            let high = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        };
        // Neither needs x to be clamped: the fraction of an infinity is 0, and `scalef` takes any exponent and floors
        // it. The fraction is rounded down, like the floor.
        fn fract(x: F) -> F = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
        fn scale(p: F, x: F) -> F = _mm512_scalef_ps(p, x);
        fn fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    unsafe fn stream(self, x: U, to: *mut U) {
        // SAFETY: `self` exists, so the processor has the instructions, and the caller promises an address that is
        // aligned and valid for the write.
        unsafe { _mm512_stream_si512(to, x) }
    }
}

type F2 = [__m256; 2];
type U2 = [__m256i; 2];

// SAFETY: two registers of 8 lanes each lie in memory one after the other.
unsafe impl Simd for Avx2 {
    type F32s = F2;
    type U32s = U2;
    const FUSED: bool = true;

    ops! {
        fn splat(x: f32) -> F2 = [_mm256_set1_ps(x); 2];
        fn splat_u32(x: u32) -> U2 = [_mm256_set1_epi32(x as i32); 2];
        fn add(a: F2, b: F2) -> F2 = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        fn sub(a: F2, b: F2) -> F2 = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        fn mul(a: F2, b: F2) -> F2 = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        fn div(a: F2, b: F2) -> F2 = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fn mul_add(a: F2, b: F2, c: F2) -> F2 =
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        fn min(a: F2, b: F2) -> F2 = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        fn max(a: F2, b: F2) -> F2 = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        fn floor(x: F2) -> F2 = [_mm256_floor_ps(x[0]), _mm256_floor_ps(x[1])];
        fn greater(a: F2, b: F2) -> U2 = [
            _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
            _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
        ];
        fn any_greater(a: F2, b: F2) -> bool = {
            let greater = [_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])];
            _mm256_movemask_ps(_mm256_or_ps(greater[0], greater[1])) != 0
        };
        fn bits(x: F2) -> U2 = [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])];
        fn floats(x: U2) -> F2 = [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])];
        fn and(a: U2, b: U2) -> U2 = [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])];
        fn or(a: U2, b: U2) -> U2 = [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])];
        fn add_u32(a: U2, b: U2) -> U2 = [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])];
        fn shl<const BITS: u32>(x: U2) -> U2 = {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_sll_epi32(x[0], bits), _mm256_sll_epi32(x[1], bits)]
        };
        fn shr<const BITS: u32>(x: U2) -> U2 = {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_srl_epi32(x[0], bits), _mm256_srl_epi32(x[1], bits)]
        };
        fn widen_f16(halves: U2) -> [F2; 2] = {
            let [low, high] = halves;
            [
                [_mm256_cvtph_ps(_mm256_castsi256_si128(low)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(low))],
                [_mm256_cvtph_ps(_mm256_castsi256_si128(high)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(high))],
            ]
        };
        fn narrow_f16(wide: [F2; 2]) -> U2 = {
            let [[a, b], [c, d]] = wide;
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            [
                _mm256_set_m128i(_mm256_cvtps_ph::<NEAREST>(b), _mm256_cvtps_ph::<NEAREST>(a)),
                _mm256_set_m128i(_mm256_cvtps_ph::<NEAREST>(d), _mm256_cvtps_ph::<NEAREST>(c)),
            ]
        };
        fn fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    fn fract(self, x: F2) -> F2 {
        exponent::fract(self, x)
    }
    #[inline(always)]
    fn scale(self, p: F2, x: F2) -> F2 {
        exponent::scale(self, p, x)
    }

    #[inline(always)]
    unsafe fn stream(self, x: U2, to: *mut U2) {
        let to = to.cast::<__m256i>();
        // SAFETY: `self` exists, so the processor has the instructions, and the caller promises an address that is
        // aligned and valid for the write.
        unsafe {
            _mm256_stream_si256(to, x[0]);
            _mm256_stream_si256(to.add(1), x[1]);
        }
    }
}
