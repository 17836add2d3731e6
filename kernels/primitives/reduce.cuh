// Reductions over a warp, a block or a part of it, always in the same order.
#pragma once

#include "primitives/dtypes.cuh"

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;

// A double and an int move between lanes as their 32-bit halves.
template <class T> __device__ T shuffle_down(T value, int offset) {
    static_assert(sizeof(T) % 4 == 0, "shuffles move whole words");
    u32 words[sizeof(T) / 4];
    memcpy(words, &value, sizeof(T));
#pragma unroll
    for (int i = 0; i < int(sizeof(T) / 4); ++i) words[i] = __shfl_down_sync(0xffffffffu, words[i], offset);
    memcpy(&value, words, sizeof(T));
    return value;
}

// The lanes' values, combined in lane 0. A loop, since its code is in every entry point, and runs once.
template <class T> __device__ T reduce_warp(T value) {
#pragma unroll 1
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value.merge(shuffle_down(value, offset));
    return value;
}

// Combines one value per thread of the block by `a.merge(b)`, in thread 0; T() is the neutral value, and `partials` holds
// one value per warp. The tree depends on the block's size alone.
template <class T> __device__ T reduce_block(T value, T *partials) {
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    value = reduce_warp(value);
    if (lane == 0) partials[warp] = value;
    __syncthreads();
    if (warp == 0) value = reduce_warp(lane < blockDim.x / kWarp ? partials[lane] : T());
    return value;
}
