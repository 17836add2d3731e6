/*
 * dpo-kernels: Direct Preference Optimization over large-vocabulary logits, from C.
 *
 *   token      logp[r]  = z[r, y_r] - logsumexp_v z[r, v]           one row r of logits per token position
 *   sequence   logp_s   = sum of logp[r] over the scored rows of s
 *   reward     reward   = beta (logp_s - ref_logp_s)
 *   margin     u        = chosen reward - rejected reward
 *   loss       -log sigmoid(u)
 *   coef       c_s      = d loss / d logp_s
 *   logits     dlogits[r, v] = c_s (1[v = y_r] - softmax(z[r])[v])  exactly 0 in rows that are not scored
 *   head       z = X W^T + b, from hidden states X
 *
 * STAGES. logps goes from logits to log-probs; pair_loss from log-probs to loss, metrics and c_s; backward from logits,
 * log-sum-exps and c_s to the gradient. forward is logps and pair_loss with one read of the logits; factored is forward
 * and the gradient without its coefficients, with one read and one write. dpo_cpu_ and dpo_cuda_ have a function for each
 * of the five. A loss of your own takes logps from logps, computes its c_s, and hands them to backward.
 *
 * FROM HIDDEN STATES. dpo_cpu_lm_head_logps, _forward and _backward, and the same of dpo_cuda_, are behind the language model's
 * head: they take hidden states and the head's weight (dpo_lm_head) where the others take logits, of which a chunk of rows exists
 * at a time, and they give the gradients of hidden states, weight and bias (dpo_lm_head_gradients).
 *
 * MEMORY. dpo_cpu_* take pointers to host memory and return when the work is done. dpo_cuda_* take pointers to memory
 * of the GPU (or managed memory) in the very same structs, queue the work on the caller's stream and return at once; those of
 * them that are behind a head take labels, and the index arrays of the batch, in HOST memory all the same.
 * The structs themselves are always in host memory and are read before the call returns. Nothing is kept between calls:
 * every buffer is the caller's, save the chunk of logits of the dpo_cpu_lm_head_ functions, which grows in a workspace that the
 * caller keeps. The size of each follows from the batch:
 *
 *   rows   sequences * sequence_len where padded, dpo_batch.rows where packed
 *   S      sequences
 *   N      pairs: S / 2 where concatenated or interleaved, dpo_batch.pair_count where indexed, S where unpaired
 *   V      vocab
 *   H      dpo_lm_head.hidden_size
 *
 * Nothing but that says how large a buffer is: that it is as large is the caller's word. Pointers are aligned to their element
 * type. Buffers that a call writes overlap no other, save dlogits of backward and gradient of factored, which may be the logits.
 * No gradient of a head may be where hidden states, weight, bias or another gradient is.
 *
 * ABSENT. Zeros leave out whatever may be left out: a struct in which only struct_size and what the call cannot do without
 * are set asks for the defaults.
 *
 *   pointers      One that is marked "or null" is absent where it is null. All others must be there.
 *   numbers       One that is marked with a bit, such as DPO_LOSS_GAMMA, is there if that bit is set in the `given` of its
 *                 struct, and then 0 is a number like any other; otherwise it has the default that its mark names.
 *   enumerations  The enumerator of value 0 is the default. dpo_label_alignment has none, so that a batch says
 *                 which row predicts which label wherever labels are read. One that is marked with a bit is as a number is.
 *
 * Nothing that is there is silently ignored, save where a function says what it does not look at. A number other than 0
 * without its bit, a bit that `given` does not know, and what belongs to another layout or loss than the one asked for are
 * refused with DPO_ERROR_VALUE.
 *
 * UNITS. Log-probs and log-sum-exps are natural (nats) and sums over tokens, never means. Rewards and margins are
 * beta times nats, per token where the loss is length-normalised.
 *
 * ERRORS. Calls return DPO_OK or the kind of what is wrong; dpo_last_error says which argument, what was expected and
 * what came. The argument is named as the field or parameter here is. A call that fails has written nothing. What only the
 * pass itself can see (bad labels, non-finite rows) is in the dpo_status beside the results, and never hidden in them: NaN
 * stays NaN. No panic and no exception crosses.
 *
 * THREADS. Every function may be called from any thread, also at the same time as others, as long as no two calls
 * write the same buffer (a dpo_workspace and the memory of a dpo_cuda_lm_head_workspace count; a dpo_cpu_lm_head_workspace serves
 * one call at a time, and refuses another one meanwhile). dpo_cpu_* spread over a pool of threads that is made at the first call,
 * RAYON_NUM_THREADS of them or one per core; pair_loss, plan and what makes and frees things do without. Threads do not pass to
 * a fork: a process that was forked from one that has the pool would wait for it for ever. The same inputs give the same bits,
 * whatever the number of threads.
 *
 * VERSIONS. Set struct_size of every struct that has one to its sizeof; a struct of a size that the library does not know
 * is refused. DPO_VERSION is the header's version, dpo_version() the library's.
 */
#ifndef DPO_KERNELS_H
#define DPO_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Version of this header: major * 10000 + minor * 100 + patch. */
#define DPO_VERSION 100

/** Label of a position that is not scored, as PyTorch has it: the default of dpo_batch.ignore_index. */
#define DPO_IGNORE_INDEX (-100)

/** In a dpo_status: no trouble of this kind. */
#define DPO_NO_TROUBLE 0xffffffffu

/** What a call returns. */
typedef enum dpo_result {
    /** The call did what it says; on CUDA, the work is queued. */
    DPO_OK = 0,
    /** An argument is null, misaligned, unknown, outside its domain or of no use to the call, or a struct_size is not this
     *  version's. */
    DPO_ERROR_VALUE = 1,
    /** An entry of cu_seqlens, chosen or rejected in host memory is out of order or out of range. */
    DPO_ERROR_INDEX = 2,
    /** An argument that may be null is needed because of another one. */
    DPO_ERROR_MISSING = 3,
    /** dpo_status_check: the status is not clean. */
    DPO_ERROR_DATA = 4,
    /** There is no CUDA driver to load. */
    DPO_ERROR_NO_DRIVER = 5,
    /** No kernel that the library carries can run on the device. */
    DPO_ERROR_NO_IMAGE = 6,
    /** A CUDA driver call failed; also where no context is current. */
    DPO_ERROR_DRIVER = 7,
    /** The library was built without CUDA. */
    DPO_ERROR_UNSUPPORTED = 8,
    /** A defect of the library: it stopped half-way, and what it wrote is not to be used. */
    DPO_ERROR_INTERNAL = 9,
    /** There is no cuBLASLt to load. */
    DPO_ERROR_NO_CUBLASLT = 10,
    /** A call of cuBLASLt failed. */
    DPO_ERROR_CUBLASLT = 11
} dpo_result;

/** Element type of logits and of their gradient. */
typedef enum dpo_dtype {
    /** IEEE binary32. */
    DPO_F32 = 0,
    /** IEEE binary16. */
    DPO_F16 = 1,
    /** The upper half of a binary32. */
    DPO_BF16 = 2
} dpo_dtype;

/** Element type of labels. */
typedef enum dpo_label_type {
    /** 32-bit signed. */
    DPO_LABELS_I32 = 0,
    /** 64-bit signed. */
    DPO_LABELS_I64 = 1
} dpo_label_type;

/** Which label a row of logits predicts. There is no default, and 0 is refused: the wrong one of the two would
 *  give a loss like any other. */
typedef enum dpo_label_alignment {
    /** Row r predicts labels[r]: the labels are already shifted. */
    DPO_ALIGNED = 1,
    /** Row t of a sequence predicts labels[t + 1], and its last row is ignored: Hugging Face's unshifted tensors. */
    DPO_NEXT_TOKEN = 2
} dpo_label_alignment;

/** How sequences form pairs. */
typedef enum dpo_pairs {
    /** S = 2N: sequences 0..N are chosen, N..2N rejected, in the same order. */
    DPO_PAIRS_CONCATENATED = 0,
    /** S = 2N: sequence 2i is chosen, 2i + 1 rejected. */
    DPO_PAIRS_INTERLEAVED = 1,
    /** Pair i is (chosen[i], rejected[i]), two different sequences; in memory of the GPU that they differ is not looked at. The
     *  coefficients of a sequence in several pairs add up; in none it is 0. */
    DPO_PAIRS_INDEXED = 2,
    /** There are no pairs: log-probs only, such as those of the reference model's pass. */
    DPO_PAIRS_NONE = 3,
    /** Sequences are judged one by one, for losses such as KTO. N = S: "pair" i is sequence i alone, chosen where
     *  desirable[i] is not 0 and rejected where it is. The missing side has a reward of 0; means are over the sides that
     *  are there. */
    DPO_PAIRS_UNPAIRED = 4
} dpo_pairs;

/** Bits of dpo_transform.given. */
#define DPO_TRANSFORM_SCALE (1u << 0)
#define DPO_TRANSFORM_SOFTCAP (1u << 1)
#define DPO_TRANSFORM_VALID_VOCAB (1u << 2)

/** What a model does to its logits before the softmax, done inside the pass: z becomes C tanh(scale z / C) with a soft cap
 *  of C, and scale z without one. */
typedef struct dpo_transform {
    /** The DPO_TRANSFORM_ bits of the numbers that are there. */
    uint32_t given;
    /** Factor of the logits, 1 / temperature, finite and above 0. DPO_TRANSFORM_SCALE; otherwise 1. */
    float scale;
    /** The soft cap C, finite and above 0. DPO_TRANSFORM_SOFTCAP; otherwise the logits are not capped. */
    float softcap;
    /** Columns from here on are padding of the vocabulary: they are not read and take no part in the softmax, their
     *  gradient is exactly 0, and a label there is a bad one. From 1 to V. DPO_TRANSFORM_VALID_VOCAB; otherwise V. */
    size_t valid_vocab;
} dpo_transform;

/** Bits of dpo_batch.given. */
#define DPO_BATCH_ROW_STRIDE (1u << 0)
#define DPO_BATCH_IGNORE_INDEX (1u << 1)
#define DPO_BATCH_LD_ALPHA (1u << 2)

/** A batch of labelled sequences of logits, without the logits. Every sequence is a contiguous run of rows. */
typedef struct dpo_batch {
    /** sizeof(dpo_batch). */
    size_t struct_size;
    /** V, from 1 to 2^31 - 1. */
    size_t vocab;
    /** S, from 1 to 2^31 - 1; even where pairs are concatenated or interleaved. */
    size_t sequences;
    /** Rows per sequence of a padded batch, whose cu_seqlens is null: sequence s is rows s * sequence_len ..
     *  (s + 1) * sequence_len. 0 in a packed batch. */
    size_t sequence_len;
    /** [S + 1], or null for a padded batch: sequence s is rows cu_seqlens[s] .. cu_seqlens[s + 1]. From 0 to rows, never
     *  decreasing; equal neighbours are an empty sequence. */
    const int32_t *cu_seqlens;
    /** Number of rows of a packed batch, whose cu_seqlens is given, from 1 to 2^31 - 1. 0 in a padded batch. */
    size_t rows;
    /** How sequences form pairs. */
    dpo_pairs pairs;
    /** Which label a row predicts; never 0, save for pair_loss, which reads no labels and does not look at it. */
    dpo_label_alignment label_alignment;
    /** N where pairs are indexed, from 1 to 2^31 - 1. 0 in any other layout. */
    size_t pair_count;
    /** [N] sequence indices where pairs are indexed. Null in any other layout. */
    const int32_t *chosen;
    /** [N] sequence indices where pairs are indexed. Null in any other layout. */
    const int32_t *rejected;
    /** [S] where sequences are unpaired: 0 for an undesirable one. Null in any other layout. */
    const int32_t *desirable;
    /** The DPO_BATCH_ bits of the numbers that are there. */
    uint32_t given;
    /** Length desensitization (LD-DPO): the weight, from 0 to 1, of the scored tokens of a sequence beyond as many as the
     *  other of its pair has. Pairs are concatenated or interleaved. DPO_BATCH_LD_ALPHA; otherwise 1. */
    float ld_alpha;
    /** Elements from the start of a row to the start of the next, at least vocab; those between are not touched.
     *  DPO_BATCH_ROW_STRIDE, which the functions behind a head refuse; otherwise vocab. */
    size_t row_stride;
    /** Label of positions that are not scored. DPO_BATCH_IGNORE_INDEX; otherwise DPO_IGNORE_INDEX. */
    int64_t ignore_index;
    /** What happens to the logits before the softmax; zeros for nothing. */
    dpo_transform transform;
} dpo_batch;

/** What logps and backward read. */
typedef struct dpo_inputs {
    /** sizeof(dpo_inputs). */
    size_t struct_size;
    /** Element type of the logits. */
    dpo_dtype dtype;
    /** Element type of the labels. */
    dpo_label_type label_type;
    /** [rows, V] of dpo_dtype, rows row_stride apart. Ignored rows are not read and may hold anything. */
    const void *logits;
    /** [rows] of dpo_label_type: a token id below V, or the ignore index. */
    const void *labels;
} dpo_inputs;

/** What a log-ratio x is worth to a loss of the margin. */
typedef enum dpo_divergence {
    /** x */
    DPO_REVERSE_KL = 0,
    /** 1 - e^-x */
    DPO_FORWARD_KL = 1,
    /** log 2 + log sigmoid(x) */
    DPO_JENSEN_SHANNON = 2,
    /** (e^min((a - 1) x, 80) - 1) / (a - 1), a being dpo_loss.alpha; x at a = 1 */
    DPO_ALPHA_DIVERGENCE = 3
} dpo_divergence;

/** What the sum of the pair losses is divided by, unless dpo_loss.normalizer or dpo_pair_inputs.normalizer is there. Pairs of
 *  weight 0 are not counted; where nothing is, the loss and all coefficients are 0. */
typedef enum dpo_normalizer {
    /** N, the number of pairs. */
    DPO_BY_PAIRS = 0,
    /** The number of scored tokens of the batch's pairs, chosen and rejected. */
    DPO_BY_TOKENS = 1
} dpo_normalizer;

/** Bits of dpo_loss_term.given. */
#define DPO_TERM_WEIGHT (1u << 0)
#define DPO_TERM_PARAMETER_0 (1u << 1)
#define DPO_TERM_PARAMETER_1 (1u << 2)
#define DPO_TERM_BETA (1u << 3)

/** One loss of a weighted sum. */
typedef struct dpo_loss_term {
    /** A name of the library's table of losses, such as "sigmoid" (or "dpo"), "ipo", "kto" or "simpo". */
    const char *name;
    /** What the loss is multiplied with, finite and above 0; from the second term on it may be 0, which adds nothing.
     *  DPO_TERM_WEIGHT; otherwise 1. */
    double weight;
    /** Temperature of this loss, finite and above 0; not for sft, nll and odds_ratio, which have none. DPO_TERM_BETA;
     *  otherwise dpo_loss.beta. Rewards are those of the first loss that has one. */
    double beta;
    /** Parameters that are the loss's own, in the order of the table of losses: tau of discopop; gamma of simpo; alpha of
     *  cpo and of rpo; the weights of desirable and of undesirable sequences of kto. DPO_TERM_PARAMETER_0 for the first,
     *  DPO_TERM_PARAMETER_1 for the second; otherwise the values of the table. */
    double parameters[2];
    /** The DPO_TERM_ bits of the numbers that are there. */
    uint32_t given;
} dpo_loss_term;

/**
 * What pair_loss reads besides log-probs, all of it optional, in the memory that the call is about. What is there for each
 * pair replaces the number of dpo_loss. dpo_cpu_* refuse values out of their ranges; on CUDA they give NaN in the loss and
 * the coefficients of their pair.
 */
typedef struct dpo_pair_inputs {
    /** sizeof(dpo_pair_inputs). */
    size_t struct_size;
    /** [S], or null: what a loss divides log-ratios or log-probs by, where that is not the number of scored rows; 0 counts
     *  as 1. */
    const uint32_t *lengths;
    /** [N], or null: temperatures, finite and above 0, for a loss that reads them, not sft, nll, odds_ratio and orpo; nor for
     *  losses whose own temperatures differ. */
    const float *beta;
    /** [N], or null: target margins, finite. */
    const float *gamma;
    /** [N], or null: factors of the pair losses, finite, from 0. A pair of weight 0 is not part of the batch, whatever its
     *  numbers are: not of the loss, the coefficients, the metrics and what is counted. Its rewards are still written. */
    const float *weight;
    /** [N], or null: label smoothing, in the range of the loss. */
    const float *label_smoothing;
    /** [S], or null: logarithms of weights without gradient; a pair's is the sum of its two sequences', or where
     *  dpo_loss.wpo_weights is 1 that sum up to 0. */
    const float *sequence_log_weights;
    /** [kl_count], or null: log-probs of mismatched completions, for the baseline of kto. */
    const float *kl_logps;
    /** [kl_count], or null where kl_logps is or the loss is reference_free: the same under the reference. */
    const float *kl_ref_logps;
    /** Number of mismatched completions, from 1 to 2^31 - 1; 0 where kl_logps is null. */
    size_t kl_count;
    /** [1], or null: what the sum of the pair losses is divided by, whatever dpo_loss says. */
    const float *normalizer;
    /** [1], or null: what sft divides by, instead of this batch's number of scored chosen tokens. */
    const float *chosen_tokens;
} dpo_pair_inputs;

/** Bits of dpo_loss.given. */
#define DPO_LOSS_LABEL_SMOOTHING (1u << 0)
#define DPO_LOSS_GAMMA (1u << 1)
#define DPO_LOSS_BASELINE (1u << 2)
#define DPO_LOSS_ALPHA (1u << 3)
#define DPO_LOSS_NORMALIZER (1u << 4)

/** A pair loss. With nothing but beta it is DPO's, which compares with a reference: -log sigmoid(u). */
typedef struct dpo_loss {
    /** sizeof(dpo_loss). */
    size_t struct_size;
    /** Temperature, finite and above 0, of the losses whose terms have none of their own; 0 where all terms have. */
    double beta;
    /** [term_count], or null for sigmoid alone: the losses that are summed. */
    const dpo_loss_term *terms;
    /** Number of terms, from 1 to 4; 0 where terms is null. */
    size_t term_count;
    /** What log-ratios are valued by. */
    dpo_divergence divergence;
    /** What the sum of the pair losses is divided by. */
    dpo_normalizer normalized_by;
    /** 1 divides a sequence's log-ratio by its number of scored tokens (0 counts as 1); 0 leaves it as it is. */
    int32_t length_normalized;
    /** 1 weighs pairs as WPO does, by min(1, e^w) where w is the sum of dpo_pair_inputs.sequence_log_weights of its two
     *  sequences, which are needed then; with 0 the weight is e^w, which may be above 1. */
    int32_t wpo_weights;
    /** 1 takes the loss over log-probs where it is over log-ratios, for a policy without a reference: ref_logps and kl_ref_logps
     *  are null then. With 0, a loss that compares with a reference needs them; simpo, cpo and orpo are without one as they
     *  are. */
    int32_t reference_free;
    /** The DPO_LOSS_ bits of the numbers that are there. */
    uint32_t given;
    /** Probability that a preference is flipped, for losses that take one: from 0 to 0.5, below 0.5 for robust, above 0 for
     *  exo_pair. DPO_LOSS_LABEL_SMOOTHING; otherwise 0, and the table's values for robust and exo_pair. */
    double label_smoothing;
    /** Target margin: the margin of rewards that a pair is to be won by, finite, for losses of the margin. DPO_LOSS_GAMMA;
     *  otherwise 0, or what simpo's parameter says. */
    double gamma;
    /** Baseline of kto, in nats, finite, from 0. DPO_LOSS_BASELINE; otherwise it comes from dpo_pair_inputs.kl_logps. */
    double baseline;
    /** a of DPO_ALPHA_DIVERGENCE, finite, which needs DPO_LOSS_ALPHA; no other divergence takes it. */
    double alpha;
    /** A number to divide the sum of the pair losses by, finite and above 0, such as the pairs of all batches of an
     *  optimizer step. DPO_LOSS_NORMALIZER, and normalized_by is DPO_BY_PAIRS; otherwise what normalized_by says. */
    double normalizer;
    /** What else pair_loss reads, or null for nothing. */
    const dpo_pair_inputs *inputs;
} dpo_loss;

/** What a pass found in its data: for each kind of trouble its first place, or DPO_NO_TROUBLE. */
typedef struct dpo_status {
    /** Row whose label is neither the ignore index nor below V; its log-prob is NaN. */
    uint32_t bad_label;
    /** Scored row whose log-prob is NaN or infinite. */
    uint32_t nonfinite_row;
    /** Sequence without a scored row; its log-prob is 0. */
    uint32_t empty_sequence;
    /** CUDA: entry of cu_seqlens that is out of order; every output is NaN. (In host memory: DPO_ERROR_INDEX.) */
    uint32_t bad_cu_seqlens;
    /** CUDA: pair whose indices are out of range; its outputs are NaN. (In host memory: DPO_ERROR_INDEX.) */
    uint32_t bad_pair;
    /** Pair, or sequence where they are unpaired, with a reference log-prob, a weight or a baseline that is not finite; on
     *  CUDA also with one of the dpo_pair_inputs out of its range. A number that all pairs share is the first one's. What
     *  reads it is NaN or infinite. */
    uint32_t bad_pair_input;
} dpo_status;

/**
 * Means over the scored rows of a batch, whatever their weights: 0 where there is none, so that means of several batches,
 * weighted by `scored`, make those of all together. What is NaN in one of the rows is NaN in the mean, but for accuracy,
 * which counts that row as wrong. CUDA: where cu_seqlens is out of order, scored is 0 and all means are NaN.
 */
typedef struct dpo_mean_token_metrics {
    /** Number of scored rows. */
    uint32_t scored;
    /** Mean entropy of the softmax, in nats. */
    float entropy;
    /** Share of rows whose label has the largest logit, the first of equals. */
    float accuracy;
    /** Mean of the logits, scaled and capped. */
    float mean_logit;
    /** Mean log-sum-exp, in nats. */
    float logsumexp;
    /** Mean of the sums of the squares of the probabilities. */
    float sum_p2;
} dpo_mean_token_metrics;

/** Where metrics of tokens are written, from the same read of the logits. What is null is not computed where that is
 *  cheaper. */
typedef struct dpo_token_metrics {
    /** sizeof(dpo_token_metrics). */
    size_t struct_size;
    /** [rows], or null: entropy of the softmax, in nats; 0 in rows that are not scored, as in the next three. */
    float *entropy;
    /** [rows], or null: 1 where the label has the largest logit of its row, the first of equals; else 0. */
    float *correct;
    /** [rows], or null: mean of the logits, scaled and capped. */
    float *mean_logit;
    /** [rows], or null: sum of the squares of the probabilities. */
    float *sum_p2;
    /** [S], or null: mean over the scored tokens of log-prob - log sum_p2: the logarithm of WPO's weight, which
     *  dpo_loss.wpo_weights cuts off at 1. */
    float *sequence_log_weights;
    /** [1], or null: means over the batch, whether the arrays that they are means of are asked for or not. */
    dpo_mean_token_metrics *mean;
} dpo_token_metrics;

/** Where logps writes. */
typedef struct dpo_logps {
    /** sizeof(dpo_logps). */
    size_t struct_size;
    /** [S]: sum of the scored token log-probs of each sequence. */
    float *logps;
    /** [S], or null: number of scored rows. */
    uint32_t *scored;
    /** [rows], or null: log-prob of the label; 0 in rows that are not scored. */
    float *token_logps;
    /** [rows], or null: log-sum-exp over the vocabulary, which backward needs; 0 in rows that are not scored. */
    float *logsumexp;
    /** [rows], or null: what rounding took from logsumexp; with it backward is exact where |logsumexp| is large. */
    float *logsumexp_residual;
    /** [rows], or null: what each token counts in its sequence's sum: 1, or ld_alpha; 0 in rows that are not scored.
     *  backward needs it where ld_alpha is not 1. */
    float *token_weights;
    /** Where metrics of tokens are written, or null for none. */
    const dpo_token_metrics *metrics;
    /** [1]: what was found in the data. */
    dpo_status *status;
} dpo_logps;

/**
 * The loss of a batch, and means over its pairs; a pair of weight 0 is none of them. A mean over nothing is 0, so that means
 * of several batches, or of several ranks, weighted by what they are means over, make those of all together.
 */
typedef struct dpo_pair_metrics {
    /** Number of pairs, or of sequences where they are unpaired. */
    uint32_t pairs;
    /** Number of chosen sequences: `pairs`, or of unpaired sequences the desirable. */
    uint32_t chosen;
    /** Number of rejected sequences: `pairs`, or of unpaired sequences the others. */
    uint32_t rejected;
    /** Sum of the pair losses, divided by the normalizer; 0 where that is a count of nothing. */
    float loss;
    /** Mean of the rewards of `chosen` sequences. */
    float chosen_reward;
    /** Mean of the rewards of `rejected` sequences. */
    float rejected_reward;
    /** Mean of the margins of `pairs`; of unpaired sequences chosen_reward - rejected_reward, and 0 where there are none of one
     *  kind. */
    float margin;
    /** Share of `pairs` whose chosen reward is above the rejected one; a tie, or a NaN, counts as wrong. A reward that an
     *  unpaired sequence does not have is 0 here. */
    float accuracy;
} dpo_pair_metrics;

/**
 * Everything that there is one of in a batch, side by side, so that one copy fetches it from the GPU: its fields are where
 * dpo_logps, dpo_pair_outputs and dpo_token_metrics may point to.
 */
typedef struct dpo_batch_metrics {
    /** For dpo_logps.status. */
    dpo_status status;
    /** For dpo_pair_outputs.metrics. */
    dpo_pair_metrics pairs;
    /** For dpo_token_metrics.mean. */
    dpo_mean_token_metrics tokens;
} dpo_batch_metrics;

/** Where pair_loss writes. */
typedef struct dpo_pair_outputs {
    /** sizeof(dpo_pair_outputs). */
    size_t struct_size;
    /** [N]: loss of each pair, before the normalizer. */
    float *pair_losses;
    /** [N]: beta (logp - ref_logp) of each chosen sequence. */
    float *chosen_rewards;
    /** [N]: beta (logp - ref_logp) of each rejected sequence. */
    float *rejected_rewards;
    /** [N]: chosen reward - rejected reward. */
    float *margins;
    /** [S]: c_s = d loss / d logp_s, what backward takes. */
    float *coef;
    /** [1]: the loss of the batch, and means over its pairs. */
    dpo_pair_metrics *metrics;
} dpo_pair_outputs;

/** Bits of dpo_gradient.given. */
#define DPO_GRADIENT_UPSTREAM_SCALE (1u << 0)
#define DPO_GRADIENT_THRESHOLD (1u << 1)

/** What backward reads besides logits and labels, and where it writes. */
typedef struct dpo_gradient {
    /** sizeof(dpo_gradient). */
    size_t struct_size;
    /** [rows], of logps. */
    const float *logsumexp;
    /** [rows], of logps, or null: then every gradient of a row is off by up to |logsumexp| 2^-24 of itself. */
    const float *logsumexp_residual;
    /** [S], or null for 1: d loss / d logp of each sequence, of pair_loss or your own. */
    const float *coef;
    /** [rows], or null for 1: a factor of each token. Where the batch's ld_alpha is not 1, it is logps' token_weights, times
     *  your own factors if there are any. */
    const float *token_coef;
    /** [rows], or null: d loss / d H_r, for an objective with the entropies H_r of rows in it. Their gradient,
     *  -e_r p (log p + H_r) at a logit of probability p, comes to that of the log-probs; upstream is a factor of e_r too, and
     *  rows are skipped where both coefficients are small. Needs entropy. */
    const float *entropy_coef;
    /** [rows], of logps' dpo_token_metrics, where entropy_coef is there; otherwise null. */
    const float *entropy;
    /** [1], or null for 1: the upstream gradient, a factor of every coefficient, in the memory that the call is about. */
    const float *upstream;
    /** The DPO_GRADIENT_ bits of the numbers that are there. */
    uint32_t given;
    /** Another factor of every coefficient, which the host knows. DPO_GRADIENT_UPSTREAM_SCALE; otherwise 1. */
    float upstream_scale;
    /** Rows whose coefficient, all factors included, is no larger than this in magnitude are written as zeros without
     *  being read; finite and not below 0. A NaN is larger. DPO_GRADIENT_THRESHOLD; otherwise 0, which are the rows whose
     *  coefficient is exactly 0. */
    float threshold;
    /** [1], or null: lowered to the first row whose gradient holds an infinity (the overflow of an f16) or a NaN. Set it
     *  to DPO_NO_TROUBLE before; several calls may share it. */
    uint32_t *nonfinite_row;
    /** [rows, V] in the type and row_stride of the logits: the logits buffer itself, or one apart from it. */
    void *dlogits;
} dpo_gradient;

/** Bits of dpo_lm_head.given. */
#define DPO_LM_HEAD_BUDGET_BYTES (1u << 0)

/**
 * What the functions behind the language model's head read where the others read dpo_inputs: hidden states X, and the head's
 * weight W and bias b, of which the logits z = X W^T + b are made. The transform of the batch is that of these logits. Rows of
 * the weight from its valid_vocab on are padding: they are not read, and their gradient is left as it is.
 */
typedef struct dpo_lm_head {
    /** sizeof(dpo_lm_head). */
    size_t struct_size;
    /** Element type of hidden, weight and bias, and of the gradient of hidden. */
    dpo_dtype dtype;
    /** Element type of the labels. */
    dpo_label_type label_type;
    /** H, the elements of a hidden state, from 1 to 2^31 - 1. */
    size_t hidden_size;
    /** X, [rows, H] of dpo_dtype, dense. Ignored rows are not read and may hold anything. */
    const void *hidden;
    /** W, [V, H] of dpo_dtype, dense. */
    const void *weight;
    /** b, [V] of dpo_dtype, or null for none. CUDA: aligned to 16. */
    const void *bias;
    /** [rows] of dpo_label_type: a token id below V, or the ignore index. CUDA: in host memory, too. */
    const void *labels;
    /** The DPO_LM_HEAD_ bits of the numbers that are there. */
    uint32_t given;
    /** Bytes of a chunk at most, of which a row takes 4 (V + 2 H), with the batch's valid_vocab where it has one for V; at least
     *  one row. DPO_LM_HEAD_BUDGET_BYTES, which the dpo_cuda_lm_head_ functions refuse, whose workspace has a budget_bytes of its
     *  own; otherwise 2^29. */
    size_t budget_bytes;
} dpo_lm_head;

/** What backward reads behind a head besides hidden states, weight and labels: what logps gave, and the coefficients of a loss
 *  of your own. */
typedef struct dpo_lm_head_backward_inputs {
    /** sizeof(dpo_lm_head_backward_inputs). */
    size_t struct_size;
    /** [rows], of logps. */
    const float *logsumexp;
    /** [rows], of logps, or null: then every gradient of a row is off by up to |logsumexp| 2^-24 of itself. */
    const float *logsumexp_residual;
    /** [S], or null for 1: d loss / d logp of each sequence. */
    const float *coef;
    /** [rows], or null for 1: a factor of each token. Where the batch's ld_alpha is not 1, it is logps' token_weights, times
     *  your own factors if there are any. */
    const float *token_coef;
    /** [rows], or null: d loss / d H_r, for an objective with the entropies H_r of rows in it. Their gradient,
     *  -e_r p (log p + H_r) at a logit of probability p, comes to that of the log-probs; upstream is a factor of e_r too, and
     *  rows are skipped where both coefficients are small. Needs entropy. */
    const float *entropy_coef;
    /** [rows], of logps' dpo_token_metrics, where entropy_coef is there; otherwise null. */
    const float *entropy;
    /** The DPO_GRADIENT_THRESHOLD bit, if that number is there. */
    uint32_t given;
    /** Rows whose coefficient, all factors included, is no larger than this in magnitude are not multiplied: their dX is 0, and
     *  they have no part in dW and db. Finite and not below 0. A NaN is larger. DPO_GRADIENT_THRESHOLD; otherwise 0, which are
     *  the rows whose coefficient is exactly 0. */
    float threshold;
} dpo_lm_head_backward_inputs;

/** The gradients that are wanted of a pass through the head, with c the coefficient of each row, all factors included, and
 *  G[r, v] = 1[v = y_r] - softmax(z[r])[v], by the chain rule where logits are scaled or capped. */
typedef struct dpo_lm_head_gradients {
    /** sizeof(dpo_lm_head_gradients). */
    size_t struct_size;
    /** [1], or null for 1: the upstream gradient, a factor of every coefficient, in the memory that the call is about. */
    const float *upstream;
    /** The DPO_GRADIENT_UPSTREAM_SCALE bit, if that number is there. */
    uint32_t given;
    /** Another factor of every coefficient, which the host knows. DPO_GRADIENT_UPSTREAM_SCALE; otherwise 1. */
    float upstream_scale;
    /** dX = diag(c) (G W), [rows, H] of the head's dpo_dtype, overwritten, exactly 0 in rows that are not scored or whose
     *  coefficient is 0; or null: not wanted. */
    void *hidden;
    /** dW = G^T (diag(c) X), [V, H], which is added to what is there, so that micro-batches add up: zero it before the first of
     *  them; or null: not wanted. */
    float *weight;
    /** db = G^T c, [V], which is added to what is there; or null: not wanted. */
    float *bias;
    /** [1], or null: lowered to the first row whose coefficient, logsumexp or dX is an infinity or a NaN. Set it to
     *  DPO_NO_TROUBLE before; several calls may share it. */
    uint32_t *nonfinite_row;
} dpo_lm_head_gradients;

/**
 * What a pass through the head will do. A product takes 2 V H operations a row. The numbers of rows are of scored rows, in
 * chunks that go the same way; which ways there are follows from the gradients that are wanted:
 *
 *   logps          none is wanted                         1 product    z
 *   frozen_weight  that of the hidden states alone        2 products   z, G W: c comes to a row at the very end
 *   whole_pairs    that of weight or bias, too            3 products   z, G W, G^T (diag(c) X), in chunks of whole pairs
 *   two_sweeps     the same, where a pair is larger than  4 products   z of all rows, then z again with the gradients
 *                  a chunk, or a loss sorts the pairs
 *
 * The product of a gradient that is not wanted is not made; that of the bias, with one column, is not counted.
 */
typedef struct dpo_lm_head_plan {
    /** Number of chunks; 0 where no row is scored. */
    size_t chunks;
    /** Rows of the largest chunk. */
    size_t most_rows;
    /** Bytes of the largest chunk: no more than budget_bytes. */
    size_t chunk_bytes;
    /** Bytes beside it, at most: a block of a weight that is not f32. CUDA: 0. */
    size_t weight_block_bytes;
    /** Rows over all products: at most, since the second of two sweeps leaves out rows whose coefficient is 0. */
    size_t multiplied_rows;
    /** Rows of which log-probs alone are wanted. */
    size_t logps_rows;
    /** Rows whose coefficient comes to G W at the very end. */
    size_t frozen_weight_rows;
    /** Rows of pairs whose gradients are made while their logits are there. */
    size_t whole_pairs_rows;
    /** Rows whose logits are made twice. */
    size_t two_sweeps_rows;
} dpo_lm_head_plan;

/** The version of the library, comparable to DPO_VERSION. Never fails. */
uint32_t dpo_version(void);

/**
 * What was wrong in the last call on this thread that failed: "argument: expected ..., found ..." in UTF-8. Empty if
 * none has. Valid until the next call on this thread that fails. Never null.
 */
const char *dpo_last_error(void);

/**
 * DPO_OK if `status`, in host memory, has no trouble; else DPO_ERROR_DATA, with the troubles in dpo_last_error.
 * DPO_ERROR_VALUE for a null status.
 */
dpo_result dpo_status_check(const dpo_status *status);

/**
 * logps on the CPU: log-probs of the labels, per token and per sequence.
 *
 * `batch`, `inputs` and `out` are described at their types; the pairs of `batch` are checked and otherwise unused.
 * Row sums are in f32 over short blocks and f64 beyond, sequence sums in f64; each is rounded once. What of `out` is
 * null costs nothing.
 *
 * Fails with DPO_ERROR_VALUE or DPO_ERROR_INDEX.
 */
dpo_result dpo_cpu_logps(const dpo_batch *batch, const dpo_inputs *inputs, const dpo_logps *out);

/**
 * pair_loss on the CPU: from log-probs to loss, metrics and coefficients.
 *
 * Of `batch`, only the number of sequences and the pairs are looked at; the rest is ignored and may be 0, as
 * label_alignment may here alone. `logps` is [S]. `ref_logps` is [S], or null
 * where the loss is of log-probs alone or is reference_free.
 * `scored` is [S], or null: the numbers of scored rows, of logps, which a length-normalised loss divides by unless
 * loss->inputs has lengths, and which are counted where a loss is divided by a number of tokens. `status` is [1], and only
 * its bad_pair_input can be set.
 *
 * Fails with DPO_ERROR_VALUE, also for a batch without the pairs that the loss needs; DPO_ERROR_INDEX; or DPO_ERROR_MISSING
 * where the loss needs ref_logps, lengths, scored, or the kl_logps or kl_ref_logps of loss->inputs, and they are not there.
 */
dpo_result dpo_cpu_pair_loss(const dpo_batch *batch, const float *logps, const float *ref_logps,
                             const uint32_t *scored, const dpo_loss *loss, const dpo_pair_outputs *out,
                             dpo_status *status);

/**
 * forward on the CPU: dpo_cpu_logps into `out`, then dpo_cpu_pair_loss into `pair_outputs` with the numbers of scored rows
 * that logps found. `ref_logps` is [S], or null where the loss is of log-probs alone or is reference_free.
 *
 * Fails as these two do, before any work.
 */
dpo_result dpo_cpu_forward(const dpo_batch *batch, const dpo_inputs *inputs, const float *ref_logps,
                           const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pair_outputs);

/**
 * backward on the CPU: the gradient of the loss with respect to the logits, in place where gradient->dlogits is
 * inputs->logits (which then is written, const or not), with the same bits either way.
 *
 * dlogits[r, v] = c (1[v = y_r] - softmax(z[r])[v]) with c = coef[s] * token_coef[r] * upstream[0] * upstream_scale,
 * rounded once to the type of the logits, and by the chain rule where logits are scaled or capped; rows that are not
 * scored become 0.
 *
 * Fails with DPO_ERROR_VALUE, also where dlogits overlaps the logits without being the same; DPO_ERROR_INDEX; or
 * DPO_ERROR_MISSING where ld_alpha is not 1 and token_coef is null.
 */
dpo_result dpo_cpu_backward(const dpo_batch *batch, const dpo_inputs *inputs, const dpo_gradient *gradient);

/**
 * factored on the CPU: dpo_cpu_forward, and the gradient without its coefficients, with one read and one write of the
 * logits. In place where `gradient` is inputs->logits (which then is written, const or not), with the same bits either way.
 *
 * `gradient` is [rows, V] in the type and row_stride of the logits: gradient[r, v] = 1[v = y_r] - softmax(z[r])[v], times the
 * slope of the batch's transform where it has one, rounded once; 0 in rows that are not scored, NaN in rows that cannot be. d loss / d logits is that times
 * pair_outputs->coef[s] of the row's sequence s, which goes into the products that consume it: for a linear head z = X W^T,
 * X [rows, hidden] and W [V, hidden], with c the [rows] coefficients times the upstream gradient,
 *     dX = diag(c) (gradient W)        dW = gradient^T (diag(c) X)
 *
 * Fails as dpo_cpu_forward does, and with DPO_ERROR_VALUE where gradient overlaps the logits without being the same and for
 * metrics of tokens, which only the other passes know; before any work.
 */
dpo_result dpo_cpu_factored(const dpo_batch *batch, const dpo_inputs *inputs, const float *ref_logps,
                            const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pair_outputs,
                            void *gradient);

/**
 * Memory for a chunk of logits and for what goes into and comes out of its products. It grows to what calls need, within
 * their budget_bytes, and is kept until it is freed: one for a whole run allocates once. It serves heads and batches of any
 * shape and type, one call at a time: a call that finds it in use by another one, on another thread, is refused.
 */
typedef struct dpo_cpu_lm_head_workspace dpo_cpu_lm_head_workspace;

/**
 * Stores the handle of an empty workspace in `*workspace`.
 *
 * Fails with DPO_ERROR_VALUE for a null `workspace`.
 */
dpo_result dpo_cpu_lm_head_workspace_create(dpo_cpu_lm_head_workspace **workspace);

/**
 * Gives the memory of a workspace back. The caller sees to it that no call is using it and that the handle is not used again.
 * Null is allowed and does nothing.
 */
void dpo_cpu_lm_head_workspace_free(dpo_cpu_lm_head_workspace *workspace);

/**
 * Stores in `*plan` what dpo_cpu_lm_head_forward would do with the same arguments, or dpo_cpu_lm_head_logps where `gradients` is
 * null, before anything runs. It is computed from the arguments alone and writes nothing else. `loss` may be null where no
 * gradient is wanted.
 *
 * Of `head`, hidden, weight and bias are not looked at; of `gradients`, only which of hidden, weight and bias are null; of
 * `loss`, not its inputs.
 *
 * Fails with DPO_ERROR_VALUE; DPO_ERROR_INDEX; or DPO_ERROR_MISSING where a gradient is wanted and `loss` is null.
 */
dpo_result dpo_cpu_lm_head_plan(const dpo_batch *batch, const dpo_lm_head *head, const dpo_loss *loss,
                                const dpo_lm_head_gradients *gradients, dpo_lm_head_plan *plan);

/**
 * dpo_cpu_logps of z = X W^T + b, of which a chunk of rows exists at a time: log-probs of the labels, per token and per
 * sequence.
 *
 * `batch`, `head` and `out` are described at their types; `batch` has no row_stride. Products have f32 factors and sums, and
 * logits are f32. Rows that are not scored are not multiplied. The same call gives the same bits again, on any number of
 * threads; those of a row may differ from one budget_bytes to another in what rounding makes of its logits.
 *
 * `workspace` is null or of dpo_cpu_lm_head_workspace_create. With null the memory is allocated for the call and given back at
 * its end.
 *
 * Fails with DPO_ERROR_VALUE, also for a workspace that another call is using, or DPO_ERROR_INDEX.
 */
dpo_result dpo_cpu_lm_head_logps(const dpo_batch *batch, const dpo_lm_head *head, const dpo_logps *out,
                                 dpo_cpu_lm_head_workspace *workspace);

/**
 * dpo_cpu_forward of z = X W^T + b, and the gradients of its loss, while a chunk of the logits exists at a time.
 *
 * `ref_logps` is [S], or null where the loss is of log-probs alone or is reference_free. `gradients` is null, or all its
 * buffers are, where no gradient is wanted: then nothing of it is written. A row whose coefficient is 0, such as one of a pair
 * of weight 0, has a dX of exactly 0 and no part in dW and db, whatever its logits are, unless its label is a bad one. Where
 * the gradient of the hidden states alone is wanted, dX is rounded to its type before its coefficient comes to it, and once
 * more after. `workspace` as for dpo_cpu_lm_head_logps.
 *
 * Fails as dpo_cpu_lm_head_logps and dpo_cpu_pair_loss do, and with DPO_ERROR_VALUE where a gradient overlaps what no gradient
 * may, before any work.
 */
dpo_result dpo_cpu_lm_head_forward(const dpo_batch *batch, const dpo_lm_head *head, const float *ref_logps,
                                   const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pair_outputs,
                                   const dpo_lm_head_gradients *gradients, dpo_cpu_lm_head_workspace *workspace);

/**
 * The gradients of a loss of your own, from what dpo_cpu_lm_head_logps gave and coefficients. The logits are made again, but for
 * rows that threshold skips. c = coef[s] * token_coef[r] * upstream[0] * upstream_scale. `workspace` as for
 * dpo_cpu_lm_head_logps.
 *
 * Fails with DPO_ERROR_VALUE, also for a workspace that another call is using and where a gradient overlaps what no gradient
 * may; DPO_ERROR_INDEX; or DPO_ERROR_MISSING where ld_alpha is not 1 and token_coef is null. All before any work.
 */
dpo_result dpo_cpu_lm_head_backward(const dpo_batch *batch, const dpo_lm_head *head,
                                    const dpo_lm_head_backward_inputs *inputs, const dpo_lm_head_gradients *gradients,
                                    dpo_cpu_lm_head_workspace *workspace);

/** The kernels, loaded into a CUDA context. May be shared between threads. */
typedef struct dpo_cuda_kernels dpo_cuda_kernels;

/**
 * Loads the kernels into the CUDA context that is current on this thread (after a call of the CUDA runtime: the
 * device's primary context), and stores a handle in `*kernels`. Allocates and may synchronise: once, not per step.
 *
 * Fails with DPO_ERROR_VALUE for a null `kernels`, DPO_ERROR_NO_DRIVER, DPO_ERROR_NO_IMAGE, DPO_ERROR_DRIVER or
 * DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_load(dpo_cuda_kernels **kernels);

/**
 * Unloads the kernels. The caller sees to it that the work that was queued with them is done, that their context still
 * exists, and that the handle is not used again. Null is allowed and does nothing.
 */
void dpo_cuda_free(dpo_cuda_kernels *kernels);

/** What dpo_cuda_logps, dpo_cuda_forward and dpo_cuda_factored need beside their results: memory of the caller's in which
 *  blocks count and pass sums on. It is zeroed once, after allocation; a launch finds its counters at zero and leaves them
 *  so. It serves batches of any shape within the numbers here, which stay as they are from launch to launch, and one launch at
 *  a time. A batch that has more of one of them is refused. */
typedef struct dpo_workspace {
    /** sizeof(dpo_workspace). */
    size_t struct_size;
    /** The most sequences of a batch, from 1 to 2^31 - 1. */
    size_t sequences;
    /** The most rows of a batch, from 1 to 2^31 - 1. */
    size_t rows;
    /** The largest vocab of a batch, from 1 to 2^31 - 1. */
    size_t vocab;
    /** dpo_cuda_workspace_size bytes of device memory, aligned to 4. */
    void *memory;
} dpo_workspace;

/**
 * Stores in `*bytes` how much memory `workspace` needs: about 28 bytes a row and 56 a sequence, and 24 more for each of the
 * slices that a long row is read in. Its `memory` is not looked at, and no device is needed.
 *
 * Fails with DPO_ERROR_VALUE or DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_workspace_size(const dpo_workspace *workspace, size_t *bytes);

/*
 * The functions that follow queue one kernel each on `stream`, a CUstream or cudaStream_t (null is the default stream). They
 * allocate, copy and wait for nothing, so they can be captured into a CUDA graph. The context that `kernels` was loaded into
 * is current on this thread, `stream` belongs to it, and every pointer in the structs is a device address of a buffer that
 * lives until the work is done. They fail as their twins on the CPU do, but
 * for what only the contents of device memory can tell, and with DPO_ERROR_DRIVER or DPO_ERROR_UNSUPPORTED; faults of the
 * work itself show where the stream is next waited for.
 */

/** logps on a GPU, as dpo_cpu_logps. */
dpo_result dpo_cuda_logps(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                          const dpo_logps *out, const dpo_workspace *workspace, void *stream);

/** pair_loss on a GPU, as dpo_cpu_pair_loss. `status` is [1] in device memory, and only its bad_pair and
 *  bad_pair_input can be set. */
dpo_result dpo_cuda_pair_loss(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const float *logps,
                              const float *ref_logps, const uint32_t *scored, const dpo_loss *loss,
                              const dpo_pair_outputs *out, dpo_status *status, void *stream);

/** forward on a GPU, as dpo_cpu_forward. */
dpo_result dpo_cuda_forward(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                            const float *ref_logps, const dpo_loss *loss, const dpo_logps *out,
                            const dpo_pair_outputs *pair_outputs, const dpo_workspace *workspace, void *stream);

/** factored on a GPU, as dpo_cpu_factored. */
dpo_result dpo_cuda_factored(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                             const float *ref_logps, const dpo_loss *loss, const dpo_logps *out,
                             const dpo_pair_outputs *pair_outputs, void *gradient, const dpo_workspace *workspace, void *stream);

/** backward on a GPU, as dpo_cpu_backward. */
dpo_result dpo_cuda_backward(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                             const dpo_gradient *gradient, void *stream);

/** cuBLASLt, which multiplies the matrices of the dpo_cuda_lm_head_ functions, with what it has made for the shapes that it has
 *  met. May be shared between threads. */
typedef struct dpo_cuda_products dpo_cuda_products;

/**
 * Loads cuBLASLt for the CUDA context that is current on this thread, and stores a handle in `*products`: once, not per step.
 *
 * Fails with DPO_ERROR_VALUE for a null `products`, DPO_ERROR_NO_CUBLASLT, with the names of the files that were looked for,
 * DPO_ERROR_CUBLASLT, DPO_ERROR_NO_DRIVER, DPO_ERROR_DRIVER or DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_products_create(dpo_cuda_products **products);

/**
 * Gives back what the handle has. The caller sees to it that the work that was queued with it is done, that its context still
 * exists, and that the handle is not used again. Null is allowed and does nothing.
 */
void dpo_cuda_products_free(dpo_cuda_products *products);

/** Bits of dpo_cuda_lm_head_workspace.given. */
#define DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE (1u << 0)
#define DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES (1u << 1)
#define DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES (1u << 2)

/** What the dpo_cuda_lm_head_ functions need beside their results: memory of the caller's for a chunk of logits, for what goes
 *  into and comes out of its products, for numbers of the scored rows, and for what blocks count and pass on. It is zeroed once,
 *  after allocation. It serves heads of one type and size, with batches of any shape within the numbers here, which stay as they
 *  are from call to call, and one call at a time: calls on one stream, one after the other. A batch that has more of one of them
 *  is refused. */
typedef struct dpo_cuda_lm_head_workspace {
    /** sizeof(dpo_cuda_lm_head_workspace). */
    size_t struct_size;
    /** The most sequences of a batch, from 1 to 2^31 - 1. */
    size_t sequences;
    /** The most scored rows of a batch, from 1 to 2^31 - 1: no other row is multiplied. */
    size_t rows;
    /** The most pairs of a batch, N, up to 2^31 - 1; 0 where batches have none. */
    size_t pairs;
    /** The largest vocab of a batch, or valid_vocab of one that has it, from 1 to 2^31 - 1. */
    size_t vocab;
    /** H of the heads, from 1 to 2^31 - 1. */
    size_t hidden_size;
    /** Element type of the heads. */
    dpo_dtype dtype;
    /** The DPO_LM_HEAD_WORKSPACE_ bits of what is there. */
    uint32_t given;
    /** Element type of a chunk's logits: dtype; or DPO_F32, with which products are not rounded before log-probs come of them.
     *  DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE; otherwise dtype. */
    dpo_dtype logits_dtype;
    /** Bytes of a chunk at most; at least one row. A row takes the elements of V, filled up to a multiple of 8, in logits_dtype,
     *  and once more in dtype where that is another type; and those of H in dtype and in f32.
     *  DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES; otherwise what as many rows take as have 2^29 bytes of logits in dtype. */
    size_t budget_bytes;
    /** Bytes that each product may work in. DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES; otherwise 2^25. */
    size_t product_bytes;
    /** dpo_cuda_lm_head_workspace_size bytes of device memory, aligned to 256. */
    void *memory;
} dpo_cuda_lm_head_workspace;

/**
 * Stores in `*bytes` how much memory `workspace` needs: a chunk, product_bytes, about 72 bytes a scored row and 64 a sequence,
 * and 24 more for each of the slices that a long row is read in. Its `memory` is not looked at, and no device is needed.
 *
 * Fails with DPO_ERROR_VALUE or DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_lm_head_workspace_size(const dpo_cuda_lm_head_workspace *workspace, size_t *bytes);

/**
 * Stores in `*plan` what dpo_cuda_lm_head_forward would do with the same arguments, or dpo_cuda_lm_head_logps where `gradients`
 * is null: dpo_cpu_lm_head_plan for a GPU, with the same arguments that are not looked at, and nor is the memory of `workspace`.
 * No device is needed.
 *
 * Fails as dpo_cpu_lm_head_plan does, for a batch that `workspace` is too small for, and with DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_lm_head_plan(const dpo_batch *batch, const dpo_lm_head *head, const dpo_loss *loss,
                                 const dpo_lm_head_gradients *gradients, const dpo_cuda_lm_head_workspace *workspace,
                                 dpo_lm_head_plan *plan);

/*
 * The functions that follow queue a copy, kernels and products on `stream`, a CUstream or cudaStream_t (null is the default
 * stream), and wait for nothing. NO GPU HAS RUN THEIR PRODUCTS YET: all else of them runs in the tests' interpreter.
 *
 * HOST MEMORY: `labels` of the head, and cu_seqlens, chosen, rejected and desirable of the batch, are in host memory here, as
 * they are for dpo_cpu_*, and are read before the call returns: which rows are scored, and so multiplied, has to be known before
 * anything is queued. Copy labels that are in device memory to the host first. All other pointers are device addresses of
 * buffers that live until the work is done.
 *
 * What is known of the scored rows goes to the workspace by one small copy on the stream, whose source the library owns. A
 * stream that is being captured into a CUDA graph is refused, since the graph would copy the rows of this batch again. The
 * context that `kernels` and `products` are of is current on this thread, and `stream` belongs to it.
 *
 * Products have factors of the head's type and sums in f32. The gradient of the weight is a product of G and of diag(c) X, both
 * rounded to the head's type: where that is f16, let the upstream gradient be as large as keeps c X from vanishing. The gradient
 * of the hidden states is rounded once, or where it alone is wanted before its coefficient comes to it, too. The same call gives
 * the same bits again on the same device with the same cuBLASLt.
 *
 * They fail as their twins on the CPU do, but for what only the contents of device memory can tell; with DPO_ERROR_VALUE also for
 * a head that is not `workspace`'s, a batch that it is too small for, a gradient that overlaps hidden states, weight, bias, another
 * gradient or the workspace, handles of two contexts, and a stream that is being captured; and with DPO_ERROR_DRIVER, DPO_ERROR_CUBLASLT or
 * DPO_ERROR_UNSUPPORTED. Faults of the work itself show where the stream is next waited for. Where the driver or cuBLASLt refuses
 * something half-way, what comes before it is queued.
 */

/** dpo_cpu_lm_head_logps on a GPU. */
dpo_result dpo_cuda_lm_head_logps(const dpo_cuda_kernels *kernels, const dpo_cuda_products *products,
                                  const dpo_batch *batch, const dpo_lm_head *head, const dpo_logps *out,
                                  const dpo_cuda_lm_head_workspace *workspace, void *stream);

/** dpo_cpu_lm_head_forward on a GPU. */
dpo_result dpo_cuda_lm_head_forward(const dpo_cuda_kernels *kernels, const dpo_cuda_products *products,
                                    const dpo_batch *batch, const dpo_lm_head *head, const float *ref_logps,
                                    const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pair_outputs,
                                    const dpo_lm_head_gradients *gradients, const dpo_cuda_lm_head_workspace *workspace,
                                    void *stream);

/** dpo_cpu_lm_head_backward on a GPU. */
dpo_result dpo_cuda_lm_head_backward(const dpo_cuda_kernels *kernels, const dpo_cuda_products *products,
                                     const dpo_batch *batch, const dpo_lm_head *head,
                                     const dpo_lm_head_backward_inputs *inputs, const dpo_lm_head_gradients *gradients,
                                     const dpo_cuda_lm_head_workspace *workspace, void *stream);

#ifdef __cplusplus
}
#endif

#endif
