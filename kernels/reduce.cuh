// Reductions over a block, always in the same order, and the count that finds the last block of a group.
#pragma once

#include "dtypes.cuh"

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

template <class T> __device__ T reduce_warp(T value) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value.merge(shuffle_down(value, offset));
    return value;
}

// Combines one value per thread by `a.merge(b)`; T() is the neutral value. The result is in thread 0 alone, and the
// tree depends on blockDim only. `partials` holds one value per warp.
template <class T> __device__ T reduce_block(T value, T *partials) {
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    value = reduce_warp(value);
    if (lane == 0) partials[warp] = value;
    __syncthreads();
    if (warp == 0) value = reduce_warp(lane < blockDim.x / kWarp ? partials[lane] : T());
    return value;
}

// Counts this block in, and tells every thread of it whether it is the last of `expected`. The last one sees all that
// the others wrote before they arrived, and leaves the counter at 0 for the next launch.
__device__ inline bool arrive_last(u32 *counter, u32 expected) {
    __shared__ bool last;
    // Every thread's writes come before thread 0's fence; and nobody still reads `last` of an earlier arrival.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); // release: this block's results before its count
        last = atomicInc(counter, expected - 1) == expected - 1;
        __threadfence(); // acquire: the others' results after theirs
    }
    __syncthreads();
    return last;
}
