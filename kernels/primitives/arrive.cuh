// The count that finds the last block of a group.
#pragma once

#include "primitives/dtypes.cuh"

// Adds to a counter in global memory, and returns what it was. It releases: a block that finds the sum in the counter sees all
// that this thread saw before. And it acquires: from here on this thread sees what those saw whose additions it finds. One
// such instruction costs less than a plain addition between two fences.
__device__ inline u32 add_acq_rel(u32 *counter, u32 count) {
    u32 before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(counter)), "r"(count)
                 : "memory");
    return before;
}

// Counts this block in with `count` of `expected`, and tells every thread of it whether that completes them. The block
// that does sees all that the others wrote before they arrived, and leaves the counter at 0 for the next launch.
__device__ inline bool arrive_last(u32 *counter, u32 count, u32 expected) {
    __shared__ bool last;
    // Every thread's writes come before thread 0 releases them; and nobody still reads `last` of an earlier arrival.
    __syncthreads();
    if (threadIdx.x == 0) {
        last = add_acq_rel(counter, count) + count == expected;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}
