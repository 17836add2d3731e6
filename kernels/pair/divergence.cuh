// f-divergences: what a log-ratio is worth to a loss of the margin. src/loss/divergence.rs has the formulas.
#pragma once

#include "pair/logistic.cuh"
#include "params.h"

// A function of one number, and its derivative.
struct ValueSlope {
    float value, slope;
};

// Beyond it the exponent of the alpha divergence is constant, so that its exponential stays finite.
constexpr float kAlphaClamp = 80.0f;

// f'(x) and its derivative.
__device__ inline ValueSlope f_prime(u32 divergence, float alpha, float x) {
    switch (divergence) {
    case DPO_FORWARD_KL:
    case DPO_ALPHA_DIVERGENCE: {
        // The forward KL is the alpha divergence at alpha = 0, unclamped.
        const float order = divergence == DPO_FORWARD_KL ? -1.0f : alpha - 1.0f;
        const float exponent = order * x;
        const bool clamped = divergence == DPO_ALPHA_DIVERGENCE && exponent > kAlphaClamp;
        return {expm1f(clamped ? kAlphaClamp : exponent) / order, clamped ? 0.0f : expf(exponent)};
    }
    case DPO_JENSEN_SHANNON: {
        const Logistic log_ratio(x);
        return {0.693147181f - softplus(-log_ratio), sigmoid(-log_ratio)};
    }
    default: return {x, 1.0f};
    }
}
