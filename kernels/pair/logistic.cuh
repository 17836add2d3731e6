// The logistic function and its integral, whose tails the losses need on both sides.
#pragma once

#include "primitives/dtypes.cuh"

// What softplus, sigmoid and its slope are made of, at x and at -x alike: one exponential and one logarithm serve all of
// a loss's terms. A loss takes its argument as a Logistic and writes softplus(-z) or sigmoid(z) as if z were a number.
struct Logistic {
    float x;
    float log1p_tail;     // log(1 + e^-|x|)
    float larger, smaller; // sigmoid(|x|) and sigmoid(-|x|)

    Logistic() = default;
    __device__ explicit Logistic(float x) : x(x) {
        const float tail = expf(-fabsf(x));
        log1p_tail = log1pf(tail);
        larger = 1.0f / (1.0f + tail);
        smaller = tail / (1.0f + tail);
    }

    __device__ Logistic operator-() const {
        Logistic mirrored = *this;
        mirrored.x = -x;
        return mirrored;
    }
};

// log(1 + e^x).
__device__ inline float softplus(const Logistic &x) { return fmaxf(x.x, 0.0f) + x.log1p_tail; }

// 1 / (1 + e^-x).
__device__ inline float sigmoid(const Logistic &x) { return x.x >= 0.0f ? x.larger : x.smaller; }

// d sigmoid / dx: the product keeps both tails.
__device__ inline float bell(const Logistic &x) { return x.larger * x.smaller; }
