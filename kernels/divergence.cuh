// f-divergences: what a log-ratio is worth to a loss of the margin. src/loss/divergence.rs has the formulas.
#pragma once

#include "dtypes.cuh"
#include "params.h"

// log(1 + e^x), keeping the tail.
__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// 1 / (1 + e^-x), keeping the tail.
__device__ inline float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

// Beyond it the exponent of the alpha divergence is constant, so that its exponential stays finite.
constexpr float kAlphaClamp = 80.0f;

// A function of one number and its derivative.
struct ValueSlope {
    float value, slope;
};

// f'(x).
__device__ inline ValueSlope f_prime(u32 divergence, float alpha, float x) {
    switch (divergence) {
    case DPO_FORWARD_KL: return {-expm1f(-x), expf(-x)};
    case DPO_JENSEN_SHANNON: return {0.693147181f - softplus(-x), sigmoid(-x)};
    case DPO_ALPHA_DIVERGENCE: {
        const float order = alpha - 1.0f;
        const float exponent = order * x;
        if (exponent > kAlphaClamp) return {expm1f(kAlphaClamp) / order, 0.0f};
        return {expm1f(exponent) / order, expf(exponent)};
    }
    default: return {x, 1.0f};
    }
}
