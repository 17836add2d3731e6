// Every loss, once: a function from the numbers of one pair to the loss and its derivatives by the two log-probs.
// src/loss/kind.rs is the same in f64, and has the formulas and their sources.
#pragma once

#include "divergence.cuh"

// d sigmoid / dx: the product keeps both tails.
__device__ inline float bell(float x) { return sigmoid(x) * sigmoid(-x); }

// factor * value, 0 where a vanishing factor meets an infinite value.
__device__ inline float vanishing(float factor, float value) { return factor == 0.0f ? 0.0f : factor * value; }

// What a loss reads of one sequence of a pair.
struct Side {
    bool present;
    float logp, log_ratio;
    float length; // at least 1
    float scale;  // beta, or beta / length
    float sorted_partner;   // what DPO_LOSS_AOT_UNPAIRED sorts beside this one's reward
};

// What a loss reads of one pair.
struct PairNumbers {
    Side chosen, rejected;
    float beta, gamma, label_smoothing;
    u32 divergence;
    float alpha;
    float baseline;  // z_0 of KTO, in nats
    float per_token; // normalizer / tokens of SFT
    float sorted_partner;      // the reference margin that DPO_LOSS_AOT sorts beside this pair's
};

// The loss of one pair and its derivatives by the log-probs.
struct Slopes {
    float loss, chosen, rejected;
};

__device__ inline ValueSlope smoothed_sigmoid(float z, float flip) {
    // flip * softplus(z) is skipped at flip = 0, where an infinite z would make it 0 * inf.
    return {(1.0f - flip) * softplus(-z) + (flip > 0.0f ? flip * softplus(z) : 0.0f), flip - sigmoid(-z)};
}

// x^2 with x = (z - ...) / beta, derived by z.
__device__ inline ValueSlope square(float x, float beta) { return {x * x, 2.0f * x / beta}; }

__device__ inline ValueSlope hinge(float z) { return z >= 1.0f ? ValueSlope{0.0f, 0.0f} : ValueSlope{1.0f - z, -1.0f}; }

__device__ inline ValueSlope exo(float z, float flip) {
    const float right = sigmoid(z), wrong = sigmoid(-z);
    const float log_rest = log1pf(-flip), log_flip = logf(flip);
    return {vanishing(right, -softplus(-z) - log_rest) + vanishing(wrong, -softplus(z) - log_flip),
            vanishing(right * wrong, z - log_rest + log_flip)};
}

__device__ inline ValueSlope robust(float z, float flip) {
    const float flipped = flip > 0.0f ? flip * softplus(z) : 0.0f;
    const float unbiased = 1.0f - 2.0f * flip;
    return {((1.0f - flip) * softplus(-z) - flipped) / unbiased,
            (-(1.0f - flip) * sigmoid(-z) - flip * sigmoid(z)) / unbiased};
}

__device__ inline ValueSlope discopop(float z, float tau) {
    const float m = sigmoid(z / tau), rest = sigmoid(-z / tau);
    // e^-z m as one exponential where e^-z alone would overflow; finite since tau < 1.
    const float exponential =
        z < 0.0f ? expf(z / tau * (1.0f - tau) - log1pf(expf(z / tau))) : expf(-z) * m;
    const float blend = exponential * rest - vanishing(m * rest, softplus(-z));
    return {vanishing(rest, softplus(-z)) + exponential, -sigmoid(-z) * rest - exponential + blend / tau};
}

// Of z, by f' of each log-ratio.
template <class F> __device__ Slopes of_margin(const PairNumbers &pair, F f) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const ValueSlope f_prime_w = f_prime(pair.divergence, pair.alpha, w.log_ratio);
    const ValueSlope f_prime_l = f_prime(pair.divergence, pair.alpha, l.log_ratio);
    const ValueSlope v = f(w.scale * f_prime_w.value - l.scale * f_prime_l.value - pair.gamma);
    return {v.value, w.scale * v.slope * f_prime_w.slope, -l.scale * v.slope * f_prime_l.slope};
}

// Of the rewards u and v, each by itself; one of them may be missing.
template <class F, class G> __device__ Slopes of_sides(const PairNumbers &pair, F f, G g) {
    const Side &w = pair.chosen, &l = pair.rejected;
    Slopes slopes = {0.0f, 0.0f, 0.0f};
    if (w.present) {
        const ValueSlope of_w = f(w.scale * w.log_ratio);
        slopes.loss = of_w.value;
        slopes.chosen = w.scale * of_w.slope;
    }
    if (l.present) {
        const ValueSlope of_l = g(l.scale * l.log_ratio);
        slopes.loss += of_l.value;
        slopes.rejected = l.scale * of_l.slope;
    }
    return slopes;
}

__device__ inline Slopes apo_down(const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const float u = w.scale * w.log_ratio, v = l.scale * l.log_ratio;
    const float slope = bell(u - v);
    return {sigmoid(u) + sigmoid(v - u), w.scale * (bell(u) - slope), l.scale * slope};
}

__device__ inline Slopes aot(const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const ValueSlope v = smoothed_sigmoid(w.scale * w.logp - l.scale * l.logp - pair.sorted_partner, pair.label_smoothing);
    return {v.value, w.scale * v.slope, -l.scale * v.slope};
}

// The loss at the rank of the chosen; the rejected stands at a rank of its own.
__device__ inline Slopes aot_unpaired(const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const ValueSlope of_w = smoothed_sigmoid(w.scale * w.log_ratio - w.sorted_partner, pair.label_smoothing);
    const ValueSlope of_l = smoothed_sigmoid(l.sorted_partner - l.scale * l.log_ratio, pair.label_smoothing);
    return {of_w.value, w.scale * of_w.slope, -l.scale * of_l.slope};
}

__device__ inline Slopes odds_ratio(const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const float x = w.logp / w.length, y = l.logp / l.length;
    const float rest_w = 0.0f - expm1f(x), rest_l = 0.0f - expm1f(y); // not -expm1f, whose 0 would be -0
    const float log_odds_ratio = (x - y) + (logf(rest_l) - logf(rest_w));
    // d/dx of log(1 + odds_l / odds_w), both divided by the probability of the rejected.
    const float denominator = expf(x - y) * rest_l + rest_w;
    return {softplus(-log_odds_ratio), -1.0f / denominator / w.length,
            rest_w / rest_l / denominator / l.length};
}

__device__ inline Slopes term_slopes(const DpoLossTerm &term, const PairNumbers &pair) {
    const float flip = pair.label_smoothing, beta = pair.beta, parameter = term.parameters[0];
    switch (term.kind) {
    case DPO_LOSS_SIGMOID: return of_margin(pair, [=](float z) { return smoothed_sigmoid(z, flip); });
    case DPO_LOSS_HINGE: return of_margin(pair, hinge);
    case DPO_LOSS_IPO: return of_margin(pair, [=](float z) { return square((z - 0.5f) / beta, beta); });
    case DPO_LOSS_EXO_PAIR: return of_margin(pair, [=](float z) { return exo(z, flip); });
    case DPO_LOSS_ROBUST: return of_margin(pair, [=](float z) { return robust(z, flip); });
    case DPO_LOSS_DISCOPOP: return of_margin(pair, [=](float z) { return discopop(z, parameter); });
    case DPO_LOSS_NCA_PAIR:
        return of_sides(
            pair,
            [](float u) { return ValueSlope{softplus(-u) + 0.5f * softplus(u), 0.5f * sigmoid(u) - sigmoid(-u)}; },
            [](float v) { return ValueSlope{0.5f * softplus(v), 0.5f * sigmoid(v)}; });
    case DPO_LOSS_BCO_PAIR:
        return of_sides(
            pair, [](float u) { return ValueSlope{softplus(-u), -sigmoid(-u)}; },
            [](float v) { return ValueSlope{softplus(v), sigmoid(v)}; });
    case DPO_LOSS_SPPO_HARD:
        return of_sides(
            pair, [=](float u) { return square((u - 0.5f) / beta, beta); },
            [=](float v) { return square((v + 0.5f) / beta, beta); });
    case DPO_LOSS_APO_ZERO:
        return of_sides(
            pair, [](float u) { return ValueSlope{sigmoid(-u), -bell(u)}; },
            [](float v) { return ValueSlope{sigmoid(v), bell(v)}; });
    case DPO_LOSS_APO_DOWN: return apo_down(pair);
    case DPO_LOSS_KTO: {
        const float baseline = beta * pair.baseline, undesirable = term.parameters[1];
        return of_sides(
            pair,
            [=](float u) { return ValueSlope{parameter * sigmoid(baseline - u), -parameter * bell(u - baseline)}; },
            [=](float v) {
                return ValueSlope{undesirable * sigmoid(v - baseline), undesirable * bell(v - baseline)};
            });
    }
    case DPO_LOSS_AOT: return aot(pair);
    case DPO_LOSS_AOT_UNPAIRED: return aot_unpaired(pair);
    case DPO_LOSS_SFT:
        if (!pair.chosen.present) return {0.0f, 0.0f, 0.0f};
        // Without a token there is nothing to move.
        return {-pair.chosen.logp * pair.per_token, isinf(pair.per_token) ? 0.0f : -pair.per_token, 0.0f};
    case DPO_LOSS_NLL:
        if (!pair.chosen.present) return {0.0f, 0.0f, 0.0f};
        return {-pair.chosen.logp / pair.chosen.length, -1.0f / pair.chosen.length, 0.0f};
    case DPO_LOSS_ODDS_RATIO: return odds_ratio(pair);
    default: return {not_a_number(), not_a_number(), not_a_number()};
    }
}

// Where the label smoothing of a term may lie; src/loss/kind.rs refuses the same on the host.
__device__ inline bool label_smoothing_fits(u32 kind, float flip) {
    switch (kind) {
    case DPO_LOSS_ROBUST: return 0.0f <= flip && flip < 0.5f;
    case DPO_LOSS_EXO_PAIR: return 0.0f < flip && flip <= 0.5f;
    default: return 0.0f <= flip && flip <= 0.5f;
    }
}
