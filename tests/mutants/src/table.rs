//! The mutations: each replaces one text, which stands exactly once in its file, by another.

/// One mutation of a kernel source.
pub struct Mutant {
    /// What is broken, in words.
    pub what: &'static str,
    /// File in kernels/.
    pub file: &'static str,
    /// Text that stands there once.
    pub from: &'static str,
    /// What it becomes.
    pub to: &'static str,
}

const fn mutant(what: &'static str, file: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { what, file, from, to }
}

/// Every mutation.
pub const MUTANTS: [Mutant; 93] = [
    // Barriers, fences and counters.
    mutant(
        "no barrier between partials and their sum",
        "reduce.cuh",
        "partials[warp] = value;\n    __syncthreads();",
        "partials[warp] = value;",
    ),
    mutant(
        "no barrier before an arrival",
        "reduce.cuh",
        "__syncthreads();\n    if (threadIdx.x == 0) {\n        __threadfence(); // release",
        "if (threadIdx.x == 0) {\n        __threadfence(); // release",
    ),
    mutant(
        "no barrier after an arrival",
        "reduce.cuh",
        "    }\n    __syncthreads();\n    return last;",
        "    }\n    return last;",
    ),
    mutant("no release fence before the count", "reduce.cuh", "__threadfence(); // release", "// release"),
    mutant("no acquire fence after the count", "reduce.cuh", "__threadfence(); // acquire", "// acquire"),
    mutant("the count is one short", "reduce.cuh", "+ count == expected;", "+ count + 1 == expected;"),
    mutant("the counter does not reset", "reduce.cuh", "        if (last) *counter = 0;\n", ""),
    mutant("the counter resets early", "reduce.cuh", "if (last) *counter = 0;", "*counter = 0;"),
    mutant(
        "a block counts for one row",
        "reduce.cuh",
        "atomicAdd(counter, count) + count",
        "atomicAdd(counter, 1u) + 1u",
    ),
    mutant("findings are not cleared", "batch.cuh", "        progress->worst[kind] = 0;\n", ""),
    mutant("the last offender is kept, not the first", "batch.cuh", "[kind], ~index)", "[kind], index + 1)"),
    mutant(
        "each thread judges the order of cu_seqlens alone",
        "stages.cuh",
        "out_of_order = __syncthreads_or(out_of_order);",
        "",
    ),
    mutant(
        "no barrier between the findings' zeros and their use",
        "pair_loss.cu",
        "    __syncthreads();\n",
        "",
    ),
    mutant(
        "no barrier between settled sequences and pairs",
        "stages.cuh",
        "        }\n    }\n    __syncthreads();\n}",
        "        }\n    }\n}",
    ),
    mutant(
        "the findings of floor 2 start as garbage",
        "pair_loss.cu",
        "reinterpret_cast<u32 *>(&progress)[threadIdx.x] = 0;",
        "return;",
    ),
    // Rows and slices dealt to blocks.
    mutant("teams without rows score some", "dealing.cuh", "return row < end_row;", "return true;"),
    mutant(
        "the last block counts rows that are not there",
        "dealing.cuh",
        "min(first_row + dealing.rows_per_block, rows)",
        "first_row + dealing.rows_per_block",
    ),
    mutant(
        "a team sums as if it had the block",
        "dealing.cuh",
        "rank = threadIdx.x % team;",
        "rank = threadIdx.x;",
    ),
    mutant(
        "teams share their rows' partial sums",
        "reduce.cuh",
        "partials[warp + lane] : T()",
        "partials[lane] : T()",
    ),
    mutant(
        "a run of rows passes the end of the sequence",
        "forward.cu",
        "min(at.end, share.end_row) - row : 1",
        "share.end_row - row : 1",
    ),
    mutant(
        "a slice reads into the next",
        "row.cuh",
        "begin + int(dealing.slice_vectors)",
        "begin + int(dealing.slice_vectors) + 1",
    ),
    mutant(
        "whole vectors of the next slice",
        "row.cuh",
        "max(min(whole_end, end), whole_begin)",
        "max(whole_end, whole_begin)",
    ),
    mutant(
        "edges of the next slice",
        "row.cuh",
        "        if (j < end) return load_edge(j);",
        "        if (true) return load_edge(j);",
    ),
    mutant(
        "edges at the end are the slice's first",
        "row.cuh",
        ": whole_end + (number - head);",
        ": begin + (number - head);",
    ),
    mutant(
        "the last slice is as long as the others",
        "row.cuh",
        "slice + 1 < dealing.blocks_per_row",
        "dealing.blocks_per_row > 1",
    ),
    mutant(
        "a slice's sum in its neighbour's place",
        "forward.cu",
        "sums[share.slice] =",
        "sums[share.slice ^ 1] =",
    ),
    mutant(
        "rows share their slices' sums",
        "forward.cu",
        "p.slice_sums + i64(share.row) * slices",
        "p.slice_sums",
    ),
    mutant(
        "the last slice is not merged",
        "forward.cu",
        "s < slices; s += blockDim.x",
        "s + 1 < slices; s += blockDim.x",
    ),
    mutant(
        "nobody waits for the other slices",
        "forward.cu",
        "if (!arrive_last(&p.row_slices_done[share.row], 1, slices)) return false;",
        "if (share.slice > 0) return false;",
    ),
    mutant(
        "every slice of a row that is not scored counts",
        "forward.cu",
        "        if (share.slice > 0) return false;\n    } else",
        "    } else",
    ),
    mutant(
        "every thread takes the label's gradient for its own",
        "backward.cu",
        "if (owner) out[at]",
        "if (logits.begin == 0) out[at]",
    ),
    mutant(
        "the label's logit is read after it is overwritten",
        "backward.cu",
        "Logit::narrow_one(own + gradient.coef)",
        "Logit::narrow_one(gradient(Logit::widen_one(logits.origin[at])) + gradient.coef)",
    ),
    mutant(
        "the last vectors are not differentiated",
        "backward.cu",
        "k + 1 < kGroup; ++k)\n            if (j + k * team < end) store",
        "k + 2 < kGroup; ++k)\n            if (j + k * team < end) store",
    ),
    // Loads at every phase, heads and tails.
    mutant("bits shift the wrong way", "row.cuh", "__funnelshift_r(", "__funnelshift_l("),
    mutant("a phase of 8 shifts by one word", "row.cuh", "w[i] = w[i + 2]", "w[i] = w[i + 1]"),
    mutant("a phase of 4 is not shifted", "row.cuh", "if (phase & 4u)", "if (phase & 16u)"),
    mutant(
        "straddling loads run past the row",
        "row.cuh",
        "int((vocab + lead - after) / width)",
        "int((vocab + lead) / width)",
    ),
    mutant(
        "straddling loads start before the row",
        "row.cuh",
        "(lead + before + width - 1)",
        "(lead + width - 1)",
    ),
    mutant("one element too many", "row.cuh", "return element < vocab;", "return element <= vocab;"),
    mutant("padding counts as a logit of 0", "row.cuh", ": -infinity();", ": 0.0f;"),
    mutant(
        "the last vector is skipped",
        "softmax.cuh",
        "share.rank); j < vectors.end; j +=",
        "share.rank); j + 1 < vectors.end; j +=",
    ),
    mutant(
        "bf16 halves swapped",
        "dtypes.cuh",
        "out[0] = __uint_as_float(word << 16);",
        "out[0] = __uint_as_float(word >> 16);",
    ),
    mutant(
        "f16 halves swapped on the way out",
        "dtypes.cuh",
        "cvt.rn.f16x2.f32 %0, %2, %1;",
        "cvt.rn.f16x2.f32 %0, %1, %2;",
    ),
    mutant(
        "bf16 is truncated",
        "dtypes.cuh",
        "cvt.rn.bf16x2.f32 %0, %2, %1;",
        "cvt.rz.bf16x2.f32 %0, %2, %1;",
    ),
    // The softmax.
    mutant(
        "log2(e) is missing",
        "softmax.cuh",
        "return exp2_approx((x - reference) * kLog2e);",
        "return exp2_approx(x - reference);",
    ),
    mutant(
        "the sum is not rescaled",
        "softmax.cuh",
        "sum *= exp2_approx((reference - raised) * kLog2e);",
        "",
    ),
    mutant(
        "the other sum is not rescaled",
        "softmax.cuh",
        " * exp2_approx((other.reference - reference) * kLog2e)",
        "",
    ),
    mutant(
        "an infinite reference",
        "softmax.cuh",
        "fminf(fmaxf(reference, candidate), kMaxFloat)",
        "fmaxf(reference, candidate)",
    ),
    mutant(
        "the residual has the wrong sign",
        "stages.cuh",
        "(log_sum - log_sum_kept);",
        "(log_sum_kept - log_sum);",
    ),
    mutant(
        "the residual of infinity is NaN",
        "stages.cuh",
        "if (!isfinite(score.logsumexp)) score.residual = 0.0f;",
        "",
    ),
    // Rows, labels and sequences.
    mutant(
        "bad labels are followed",
        "forward.cu",
        "if (at.scored && at.label_in(p.batch.vocab))",
        "if (at.scored)",
    ),
    mutant(
        "next-token labels are not shifted",
        "batch.cuh",
        "const u32 at = row + batch.next_token;",
        "const u32 at = row;",
    ),
    mutant("labels leak into the next sequence", "batch.cuh", "if (at >= end)", "if (at >= batch.rows)"),
    mutant("a row belongs to the sequence before", "batch.cuh", "<= i64(row);", "< i64(row);"),
    mutant("the search stops early", "batch.cuh", "while (high - low > 1)", "while (high - low > kWarp)"),
    mutant(
        "empty sequences are forgotten",
        "stages.cuh",
        "} else if (cu_seqlens[s] == cu_seqlens[s + 1]) {",
        "} else if (false) {",
    ),
    mutant(
        "a sequence's sum in its neighbour's place",
        "stages.cuh",
        "p.logps[at.sequence] =",
        "p.logps[at.sequence ^ 1] =",
    ),
    // Pairs.
    mutant(
        "chosen and rejected swapped",
        "pair_loss.cuh",
        "side(pair, chosen(pair), has_chosen(pair), normalized)",
        "side(pair, rejected(pair), has_chosen(pair), normalized)",
    ),
    mutant("an empty sequence divides by zero", "pair_loss.cuh", "max(lengths[s], 1u)", "lengths[s]"),
    mutant("a tie counts as right", "pair_loss.cuh", "w > l ? 1.0 : 0.0", "w >= l ? 1.0 : 0.0"),
    mutant("no normaliser for indexed pairs", "pair_loss.cuh", "coef / shared.normalizer", "coef"),
    mutant(
        "an undesirable sequence counts as desirable",
        "pair_loss.cuh",
        "return !unpaired() || loss.chosen[pair] == 0;",
        "return true;",
    ),
    mutant(
        "lengths of one's own are not read",
        "pair_loss.cuh",
        "loss.lengths ? loss.lengths : scored",
        "scored",
    ),
    mutant("a pair's weight counts twice", "pair_loss.cuh", "weight *= expf(", "weight *= weight * expf("),
    mutant(
        "a mean of mismatched log-ratios may be negative",
        "pair_loss.cuh",
        "mean < 0.0f ? 0.0f : mean",
        "mean < 0.0f ? -mean : -mean",
    ),
    mutant(
        "tokens of the rejected are not counted",
        "pair_loss.cuh",
        "float(sums.chosen_tokens + sums.rejected_tokens)",
        "float(sums.chosen_tokens)",
    ),
    mutant("a beta of 0 is taken", "pair_loss.cuh", "return value > 0.0f &&", "return value >= 0.0f &&"),
    mutant(
        "equals share a rank",
        "pair_loss.cuh",
        "return less || (!more && i < j);",
        "return less || (!more && i <= j);",
    ),
    mutant(
        "no barrier between sorted numbers and their use",
        "pair_loss.cuh",
        "        if (sorts) __syncthreads();\n    }",
        "    }",
    ),
    // Losses: one of each family.
    mutant(
        "label smoothing with the wrong sign",
        "losses.cuh",
        "flip - sigmoid(-z)}",
        "-flip - sigmoid(-z)}",
    ),
    mutant("hinge past its margin has a slope", "losses.cuh", "Value{0.0f, 0.0f} :", "Value{0.0f, -1.0f} :"),
    mutant(
        "ipo is summed, not averaged",
        "losses.cuh",
        "square((z - 0.5f) / beta, beta)",
        "square(z - 0.5f, beta)",
    ),
    mutant("exo forgets the label", "losses.cuh", "z - log_rest + log_flip", "z - log_rest"),
    mutant("robust is biased", "losses.cuh", "1.0f - 2.0f * flip;", "1.0f;"),
    mutant(
        "discopop is not modulated",
        "losses.cuh",
        "- exponential + blend / tau}",
        "- exponential + blend}",
    ),
    mutant(
        "nca weighs both alike",
        "losses.cuh",
        "Value{0.5f * softplus(v), 0.5f",
        "Value{softplus(v), 1.0f",
    ),
    mutant(
        "bco draws the rejected in",
        "losses.cuh",
        "Value{softplus(v), sigmoid(v)}",
        "Value{softplus(v), -sigmoid(v)}",
    ),
    mutant("sppo loses the rejected's target", "losses.cuh", "square((v + 0.5f)", "square((v - 0.5f)"),
    mutant(
        "apo_zero without its slope",
        "losses.cuh",
        "Value{sigmoid(-u), -bell(u)}",
        "Value{sigmoid(-u), bell(u)}",
    ),
    mutant("apo_down forgets the margin", "losses.cuh", "w.scale * (bell(u) - slope)", "w.scale * bell(u)"),
    mutant(
        "kto without its baseline",
        "losses.cuh",
        "beta * pair.baseline, undesirable",
        "0.0f, undesirable",
    ),
    mutant(
        "aot pairs the wrong ranks",
        "losses.cuh",
        "smoothed_sigmoid(l.mate - l.scale",
        "smoothed_sigmoid(w.mate - l.scale",
    ),
    mutant(
        "sft counts a pair, not its tokens",
        "losses.cuh",
        "isinf(pair.per_token) ? 0.0f : -pair.per_token",
        "-1.0f",
    ),
    mutant("nll is summed, not averaged", "losses.cuh", "-1.0f / pair.chosen.length, 0.0f", "-1.0f, 0.0f"),
    mutant("odds are probabilities", "losses.cuh", "(logf(rest_l) - logf(rest_w))", "0.0f"),
    mutant(
        "a forward KL of the wrong slope",
        "divergence.cuh",
        "-expm1f(-x), expf(-x)}",
        "-expm1f(-x), expf(x)}",
    ),
    mutant(
        "Jensen-Shannon at the wrong side",
        "divergence.cuh",
        "softplus(-x), sigmoid(-x)}",
        "softplus(-x), sigmoid(x)}",
    ),
    mutant("an alpha divergence of another order", "divergence.cuh", "= alpha - 1.0f", "= alpha"),
    // The gradient.
    mutant(
        "the coefficient of the wrong sequence",
        "backward.cu",
        "p.coef[at.sequence]",
        "p.coef[at.sequence ^ 1]",
    ),
    mutant("the label is a token like any other", "backward.cu", "own + gradient.coef", "own"),
    mutant(
        "ignored rows are left as they are",
        "backward.cu",
        "return fill(SliceVectors<Logit>(out, vocab, lead, p.dealing, share.slice), out - lead, share, 0.0f);",
        "return;",
    ),
    mutant("writes between the rows", "row.cuh", "if (contains(first(j) + e)) out", "out"),
    mutant(
        "row * stride in 32 bits",
        "backward.cu",
        "i64(row) * p.batch.row_stride",
        "i64(row * u32(p.batch.row_stride))",
    ),
];
