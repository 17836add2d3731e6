// logps and pair_loss in one launch: logits to token and sequence log-probs, and from those to loss, metrics and
// coefficients. The logits are read once, by 16-byte loads; rows that are not scored are not read at all.
//
// A row's sum is made of slices: each warp of a team sums its part of them one after the other. Where rows are few, a row's
// slices go to several blocks, the last of which merges what the warps of all would have merged by themselves, in the same
// order: so the bits do not depend on the dealing, and the dealing may follow the number of rows. The last block to finish a
// row of a sequence sums that, and the last of all computes the pairs. Nobody waits for anybody, so the order in which the
// device runs the blocks does not matter, and neither does it show in the results.
//
// SASS instructions per element of the main loops, for any dtype and architecture. What issues in a 16-bit element's time
// at 90% of the bandwidth of device memory: 21 on an A100 (2.0 TB/s, 108 multiprocessors of 128 lanes at 1.41 GHz), 15
// on an H200 (4.8, 132, 1.98), 9.7 on a B200 (8, 148, 1.85); twice as many for f32. The exponentials take one of 16 lanes
// a clock: 1.9 an element on an H200, 1.2 on a B200.
// Budget: 6.5 aligned, 11.5 straddling
// Budget of softcap: 13 aligned, 18 straddling
// Budget of entropy: 8 aligned, 12.5 straddling
// Budget of entropy and softcap: 15 aligned, 19 straddling
// Budget of metrics: 11 aligned, 16 straddling
// Budget of metrics and softcap: 18 aligned, 22 straddling
//
// PTX instructions executed per element in a whole launch, at most: see tests/executed.rs. What stands around the loops
// counts most where a thread has few elements: in short rows, and in f32.
// Executed: 10.5 aligned, 14 straddling
// Executed of divided rows: 11.5 aligned, 15.5 straddling
// Executed of softcap: 18 aligned, 20.5 straddling
// Executed of entropy: 12 aligned, 15.5 straddling
// Executed of entropy and softcap: 19.5 aligned, 22 straddling
// Executed of metrics: 17 aligned, 20 straddling
// Executed of metrics and softcap: 24 aligned, 26.5 straddling
#include "batch/row_context.cuh"
#include "finish.cuh"
#include "primitives/arrive.cuh"
#include "rows/metrics.cuh"
#include "rows/row_logp.cuh"

// A row's token metrics, as far as its sum has them: see TokenMetrics in src/batch.rs.
struct RowMetrics {
    float entropy = 0.0f, correct = 0.0f, mean_logit = 0.0f, sum_p2 = 0.0f;

    __device__ void set(const OnlineSum &, float, u32, float) {}
    __device__ void set(const EntropySum &s, float, u32, float) { entropy = s.entropy(); }
    __device__ void set(const MetricsSum &s, float scale, u32 columns, float token_logp) {
        entropy = s.entropy();
        correct = !isnan(token_logp) && !s.beaten ? 1.0f : 0.0f;
        mean_logit = scale * (s.total / float(columns));
        sum_p2 = s.squares / (s.sum * s.sum);
    }
    __device__ void set_unknown() { entropy = mean_logit = sum_p2 = not_a_number(); }

    template <class Sum> __device__ void store(const DpoTokenMetrics &to, u32 row) const {
        if (Sum::kEntropy && to.entropy) to.entropy[row] = entropy;
        if (!Sum::kAllMetrics) return;
        if (to.correct) to.correct[row] = correct;
        if (to.mean_logit) to.mean_logit[row] = mean_logit;
        if (to.sum_p2) to.sum_p2[row] = sum_p2;
    }
};

// The log-prob of one row, by one thread. `others`, the sum of all tokens but the label, counts only where the row can be
// scored.
template <class Logit, class Sum, class Transform>
__device__ void record_row(const DpoForward &p, u32 row, const RowContext &at, const typename Logit::Storage *logits,
                          const Sum &others, const Transform &transform) {
    RowLogp row_logp = RowLogp::without_logits(at);
    RowMetrics metrics;
    if (at.scored && at.label_in(p.batch.columns)) {
        const float label_logit = Logit::widen_one(logits[at.label]);
        Sum all = others;
        add_one(all, label_logit, transform);
        row_logp = RowLogp::of(others, all, label_logit, transform);
        metrics.set(all, transform.deferred_scale(), p.batch.columns, row_logp.token_logp);
    } else if (at.scored || !at.in_sequence) {
        metrics.set_unknown();
    }
    record(p, row, at, row_logp);
    metrics.store<Sum>(p.metrics, row);
}

// Where this warp leaves what it has of a slice for the last block of the row.
__device__ inline DpoSliceSum &slice_sum(const DpoForward &p, const RowTeam &team, u32 slice) {
    const u32 warps = team.threads / kWarp, warp = team.thread / kWarp;
    return p.slice_sums[(i64(team.row - p.batch.first_row) * p.partition.slices + slice) * warps + warp];
}

// The rows of this block; false where other blocks have still to finish the row.
template <class Logit, class Sum, class Transform> __device__ bool sum_rows(const DpoForward &p, const RowTeam &team) {
    __shared__ Sum partials[kMaxWarps];
    const Transform transform(p.batch);
    const DpoRowPartition &partition = p.partition;
    const bool whole_row = partition.blocks_per_row == 1;
    const RowContext at(p.batch, min(team.row, p.batch.end_row - 1));
    const auto *logits = static_cast<const typename Logit::Storage *>(p.logits) + i64(team.row) * p.batch.row_stride;
    const bool reads = team.has_row() && at.scored && at.label_in(p.batch.columns);
    Sum others; // of this warp's parts of the slices, merged in the order of the slices
    if (reads) {
        const RowLabel label = {u32(at.label), Logit::widen_one(logits[at.label])};
        const u32 end = min(team.slice + partition.slices_per_block, partition.slices);
#pragma unroll 1
        for (u32 slice = team.slice; slice < end; ++slice) {
            const SliceVectors<Logit> vectors(logits, p.batch.columns, 0, partition, slice);
            const Sum sum = merge_lanes(
                sum_own_vectors<Sum, Logit>(vectors, team, label, transform, [](int, int, const Vector (&)[kInFlight]) {}));
            if (whole_row)
                others.merge(sum);
            else if (threadIdx.x % kWarp == 0)
                slice_sum(p, team, slice) = sum.stored();
        }
    }
    if (!whole_row && !reads) {
        // Nothing to merge: one block is enough.
        if (team.slice > 0) return false;
    } else if (!whole_row) {
        if (!arrive_last(&p.row_slices_done[team.row], 1, partition.blocks_per_row)) return false;
#pragma unroll 1
        for (u32 slice = 0; slice < partition.slices; ++slice) others.merge(Sum(slice_sum(p, team, slice)));
    }
    others = merge_warps(others, team.threads, partials);
    if (team.has_row() && team.thread == 0) record_row<Logit>(p, team.row, at, logits, others, transform);
    return true;
}

template <class Logit, class Sum, class Transform> __device__ void forward(const DpoForward &p) {
    const RowTeam team(p.partition, p.batch);
    if (!sum_rows<Logit, Sum, Transform>(p, team)) return;
    finish_rows<Sum::kAllMetrics>(p, team);
}

#define DPO_FORWARD_KERNEL(name, Logit, Sum, Transform, kBlocks)                 \
    extern "C" __global__ void __launch_bounds__(DPO_ROW_THREADS, kBlocks)       \
        dpo_forward##name(const __grid_constant__ DpoForward p) {                \
        forward<Logit, Sum, Transform>(p);                                       \
    }
#define DPO_FORWARD(name, Logit)                                                                            \
    DPO_FORWARD_KERNEL(_##name, Logit, OnlineSum, Scaled, DPO_ROW_BLOCKS)                                   \
    DPO_FORWARD_KERNEL(_softcap_##name, Logit, OnlineSum, Softcapped, DPO_ROW_BLOCKS_OF_METRICS)            \
    DPO_FORWARD_KERNEL(_entropy_##name, Logit, EntropySum, Scaled, DPO_ROW_BLOCKS_OF_METRICS)               \
    DPO_FORWARD_KERNEL(_entropy_softcap_##name, Logit, EntropySum, Softcapped, DPO_ROW_BLOCKS_OF_METRICS)   \
    DPO_FORWARD_KERNEL(_metrics_##name, Logit, MetricsSum, Scaled, DPO_ROW_BLOCKS_OF_METRICS)               \
    DPO_FORWARD_KERNEL(_metrics_softcap_##name, Logit, MetricsSum, Softcapped, DPO_ROW_BLOCKS_OF_METRICS)
DPO_FOR_EACH_DTYPE(DPO_FORWARD)
