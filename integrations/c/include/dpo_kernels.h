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
 *
 * Three stages: (1) logits to log-probs, (2) log-probs to loss, metrics and c_s, (3) logits, logsumexp and c_s to the
 * gradient. dpo_*_logps is logps, dpo_*_pair_loss pair_loss, dpo_*_forward both in one pass over the logits,
 * dpo_*_backward backward. A loss of your own takes logps from logps, computes its c_s, and hands them to backward.
 *
 * MEMORY. dpo_cpu_* take pointers to host memory and return when the work is done. dpo_cuda_* take pointers to memory
 * of the GPU (or managed memory) in the very same structs, queue the work on the caller's stream and return at once.
 * The structs themselves are always in host memory and are read before the call returns. Nothing is kept between calls:
 * every buffer is the caller's, and the size of each follows from the batch:
 *
 *   rows   sequences * sequence_len where padded, dpo_batch.rows where packed
 *   S      sequences
 *   N      pairs: S / 2 where concatenated or interleaved, dpo_batch.pairs where indexed, 0 where there are none
 *   V      vocab
 *
 * Pointers are aligned to their element type. Buffers that a call writes overlap no other, save dlogits, which may be
 * the logits. Fields and arguments marked "or null" may be null; all others may not.
 *
 * UNITS. Log-probs and log-sum-exps are natural (nats) and sums over tokens, never means. Rewards and margins are
 * beta times nats, per token where the loss is length-normalised.
 *
 * ERRORS. Calls return DPO_OK or the kind of what is wrong; dpo_last_error says which argument, what was expected and
 * what came. A call that fails has written nothing. What only the pass itself can see (bad labels, non-finite rows) is
 * in the dpo_status beside the results, and never hidden in them: NaN stays NaN. No panic and no exception crosses.
 *
 * THREADS. Every function may be called from any thread, also at the same time as others, as long as no two calls
 * write the same buffer (a workspace counts). dpo_cpu_* spread over a pool of threads that is made at the first call,
 * RAYON_NUM_THREADS of them or one per core. The same inputs give the same bits, whatever the number of threads.
 *
 * VERSIONS. Set struct_size of every struct to its sizeof; a struct of a size that the library does not know is
 * refused. DPO_VERSION is the header's version, dpo_version() the library's.
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

/** Label of a position that is not scored, as PyTorch has it: the usual dpo_batch.ignore_index. */
#define DPO_IGNORE_INDEX (-100)

/** In a dpo_status: no trouble of this kind. */
#define DPO_NO_TROUBLE 0xffffffffu

/** What a call returns. */
typedef enum dpo_result {
    /** The call did what it says; on CUDA, the work is queued. */
    DPO_OK = 0,
    /** An argument is null, misaligned, unknown or outside its domain, or a struct_size is not this version's. */
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
    DPO_ERROR_INTERNAL = 9
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

/** Which label a row of logits predicts. */
typedef enum dpo_label_alignment {
    /** Row r predicts labels[r]: the labels are already shifted. */
    DPO_ALIGNED = 0,
    /** Row t of a sequence predicts labels[t + 1], and its last row is ignored: Hugging Face's unshifted tensors. */
    DPO_NEXT_TOKEN = 1
} dpo_label_alignment;

/** How sequences form pairs. */
typedef enum dpo_pairs {
    /** S = 2N: sequences 0..N are chosen, N..2N rejected, in the same order. */
    DPO_PAIRS_CONCATENATED = 0,
    /** S = 2N: sequence 2i is chosen, 2i + 1 rejected. */
    DPO_PAIRS_INTERLEAVED = 1,
    /** Pair i is (chosen[i], rejected[i]). The coefficients of a sequence in several pairs add up; in none it is 0. */
    DPO_PAIRS_INDEXED = 2,
    /** No pairs: log-probs only, such as the reference model's pass. */
    DPO_PAIRS_NONE = 3,
    /** Sequences judged one by one, for losses such as KTO: N = S, and sequence i is chosen where chosen[i] is not 0, and
     *  rejected where it is. The missing side has a reward of 0; means are over the sides that are there. */
    DPO_PAIRS_UNPAIRED = 4
} dpo_pairs;

/** A batch of labelled sequences of logits, without the logits. Every sequence is a contiguous run of rows. */
typedef struct dpo_batch {
    /** sizeof(dpo_batch). */
    size_t struct_size;
    /** V, from 1 to 2^31 - 1. */
    size_t vocab;
    /** Elements from the start of a row to the start of the next, at least vocab; those between are not touched. */
    size_t row_stride;
    /** S, from 1 to 2^31 - 1; even where pair_layout is DPO_PAIRS_CONCATENATED or DPO_PAIRS_INTERLEAVED. */
    size_t sequences;
    /** Rows per sequence where cu_seqlens is null: sequence s is rows s * sequence_len .. (s + 1) * sequence_len. */
    size_t sequence_len;
    /** [S + 1], or null for padded sequences: sequence s is rows cu_seqlens[s] .. cu_seqlens[s + 1]. From 0 to rows,
     *  never decreasing; equal neighbours are an empty sequence. */
    const int32_t *cu_seqlens;
    /** Number of rows where cu_seqlens is given, from 1 to 2^31 - 1; not looked at otherwise. */
    size_t rows;
    /** How sequences form pairs. */
    dpo_pairs pair_layout;
    /** Which label a row predicts. */
    dpo_label_alignment label_alignment;
    /** N where pair_layout is DPO_PAIRS_INDEXED, from 1 to 2^31 - 1; not looked at otherwise. */
    size_t pairs;
    /** [N] sequence indices where pair_layout is DPO_PAIRS_INDEXED; [S] flags where it is DPO_PAIRS_UNPAIRED; not looked at otherwise. */
    const int32_t *chosen;
    /** [N] sequence indices where pair_layout is DPO_PAIRS_INDEXED; not looked at otherwise. */
    const int32_t *rejected;
    /** Label of positions that are not scored; usually DPO_IGNORE_INDEX. */
    int64_t ignore_index;
    /** Columns from here on are padding of the vocabulary: not read, no part of the softmax, gradient exactly 0, and a
     *  label there is a bad one. From 1 to V; 0 stands for V. */
    size_t valid_vocab;
    /** What logits are multiplied with before the softmax: 1 / temperature, finite and above 0; 0 stands for 1. */
    float logit_scale;
    /** C, finite and above 0: then scaled logits z become C tanh(z / C). 0: no soft cap. */
    float softcap;
    /** Not 0: length desensitization (LD-DPO). Pairs are concatenated or interleaved. */
    int32_t length_desensitized;
    /** The weight, from 0 to 1, of the scored tokens of a sequence beyond as many as the other of its pair has; not
     *  looked at unless length_desensitized. */
    float ld_alpha;
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

/** What a log-ratio is worth to a loss of the margin. */
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

/** What a sum of pair losses is divided by. */
typedef enum dpo_normalizer {
    /** dpo_loss.normalizer, or the number of pairs where that is 0. */
    DPO_BY_NUMBER = 0,
    /** The number of scored tokens of the batch's pairs, chosen and rejected. */
    DPO_BY_TOKENS = 1
} dpo_normalizer;

/** One loss of a weighted sum. */
typedef struct dpo_loss_term {
    /** A name of the library's table of losses, such as "sigmoid", "ipo", "kto" or "simpo". */
    const char *name;
    /** Its weight, finite and above 0. */
    double weight;
    /** Parameters of its own, in the order of the README's table of losses; 0 for the usual value, or for none. */
    double parameters[2];
} dpo_loss_term;

/**
 * What pair_loss reads besides log-probs, all of it optional, in the memory that the call is about. dpo_cpu_* refuse values
 * out of their ranges; on CUDA they give NaN in the pair's loss and coefficients.
 */
typedef struct dpo_pair_inputs {
    /** sizeof(dpo_pair_inputs). */
    size_t struct_size;
    /** [S], or null: what a loss divides by, where that is not the number of scored rows; 0 counts as 1. */
    const uint32_t *lengths;
    /** [N], or null: temperatures, finite and above 0. */
    const float *beta;
    /** [N], or null: margins of rewards to be won by, finite. */
    const float *gamma;
    /** [N], or null: factors of the pair losses, finite, from 0. */
    const float *weight;
    /** [N], or null: label smoothing, in the range of the loss. */
    const float *label_smoothing;
    /** [S], or null: logarithms of weights without gradient (WPO); a pair's is the sum of its two sequences'. */
    const float *sequence_log_weights;
    /** [kl_count], or null: log-probs of mismatched completions, for the baseline of kto. */
    const float *kl_logps;
    /** [kl_count], or null for 0: the same under the reference. */
    const float *kl_ref_logps;
    /** Number of mismatched completions. */
    size_t kl_count;
    /** [1], or null: what the sum of the pair losses is divided by, instead of what dpo_loss says. */
    const float *normalizer;
    /** [1], or null: what sft divides by, instead of this batch's number of scored chosen tokens. */
    const float *chosen_tokens;
} dpo_pair_inputs;

/** A pair loss. With zeros for all but beta it is DPO's: -log sigmoid(u). */
typedef struct dpo_loss {
    /** sizeof(dpo_loss). */
    size_t struct_size;
    /** Temperature, finite and above 0. */
    double beta;
    /** Probability e that a preference is flipped, from 0 to 0.5; 0 stands for the usual one of exo_pair and robust. */
    double label_smoothing;
    /** What the sum of the pair losses is divided by, finite and above 0; 0 stands for the number of pairs. */
    double normalizer;
    /** Not 0: a sequence's log-ratio is divided by its number of scored tokens (0 counts as 1). */
    int32_t length_normalized;
    /** What log-ratios are valued by. */
    dpo_divergence divergence;
    /** a of DPO_ALPHA_DIVERGENCE; not looked at otherwise. */
    double alpha;
    /** Margin of rewards to be won by, finite; 0 leaves the loss as it is. */
    double gamma;
    /** Baseline of kto, in nats, finite, from 0; not looked at unless has_baseline. */
    double baseline;
    /** Not 0: baseline is one. */
    int32_t has_baseline;
    /** What normalizer is. */
    dpo_normalizer normalized_by;
    /** [term_count], or null: the losses that are summed. */
    const dpo_loss_term *terms;
    /** Number of terms, at most 4; 0 stands for sigmoid alone. */
    size_t term_count;
    /** What else pair_loss reads, or null. */
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
    /** [rows], or null: what each token counts in its sequence's sum, which backward needs where length_desensitized: 1 or
     *  ld_alpha; 0 in rows that are not scored. */
    float *token_weights;
    /** [rows], or null: entropy of the softmax, in nats; 0 in rows that are not scored, as in the next three. */
    float *entropy;
    /** [rows], or null: 1 where the label has the largest logit of its row, the first of equals; else 0. */
    float *correct;
    /** [rows], or null: mean of the logits, scaled and capped. */
    float *mean_logit;
    /** [rows], or null: sum of the squares of the probabilities. */
    float *sum_p2;
    /** [S], or null: mean over the scored tokens of log-prob - log sum_p2: the logarithm of WPO's weight. */
    float *sequence_log_weights;
    /** [1], or null: means over the batch. Asking for them does not take asking for what they are means of. */
    dpo_mean_token_metrics *mean_token_metrics;
    /** [1]: what was found in the data. */
    dpo_status *status;
} dpo_logps;

/** Metrics of a batch. */
typedef struct dpo_pair_metrics {
    /** Sum of the pair losses, divided by the normalizer. */
    float loss;
    /** Mean of the chosen rewards. */
    float chosen_reward;
    /** Mean of the rejected rewards. */
    float rejected_reward;
    /** Mean margin. */
    float margin;
    /** Share of pairs whose chosen reward is above the rejected one; a tie, or a NaN, counts as wrong. */
    float accuracy;
} dpo_pair_metrics;

/**
 * All metrics of a batch, for a caller who would rather fetch them from the GPU by one copy: hand over the addresses of the
 * fields of one such struct.
 */
typedef struct dpo_batch_metrics {
    /** dpo_logps.status */
    dpo_status status;
    /** dpo_pair_outputs.metrics */
    dpo_pair_metrics metrics;
    /** dpo_logps.mean_token_metrics */
    dpo_mean_token_metrics mean_token_metrics;
} dpo_batch_metrics;

/** Where pair_loss writes. */
typedef struct dpo_pair_outputs {
    /** sizeof(dpo_pair_outputs). */
    size_t struct_size;
    /** [N]: loss of each pair, before the normalizer. */
    float *pair_losses;
    /** [N] */
    float *chosen_rewards;
    /** [N] */
    float *rejected_rewards;
    /** [N]: chosen reward - rejected reward. */
    float *margins;
    /** [S]: c_s = d loss / d logp_s, what backward takes. */
    float *coef;
    /** [1] */
    dpo_pair_metrics *metrics;
} dpo_pair_outputs;

/** What backward reads besides logits and labels, and where it writes. */
typedef struct dpo_gradient {
    /** sizeof(dpo_gradient). */
    size_t struct_size;
    /** [rows], of logps. */
    const float *logsumexp;
    /** [rows], of logps, or null: then every gradient of a row is off by up to |logsumexp| 2^-24 of itself. */
    const float *logsumexp_residual;
    /** [S]: d loss / d logp of each sequence, of pair_loss or your own; or null for 1. */
    const float *coef;
    /** [rows]: a factor of each token, or null for 1. Where length_desensitized, logps' token_weights, times your own
     *  factors if there are any. */
    const float *token_coef;
    /** [1], or null for 1: a factor of every coefficient, the upstream gradient. */
    const float *upstream;
    /** Another factor of every coefficient, where the host knows it; usually 1. */
    float upstream_scale;
    /** Rows whose coefficient, all factors included, is no larger than this in magnitude are written as zeros without
     *  being read; finite and not below 0. A NaN is larger. At 0, these are the rows whose coefficient is exactly 0. */
    float threshold;
    /** [1], or null: lowered to the first row whose gradient holds an infinity (the overflow of an f16) or a NaN. Set it
     *  to DPO_NO_TROUBLE before; several calls may share it. */
    uint32_t *nonfinite_row;
    /** [rows, V] in the type and row_stride of the logits: the logits buffer itself, or one apart from it. */
    void *dlogits;
} dpo_gradient;

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
 * Of `batch`, only the sequences' number and the pairs are looked at. `logps` is [S]; `ref_logps` is [S], or null: as
 * if all were 0; `lengths` is [S], the numbers of scored rows, which a length-normalised loss divides by, or null.
 *
 * Fails with DPO_ERROR_VALUE, also for a batch without pairs, DPO_ERROR_INDEX, or DPO_ERROR_MISSING where the loss is
 * length-normalised and `lengths` is null.
 */
dpo_result dpo_cpu_pair_loss(const dpo_batch *batch, const float *logps, const float *ref_logps,
                             const uint32_t *lengths, const dpo_loss *loss, const dpo_pair_outputs *out);

/**
 * logps and pair_loss on the CPU: dpo_cpu_logps into `out`, then dpo_cpu_pair_loss into `pairs` with the numbers of scored
 * rows as lengths. `ref_logps` is [S], or null: as if all were 0.
 *
 * Fails as these two do, before any work.
 */
dpo_result dpo_cpu_forward(const dpo_batch *batch, const dpo_inputs *inputs, const float *ref_logps,
                           const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pairs);

/**
 * backward on the CPU: the gradient of the loss with respect to the logits, in place where gradient->dlogits is
 * inputs->logits (which then is written, const or not), with the same bits either way.
 *
 * dlogits[r, v] = c (1[v = y_r] - softmax(z[r])[v]) with c = coef[s] * token_coef[r] * upstream[0] * upstream_scale,
 * rounded once to the type of the logits, and by the chain rule where logits are scaled or capped; rows that are not
 * scored become 0.
 *
 * Fails with DPO_ERROR_VALUE, also where dlogits overlaps the logits without being the same, DPO_ERROR_INDEX, or
 * DPO_ERROR_MISSING where the batch is length_desensitized and token_coef is null.
 */
dpo_result dpo_cpu_backward(const dpo_batch *batch, const dpo_inputs *inputs, const dpo_gradient *gradient);

/**
 * The factored forward on the CPU: dpo_cpu_forward, and the gradient without its coefficients, with one read and one
 * write of the logits. In place where `gradient` is inputs->logits (which then is written, const or not), with the same
 * bits either way.
 *
 * `gradient` is [rows, V] in the type and row_stride of the logits: gradient[r, v] = 1[v = y_r] - softmax(z[r])[v],
 * rounded once; 0 in rows that are not scored, NaN in rows that cannot be. d loss / d logits is that times
 * pairs->coef[s] of the row's sequence s, which goes into the products that consume it: for a linear head z = X W^T,
 * X [rows, hidden] and W [V, hidden], with c the [rows] coefficients times the upstream gradient,
 *     dX = diag(c) (gradient W)        dW = gradient^T (diag(c) X)
 *
 * Fails as dpo_cpu_forward does, and with DPO_ERROR_VALUE where gradient overlaps the logits without being the same;
 * before any work.
 */
dpo_result dpo_cpu_factored(const dpo_batch *batch, const dpo_inputs *inputs, const float *ref_logps,
                            const dpo_loss *loss, const dpo_logps *out, const dpo_pair_outputs *pairs, void *gradient);

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
 * Unloads the kernels. All their work is done and their context still exists; the handle is dead from then on. Null is
 * allowed and does nothing.
 */
void dpo_cuda_free(dpo_cuda_kernels *kernels);

/**
 * Stores in `*bytes` how much workspace dpo_cuda_logps, dpo_cuda_forward and dpo_cuda_factored need for `batch`, at an
 * alignment of 4: about 28 bytes a row and 56 a sequence, and what rows of several slices need. Zero it once after allocation; every launch leaves it ready for the next.
 * A workspace serves one launch at a time. No pointer of `batch` is followed, and no device is needed.
 *
 * Fails with DPO_ERROR_VALUE or DPO_ERROR_UNSUPPORTED.
 */
dpo_result dpo_cuda_workspace_size(const dpo_batch *batch, size_t *bytes);

/*
 * All that follow queue one kernel on `stream`, a CUstream or cudaStream_t (null is the default stream). They allocate,
 * copy and wait for nothing, so they can be captured into a CUDA graph. The context that `kernels` was loaded into is
 * current on this thread, `stream` belongs to it, and every pointer in the structs is a device address of a buffer that
 * lives until the work is done. They fail with DPO_ERROR_VALUE, DPO_ERROR_DRIVER or DPO_ERROR_UNSUPPORTED; faults of
 * the work itself show where the stream is next waited for.
 */

/** logps on a GPU, as dpo_cpu_logps. `workspace` has dpo_cuda_workspace_size bytes. */
dpo_result dpo_cuda_logps(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                          const dpo_logps *out, void *workspace, void *stream);

/**
 * pair_loss on a GPU, as dpo_cpu_pair_loss, which also says where it fails with DPO_ERROR_MISSING. `status` is [1] in
 * device memory, and only its bad_pair can be set.
 */
dpo_result dpo_cuda_pair_loss(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const float *logps,
                              const float *ref_logps, const uint32_t *lengths, const dpo_loss *loss,
                              const dpo_pair_outputs *out, dpo_status *status, void *stream);

/** logps and pair_loss on a GPU, as dpo_cpu_forward, in one kernel. `workspace` has dpo_cuda_workspace_size bytes. */
dpo_result dpo_cuda_forward(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                            const float *ref_logps, const dpo_loss *loss, const dpo_logps *out,
                            const dpo_pair_outputs *pairs, void *workspace, void *stream);

/** The factored forward on a GPU, as dpo_cpu_factored, in one kernel. `workspace` has dpo_cuda_workspace_size bytes. */
dpo_result dpo_cuda_factored(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                             const float *ref_logps, const dpo_loss *loss, const dpo_logps *out,
                             const dpo_pair_outputs *pairs, void *gradient, void *workspace, void *stream);

/** backward on a GPU, as dpo_cpu_backward. */
dpo_result dpo_cuda_backward(const dpo_cuda_kernels *kernels, const dpo_batch *batch, const dpo_inputs *inputs,
                             const dpo_gradient *gradient, void *stream);

#ifdef __cplusplus
}
#endif

#endif
