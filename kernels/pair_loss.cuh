// Floor 2: from sequence log-probs to losses, metrics and one coefficient per sequence.
#pragma once

#include "batch.cuh"

// log(1 + e^x), keeping the tail.
__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// 1 / (1 + e^-x), keeping the tail.
__device__ inline float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

// What a loss makes of one pair, before the normalizer: see src/loss.rs for the formulas and their sources.
struct PairTerms {
    float loss;
    float chosen_reward, rejected_reward;
    float chosen_coef, rejected_coef;
};

struct SequenceTerms {
    float log_ratio; // logp - ref_logp
    float scale;     // beta, or beta / length
};

__device__ inline PairTerms sigmoid_loss(SequenceTerms chosen, SequenceTerms rejected, float flip) {
    PairTerms terms;
    terms.chosen_reward = chosen.scale * chosen.log_ratio;
    terms.rejected_reward = rejected.scale * rejected.log_ratio;
    const float margin = terms.chosen_reward - terms.rejected_reward;
    // flip * softplus(margin) is skipped at flip = 0, where an infinite margin would make it 0 * inf.
    terms.loss = (1.0f - flip) * softplus(-margin) + (flip > 0.0f ? flip * softplus(margin) : 0.0f);
    const float slope = flip - sigmoid(-margin);
    terms.chosen_coef = chosen.scale * slope;
    terms.rejected_coef = -rejected.scale * slope;
    return terms;
}

// Sums over pairs, in f64 so that the order, though fixed, matters little as well.
struct PairSums {
    double loss = 0.0, chosen_reward = 0.0, rejected_reward = 0.0, margin = 0.0, correct = 0.0;

    __device__ void merge(const PairSums &other) {
        loss += other.loss;
        chosen_reward += other.chosen_reward;
        rejected_reward += other.rejected_reward;
        margin += other.margin;
        correct += other.correct;
    }
};

struct PairStage {
    const DpoPairLoss &loss;
    const float *logps;
    const u32 *lengths;
    u32 sequences;

    __device__ u32 chosen(u32 pair) const {
        switch (loss.pair_layout) {
        case DPO_PAIRS_CONCATENATED: return pair;
        case DPO_PAIRS_INTERLEAVED: return 2 * pair;
        default: return u32(loss.chosen[pair]);
        }
    }

    __device__ u32 rejected(u32 pair) const {
        switch (loss.pair_layout) {
        case DPO_PAIRS_CONCATENATED: return loss.pairs + pair;
        case DPO_PAIRS_INTERLEAVED: return 2 * pair + 1;
        default: return u32(loss.rejected[pair]);
        }
    }

    // A negative index is a large unsigned one.
    __device__ bool in_range(u32 pair) const { return chosen(pair) < sequences && rejected(pair) < sequences; }

    __device__ SequenceTerms sequence(u32 s) const {
        const float ref_logp = loss.ref_logps ? loss.ref_logps[s] : 0.0f;
        const u32 length = loss.length_normalized ? max(lengths[s], 1u) : 1u;
        return {logps[s] - ref_logp, loss.beta / float(length)};
    }

    // NaN for a pair with an index out of range.
    __device__ PairTerms checked_terms(u32 pair) const {
        const float nan = not_a_number();
        if (!in_range(pair)) return {nan, nan, nan, nan, nan};
        return sigmoid_loss(sequence(chosen(pair)), sequence(rejected(pair)), loss.label_smoothing);
    }

    // The coefficient of one sequence among indexed pairs: it may stand in several, which are added in pair order by
    // one thread, so that no atomic can reorder them. A pair with a bad index spoils its other member.
    __device__ float gathered_coef(u32 s) const {
        float coef = 0.0f;
        for (u32 pair = 0; pair < loss.pairs; ++pair) {
            const bool as_chosen = chosen(pair) == s, as_rejected = rejected(pair) == s;
            if (!as_chosen && !as_rejected) continue;
            const PairTerms t = checked_terms(pair);
            if (as_chosen) coef += t.chosen_coef;
            if (as_rejected) coef += t.rejected_coef;
        }
        return coef;
    }

    // Runs in one block. `progress` collects bad pairs, and is complete for thread 0 at the end: the reduction's barrier
    // comes after every report.
    __device__ void run(DpoProgress *progress) const {
        __shared__ PairSums partials[kMaxWarps];
        PairSums sums;
        for (u32 pair = threadIdx.x; pair < loss.pairs; pair += blockDim.x) {
            if (!in_range(pair)) report(progress, DPO_BAD_PAIR, pair);
            const PairTerms t = checked_terms(pair);
            const float margin = t.chosen_reward - t.rejected_reward;
            loss.pair_losses[pair] = t.loss;
            loss.chosen_rewards[pair] = t.chosen_reward;
            loss.rejected_rewards[pair] = t.rejected_reward;
            loss.margins[pair] = margin;
            if (loss.pair_layout != DPO_PAIRS_INDEXED) {
                loss.coef[chosen(pair)] = t.chosen_coef / loss.normalizer;
                loss.coef[rejected(pair)] = t.rejected_coef / loss.normalizer;
            }
            const bool correct = t.chosen_reward > t.rejected_reward;
            sums.merge({t.loss, t.chosen_reward, t.rejected_reward, margin, correct ? 1.0 : 0.0});
        }
        if (loss.pair_layout == DPO_PAIRS_INDEXED) {
            for (u32 s = threadIdx.x; s < sequences; s += blockDim.x)
                loss.coef[s] = gathered_coef(s) / loss.normalizer;
        }
        const PairSums total = reduce_block(sums, partials);
        if (threadIdx.x == 0) {
            const double pairs = loss.pairs;
            *loss.metrics = {float(total.loss / loss.normalizer), float(total.chosen_reward / pairs),
                             float(total.rejected_reward / pairs), float(total.margin / pairs),
                             float(total.correct / pairs)};
        }
    }
};
