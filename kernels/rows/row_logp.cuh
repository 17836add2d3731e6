// The log-prob of one row, from its sum.
#pragma once

#include "batch/row_context.cuh"
#include "batch/status.cuh"
#include "rows/online_sum.cuh"

// logps of one row.
struct RowLogp {
    float token_logp = 0.0f, logsumexp = 0.0f, residual = 0.0f;

    // From the sum over all other tokens, and over all with the label. Where the label has more than the others together,
    // -log p = log(1 + others / own) is small, and right to its last bits; elsewhere it is the usual difference.
    template <class Transform>
    static __device__ RowLogp of(const OnlineSum &others, const OnlineSum &all, float label_logit,
                                 const Transform &transform) {
        RowLogp row_logp;
        float at_label[1] = {label_logit};
        transform.apply(at_label);
        const float label = transform.difference(at_label[0], 0.0f);
        const float above = transform.difference(at_label[0], all.reference);
        const float rest = others.sum * all.descent_of(others).factor, own = exp2_approx(above * kLog2e);
        float base = all.reference, log_sum = logf(all.sum);
        row_logp.token_logp = above - log_sum;
        // An infinite logit of the label is not a certain label.
        if (rest < own && own <= kMaxFloat) {
            const float surprise = log1pf(rest / own);
            row_logp.token_logp = -surprise;
            base = label;
            // What rounding took from a scaled logit.
            log_sum = transform.difference(at_label[0], label) + surprise;
        }
        row_logp.logsumexp = base + log_sum;
        // TwoSum: what the rounding of that addition lost. The backward pass adds it back.
        const float log_sum_kept = row_logp.logsumexp - base;
        row_logp.residual = (base - (row_logp.logsumexp - log_sum_kept)) + (log_sum - log_sum_kept);
        if (!isfinite(row_logp.logsumexp)) row_logp.residual = 0.0f;
        return row_logp;
    }

    // One that is not read: NaN where it should have been.
    static __device__ RowLogp without_logits(const RowContext &at) {
        RowLogp row_logp;
        if (at.scored || !at.in_sequence) row_logp.token_logp = row_logp.logsumexp = not_a_number();
        return row_logp;
    }
};

// One thread hands a row's log-prob in.
__device__ inline void record(const DpoForward &p, u32 row, const RowContext &at, const RowLogp &row_logp) {
    if (at.scored && !at.label_in(p.batch.columns)) report(p.progress, DPO_BAD_LABEL, row);
    if (at.scored && !isfinite(row_logp.token_logp)) report(p.progress, DPO_NONFINITE_ROW, row);
    p.token_logps[row] = row_logp.token_logp;
    if (p.logsumexp) p.logsumexp[row] = row_logp.logsumexp;
    if (p.logsumexp_residual) p.logsumexp_residual[row] = row_logp.residual;
}
