// Floor 3: dlogits = c (1[v = label] - softmax(logits)), with c = coef[sequence] * upstream, and exactly 0 in rows that
// are not scored. The logits are read once (those of rows that are not scored, never), and the gradient is written once,
// over them or elsewhere.
//
// One block per row; blocks share nothing. Vectors are counted from the gradient's 16-byte boundaries, so that every
// store is aligned; where the logits stand at another phase, the loads straddle. In place both phases are one, and each
// thread reads just the bytes that it then overwrites.
//
// SASS instructions per element of the main loops; twice the time of the forward's, since as many bytes are written.
// Budget: 9 aligned, 16 straddling
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

    RowVectors<Logit> logits;
    Storage *out; // like logits.origin: `lead` elements before the row
    RowGradient gradient;
    int label_vector, label_slot;

    __device__ Vector differentiate(int j, const Vector &vector) const {
        float x[kWide];
        widen<Logit>(vector, x);
#pragma unroll
        for (int e = 0; e < kWide; ++e) x[e] = gradient(x[e]);
        if (j == label_vector) {
#pragma unroll
            for (int e = 0; e < kWide; ++e) x[e] += e == label_slot ? gradient.coef : 0.0f;
        }
        return narrow<Logit>(x);
    }

    __device__ void store_edge(int j, const Vector &vector) const {
        float values[kWide];
        widen<Logit>(vector, values);
#pragma unroll
        for (int e = 0; e < kWide; ++e) {
            if (logits.contains(logits.first(j) + e)) out[i64(j) * kWide + e] = Logit::narrow_one(values[e]);
        }
    }

    template <bool kStraddling> __device__ void run() const {
        // A straddling load holds two vectors until they are shifted together.
        constexpr int kGroup = kStraddling ? kInFlight / 2 : kInFlight;
        const int threads = blockDim.x, count = logits.count();
        const int span = (kGroup - 1) * threads + 1; // from a group's first vector to behind its last
        for (int j = threadIdx.x; j < count; j += kGroup * threads) {
            // A loop of its own, so that the code for the edges stays out of the way.
            for (; logits.interior(j, j + span); j += kGroup * threads) {
                Vector group[kGroup];
#pragma unroll
                for (int k = 0; k < kGroup; ++k) group[k] = logits.template load<kStraddling>(j + k * threads);
#pragma unroll
                for (int k = 0; k < kGroup; ++k) {
                    const int vector = j + k * threads;
                    store_streaming(out + i64(vector) * kWide, differentiate(vector, group[k]));
                }
            }
#pragma unroll 1
            for (int k = 0; k < kGroup; ++k) {
                const int vector = j + k * threads;
                store_edge(vector, differentiate(vector, logits.load_edge(vector)));
            }
        }
    }
};

// Zeroes one row, by aligned vectors where whole ones fit.
template <class Logit> __device__ void zero_row(typename Logit::Storage *row, u32 vocab, u32 lead) {
    const RowVectors<Logit> vectors(row, vocab, lead);
    typename Logit::Storage *out = row - lead;
    for (int j = threadIdx.x; j < vectors.count(); j += blockDim.x) {
        if (vectors.interior(j, j + 1)) {
            store_streaming(out + i64(j) * kWidth<Logit>, Vector{{0, 0, 0, 0}});
        } else {
            for (int e = 0; e < kWidth<Logit>; ++e)
                if (vectors.contains(vectors.first(j) + e)) out[i64(j) * kWidth<Logit> + e] = 0;
        }
    }
}

template <class Logit> __device__ void backward(const DpoBackward &p) {
    typedef typename Logit::Storage Storage;
    const u32 row = blockIdx.x, vocab = p.batch.vocab;
    const i64 offset = i64(row) * p.batch.row_stride;
    Storage *out = static_cast<Storage *>(p.dlogits) + offset;
    const u32 lead = phase_of(out) / u32(sizeof(Storage));
    const Position at(p.batch, row);
    if (at.placed && !at.scored) return zero_row<Logit>(out, vocab, lead);
    // A row that floor 1 could not score has no gradient: NaN, not a plausible number.
    RowGradient gradient = {not_a_number(), not_a_number(), 0.0f};
    u32 label = 0;
    if (at.placed && at.label_in(vocab)) {
        gradient.coef = p.coef[at.sequence] * (p.upstream ? *p.upstream : 1.0f) * p.upstream_scale;
        gradient.logsumexp = p.logsumexp[row];
        if (p.logsumexp_residual) gradient.residual_log2 = p.logsumexp_residual[row] * kLog2e;
        label = u32(at.label);
    }
    const RowVectors<Logit> logits(static_cast<const Storage *>(p.logits) + offset, vocab, lead);
    const Backward<Logit> pass = {logits, out - lead, gradient, int((label + lead) / kWidth<Logit>),
                                  int((label + lead) % kWidth<Logit>)};
    if (logits.straddling)
        pass.template run<true>();
    else
        pass.template run<false>();
}

#define DPO_BACKWARD(name, Logit)                                         \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_backward_##name(const __grid_constant__ DpoBackward p) {      \
        backward<Logit>(p);                                               \
    }
DPO_FOR_EACH_DTYPE(DPO_BACKWARD)
