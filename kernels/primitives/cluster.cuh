// A cluster of blocks that share a row: its barrier, and reads of each other's shared memory. What is compiled for an
// architecture without clusters knows clusters of one block only.
#pragma once

#include "primitives/dtypes.cuh"

#if __CUDA_ARCH__ >= 900

// Releases this thread's writes to shared memory to the blocks of its cluster. All threads of all of them arrive.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }

// Waits until all have arrived, and sees what they released.
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The word that stands in block `block` of the cluster where `own` stands in this one.
__device__ inline float load_from(u32 block, const float *own) {
    float value;
    asm volatile(
        "{ .reg .b32 theirs; mapa.shared::cluster.u32 theirs, %1, %2; ld.shared::cluster.f32 %0, [theirs]; }"
        : "=f"(value)
        : "r"(u32(__cvta_generic_to_shared(own))), "r"(block)
        : "memory");
    return value;
}

#else

__device__ inline void cluster_arrive() {}
__device__ inline void cluster_wait() { __syncthreads(); }
__device__ inline float load_from(u32, const float *own) { return *own; }

#endif
