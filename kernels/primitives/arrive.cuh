// The count that finds the last block of a group.
#pragma once

#include "primitives/dtypes.cuh"

// Counts this block in with `count` of `expected`, and tells every thread of it whether that completes them. The block
// that does sees all that the others wrote before they arrived, and leaves the counter at 0 for the next launch.
__device__ inline bool arrive_last(u32 *counter, u32 count, u32 expected) {
    __shared__ bool last;
    // Every thread's writes come before thread 0's fence; and nobody still reads `last` of an earlier arrival.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); // release: this block's results before its count
        last = atomicAdd(counter, count) + count == expected;
        __threadfence(); // acquire: the others' results after theirs
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}
