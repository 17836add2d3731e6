// The factored forward: logps and pair_loss, and the gradient without its coefficient, G = 1[v = label] - softmax(logits),
// times the slope of the logits' transform if there is one, with one read and one write of the logits. dlogits = c G with c
// of the row's sequence, which whoever consumes G folds into its next product. G is exactly 0 in rows that are not scored,
// which are not read, and in the padding of the vocabulary.
//
// A row belongs to a cluster of blocks, each of which has a slice of it. A block reads its slice into shared memory,
// summing as it reads; the cluster merges its sums; and the block makes the gradient from shared memory. What of the
// slice does not fit there is read again, from the L2 cache: the shared memory that the plan asks for bounds the blocks
// in flight, and with them what the cache must hold. A block writes where it alone reads, so G may replace the logits.
//
// The bits depend on the number of slices and threads, which the plan makes of vocabulary, dtype and device: on nothing
// else of the batch, and not on where a row starts, since a slice begins a multiple of 16 bytes into its row. They may
// differ from the forward's in the last place, whose slices are shorter.
//
// SASS instructions per element of the main loops: one that sums and keeps, one that differentiates what was kept, one
// for what is read again. All three issue within the time of four transfers of the element's bytes, two at most of which
// go to device memory: see forward.cu for the figures, of which these have twice the time.
// Budget: 10 aligned, 17 straddling
// Budget of softcap: 18 aligned, 25 straddling
//
// PTX instructions executed per element in a whole launch, at most: see tests/executed.rs.
// Executed: 25 aligned, 22 straddling
// Executed of softcap: 42 aligned, 38 straddling
#include "batch/row_context.cuh"
#include "finish.cuh"
#include "primitives/cluster.cuh"
#include "rows/gradient.cuh"
#include "rows/row_logp.cuh"

// The part of a row that one block has, a row of its own to everything that follows: `count` elements from element
// `begin` on. Vectors of logits to sum are counted from its first element, wherever that is in memory.
template <class Logit> struct Slice {
    typedef typename Logit::Storage Storage;

    u32 begin, count;
    const Storage *logits;
    Storage *out;
    int kept; // the first vectors, which are kept on chip

    __device__ Slice(const DpoFactored &p, const RowTeam &team) : kept(int(p.kept_vectors)) {
        const u32 columns = p.forward.batch.columns, most = p.forward.partition.slice_vectors * kWidth<Logit>;
        begin = min(team.slice * most, columns);
        count = min(most, columns - begin);
        const i64 offset = i64(team.row) * p.forward.batch.row_stride + begin;
        logits = static_cast<const Storage *>(p.forward.logits) + offset;
        out = static_cast<Storage *>(p.gradient) + offset;
    }

    // Elements between the last 16-byte boundary and the gradient's first.
    __device__ u32 lead() const { return phase_of(out) / u32(sizeof(Storage)); }
};

__device__ inline Vector *kept_vectors() {
    extern __shared__ Vector vectors[];
    return vectors;
}

// The block's own sum, without the label, in thread 0; what is kept of the slice is in shared memory after the next barrier.
template <class Logit, class Transform>
__device__ OnlineSum sum_slice(const Slice<Logit> &slice, const RowTeam &team, u32 label, const Transform &transform) {
    __shared__ OnlineSum partials[kMaxWarps];
    Vector *const shared = kept_vectors();
    const SliceVectors<Logit> vectors(slice.logits, slice.count, 0);
    // All of most groups, at one comparison.
    const auto keep = [&](int j, int step, const Vector (&group)[kInFlight]) {
        if (j + (kInFlight - 1) * step < slice.kept) {
            Vector *slot = shared + j;
#pragma unroll
            for (int k = 0; k < kInFlight; ++k, slot += step) *slot = group[k];
            return;
        }
#pragma unroll
        for (int k = 0; k < kInFlight; ++k)
            if (j + k * step < slice.kept) shared[j + k * step] = group[k];
    };
    const OnlineSum own = sum_own_vectors<OnlineSum, Logit>(vectors, team, RowLabel{label, 0.0f}, transform, keep);
    return merge_warps(merge_lanes(own), team.threads, partials);
}

// The sum of all of the row but the label, in every thread, from each block's sum in its thread 0: always merged in the
// order of the blocks.
__device__ inline OnlineSum merge_cluster(const OnlineSum &own, u32 blocks) {
    __shared__ OnlineSum handed_over;
    if (threadIdx.x == 0) handed_over = own;
    cluster_arrive();
    cluster_wait();
    OnlineSum total;
#pragma unroll 1
    for (u32 block = 0; block < blocks; ++block) {
        OnlineSum other;
        other.reference = load_from(block, &handed_over.reference);
        other.sum = load_from(block, &handed_over.sum);
        total.merge(other);
    }
    return total;
}

// First from what was kept, then from device memory: a thread's vectors are the same ones throughout. The label's
// gradient is `at_label` of its logit.
template <class Logit, bool kStraddling, class Gradient, class AtLabel>
__device__ void write_slice(const GradientWriter<Logit, Gradient> &writer, int kept, u32 label, const RowTeam &team,
                            const AtLabel &at_label) {
    const SliceVectors<Logit> &logits = writer.logits;
    const int threads = team.threads, kept_end = min(kept, logits.whole_end);
    const Vector *const shared = kept_vectors();
    writer.run(label, team, at_label, [&](int j) {
        if (logits.lead == 0) {
            j = writer.template write<Gradient::kGroup>(j, kept_end, threads, [&](int j) { return shared[j]; });
        } else {
            const u32 phase = 16 - logits.lead * u32(sizeof(typename Logit::Storage));
            j = writer.template write<kInFlight / 2>(
                j, kept_end, threads, [&](int j) { return shift_together(shared[j - 1], shared[j], phase); });
        }
        writer.template write_rest<kStraddling>(j, threads);
    });
}

template <class Logit, class Transform>
__device__ void write_gradient(const Slice<Logit> &slice, const OnlineSum &others, const OnlineSum &all, u32 label,
                               const RowTeam &team, const Transform &transform) {
    const u32 lead = slice.lead();
    const SliceVectors<Logit> logits(slice.logits, slice.count, lead);
    // With the row's own reference there is nothing to make up for: logsumexp is reference + log(sum), exactly. The slope
    // that all elements share goes into their exponents, where it costs none of them an instruction.
    const RowGradient<Transform> gradient = {transform, 1.0f, all.reference, log2_approx(all.sum) - transform.deferred_slope_log2()};
    const GradientWriter<Logit, RowGradient<Transform>> writer = {logits, slice.out - lead, gradient};
    // 1 - p is the share of the others, which is right to its last bits where p is nearly 1. Beside an infinite logit it is 1,
    // and of one NaN.
    const auto at_label = [&](float x) {
        float applied[1] = {x}, slope[1];
        transform.apply(applied, slope, transform.deferred_slope());
        const float rest = others.sum * all.descent_of(others).factor, inverse = reciprocal_approx(all.sum);
        const float own = exp2_approx(transform.difference(applied[0], all.reference) * kLog2e);
        return slope[0] * (all.sum <= kMaxFloat ? rest * inverse : 1.0f - own * inverse);
    };
    if (logits.straddling())
        write_slice<Logit, true>(writer, slice.kept, label, team, at_label);
    else
        write_slice<Logit, false>(writer, slice.kept, label, team, at_label);
}

template <class Logit, class Transform> __device__ void factored(const DpoFactored &p) {
    const RowTeam team(p.forward.partition.blocks_per_row, p.forward.batch);
    const RowContext at(p.forward.batch, team.row);
    const Slice<Logit> slice(p, team);
    const Transform transform(p.forward.batch);
    const u32 columns = p.forward.batch.columns, vocab = p.forward.batch.vocab;
    const bool speaks = team.slice == 0 && threadIdx.x == 0; // for the row
    // No block sums or differentiates what the last one fills here.
    if (columns < vocab && team.slice + 1 == p.forward.partition.blocks_per_row)
        zero_padding<Logit>(slice.out - slice.begin, columns, vocab, team);
    if (at.scored && at.label_in(columns)) {
        const u32 label = u32(at.label) - slice.begin; // beyond the slice where another has the label
        const OnlineSum own = sum_slice(slice, team, label, transform);
        // Before the merge: after it, the block that has the label may have written over its logit.
        const float label_logit = Logit::widen_one((slice.logits - slice.begin)[at.label]);
        const OnlineSum others = merge_cluster(own, p.forward.partition.blocks_per_row);
        cluster_arrive();
        OnlineSum all = others;
        add_one(all, label_logit, transform);
        if (speaks) record(p.forward, team.row, at, RowLogp::of(others, all, label_logit, transform));
        write_gradient(slice, others, all, label, team, transform);
        // Shared memory stays as long as another block may read of it.
        cluster_wait();
    } else {
        const RowLogp row_logp = RowLogp::without_logits(at);
        if (speaks) record(p.forward, team.row, at, row_logp);
        const u32 lead = slice.lead();
        fill(SliceVectors<Logit>(slice.out, slice.count, lead), slice.out - lead, team, row_logp.logsumexp);
    }
    if (team.slice == 0) finish_rows<false>(p.forward, team);
}

#define DPO_FACTORED_KERNEL(name, Logit, Transform)                                         \
    extern "C" __global__ void __launch_bounds__(DPO_FACTORED_THREADS, DPO_FACTORED_BLOCKS) \
        dpo_factored##name(const __grid_constant__ DpoFactored p) {                         \
        factored<Logit, Transform>(p);                                                      \
    }
#define DPO_FACTORED(name, Logit)               \
    DPO_FACTORED_KERNEL(_##name, Logit, Scaled) \
    DPO_FACTORED_KERNEL(_softcap_##name, Logit, Softcapped)
DPO_FOR_EACH_DTYPE(DPO_FACTORED)
