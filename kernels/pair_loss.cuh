// pair_loss: from sequence log-probs to losses, metrics and one coefficient per sequence.
#pragma once

#include "batch.cuh"
#include "losses.cuh"

// Sums over pairs, in f64 so that the order, though fixed, matters little as well.
struct PairSums {
    double loss = 0.0, chosen_reward = 0.0, rejected_reward = 0.0, margin = 0.0, correct = 0.0, chosen = 0.0;

    __device__ void merge(const PairSums &other) {
        loss += other.loss;
        chosen_reward += other.chosen_reward;
        rejected_reward += other.rejected_reward;
        margin += other.margin;
        correct += other.correct;
        chosen += other.chosen;
    }
};

// What all pairs share: scored tokens, and the sum of KTO's mismatched log-ratios.
struct BatchSums {
    double baseline = 0.0;
    u64 chosen_tokens = 0, rejected_tokens = 0;

    __device__ void merge(const BatchSums &other) {
        baseline += other.baseline;
        chosen_tokens += other.chosen_tokens;
        rejected_tokens += other.rejected_tokens;
    }
};

struct BatchScalars {
    float normalizer;
    float baseline;  // z_0 of KTO, in nats
    float per_token; // normalizer / tokens of SFT
};

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

struct PairStage {
    const DpoPairLoss &loss;
    const float *logps;
    const u32 *scored; // or null
    u32 sequences;

    __device__ bool unpaired() const { return loss.pair_layout == DPO_PAIRS_UNPAIRED; }

    __device__ bool has_chosen(u32 pair) const { return !unpaired() || loss.chosen[pair] != 0; }
    __device__ bool has_rejected(u32 pair) const { return !unpaired() || loss.chosen[pair] == 0; }

    __device__ u32 chosen(u32 pair) const {
        switch (loss.pair_layout) {
        case DPO_PAIRS_UNPAIRED:
        case DPO_PAIRS_CONCATENATED: return pair;
        case DPO_PAIRS_INTERLEAVED: return 2 * pair;
        default: return u32(loss.chosen[pair]);
        }
    }

    __device__ u32 rejected(u32 pair) const {
        switch (loss.pair_layout) {
        case DPO_PAIRS_UNPAIRED: return pair;
        case DPO_PAIRS_CONCATENATED: return loss.pairs + pair;
        case DPO_PAIRS_INTERLEAVED: return 2 * pair + 1;
        default: return u32(loss.rejected[pair]);
        }
    }

    // A negative index is a large unsigned one.
    __device__ bool in_range(u32 pair) const { return chosen(pair) < sequences && rejected(pair) < sequences; }

    __device__ float length(u32 s) const {
        const u32 *lengths = loss.lengths ? loss.lengths : scored;
        return float(lengths ? max(lengths[s], 1u) : 1u);
    }

    __device__ float beta(u32 pair) const { return loss.betas ? positive(loss.betas[pair]) : loss.beta; }

    __device__ float scale(u32 pair, u32 s, u32 length_normalized) const {
        return length_normalized ? beta(pair) / length(s) : beta(pair);
    }

    __device__ float ref_logp(u32 s) const { return loss.ref_logps ? loss.ref_logps[s] : 0.0f; }
    __device__ float log_ratio(u32 s) const { return logps[s] - ref_logp(s); }
    __device__ float reward(u32 pair, u32 s) const { return scale(pair, s, loss.length_normalized) * log_ratio(s); }
    __device__ float chosen_reward(u32 pair) const {
        if (!in_range(pair)) return not_a_number();
        return has_chosen(pair) ? reward(pair, chosen(pair)) : 0.0f;
    }
    __device__ float rejected_reward(u32 pair) const {
        if (!in_range(pair)) return not_a_number();
        return has_rejected(pair) ? reward(pair, rejected(pair)) : 0.0f;
    }

    // By one warp, whose lanes take every 32nd, so that the order does not depend on the block.
    __device__ BatchScalars batch_scalars() const {
        const u32 lane = threadIdx.x % kWarp;
        BatchSums sums;
        for (u32 pair = lane; scored && pair < loss.pairs; pair += kWarp) {
            if (!in_range(pair)) continue;
            if (has_chosen(pair)) sums.chosen_tokens += scored[chosen(pair)];
            if (has_rejected(pair)) sums.rejected_tokens += scored[rejected(pair)];
        }
        for (u32 k = lane; k < loss.kl_count; k += kWarp)
            sums.baseline += double(loss.kl_logps[k]) - (loss.kl_ref_logps ? double(loss.kl_ref_logps[k]) : 0.0);
        sums = reduce_warp(sums);

        BatchScalars scalars = {loss.normalizer, loss.baseline, 0.0f};
        if (loss.device_normalizer) scalars.normalizer = positive(*loss.device_normalizer);
        else if (loss.normalizer_kind == DPO_NORMALIZER_TOKENS)
            scalars.normalizer = float(sums.chosen_tokens + sums.rejected_tokens);
        if (loss.kl_count > 0) {
            const float mean = float(sums.baseline / double(loss.kl_count));
            scalars.baseline = mean < 0.0f ? 0.0f : mean;
        }
        const float tokens = loss.chosen_tokens ? positive(*loss.chosen_tokens) : float(sums.chosen_tokens);
        scalars.per_token = scalars.normalizer / tokens;
        return scalars;
    }

    // What the sorting losses sort: policy and reference margins, or chosen and rejected rewards.
    enum Key { POLICY_MARGIN, REFERENCE_MARGIN, CHOSEN_REWARD, REJECTED_REWARD };

    __device__ float key(Key what, u32 length_normalized, u32 pair) const {
        if (!in_range(pair)) return not_a_number();
        const u32 w = chosen(pair), l = rejected(pair);
        const float scale_w = scale(pair, w, length_normalized), scale_l = scale(pair, l, length_normalized);
        switch (what) {
        case POLICY_MARGIN: return scale_w * logps[w] - scale_l * logps[l];
        case REFERENCE_MARGIN: return scale_w * ref_logp(w) - scale_l * ref_logp(l);
        case CHOSEN_REWARD: return scale_w * log_ratio(w);
        default: return scale_l * log_ratio(l);
        }
    }

    __device__ u32 rank(Key what, u32 length_normalized, u32 pair) const {
        const float own = key(what, length_normalized, pair);
        u32 before = 0;
#pragma unroll 1
        for (u32 other = 0; other < loss.pairs; ++other)
            before += precedes(key(what, length_normalized, other), other, own, pair);
        return before;
    }

    // Leaves the numbers in the order of their ranks, which are a permutation.
    __device__ void sort(Key what, u32 length_normalized, float *sorted) const {
        for (u32 pair = threadIdx.x; pair < loss.pairs; pair += blockDim.x)
            sorted[rank(what, length_normalized, pair)] = key(what, length_normalized, pair);
    }

    // Until the end, the buffers of margins and rewards hold what is sorted.
    __device__ void sort_all() const {
        for (u32 t = 0; t < loss.term_count; ++t) {
            const u32 normalized = loss.terms[t].length_normalized;
            if (loss.terms[t].kind == DPO_LOSS_AOT) {
                sort(REFERENCE_MARGIN, normalized, loss.margins);
            } else if (loss.terms[t].kind == DPO_LOSS_AOT_UNPAIRED) {
                sort(CHOSEN_REWARD, normalized, loss.chosen_rewards);
                sort(REJECTED_REWARD, normalized, loss.rejected_rewards);
            }
        }
    }

    __device__ Side side(u32 pair, u32 s, bool present, u32 length_normalized) const {
        return {present, logps[s], log_ratio(s), length(s), scale(pair, s, length_normalized), 0.0f};
    }

    __device__ Slopes of_term(u32 pair, const DpoLossTerm &term, const BatchScalars &scalars) const {
        const u32 normalized = term.length_normalized;
        PairNumbers numbers;
        numbers.chosen = side(pair, chosen(pair), has_chosen(pair), normalized);
        numbers.rejected = side(pair, rejected(pair), has_rejected(pair), normalized);
        numbers.beta = beta(pair);
        numbers.gamma = loss.gamma;
        if (loss.gammas) numbers.gamma = isfinite(loss.gammas[pair]) ? loss.gammas[pair] : not_a_number();
        numbers.label_smoothing = term.label_smoothing;
        if (loss.label_smoothings) {
            const float flip = loss.label_smoothings[pair];
            numbers.label_smoothing = label_smoothing_fits(term.kind, flip) ? flip : not_a_number();
        }
        numbers.divergence = loss.divergence;
        numbers.alpha = loss.alpha;
        numbers.baseline = scalars.baseline;
        numbers.per_token = scalars.per_token;
        numbers.sorted_partner = 0.0f;
        if (term.kind == DPO_LOSS_AOT) numbers.sorted_partner = loss.margins[rank(POLICY_MARGIN, normalized, pair)];
        if (term.kind == DPO_LOSS_AOT_UNPAIRED) {
            numbers.chosen.sorted_partner = loss.rejected_rewards[rank(CHOSEN_REWARD, normalized, pair)];
            numbers.rejected.sorted_partner = loss.chosen_rewards[rank(REJECTED_REWARD, normalized, pair)];
        }
        return term_slopes(term, numbers);
    }

    __device__ float weight(u32 pair) const {
        float weight = 1.0f;
        if (loss.weights) {
            const float given = loss.weights[pair];
            weight = given >= 0.0f && isfinite(given) ? given : not_a_number();
        }
        if (loss.sequence_log_weights) {
            const float of_chosen = has_chosen(pair) ? loss.sequence_log_weights[chosen(pair)] : 0.0f;
            const float of_rejected = has_rejected(pair) ? loss.sequence_log_weights[rejected(pair)] : 0.0f;
            weight *= expf(of_chosen + of_rejected);
        }
        return weight;
    }

    // Of all terms, before the normalizer; NaN for a pair with an index out of range.
    __device__ Slopes checked_slopes(u32 pair, const BatchScalars &scalars) const {
        const float nan = not_a_number();
        if (!in_range(pair)) return {nan, nan, nan};
        Slopes sum = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
        for (u32 t = 0; t < loss.term_count; ++t) {
            const Slopes slopes = of_term(pair, loss.terms[t], scalars);
            sum.loss += loss.terms[t].weight * slopes.loss;
            sum.chosen += loss.terms[t].weight * slopes.chosen;
            sum.rejected += loss.terms[t].weight * slopes.rejected;
        }
        const float factor = weight(pair);
        return {factor * sum.loss, factor * sum.chosen, factor * sum.rejected};
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
        sort_all();
        __syncthreads(); // from here on all see `scalars`, what was sorted, and an empty `progress`

        // The pairs, and then, where they are indexed, the sequences: one may stand in several pairs, whose coefficients
        // are added in pair order by one thread, so that no atomic can reorder them. A pair with a bad index spoils its
        // other member. One loop for both, so that the losses are in the code once.
        const bool indexed = loss.pair_layout == DPO_PAIRS_INDEXED;
        for (u32 task = threadIdx.x; task < loss.pairs + (indexed ? sequences : 0); task += blockDim.x) {
            const bool gathers = task >= loss.pairs;
            const u32 s = task - loss.pairs;
            float coef = 0.0f;
#pragma unroll 1
            for (u32 pair = gathers ? 0 : task; pair < (gathers ? loss.pairs : task + 1); ++pair) {
                const u32 w = chosen(pair), l = rejected(pair);
                if (gathers && w != s && l != s) continue;
                const Slopes t = checked_slopes(pair, scalars);
                if (gathers) {
                    if (w == s) coef += t.chosen;
                    if (l == s) coef += t.rejected;
                    continue;
                }
                if (!in_range(pair)) report(progress, DPO_BAD_PAIR, pair);
                loss.pair_losses[pair] = t.loss;
                if (indexed) continue;
                if (has_chosen(pair)) loss.coef[w] = t.chosen / scalars.normalizer;
                if (has_rejected(pair)) loss.coef[l] = t.rejected / scalars.normalizer;
            }
            if (gathers) loss.coef[s] = coef / scalars.normalizer;
        }
        __syncthreads(); // from here on nobody looks at sorted numbers

        // A loop of its own, so that the sums take no registers from the losses.
        PairSums sums;
        for (u32 pair = threadIdx.x; pair < loss.pairs; pair += blockDim.x) {
            const float w = chosen_reward(pair), l = rejected_reward(pair);
            loss.chosen_rewards[pair] = w;
            loss.rejected_rewards[pair] = l;
            loss.margins[pair] = w - l;
            sums.merge({loss.pair_losses[pair], w, l, w - l, w > l ? 1.0 : 0.0, has_chosen(pair) ? 1.0 : 0.0});
        }
        const PairSums total = reduce_block(sums, partials);
        if (threadIdx.x == 0) {
            const double pairs = loss.pairs;
            const double rejected = unpaired() ? pairs - total.chosen : pairs;
            const double chosen_reward = total.chosen_reward / total.chosen;
            const double rejected_reward = total.rejected_reward / rejected;
            const double margin = unpaired() ? chosen_reward - rejected_reward : total.margin / pairs;
            *loss.metrics = {float(total.loss / scalars.normalizer), float(chosen_reward), float(rejected_reward),
                             float(margin), float(total.correct / pairs)};
        }
    }
};
