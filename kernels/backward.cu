// Floor 3: dlogits = c (1[v = label] - softmax(logits)), with c = coef[sequence] * upstream, and exactly 0 in rows that
// are not scored. The logits are read once (those of rows that are not scored, never), and the gradient is written once,
// over them or elsewhere.
//
// Rows, or slices of them, are dealt to blocks, which share nothing. Vectors are counted from the gradient's 16-byte boundaries, so that every
// store is aligned; where the logits stand at another phase, the loads straddle. In place both phases are one, and each
// thread reads just the bytes that it then overwrites.
//
// SASS instructions per element of the main loops; twice the time of the forward's, since as many bytes are written.
// Budget: 8 aligned, 14 straddling
#include "batch.cuh"
#include "softmax.cuh"

// One element's gradient needs two numbers per row beside its logit. x - logsumexp is taken before the multiplication
// by log2(e), and the residual of logsumexp after it: a large logsumexp costs no accuracy.
struct RowGradient {
    float coef;
    float logsumexp;
    float residual_log2;

    __device__ float operator()(float x) const {
        return -coef * exp2_approx(fmaf(x - logsumexp, kLog2e, -residual_log2));
    }
};

template <class Logit> struct Backward {
    typedef typename Logit::Storage Storage;
    static constexpr int kWide = kWidth<Logit>;

    SliceVectors<Logit> logits;
    Storage *out; // like logits.origin: `lead` elements before the row
    RowGradient gradient;

    // Of tokens that are not the label.
    __device__ Vector differentiate(const Vector &vector) const {
        float x[kWide];
        widen<Logit>(vector, x);
#pragma unroll
        for (int e = 0; e < kWide; ++e) x[e] = gradient(x[e]);
        return narrow<Logit>(x);
    }

    __device__ void store(int j, const Vector &vector) const {
        store_streaming(out + i64(j) * kWide, differentiate(vector));
    }

    template <bool kStraddling> __device__ void run(const Share &share) const {
        // A straddling load holds two vectors until they are shifted together.
        constexpr int kGroup = kStraddling ? kInFlight / 2 : kInFlight;
        const int team = share.team, end = logits.whole_end;
        int j = logits.whole_begin + int(share.rank);
        Vector group[kGroup];
        for (; j + (kGroup - 1) * team < end; j += kGroup * team) {
#pragma unroll
            for (int k = 0; k < kGroup; ++k) group[k] = logits.template load<kStraddling>(j + k * team);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) store(j + k * team, group[k]);
        }
        // One vector fewer than a group at most.
#pragma unroll
        for (int k = 0; k + 1 < kGroup; ++k)
            if (j + k * team < end) group[k] = logits.template load<kStraddling>(j + k * team);
#pragma unroll
        for (int k = 0; k + 1 < kGroup; ++k)
            if (j + k * team < end) store(j + k * team, group[k]);
        if (int(share.rank) < logits.edges()) {
            const int edge = logits.edge(share.rank);
            logits.store_edge(out, edge, differentiate(logits.load_edge(edge)));
        }
    }

    // The label is a token like any other to the loops, which stay free of it; the thread that writes its vector then
    // writes the label's gradient over it. In place, that thread must have read the logit before.
    __device__ void run(u32 label, const Share &share) const {
        const i64 at = i64(label) + logits.lead;
        const bool owner = logits.owner(int(at / kWide), share.team) == int(share.rank);
        const float own = owner ? gradient(Logit::widen_one(logits.origin[at])) : 0.0f;
        if (logits.straddling)
            run<true>(share);
        else
            run<false>(share);
        if (owner) out[at] = Logit::narrow_one(own + gradient.coef);
    }
};

// Zeroes a slice of a row, by aligned vectors where whole ones fit.
template <class Logit>
__device__ void zero(const SliceVectors<Logit> &vectors, typename Logit::Storage *out, const Share &share) {
    const Vector zeros = all<Logit>(0.0f);
    for (int j = vectors.whole_begin + int(share.rank); j < vectors.whole_end; j += int(share.team))
        store_streaming(out + i64(j) * kWidth<Logit>, zeros);
    if (int(share.rank) < vectors.edges()) vectors.store_edge(out, vectors.edge(share.rank), zeros);
}

template <class Logit> __device__ void backward(const DpoBackward &p) {
    typedef typename Logit::Storage Storage;
    const Share share(p.dealing, p.batch.rows);
    if (!share.has_row()) return;
    const u32 row = share.row, vocab = p.batch.vocab;
    const i64 offset = i64(row) * p.batch.row_stride;
    Storage *out = static_cast<Storage *>(p.dlogits) + offset;
    const u32 lead = phase_of(out) / u32(sizeof(Storage));
    const Position at(p.batch, row);
    if (at.placed && !at.scored)
        return zero(SliceVectors<Logit>(out, vocab, lead, p.dealing, share.slice), out - lead, share);
    // A row that floor 1 could not score has no gradient: NaN, not a plausible number.
    RowGradient gradient = {not_a_number(), not_a_number(), 0.0f};
    u32 label = 0;
    if (at.placed && at.label_in(vocab)) {
        gradient.coef = p.coef[at.sequence] * (p.upstream ? *p.upstream : 1.0f) * p.upstream_scale;
        gradient.logsumexp = p.logsumexp[row];
        if (p.logsumexp_residual) gradient.residual_log2 = p.logsumexp_residual[row] * kLog2e;
        label = u32(at.label);
    }
    const auto *logits = static_cast<const Storage *>(p.logits) + offset;
    const SliceVectors<Logit> vectors(logits, vocab, lead, p.dealing, share.slice);
    Backward<Logit>{vectors, out - lead, gradient}.run(label, share);
}

#define DPO_BACKWARD(name, Logit)                                         \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_backward_##name(const __grid_constant__ DpoBackward p) {      \
        backward<Logit>(p);                                               \
    }
DPO_FOR_EACH_DTYPE(DPO_BACKWARD)
