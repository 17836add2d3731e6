// Every loss, once: a function from the numbers of one pair to the loss and its derivatives by the two log-probs.
// The files of src/loss are the same in f64, and have the formulas and their sources.
//
// All of this is compiled into every entry point that may end with the pairs. What is long therefore stands in the code
// once for all losses: those of the margin are functions of one Logistic, those of the sides of one for each side.
#pragma once

#include "pair/divergence.cuh"
#include "pair/logistic.cuh"

// A function of one number, and its derivative.
struct ValueSlope {
    float value, slope;
};

// What a loss reads of one sequence of a pair.
struct Side {
    bool present;
    float logp, log_ratio;
    float length;
    float scale;          // beta, or beta / length
    float sorted_partner; // what the losses that sort compare with this side

    __device__ float reward() const { return scale * log_ratio; }
};

// What a loss reads of one pair.
struct PairNumbers {
    Side chosen, rejected;
    float beta, gamma, label_smoothing;
    u32 divergence;
    float order; // of the divergence
    float baseline;  // z_0 of KTO, in nats
    float per_token; // normalizer / tokens of SFT; 0 where there is none
};

// The loss of one pair and its derivatives by the log-probs.
struct Slopes {
    float loss, chosen, rejected;
};

__device__ inline ValueSlope smoothed_sigmoid(const Logistic &z, float flip) {
    // flip * softplus(z) is skipped at flip = 0, where an infinite z would make it 0 * inf.
    return {(1.0f - flip) * softplus(-z) + (flip > 0.0f ? flip * softplus(z) : 0.0f), flip - sigmoid(-z)};
}

// ((z - target) / beta)^2, derived by z.
__device__ inline ValueSlope square(float z, float target, float beta) {
    const float x = (z - target) / beta;
    return {x * x, 2.0f * x / beta};
}

__device__ inline ValueSlope hinge(float z) {
    return z >= 1.0f ? ValueSlope{0.0f, 0.0f} : ValueSlope{1.0f - z, -1.0f};
}

__device__ inline ValueSlope exo(const Logistic &z, float flip) {
    const float right = sigmoid(z), wrong = sigmoid(-z);
    const float log_rest = log1pf(-flip), log_flip = logf(flip);
    return {vanishing(right, -softplus(-z) - log_rest) + vanishing(wrong, -softplus(z) - log_flip),
            vanishing(right * wrong, z.x - log_rest + log_flip)};
}

__device__ inline ValueSlope robust(const Logistic &z, float flip) {
    const float flipped = flip > 0.0f ? flip * softplus(z) : 0.0f;
    const float unbiased = 1.0f - 2.0f * flip;
    return {((1.0f - flip) * softplus(-z) - flipped) / unbiased,
            (-(1.0f - flip) * sigmoid(-z) - flip * sigmoid(z)) / unbiased};
}

__device__ inline ValueSlope discopop(const Logistic &z, float tau) {
    const Logistic z_by_tau(z.x / tau);
    const float m = sigmoid(z_by_tau), rest = sigmoid(-z_by_tau);
    // e^-z m as one exponential where e^-z alone would overflow; its derivative as one product, which for tau > 1 may have
    // an infinite factor.
    const bool overflows = z.x < 0.0f;
    const float factor = expf(overflows ? vanishing(1.0f - tau, z_by_tau.x) - softplus(z_by_tau) : -z.x);
    const float exponential = overflows ? factor : factor * m;
    const float of_exponential = vanishing(exponential, 1.0f - rest / tau);
    return {vanishing(rest, softplus(-z)) + exponential,
            -sigmoid(-z) * rest - of_exponential - vanishing(m * rest, softplus(-z)) / tau};
}

// Of the margin z.
__device__ inline ValueSlope loss_of_margin(const DpoLossTerm &term, const PairNumbers &pair, const Logistic &z) {
    switch (term.kind) {
    case DPO_LOSS_SIGMOID:
    case DPO_LOSS_AOT: return smoothed_sigmoid(z, pair.label_smoothing);
    case DPO_LOSS_HINGE: return hinge(z.x);
    case DPO_LOSS_IPO: return square(z.x, 0.5f, pair.beta);
    case DPO_LOSS_EXO_PAIR: return exo(z, pair.label_smoothing);
    case DPO_LOSS_ROBUST: return robust(z, pair.label_smoothing);
    case DPO_LOSS_DISCOPOP: return discopop(z, term.parameters[0]);
    default: return {not_a_number(), not_a_number()};
    }
}

// The margin z is a difference of f' of both log-ratios beyond gamma; for AOT, of log-probs beyond the sorted partner.
__device__ inline Slopes of_margin(const DpoLossTerm &term, const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    const bool sorts = term.kind == DPO_LOSS_AOT;
    const FPrime f_prime = {sorts ? u32(DPO_REVERSE_KL) : pair.divergence, pair.order};
    const float of_w = sorts ? w.logp : w.log_ratio, of_l = sorts ? l.logp : l.log_ratio;
    const float difference = f_prime.difference(w.scale, of_w, l.scale, of_l);
    const Logistic z(difference - (sorts ? w.sorted_partner : pair.gamma));
    const ValueSlope loss = loss_of_margin(term, pair, z);
    return {loss.value, f_prime.times_slope(w.scale * loss.slope, w.log_ratio),
            f_prime.times_slope(-l.scale * loss.slope, l.log_ratio)};
}

// What a sided loss subtracts from the reward of a side before anything else.
__device__ inline float reference_point(const DpoLossTerm &term, const PairNumbers &pair, bool is_chosen) {
    switch (term.kind) {
    case DPO_LOSS_KTO: return pair.beta * pair.baseline;
    case DPO_LOSS_AOT_UNPAIRED: return is_chosen ? pair.chosen.sorted_partner : pair.rejected.sorted_partner;
    case DPO_LOSS_APO_DOWN: return is_chosen ? 0.0f : pair.chosen.reward();
    default: return 0.0f;
    }
}

// Of one side's reward r beyond its reference point.
__device__ inline ValueSlope loss_of_side(const DpoLossTerm &term, const PairNumbers &pair, bool is_chosen,
                                          const Logistic &r) {
    switch (term.kind) {
    case DPO_LOSS_NCA_PAIR: {
        const ValueSlope repelled = {0.5f * softplus(r), 0.5f * sigmoid(r)};
        return is_chosen ? ValueSlope{softplus(-r) + repelled.value, repelled.slope - sigmoid(-r)} : repelled;
    }
    case DPO_LOSS_BCO_PAIR:
        return is_chosen ? ValueSlope{softplus(-r), -sigmoid(-r)} : ValueSlope{softplus(r), sigmoid(r)};
    case DPO_LOSS_SPPO_HARD: return square(r.x, is_chosen ? 0.5f : -0.5f, pair.beta);
    case DPO_LOSS_AOT_UNPAIRED: {
        // The loss is counted at the rank of the chosen; the rejected, at a rank of its own, only moves.
        const ValueSlope loss = smoothed_sigmoid(is_chosen ? r : -r, pair.label_smoothing);
        return is_chosen ? loss : ValueSlope{0.0f, -loss.slope};
    }
    case DPO_LOSS_APO_ZERO: return is_chosen ? ValueSlope{sigmoid(-r), -bell(r)} : ValueSlope{sigmoid(r), bell(r)};
    case DPO_LOSS_APO_DOWN: return {sigmoid(r), bell(r)};
    case DPO_LOSS_KTO: {
        const float weight = term.parameters[is_chosen ? 0 : 1];
        return {weight * sigmoid(is_chosen ? -r : r), (is_chosen ? -weight : weight) * bell(r)};
    }
    default: return {not_a_number(), not_a_number()};
    }
}

// A sum over the sides, one of which may be missing.
__device__ inline Slopes of_sides(const DpoLossTerm &term, const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    ValueSlope of_w = {0.0f, 0.0f}, of_l = {0.0f, 0.0f};
    if (w.present)
        of_w = loss_of_side(term, pair, true, Logistic(w.reward() - reference_point(term, pair, true)));
    if (l.present)
        of_l = loss_of_side(term, pair, false, Logistic(l.reward() - reference_point(term, pair, false)));
    // The reward of the chosen is the rejected's reference point.
    if (term.kind == DPO_LOSS_APO_DOWN) of_w.slope -= of_l.slope;
    return {of_w.value + of_l.value, w.scale * of_w.slope, l.scale * of_l.slope};
}

__device__ inline Slopes odds_ratio(const PairNumbers &pair) {
    const Side &w = pair.chosen, &l = pair.rejected;
    // A sequence of length 0 has no mean log-prob to compare: such a pair is left out.
    if (w.length == 0.0f || l.length == 0.0f) return {0.0f, 0.0f, 0.0f};
    const float x = w.logp / w.length, y = l.logp / l.length;
    const float rest_w = 0.0f - expm1f(x), rest_l = 0.0f - expm1f(y); // not -expm1f, whose 0 would be -0
    const Logistic log_odds_ratio((x - y) + (logf(rest_l) - logf(rest_w)));
    // d/dx of log(1 + odds_l / odds_w), both divided by the probability of the rejected.
    const float denominator = expf(x - y) * rest_l + rest_w;
    return {softplus(-log_odds_ratio), -1.0f / denominator / w.length,
            rest_w / rest_l / denominator / l.length};
}

__device__ inline Slopes term_slopes(const DpoLossTerm &term, const PairNumbers &pair) {
    const Side &w = pair.chosen;
    switch (term.kind) {
    case DPO_LOSS_NCA_PAIR:
    case DPO_LOSS_BCO_PAIR:
    case DPO_LOSS_SPPO_HARD:
    case DPO_LOSS_AOT_UNPAIRED:
    case DPO_LOSS_APO_ZERO:
    case DPO_LOSS_APO_DOWN:
    case DPO_LOSS_KTO: return of_sides(term, pair);
    case DPO_LOSS_SFT:
        if (!w.present) return {0.0f, 0.0f, 0.0f};
        return {-w.logp * pair.per_token, -pair.per_token, 0.0f};
    case DPO_LOSS_NLL:
        if (!w.present) return {0.0f, 0.0f, 0.0f};
        return {-w.logp / fmaxf(w.length, 1.0f), -1.0f / fmaxf(w.length, 1.0f), 0.0f};
    case DPO_LOSS_ODDS_RATIO: return odds_ratio(pair);
    default: return of_margin(term, pair);
    }
}

// Where the label smoothing of a term may lie; src/loss refuses the same on the host.
__device__ inline bool label_smoothing_fits(u32 kind, float flip) {
    switch (kind) {
    case DPO_LOSS_ROBUST: return 0.0f <= flip && flip < 0.5f;
    case DPO_LOSS_EXO_PAIR: return 0.0f < flip && flip <= 0.5f;
    default: return 0.0f <= flip && flip <= 0.5f;
    }
}
