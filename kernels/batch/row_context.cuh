// Where a row stands: its sequence, its label, and whether it is scored.
#pragma once

#include "params.h"
#include "primitives/reduce.cuh"

// The last sequence that starts at or before `row`. A whole warp takes 32 samples a step, so that a thousand
// sequences take two loads in a row rather than ten. Out-of-order entries give some sequence, never a wild one.
__device__ inline u32 find_sequence(const int *cu_seqlens, u32 sequences, u32 row) {
    const u32 lane = threadIdx.x % kWarp;
    u32 low = 0, high = sequences;
    while (high - low > 1) {
        const u32 step = (high - low + kWarp - 1) / kWarp;
        const u32 sample = low + lane * step;
        const bool starts_before = sample < high && i64(cu_seqlens[sample]) <= i64(row);
        const u32 before = __popc(__ballot_sync(0xffffffffu, starts_before));
        low += (before > 0 ? before - 1 : 0) * step;
        high = min(high, low + step);
    }
    return low;
}

// The label that a row of a sequence ending before row `end` predicts, or the ignore index.
__device__ inline i64 label_of(const DpoBatch &batch, u32 row, u32 end) {
    const u32 at = row + batch.next_token;
    if (at >= end) return batch.ignore_index;
    return batch.label_bytes == 8 ? static_cast<const i64 *>(batch.labels)[at]
                                  : i64(static_cast<const int *>(batch.labels)[at]);
}

__device__ inline bool is_scored(const DpoBatch &batch, u32 row, u32 end) {
    return label_of(batch, row, end) != batch.ignore_index;
}

struct RowContext {
    u32 sequence;
    u32 begin, end; // rows of the sequence
    bool in_sequence;    // false: cu_seqlens is out of order here, and the row belongs to no sequence
    bool scored;
    i64 label;

    __device__ RowContext(const DpoBatch &batch, u32 row) {
        if (batch.cu_seqlens) {
            sequence = find_sequence(batch.cu_seqlens, batch.sequences, row);
            const i64 from = batch.cu_seqlens[sequence], to = batch.cu_seqlens[sequence + 1];
            in_sequence = 0 <= from && from <= i64(row) && i64(row) < to && to <= i64(batch.rows);
            begin = u32(from);
            end = u32(to);
        } else {
            sequence = row / batch.sequence_len;
            begin = sequence * batch.sequence_len;
            end = begin + batch.sequence_len;
            in_sequence = true;
        }
        label = in_sequence ? label_of(batch, row, end) : batch.ignore_index;
        scored = label != batch.ignore_index;
    }

    __device__ bool label_in(u32 vocab) const { return 0 <= label && label < i64(vocab); }
};
