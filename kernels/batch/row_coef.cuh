// What the gradient of a row's log-prob is multiplied by.
#pragma once

#include "params.h"
#include "primitives/dtypes.cuh"

// A coefficient times the upstream gradient.
template <class Params> __device__ float times_upstream(const Params &p, float coef) {
    return coef * (p.upstream ? *p.upstream : 1.0f) * p.upstream_scale;
}

// c = coef[sequence] * token_coef[row] * upstream; what is not given is 1.
template <class Params> __device__ float row_coef(const Params &p, u32 sequence, u32 row) {
    float coef = p.coef ? p.coef[sequence] : 1.0f;
    if (p.token_coef) coef *= p.token_coef[row];
    return times_upstream(p, coef);
}

// Whether a coefficient is no more than the threshold. A NaN is not.
template <class Params> __device__ bool is_small(const Params &p, float coef) { return fabsf(coef) <= p.threshold; }
