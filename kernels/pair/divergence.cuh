// f-divergences: what a log-ratio is worth to a loss of the margin. src/loss/divergence.rs has the formulas.
#pragma once

#include "params.h"
#include "primitives/dtypes.cuh"

// one * other, and 0 where 0 meets an infinity: what has vanished did so exponentially, and the other factor did not grow
// so fast. A NaN stays.
template <class T> __device__ T vanishing(T one, T other) {
    const T product = one * other;
    return isnan(product) && !isnan(one) && !isnan(other) ? T(0) : product;
}

// Beyond it the exponent of the alpha divergence is constant, so that its exponential stays finite.
constexpr float kAlphaClamp = 80.0f;

// f' at a log-ratio. Its derivative is kept in factors, of which none overflows before a coefficient does: slope half^2.
struct Valued {
    float value, slope, half;
    float exponent; // of an f' that is (e^exponent - 1) / order

    __device__ float times_slope(float factor) const { return vanishing(vanishing(factor * slope, half), half); }
};

// f'(x) and its derivative. The forward KL is the alpha divergence at 0, unclamped.
__device__ inline Valued f_prime(u32 divergence, float order, float x) {
    if (divergence == DPO_REVERSE_KL) return {x, 1.0f, 1.0f, 0.0f};
    const bool is_power = divergence != DPO_JENSEN_SHANNON;
    float exponent = is_power ? order * x : -fabsf(x);
    const bool clamped = divergence == DPO_ALPHA_DIVERGENCE && exponent > kAlphaClamp;
    if (clamped) exponent = kAlphaClamp;
    const float power = expm1f(exponent), half = expf(0.5f * exponent);
    if (is_power) return {power / order, 1.0f, clamped ? 0.0f : half, exponent};
    // log 2 + log sigmoid(x) = -log((1 + e^-x) / 2), of which nothing is lost near x = 0; fminf drops a NaN, which the
    // second term keeps.
    const float tail = half * half;
    return {fminf(x, 0.0f) - log1pf(0.5f * power), 1.0f / (1.0f + tail), x >= 0.0f ? half : 1.0f, 0.0f};
}

// beta_w f'(a) - beta_l f'(b) where a power overflows: the larger one is taken out of the difference, in two halves.
__device__ inline float large_difference(float order, float beta_w, float of_a, float beta_l, float of_b) {
    const float largest = fminf(fmaxf(of_a, of_b), kMaxFloat), half = expf(0.5f * largest);
    const float rest = beta_w * expf(of_a - largest) - beta_l * expf(of_b - largest);
    return (vanishing(vanishing(rest, half), half) - (beta_w - beta_l)) / order;
}
