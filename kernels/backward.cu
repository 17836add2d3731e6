// backward: dlogits = c (1[v = label] - softmax(logits)), with c = coef[sequence] * token_coef[row] * upstream, times the
// slope of the logits' transform if there is one, and exactly 0 in rows that are not scored or not worth it. Where the rows'
// entropies H have coefficients e too, -e p (log p + H) comes to it, with p = softmax(logits). The logits are read once
// (those of rows that are not scored, never), and the gradient is written once, over them or elsewhere.
//
// Rows, or slices of them, are divided among blocks, which share nothing. In place the logits and their gradient have the same
// phase, and each thread reads just the bytes that it then overwrites.
//
// SASS instructions per element of the main loops; twice the time of the forward's, since as many bytes are written.
// Budget: 8 aligned, 14 straddling
// Budget of softcap: 18 aligned, 25 straddling
// Budget of entropy: 11 aligned, 16 straddling
// Budget of entropy and softcap: 21 aligned, 27 straddling
//
// PTX instructions executed per element in a whole launch, at most: see tests/executed.rs.
// Executed: 10.5 aligned, 11.1 straddling
// Executed of softcap: 20.5 aligned, 21.1 straddling
// Executed of entropy: 15 aligned, 15.5 straddling
// Executed of entropy and softcap: 24 aligned, 25 straddling
#include "batch/row_coef.cuh"
#include "batch/row_context.cuh"
#include "rows/gradient.cuh"

template <class Logit, class Transform, bool kEntropy> __device__ void backward(const DpoBackward &p) {
    typedef typename Logit::Storage Storage;
    const RowTeam team(p.partition, p.batch);
    if (!team.has_row()) return;
    const u32 row = team.row, vocab = p.batch.vocab, columns = p.batch.columns;
    const i64 offset = i64(row) * p.batch.row_stride;
    Storage *out = static_cast<Storage *>(p.dlogits) + offset;
    const u32 lead = phase_of(out) / u32(sizeof(Storage));
    const RowContext at(p.batch, row);
    const bool known = at.in_sequence && at.scored && at.label_in(columns);
    // A row that logps could not score has no gradient: NaN, not a plausible number.
    RowGradient<Transform, kEntropy> gradient = {Transform(p.batch), not_a_number(), not_a_number(), 0.0f, 0.0f, 0.0f};
    if (known) {
        gradient.coef = row_coef(p, at.sequence, row);
        if (kEntropy) gradient.entropy_coef = times_upstream(p, p.entropy_coef[row]);
    }
    if (at.in_sequence &&
        (!at.scored || (is_small(p, gradient.coef) && (!kEntropy || is_small(p, gradient.entropy_coef)))))
        return fill(SliceVectors<Logit>(out, vocab, lead, p.partition, team.slice), out - lead, team, 0.0f);
    u32 label = 0;
    if (known) {
        gradient.coef *= gradient.transform.deferred_slope();
        if (kEntropy) {
            gradient.entropy_coef *= gradient.transform.deferred_slope();
            gradient.entropy = p.entropy[row];
        }
        gradient.logsumexp = p.logsumexp[row];
        if (p.logsumexp_residual) gradient.residual_log2 = p.logsumexp_residual[row] * kLog2e;
        label = u32(at.label);
    }
    const auto *logits = static_cast<const Storage *>(p.logits) + offset;
    const SliceVectors<Logit> vectors(logits, columns, lead, p.partition, team.slice);
    const GradientWriter<Logit, RowGradient<Transform, kEntropy>> writer = {vectors, out - lead, gradient};
    const int threads = team.threads;
    if (columns < vocab && team.slice + 1 == p.partition.blocks_per_row) zero_padding<Logit>(out, columns, vocab, team);
    if (p.nonfinite_row && gradient.template may_overflow<Logit>() && writer.writes_nonfinite(label, team))
        atomicMin(p.nonfinite_row, row);
    const auto at_label = [&](float x) { return gradient.at_label(x); };
    if (vectors.straddling())
        writer.run(label, team, at_label, [&](int j) { writer.template write_rest<true>(j, threads); });
    else
        writer.run(label, team, at_label, [&](int j) { writer.template write_rest<false>(j, threads); });
}

#define DPO_BACKWARD_KERNEL(name, Logit, Transform, kEntropy)                         \
    extern "C" __global__ void __launch_bounds__(DPO_ROW_THREADS, DPO_ROW_BLOCKS)     \
        dpo_backward##name(const __grid_constant__ DpoBackward p) {                   \
        backward<Logit, Transform, kEntropy>(p);                                      \
    }
#define DPO_BACKWARD(name, Logit)                                                     \
    DPO_BACKWARD_KERNEL(_##name, Logit, Scaled, false)                                \
    DPO_BACKWARD_KERNEL(_softcap_##name, Logit, Softcapped, false)                    \
    DPO_BACKWARD_KERNEL(_entropy_##name, Logit, Scaled, true)                         \
    DPO_BACKWARD_KERNEL(_entropy_softcap_##name, Logit, Softcapped, true)
DPO_FOR_EACH_DTYPE(DPO_BACKWARD)
