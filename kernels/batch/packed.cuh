// Packed sequences that no block sums.
#pragma once

#include "batch/status.cuh"
#include "batch/token_metric_sums.cuh"

// Sequences of no rows have no block to sum them, and cu_seqlens out of order leaves sequences unfinished: both are
// settled here, by the last block.
template <bool kTokenMetrics> __device__ void settle_packed(const DpoForward &p) {
    bool out_of_order = false;
    const int *cu_seqlens = p.batch.cu_seqlens;
    for (u32 s = threadIdx.x; s <= p.batch.sequences; s += blockDim.x) {
        const int least = s == 0 ? 0 : cu_seqlens[s - 1];
        const int most = s == 0 ? 0 : int(p.batch.rows);
        const bool ends = s < p.batch.sequences || cu_seqlens[s] == int(p.batch.rows);
        if (cu_seqlens[s] < least || cu_seqlens[s] > most || !ends) {
            out_of_order = true;
            report(p.progress, DPO_BAD_CU_SEQLENS, s);
        }
    }
    out_of_order = __syncthreads_or(out_of_order);
    for (u32 s = threadIdx.x; s < p.batch.sequences; s += blockDim.x) {
        if (out_of_order) {
            p.logps[s] = not_a_number();
            p.scored[s] = 0;
            if (kTokenMetrics) set_tokens(p, s, not_a_number());
            p.sequence_rows_done[s] = 0;
        } else if (cu_seqlens[s] == cu_seqlens[s + 1]) {
            p.logps[s] = 0.0f;
            p.scored[s] = 0;
            if (kTokenMetrics) set_tokens(p, s, 0.0f);
            report(p.progress, DPO_EMPTY_SEQUENCE, s);
        }
    }
    if (out_of_order && p.token_weights)
        for (u32 row = threadIdx.x; row < p.batch.rows; row += blockDim.x) p.token_weights[row] = not_a_number();
    __syncthreads();
}
