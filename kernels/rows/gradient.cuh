// The gradient of one row, or of a slice of it, written past the caches.
#pragma once

#include "rows/online_sum.cuh"

// One element's gradient needs two numbers per row beside its logit. x - logsumexp is taken before the multiplication
// by log2(e), and the residual of logsumexp after it: a large logsumexp costs no accuracy.
//
// With `kEntropy`, the row's entropy has a gradient too, -e p (log p + H): it takes one multiply-add for an element, since
// log p is the exponent of p. That is kept finite where p is 0; of a NaN nothing is left in it then, but p is NaN too.
template <class Transform, bool kEntropy = false> struct RowGradient {
    // Vectors in flight while a row is written: fewer where the gradient itself needs registers.
    static constexpr int kGroup = Transform::kBounded || kEntropy ? kInFlight / 2 : kInFlight;

    Transform transform;
    float coef; // c times the transform's deferred slope
    float logsumexp;
    float residual_log2;
    float entropy_coef; // e times the same
    float entropy;      // H

    // From logits to their gradients, as if none were the label's. `slopes` are -dz'/dz, times c where that is all.
    template <int kCount> __device__ void differentiate(float (&x)[kCount], float (&slopes)[kCount]) const {
        transform.apply(x, slopes, kEntropy ? -1.0f : -coef);
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float log2_p = fmaf(transform.difference(x[i], logsumexp), kLog2e, -residual_log2);
            x[i] = slopes[i] * exp2_approx(log2_p);
            if (kEntropy) x[i] *= fmaf(entropy_coef, fmaf(fmaxf(log2_p, kDeepest), kLn2, entropy), coef);
        }
    }

    // The gradient of the label's logit: c (1 - p) dz'/dz, and 1 - p is -(e^(log p) - 1), which keeps its last bits where
    // p is nearly 1. An infinite coefficient gives NaN, as in PyTorch's log_softmax, where it is c - c p.
    __device__ float at_label(float x) const {
        float applied[1] = {x}, slope[1]; // as in differentiate
        transform.apply(applied, slope, kEntropy ? -1.0f : -coef);
        const float logp = fmaf(-residual_log2, kLn2, transform.difference(applied[0], logsumexp));
        const float of_logp = kEntropy ? slope[0] * coef : slope[0];
        float gradient = fmaf(of_logp, expm1_approx(logp), 0.0f * of_logp);
        if (kEntropy)
            gradient += slope[0] * entropy_coef * exp2_approx(logp * kLog2e) * (fmaxf(logp, kDeepest) + entropy);
        return gradient;
    }

    // Nothing is larger than the coefficients allow, where |p log p| is below 1, so that hardly a row has to be looked at
    // twice. Half of what a Logit reaches leaves room for rounding.
    template <class Logit> __device__ bool may_overflow() const {
        float most = fabsf(coef);
        if (kEntropy) most += fabsf(entropy_coef) * (1.0f + fabsf(entropy));
        return !(most <= 0.5f * Logit::kLargest && isfinite(logsumexp));
    }
};

// Vectors are counted from the gradient's 16-byte boundaries, so that every store is aligned; where the logits stand at
// another phase, the loads straddle. A team's threads take the whole vectors in turn, and the edges by number.
template <class Logit, class Gradient> struct GradientWriter {
    typedef typename Logit::Storage Storage;
    static constexpr int kWide = kWidth<Logit>;

    SliceVectors<Logit> logits;
    Storage *out; // like logits.origin: `lead` elements before the row
    Gradient gradient;

    // Of tokens that are not the label.
    __device__ Vector differentiate(const Vector &vector) const {
        float x[kWide], slopes[kWide];
        widen<Logit>(vector, x);
        gradient.differentiate(x, slopes);
        return narrow<Logit>(x);
    }

    __device__ void store(int j, const Vector &vector) const {
        store_streaming(out + i64(j) * kWide, differentiate(vector));
    }

    // This thread's vectors from `j` to `end`, `kGroup` loads in flight; returns the next of its vectors.
    template <int kGroup, class Load> __device__ int write(int j, int end, int threads, const Load &load) const {
        Vector group[kGroup];
        for (; j + (kGroup - 1) * threads < end; j += kGroup * threads) {
#pragma unroll
            for (int k = 0; k < kGroup; ++k) group[k] = load(j + k * threads);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) store(j + k * threads, group[k]);
        }
        // One vector fewer than a group at most; none where the slice is made of whole groups.
        if (j >= end) return j;
        int next = j;
#pragma unroll
        for (int k = 0; k + 1 < kGroup; ++k) {
            if (j + k * threads < end) group[k] = load(j + k * threads);
        }
#pragma unroll
        for (int k = 0; k + 1 < kGroup; ++k) {
            if (j + k * threads < end) {
                store(j + k * threads, group[k]);
                next += threads;
            }
        }
        return next;
    }

    // The same of the logits in device memory. A straddling load holds two vectors until they are shifted together.
    template <bool kStraddling> __device__ void write_rest(int j, int threads) const {
        constexpr int kGroup = kStraddling ? kInFlight / 2 : Gradient::kGroup;
        write<kGroup>(j, logits.whole_end, threads, [&](int j) { return logits.template load<kStraddling>(j); });
    }

    // The whole slice, with `write_whole` to write this thread's vectors from the first of them on.
    //
    // The label is a token like any other to the loops, which stay free of it; the thread that writes its vector then
    // writes the label's gradient over it, `at_label` of its logit. In place, that thread must have read the logit before.
    template <class AtLabel, class WriteWhole>
    __device__ void run(u32 label, const RowTeam &team, const AtLabel &at_label, const WriteWhole &write_whole) const {
        const i64 at = i64(label) + logits.lead;
        const bool owner = logits.owner(int(at / kWide), team.threads) == int(team.thread);
        const float own = owner ? at_label(Logit::widen_one(logits.origin[at])) : 0.0f;
        write_whole(logits.whole_begin + int(team.thread));
        if (int(team.thread) < logits.edges()) {
            const int edge = logits.edge(team.thread);
            logits.store_edge(out, edge, differentiate(logits.load_edge(edge)));
        }
        if (owner) out[at] = Logit::narrow_one(own);
    }

    // Whether this thread is about to write an infinity or a NaN. Looked at before rather than after the loops, which
    // need all registers there are; one element at a time, since it is rare.
    __device__ bool writes_nonfinite(u32 label, const RowTeam &team) const {
        bool found = false;
        const auto look = [&](int j) {
#pragma unroll 1
            for (int e = 0; e < kWide; ++e) {
                const u32 element = logits.first(j) + e;
                if (!logits.contains(element)) continue;
                const float x = Logit::widen_one(logits.origin[i64(j) * kWide + e]);
                float gradient[1] = {x}, slope[1];
                this->gradient.differentiate(gradient, slope);
                if (element == label) gradient[0] = this->gradient.at_label(x);
                found |= !isfinite(Logit::widen_one(Logit::narrow_one(gradient[0])));
            }
        };
        for (int j = logits.whole_begin + int(team.thread); j < logits.whole_end; j += int(team.threads)) look(j);
        if (int(team.thread) < logits.edges()) look(logits.edge(team.thread));
        return found;
    }
};

// One value all over a slice of a row, by aligned vectors where whole ones fit.
template <class Logit>
__device__ void fill(const SliceVectors<Logit> &vectors, typename Logit::Storage *out, const RowTeam &team, float value) {
    const Vector vector = all<Logit>(value);
    for (int j = vectors.whole_begin + int(team.thread); j < vectors.whole_end; j += int(team.threads))
        store_streaming(out + i64(j) * kWidth<Logit>, vector);
    if (int(team.thread) < vectors.edges()) vectors.store_edge(out, vectors.edge(team.thread), vector);
}

// Zeroes the padding of the vocabulary in a row.
template <class Logit>
__device__ void zero_padding(typename Logit::Storage *row, u32 columns, u32 vocab, const RowTeam &team) {
    typename Logit::Storage *padding = row + columns;
    const u32 lead = phase_of(padding) / u32(sizeof(*padding));
    fill(SliceVectors<Logit>(padding, vocab - columns, lead, DpoRowPartition{1, 1, 0}, 0), padding - lead, team, 0.0f);
}
