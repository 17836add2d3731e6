// Floor 3: dlogits = c (1[v = label] - softmax(logits)), with c = coef[sequence] * token_coef[row] * upstream, times the
// slope of the logits' transform if there is one, and exactly 0 in rows that are not scored or not worth it. The logits are read once (those of rows that are not scored, never), and the gradient is written once,
// over them or elsewhere.
//
// Rows, or slices of them, are dealt to blocks, which share nothing. Vectors are counted from the gradient's 16-byte boundaries, so that every
// store is aligned; where the logits stand at another phase, the loads straddle. In place both phases are one, and each
// thread reads just the bytes that it then overwrites.
//
// SASS instructions per element of the main loops; twice the time of the forward's, since as many bytes are written.
// Budget: 8 aligned, 14 straddling
// Budget of extended: 18 aligned, 25 straddling
#include "batch.cuh"
#include "softmax.cuh"

// One element's gradient needs two numbers per row beside its logit. x - logsumexp is taken before the multiplication
// by log2(e), and the residual of logsumexp after it: a large logsumexp costs no accuracy.
template <class Map> struct RowGradient {
    Map map;
    float coef;
    float logsumexp;
    float residual_log2;

    // From logits to their gradients, as if none were the label's. `slopes` are -coef dz'/dz.
    template <int kCount> __device__ void differentiate(float (&x)[kCount], float (&slopes)[kCount]) const {
        map.bend(x, slopes, -coef);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            x[i] = slopes[i] * exp2_approx(fmaf(map.minus(x[i], logsumexp), kLog2e, -residual_log2));
    }

    // The gradient of the label's logit.
    __device__ float at_label(float x) const {
        float gradient[1] = {x}, slope[1];
        differentiate(gradient, slope);
        return gradient[0] - slope[0];
    }

    // Nothing is larger than |coef| times the slope, so that hardly a row has to be looked at twice. Half of what a
    // Logit reaches leaves room for rounding.
    template <class Logit> __device__ bool may_overflow() const {
        return !(fabsf(coef * map.steepest()) <= 0.5f * Logit::kLargest && isfinite(logsumexp));
    }
};

template <class Logit, class Map> struct Backward {
    typedef typename Logit::Storage Storage;
    static constexpr int kWide = kWidth<Logit>;

    SliceVectors<Logit> logits;
    Storage *out; // like logits.origin: `lead` elements before the row
    RowGradient<Map> gradient;

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

    template <bool kStraddling> __device__ void run(const Share &share) const {
        // A straddling load holds two vectors until they are shifted together; and a transform needs registers too.
        constexpr int kGroup = kStraddling || Map::kExtended ? kInFlight / 2 : kInFlight;
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
        const float own = owner ? gradient.at_label(Logit::widen_one(logits.origin[at])) : 0.0f;
        if (logits.straddling)
            run<true>(share);
        else
            run<false>(share);
        if (owner) out[at] = Logit::narrow_one(own);
    }

    // Whether this thread is about to write an infinity or a NaN. Looked at before rather than after the loops, which
    // need all registers there are; one element at a time, since it is rare.
    __device__ bool writes_nonfinite(u32 label, const Share &share) const {
        bool found = false;
        const auto look = [&](int j) {
#pragma unroll 1
            for (int e = 0; e < kWide; ++e) {
                const u32 element = logits.first(j) + e;
                if (!logits.contains(element)) continue;
                const float x = Logit::widen_one(logits.origin[i64(j) * kWide + e]);
                float gradient[1] = {x}, slope[1];
                this->gradient.differentiate(gradient, slope);
                if (element == label) gradient[0] -= slope[0];
                found |= !isfinite(Logit::widen_one(Logit::narrow_one(gradient[0])));
            }
        };
        for (int j = logits.whole_begin + int(share.rank); j < logits.whole_end; j += int(share.team)) look(j);
        if (int(share.rank) < logits.edges()) look(logits.edge(share.rank));
        return found;
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

// Zeroes the padding of the vocabulary in a row.
template <class Logit>
__device__ void zero_padding(typename Logit::Storage *row, u32 columns, u32 vocab, const Share &share) {
    typename Logit::Storage *padding = row + columns;
    const u32 lead = phase_of(padding) / u32(sizeof(*padding));
    zero(SliceVectors<Logit>(padding, vocab - columns, lead, DpoDealing{1, 1, 0}, 0), padding - lead, share);
}

// c of a row.
__device__ inline float row_coef(const DpoBackward &p, u32 sequence, u32 row) {
    float coef = p.coef ? p.coef[sequence] : 1.0f;
    if (p.token_coef) coef *= p.token_coef[row];
    return coef * (p.upstream ? *p.upstream : 1.0f) * p.upstream_scale;
}

template <class Logit, class Map> __device__ void backward(const DpoBackward &p) {
    typedef typename Logit::Storage Storage;
    const Share share(p.dealing, p.batch.rows);
    if (!share.has_row()) return;
    const u32 row = share.row, vocab = p.batch.vocab, columns = p.batch.columns;
    const i64 offset = i64(row) * p.batch.row_stride;
    Storage *out = static_cast<Storage *>(p.dlogits) + offset;
    const u32 lead = phase_of(out) / u32(sizeof(Storage));
    const Position at(p.batch, row);
    const bool known = at.placed && at.scored && at.label_in(columns);
    // A row that floor 1 could not score has no gradient: NaN, not a plausible number.
    RowGradient<Map> gradient = {Map(p.batch), not_a_number(), not_a_number(), 0.0f};
    if (known) gradient.coef = row_coef(p, at.sequence, row);
    // A NaN is not below the threshold.
    if (at.placed && (!at.scored || fabsf(gradient.coef) <= p.threshold))
        return zero(SliceVectors<Logit>(out, vocab, lead, p.dealing, share.slice), out - lead, share);
    u32 label = 0;
    if (known) {
        gradient.logsumexp = p.logsumexp[row];
        if (p.logsumexp_residual) gradient.residual_log2 = p.logsumexp_residual[row] * kLog2e;
        label = u32(at.label);
    }
    const auto *logits = static_cast<const Storage *>(p.logits) + offset;
    const SliceVectors<Logit> vectors(logits, columns, lead, p.dealing, share.slice);
    const Backward<Logit, Map> pass = {vectors, out - lead, gradient};
    if (columns < vocab && share.slice + 1 == p.dealing.blocks_per_row) zero_padding<Logit>(out, columns, vocab, share);
    if (p.nonfinite_row && gradient.template may_overflow<Logit>() && pass.writes_nonfinite(label, share))
        atomicMin(p.nonfinite_row, row);
    pass.run(label, share);
}

#define DPO_BACKWARD(name, Logit)                                         \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_backward_##name(const __grid_constant__ DpoBackward p) {      \
        backward<Logit, Identity>(p);                                     \
    }                                                                     \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocksOfExtended) \
        dpo_backward_mapped_##name(const __grid_constant__ DpoBackward p) { \
        backward<Logit, Mapped>(p);                                       \
    }
DPO_FOR_EACH_DTYPE(DPO_BACKWARD)
