// logps and pair_loss in one launch: logits to token and sequence log-probs, and from those to loss, metrics and
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
#include "metrics.cuh"
#include "stages.cuh"

// The sum of one row, from those of its slices, by the last block to finish one.
template <class Sum> __device__ Sum merge_slices(const DpoSliceSum *sums, u32 slices, Sum *partials) {
    Sum own;
    for (u32 s = threadIdx.x; s < slices; s += blockDim.x) own.merge(Sum(sums[s]));
    return reduce_block(own, partials);
}

// What one read of a row tells beside its log-prob: see TokenMetrics in src/batch.rs. The sums are there to be divided.
struct RowMetrics {
    float entropy = 0.0f, correct = 0.0f, mean_logit = 0.0f, sum_p2 = 0.0f;

    __device__ void set(const OnlineSum &, const Identity &, const RowContext &, u32, float) {}
    __device__ void set(const MetricsSum &s, const Transformed &transform, const RowContext &at, u32 columns, float token_logp) {
        // -sum p log p = log(sum e) - sum e d / sum e: both terms are at least 0.
        entropy = logf(s.sum) - s.weighted / s.sum;
        correct = !isnan(token_logp) && i64(s.first) == at.label ? 1.0f : 0.0f;
        mean_logit = transform.deferred_scale() * (s.total / float(columns));
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

// logps of one row, by one thread. `total` counts only where the row can be scored.
template <class Logit, class Sum>
__device__ void record_row(const DpoForward &p, u32 row, const RowContext &at, const typename Logit::Storage *logits,
                          const Sum &total, const typename Sum::Transform &transform) {
    RowLogp row_logp = RowLogp::without_logits(at);
    RowMetrics metrics;
    if (at.scored && at.label_in(p.batch.columns)) {
        row_logp = RowLogp::of(total, Logit::widen_one(logits[at.label]), transform);
        metrics.set(total, transform, at, p.batch.columns, row_logp.token_logp);
    } else if (at.scored || !at.in_sequence) {
        metrics.set_unknown();
    }
    record(p, row, at, row_logp);
    if (Sum::kMetrics) metrics.store(p.metrics, row);
}

// The rows of this block; false where other blocks have still to finish the row.
template <class Logit, class Sum> __device__ bool sum_rows(const DpoForward &p, const RowTeam &team) {
    __shared__ Sum partials[kMaxWarps];
    const typename Sum::Transform transform(p.batch);
    const u32 slices = p.partition.blocks_per_row;
    const RowContext at(p.batch, min(team.row, p.batch.rows - 1));
    const auto *logits = static_cast<const typename Logit::Storage *>(p.logits) + i64(team.row) * p.batch.row_stride;
    const bool reads = team.has_row() && at.scored && at.label_in(p.batch.columns);
    Sum total;
    if (reads) {
        const SliceVectors<Logit> vectors(logits, p.batch.columns, 0, p.partition, team.slice);
        total = sum_own_vectors<Sum, Logit>(vectors, team, transform, [](int, const Vector &) {});
    }
    if (slices > 1 && !reads) {
        // Nothing to merge: one block is enough.
        if (team.slice > 0) return false;
    } else {
        total = reduce_teams(total, team.threads, partials);
        if (slices > 1) {
            DpoSliceSum *sums = p.slice_sums + i64(team.row) * slices;
            if (threadIdx.x == 0) sums[team.slice] = total.stored();
            if (!arrive_last(&p.row_slices_done[team.row], 1, slices)) return false;
            total = merge_slices(sums, slices, partials);
        }
    }
    if (team.has_row() && team.thread == 0) record_row<Logit>(p, team.row, at, logits, total, transform);
    return true;
}

template <class Logit, class Sum> __device__ void forward(const DpoForward &p) {
    const RowTeam team(p.partition, p.batch.rows);
    if (!sum_rows<Logit, Sum>(p, team)) return;
    finish_rows<Sum::kMetrics>(p, team);
}

#define DPO_FORWARD(name, Logit)                                          \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_forward_##name(const __grid_constant__ DpoForward p) {        \
        forward<Logit, OnlineSum>(p);                                     \
    }                                                                     \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocksOfExtended) \
        dpo_forward_figured_##name(const __grid_constant__ DpoForward p) { \
        forward<Logit, MetricsSum>(p);                                    \
    }
DPO_FOR_EACH_DTYPE(DPO_FORWARD)
