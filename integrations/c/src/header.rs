// Made by bindgen from include/dpo_kernels.h (`make params`); a test compares it with a fresh run.

pub const DPO_VERSION: u32 = 100;
pub const DPO_IGNORE_INDEX: i32 = -100;
pub const DPO_NO_TROUBLE: u32 = 4294967295;
pub const DPO_TRANSFORM_SCALE: u32 = 1;
pub const DPO_TRANSFORM_SOFTCAP: u32 = 2;
pub const DPO_TRANSFORM_VALID_VOCAB: u32 = 4;
pub const DPO_BATCH_ROW_STRIDE: u32 = 1;
pub const DPO_BATCH_IGNORE_INDEX: u32 = 2;
pub const DPO_BATCH_LD_ALPHA: u32 = 4;
pub const DPO_TERM_WEIGHT: u32 = 1;
pub const DPO_TERM_PARAMETER_0: u32 = 2;
pub const DPO_TERM_PARAMETER_1: u32 = 4;
pub const DPO_TERM_BETA: u32 = 8;
pub const DPO_LOSS_LABEL_SMOOTHING: u32 = 1;
pub const DPO_LOSS_GAMMA: u32 = 2;
pub const DPO_LOSS_BASELINE: u32 = 4;
pub const DPO_LOSS_ALPHA: u32 = 8;
pub const DPO_LOSS_NORMALIZER: u32 = 16;
pub const DPO_GRADIENT_UPSTREAM_SCALE: u32 = 1;
pub const DPO_GRADIENT_THRESHOLD: u32 = 2;
pub const DPO_LM_HEAD_BUDGET_BYTES: u32 = 1;
pub const DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE: u32 = 1;
pub const DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES: u32 = 2;
pub const DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES: u32 = 4;
/// The call did what it says; on CUDA, the work is queued.
pub const DPO_OK: dpo_result = 0;
/** An argument is null, misaligned, unknown, outside its domain or of no use to the call, or a struct_size is not this
  version's.*/
pub const DPO_ERROR_VALUE: dpo_result = 1;
/// An entry of cu_seqlens, chosen or rejected in host memory is out of order or out of range.
pub const DPO_ERROR_INDEX: dpo_result = 2;
/// An argument that may be null is needed because of another one.
pub const DPO_ERROR_MISSING: dpo_result = 3;
/// dpo_status_check: the status is not clean.
pub const DPO_ERROR_DATA: dpo_result = 4;
/// There is no CUDA driver to load.
pub const DPO_ERROR_NO_DRIVER: dpo_result = 5;
/// No kernel that the library carries can run on the device.
pub const DPO_ERROR_NO_IMAGE: dpo_result = 6;
/// A CUDA driver call failed; also where no context is current.
pub const DPO_ERROR_DRIVER: dpo_result = 7;
/// The library was built without CUDA.
pub const DPO_ERROR_UNSUPPORTED: dpo_result = 8;
/// A defect of the library: it stopped half-way, and what it wrote is not to be used.
pub const DPO_ERROR_INTERNAL: dpo_result = 9;
/// There is no cuBLASLt to load.
pub const DPO_ERROR_NO_CUBLASLT: dpo_result = 10;
/// A call of cuBLASLt failed.
pub const DPO_ERROR_CUBLASLT: dpo_result = 11;
/// What a call returns.
pub type dpo_result = ::core::ffi::c_uint;
/// IEEE binary32.
pub const DPO_F32: dpo_dtype = 0;
/// IEEE binary16.
pub const DPO_F16: dpo_dtype = 1;
/// The upper half of a binary32.
pub const DPO_BF16: dpo_dtype = 2;
/// Element type of logits and of their gradient.
pub type dpo_dtype = ::core::ffi::c_uint;
/// 32-bit signed.
pub const DPO_LABELS_I32: dpo_label_type = 0;
/// 64-bit signed.
pub const DPO_LABELS_I64: dpo_label_type = 1;
/// Element type of labels.
pub type dpo_label_type = ::core::ffi::c_uint;
/// Row r predicts labels[r]: the labels are already shifted.
pub const DPO_ALIGNED: dpo_label_alignment = 1;
/// Row t of a sequence predicts labels[t + 1], and its last row is ignored: Hugging Face's unshifted tensors.
pub const DPO_NEXT_TOKEN: dpo_label_alignment = 2;
/** Which label a row of logits predicts. There is no default, and 0 is refused: the wrong one of the two would
  give a loss like any other.*/
pub type dpo_label_alignment = ::core::ffi::c_uint;
/// S = 2N: sequences 0..N are chosen, N..2N rejected, in the same order.
pub const DPO_PAIRS_CONCATENATED: dpo_pairs = 0;
/// S = 2N: sequence 2i is chosen, 2i + 1 rejected.
pub const DPO_PAIRS_INTERLEAVED: dpo_pairs = 1;
/** Pair i is (chosen[i], rejected[i]), two different sequences; in memory of the GPU that they differ is not looked at. The
  coefficients of a sequence in several pairs add up; in none it is 0.*/
pub const DPO_PAIRS_INDEXED: dpo_pairs = 2;
/// There are no pairs: log-probs only, such as those of the reference model's pass.
pub const DPO_PAIRS_NONE: dpo_pairs = 3;
/** Sequences are judged one by one, for losses such as KTO. N = S: "pair" i is sequence i alone, chosen where
  desirable[i] is not 0 and rejected where it is. The missing side has a reward of 0; means are over the sides that
  are there.*/
pub const DPO_PAIRS_UNPAIRED: dpo_pairs = 4;
/// How sequences form pairs.
pub type dpo_pairs = ::core::ffi::c_uint;
/** What a model does to its logits before the softmax, done inside the pass: z becomes C tanh(scale z / C) with a soft cap
  of C, and scale z without one.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_transform {
    /// The DPO_TRANSFORM_ bits of the numbers that are there.
    pub given: u32,
    /// Factor of the logits, 1 / temperature, finite and above 0. DPO_TRANSFORM_SCALE; otherwise 1.
    pub scale: f32,
    /// The soft cap C, finite and above 0. DPO_TRANSFORM_SOFTCAP; otherwise the logits are not capped.
    pub softcap: f32,
    /** Columns from here on are padding of the vocabulary: they are not read and take no part in the softmax, their
  gradient is exactly 0, and a label there is a bad one. From 1 to V. DPO_TRANSFORM_VALID_VOCAB; otherwise V.*/
    pub valid_vocab: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_transform"][::core::mem::size_of::<dpo_transform>() - 24usize];
    ["Alignment of dpo_transform"][::core::mem::align_of::<dpo_transform>() - 8usize];
    [
        "Offset of field: dpo_transform::given",
    ][::core::mem::offset_of!(dpo_transform, given) - 0usize];
    [
        "Offset of field: dpo_transform::scale",
    ][::core::mem::offset_of!(dpo_transform, scale) - 4usize];
    [
        "Offset of field: dpo_transform::softcap",
    ][::core::mem::offset_of!(dpo_transform, softcap) - 8usize];
    [
        "Offset of field: dpo_transform::valid_vocab",
    ][::core::mem::offset_of!(dpo_transform, valid_vocab) - 16usize];
};
/// A batch of labelled sequences of logits, without the logits. Every sequence is a contiguous run of rows.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_batch {
    /// sizeof(dpo_batch).
    pub struct_size: usize,
    /// V, from 1 to 2^31 - 1.
    pub vocab: usize,
    /// S, from 1 to 2^31 - 1; even where pairs are concatenated or interleaved.
    pub sequences: usize,
    /** Rows per sequence of a padded batch, whose cu_seqlens is null: sequence s is rows s * sequence_len ..
  (s + 1) * sequence_len. 0 in a packed batch.*/
    pub sequence_len: usize,
    /** [S + 1], or null for a padded batch: sequence s is rows cu_seqlens[s] .. cu_seqlens[s + 1]. From 0 to rows, never
  decreasing; equal neighbours are an empty sequence.*/
    pub cu_seqlens: *const i32,
    /// Number of rows of a packed batch, whose cu_seqlens is given, from 1 to 2^31 - 1. 0 in a padded batch.
    pub rows: usize,
    /// How sequences form pairs.
    pub pairs: dpo_pairs,
    /// Which label a row predicts; never 0, save for pair_loss, which reads no labels and does not look at it.
    pub label_alignment: dpo_label_alignment,
    /// N where pairs are indexed, from 1 to 2^31 - 1. 0 in any other layout.
    pub pair_count: usize,
    /// [N] sequence indices where pairs are indexed. Null in any other layout.
    pub chosen: *const i32,
    /// [N] sequence indices where pairs are indexed. Null in any other layout.
    pub rejected: *const i32,
    /// [S] where sequences are unpaired: 0 for an undesirable one. Null in any other layout.
    pub desirable: *const i32,
    /// The DPO_BATCH_ bits of the numbers that are there.
    pub given: u32,
    /** Length desensitization (LD-DPO): the weight, from 0 to 1, of the scored tokens of a sequence beyond as many as the
  other of its pair has. Pairs are concatenated or interleaved. DPO_BATCH_LD_ALPHA; otherwise 1.*/
    pub ld_alpha: f32,
    /** Elements from the start of a row to the start of the next, at least vocab; those between are not touched.
  DPO_BATCH_ROW_STRIDE, which the functions behind a head refuse; otherwise vocab.*/
    pub row_stride: usize,
    /// Label of positions that are not scored. DPO_BATCH_IGNORE_INDEX; otherwise DPO_IGNORE_INDEX.
    pub ignore_index: i64,
    /// What happens to the logits before the softmax; zeros for nothing.
    pub transform: dpo_transform,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_batch"][::core::mem::size_of::<dpo_batch>() - 136usize];
    ["Alignment of dpo_batch"][::core::mem::align_of::<dpo_batch>() - 8usize];
    [
        "Offset of field: dpo_batch::struct_size",
    ][::core::mem::offset_of!(dpo_batch, struct_size) - 0usize];
    [
        "Offset of field: dpo_batch::vocab",
    ][::core::mem::offset_of!(dpo_batch, vocab) - 8usize];
    [
        "Offset of field: dpo_batch::sequences",
    ][::core::mem::offset_of!(dpo_batch, sequences) - 16usize];
    [
        "Offset of field: dpo_batch::sequence_len",
    ][::core::mem::offset_of!(dpo_batch, sequence_len) - 24usize];
    [
        "Offset of field: dpo_batch::cu_seqlens",
    ][::core::mem::offset_of!(dpo_batch, cu_seqlens) - 32usize];
    [
        "Offset of field: dpo_batch::rows",
    ][::core::mem::offset_of!(dpo_batch, rows) - 40usize];
    [
        "Offset of field: dpo_batch::pairs",
    ][::core::mem::offset_of!(dpo_batch, pairs) - 48usize];
    [
        "Offset of field: dpo_batch::label_alignment",
    ][::core::mem::offset_of!(dpo_batch, label_alignment) - 52usize];
    [
        "Offset of field: dpo_batch::pair_count",
    ][::core::mem::offset_of!(dpo_batch, pair_count) - 56usize];
    [
        "Offset of field: dpo_batch::chosen",
    ][::core::mem::offset_of!(dpo_batch, chosen) - 64usize];
    [
        "Offset of field: dpo_batch::rejected",
    ][::core::mem::offset_of!(dpo_batch, rejected) - 72usize];
    [
        "Offset of field: dpo_batch::desirable",
    ][::core::mem::offset_of!(dpo_batch, desirable) - 80usize];
    [
        "Offset of field: dpo_batch::given",
    ][::core::mem::offset_of!(dpo_batch, given) - 88usize];
    [
        "Offset of field: dpo_batch::ld_alpha",
    ][::core::mem::offset_of!(dpo_batch, ld_alpha) - 92usize];
    [
        "Offset of field: dpo_batch::row_stride",
    ][::core::mem::offset_of!(dpo_batch, row_stride) - 96usize];
    [
        "Offset of field: dpo_batch::ignore_index",
    ][::core::mem::offset_of!(dpo_batch, ignore_index) - 104usize];
    [
        "Offset of field: dpo_batch::transform",
    ][::core::mem::offset_of!(dpo_batch, transform) - 112usize];
};
/// What logps and backward read.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_inputs {
    /// sizeof(dpo_inputs).
    pub struct_size: usize,
    /// Element type of the logits.
    pub dtype: dpo_dtype,
    /// Element type of the labels.
    pub label_type: dpo_label_type,
    /// [rows, V] of dpo_dtype, rows row_stride apart. Ignored rows are not read and may hold anything.
    pub logits: *const ::core::ffi::c_void,
    /// [rows] of dpo_label_type: a token id below V, or the ignore index.
    pub labels: *const ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_inputs"][::core::mem::size_of::<dpo_inputs>() - 32usize];
    ["Alignment of dpo_inputs"][::core::mem::align_of::<dpo_inputs>() - 8usize];
    [
        "Offset of field: dpo_inputs::struct_size",
    ][::core::mem::offset_of!(dpo_inputs, struct_size) - 0usize];
    [
        "Offset of field: dpo_inputs::dtype",
    ][::core::mem::offset_of!(dpo_inputs, dtype) - 8usize];
    [
        "Offset of field: dpo_inputs::label_type",
    ][::core::mem::offset_of!(dpo_inputs, label_type) - 12usize];
    [
        "Offset of field: dpo_inputs::logits",
    ][::core::mem::offset_of!(dpo_inputs, logits) - 16usize];
    [
        "Offset of field: dpo_inputs::labels",
    ][::core::mem::offset_of!(dpo_inputs, labels) - 24usize];
};
/// x
pub const DPO_REVERSE_KL: dpo_divergence = 0;
/// 1 - e^-x
pub const DPO_FORWARD_KL: dpo_divergence = 1;
/// log 2 + log sigmoid(x)
pub const DPO_JENSEN_SHANNON: dpo_divergence = 2;
/// (e^min((a - 1) x, 80) - 1) / (a - 1), a being dpo_loss.alpha; x at a = 1
pub const DPO_ALPHA_DIVERGENCE: dpo_divergence = 3;
/// What a log-ratio x is worth to a loss of the margin.
pub type dpo_divergence = ::core::ffi::c_uint;
/// N, the number of pairs.
pub const DPO_BY_PAIRS: dpo_normalizer = 0;
/// The number of scored tokens of the batch's pairs, chosen and rejected.
pub const DPO_BY_TOKENS: dpo_normalizer = 1;
/** What the sum of the pair losses is divided by, unless dpo_loss.normalizer or dpo_pair_inputs.normalizer is there. Pairs of
  weight 0 are not counted; where nothing is, the loss and all coefficients are 0.*/
pub type dpo_normalizer = ::core::ffi::c_uint;
/// One loss of a weighted sum.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_loss_term {
    /// A name of the library's table of losses, such as "sigmoid" (or "dpo"), "ipo", "kto" or "simpo".
    pub name: *const ::core::ffi::c_char,
    /** What the loss is multiplied with, finite and above 0; from the second term on it may be 0, which adds nothing.
  DPO_TERM_WEIGHT; otherwise 1.*/
    pub weight: f64,
    /** Temperature of this loss, finite and above 0; not for sft, nll and odds_ratio, which have none. DPO_TERM_BETA;
  otherwise dpo_loss.beta. Rewards are those of the first loss that has one.*/
    pub beta: f64,
    /** Parameters that are the loss's own, in the order of the table of losses: tau of discopop; gamma of simpo; alpha of
  cpo and of rpo; the weights of desirable and of undesirable sequences of kto. DPO_TERM_PARAMETER_0 for the first,
  DPO_TERM_PARAMETER_1 for the second; otherwise the values of the table.*/
    pub parameters: [f64; 2usize],
    /// The DPO_TERM_ bits of the numbers that are there.
    pub given: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_loss_term"][::core::mem::size_of::<dpo_loss_term>() - 48usize];
    ["Alignment of dpo_loss_term"][::core::mem::align_of::<dpo_loss_term>() - 8usize];
    [
        "Offset of field: dpo_loss_term::name",
    ][::core::mem::offset_of!(dpo_loss_term, name) - 0usize];
    [
        "Offset of field: dpo_loss_term::weight",
    ][::core::mem::offset_of!(dpo_loss_term, weight) - 8usize];
    [
        "Offset of field: dpo_loss_term::beta",
    ][::core::mem::offset_of!(dpo_loss_term, beta) - 16usize];
    [
        "Offset of field: dpo_loss_term::parameters",
    ][::core::mem::offset_of!(dpo_loss_term, parameters) - 24usize];
    [
        "Offset of field: dpo_loss_term::given",
    ][::core::mem::offset_of!(dpo_loss_term, given) - 40usize];
};
/** What pair_loss reads besides log-probs, all of it optional, in the memory that the call is about. What is there for each
 pair replaces the number of dpo_loss. dpo_cpu_* refuse values out of their ranges; on CUDA they give NaN in the loss and
 the coefficients of their pair.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_pair_inputs {
    /// sizeof(dpo_pair_inputs).
    pub struct_size: usize,
    /** [S], or null: what a loss divides log-ratios or log-probs by, where that is not the number of scored rows; 0 counts
  as 1.*/
    pub lengths: *const u32,
    /** [N], or null: temperatures, finite and above 0, for a loss that reads them, not sft, nll, odds_ratio and orpo; nor for
  losses whose own temperatures differ.*/
    pub beta: *const f32,
    /// [N], or null: target margins, finite.
    pub gamma: *const f32,
    /** [N], or null: factors of the pair losses, finite, from 0. A pair of weight 0 is not part of the batch, whatever its
  numbers are: not of the loss, the coefficients, the metrics and what is counted. Its rewards are still written.*/
    pub weight: *const f32,
    /// [N], or null: label smoothing, in the range of the loss.
    pub label_smoothing: *const f32,
    /** [S], or null: logarithms of weights without gradient; a pair's is the sum of its two sequences', or where
  dpo_loss.wpo_weights is 1 that sum up to 0.*/
    pub sequence_log_weights: *const f32,
    /// [kl_count], or null: log-probs of mismatched completions, for the baseline of kto.
    pub kl_logps: *const f32,
    /// [kl_count], or null where kl_logps is or the loss is reference_free: the same under the reference.
    pub kl_ref_logps: *const f32,
    /// Number of mismatched completions, from 1 to 2^31 - 1; 0 where kl_logps is null.
    pub kl_count: usize,
    /// [1], or null: what the sum of the pair losses is divided by, whatever dpo_loss says.
    pub normalizer: *const f32,
    /// [1], or null: what sft divides by, instead of this batch's number of scored chosen tokens.
    pub chosen_tokens: *const f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_pair_inputs"][::core::mem::size_of::<dpo_pair_inputs>() - 96usize];
    [
        "Alignment of dpo_pair_inputs",
    ][::core::mem::align_of::<dpo_pair_inputs>() - 8usize];
    [
        "Offset of field: dpo_pair_inputs::struct_size",
    ][::core::mem::offset_of!(dpo_pair_inputs, struct_size) - 0usize];
    [
        "Offset of field: dpo_pair_inputs::lengths",
    ][::core::mem::offset_of!(dpo_pair_inputs, lengths) - 8usize];
    [
        "Offset of field: dpo_pair_inputs::beta",
    ][::core::mem::offset_of!(dpo_pair_inputs, beta) - 16usize];
    [
        "Offset of field: dpo_pair_inputs::gamma",
    ][::core::mem::offset_of!(dpo_pair_inputs, gamma) - 24usize];
    [
        "Offset of field: dpo_pair_inputs::weight",
    ][::core::mem::offset_of!(dpo_pair_inputs, weight) - 32usize];
    [
        "Offset of field: dpo_pair_inputs::label_smoothing",
    ][::core::mem::offset_of!(dpo_pair_inputs, label_smoothing) - 40usize];
    [
        "Offset of field: dpo_pair_inputs::sequence_log_weights",
    ][::core::mem::offset_of!(dpo_pair_inputs, sequence_log_weights) - 48usize];
    [
        "Offset of field: dpo_pair_inputs::kl_logps",
    ][::core::mem::offset_of!(dpo_pair_inputs, kl_logps) - 56usize];
    [
        "Offset of field: dpo_pair_inputs::kl_ref_logps",
    ][::core::mem::offset_of!(dpo_pair_inputs, kl_ref_logps) - 64usize];
    [
        "Offset of field: dpo_pair_inputs::kl_count",
    ][::core::mem::offset_of!(dpo_pair_inputs, kl_count) - 72usize];
    [
        "Offset of field: dpo_pair_inputs::normalizer",
    ][::core::mem::offset_of!(dpo_pair_inputs, normalizer) - 80usize];
    [
        "Offset of field: dpo_pair_inputs::chosen_tokens",
    ][::core::mem::offset_of!(dpo_pair_inputs, chosen_tokens) - 88usize];
};
/// A pair loss. With nothing but beta it is DPO's, which compares with a reference: -log sigmoid(u).
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_loss {
    /// sizeof(dpo_loss).
    pub struct_size: usize,
    /// Temperature, finite and above 0, of the losses whose terms have none of their own; 0 where all terms have.
    pub beta: f64,
    /// [term_count], or null for sigmoid alone: the losses that are summed.
    pub terms: *const dpo_loss_term,
    /// Number of terms, from 1 to 4; 0 where terms is null.
    pub term_count: usize,
    /// What log-ratios are valued by.
    pub divergence: dpo_divergence,
    /// What the sum of the pair losses is divided by.
    pub normalized_by: dpo_normalizer,
    /// 1 divides a sequence's log-ratio by its number of scored tokens (0 counts as 1); 0 leaves it as it is.
    pub length_normalized: i32,
    /** 1 weighs pairs as WPO does, by min(1, e^w) where w is the sum of dpo_pair_inputs.sequence_log_weights of its two
  sequences, which are needed then; with 0 the weight is e^w, which may be above 1.*/
    pub wpo_weights: i32,
    /** 1 takes the loss over log-probs where it is over log-ratios, for a policy without a reference: ref_logps and kl_ref_logps
  are null then. With 0, a loss that compares with a reference needs them; simpo, cpo and orpo are without one as they
  are.*/
    pub reference_free: i32,
    /// The DPO_LOSS_ bits of the numbers that are there.
    pub given: u32,
    /** Probability that a preference is flipped, for losses that take one: from 0 to 0.5, below 0.5 for robust, above 0 for
  exo_pair. DPO_LOSS_LABEL_SMOOTHING; otherwise 0, and the table's values for robust and exo_pair.*/
    pub label_smoothing: f64,
    /** Target margin: the margin of rewards that a pair is to be won by, finite, for losses of the margin. DPO_LOSS_GAMMA;
  otherwise 0, or what simpo's parameter says.*/
    pub gamma: f64,
    /// Baseline of kto, in nats, finite, from 0. DPO_LOSS_BASELINE; otherwise it comes from dpo_pair_inputs.kl_logps.
    pub baseline: f64,
    /// a of DPO_ALPHA_DIVERGENCE, finite, which needs DPO_LOSS_ALPHA; no other divergence takes it.
    pub alpha: f64,
    /** A number to divide the sum of the pair losses by, finite and above 0, such as the pairs of all batches of an
  optimizer step. DPO_LOSS_NORMALIZER, and normalized_by is DPO_BY_PAIRS; otherwise what normalized_by says.*/
    pub normalizer: f64,
    /// What else pair_loss reads, or null for nothing.
    pub inputs: *const dpo_pair_inputs,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_loss"][::core::mem::size_of::<dpo_loss>() - 104usize];
    ["Alignment of dpo_loss"][::core::mem::align_of::<dpo_loss>() - 8usize];
    [
        "Offset of field: dpo_loss::struct_size",
    ][::core::mem::offset_of!(dpo_loss, struct_size) - 0usize];
    [
        "Offset of field: dpo_loss::beta",
    ][::core::mem::offset_of!(dpo_loss, beta) - 8usize];
    [
        "Offset of field: dpo_loss::terms",
    ][::core::mem::offset_of!(dpo_loss, terms) - 16usize];
    [
        "Offset of field: dpo_loss::term_count",
    ][::core::mem::offset_of!(dpo_loss, term_count) - 24usize];
    [
        "Offset of field: dpo_loss::divergence",
    ][::core::mem::offset_of!(dpo_loss, divergence) - 32usize];
    [
        "Offset of field: dpo_loss::normalized_by",
    ][::core::mem::offset_of!(dpo_loss, normalized_by) - 36usize];
    [
        "Offset of field: dpo_loss::length_normalized",
    ][::core::mem::offset_of!(dpo_loss, length_normalized) - 40usize];
    [
        "Offset of field: dpo_loss::wpo_weights",
    ][::core::mem::offset_of!(dpo_loss, wpo_weights) - 44usize];
    [
        "Offset of field: dpo_loss::reference_free",
    ][::core::mem::offset_of!(dpo_loss, reference_free) - 48usize];
    [
        "Offset of field: dpo_loss::given",
    ][::core::mem::offset_of!(dpo_loss, given) - 52usize];
    [
        "Offset of field: dpo_loss::label_smoothing",
    ][::core::mem::offset_of!(dpo_loss, label_smoothing) - 56usize];
    [
        "Offset of field: dpo_loss::gamma",
    ][::core::mem::offset_of!(dpo_loss, gamma) - 64usize];
    [
        "Offset of field: dpo_loss::baseline",
    ][::core::mem::offset_of!(dpo_loss, baseline) - 72usize];
    [
        "Offset of field: dpo_loss::alpha",
    ][::core::mem::offset_of!(dpo_loss, alpha) - 80usize];
    [
        "Offset of field: dpo_loss::normalizer",
    ][::core::mem::offset_of!(dpo_loss, normalizer) - 88usize];
    [
        "Offset of field: dpo_loss::inputs",
    ][::core::mem::offset_of!(dpo_loss, inputs) - 96usize];
};
/// What a pass found in its data: for each kind of trouble its first place, or DPO_NO_TROUBLE.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_status {
    /// Row whose label is neither the ignore index nor below V; its log-prob is NaN.
    pub bad_label: u32,
    /// Scored row whose log-prob is NaN or infinite.
    pub nonfinite_row: u32,
    /// Sequence without a scored row; its log-prob is 0.
    pub empty_sequence: u32,
    /// CUDA: entry of cu_seqlens that is out of order; every output is NaN. (In host memory: DPO_ERROR_INDEX.)
    pub bad_cu_seqlens: u32,
    /// CUDA: pair whose indices are out of range; its outputs are NaN. (In host memory: DPO_ERROR_INDEX.)
    pub bad_pair: u32,
    /** Pair, or sequence where they are unpaired, with a reference log-prob, a weight or a baseline that is not finite; on
  CUDA also with one of the dpo_pair_inputs out of its range. A number that all pairs share is the first one's. What
  reads it is NaN or infinite.*/
    pub bad_pair_input: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_status"][::core::mem::size_of::<dpo_status>() - 24usize];
    ["Alignment of dpo_status"][::core::mem::align_of::<dpo_status>() - 4usize];
    [
        "Offset of field: dpo_status::bad_label",
    ][::core::mem::offset_of!(dpo_status, bad_label) - 0usize];
    [
        "Offset of field: dpo_status::nonfinite_row",
    ][::core::mem::offset_of!(dpo_status, nonfinite_row) - 4usize];
    [
        "Offset of field: dpo_status::empty_sequence",
    ][::core::mem::offset_of!(dpo_status, empty_sequence) - 8usize];
    [
        "Offset of field: dpo_status::bad_cu_seqlens",
    ][::core::mem::offset_of!(dpo_status, bad_cu_seqlens) - 12usize];
    [
        "Offset of field: dpo_status::bad_pair",
    ][::core::mem::offset_of!(dpo_status, bad_pair) - 16usize];
    [
        "Offset of field: dpo_status::bad_pair_input",
    ][::core::mem::offset_of!(dpo_status, bad_pair_input) - 20usize];
};
/** Means over the scored rows of a batch, whatever their weights: 0 where there is none, so that means of several batches,
 weighted by `scored`, make those of all together. What is NaN in one of the rows is NaN in the mean, but for accuracy,
 which counts that row as wrong. CUDA: where cu_seqlens is out of order, scored is 0 and all means are NaN.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_mean_token_metrics {
    /// Number of scored rows.
    pub scored: u32,
    /// Mean entropy of the softmax, in nats.
    pub entropy: f32,
    /// Share of rows whose label has the largest logit, the first of equals.
    pub accuracy: f32,
    /// Mean of the logits, scaled and capped.
    pub mean_logit: f32,
    /// Mean log-sum-exp, in nats.
    pub logsumexp: f32,
    /// Mean of the sums of the squares of the probabilities.
    pub sum_p2: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dpo_mean_token_metrics",
    ][::core::mem::size_of::<dpo_mean_token_metrics>() - 24usize];
    [
        "Alignment of dpo_mean_token_metrics",
    ][::core::mem::align_of::<dpo_mean_token_metrics>() - 4usize];
    [
        "Offset of field: dpo_mean_token_metrics::scored",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, scored) - 0usize];
    [
        "Offset of field: dpo_mean_token_metrics::entropy",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, entropy) - 4usize];
    [
        "Offset of field: dpo_mean_token_metrics::accuracy",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, accuracy) - 8usize];
    [
        "Offset of field: dpo_mean_token_metrics::mean_logit",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, mean_logit) - 12usize];
    [
        "Offset of field: dpo_mean_token_metrics::logsumexp",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, logsumexp) - 16usize];
    [
        "Offset of field: dpo_mean_token_metrics::sum_p2",
    ][::core::mem::offset_of!(dpo_mean_token_metrics, sum_p2) - 20usize];
};
/** Where metrics of tokens are written, from the same read of the logits. What is null is not computed where that is
  cheaper.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_token_metrics {
    /// sizeof(dpo_token_metrics).
    pub struct_size: usize,
    /// [rows], or null: entropy of the softmax, in nats; 0 in rows that are not scored, as in the next three.
    pub entropy: *mut f32,
    /// [rows], or null: 1 where the label has the largest logit of its row, the first of equals; else 0.
    pub correct: *mut f32,
    /// [rows], or null: mean of the logits, scaled and capped.
    pub mean_logit: *mut f32,
    /// [rows], or null: sum of the squares of the probabilities.
    pub sum_p2: *mut f32,
    /** [S], or null: mean over the scored tokens of log-prob - log sum_p2: the logarithm of WPO's weight, which
  dpo_loss.wpo_weights cuts off at 1.*/
    pub sequence_log_weights: *mut f32,
    /// [1], or null: means over the batch, whether the arrays that they are means of are asked for or not.
    pub mean: *mut dpo_mean_token_metrics,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_token_metrics"][::core::mem::size_of::<dpo_token_metrics>() - 56usize];
    [
        "Alignment of dpo_token_metrics",
    ][::core::mem::align_of::<dpo_token_metrics>() - 8usize];
    [
        "Offset of field: dpo_token_metrics::struct_size",
    ][::core::mem::offset_of!(dpo_token_metrics, struct_size) - 0usize];
    [
        "Offset of field: dpo_token_metrics::entropy",
    ][::core::mem::offset_of!(dpo_token_metrics, entropy) - 8usize];
    [
        "Offset of field: dpo_token_metrics::correct",
    ][::core::mem::offset_of!(dpo_token_metrics, correct) - 16usize];
    [
        "Offset of field: dpo_token_metrics::mean_logit",
    ][::core::mem::offset_of!(dpo_token_metrics, mean_logit) - 24usize];
    [
        "Offset of field: dpo_token_metrics::sum_p2",
    ][::core::mem::offset_of!(dpo_token_metrics, sum_p2) - 32usize];
    [
        "Offset of field: dpo_token_metrics::sequence_log_weights",
    ][::core::mem::offset_of!(dpo_token_metrics, sequence_log_weights) - 40usize];
    [
        "Offset of field: dpo_token_metrics::mean",
    ][::core::mem::offset_of!(dpo_token_metrics, mean) - 48usize];
};
/// Where logps writes.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_logps {
    /// sizeof(dpo_logps).
    pub struct_size: usize,
    /// [S]: sum of the scored token log-probs of each sequence.
    pub logps: *mut f32,
    /// [S], or null: number of scored rows.
    pub scored: *mut u32,
    /// [rows], or null: log-prob of the label; 0 in rows that are not scored.
    pub token_logps: *mut f32,
    /// [rows], or null: log-sum-exp over the vocabulary, which backward needs; 0 in rows that are not scored.
    pub logsumexp: *mut f32,
    /// [rows], or null: what rounding took from logsumexp; with it backward is exact where |logsumexp| is large.
    pub logsumexp_residual: *mut f32,
    /** [rows], or null: what each token counts in its sequence's sum: 1, or ld_alpha; 0 in rows that are not scored.
  backward needs it where ld_alpha is not 1.*/
    pub token_weights: *mut f32,
    /// Where metrics of tokens are written, or null for none.
    pub metrics: *const dpo_token_metrics,
    /// [1]: what was found in the data.
    pub status: *mut dpo_status,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_logps"][::core::mem::size_of::<dpo_logps>() - 72usize];
    ["Alignment of dpo_logps"][::core::mem::align_of::<dpo_logps>() - 8usize];
    [
        "Offset of field: dpo_logps::struct_size",
    ][::core::mem::offset_of!(dpo_logps, struct_size) - 0usize];
    [
        "Offset of field: dpo_logps::logps",
    ][::core::mem::offset_of!(dpo_logps, logps) - 8usize];
    [
        "Offset of field: dpo_logps::scored",
    ][::core::mem::offset_of!(dpo_logps, scored) - 16usize];
    [
        "Offset of field: dpo_logps::token_logps",
    ][::core::mem::offset_of!(dpo_logps, token_logps) - 24usize];
    [
        "Offset of field: dpo_logps::logsumexp",
    ][::core::mem::offset_of!(dpo_logps, logsumexp) - 32usize];
    [
        "Offset of field: dpo_logps::logsumexp_residual",
    ][::core::mem::offset_of!(dpo_logps, logsumexp_residual) - 40usize];
    [
        "Offset of field: dpo_logps::token_weights",
    ][::core::mem::offset_of!(dpo_logps, token_weights) - 48usize];
    [
        "Offset of field: dpo_logps::metrics",
    ][::core::mem::offset_of!(dpo_logps, metrics) - 56usize];
    [
        "Offset of field: dpo_logps::status",
    ][::core::mem::offset_of!(dpo_logps, status) - 64usize];
};
/** The loss of a batch, and means over its pairs; a pair of weight 0 is none of them. A mean over nothing is 0, so that means
 of several batches, or of several ranks, weighted by what they are means over, make those of all together.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_pair_metrics {
    /// Number of pairs, or of sequences where they are unpaired.
    pub pairs: u32,
    /// Number of chosen sequences: `pairs`, or of unpaired sequences the desirable.
    pub chosen: u32,
    /// Number of rejected sequences: `pairs`, or of unpaired sequences the others.
    pub rejected: u32,
    /// Sum of the pair losses, divided by the normalizer; 0 where that is a count of nothing.
    pub loss: f32,
    /// Mean of the rewards of `chosen` sequences.
    pub chosen_reward: f32,
    /// Mean of the rewards of `rejected` sequences.
    pub rejected_reward: f32,
    /** Mean of the margins of `pairs`; of unpaired sequences chosen_reward - rejected_reward, and 0 where there are none of one
  kind.*/
    pub margin: f32,
    /** Share of `pairs` whose chosen reward is above the rejected one; a tie, or a NaN, counts as wrong. A reward that an
  unpaired sequence does not have is 0 here.*/
    pub accuracy: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_pair_metrics"][::core::mem::size_of::<dpo_pair_metrics>() - 32usize];
    [
        "Alignment of dpo_pair_metrics",
    ][::core::mem::align_of::<dpo_pair_metrics>() - 4usize];
    [
        "Offset of field: dpo_pair_metrics::pairs",
    ][::core::mem::offset_of!(dpo_pair_metrics, pairs) - 0usize];
    [
        "Offset of field: dpo_pair_metrics::chosen",
    ][::core::mem::offset_of!(dpo_pair_metrics, chosen) - 4usize];
    [
        "Offset of field: dpo_pair_metrics::rejected",
    ][::core::mem::offset_of!(dpo_pair_metrics, rejected) - 8usize];
    [
        "Offset of field: dpo_pair_metrics::loss",
    ][::core::mem::offset_of!(dpo_pair_metrics, loss) - 12usize];
    [
        "Offset of field: dpo_pair_metrics::chosen_reward",
    ][::core::mem::offset_of!(dpo_pair_metrics, chosen_reward) - 16usize];
    [
        "Offset of field: dpo_pair_metrics::rejected_reward",
    ][::core::mem::offset_of!(dpo_pair_metrics, rejected_reward) - 20usize];
    [
        "Offset of field: dpo_pair_metrics::margin",
    ][::core::mem::offset_of!(dpo_pair_metrics, margin) - 24usize];
    [
        "Offset of field: dpo_pair_metrics::accuracy",
    ][::core::mem::offset_of!(dpo_pair_metrics, accuracy) - 28usize];
};
/** Everything that there is one of in a batch, side by side, so that one copy fetches it from the GPU: its fields are where
 dpo_logps, dpo_pair_outputs and dpo_token_metrics may point to.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_batch_metrics {
    /// For dpo_logps.status.
    pub status: dpo_status,
    /// For dpo_pair_outputs.metrics.
    pub pairs: dpo_pair_metrics,
    /// For dpo_token_metrics.mean.
    pub tokens: dpo_mean_token_metrics,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_batch_metrics"][::core::mem::size_of::<dpo_batch_metrics>() - 80usize];
    [
        "Alignment of dpo_batch_metrics",
    ][::core::mem::align_of::<dpo_batch_metrics>() - 4usize];
    [
        "Offset of field: dpo_batch_metrics::status",
    ][::core::mem::offset_of!(dpo_batch_metrics, status) - 0usize];
    [
        "Offset of field: dpo_batch_metrics::pairs",
    ][::core::mem::offset_of!(dpo_batch_metrics, pairs) - 24usize];
    [
        "Offset of field: dpo_batch_metrics::tokens",
    ][::core::mem::offset_of!(dpo_batch_metrics, tokens) - 56usize];
};
/// Where pair_loss writes.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_pair_outputs {
    /// sizeof(dpo_pair_outputs).
    pub struct_size: usize,
    /// [N]: loss of each pair, before the normalizer.
    pub pair_losses: *mut f32,
    /// [N]: beta (logp - ref_logp) of each chosen sequence.
    pub chosen_rewards: *mut f32,
    /// [N]: beta (logp - ref_logp) of each rejected sequence.
    pub rejected_rewards: *mut f32,
    /// [N]: chosen reward - rejected reward.
    pub margins: *mut f32,
    /// [S]: c_s = d loss / d logp_s, what backward takes.
    pub coef: *mut f32,
    /// [1]: the loss of the batch, and means over its pairs.
    pub metrics: *mut dpo_pair_metrics,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_pair_outputs"][::core::mem::size_of::<dpo_pair_outputs>() - 56usize];
    [
        "Alignment of dpo_pair_outputs",
    ][::core::mem::align_of::<dpo_pair_outputs>() - 8usize];
    [
        "Offset of field: dpo_pair_outputs::struct_size",
    ][::core::mem::offset_of!(dpo_pair_outputs, struct_size) - 0usize];
    [
        "Offset of field: dpo_pair_outputs::pair_losses",
    ][::core::mem::offset_of!(dpo_pair_outputs, pair_losses) - 8usize];
    [
        "Offset of field: dpo_pair_outputs::chosen_rewards",
    ][::core::mem::offset_of!(dpo_pair_outputs, chosen_rewards) - 16usize];
    [
        "Offset of field: dpo_pair_outputs::rejected_rewards",
    ][::core::mem::offset_of!(dpo_pair_outputs, rejected_rewards) - 24usize];
    [
        "Offset of field: dpo_pair_outputs::margins",
    ][::core::mem::offset_of!(dpo_pair_outputs, margins) - 32usize];
    [
        "Offset of field: dpo_pair_outputs::coef",
    ][::core::mem::offset_of!(dpo_pair_outputs, coef) - 40usize];
    [
        "Offset of field: dpo_pair_outputs::metrics",
    ][::core::mem::offset_of!(dpo_pair_outputs, metrics) - 48usize];
};
/// What backward reads besides logits and labels, and where it writes.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_gradient {
    /// sizeof(dpo_gradient).
    pub struct_size: usize,
    /// [rows], of logps.
    pub logsumexp: *const f32,
    /// [rows], of logps, or null: then every gradient of a row is off by up to |logsumexp| 2^-24 of itself.
    pub logsumexp_residual: *const f32,
    /// [S], or null for 1: d loss / d logp of each sequence, of pair_loss or your own.
    pub coef: *const f32,
    /** [rows], or null for 1: a factor of each token. Where the batch's ld_alpha is not 1, it is logps' token_weights, times
  your own factors if there are any.*/
    pub token_coef: *const f32,
    /** [rows], or null: d loss / d H_r, for an objective with the entropies H_r of rows in it. Their gradient,
  -e_r p (log p + H_r) at a logit of probability p, comes to that of the log-probs; upstream is a factor of e_r too, and
  rows are skipped where both coefficients are small. Needs entropy.*/
    pub entropy_coef: *const f32,
    /// [rows], of logps' dpo_token_metrics, where entropy_coef is there; otherwise null.
    pub entropy: *const f32,
    /// [1], or null for 1: the upstream gradient, a factor of every coefficient, in the memory that the call is about.
    pub upstream: *const f32,
    /// The DPO_GRADIENT_ bits of the numbers that are there.
    pub given: u32,
    /// Another factor of every coefficient, which the host knows. DPO_GRADIENT_UPSTREAM_SCALE; otherwise 1.
    pub upstream_scale: f32,
    /** Rows whose coefficient, all factors included, is no larger than this in magnitude are written as zeros without
  being read; finite and not below 0. A NaN is larger. DPO_GRADIENT_THRESHOLD; otherwise 0, which are the rows whose
  coefficient is exactly 0.*/
    pub threshold: f32,
    /** [1], or null: lowered to the first row whose gradient holds an infinity (the overflow of an f16) or a NaN. Set it
  to DPO_NO_TROUBLE before; several calls may share it.*/
    pub nonfinite_row: *mut u32,
    /// [rows, V] in the type and row_stride of the logits: the logits buffer itself, or one apart from it.
    pub dlogits: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_gradient"][::core::mem::size_of::<dpo_gradient>() - 96usize];
    ["Alignment of dpo_gradient"][::core::mem::align_of::<dpo_gradient>() - 8usize];
    [
        "Offset of field: dpo_gradient::struct_size",
    ][::core::mem::offset_of!(dpo_gradient, struct_size) - 0usize];
    [
        "Offset of field: dpo_gradient::logsumexp",
    ][::core::mem::offset_of!(dpo_gradient, logsumexp) - 8usize];
    [
        "Offset of field: dpo_gradient::logsumexp_residual",
    ][::core::mem::offset_of!(dpo_gradient, logsumexp_residual) - 16usize];
    [
        "Offset of field: dpo_gradient::coef",
    ][::core::mem::offset_of!(dpo_gradient, coef) - 24usize];
    [
        "Offset of field: dpo_gradient::token_coef",
    ][::core::mem::offset_of!(dpo_gradient, token_coef) - 32usize];
    [
        "Offset of field: dpo_gradient::entropy_coef",
    ][::core::mem::offset_of!(dpo_gradient, entropy_coef) - 40usize];
    [
        "Offset of field: dpo_gradient::entropy",
    ][::core::mem::offset_of!(dpo_gradient, entropy) - 48usize];
    [
        "Offset of field: dpo_gradient::upstream",
    ][::core::mem::offset_of!(dpo_gradient, upstream) - 56usize];
    [
        "Offset of field: dpo_gradient::given",
    ][::core::mem::offset_of!(dpo_gradient, given) - 64usize];
    [
        "Offset of field: dpo_gradient::upstream_scale",
    ][::core::mem::offset_of!(dpo_gradient, upstream_scale) - 68usize];
    [
        "Offset of field: dpo_gradient::threshold",
    ][::core::mem::offset_of!(dpo_gradient, threshold) - 72usize];
    [
        "Offset of field: dpo_gradient::nonfinite_row",
    ][::core::mem::offset_of!(dpo_gradient, nonfinite_row) - 80usize];
    [
        "Offset of field: dpo_gradient::dlogits",
    ][::core::mem::offset_of!(dpo_gradient, dlogits) - 88usize];
};
/** What the functions behind the language model's head read where the others read dpo_inputs: hidden states X, and the head's
 weight W and bias b, of which the logits z = X W^T + b are made. The transform of the batch is that of these logits. Rows of
 the weight from its valid_vocab on are padding: they are not read, and their gradient is left as it is.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_lm_head {
    /// sizeof(dpo_lm_head).
    pub struct_size: usize,
    /// Element type of hidden, weight and bias, and of the gradient of hidden.
    pub dtype: dpo_dtype,
    /// Element type of the labels.
    pub label_type: dpo_label_type,
    /// H, the elements of a hidden state, from 1 to 2^31 - 1.
    pub hidden_size: usize,
    /// X, [rows, H] of dpo_dtype, dense. Ignored rows are not read and may hold anything.
    pub hidden: *const ::core::ffi::c_void,
    /// W, [V, H] of dpo_dtype, dense.
    pub weight: *const ::core::ffi::c_void,
    /// b, [V] of dpo_dtype, or null for none. CUDA: aligned to 16.
    pub bias: *const ::core::ffi::c_void,
    /// [rows] of dpo_label_type: a token id below V, or the ignore index. CUDA: in host memory, too.
    pub labels: *const ::core::ffi::c_void,
    /// The DPO_LM_HEAD_ bits of the numbers that are there.
    pub given: u32,
    /** Bytes of a chunk at most, of which a row takes 4 (V + 2 H), with the batch's valid_vocab where it has one for V; at least
  one row. DPO_LM_HEAD_BUDGET_BYTES, which the dpo_cuda_lm_head_ functions refuse, whose workspace has a budget_bytes of its
  own; otherwise 2^29.*/
    pub budget_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_lm_head"][::core::mem::size_of::<dpo_lm_head>() - 72usize];
    ["Alignment of dpo_lm_head"][::core::mem::align_of::<dpo_lm_head>() - 8usize];
    [
        "Offset of field: dpo_lm_head::struct_size",
    ][::core::mem::offset_of!(dpo_lm_head, struct_size) - 0usize];
    [
        "Offset of field: dpo_lm_head::dtype",
    ][::core::mem::offset_of!(dpo_lm_head, dtype) - 8usize];
    [
        "Offset of field: dpo_lm_head::label_type",
    ][::core::mem::offset_of!(dpo_lm_head, label_type) - 12usize];
    [
        "Offset of field: dpo_lm_head::hidden_size",
    ][::core::mem::offset_of!(dpo_lm_head, hidden_size) - 16usize];
    [
        "Offset of field: dpo_lm_head::hidden",
    ][::core::mem::offset_of!(dpo_lm_head, hidden) - 24usize];
    [
        "Offset of field: dpo_lm_head::weight",
    ][::core::mem::offset_of!(dpo_lm_head, weight) - 32usize];
    [
        "Offset of field: dpo_lm_head::bias",
    ][::core::mem::offset_of!(dpo_lm_head, bias) - 40usize];
    [
        "Offset of field: dpo_lm_head::labels",
    ][::core::mem::offset_of!(dpo_lm_head, labels) - 48usize];
    [
        "Offset of field: dpo_lm_head::given",
    ][::core::mem::offset_of!(dpo_lm_head, given) - 56usize];
    [
        "Offset of field: dpo_lm_head::budget_bytes",
    ][::core::mem::offset_of!(dpo_lm_head, budget_bytes) - 64usize];
};
/** What backward reads behind a head besides hidden states, weight and labels: what logps gave, and the coefficients of a loss
  of your own.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_lm_head_backward_inputs {
    /// sizeof(dpo_lm_head_backward_inputs).
    pub struct_size: usize,
    /// [rows], of logps.
    pub logsumexp: *const f32,
    /// [rows], of logps, or null: then every gradient of a row is off by up to |logsumexp| 2^-24 of itself.
    pub logsumexp_residual: *const f32,
    /// [S], or null for 1: d loss / d logp of each sequence.
    pub coef: *const f32,
    /** [rows], or null for 1: a factor of each token. Where the batch's ld_alpha is not 1, it is logps' token_weights, times
  your own factors if there are any.*/
    pub token_coef: *const f32,
    /** [rows], or null: d loss / d H_r, for an objective with the entropies H_r of rows in it. Their gradient,
  -e_r p (log p + H_r) at a logit of probability p, comes to that of the log-probs; upstream is a factor of e_r too, and
  rows are skipped where both coefficients are small. Needs entropy.*/
    pub entropy_coef: *const f32,
    /// [rows], of logps' dpo_token_metrics, where entropy_coef is there; otherwise null.
    pub entropy: *const f32,
    /// The DPO_GRADIENT_THRESHOLD bit, if that number is there.
    pub given: u32,
    /** Rows whose coefficient, all factors included, is no larger than this in magnitude are not multiplied: their dX is 0, and
  they have no part in dW and db. Finite and not below 0. A NaN is larger. DPO_GRADIENT_THRESHOLD; otherwise 0, which are
  the rows whose coefficient is exactly 0.*/
    pub threshold: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dpo_lm_head_backward_inputs",
    ][::core::mem::size_of::<dpo_lm_head_backward_inputs>() - 64usize];
    [
        "Alignment of dpo_lm_head_backward_inputs",
    ][::core::mem::align_of::<dpo_lm_head_backward_inputs>() - 8usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::struct_size",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, struct_size) - 0usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::logsumexp",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, logsumexp) - 8usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::logsumexp_residual",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, logsumexp_residual)
        - 16usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::coef",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, coef) - 24usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::token_coef",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, token_coef) - 32usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::entropy_coef",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, entropy_coef) - 40usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::entropy",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, entropy) - 48usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::given",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, given) - 56usize];
    [
        "Offset of field: dpo_lm_head_backward_inputs::threshold",
    ][::core::mem::offset_of!(dpo_lm_head_backward_inputs, threshold) - 60usize];
};
/** The gradients that are wanted of a pass through the head, with c the coefficient of each row, all factors included, and
  G[r, v] = 1[v = y_r] - softmax(z[r])[v], by the chain rule where logits are scaled or capped.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_lm_head_gradients {
    /// sizeof(dpo_lm_head_gradients).
    pub struct_size: usize,
    /// [1], or null for 1: the upstream gradient, a factor of every coefficient, in the memory that the call is about.
    pub upstream: *const f32,
    /// The DPO_GRADIENT_UPSTREAM_SCALE bit, if that number is there.
    pub given: u32,
    /// Another factor of every coefficient, which the host knows. DPO_GRADIENT_UPSTREAM_SCALE; otherwise 1.
    pub upstream_scale: f32,
    /** dX = diag(c) (G W), [rows, H] of the head's dpo_dtype, overwritten, exactly 0 in rows that are not scored or whose
  coefficient is 0; or null: not wanted.*/
    pub hidden: *mut ::core::ffi::c_void,
    /** dW = G^T (diag(c) X), [V, H], which is added to what is there, so that micro-batches add up: zero it before the first of
  them; or null: not wanted.*/
    pub weight: *mut f32,
    /// db = G^T c, [V], which is added to what is there; or null: not wanted.
    pub bias: *mut f32,
    /** [1], or null: lowered to the first row whose coefficient, logsumexp or dX is an infinity or a NaN. Set it to
  DPO_NO_TROUBLE before; several calls may share it.*/
    pub nonfinite_row: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dpo_lm_head_gradients",
    ][::core::mem::size_of::<dpo_lm_head_gradients>() - 56usize];
    [
        "Alignment of dpo_lm_head_gradients",
    ][::core::mem::align_of::<dpo_lm_head_gradients>() - 8usize];
    [
        "Offset of field: dpo_lm_head_gradients::struct_size",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, struct_size) - 0usize];
    [
        "Offset of field: dpo_lm_head_gradients::upstream",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, upstream) - 8usize];
    [
        "Offset of field: dpo_lm_head_gradients::given",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, given) - 16usize];
    [
        "Offset of field: dpo_lm_head_gradients::upstream_scale",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, upstream_scale) - 20usize];
    [
        "Offset of field: dpo_lm_head_gradients::hidden",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, hidden) - 24usize];
    [
        "Offset of field: dpo_lm_head_gradients::weight",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, weight) - 32usize];
    [
        "Offset of field: dpo_lm_head_gradients::bias",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, bias) - 40usize];
    [
        "Offset of field: dpo_lm_head_gradients::nonfinite_row",
    ][::core::mem::offset_of!(dpo_lm_head_gradients, nonfinite_row) - 48usize];
};
/** What a pass through the head will do. A product takes 2 V H operations a row. The numbers of rows are of scored rows, in
 chunks that go the same way; which ways there are follows from the gradients that are wanted:

   logps          none is wanted                         1 product    z
   frozen_weight  that of the hidden states alone        2 products   z, G W: c comes to a row at the very end
   whole_pairs    that of weight or bias, too            3 products   z, G W, G^T (diag(c) X), in chunks of whole pairs
   two_sweeps     the same, where a pair is larger than  4 products   z of all rows, then z again with the gradients
                  a chunk, or a loss sorts the pairs

 The product of a gradient that is not wanted is not made; that of the bias, with one column, is not counted.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_lm_head_plan {
    /// Number of chunks; 0 where no row is scored.
    pub chunks: usize,
    /// Rows of the largest chunk.
    pub most_rows: usize,
    /// Bytes of the largest chunk: no more than budget_bytes.
    pub chunk_bytes: usize,
    /// Bytes beside it, at most: a block of a weight that is not f32. CUDA: 0.
    pub weight_block_bytes: usize,
    /// Rows over all products: at most, since the second of two sweeps leaves out rows whose coefficient is 0.
    pub multiplied_rows: usize,
    /// Rows of which log-probs alone are wanted.
    pub logps_rows: usize,
    /// Rows whose coefficient comes to G W at the very end.
    pub frozen_weight_rows: usize,
    /// Rows of pairs whose gradients are made while their logits are there.
    pub whole_pairs_rows: usize,
    /// Rows whose logits are made twice.
    pub two_sweeps_rows: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_lm_head_plan"][::core::mem::size_of::<dpo_lm_head_plan>() - 72usize];
    [
        "Alignment of dpo_lm_head_plan",
    ][::core::mem::align_of::<dpo_lm_head_plan>() - 8usize];
    [
        "Offset of field: dpo_lm_head_plan::chunks",
    ][::core::mem::offset_of!(dpo_lm_head_plan, chunks) - 0usize];
    [
        "Offset of field: dpo_lm_head_plan::most_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, most_rows) - 8usize];
    [
        "Offset of field: dpo_lm_head_plan::chunk_bytes",
    ][::core::mem::offset_of!(dpo_lm_head_plan, chunk_bytes) - 16usize];
    [
        "Offset of field: dpo_lm_head_plan::weight_block_bytes",
    ][::core::mem::offset_of!(dpo_lm_head_plan, weight_block_bytes) - 24usize];
    [
        "Offset of field: dpo_lm_head_plan::multiplied_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, multiplied_rows) - 32usize];
    [
        "Offset of field: dpo_lm_head_plan::logps_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, logps_rows) - 40usize];
    [
        "Offset of field: dpo_lm_head_plan::frozen_weight_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, frozen_weight_rows) - 48usize];
    [
        "Offset of field: dpo_lm_head_plan::whole_pairs_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, whole_pairs_rows) - 56usize];
    [
        "Offset of field: dpo_lm_head_plan::two_sweeps_rows",
    ][::core::mem::offset_of!(dpo_lm_head_plan, two_sweeps_rows) - 64usize];
};
unsafe extern "C" {
    /// The version of the library, comparable to DPO_VERSION. Never fails.
    pub fn dpo_version() -> u32;
}
unsafe extern "C" {
    /** What was wrong in the last call on this thread that failed: "argument: expected ..., found ..." in UTF-8. Empty if
 none has. Valid until the next call on this thread that fails. Never null.*/
    pub fn dpo_last_error() -> *const ::core::ffi::c_char;
}
unsafe extern "C" {
    /** DPO_OK if `status`, in host memory, has no trouble; else DPO_ERROR_DATA, with the troubles in dpo_last_error.
 DPO_ERROR_VALUE for a null status.*/
    pub fn dpo_status_check(status: *const dpo_status) -> dpo_result;
}
unsafe extern "C" {
    /** logps on the CPU: log-probs of the labels, per token and per sequence.

 `batch`, `inputs` and `out` are described at their types; the pairs of `batch` are checked and otherwise unused.
 Row sums are in f32 over short blocks and f64 beyond, sequence sums in f64; each is rounded once. What of `out` is
 null costs nothing.

 Fails with DPO_ERROR_VALUE or DPO_ERROR_INDEX.*/
    pub fn dpo_cpu_logps(
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        out: *const dpo_logps,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** pair_loss on the CPU: from log-probs to loss, metrics and coefficients.

 Of `batch`, only the number of sequences and the pairs are looked at; the rest is ignored and may be 0, as
 label_alignment may here alone. `logps` is [S]. `ref_logps` is [S], or null
 where the loss is of log-probs alone or is reference_free.
 `scored` is [S], or null: the numbers of scored rows, of logps, which a length-normalised loss divides by unless
 loss->inputs has lengths, and which are counted where a loss is divided by a number of tokens. `status` is [1], and only
 its bad_pair_input can be set.

 Fails with DPO_ERROR_VALUE, also for a batch without the pairs that the loss needs; DPO_ERROR_INDEX; or DPO_ERROR_MISSING
 where the loss needs ref_logps, lengths, scored, or the kl_logps or kl_ref_logps of loss->inputs, and they are not there.*/
    pub fn dpo_cpu_pair_loss(
        batch: *const dpo_batch,
        logps: *const f32,
        ref_logps: *const f32,
        scored: *const u32,
        loss: *const dpo_loss,
        out: *const dpo_pair_outputs,
        status: *mut dpo_status,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** forward on the CPU: dpo_cpu_logps into `out`, then dpo_cpu_pair_loss into `pair_outputs` with the numbers of scored rows
 that logps found. `ref_logps` is [S], or null where the loss is of log-probs alone or is reference_free.

 Fails as these two do, before any work.*/
    pub fn dpo_cpu_forward(
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** backward on the CPU: the gradient of the loss with respect to the logits, in place where gradient->dlogits is
 inputs->logits (which then is written, const or not), with the same bits either way.

 dlogits[r, v] = c (1[v = y_r] - softmax(z[r])[v]) with c = coef[s] * token_coef[r] * upstream[0] * upstream_scale,
 rounded once to the type of the logits, and by the chain rule where logits are scaled or capped; rows that are not
 scored become 0.

 Fails with DPO_ERROR_VALUE, also where dlogits overlaps the logits without being the same; DPO_ERROR_INDEX; or
 DPO_ERROR_MISSING where ld_alpha is not 1 and token_coef is null.*/
    pub fn dpo_cpu_backward(
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        gradient: *const dpo_gradient,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** factored on the CPU: dpo_cpu_forward, and the gradient without its coefficients, with one read and one write of the
 logits. In place where `gradient` is inputs->logits (which then is written, const or not), with the same bits either way.

 `gradient` is [rows, V] in the type and row_stride of the logits: gradient[r, v] = 1[v = y_r] - softmax(z[r])[v], times the
 slope of the batch's transform where it has one, rounded once; 0 in rows that are not scored, NaN in rows that cannot be. d loss / d logits is that times
 pair_outputs->coef[s] of the row's sequence s, which goes into the products that consume it: for a linear head z = X W^T,
 X [rows, hidden] and W [V, hidden], with c the [rows] coefficients times the upstream gradient,
     dX = diag(c) (gradient W)        dW = gradient^T (diag(c) X)

 Fails as dpo_cpu_forward does, and with DPO_ERROR_VALUE where gradient overlaps the logits without being the same and for
 metrics of tokens, which only the other passes know; before any work.*/
    pub fn dpo_cpu_factored(
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradient: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
/** Memory for a chunk of logits and for what goes into and comes out of its products. It grows to what calls need, within
 their budget_bytes, and is kept until it is freed: one for a whole run allocates once. It serves heads and batches of any
 shape and type, one call at a time: a call that finds it in use by another one, on another thread, is refused.*/
#[repr(C)]
#[derive(Debug)]
pub struct dpo_cpu_lm_head_workspace {
    _unused: [u8; 0],
}
unsafe extern "C" {
    /** Stores the handle of an empty workspace in `*workspace`.

 Fails with DPO_ERROR_VALUE for a null `workspace`.*/
    pub fn dpo_cpu_lm_head_workspace_create(
        workspace: *mut *mut dpo_cpu_lm_head_workspace,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** Gives the memory of a workspace back. The caller sees to it that no call is using it and that the handle is not used again.
 Null is allowed and does nothing.*/
    pub fn dpo_cpu_lm_head_workspace_free(workspace: *mut dpo_cpu_lm_head_workspace);
}
unsafe extern "C" {
    /** Stores in `*plan` what dpo_cpu_lm_head_forward would do with the same arguments, or dpo_cpu_lm_head_logps where `gradients` is
 null, before anything runs. It is computed from the arguments alone and writes nothing else. `loss` may be null where no
 gradient is wanted.

 Of `head`, hidden, weight and bias are not looked at; of `gradients`, only which of hidden, weight and bias are null; of
 `loss`, not its inputs.

 Fails with DPO_ERROR_VALUE; DPO_ERROR_INDEX; or DPO_ERROR_MISSING where a gradient is wanted and `loss` is null.*/
    pub fn dpo_cpu_lm_head_plan(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        loss: *const dpo_loss,
        gradients: *const dpo_lm_head_gradients,
        plan: *mut dpo_lm_head_plan,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** dpo_cpu_logps of z = X W^T + b, of which a chunk of rows exists at a time: log-probs of the labels, per token and per
 sequence.

 `batch`, `head` and `out` are described at their types; `batch` has no row_stride. Products have f32 factors and sums, and
 logits are f32. Rows that are not scored are not multiplied. The same call gives the same bits again, on any number of
 threads; those of a row may differ from one budget_bytes to another in what rounding makes of its logits.

 `workspace` is null or of dpo_cpu_lm_head_workspace_create. With null the memory is allocated for the call and given back at
 its end.

 Fails with DPO_ERROR_VALUE, also for a workspace that another call is using, or DPO_ERROR_INDEX.*/
    pub fn dpo_cpu_lm_head_logps(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        out: *const dpo_logps,
        workspace: *mut dpo_cpu_lm_head_workspace,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** dpo_cpu_forward of z = X W^T + b, and the gradients of its loss, while a chunk of the logits exists at a time.

 `ref_logps` is [S], or null where the loss is of log-probs alone or is reference_free. `gradients` is null, or all its
 buffers are, where no gradient is wanted: then nothing of it is written. A row whose coefficient is 0, such as one of a pair
 of weight 0, has a dX of exactly 0 and no part in dW and db, whatever its logits are, unless its label is a bad one. Where
 the gradient of the hidden states alone is wanted, dX is rounded to its type before its coefficient comes to it, and once
 more after. `workspace` as for dpo_cpu_lm_head_logps.

 Fails as dpo_cpu_lm_head_logps and dpo_cpu_pair_loss do, and with DPO_ERROR_VALUE where a gradient overlaps what no gradient
 may, before any work.*/
    pub fn dpo_cpu_lm_head_forward(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *mut dpo_cpu_lm_head_workspace,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** The gradients of a loss of your own, from what dpo_cpu_lm_head_logps gave and coefficients. The logits are made again, but for
 rows that threshold skips. c = coef[s] * token_coef[r] * upstream[0] * upstream_scale. `workspace` as for
 dpo_cpu_lm_head_logps.

 Fails with DPO_ERROR_VALUE, also for a workspace that another call is using and where a gradient overlaps what no gradient
 may; DPO_ERROR_INDEX; or DPO_ERROR_MISSING where ld_alpha is not 1 and token_coef is null. All before any work.*/
    pub fn dpo_cpu_lm_head_backward(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        inputs: *const dpo_lm_head_backward_inputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *mut dpo_cpu_lm_head_workspace,
    ) -> dpo_result;
}
/// The kernels, loaded into a CUDA context. May be shared between threads.
#[repr(C)]
#[derive(Debug)]
pub struct dpo_cuda_kernels {
    _unused: [u8; 0],
}
unsafe extern "C" {
    /** Loads the kernels into the CUDA context that is current on this thread (after a call of the CUDA runtime: the
 device's primary context), and stores a handle in `*kernels`. Allocates and may synchronise: once, not per step.

 Fails with DPO_ERROR_VALUE for a null `kernels`, DPO_ERROR_NO_DRIVER, DPO_ERROR_NO_IMAGE, DPO_ERROR_DRIVER or
 DPO_ERROR_UNSUPPORTED.*/
    pub fn dpo_cuda_load(kernels: *mut *mut dpo_cuda_kernels) -> dpo_result;
}
unsafe extern "C" {
    /** Unloads the kernels. The caller sees to it that the work that was queued with them is done, that their context still
 exists, and that the handle is not used again. Null is allowed and does nothing.*/
    pub fn dpo_cuda_free(kernels: *mut dpo_cuda_kernels);
}
/** What dpo_cuda_logps, dpo_cuda_forward and dpo_cuda_factored need beside their results: memory of the caller's in which
  blocks count and pass sums on. It is zeroed once, after allocation; a launch finds its counters at zero and leaves them
  so. It serves batches of any shape within the numbers here, which stay as they are from launch to launch, and one launch at
  a time. A batch that has more of one of them is refused.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_workspace {
    /// sizeof(dpo_workspace).
    pub struct_size: usize,
    /// The most sequences of a batch, from 1 to 2^31 - 1.
    pub sequences: usize,
    /// The most rows of a batch, from 1 to 2^31 - 1.
    pub rows: usize,
    /// The largest vocab of a batch, from 1 to 2^31 - 1.
    pub vocab: usize,
    /// dpo_cuda_workspace_size bytes of device memory, aligned to 4.
    pub memory: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dpo_workspace"][::core::mem::size_of::<dpo_workspace>() - 40usize];
    ["Alignment of dpo_workspace"][::core::mem::align_of::<dpo_workspace>() - 8usize];
    [
        "Offset of field: dpo_workspace::struct_size",
    ][::core::mem::offset_of!(dpo_workspace, struct_size) - 0usize];
    [
        "Offset of field: dpo_workspace::sequences",
    ][::core::mem::offset_of!(dpo_workspace, sequences) - 8usize];
    [
        "Offset of field: dpo_workspace::rows",
    ][::core::mem::offset_of!(dpo_workspace, rows) - 16usize];
    [
        "Offset of field: dpo_workspace::vocab",
    ][::core::mem::offset_of!(dpo_workspace, vocab) - 24usize];
    [
        "Offset of field: dpo_workspace::memory",
    ][::core::mem::offset_of!(dpo_workspace, memory) - 32usize];
};
unsafe extern "C" {
    /** Stores in `*bytes` how much memory `workspace` needs: about 28 bytes a row and 56 a sequence, and 24 more for each of the
 slices that a long row is read in. Its `memory` is not looked at, and no device is needed.

 Fails with DPO_ERROR_VALUE or DPO_ERROR_UNSUPPORTED.*/
    pub fn dpo_cuda_workspace_size(
        workspace: *const dpo_workspace,
        bytes: *mut usize,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// logps on a GPU, as dpo_cpu_logps.
    pub fn dpo_cuda_logps(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        out: *const dpo_logps,
        workspace: *const dpo_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** pair_loss on a GPU, as dpo_cpu_pair_loss. `status` is [1] in device memory, and only its bad_pair and
  bad_pair_input can be set.*/
    pub fn dpo_cuda_pair_loss(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        logps: *const f32,
        ref_logps: *const f32,
        scored: *const u32,
        loss: *const dpo_loss,
        out: *const dpo_pair_outputs,
        status: *mut dpo_status,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// forward on a GPU, as dpo_cpu_forward.
    pub fn dpo_cuda_forward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        workspace: *const dpo_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// factored on a GPU, as dpo_cpu_factored.
    pub fn dpo_cuda_factored(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradient: *mut ::core::ffi::c_void,
        workspace: *const dpo_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// backward on a GPU, as dpo_cpu_backward.
    pub fn dpo_cuda_backward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        gradient: *const dpo_gradient,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
/** cuBLASLt, which multiplies the matrices of the dpo_cuda_lm_head_ functions, with what it has made for the shapes that it has
  met. May be shared between threads.*/
#[repr(C)]
#[derive(Debug)]
pub struct dpo_cuda_products {
    _unused: [u8; 0],
}
unsafe extern "C" {
    /** Loads cuBLASLt for the CUDA context that is current on this thread, and stores a handle in `*products`: once, not per step.

 Fails with DPO_ERROR_VALUE for a null `products`, DPO_ERROR_NO_CUBLASLT, with the names of the files that were looked for,
 DPO_ERROR_CUBLASLT, DPO_ERROR_NO_DRIVER, DPO_ERROR_DRIVER or DPO_ERROR_UNSUPPORTED.*/
    pub fn dpo_cuda_products_create(products: *mut *mut dpo_cuda_products) -> dpo_result;
}
unsafe extern "C" {
    /** Gives back what the handle has. The caller sees to it that the work that was queued with it is done, that its context still
 exists, and that the handle is not used again. Null is allowed and does nothing.*/
    pub fn dpo_cuda_products_free(products: *mut dpo_cuda_products);
}
/** What the dpo_cuda_lm_head_ functions need beside their results: memory of the caller's for a chunk of logits, for what goes
  into and comes out of its products, for numbers of the scored rows, and for what blocks count and pass on. It is zeroed once,
  after allocation. It serves heads of one type and size, with batches of any shape within the numbers here, which stay as they
  are from call to call, and one call at a time: calls on one stream, one after the other. A batch that has more of one of them
  is refused.*/
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dpo_cuda_lm_head_workspace {
    /// sizeof(dpo_cuda_lm_head_workspace).
    pub struct_size: usize,
    /// The most sequences of a batch, from 1 to 2^31 - 1.
    pub sequences: usize,
    /// The most scored rows of a batch, from 1 to 2^31 - 1: no other row is multiplied.
    pub rows: usize,
    /// The most pairs of a batch, N, up to 2^31 - 1; 0 where batches have none.
    pub pairs: usize,
    /// The largest vocab of a batch, or valid_vocab of one that has it, from 1 to 2^31 - 1.
    pub vocab: usize,
    /// H of the heads, from 1 to 2^31 - 1.
    pub hidden_size: usize,
    /// Element type of the heads.
    pub dtype: dpo_dtype,
    /// The DPO_LM_HEAD_WORKSPACE_ bits of what is there.
    pub given: u32,
    /** Element type of a chunk's logits: dtype; or DPO_F32, with which products are not rounded before log-probs come of them.
  DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE; otherwise dtype.*/
    pub logits_dtype: dpo_dtype,
    /** Bytes of a chunk at most; at least one row. A row takes the elements of V, filled up to a multiple of 8, in logits_dtype,
  and once more in dtype where that is another type; and those of H in dtype and in f32.
  DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES; otherwise what as many rows take as have 2^29 bytes of logits in dtype.*/
    pub budget_bytes: usize,
    /// Bytes that each product may work in. DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES; otherwise 2^25.
    pub product_bytes: usize,
    /// dpo_cuda_lm_head_workspace_size bytes of device memory, aligned to 256.
    pub memory: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dpo_cuda_lm_head_workspace",
    ][::core::mem::size_of::<dpo_cuda_lm_head_workspace>() - 88usize];
    [
        "Alignment of dpo_cuda_lm_head_workspace",
    ][::core::mem::align_of::<dpo_cuda_lm_head_workspace>() - 8usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::struct_size",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, struct_size) - 0usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::sequences",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, sequences) - 8usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::rows",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, rows) - 16usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::pairs",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, pairs) - 24usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::vocab",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, vocab) - 32usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::hidden_size",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, hidden_size) - 40usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::dtype",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, dtype) - 48usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::given",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, given) - 52usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::logits_dtype",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, logits_dtype) - 56usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::budget_bytes",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, budget_bytes) - 64usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::product_bytes",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, product_bytes) - 72usize];
    [
        "Offset of field: dpo_cuda_lm_head_workspace::memory",
    ][::core::mem::offset_of!(dpo_cuda_lm_head_workspace, memory) - 80usize];
};
unsafe extern "C" {
    /** Stores in `*bytes` how much memory `workspace` needs: a chunk, product_bytes, about 72 bytes a scored row and 64 a sequence,
 and 24 more for each of the slices that a long row is read in. Its `memory` is not looked at, and no device is needed.

 Fails with DPO_ERROR_VALUE or DPO_ERROR_UNSUPPORTED.*/
    pub fn dpo_cuda_lm_head_workspace_size(
        workspace: *const dpo_cuda_lm_head_workspace,
        bytes: *mut usize,
    ) -> dpo_result;
}
unsafe extern "C" {
    /** Stores in `*plan` what dpo_cuda_lm_head_forward would do with the same arguments, or dpo_cuda_lm_head_logps where `gradients`
 is null: dpo_cpu_lm_head_plan for a GPU, with the same arguments that are not looked at, and nor is the memory of `workspace`.
 No device is needed.

 Fails as dpo_cpu_lm_head_plan does, for a batch that `workspace` is too small for, and with DPO_ERROR_UNSUPPORTED.*/
    pub fn dpo_cuda_lm_head_plan(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        loss: *const dpo_loss,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        plan: *mut dpo_lm_head_plan,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// dpo_cpu_lm_head_logps on a GPU.
    pub fn dpo_cuda_lm_head_logps(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        out: *const dpo_logps,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// dpo_cpu_lm_head_forward on a GPU.
    pub fn dpo_cuda_lm_head_forward(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
unsafe extern "C" {
    /// dpo_cpu_lm_head_backward on a GPU.
    pub fn dpo_cuda_lm_head_backward(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        inputs: *const dpo_lm_head_backward_inputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut ::core::ffi::c_void,
    ) -> dpo_result;
}
