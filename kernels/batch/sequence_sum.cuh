// The log-prob of a sequence, from those of its rows.
#pragma once

#include "batch/row_context.cuh"
#include "batch/status.cuh"
#include "batch/tail_weights.cuh"
#include "primitives/reduce.cuh"

// In f64, where rounding is far below the last bit of the f32 result: a sequence padded or packed, long or short,
// alone or in a batch, has the same log-prob.
struct SequenceSum {
    double logp = 0.0;
    u32 scored = 0;
    u32 padding = 0; // shuffles move whole words of a value without holes

    __device__ void merge(const SequenceSum &other) {
        logp += other.logp;
        scored += other.scored;
    }
};

__device__ inline void sum_sequence(const DpoForward &p, const RowContext &at) {
    __shared__ SequenceSum partials[kMaxWarps];
    SequenceSum sum;
    TailWeights weights(p, at.sequence);
    for (u32 first = at.begin; first < at.end; first += blockDim.x) {
        const u32 row = first + threadIdx.x;
        const bool scored = row < at.end && is_scored(p.batch, row, at.end);
        const float weight = weights.next(scored);
        if (row >= at.end) continue;
        if (p.token_weights) p.token_weights[row] = weight;
        sum.merge({scored ? double(weight) * p.token_logps[row] : 0.0, scored});
    }
    sum = reduce_block(sum, partials);
    if (threadIdx.x == 0) {
        p.logps[at.sequence] = float(sum.logp);
        p.scored[at.sequence] = sum.scored;
        if (sum.scored == 0) report(p.progress, DPO_EMPTY_SEQUENCE, at.sequence);
    }
}
