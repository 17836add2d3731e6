// The sum under a row's log-softmax, reading the row once.
#pragma once

#include "reduce.cuh"
#include "row.cuh"
#include "transform.cuh"

// sum exp(x - reference) over the elements seen so far, with the reference at their maximum.
//
// x - reference is taken before the multiplication by log2(e): near the maximum the difference is exact, so logits of
// size 1e4 lose nothing. The reference is kept finite; then +infinity gives an infinite sum, -infinity adds exactly 0,
// a NaN stays one, and a row of the lowest finite value is still right, all without a branch.
struct OnlineSum {
    typedef Identity Transform;
    static constexpr bool kMetrics = false;

    float reference = -kMaxFloat;
    float sum = 0.0f;

    OnlineSum() = default;
    __device__ explicit OnlineSum(const Identity &) {}
    __device__ explicit OnlineSum(const DpoSliceSum &s) : reference(s.reference), sum(s.sum) {}
    __device__ DpoSliceSum stored() const { return {reference, sum}; }

    __device__ void raise_reference(float candidate) {
        const float raised = fminf(fmaxf(reference, candidate), kMaxFloat);
        sum *= exp2_approx((reference - raised) * kLog2e);
        reference = raised;
    }

    __device__ float term(float x) const { return exp2_approx((x - reference) * kLog2e); }

    __device__ void merge(OnlineSum other) {
        raise_reference(other.reference);
        sum += other.sum * exp2_approx((other.reference - reference) * kLog2e);
    }

    // Elements of `kVectors` vectors at once: one rescaling serves them all.
    template <bool kWhole, class Logit, int kVectors>
    __device__ void add(const Vector (&vectors)[kVectors], const Identity &, const VectorColumns &) {
        float x[kVectors][kWidth<Logit>];
        float maximum = -kMaxFloat;
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            widen<Logit>(vectors[v], x[v]);
#pragma unroll
            for (int e = 0; e < kWidth<Logit>; ++e) maximum = fmaxf(maximum, x[v][e]);
        }
        raise_reference(maximum);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            float partial = term(x[v][0]);
#pragma unroll
            for (int e = 1; e < kWidth<Logit>; ++e) partial += term(x[v][e]);
            sum += partial;
        }
    }
};

// Threads of a block at most, and blocks that must fit on a multiprocessor at least: 64 registers a thread.
constexpr int kMaxThreads = 256, kMinBlocks = 4;
// 80 registers for kernels that do more for an element, whose units are busy with fewer threads.
constexpr int kMinBlocksOfExtended = 3;

// Loads in flight per thread: enough to cover the latency of device memory, few enough to stay in registers.
constexpr int kInFlight = 4;

// Element e of a slice belongs to thread (e / width) % threads whatever the row's address, so the bits depend on the
// vocabulary, the dtype and the partition alone. `keep` sees each vector as it passes, with its number.
template <class Sum, class Logit, bool kStraddling, class Keep>
__device__ Sum sum_own_vectors(const SliceVectors<Logit> &vectors, const RowTeam &team, const typename Sum::Transform &transform,
                               const Keep &keep) {
    Sum own(transform);
    const int threads = team.threads;
    const int last = vectors.whole_end - (kInFlight - 1) * threads; // where the last group of whole vectors may start
    Vector group[kInFlight];
    for (int j = vectors.begin + int(team.thread); j < vectors.end; j += kInFlight * threads) {
        // A loop of its own, so that the code for the edges stays out of the way.
        if (j >= vectors.whole_begin) {
            for (; j < last; j += kInFlight * threads) {
#pragma unroll
                for (int k = 0; k < kInFlight; ++k) group[k] = vectors.template load<kStraddling>(j + k * threads);
#pragma unroll
                for (int k = 0; k < kInFlight; ++k) keep(j + k * threads, group[k]);
                own.template add<true, Logit>(group, transform, vectors.columns(j, threads));
            }
        }
        if (j >= vectors.end) break;
        // The same elements in the same places as above, hence the same bits in the sum wherever the edges fall.
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) group[k] = vectors.template load_any<kStraddling>(j + k * threads);
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) keep(j + k * threads, group[k]);
        own.template add<false, Logit>(group, transform, vectors.columns(j, threads));
    }
    return own;
}

template <class Sum, class Logit, class Keep>
__device__ Sum sum_own_vectors(const SliceVectors<Logit> &vectors, const RowTeam &team, const typename Sum::Transform &transform,
                               const Keep &keep) {
    return vectors.straddling ? sum_own_vectors<Sum, Logit, true>(vectors, team, transform, keep)
                              : sum_own_vectors<Sum, Logit, false>(vectors, team, transform, keep);
}
