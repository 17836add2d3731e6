// What each token counts in its sequence's sum: 1, or less in a tail that the other sequence of the pair has no match for
// (LD-DPO: see Batch::ld_alpha in src/batch.rs).
#pragma once

#include "batch/row_context.cuh"

// How many threads before this one in the block say yes. Every thread of the block calls.
__device__ inline u32 count_before(bool yes) {
    __shared__ u32 counts[kMaxWarps];
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const u32 ballot = __ballot_sync(0xffffffffu, yes);
    if (lane == 0) counts[warp] = __popc(ballot);
    __syncthreads();
    u32 before = __popc(ballot & ((1u << lane) - 1u));
    for (u32 w = 0; w < warp; ++w) before += counts[w];
    return before;
}

// The weights of the rows of one sequence, blockDim.x rows at a time. Every thread of the block takes part.
struct TailWeights {
    float tail;
    u32 full;       // scored tokens that count in full
    u32 scored = 0; // so far

    __device__ TailWeights(const DpoForward &p, u32 sequence) : tail(p.ld_alpha), full(~0u) {
        if (tail == 1.0f) return;
        const u32 half = p.batch.sequences / 2;
        const u32 across = sequence < half ? sequence + half : sequence - half;
        full = count_scored(p.batch, p.partner_layout == DPO_PAIRS_INTERLEAVED ? sequence ^ 1u : across);
    }

    // Of this thread's row.
    __device__ float next(bool is_scored) {
        if (full == ~0u) return is_scored ? 1.0f : 0.0f;
        const u32 index = scored + count_before(is_scored);
        scored += __syncthreads_count(is_scored);
        return !is_scored ? 0.0f : index < full ? 1.0f : tail;
    }

    // Sequences of no rows, and those that cu_seqlens has out of order, have none.
    static __device__ u32 count_scored(const DpoBatch &batch, u32 sequence) {
        i64 begin = i64(sequence) * batch.sequence_len, end = begin + batch.sequence_len;
        if (batch.cu_seqlens) {
            begin = batch.cu_seqlens[sequence];
            end = batch.cu_seqlens[sequence + 1];
            if (begin < 0 || end > i64(batch.rows)) return 0;
        }
        u32 scored = 0;
        for (i64 first = begin; first < end; first += blockDim.x) {
            const i64 row = first + threadIdx.x;
            scored += __syncthreads_count(row < end && is_scored(batch, u32(row), u32(end)));
        }
        return scored;
    }
};
