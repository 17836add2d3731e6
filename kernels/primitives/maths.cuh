// The special function unit's approximations, whose errors the tolerances of the tests count.
#pragma once

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
// From here on down exp and exp2 are 0, so that e^x x and 2^x x are, too.
constexpr float kDeepest = -128.0f;

__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2(x) of a sum of exponentials, which is no larger than their number. lg2.approx alone is good near 1, so the power of two
// is taken off before.
__device__ inline float log2_approx(float x) {
    const u32 exponent = __float_as_uint(x) >> 23;
    const float mantissa = x * __uint_as_float((254 - exponent) << 23);
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(mantissa));
    return x <= kMaxFloat ? float(int(exponent) - 127) + y : x;
}

// e^x - 1, right to its last bits where that is nearly 0, in half of expm1f's instructions. Within 1/2 of 0 it is a series whose
// next term is below 2^-26 of it; beyond, the difference loses little of what exp2_approx has right.
__device__ inline float expm1_approx(float x) {
    float series = fmaf(x, 1.0f / 40320, 1.0f / 5040);
    series = fmaf(x, series, 1.0f / 720);
    series = fmaf(x, series, 1.0f / 120);
    series = fmaf(x, series, 1.0f / 24);
    series = fmaf(x, series, 1.0f / 6);
    series = fmaf(x, series, 0.5f);
    series = fmaf(x, series, 1.0f);
    return fabsf(x) < 0.5f ? x * series : exp2_approx(x * kLog2e) - 1.0f;
}
