// The sum under a row's log-softmax, reading the row once: that of all tokens but the label.
//
// The label's own term comes last, so that where the label is all but certain, what is left for the others is known to its
// last bit: log p and 1 - p are made of it, and not by subtraction.
#pragma once

#include "primitives/reduce.cuh"
#include "rows/slice_vectors.cuh"
#include "rows/transform.cuh"

// Loads in flight per thread: enough to cover the latency of device memory, few enough to stay in registers.
constexpr int kInFlight = 4;

// Where the label stands in its row, and its logit.
struct RowLabel {
    u32 column;
    float logit;
};

// What raising the reference does to terms exp(z' - reference): their exponents fall, and they shrink by a factor.
struct Descent {
    float by;
    float factor;

    __device__ explicit Descent(float by) : by(by), factor(exp2_approx(by * -kLog2e)) {}
};

// sum exp(z' - reference) over the elements seen so far, with the reference at their maximum.
//
// z' - reference is taken before the multiplication by log2(e): near the maximum the difference is exact, so logits of
// size 1e4 lose nothing. The reference is kept finite; then +infinity gives an infinite sum, -infinity adds exactly 0,
// a NaN stays one, and a row of the lowest finite value is still right, all without a branch.
struct OnlineSum {
    static constexpr bool kEntropy = false, kAllMetrics = false;

    float reference = -kMaxFloat;
    float sum = 0.0f;

    OnlineSum() = default;
    __device__ explicit OnlineSum(const DpoSliceSum &s) : reference(s.reference), sum(s.sum) {}
    __device__ DpoSliceSum stored() const { return {reference, sum}; }

    __device__ Descent raise_reference(float candidate) {
        const float raised = fminf(fmaxf(reference, candidate), kMaxFloat);
        const Descent descent(raised - reference);
        sum *= descent.factor;
        reference = raised;
        return descent;
    }

    // What another sum's terms do when they are taken from this one's reference, which is no lower.
    __device__ Descent descent_of(const OnlineSum &other) const { return Descent(reference - other.reference); }

    __device__ void merge(const OnlineSum &other) {
        raise_reference(other.reference);
        sum += other.sum * descent_of(other).factor;
    }

    // Adds the sum of the lane `offset` further on, which has the same reference.
    __device__ void add_lane(int offset) { sum += __shfl_down_sync(0xffffffffu, sum, offset); }

    // Hooks of add_group and sum_own_vectors for the sums with token metrics: see rows/metrics.cuh.
    template <bool kWhole> __device__ void add_moments(float, float, float) {}
    __device__ bool needs_care(float, const RowLabel &) const { return false; }
    __device__ void compare(float, const RowLabel &) {}
    template <class Logit>
    __device__ void break_tie(const Vector (&)[kInFlight], const VectorColumns &, const RowLabel &) {}
};

// The lanes' sums, merged in lane 0. All take the highest reference first, so that what follows are additions.
template <class Sum> __device__ Sum merge_lanes(Sum own) {
    float highest = own.reference;
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
    own.raise_reference(highest);
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) own.add_lane(offset);
    return own;
}

// The sum of each team of the block in the team's first thread, from those of its warps in their lanes 0. Teams are equal
// parts of the block, whole warps, and `partials` holds one sum per warp. A team of one warp needs no barrier; otherwise
// every thread of the block calls.
template <class Sum> __device__ Sum merge_warps(const Sum &own, u32 threads, Sum *partials) {
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = threads / kWarp;
    if (warps == 1) return own;
    if (lane == 0) partials[warp] = own;
    __syncthreads();
    if (warp % warps > 0) return own;
    return merge_lanes(lane < warps ? partials[warp + lane] : Sum());
}

// The largest element of a group of vectors: a word's elements are compared at once.
template <class Logit> __device__ float largest_element(const Vector (&group)[kInFlight]) {
    u32 word = group[0].word[0];
#pragma unroll
    for (int i = 1; i < 4 * kInFlight; ++i) word = Logit::larger(word, group[i / 4].word[i % 4]);
    float largest[Logit::kPerWord];
    Logit::widen(word, largest);
    return fmaxf(largest[0], largest[Logit::kPerWord - 1]);
}

// Adds the elements of a group of vectors to a sum: one rescaling serves them all. With `kWhole` all of them count. Without,
// some may stand beyond the row or the slice, or be the label's: those are -infinity, whose exponential is 0, and `columns`
// tells them apart where that is not enough. Returns the largest logit.
template <bool kWhole, class Logit, class Sum, class Transform>
__device__ float add_group(Sum &own, const Vector (&group)[kInFlight], const VectorColumns &columns,
                           const Transform &transform) {
    const float maximum = largest_element<Logit>(group);
    // z' grows with z.
    float largest[1] = {maximum};
    transform.apply(largest);
    own.raise_reference(transform.difference(largest[0], 0.0f));
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) {
        if (!kWhole && !columns.has(v)) break;
        float z[kWidth<Logit>];
        widen<Logit>(group[v], z);
        transform.apply(z);
        float partial = 0.0f;
#pragma unroll
        for (int e = 0; e < kWidth<Logit>; ++e) {
            const bool counts = kWhole || columns.counts(v, e);
            // -infinity adds nothing; but a soft cap has made a number of it.
            const float d = Transform::kBounded && !counts ? -infinity() : transform.difference(z[e], own.reference);
            const float term = exp2_approx(d * kLog2e);
            partial = e == 0 ? term : partial + term;
            own.template add_moments<kWhole>(term, d, counts ? z[e] : 0.0f);
        }
        own.sum += partial;
    }
    return maximum;
}

// Adds one element, such as the label.
template <class Sum, class Transform> __device__ void add_one(Sum &own, float logit, const Transform &transform) {
    float z[1] = {logit};
    transform.apply(z);
    own.raise_reference(transform.difference(z[0], 0.0f));
    const float d = transform.difference(z[0], own.reference);
    const float term = exp2_approx(d * kLog2e);
    own.sum += term;
    own.template add_moments<false>(term, d, z[0]);
}

// Makes -infinity of the label's element, if one of these vectors has it.
template <class Logit> __device__ void leave_label_out(Vector (&group)[kInFlight], const VectorColumns &columns) {
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) {
        const u32 element = columns.label - columns.column(v, 0);
        if (element >= kWidth<Logit>) continue;
        float z[kWidth<Logit>];
        widen<Logit>(group[v], z);
#pragma unroll
        for (int e = 0; e < kWidth<Logit>; ++e)
            if (u32(e) == element) z[e] = -infinity();
        group[v] = narrow<Logit>(z);
    }
}

// This thread's group, from `j` on, at which the whole warp leaves the loops for whole groups because one of its lanes has
// the label there; behind all of the slice if none has. All lanes leave at once, since lanes that part cost their time one
// after the other. It is worked out anew where the loops stop, so that they need no register for it.
template <class Logit>
__device__ int group_of_label(int j, const SliceVectors<Logit> &vectors, const RowTeam &team, const RowLabel &label) {
    const int vector = int((label.column + vectors.lead) / kWidth<Logit>);
    const int thread = int(team.thread), threads = int(team.threads), group = kInFlight * threads;
    const int ahead = vector - (j - thread);
    if (ahead < 0 || vector < vectors.begin || vector >= vectors.end) return vectors.end;
    return ahead % threads / kWarp == thread / kWarp ? j + ahead / group * group : vectors.end;
}

// Adds this thread's groups of whole vectors from `j` up to `end`, and returns where the next group starts: the first that
// is not complete or not whole, or one that needs more care than these loops take.
template <bool kStraddling, class Logit, class Sum, class Transform, class Keep>
__device__ int add_whole_groups(Sum &own, int j, int end, const SliceVectors<Logit> &vectors, int threads,
                                const RowLabel &label, const Transform &transform, const Keep &keep) {
    const int last = min(end, vectors.whole_end - (kInFlight - 1) * threads); // where no group of whole vectors starts
    const i64 stride = i64(threads) * i64(sizeof(Vector));
    const char *aligned = vectors.aligned(j);
    Vector group[kInFlight];
    for (; j < last; j += kInFlight * threads, aligned += kInFlight * stride) {
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) group[k] = vectors.template load_from<kStraddling>(aligned + k * stride);
        keep(j, threads, group);
        Sum next = own;
        const float maximum = add_group<true, Logit>(next, group, {}, transform);
        if (next.needs_care(maximum, label)) break;
        next.compare(maximum, label);
        own = next;
    }
    return j;
}

// The sum of this thread's vectors of a slice, without the label. Element e of a slice belongs to thread
// (e / width) % threads, and groups are counted from the slice's first vector, whatever the row's address: so the bits
// depend on the vocabulary, the dtype and the partition alone. `keep` sees each group as it passes: vectors j, j + threads, ...
// of the slice, and behind its end -infinity.
template <class Sum, class Logit, class Transform, class Keep>
__device__ Sum sum_own_vectors(const SliceVectors<Logit> &vectors, const RowTeam &team, const RowLabel &label,
                               const Transform &transform, const Keep &keep) {
    Sum own;
    const int threads = team.threads;
    for (int j = vectors.begin + int(team.thread); j < vectors.end; j += kInFlight * threads) {
        // Loops of their own, so that the code for the edges and for the label stays out of the way.
        if (j >= vectors.whole_begin) {
            const int end = group_of_label(j, vectors, team, label);
            j = vectors.straddling() ? add_whole_groups<true>(own, j, end, vectors, threads, label, transform, keep)
                                   : add_whole_groups<false>(own, j, end, vectors, threads, label, transform, keep);
            if (j >= vectors.end) break;
        }
        // The same elements in the same places as above, hence the same bits in the sum wherever the edges fall.
        Vector group[kInFlight];
        vectors.load_any(j, threads, group);
        const VectorColumns columns = vectors.columns(j, threads, label.column);
        keep(j, threads, group);
        leave_label_out<Logit>(group, columns);
        const float maximum = add_group<false, Logit>(own, group, columns, transform);
        own.compare(maximum, label);
        if (maximum == label.logit) own.template break_tie<Logit>(group, columns, label);
    }
    return own;
}
