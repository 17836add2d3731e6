// Token metrics of sequences and of the batch, from those of the rows: see TokenMetrics in src/batch.rs.
#pragma once

#include "batch/row_context.cuh"

// Over scored rows, in f64, where the order, though fixed, hardly matters.
struct TokenSums {
    double scored = 0.0;
    double entropy = 0.0, correct = 0.0, mean_logit = 0.0, logsumexp = 0.0, sum_p2 = 0.0;
    double log_weight = 0.0; // of sequences alone

    TokenSums() = default;
    __device__ explicit TokenSums(const DpoTokenMetricSums &s)
        : scored(s.scored), entropy(s.entropy), correct(s.correct), mean_logit(s.mean_logit), logsumexp(s.logsumexp),
          sum_p2(s.sum_p2) {}
    __device__ DpoTokenMetricSums stored() const { return {scored, entropy, correct, mean_logit, logsumexp, sum_p2}; }

    // Of one scored row.
    __device__ TokenSums(const DpoForward &p, u32 row)
        : scored(1.0), entropy(p.metrics.entropy[row]), correct(p.metrics.correct[row]),
          mean_logit(p.metrics.mean_logit[row]), logsumexp(p.logsumexp[row]), sum_p2(p.metrics.sum_p2[row]),
          log_weight(double(p.token_logps[row]) - double(logf(p.metrics.sum_p2[row]))) {}

    __device__ void merge(const TokenSums &other) {
        scored += other.scored;
        entropy += other.entropy;
        correct += other.correct;
        mean_logit += other.mean_logit;
        logsumexp += other.logsumexp;
        sum_p2 += other.sum_p2;
        log_weight += other.log_weight;
    }

    // Of a sum over the scored rows; 0 where there are none.
    __device__ float mean(double sum) const { return float(sum / fmax(scored, 1.0)); }
};

// A sequence whose rows are in. The whole block.
__device__ inline void sum_tokens(const DpoForward &p, const RowContext &at) {
    __shared__ TokenSums partials[kMaxWarps];
    if (!p.metrics.sums) return;
    TokenSums sum;
    for (u32 row = at.begin + threadIdx.x; row < at.end; row += blockDim.x)
        if (is_scored(p.batch, row, at.end)) sum.merge(TokenSums(p, row));
    sum = reduce_block(sum, partials);
    if (threadIdx.x > 0) return;
    p.metrics.sums[at.sequence] = sum.stored();
    if (p.metrics.sequence_log_weights) p.metrics.sequence_log_weights[at.sequence] = sum.mean(sum.log_weight);
}

// A sequence that no block has summed: one of no rows, or one that cu_seqlens leaves unknown.
__device__ inline void set_tokens(const DpoForward &p, u32 sequence, float value) {
    if (!p.metrics.sums) return;
    p.metrics.sums[sequence] = {0.0, value, value, value, value, value};
    if (p.metrics.sequence_log_weights) p.metrics.sequence_log_weights[sequence] = value;
}

// The batch, once all sequences are in. The whole block.
__device__ inline void mean_tokens(const DpoForward &p) {
    __shared__ TokenSums partials[kMaxWarps];
    if (!p.metrics.mean) return;
    TokenSums sum;
    for (u32 s = threadIdx.x; s < p.batch.sequences; s += blockDim.x) sum.merge(TokenSums(p.metrics.sums[s]));
    sum = reduce_block(sum, partials);
    if (threadIdx.x == 0)
        *p.metrics.mean = {u32(sum.scored), sum.mean(sum.entropy), sum.mean(sum.correct), sum.mean(sum.mean_logit),
                            sum.mean(sum.logsumexp), sum.mean(sum.sum_p2)};
}
