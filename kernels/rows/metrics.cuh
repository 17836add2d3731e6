// The sums under a row's log-softmax with what its token metrics need beside it. Reference and sum have OnlineSum's bits:
// they come of the same operations in the same order.
#pragma once

#include "rows/online_sum.cuh"

// With d = z' - reference and e = exp(d), sum e d too: all that an entropy needs, for one multiply-add an element.
//
// Where the reference rises by D, every d falls by D and every e shrinks by w = exp(-D): sum e d -> w (sum e d - D sum e).
struct EntropySum : OnlineSum {
    static constexpr bool kEntropy = true;

    float weighted = 0.0f; // sum e d

    EntropySum() = default;
    __device__ explicit EntropySum(const DpoSliceSum &s) : OnlineSum(s), weighted(s.weighted) {}
    __device__ DpoSliceSum stored() const { return {reference, sum, weighted}; }

    // sum e d after a descent. A fall by infinity, from the lowest reference to the highest, would be 0 * infinity.
    static __device__ float lowered(const Descent &descent, float sum, float weighted) {
        return descent.factor * fmaf(-fminf(descent.by, -kDeepest), sum, weighted);
    }

    __device__ Descent raise_reference(float candidate) {
        const float sum_before = sum;
        const Descent descent = OnlineSum::raise_reference(candidate);
        weighted = lowered(descent, sum_before, weighted);
        return descent;
    }

    // Adds another sum, whose reference is no higher.
    __device__ Descent add_sum(const EntropySum &other) {
        const Descent descent = descent_of(other);
        sum += other.sum * descent.factor;
        weighted += lowered(descent, other.sum, other.weighted);
        return descent;
    }

    __device__ void merge(const EntropySum &other) {
        raise_reference(other.reference);
        add_sum(other);
    }

    __device__ void add_lane(int offset) {
        OnlineSum::add_lane(offset);
        weighted += __shfl_down_sync(0xffffffffu, weighted, offset);
    }

    template <bool kWhole> __device__ void add_moments(float term, float d, float) {
        // e d is 0 where e is. Where d is -infinity, the product alone would be a NaN, which needs_care finds.
        weighted = fmaf(term, kWhole ? d : fmaxf(d, kDeepest), weighted);
    }
    __device__ bool needs_care(float, const RowLabel &) const { return isnan(weighted); }

    // -sum p log p = log(sum e) - sum e d / sum e: both terms are at least 0.
    __device__ float entropy() const { return logf(sum) - weighted / sum; }
};

// All that the other token metrics need, too.
struct MetricsSum : EntropySum {
    static constexpr bool kAllMetrics = true;

    float squares = 0.0f; // sum e^2, which shrinks by w^2
    float total = 0.0f;   // of z' / deferred_scale()
    u32 beaten = 0;       // 1: another token is more probable than the label, or as probable and comes before it

    MetricsSum() = default;
    __device__ explicit MetricsSum(const DpoSliceSum &s)
        : EntropySum(s), squares(s.squares), total(s.total), beaten(s.beaten) {}
    __device__ DpoSliceSum stored() const { return {reference, sum, weighted, squares, total, beaten}; }

    __device__ void raise_reference(float candidate) {
        const Descent descent = EntropySum::raise_reference(candidate);
        squares *= descent.factor * descent.factor;
    }

    __device__ void merge(const MetricsSum &other) {
        raise_reference(other.reference);
        const Descent descent = add_sum(other);
        squares += other.squares * (descent.factor * descent.factor);
        total += other.total;
        beaten |= other.beaten;
    }

    __device__ void add_lane(int offset) {
        EntropySum::add_lane(offset);
        squares += __shfl_down_sync(0xffffffffu, squares, offset);
        total += __shfl_down_sync(0xffffffffu, total, offset);
        beaten |= __shfl_down_sync(0xffffffffu, beaten, offset);
    }

    template <bool kWhole> __device__ void add_moments(float term, float d, float applied) {
        EntropySum::add_moments<kWhole>(term, d, applied);
        squares = fmaf(term, term, squares);
        total += applied;
    }

    // Where the largest logit of a group equals the label's, it may stand before or behind it.
    __device__ bool needs_care(float maximum, const RowLabel &label) const {
        return isnan(weighted) || (maximum == label.logit && !beaten);
    }
    __device__ void compare(float maximum, const RowLabel &label) { beaten |= maximum > label.logit; }

    template <class Logit>
    __device__ void break_tie(const Vector (&group)[kInFlight], const VectorColumns &columns,
                              const RowLabel &label) {
#pragma unroll
        for (int v = 0; v < kInFlight; ++v) {
            if (!columns.has(v)) break;
            float z[kWidth<Logit>];
            widen<Logit>(group[v], z);
#pragma unroll
            for (int e = 0; e < kWidth<Logit>; ++e)
                beaten |= z[e] == label.logit && columns.column(v, e) < label.column;
        }
    }
};
