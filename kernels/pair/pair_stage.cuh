// The stage pair_loss: from sequence log-probs to losses, metrics and one coefficient per sequence.
//
// All of it is compiled into every entry point that may end with the pairs. Its loops are therefore not unrolled, and what
// is needed in several places is called from few.
#pragma once

#include "batch/row_context.cuh"
#include "batch/status.cuh"
#include "pair/losses.cuh"

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

// What all pairs have in common: their number, scored tokens, and the sum of KTO's mismatched log-ratios.
struct BatchSums {
    double baseline = 0.0;
    u64 chosen_tokens = 0, rejected_tokens = 0;
    u32 chosen = 0, rejected = 0;

    __device__ void merge(const BatchSums &other) {
        baseline += other.baseline;
        chosen += other.chosen;
        rejected += other.rejected;
        chosen_tokens += other.chosen_tokens;
        rejected_tokens += other.rejected_tokens;
    }
};

struct BatchScalars {
    u32 pairs, chosen, rejected; // that count
    float per_normalizer;        // 1 / normalizer; 0 where that is a count of nothing
    float baseline;              // z_0 of KTO, in nats
    float per_token;             // normalizer / tokens of SFT; 0 where there is none
};

// `sum` over a count, or 0 where nothing was counted.
__device__ inline float over_count(float sum, float count) { return count == 0.0f ? 0.0f : sum / count; }

// A number from the device's memory, NaN where it is not one that the host would take.
__device__ inline float positive(float value) {
    return value > 0.0f && isfinite(value) ? value : not_a_number();
}

// A total order: NaN last, equals by index.
__device__ inline bool precedes(float one, u32 i, float other, u32 j) {
    const bool less = one < other || (isnan(other) && !isnan(one));
    const bool more = other < one || (isnan(one) && !isnan(other));
    return less || (!more && i < j);
}

// The sequences of a pair. An unpaired one has a single sequence, which both indices name.
struct Pair {
    u32 chosen, rejected;
    bool has_chosen, has_rejected;
    bool in_range; // both indices
};

struct PairStage {
    const DpoPairLoss &loss;
    const float *logps;
    const u32 *scored; // or null
    u32 sequences;

    __device__ bool unpaired() const { return loss.pair_layout == DPO_PAIRS_UNPAIRED; }

    __device__ Pair pair_at(u32 index) const {
        Pair pair = {index, index, true, true, true};
        switch (loss.pair_layout) {
        case DPO_PAIRS_UNPAIRED:
            pair.has_chosen = loss.chosen[index] != 0;
            pair.has_rejected = !pair.has_chosen;
            break;
        case DPO_PAIRS_CONCATENATED: pair.rejected = loss.pairs + index; break;
        case DPO_PAIRS_INTERLEAVED:
            pair.chosen = 2 * index;
            pair.rejected = 2 * index + 1;
            break;
        default:
            pair.chosen = u32(loss.chosen[index]);
            pair.rejected = u32(loss.rejected[index]);
        }
        // A negative index is a large unsigned one.
        pair.in_range = pair.chosen < sequences && pair.rejected < sequences;
        return pair;
    }

    // Whether a pair is part of the batch at all: one of weight 0 is not.
    __device__ bool counts(u32 index) const { return !loss.weights || loss.weights[index] != 0.0f; }

    __device__ float length(u32 s) const {
        const u32 *lengths = loss.lengths ? loss.lengths : scored;
        return lengths ? float(lengths[s]) : 1.0f;
    }

    // Of a pair: its own, or else the usual one, of a term or of the rewards.
    __device__ float beta(u32 index, float usual) const {
        return loss.betas ? positive(loss.betas[index]) : usual;
    }

    __device__ float scale(float beta, u32 s, u32 length_normalized) const {
        return length_normalized ? beta / fmaxf(length(s), 1.0f) : beta;
    }

    __device__ float ref_logp(u32 s) const { return loss.ref_logps ? loss.ref_logps[s] : 0.0f; }
    __device__ float log_ratio(u32 s) const { return logps[s] - ref_logp(s); }

    // By one warp, whose lanes take every 32nd, so that the order does not depend on the block.
    __device__ BatchScalars batch_scalars() const {
        const u32 lane = threadIdx.x % kWarp;
        BatchSums sums;
#pragma unroll 1
        for (u32 index = lane; index < loss.pairs; index += kWarp) {
            if (!counts(index)) continue;
            const Pair pair = pair_at(index);
            sums.chosen += pair.has_chosen;
            sums.rejected += pair.has_rejected;
            if (!scored || !pair.in_range) continue;
            if (pair.has_chosen) sums.chosen_tokens += scored[pair.chosen];
            if (pair.has_rejected) sums.rejected_tokens += scored[pair.rejected];
        }
#pragma unroll 1
        for (u32 k = lane; k < loss.kl_count; k += kWarp)
            sums.baseline += double(loss.kl_logps[k]) - (loss.kl_ref_logps ? double(loss.kl_ref_logps[k]) : 0.0);
        sums = reduce_warp(sums);

        const u32 pairs = unpaired() ? sums.chosen + sums.rejected : sums.chosen;
        float normalizer = loss.normalizer;
        if (loss.device_normalizer) normalizer = positive(*loss.device_normalizer);
        else if (loss.normalizer_kind == DPO_NORMALIZER_TOKENS)
            normalizer = float(sums.chosen_tokens + sums.rejected_tokens);
        else if (loss.normalizer_kind == DPO_NORMALIZER_PAIRS) normalizer = float(pairs);
        const float tokens = loss.chosen_tokens ? positive(*loss.chosen_tokens) : float(sums.chosen_tokens);
        BatchScalars scalars = {pairs, sums.chosen, sums.rejected, over_count(1.0f, normalizer), loss.baseline,
                                over_count(normalizer, tokens)};
        if (loss.kl_count > 0) {
            const float mean = float(sums.baseline / double(loss.kl_count));
            scalars.baseline = mean < 0.0f ? 0.0f : mean;
        }
        return scalars;
    }

    // What the losses that sort compare: policy with reference margins, and chosen with rejected rewards.
    enum Key { POLICY_MARGIN, REFERENCE_MARGIN, CHOSEN_REWARD, REJECTED_REWARD };

    __device__ float key_of(Key key, const DpoLossTerm &term, u32 index) const {
        const Pair pair = pair_at(index);
        if (!pair.in_range) return not_a_number();
        const float pair_beta = beta(index, term.beta);
        const auto scaled = [&](u32 s) {
            const float number = key == POLICY_MARGIN ? logps[s] : key == REFERENCE_MARGIN ? ref_logp(s) : log_ratio(s);
            return scale(pair_beta, s, term.length_normalized) * number;
        };
        const float of_chosen = scaled(pair.chosen), of_rejected = scaled(pair.rejected);
        return key == CHOSEN_REWARD ? of_chosen : key == REJECTED_REWARD ? of_rejected : of_chosen - of_rejected;
    }

    __device__ u32 rank_of(float own, Key key, const DpoLossTerm &term, u32 index) const {
        u32 before = 0;
#pragma unroll 1
        for (u32 other = 0; other < loss.pairs; ++other)
            before += precedes(key_of(key, term, other), other, own, index);
        return before;
    }

    // Gives each pair its partner: of all numbers of the key `other`, the one of the same rank as the pair's own. A pair that
    // is not a number there has none. Until there are losses, their buffer holds the sorted numbers; the ranks are a
    // permutation, so none is left out.
    __device__ void find_partners(Key own, Key other, const DpoLossTerm &term, float *partners) const {
        float *const sorted = loss.pair_losses;
#pragma unroll 1
        for (int step = 0; step < 2; ++step) {
            const bool sorts = step == 0;
            const Key key = sorts ? other : own;
#pragma unroll 1
            for (u32 index = threadIdx.x; index < loss.pairs; index += blockDim.x) {
                const float number = key_of(key, term, index);
                const u32 rank = rank_of(number, key, term, index);
                if (sorts) sorted[rank] = partners[index] = number;
                else if (!isnan(partners[index])) partners[index] = sorted[rank];
            }
            __syncthreads(); // after the first step all is sorted, after the second nobody looks at it
        }
    }

    // Until there are slopes, the buffers of margins and rewards hold partners; then those of rewards hold slopes.
    __device__ void find_partners() const {
#pragma unroll 1
        for (u32 t = 0; t < loss.term_count; ++t) {
            const DpoLossTerm &term = loss.terms[t];
            const bool aot = term.kind == DPO_LOSS_AOT;
            if (!aot && term.kind != DPO_LOSS_AOT_UNPAIRED) continue;
#pragma unroll 1
            for (int side = aot ? 1 : 0; side < 2; ++side) {
                const bool of_chosen = side == 1; // the only side of margins
                const Key own = aot ? POLICY_MARGIN : of_chosen ? CHOSEN_REWARD : REJECTED_REWARD;
                const Key other = aot ? REFERENCE_MARGIN : of_chosen ? REJECTED_REWARD : CHOSEN_REWARD;
                float *const partners = aot ? loss.margins : of_chosen ? loss.chosen_rewards : loss.rejected_rewards;
                find_partners(own, other, term, partners);
            }
        }
    }

    __device__ Side side(float beta, u32 s, bool present, u32 length_normalized) const {
        return {present, logps[s], log_ratio(s), length(s), scale(beta, s, length_normalized), 0.0f};
    }

    __device__ float gamma(u32 index) const {
        if (!loss.gammas) return loss.gamma;
        return isfinite(loss.gammas[index]) ? loss.gammas[index] : not_a_number();
    }

    __device__ float label_smoothing(u32 index, const DpoLossTerm &term) const {
        if (!loss.label_smoothings) return term.label_smoothing;
        const float flip = loss.label_smoothings[index];
        return label_smoothing_fits(term.kind, flip) ? flip : not_a_number();
    }

    __device__ Slopes of_term(u32 index, const Pair &pair, const DpoLossTerm &term, const BatchScalars &scalars) const {
        PairNumbers numbers;
        numbers.beta = beta(index, term.beta);
        numbers.chosen = side(numbers.beta, pair.chosen, pair.has_chosen, term.length_normalized);
        numbers.rejected = side(numbers.beta, pair.rejected, pair.has_rejected, term.length_normalized);
        if (term.kind == DPO_LOSS_AOT) numbers.chosen.sorted_partner = loss.margins[index];
        if (term.kind == DPO_LOSS_AOT_UNPAIRED) {
            numbers.chosen.sorted_partner = loss.chosen_rewards[index];
            numbers.rejected.sorted_partner = loss.rejected_rewards[index];
        }
        numbers.gamma = gamma(index);
        numbers.label_smoothing = label_smoothing(index, term);
        numbers.divergence = loss.divergence;
        numbers.order = loss.order;
        numbers.baseline = scalars.baseline;
        numbers.per_token = scalars.per_token;
        return term_slopes(term, numbers);
    }

    __device__ float weight(u32 index, const Pair &pair) const {
        float weight = 1.0f;
        if (loss.weights) {
            const float given = loss.weights[index];
            weight = given >= 0.0f && isfinite(given) ? given : not_a_number();
        }
        if (loss.sequence_log_weights) {
            const float of_chosen = pair.has_chosen ? loss.sequence_log_weights[pair.chosen] : 0.0f;
            const float of_rejected = pair.has_rejected ? loss.sequence_log_weights[pair.rejected] : 0.0f;
            const float log_weight = of_chosen + of_rejected;
            weight *= expf(log_weight > loss.most_log_weight ? loss.most_log_weight : log_weight);
        }
        return weight;
    }

    // Whether all numbers that a pair reads beside its log-probs are finite, and such as the host would take.
    __device__ bool reads_numbers(u32 index, const Pair &pair, const BatchScalars &scalars) const {
        // 0 times a number is 0, unless it is infinite or NaN.
        float zero = 0.0f * ref_logp(pair.chosen) + 0.0f * ref_logp(pair.rejected);
        zero += 0.0f * weight(index, pair) + 0.0f * beta(index, loss.beta) + 0.0f * gamma(index);
        zero += 0.0f * scalars.per_normalizer + 0.0f * scalars.per_token + 0.0f * scalars.baseline;
#pragma unroll 1
        for (u32 t = 0; t < loss.term_count; ++t) zero += 0.0f * label_smoothing(index, loss.terms[t]);
        return zero == 0.0f;
    }

    // Of all terms, before the normalizer; NaN for a pair with an index out of range, which is reported. What decides that a
    // pair is out is looked at last, so that it takes no registers from the losses.
    __device__ Slopes checked_slopes(u32 index, const BatchScalars &scalars, DpoProgress *progress) const {
        const float nan = not_a_number();
        const Pair pair = pair_at(index);
        if (!pair.in_range) report(progress, DPO_BAD_PAIR, index);
        Slopes sum = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
        for (u32 t = 0; pair.in_range && t < loss.term_count; ++t) {
            const Slopes slopes = of_term(index, pair, loss.terms[t], scalars);
            sum.loss += loss.terms[t].weight * slopes.loss;
            sum.chosen += loss.terms[t].weight * slopes.chosen;
            sum.rejected += loss.terms[t].weight * slopes.rejected;
        }
        if (!counts(index)) return {0.0f, 0.0f, 0.0f};
        if (!pair.in_range) return {nan, nan, nan};
        // A slope may be a constant, or that of one side alone, where the loss is not a number.
        if (isnan(sum.loss)) sum.chosen = sum.rejected = sum.loss;
        const float factor = weight(index, pair);
        return {vanishing(factor, sum.loss), vanishing(factor, sum.chosen), vanishing(factor, sum.rejected)};
    }

    // The reward of one side of a pair, 0 where the pair has no such side.
    __device__ float reward(u32 index, const Pair &pair, u32 s, bool present) const {
        if (!pair.in_range) return not_a_number();
        return present ? scale(beta(index, loss.beta), s, loss.length_normalized) * log_ratio(s) : 0.0f;
    }

    // Runs in one block. `progress` collects bad pairs, and is complete for thread 0 at the end: the reduction's barrier
    // comes after every report.
    __device__ void run(DpoProgress *progress) const {
        __shared__ PairSums partials[kMaxWarps];
        __shared__ BatchScalars scalars;
        if (threadIdx.x < kWarp) {
            const BatchScalars found = batch_scalars();
            if (threadIdx.x == 0) scalars = found;
        }
        find_partners();
        __syncthreads(); // from here on all see `scalars`, the partners, and an empty `progress`

        const bool indexed = loss.pair_layout == DPO_PAIRS_INDEXED;
#pragma unroll 1
        for (u32 index = threadIdx.x; index < loss.pairs; index += blockDim.x) {
            const Slopes slopes = checked_slopes(index, scalars, progress);
            loss.pair_losses[index] = slopes.loss;
            loss.chosen_rewards[index] = slopes.chosen;
            loss.rejected_rewards[index] = slopes.rejected;
        }
        __syncthreads(); // from here on all see the slopes

        // Loops of their own, so that what follows the losses takes no registers from them.
#pragma unroll 1
        for (u32 index = threadIdx.x; !indexed && index < loss.pairs; index += blockDim.x) {
            const Pair pair = pair_at(index);
            const float of_chosen = loss.chosen_rewards[index], of_rejected = loss.rejected_rewards[index];
            if (pair.has_chosen) loss.coef[pair.chosen] = vanishing(of_chosen, scalars.per_normalizer);
            if (pair.has_rejected) loss.coef[pair.rejected] = vanishing(of_rejected, scalars.per_normalizer);
        }
        // An indexed sequence may stand in several pairs, whose slopes are added in pair order by one thread, so that no
        // atomic can reorder them. A pair with a bad index spoils its other member.
#pragma unroll 1
        for (u32 s = threadIdx.x; indexed && s < sequences; s += blockDim.x) {
            float coef = 0.0f;
#pragma unroll 1
            for (u32 index = 0; index < loss.pairs; ++index) {
                if (u32(loss.chosen[index]) == s) coef += loss.chosen_rewards[index];
                if (u32(loss.rejected[index]) == s) coef += loss.rejected_rewards[index];
            }
            loss.coef[s] = vanishing(coef, scalars.per_normalizer);
        }
        __syncthreads(); // from here on nobody looks at slopes

        PairSums sums;
#pragma unroll 1
        for (u32 index = threadIdx.x; index < loss.pairs; index += blockDim.x) {
            const Pair pair = pair_at(index);
            const float w = reward(index, pair, pair.chosen, pair.has_chosen);
            const float l = reward(index, pair, pair.rejected, pair.has_rejected);
            loss.chosen_rewards[index] = w;
            loss.rejected_rewards[index] = l;
            loss.margins[index] = w - l;
            if (!counts(index)) continue;
            if (pair.in_range && !reads_numbers(index, pair, scalars)) report(progress, DPO_BAD_PAIR_INPUT, index);
            sums.merge({loss.pair_losses[index], w, l, w - l, w > l ? 1.0 : 0.0});
        }
        const PairSums total = reduce_block(sums, partials);
        if (threadIdx.x == 0) {
            // Sums over nothing are 0, and so are their means.
            const double pairs = max(scalars.pairs, 1u);
            const double chosen_reward = total.chosen_reward / max(scalars.chosen, 1u);
            const double rejected_reward = total.rejected_reward / max(scalars.rejected, 1u);
            const bool both = scalars.chosen > 0 && scalars.rejected > 0;
            const double margin = !unpaired() ? total.margin / pairs : both ? chosen_reward - rejected_reward : 0.0;
            const double mean_loss = vanishing(total.loss, double(scalars.per_normalizer));
            *loss.metrics = {scalars.pairs,        scalars.chosen,         scalars.rejected, float(mean_loss),
                             float(chosen_reward), float(rejected_reward), float(margin),    float(total.correct / pairs)};
        }
    }
};
