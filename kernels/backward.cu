// Floor 3: dlogits = c (1[v = label] - softmax(logits)), with c = coef[sequence] * upstream, and exactly 0 in rows that
// are not scored. The logits are read once (those of rows that are not scored, never), and the gradient is written once,
// over them or elsewhere.
//
// Rows, or slices of them, are dealt to blocks, which share nothing. In place the logits and their gradient have the same
// phase, and each thread reads just the bytes that it then overwrites.
//
// SASS instructions per element of the main loops; twice the time of the forward's, since as many bytes are written.
// Budget: 8 aligned, 14 straddling
#include "batch.cuh"
#include "gradient.cuh"

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
        return fill(SliceVectors<Logit>(out, vocab, lead, p.dealing, share.slice), out - lead, share, 0.0f);
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
    const GradientWriter<Logit> writer = {vectors, out - lead, gradient};
    const int team = share.team;
    if (vectors.straddling)
        writer.run(label, share, [&](int j) { writer.template write_rest<true>(j, team); });
    else
        writer.run(label, share, [&](int j) { writer.template write_rest<false>(j, team); });
}

#define DPO_BACKWARD(name, Logit)                                         \
    extern "C" __global__ void __launch_bounds__(kMaxThreads, kMinBlocks) \
        dpo_backward_##name(const __grid_constant__ DpoBackward p) {      \
        backward<Logit>(p);                                               \
    }
DPO_FOR_EACH_DTYPE(DPO_BACKWARD)
