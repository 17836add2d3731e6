// From the logits z that a row holds to the z' that the softmax sees: see src/transform.rs.
//
// The kernels are templates over the kind of transform. Each kind applies itself to logits but for a factor, its deferred
// scale, that costs nothing in the multiply-add which takes the difference from a reference.
#pragma once

#include "params.h"
#include "primitives/dtypes.cuh"
#include "primitives/maths.cuh"

// z' = s z. The scale is a factor in a fused multiply-add: one rounding, so that large logits lose no more than without;
// and with s = 1 it gives the bits of a subtraction, in the same time. So this serves batches without a transform too.
struct Scaled {
    // Whether z' of -infinity is a number.
    static constexpr bool kBounded = false;

    float scale, scale_log2;

    __device__ explicit Scaled(const DpoBatch &batch) : scale(batch.scale), scale_log2(batch.scale_log2) {}

    // From z to z' / deferred_scale().
    template <int kCount> __device__ void apply(float (&)[kCount]) const {}
    __device__ float deferred_scale() const { return scale; }
    // z' - from, of an applied logit.
    __device__ float difference(float applied, float from) const { return fmaf(applied, scale, -from); }
    // As the first, and factor * dz'/dz / deferred_slope().
    template <int kCount> __device__ void apply(float (&)[kCount], float (&slopes)[kCount], float factor) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) slopes[i] = factor;
    }
    // What all dz'/dz have in common, and its logarithm to base 2; none is larger.
    __device__ float deferred_slope() const { return scale; }
    __device__ float deferred_slope_log2() const { return scale_log2; }
};

// z' = cap tanh(s z / cap). With q = 1 / (1 + e^(2 |s z / cap|)) that is +-cap (1 - 2 q), and its derivative,
// s (1 - tanh^2), is 4 s q (1 - q): no subtraction loses anything near the cap.
struct Softcapped {
    static constexpr bool kBounded = true;

    float scale, scale_log2, cap;
    float power; // of two, per logit: 2 s log2(e) / cap

    __device__ explicit Softcapped(const DpoBatch &batch)
        : scale(batch.scale), scale_log2(batch.scale_log2), cap(batch.softcap), power(batch.softcap_power) {}

    __device__ float q(float z) const { return reciprocal_approx(1.0f + exp2_approx(fabsf(z * power))); }
    __device__ float capped(float z, float q) const { return copysignf(fmaf(-2.0f * cap, q, cap), z); }

    template <int kCount> __device__ void apply(float (&z)[kCount]) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) z[i] = capped(z[i], q(z[i]));
    }
    __device__ float deferred_scale() const { return 1.0f; }
    __device__ float difference(float applied, float from) const { return applied - from; }
    template <int kCount> __device__ void apply(float (&z)[kCount], float (&slopes)[kCount], float factor) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float half = q(z[i]);
            z[i] = capped(z[i], half);
            slopes[i] = factor * (4.0f * fmaf(-half, half, half));
        }
    }
    __device__ float deferred_slope() const { return scale; }
    __device__ float deferred_slope_log2() const { return scale_log2; }
};
