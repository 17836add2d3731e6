// What follows the sum of a row: its log-prob, its sequence's once all rows are in, and the pairs once all sequences are.
//
// The last block to finish a sequence sums it; the last of all computes the pairs. Nobody waits for anybody, so the order
// in which the device runs the blocks does not matter, and neither does it show in the results.
#pragma once

#include "batch.cuh"
#include "pair_loss.cuh"
#include "softmax.cuh"
#include "token_sums.cuh"
#include "weights.cuh"

// logps of one row.
struct RowLogp {
    float token_logp = 0.0f, logsumexp = 0.0f, residual = 0.0f;

    template <class Transform>
    static __device__ RowLogp of(const OnlineSum &total, float label_logit, const Transform &transform) {
        RowLogp row_logp;
        const float log_sum = logf(total.sum);
        float at_label[1] = {label_logit};
        transform.apply(at_label);
        row_logp.token_logp = transform.difference(at_label[0], total.reference) - log_sum;
        row_logp.logsumexp = total.reference + log_sum;
        // TwoSum: what the rounding of that addition lost. The backward pass adds it back.
        const float log_sum_kept = row_logp.logsumexp - total.reference;
        row_logp.residual = (total.reference - (row_logp.logsumexp - log_sum_kept)) + (log_sum - log_sum_kept);
        if (!isfinite(row_logp.logsumexp)) row_logp.residual = 0.0f;
        return row_logp;
    }

    // One that is not read: NaN where it should have been.
    static __device__ RowLogp without_logits(const RowContext &at) {
        RowLogp row_logp;
        if (at.scored || !at.in_sequence) row_logp.token_logp = row_logp.logsumexp = not_a_number();
        return row_logp;
    }
};

// One thread hands a row's log-prob in.
__device__ inline void record(const DpoForward &p, u32 row, const RowContext &at, const RowLogp &row_logp) {
    if (at.scored && !at.label_in(p.batch.columns)) report(p.progress, DPO_BAD_LABEL, row);
    if (at.scored && !isfinite(row_logp.token_logp)) report(p.progress, DPO_NONFINITE_ROW, row);
    p.token_logps[row] = row_logp.token_logp;
    if (p.logsumexp) p.logsumexp[row] = row_logp.logsumexp;
    if (p.logsumexp_residual) p.logsumexp_residual[row] = row_logp.residual;
}

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

// Once the rows of a block are in, it does what no block has left to others: the sequences and, at the end, the pairs.
// All of its threads. `kTokenMetrics`: there are token metrics to sum.
template <bool kTokenMetrics> __device__ void finish_rows(const DpoForward &p, const RowTeam &team) {
    // A run of rows of one sequence at a time.
    for (u32 row = team.first_row; row < team.end_row;) {
        const RowContext at(p.batch, row);
        const u32 run = at.in_sequence ? min(at.end, team.end_row) - row : 1;
        if (at.in_sequence && arrive_last(&p.sequence_rows_done[at.sequence], run, at.end - at.begin)) {
            sum_sequence(p, at);
            if (kTokenMetrics) sum_tokens(p, at);
        }
        row += run;
    }
    if (!arrive_last(&p.progress->rows_done, team.end_row - team.first_row, p.batch.rows)) return;
    if (p.batch.cu_seqlens) settle_packed<kTokenMetrics>(p);
    if (kTokenMetrics) mean_tokens(p);
    if (p.loss.pairs > 0) PairStage{p.loss, p.logps, p.scored, p.batch.sequences}.run(p.progress);
    if (threadIdx.x == 0) publish(p.progress, p.status);
}
