// From the logits z that a row holds to the z' that the softmax sees: see src/transform.rs.
//
// The kernels are templates over the kind. Identity leaves nothing in them; Transformed looks at the batch for what there is
// to do, once for a vector.
#pragma once

#include "dtypes.cuh"
#include "params.h"

constexpr float kLog2e = 1.4426950408889634f;

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

// z' = z.
struct Identity {
    static constexpr bool kTransformed = false;

    __device__ explicit Identity(const DpoBatch &) {}

    // No z' is below this, but -infinity.
    __device__ float lowest() const { return -kMaxFloat; }
    // From z to unscaled z': z' but for the factor `deferred_scale`.
    template <int kCount> __device__ void apply(float (&)[kCount]) const {}
    __device__ float deferred_scale() const { return 1.0f; }
    // z' - from, of an unscaled z'.
    __device__ float difference(float unscaled, float from) const { return unscaled - from; }
    // The same as above, and factor * dz'/dz.
    template <int kCount> __device__ void apply(float (&)[kCount], float (&slopes)[kCount], float factor) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) slopes[i] = factor;
    }
    // No dz'/dz is larger.
    __device__ float steepest() const { return 1.0f; }
};

// z' = s z, or cap tanh(s z / cap). With q = 1 / (1 + e^(2 |s z / cap|)) that is +-cap (1 - 2 q), and its derivative,
// s (1 - tanh^2), is 4 s q (1 - q): no subtraction loses anything near the cap.
struct Transformed {
    static constexpr bool kTransformed = true;

    float scale, cap;
    float power; // of two, per logit: 2 s log2(e) / cap

    __device__ explicit Transformed(const DpoBatch &batch)
        : scale(batch.scale), cap(batch.softcap), power(batch.softcap_power) {}

    __device__ bool capped() const { return cap > 0.0f; }
    __device__ float q(float z) const { return reciprocal_approx(1.0f + exp2_approx(fabsf(z * power))); }
    __device__ float soft_capped(float z, float q) const { return copysignf(fmaf(-2.0f * cap, q, cap), z); }

    __device__ float lowest() const { return capped() ? -cap : -kMaxFloat; }
    template <int kCount> __device__ void apply(float (&z)[kCount]) const {
        if (!capped()) return;
#pragma unroll
        for (int i = 0; i < kCount; ++i) z[i] = soft_capped(z[i], q(z[i]));
    }
    // A scale alone is a factor in a fused multiply-add: one rounding, so that large logits lose no more than without.
    __device__ float deferred_scale() const { return capped() ? 1.0f : scale; }
    __device__ float difference(float unscaled, float from) const { return fmaf(unscaled, deferred_scale(), -from); }
    template <int kCount> __device__ void apply(float (&z)[kCount], float (&slopes)[kCount], float factor) const {
        if (capped()) {
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const float half = q(z[i]);
                z[i] = soft_capped(z[i], half);
                slopes[i] = factor * scale * (4.0f * fmaf(-half, half, half));
            }
        } else {
#pragma unroll
            for (int i = 0; i < kCount; ++i) slopes[i] = factor * scale;
        }
    }
    __device__ float steepest() const { return scale; }
};
