// What crosses from host to device, declared once: bindgen turns this file into src/cuda/params.rs, and the kernels
// include it as it is. No header is needed; every field has its natural alignment, so both sides agree on the layout.
#ifndef DPO_PARAMS_H
#define DPO_PARAMS_H

// A device address: a typed pointer in the kernels, a plain number on the host, which must not follow it.
#ifdef __CUDACC__
#define DPO_DEVICE(type) type *
#else
#define DPO_DEVICE(type) unsigned long long
#endif

// Threads of a block at most, and blocks that are to fit on a multiprocessor at least, which bounds the registers.
// Kernels that walk over rows: 64 registers a thread, and 80 where there is more to do for an element, whose units are
// busy with fewer threads.
#define DPO_ROW_THREADS 256
#define DPO_ROW_BLOCKS 4
#define DPO_ROW_BLOCKS_OF_METRICS 3
// The factored forward: shared memory is for two blocks on a multiprocessor; so many threads leave 72 registers to each,
// which the losses need, and have 28 KiB of loads in flight, more than a multiprocessor's share of the bandwidth times
// the latency.
#define DPO_FACTORED_THREADS 448
#define DPO_FACTORED_BLOCKS 2
// The pair loss alone, which is one block.
#define DPO_PAIR_LOSS_THREADS 512
#define DPO_PAIR_LOSS_BLOCKS 2
// The kernels between the head's products, which move memory and compute little.
#define DPO_HEAD_THREADS 256
#define DPO_HEAD_BLOCKS 4

// How sequences form pairs.
enum DpoPairLayout {
    DPO_PAIRS_CONCATENATED = 0, // (i, pairs + i)
    DPO_PAIRS_INTERLEAVED = 1,  // (2i, 2i + 1)
    DPO_PAIRS_INDEXED = 2,      // (chosen[i], rejected[i])
    DPO_PAIRS_UNPAIRED = 3      // sequence i alone, chosen where chosen[i] is not 0, else rejected
};

// The losses, by their names in the table of src/loss/, which has their formulas.
enum DpoLossKind {
    DPO_LOSS_SIGMOID = 0,
    DPO_LOSS_HINGE = 1,
    DPO_LOSS_IPO = 2,
    DPO_LOSS_EXO_PAIR = 3,
    DPO_LOSS_NCA_PAIR = 4,
    DPO_LOSS_ROBUST = 5,
    DPO_LOSS_BCO_PAIR = 6,
    DPO_LOSS_SPPO_HARD = 7,
    DPO_LOSS_AOT = 8,
    DPO_LOSS_AOT_UNPAIRED = 9,
    DPO_LOSS_APO_ZERO = 10,
    DPO_LOSS_APO_DOWN = 11,
    DPO_LOSS_DISCOPOP = 12, // parameters: tau
    DPO_LOSS_SFT = 13,
    DPO_LOSS_NLL = 14,
    DPO_LOSS_ODDS_RATIO = 15,
    DPO_LOSS_KTO = 16 // parameters: weights of desirable and undesirable
};

// What a log-ratio is worth to a loss of the margin; src/loss/divergence.rs has the formulas.
enum DpoDivergence {
    DPO_REVERSE_KL = 0,
    DPO_FORWARD_KL = 1,
    DPO_JENSEN_SHANNON = 2,
    DPO_ALPHA_DIVERGENCE = 3
};

// What the sum of pair losses is divided by, unless the device knows. A pair of weight 0 is not counted, nor are its tokens.
enum DpoNormalizer {
    DPO_NORMALIZER_NUMBER = 0,
    DPO_NORMALIZER_TOKENS = 1, // scored tokens of chosen and rejected
    DPO_NORMALIZER_PAIRS = 2
};

// Kinds of trouble that only the device can see; positions in DpoProgress and DpoStatus.
enum DpoTrouble {
    DPO_BAD_LABEL = 0,      // index of the row
    DPO_NONFINITE_ROW = 1,  // index of the row
    DPO_EMPTY_SEQUENCE = 2, // index of the sequence
    DPO_BAD_CU_SEQLENS = 3, // index of the entry
    DPO_BAD_PAIR = 4,       // index of the pair
    DPO_BAD_PAIR_INPUT = 5, // index of the pair
    DPO_TROUBLES = 6
};

// The first place of each kind of trouble, or DPO_NO_TROUBLE.
#define DPO_NO_TROUBLE 0xffffffffu
struct DpoStatus {
    unsigned int first[DPO_TROUBLES];
};

// Metrics of the pairs of a batch whose weight is not 0; means over nothing are 0.
struct DpoPairMetrics {
    unsigned int pairs;    // what the means are over
    unsigned int chosen;
    unsigned int rejected;
    float loss;            // sum of pair losses / normalizer
    float chosen_reward;   // mean
    float rejected_reward; // mean
    float margin;          // mean
    float accuracy;        // share of pairs with chosen reward > rejected reward
};

// Rows, labels and sequences.
struct DpoBatch {
    DPO_DEVICE(const void) labels;    // [rows], 4 or 8 bytes each
    DPO_DEVICE(const int) cu_seqlens; // [sequences + 1], or null: padded
    long long row_stride;             // elements from row to row
    long long ignore_index;
    unsigned int rows;
    unsigned int first_row, end_row; // of this launch: all of them, or a window of them
    unsigned int vocab;
    unsigned int columns; // that take part in the softmax: those behind are padding of the vocabulary
    unsigned int sequences;
    unsigned int sequence_len; // rows per padded sequence
    unsigned int label_bytes;  // 4 or 8
    unsigned int next_token;   // row t predicts labels[t + 1]
    float scale;               // of the logits
    float scale_log2;          // log2(scale)
    float softcap;             // of the scaled logits, or 0: none
    float softcap_power;       // 2 scale log2(e) / softcap, or 0
};

// One loss of a weighted sum.
struct DpoLossTerm {
    unsigned int kind;
    unsigned int length_normalized;
    float weight;
    float beta;
    float label_smoothing;
    float parameters[2];
};

#define DPO_LOSS_TERMS 4

// A loss over pairs: parameters, what it reads besides logps, and where its results go.
struct DpoPairLoss {
    DPO_DEVICE(const float) ref_logps;       // [sequences], or null: 0
    DPO_DEVICE(const int) chosen;            // [pairs], indexed layout; [sequences], unpaired
    DPO_DEVICE(const int) rejected;          // [pairs], indexed layout only
    DPO_DEVICE(const unsigned int) lengths;  // [sequences], or null: the numbers of scored rows
    DPO_DEVICE(const float) betas;           // [pairs], or null: those of the terms and of the rewards
    DPO_DEVICE(const float) gammas;          // [pairs], or null: gamma
    DPO_DEVICE(const float) weights;         // [pairs], or null: 1
    DPO_DEVICE(const float) label_smoothings; // [pairs], or null: those of the terms
    DPO_DEVICE(const float) sequence_log_weights; // [sequences], or null: 0
    DPO_DEVICE(const float) kl_logps;          // [kl_count]
    DPO_DEVICE(const float) kl_ref_logps;      // [kl_count], or null: 0
    DPO_DEVICE(const float) device_normalizer; // a scalar, or null
    DPO_DEVICE(const float) chosen_tokens;     // a scalar, or null: those of this batch
    DPO_DEVICE(float) pair_losses;      // [pairs]
    DPO_DEVICE(float) chosen_rewards;   // [pairs]
    DPO_DEVICE(float) rejected_rewards; // [pairs]
    DPO_DEVICE(float) margins;          // [pairs]
    DPO_DEVICE(float) coef;             // [sequences]
    DPO_DEVICE(struct DpoPairMetrics) metrics;
    unsigned int pairs; // 0: log-probs only
    unsigned int pair_layout;
    unsigned int length_normalized; // of the rewards; terms have their own
    unsigned int divergence;
    unsigned int normalizer_kind;
    unsigned int kl_count;
    unsigned int term_count;
    float beta; // of the rewards; terms have their own
    float gamma;
    float order; // n of an f' that is (e^(n x) - 1) / n: -1 for the forward KL, alpha - 1; otherwise 0
    float baseline;
    float normalizer;
    float most_log_weight; // of a pair, before its weight: 0 for WPO, else infinity
    struct DpoLossTerm terms[DPO_LOSS_TERMS];
};

// What blocks leave for the last of them; all zero between launches.
struct DpoProgress {
    unsigned int rows_done;
    unsigned int worst[DPO_TROUBLES]; // ~index of the first offender: 0 is none, and a maximum finds the first
};

// How rows are divided among blocks: several rows to a block, each to as large a part of its threads, or several blocks to a
// row, each with some of its slices. One of the first two numbers is 1.
struct DpoRowPartition {
    unsigned int rows_per_block;
    unsigned int blocks_per_row;
    unsigned int slices_per_block; // of one row; the last block has those that are left
    unsigned int slices;           // of a row
    unsigned int slice_vectors;    // 16-byte vectors; the last slice has what is left of the row
};

// sum exp(x - reference) over the elements that one warp has of a slice.
struct DpoSliceSum {
    float reference;
    float sum;
    // What the kernels with token metrics sum besides: see kernels/rows/metrics.cuh. An entropy alone needs `weighted`;
    // the other three are for all metrics.
    float weighted;
    float squares, total;
    unsigned int beaten;
};

// Sums over the scored rows of a sequence.
struct DpoTokenMetricSums {
    double scored; // rows
    double entropy, correct, mean_logit, logsumexp, sum_p2;
};

// Means over the scored rows of a batch; 0 without any.
struct DpoMeanTokenMetrics {
    unsigned int scored; // rows
    float entropy;
    float accuracy; // share of rows whose label is the most probable token
    float mean_logit;
    float logsumexp;
    float sum_p2;
};

// Everything that there is one of in a batch, side by side, so that one copy fetches it.
struct DpoBatchMetrics {
    struct DpoStatus status;
    struct DpoPairMetrics pairs;
    struct DpoMeanTokenMetrics tokens;
};

// What one read of a row tells besides its log-prob. Every array may be null. But `sums` is summed from the arrays above
// it and from DpoForward's logsumexp, so that it needs all five of them, and the two fields below it are made of `sums`.
struct DpoTokenMetrics {
    DPO_DEVICE(float) entropy;                   // [rows]
    DPO_DEVICE(float) correct;                   // [rows]
    DPO_DEVICE(float) mean_logit;                // [rows]
    DPO_DEVICE(float) sum_p2;                    // [rows]
    DPO_DEVICE(struct DpoTokenMetricSums) sums;  // [sequences]
    DPO_DEVICE(float) sequence_log_weights;      // [sequences]
    DPO_DEVICE(struct DpoMeanTokenMetrics) mean; // one
};

// logps and pair_loss in one launch; or in several, each over a window of the rows, the last of which to end has all that
// follows the rows. Logits and their gradient are addressed by the row's index in the batch: theirs is the address that
// row 0 has or, where the window begins later, would have.
struct DpoForward {
    struct DpoBatch batch;
    struct DpoRowPartition partition;
    DPO_DEVICE(const void) logits;              // [rows, vocab]
    DPO_DEVICE(float) token_logps;              // [rows]
    DPO_DEVICE(float) logsumexp;                // [rows], or null
    DPO_DEVICE(float) logsumexp_residual;       // [rows], or null
    DPO_DEVICE(float) logps;                    // [sequences]
    DPO_DEVICE(unsigned int) scored;            // [sequences]
    DPO_DEVICE(unsigned int) sequence_rows_done; // [sequences], zero between launches
    DPO_DEVICE(unsigned int) row_slices_done;    // [rows], zero between launches
    DPO_DEVICE(struct DpoSliceSum) slice_sums;   // [rows of the launch, slices, warps], where a row has several blocks
    DPO_DEVICE(struct DpoProgress) progress;
    DPO_DEVICE(struct DpoStatus) status;
    DPO_DEVICE(float) token_weights; // [rows], or null: what a token counts in its sequence's sum
    struct DpoTokenMetrics metrics;
    struct DpoPairLoss loss;
    float ld_alpha;             // weight of tokens beyond the other's length
    unsigned int partner_layout; // of pairs, where ld_alpha is not 1: concatenated or interleaved
};

// logps and pair_loss, and the gradient without its coefficients: one row per block or several blocks per row, a cluster.
struct DpoFactored {
    struct DpoForward forward;
    DPO_DEVICE(void) gradient; // [rows, vocab] at the logits' stride: the logits themselves, or another buffer
    unsigned int kept_vectors; // of a slice, in dynamic shared memory: at least two, or all
};

// pair_loss alone: one block.
struct DpoPairLossAlone {
    DPO_DEVICE(const float) logps;         // [sequences]
    DPO_DEVICE(const unsigned int) scored; // [sequences], or null unless lengths or tokens are asked for
    DPO_DEVICE(struct DpoStatus) status;
    struct DpoPairLoss loss;
    unsigned int sequences;
};

// backward.
struct DpoBackward {
    struct DpoBatch batch;
    struct DpoRowPartition partition;
    DPO_DEVICE(const void) logits;              // [rows, vocab]
    DPO_DEVICE(void) dlogits;                   // the same, or another buffer of the same shape and stride
    DPO_DEVICE(const float) logsumexp;          // [rows]
    DPO_DEVICE(const float) logsumexp_residual; // [rows], or null
    DPO_DEVICE(const float) coef;               // [sequences], or null: 1
    DPO_DEVICE(const float) token_coef;         // [rows], or null: 1
    DPO_DEVICE(const float) entropy;            // [rows], of the kernels with an entropy's gradient alone
    DPO_DEVICE(const float) entropy_coef;       // [rows], the same
    DPO_DEVICE(const float) upstream;           // a scalar, or null: 1
    DPO_DEVICE(unsigned int) nonfinite_row;     // lowered to the first row with an infinity or a NaN; or null
    float upstream_scale;
    float threshold; // rows whose coefficient is no larger are zeros
};

// What the gradient of the rows of a window is still to be multiplied by, as the head's kernels take it: c; or, where entropies have
// coefficients e, the larger of |c| and |e|, of which c and e are then fractions, so that a gradient of 16 bits is no smaller than one
// without them. 0 for a row that has no part in the gradients, whatever its logits are, and NaN for one whose label is a bad one.
struct DpoRowCoef {
    struct DpoBatch batch;
    DPO_DEVICE(const float) coef;        // [sequences], or null: 1
    DPO_DEVICE(const float) token_coef;  // [rows], or null: 1
    DPO_DEVICE(const float) entropy;     // [rows], where entropies have coefficients
    DPO_DEVICE(float) entropy_coef;      // [rows], or null: entropies have none; becomes the fraction
    DPO_DEVICE(float) coef_fraction;     // [rows], where entropies have coefficients: c as a fraction
    DPO_DEVICE(const float) upstream;    // a scalar, or null: 1
    DPO_DEVICE(const float) logsumexp;   // [rows]
    DPO_DEVICE(const int) names;         // [rows]: what nonfinite_row calls them
    DPO_DEVICE(float) row_coef;          // [rows of the window]
    // Lowered to the first row of whose coefficients, logsumexp and entropy one is not finite; or null.
    DPO_DEVICE(unsigned int) nonfinite_row;
    float upstream_scale;
    float threshold; // a coefficient that is no larger is 0
};

// to[to_rows[i]] = row_coef[i] * from[from_rows[i]], matrices of `columns` elements a row.
struct DpoMoveRows {
    DPO_DEVICE(const void) from;
    DPO_DEVICE(void) to;
    DPO_DEVICE(const int) from_rows;   // [rows], or null: i
    DPO_DEVICE(const int) to_rows;     // [rows], or null: i
    DPO_DEVICE(const float) row_coef;  // [rows], or null: 1
    DPO_DEVICE(unsigned int) nonfinite_row; // lowered to the first row of `to` that is given an infinity or a NaN; or null
    unsigned int rows;
    unsigned int columns;
};

// Zeroes the rows whose c is 0.
struct DpoClearRows {
    DPO_DEVICE(void) matrix; // rows of whole vectors, on 16-byte boundaries
    DPO_DEVICE(const float) row_coef; // [rows]
    unsigned int rows;
    unsigned int row_vectors;
};

// dbias[v] += sum row_coef[i] * gradient[i, v].
struct DpoBiasGradient {
    DPO_DEVICE(const void) gradient;  // [rows, columns]
    DPO_DEVICE(const float) row_coef; // [rows]
    DPO_DEVICE(float) dbias;          // [columns]
    long long row_stride;
    unsigned int rows;
    unsigned int columns;
};

#define DPO_TOKEN_RESULTS 8

// Results of the scored rows to the places of these rows among all rows of the caller's batch, where the others get 0; and
// the rows that a status names, which it counts among the scored ones, in the caller's count.
struct DpoTokenResults {
    DPO_DEVICE(const float) scored[DPO_TOKEN_RESULTS]; // [scored_rows] each
    DPO_DEVICE(float) all[DPO_TOKEN_RESULTS];          // [rows] each, or null
    DPO_DEVICE(const int) names; // [scored_rows]: the rows, in ascending order
    DPO_DEVICE(struct DpoStatus) status;
    unsigned int scored_rows;
    unsigned int rows;
};

#endif
