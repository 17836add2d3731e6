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

// The first `lanes` lanes' values, combined in lane 0; the lanes behind have the neutral value, T().
//
// A row's sum, in f32, is reduced for every row: without a loop, and without the steps that would add nothing. Sums in f64
// are those of sequences and pairs: they come once, but their code is in every entry point, and is short.
template <class T> __device__ T reduce_warp(T value, int lanes = kWarp) {
    constexpr bool kOften = alignof(T) <= alignof(float);
    constexpr int kStepsAtOnce = kOften ? 5 : 1;
#pragma unroll(kStepsAtOnce)
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
        if (!kOften || offset < lanes) value.merge(shuffle_down(value, offset));
    return value;
}

// Combines one value per thread of each team by `a.merge(b)`; T() is the neutral value. Teams are equal parts of the
// block, whole warps; the result is in each team's first thread alone, and the tree depends on the team's size only.
// `partials` holds one value per warp. A team of one warp needs no barrier; otherwise every thread of the block calls.
template <class T> __device__ T reduce_teams(T value, u32 threads, T *partials) {
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = threads / kWarp;
    value = reduce_warp(value);
    if (warps == 1) return value;
    if (lane == 0) partials[warp] = value;
    __syncthreads();
    if (warp % warps == 0) value = reduce_warp(lane < warps ? partials[warp + lane] : T(), int(warps));
    return value;
}

// The same over the whole block, with the result in thread 0.
template <class T> __device__ T reduce_block(T value, T *partials) {
    return reduce_teams(value, blockDim.x, partials);
}
