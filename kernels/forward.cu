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
#include "stages.cuh"

// The sum of one row, from those of its slices, by the last block to finish one.
__device__ inline OnlineSum merge_slices(const DpoSliceSum *sums, u32 slices, OnlineSum *partials) {
    OnlineSum own;
    for (u32 s = threadIdx.x; s < slices; s += blockDim.x) own.merge({sums[s].reference, sums[s].sum});
    return reduce_block(own, partials);
}

// Floor 1 of one row, by one thread. `total` counts only where the row can be scored.
template <class Logit>
__device__ void score_row(const DpoForward &p, u32 row, const Position &at, const typename Logit::Storage *logits,
                          const OnlineSum &total) {
    const bool reads = at.scored && at.label_in(p.batch.vocab);
    record(p, row, at, reads ? RowScore::of(total, Logit::widen_one(logits[at.label])) : RowScore::without_logits(at));
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
        total = sum_own_vectors<Logit>(vectors, share, [](int, const Vector &) {});
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
    if (share.has_row() && share.rank == 0) score_row<Logit>(p, share.row, at, logits, total);
    return true;
}

template <class Logit> __device__ void forward(const DpoForward &p) {
    const Share share(p.dealing, p.batch.rows);
    if (!score_rows<Logit>(p, share)) return;
    finish_rows(p, share);
}

#define DPO_FORWARD(name, Logit)                                          \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_forward_##name(const __grid_constant__ DpoForward p) {        \
        forward<Logit>(p);                                                \
    }
DPO_FOR_EACH_DTYPE(DPO_FORWARD)
