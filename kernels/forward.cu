// Floors 1 and 2 in one launch: logits to token and sequence log-probs, and from those to loss, metrics and
// coefficients. The logits are read once, by 16-byte loads; rows that are not scored are not read at all.
//
// A team of threads sums a row, or a slice of it: the last block to finish a slice of a row merges them. The last block to
// finish a row of a sequence sums that, and the last of all computes the pairs. Nobody waits for anybody, so the order in
// which the device runs the blocks does not matter, and neither does it show in the results.
//
// SASS instructions per element of the main loops, for any dtype and architecture. What issues in a 16-bit element's time
// at 90% of the bandwidth of device memory: 21 on an A100 (2.0 TB/s, 108 multiprocessors of 128 lanes at 1.41 GHz), 15
// on an H200 (4.8, 132, 1.98), 9.7 on a B200 (8, 148, 1.85); twice as many for f32. The exponentials take one of 16 lanes
// a clock: 1.9 an element on an H200, 1.2 on a B200.
// Budget: 7 aligned, 14 straddling
#include "batch.cuh"
#include "pair_loss.cuh"
#include "softmax.cuh"

// The sum of one row, from those of its slices, by the last block to finish one.
__device__ inline OnlineSum merge_slices(const DpoSliceSum *sums, u32 slices, OnlineSum *partials) {
    OnlineSum own;
    for (u32 s = threadIdx.x; s < slices; s += blockDim.x) own.merge({sums[s].reference, sums[s].sum});
    return reduce_block(own, partials);
}

// Log-prob of the label and logsumexp of one row, by one thread. `total` counts only where the row can be scored.
template <class Logit>
__device__ void finish_row(const DpoForward &p, u32 row, const Position &at, const typename Logit::Storage *logits,
                           const OnlineSum &total) {
    float token_logp = 0.0f, logsumexp = 0.0f, residual = 0.0f;
    if (at.scored && at.label_in(p.batch.vocab)) {
        const float log_sum = logf(total.sum);
        token_logp = (Logit::widen_one(logits[at.label]) - total.reference) - log_sum;
        logsumexp = total.reference + log_sum;
        // TwoSum: what the rounding of that addition lost. Floor 3 adds it back.
        const float log_sum_kept = logsumexp - total.reference;
        residual = (total.reference - (logsumexp - log_sum_kept)) + (log_sum - log_sum_kept);
        if (!isfinite(logsumexp)) residual = 0.0f;
    } else if (at.scored || !at.placed) {
        token_logp = logsumexp = not_a_number();
        if (at.placed) report(p.progress, DPO_BAD_LABEL, row);
    }
    if (at.scored && !isfinite(token_logp)) report(p.progress, DPO_NONFINITE_ROW, row);
    p.token_logps[row] = token_logp;
    if (p.logsumexp) p.logsumexp[row] = logsumexp;
    if (p.logsumexp_residual) p.logsumexp_residual[row] = residual;
}

// The rows of this block; false where other blocks have still to finish the row.
template <class Logit> __device__ bool score_rows(const DpoForward &p, const Share &share) {
    __shared__ OnlineSum partials[kMaxWarps];
    const u32 slices = p.dealing.blocks_per_row;
    const Position at(p.batch, min(share.row, p.batch.rows - 1));
    const auto *logits = static_cast<const typename Logit::Storage *>(p.logits) + i64(share.row) * p.batch.row_stride;
    const bool reads = share.has_row() && at.scored && at.label_in(p.batch.vocab);
    OnlineSum total;
    if (reads) {
        const SliceVectors<Logit> vectors(logits, p.batch.vocab, 0, p.dealing, share.slice);
        total = sum_own_vectors<Logit>(vectors, share);
    }
    if (slices > 1 && !reads) {
        // Nothing to merge: one block is enough.
        if (share.slice > 0) return false;
    } else {
        total = reduce_teams(total, share.team, partials);
        if (slices > 1) {
            DpoSliceSum *sums = p.slice_sums + i64(share.row) * slices;
            if (threadIdx.x == 0) sums[share.slice] = {total.reference, total.sum};
            if (!arrive_last(&p.row_slices_done[share.row], 1, slices)) return false;
            total = merge_slices(sums, slices, partials);
        }
    }
    if (share.has_row() && share.rank == 0) finish_row<Logit>(p, share.row, at, logits, total);
    return true;
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

__device__ void sum_sequence(const DpoForward &p, const Position &at) {
    __shared__ SequenceSum partials[kMaxWarps];
    SequenceSum sum;
    for (u32 row = at.begin + threadIdx.x; row < at.end; row += blockDim.x)
        sum.merge({p.token_logps[row], label_of(p.batch, row, at.end) != p.batch.ignore_index});
    sum = reduce_block(sum, partials);
    if (threadIdx.x == 0) {
        p.logps[at.sequence] = float(sum.logp);
        p.scored[at.sequence] = sum.scored;
        if (sum.scored == 0) report(p.progress, DPO_EMPTY_SEQUENCE, at.sequence);
    }
}

// Sequences of no rows have no block to sum them, and cu_seqlens out of order leaves sequences unfinished: both are
// settled here, by the last block.
__device__ void settle_packed(const DpoForward &p) {
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
            p.sequence_rows_done[s] = 0;
        } else if (cu_seqlens[s] == cu_seqlens[s + 1]) {
            p.logps[s] = 0.0f;
            p.scored[s] = 0;
            report(p.progress, DPO_EMPTY_SEQUENCE, s);
        }
    }
    __syncthreads();
}

// Counts the rows of this block in with their sequences, a run of rows of one sequence at a time.
__device__ void finish_sequences(const DpoForward &p, const Share &share) {
    for (u32 row = share.first_row; row < share.end_row;) {
        const Position at(p.batch, row);
        const u32 run = at.placed ? min(at.end, share.end_row) - row : 1;
        if (at.placed && arrive_last(&p.sequence_rows_done[at.sequence], run, at.end - at.begin)) sum_sequence(p, at);
        row += run;
    }
}

template <class Logit> __device__ void forward(const DpoForward &p) {
    const Share share(p.dealing, p.batch.rows);
    if (!score_rows<Logit>(p, share)) return;
    finish_sequences(p, share);
    if (!arrive_last(&p.progress->rows_done, share.end_row - share.first_row, p.batch.rows)) return;
    if (p.batch.cu_seqlens) settle_packed(p);
    if (p.loss.pairs > 0) PairStage{p.loss, p.logps, p.scored, p.batch.sequences}.run(p.progress);
    if (threadIdx.x == 0) publish(p.progress, p.status);
}

#define DPO_FORWARD(name, Logit)                                          \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_forward_##name(const __grid_constant__ DpoForward p) {        \
        forward<Logit>(p);                                                \
    }
DPO_FOR_EACH_DTYPE(DPO_FORWARD)
