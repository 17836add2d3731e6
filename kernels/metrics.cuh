// The sum under a row's log-softmax with all that token metrics need beside it, and over transformed logits.
#pragma once

#include "softmax.cuh"

// With d = z' - reference and e = exp(d) over the elements seen so far: what OnlineSum has, by the same operations in the
// same order and so with the same bits, and four metrics more.
//
// Where the reference rises by D, every d falls by D and every e shrinks by w = exp(-D):
//   sum e -> w sum e        sum e d -> w (sum e d - D sum e)        sum e^2 -> w^2 sum e^2
struct MetricsSum {
    typedef Transformed Transform;
    static constexpr bool kMetrics = true;
    static constexpr float kDeepest = -128.0f; // below, e is 0

    float reference = -kMaxFloat; // z' of the largest logit
    float sum = 0.0f;             // of e
    float weighted = 0.0f;        // of e d
    float squares = 0.0f;         // of e^2
    float total = 0.0f;           // of unscaled z'
    float largest = -infinity();  // logit z
    u32 first = 0;                // element that has it; without any larger than -infinity, the first of all

    MetricsSum() = default;
    __device__ explicit MetricsSum(const Transformed &transform) : reference(transform.lowest()) {}
    __device__ explicit MetricsSum(const DpoSliceSum &s)
        : reference(s.reference), sum(s.sum), weighted(s.weighted), squares(s.squares), total(s.total),
          largest(s.largest), first(s.first) {}
    __device__ DpoSliceSum stored() const { return {reference, sum, weighted, squares, total, largest, first}; }

    // Factor of what was summed with the reference `by` higher, and the figures after that. Finite numbers throughout:
    // a rise by infinity, from the lowest reference to the highest, would be 0 * infinity.
    struct Shrunk {
        float sum, weighted, squares;
        __device__ Shrunk(const MetricsSum &s, float by) {
            const float w = exp2_approx(-by * kLog2e);
            sum = s.sum * w;
            weighted = w * s.weighted - w * fminf(by, kMaxFloat) * s.sum;
            squares = s.squares * w * w;
        }
    };

    __device__ void raise_reference(float candidate) {
        const float raised = fminf(fmaxf(reference, candidate), kMaxFloat);
        const Shrunk shrunk(*this, raised - reference);
        sum = shrunk.sum;
        weighted = shrunk.weighted;
        squares = shrunk.squares;
        reference = raised;
    }

    __device__ void merge(const MetricsSum &other) {
        raise_reference(other.reference);
        const Shrunk shrunk(other, reference - other.reference);
        sum += shrunk.sum;
        weighted += shrunk.weighted;
        squares += shrunk.squares;
        total += other.total;
        if (other.largest > largest || (other.largest == largest && other.first < first)) {
            largest = other.largest;
            first = other.first;
        }
    }

    // Notes where the largest logit of a group first stands. Rare: the k-th group of a thread has the largest logit so far
    // with probability 1/k.
    template <class Logit, int kVectors>
    __device__ void find_largest(const Vector (&vectors)[kVectors], const VectorColumns &columns, float maximum) {
#pragma unroll
        for (int v = kVectors - 1; v >= 0; --v) {
            float z[kWidth<Logit>];
            widen<Logit>(vectors[v], z);
#pragma unroll
            for (int e = kWidth<Logit> - 1; e >= 0; --e)
                if (z[e] == maximum) first = columns.element(v, e);
        }
        largest = maximum;
    }

    template <bool kWhole, class Logit, int kVectors>
    __device__ void add(const Vector (&vectors)[kVectors], const Transformed &transform, const VectorColumns &columns) {
        float maximum = -infinity();
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            float z[kWidth<Logit>];
            widen<Logit>(vectors[v], z);
#pragma unroll
            for (int e = 0; e < kWidth<Logit>; ++e) maximum = fmaxf(maximum, z[e]);
        }
        if (maximum > largest) {
            find_largest<Logit>(vectors, columns, maximum);
            float unscaled[1] = {maximum};
            transform.apply(unscaled);
            raise_reference(transform.difference(unscaled[0], 0.0f));
        }
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            float z[kWidth<Logit>];
            widen<Logit>(vectors[v], z);
            transform.apply(z);
            float partial = 0.0f;
#pragma unroll
            for (int e = 0; e < kWidth<Logit>; ++e) {
                // Outside the row: -infinity, which a soft cap would make a number of.
                const bool inside = kWhole || columns.inside(v, e);
                const float d = inside ? transform.difference(z[e], reference) : -infinity();
                const float term = exp2_approx(d * kLog2e);
                partial += term;
                // e d is 0 where e is, and d may be -infinity there.
                weighted = fmaf(term, fmaxf(d, kDeepest), weighted);
                squares = fmaf(term, term, squares);
                total += inside ? z[e] : 0.0f;
            }
            sum += partial;
        }
    }
};
