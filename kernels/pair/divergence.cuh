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

// What a log-ratio is worth, where a loss reads it by an f-divergence.
struct FPrime {
    u32 divergence;
    float order; // n of an f' that is (e^(n x) - 1) / n: -1 for the forward KL, alpha - 1; otherwise 0

    // n x, and constant beyond the clamp of the alpha divergence.
    __device__ float exponent(float x) const { return clamps(x) ? kAlphaClamp : order * x; }
    __device__ bool clamps(float x) const { return divergence == DPO_ALPHA_DIVERGENCE && order * x > kAlphaClamp; }

    // f'(x).
    __device__ float operator()(float x) const {
        if (divergence == DPO_REVERSE_KL) return x;
        const bool is_power = divergence != DPO_JENSEN_SHANNON;
        const float power = expm1f(is_power ? exponent(x) : -fabsf(x));
        if (is_power) return power / order;
        // log 2 + log sigmoid(x) = -log((1 + e^-x) / 2), of which nothing is lost near x = 0; fminf drops a NaN, which the
        // second term keeps.
        return fminf(x, 0.0f) - log1pf(0.5f * power);
    }

    // `factor` times the derivative of f' at x. A power of e comes in two halves, of which neither overflows before the
    // product does.
    __device__ float times_slope(float factor, float x) const {
        if (divergence == DPO_REVERSE_KL) return factor;
        const bool is_power = divergence != DPO_JENSEN_SHANNON;
        float half = expf(0.5f * (is_power ? exponent(x) : -fabsf(x)));
        if (is_power && clamps(x)) half = 0.0f;
        if (!is_power) {
            factor /= 1.0f + half * half;
            if (x < 0.0f) half = 1.0f;
        }
        return vanishing(vanishing(factor, half), half);
    }

    // beta_w f'(a) - beta_l f'(b). Where a power overflows, the larger one is taken out of the difference.
    __device__ float difference(float beta_w, float a, float beta_l, float b) const {
        const float difference = beta_w * (*this)(a) - beta_l * (*this)(b);
        if (order == 0.0f || isfinite(difference)) return difference;
        const float of_a = exponent(a), of_b = exponent(b);
        const float largest = fminf(fmaxf(of_a, of_b), kMaxFloat), half = expf(0.5f * largest);
        const float rest = beta_w * expf(of_a - largest) - beta_l * expf(of_b - largest);
        return (vanishing(vanishing(rest, half), half) - (beta_w - beta_l)) / order;
    }
};
