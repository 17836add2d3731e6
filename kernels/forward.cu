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
// Budget of extended: 21 aligned, 28 straddling
#include "batch.cuh"
#include "figures.cuh"
#include "pair_loss.cuh"
#include "weights.cuh"

// The sum of one row, from those of its slices, by the last block to finish one.
template <class Sum> __device__ Sum merge_slices(const DpoSliceSum *sums, u32 slices, Sum *partials) {
    Sum own;
    for (u32 s = threadIdx.x; s < slices; s += blockDim.x) own.merge(Sum(sums[s]));
    return reduce_block(own, partials);
}

// What one read of a row tells beside its log-prob: see TokenMetrics in src/batch.rs. The sums are there to be divided.
struct RowFigures {
    float entropy = 0.0f, correct = 0.0f, mean_logit = 0.0f, sum_p2 = 0.0f;

    __device__ void set(const OnlineSum &, const Identity &, const Position &, u32, float) {}
    __device__ void set(const FiguredSum &s, const Mapped &map, const Position &at, u32 columns, float token_logp) {
        // -sum p log p = log(sum e) - sum e d / sum e: both terms are at least 0.
        entropy = logf(s.sum) - s.weighted / s.sum;
        correct = !isnan(token_logp) && i64(s.first) == at.label ? 1.0f : 0.0f;
        mean_logit = map.rest() * (s.total / float(columns));
        sum_p2 = s.squares / (s.sum * s.sum);
    }
    __device__ void set_unknown() { entropy = mean_logit = sum_p2 = not_a_number(); }

    __device__ void store(const DpoTokenMetrics &to, u32 row) const {
        if (to.entropy) to.entropy[row] = entropy;
        if (to.correct) to.correct[row] = correct;
        if (to.mean_logit) to.mean_logit[row] = mean_logit;
        if (to.sum_p2) to.sum_p2[row] = sum_p2;
    }
};

// Log-prob of the label and logsumexp of one row, by one thread. `total` counts only where the row can be scored.
template <class Logit, class Sum>
__device__ void finish_row(const DpoForward &p, u32 row, const Position &at, const typename Logit::Storage *logits,
                           const Sum &total, const typename Sum::Map &map) {
    RowFigures figures;
    float token_logp = 0.0f, logsumexp = 0.0f, residual = 0.0f;
    if (at.scored && at.label_in(p.batch.columns)) {
        const float log_sum = logf(total.sum);
        float at_label[1] = {Logit::widen_one(logits[at.label])};
        map.bend(at_label);
        token_logp = map.minus(at_label[0], total.reference) - log_sum;
        logsumexp = total.reference + log_sum;
        // TwoSum: what the rounding of that addition lost. Floor 3 adds it back.
        const float log_sum_kept = logsumexp - total.reference;
        residual = (total.reference - (logsumexp - log_sum_kept)) + (log_sum - log_sum_kept);
        if (!isfinite(logsumexp)) residual = 0.0f;
        figures.set(total, map, at, p.batch.columns, token_logp);
    } else if (at.scored || !at.placed) {
        token_logp = logsumexp = not_a_number();
        figures.set_unknown();
        if (at.placed) report(p.progress, DPO_BAD_LABEL, row);
    }
    if (at.scored && !isfinite(token_logp)) report(p.progress, DPO_NONFINITE_ROW, row);
    p.token_logps[row] = token_logp;
    if (p.logsumexp) p.logsumexp[row] = logsumexp;
    if (p.logsumexp_residual) p.logsumexp_residual[row] = residual;
    if (Sum::kFigures) figures.store(p.metrics, row);
}

// The rows of this block; false where other blocks have still to finish the row.
template <class Logit, class Sum> __device__ bool score_rows(const DpoForward &p, const Share &share) {
    __shared__ Sum partials[kMaxWarps];
    const typename Sum::Map map(p.batch);
    const u32 slices = p.dealing.blocks_per_row;
    const Position at(p.batch, min(share.row, p.batch.rows - 1));
    const auto *logits = static_cast<const typename Logit::Storage *>(p.logits) + i64(share.row) * p.batch.row_stride;
    const bool reads = share.has_row() && at.scored && at.label_in(p.batch.columns);
    Sum total;
    if (reads) {
        const SliceVectors<Logit> vectors(logits, p.batch.columns, 0, p.dealing, share.slice);
        total = sum_own_vectors<Sum, Logit>(vectors, share, map);
    }
    if (slices > 1 && !reads) {
        // Nothing to merge: one block is enough.
        if (share.slice > 0) return false;
    } else {
        total = reduce_teams(total, share.team, partials);
        if (slices > 1) {
            DpoSliceSum *sums = p.slice_sums + i64(share.row) * slices;
            if (threadIdx.x == 0) sums[share.slice] = total.stored();
            if (!arrive_last(&p.row_slices_done[share.row], 1, slices)) return false;
            total = merge_slices(sums, slices, partials);
        }
    }
    if (share.has_row() && share.rank == 0) finish_row<Logit>(p, share.row, at, logits, total, map);
    return true;
}

// In f64, where rounding is far below the last bit of the f32 result: a sequence padded or packed, long or short,
// alone or in a batch, has the same log-prob.
struct SequenceSum {
    double logp = 0.0;
    double log_weight = 0.0;
    u32 scored = 0;
    u32 padding = 0; // shuffles move whole words of a value without holes

    __device__ void merge(const SequenceSum &other) {
        logp += other.logp;
        log_weight += other.log_weight;
        scored += other.scored;
    }
};

__device__ void sum_sequence(const DpoForward &p, const Position &at) {
    __shared__ SequenceSum partials[kMaxWarps];
    SequenceSum sum;
    TailWeights weights(p, at.sequence);
    for (u32 first = at.begin; first < at.end; first += blockDim.x) {
        const u32 row = first + threadIdx.x;
        const bool scored = row < at.end && is_scored(p.batch, row, at.end);
        const float weight = weights.next(scored);
        if (row >= at.end) continue;
        if (p.token_weights) p.token_weights[row] = weight;
        const float logp = p.token_logps[row];
        double log_weight = 0.0;
        if (p.metrics.sequence_log_weights && scored) log_weight = double(logp) - double(logf(p.metrics.sum_p2[row]));
        sum.merge({scored ? double(weight) * logp : 0.0, log_weight, scored});
    }
    sum = reduce_block(sum, partials);
    if (threadIdx.x == 0) {
        p.logps[at.sequence] = float(sum.logp);
        p.scored[at.sequence] = sum.scored;
        if (p.metrics.sequence_log_weights)
            p.metrics.sequence_log_weights[at.sequence] = float(sum.log_weight / max(sum.scored, 1u));
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
            if (p.metrics.sequence_log_weights) p.metrics.sequence_log_weights[s] = not_a_number();
            p.sequence_rows_done[s] = 0;
        } else if (cu_seqlens[s] == cu_seqlens[s + 1]) {
            p.logps[s] = 0.0f;
            p.scored[s] = 0;
            if (p.metrics.sequence_log_weights) p.metrics.sequence_log_weights[s] = 0.0f;
            report(p.progress, DPO_EMPTY_SEQUENCE, s);
        }
    }
    if (out_of_order && p.token_weights)
        for (u32 row = threadIdx.x; row < p.batch.rows; row += blockDim.x) p.token_weights[row] = not_a_number();
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

template <class Logit, class Sum> __device__ void forward(const DpoForward &p) {
    const Share share(p.dealing, p.batch.rows);
    if (!score_rows<Logit, Sum>(p, share)) return;
    finish_sequences(p, share);
    if (!arrive_last(&p.progress->rows_done, share.end_row - share.first_row, p.batch.rows)) return;
    if (p.batch.cu_seqlens) settle_packed(p);
    if (p.loss.pairs > 0) PairStage{p.loss, p.logps, p.scored, p.batch.sequences}.run(p.progress);
    if (threadIdx.x == 0) publish(p.progress, p.status);
}

#define DPO_FORWARD(name, Logit)                                          \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_forward_##name(const __grid_constant__ DpoForward p) {        \
        forward<Logit, OnlineSum>(p);                                     \
    }                                                                     \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocksOfExtended) \
        dpo_forward_figured_##name(const __grid_constant__ DpoForward p) { \
        forward<Logit, FiguredSum>(p);                                    \
    }
DPO_FOR_EACH_DTYPE(DPO_FORWARD)
