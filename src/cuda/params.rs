// Made by bindgen from kernels/params.h (`make params`); a test compares it with a fresh run.

pub const DPO_ROW_THREADS: u32 = 256;
pub const DPO_ROW_BLOCKS: u32 = 4;
pub const DPO_ROW_BLOCKS_OF_METRICS: u32 = 3;
pub const DPO_FACTORED_THREADS: u32 = 448;
pub const DPO_FACTORED_BLOCKS: u32 = 2;
pub const DPO_PAIR_LOSS_THREADS: u32 = 512;
pub const DPO_PAIR_LOSS_BLOCKS: u32 = 2;
pub const DPO_HEAD_THREADS: u32 = 256;
pub const DPO_HEAD_BLOCKS: u32 = 4;
pub const DPO_NO_TROUBLE: u32 = 4294967295;
pub const DPO_LOSS_TERMS: u32 = 4;
pub const DPO_TOKEN_RESULTS: u32 = 8;
/// (i, pairs + i)
pub const DPO_PAIRS_CONCATENATED: DpoPairLayout = 0;
/// (2i, 2i + 1)
pub const DPO_PAIRS_INTERLEAVED: DpoPairLayout = 1;
/// (chosen[i], rejected[i])
pub const DPO_PAIRS_INDEXED: DpoPairLayout = 2;
/// sequence i alone, chosen where chosen[i] is not 0, else rejected
pub const DPO_PAIRS_UNPAIRED: DpoPairLayout = 3;
/// How sequences form pairs.
pub type DpoPairLayout = ::core::ffi::c_uint;
pub const DPO_LOSS_SIGMOID: DpoLossKind = 0;
pub const DPO_LOSS_HINGE: DpoLossKind = 1;
pub const DPO_LOSS_IPO: DpoLossKind = 2;
pub const DPO_LOSS_EXO_PAIR: DpoLossKind = 3;
pub const DPO_LOSS_NCA_PAIR: DpoLossKind = 4;
pub const DPO_LOSS_ROBUST: DpoLossKind = 5;
pub const DPO_LOSS_BCO_PAIR: DpoLossKind = 6;
pub const DPO_LOSS_SPPO_HARD: DpoLossKind = 7;
pub const DPO_LOSS_AOT: DpoLossKind = 8;
pub const DPO_LOSS_AOT_UNPAIRED: DpoLossKind = 9;
pub const DPO_LOSS_APO_ZERO: DpoLossKind = 10;
pub const DPO_LOSS_APO_DOWN: DpoLossKind = 11;
/// parameters: tau
pub const DPO_LOSS_DISCOPOP: DpoLossKind = 12;
pub const DPO_LOSS_SFT: DpoLossKind = 13;
pub const DPO_LOSS_NLL: DpoLossKind = 14;
pub const DPO_LOSS_ODDS_RATIO: DpoLossKind = 15;
/// parameters: weights of desirable and undesirable
pub const DPO_LOSS_KTO: DpoLossKind = 16;
/// The losses, by their names in the table of src/loss/, which has their formulas.
pub type DpoLossKind = ::core::ffi::c_uint;
pub const DPO_REVERSE_KL: DpoDivergence = 0;
pub const DPO_FORWARD_KL: DpoDivergence = 1;
pub const DPO_JENSEN_SHANNON: DpoDivergence = 2;
pub const DPO_ALPHA_DIVERGENCE: DpoDivergence = 3;
/// What a log-ratio is worth to a loss of the margin; src/loss/divergence.rs has the formulas.
pub type DpoDivergence = ::core::ffi::c_uint;
pub const DPO_NORMALIZER_NUMBER: DpoNormalizer = 0;
/// scored tokens of chosen and rejected
pub const DPO_NORMALIZER_TOKENS: DpoNormalizer = 1;
pub const DPO_NORMALIZER_PAIRS: DpoNormalizer = 2;
/// What the sum of pair losses is divided by, unless the device knows. A pair of weight 0 is not counted, nor are its tokens.
pub type DpoNormalizer = ::core::ffi::c_uint;
/// index of the row
pub const DPO_BAD_LABEL: DpoTrouble = 0;
/// index of the row
pub const DPO_NONFINITE_ROW: DpoTrouble = 1;
/// index of the sequence
pub const DPO_EMPTY_SEQUENCE: DpoTrouble = 2;
/// index of the entry
pub const DPO_BAD_CU_SEQLENS: DpoTrouble = 3;
/// index of the pair
pub const DPO_BAD_PAIR: DpoTrouble = 4;
/// index of the pair
pub const DPO_BAD_PAIR_INPUT: DpoTrouble = 5;
pub const DPO_TROUBLES: DpoTrouble = 6;
/// Kinds of trouble that only the device can see; positions in DpoProgress and DpoStatus.
pub type DpoTrouble = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoStatus {
    pub first: [::core::ffi::c_uint; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoStatus"][::core::mem::size_of::<DpoStatus>() - 24usize];
    ["Alignment of DpoStatus"][::core::mem::align_of::<DpoStatus>() - 4usize];
    [
        "Offset of field: DpoStatus::first",
    ][::core::mem::offset_of!(DpoStatus, first) - 0usize];
};
/// Metrics of the pairs of a batch whose weight is not 0; means over nothing are 0.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoPairMetrics {
    /// what the means are over
    pub pairs: ::core::ffi::c_uint,
    pub chosen: ::core::ffi::c_uint,
    pub rejected: ::core::ffi::c_uint,
    /// sum of pair losses / normalizer
    pub loss: f32,
    /// mean
    pub chosen_reward: f32,
    /// mean
    pub rejected_reward: f32,
    /// mean
    pub margin: f32,
    /// share of pairs with chosen reward > rejected reward
    pub accuracy: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoPairMetrics"][::core::mem::size_of::<DpoPairMetrics>() - 32usize];
    ["Alignment of DpoPairMetrics"][::core::mem::align_of::<DpoPairMetrics>() - 4usize];
    [
        "Offset of field: DpoPairMetrics::pairs",
    ][::core::mem::offset_of!(DpoPairMetrics, pairs) - 0usize];
    [
        "Offset of field: DpoPairMetrics::chosen",
    ][::core::mem::offset_of!(DpoPairMetrics, chosen) - 4usize];
    [
        "Offset of field: DpoPairMetrics::rejected",
    ][::core::mem::offset_of!(DpoPairMetrics, rejected) - 8usize];
    [
        "Offset of field: DpoPairMetrics::loss",
    ][::core::mem::offset_of!(DpoPairMetrics, loss) - 12usize];
    [
        "Offset of field: DpoPairMetrics::chosen_reward",
    ][::core::mem::offset_of!(DpoPairMetrics, chosen_reward) - 16usize];
    [
        "Offset of field: DpoPairMetrics::rejected_reward",
    ][::core::mem::offset_of!(DpoPairMetrics, rejected_reward) - 20usize];
    [
        "Offset of field: DpoPairMetrics::margin",
    ][::core::mem::offset_of!(DpoPairMetrics, margin) - 24usize];
    [
        "Offset of field: DpoPairMetrics::accuracy",
    ][::core::mem::offset_of!(DpoPairMetrics, accuracy) - 28usize];
};
/// Rows, labels and sequences.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoBatch {
    /// [rows], 4 or 8 bytes each
    pub labels: ::core::ffi::c_ulonglong,
    /// [sequences + 1], or null: padded
    pub cu_seqlens: ::core::ffi::c_ulonglong,
    /// elements from row to row
    pub row_stride: ::core::ffi::c_longlong,
    pub ignore_index: ::core::ffi::c_longlong,
    pub rows: ::core::ffi::c_uint,
    /// of this launch: all of them, or a window of them
    pub first_row: ::core::ffi::c_uint,
    /// of this launch: all of them, or a window of them
    pub end_row: ::core::ffi::c_uint,
    pub vocab: ::core::ffi::c_uint,
    /// that take part in the softmax: those behind are padding of the vocabulary
    pub columns: ::core::ffi::c_uint,
    pub sequences: ::core::ffi::c_uint,
    /// rows per padded sequence
    pub sequence_len: ::core::ffi::c_uint,
    /// 4 or 8
    pub label_bytes: ::core::ffi::c_uint,
    /// row t predicts labels[t + 1]
    pub next_token: ::core::ffi::c_uint,
    /// of the logits
    pub scale: f32,
    /// log2(scale)
    pub scale_log2: f32,
    /// of the scaled logits, or 0: none
    pub softcap: f32,
    /// 2 scale log2(e) / softcap, or 0
    pub softcap_power: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoBatch"][::core::mem::size_of::<DpoBatch>() - 88usize];
    ["Alignment of DpoBatch"][::core::mem::align_of::<DpoBatch>() - 8usize];
    [
        "Offset of field: DpoBatch::labels",
    ][::core::mem::offset_of!(DpoBatch, labels) - 0usize];
    [
        "Offset of field: DpoBatch::cu_seqlens",
    ][::core::mem::offset_of!(DpoBatch, cu_seqlens) - 8usize];
    [
        "Offset of field: DpoBatch::row_stride",
    ][::core::mem::offset_of!(DpoBatch, row_stride) - 16usize];
    [
        "Offset of field: DpoBatch::ignore_index",
    ][::core::mem::offset_of!(DpoBatch, ignore_index) - 24usize];
    [
        "Offset of field: DpoBatch::rows",
    ][::core::mem::offset_of!(DpoBatch, rows) - 32usize];
    [
        "Offset of field: DpoBatch::first_row",
    ][::core::mem::offset_of!(DpoBatch, first_row) - 36usize];
    [
        "Offset of field: DpoBatch::end_row",
    ][::core::mem::offset_of!(DpoBatch, end_row) - 40usize];
    [
        "Offset of field: DpoBatch::vocab",
    ][::core::mem::offset_of!(DpoBatch, vocab) - 44usize];
    [
        "Offset of field: DpoBatch::columns",
    ][::core::mem::offset_of!(DpoBatch, columns) - 48usize];
    [
        "Offset of field: DpoBatch::sequences",
    ][::core::mem::offset_of!(DpoBatch, sequences) - 52usize];
    [
        "Offset of field: DpoBatch::sequence_len",
    ][::core::mem::offset_of!(DpoBatch, sequence_len) - 56usize];
    [
        "Offset of field: DpoBatch::label_bytes",
    ][::core::mem::offset_of!(DpoBatch, label_bytes) - 60usize];
    [
        "Offset of field: DpoBatch::next_token",
    ][::core::mem::offset_of!(DpoBatch, next_token) - 64usize];
    [
        "Offset of field: DpoBatch::scale",
    ][::core::mem::offset_of!(DpoBatch, scale) - 68usize];
    [
        "Offset of field: DpoBatch::scale_log2",
    ][::core::mem::offset_of!(DpoBatch, scale_log2) - 72usize];
    [
        "Offset of field: DpoBatch::softcap",
    ][::core::mem::offset_of!(DpoBatch, softcap) - 76usize];
    [
        "Offset of field: DpoBatch::softcap_power",
    ][::core::mem::offset_of!(DpoBatch, softcap_power) - 80usize];
};
/// One loss of a weighted sum.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoLossTerm {
    pub kind: ::core::ffi::c_uint,
    pub length_normalized: ::core::ffi::c_uint,
    pub weight: f32,
    pub beta: f32,
    pub label_smoothing: f32,
    pub parameters: [f32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoLossTerm"][::core::mem::size_of::<DpoLossTerm>() - 28usize];
    ["Alignment of DpoLossTerm"][::core::mem::align_of::<DpoLossTerm>() - 4usize];
    [
        "Offset of field: DpoLossTerm::kind",
    ][::core::mem::offset_of!(DpoLossTerm, kind) - 0usize];
    [
        "Offset of field: DpoLossTerm::length_normalized",
    ][::core::mem::offset_of!(DpoLossTerm, length_normalized) - 4usize];
    [
        "Offset of field: DpoLossTerm::weight",
    ][::core::mem::offset_of!(DpoLossTerm, weight) - 8usize];
    [
        "Offset of field: DpoLossTerm::beta",
    ][::core::mem::offset_of!(DpoLossTerm, beta) - 12usize];
    [
        "Offset of field: DpoLossTerm::label_smoothing",
    ][::core::mem::offset_of!(DpoLossTerm, label_smoothing) - 16usize];
    [
        "Offset of field: DpoLossTerm::parameters",
    ][::core::mem::offset_of!(DpoLossTerm, parameters) - 20usize];
};
/// A loss over pairs: parameters, what it reads besides logps, and where its results go.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoPairLoss {
    /// [sequences], or null: 0
    pub ref_logps: ::core::ffi::c_ulonglong,
    /// [pairs], indexed layout; [sequences], unpaired
    pub chosen: ::core::ffi::c_ulonglong,
    /// [pairs], indexed layout only
    pub rejected: ::core::ffi::c_ulonglong,
    /// [sequences], or null: the numbers of scored rows
    pub lengths: ::core::ffi::c_ulonglong,
    /// [pairs], or null: those of the terms and of the rewards
    pub betas: ::core::ffi::c_ulonglong,
    /// [pairs], or null: gamma
    pub gammas: ::core::ffi::c_ulonglong,
    /// [pairs], or null: 1
    pub weights: ::core::ffi::c_ulonglong,
    /// [pairs], or null: those of the terms
    pub label_smoothings: ::core::ffi::c_ulonglong,
    /// [sequences], or null: 0
    pub sequence_log_weights: ::core::ffi::c_ulonglong,
    /// [kl_count]
    pub kl_logps: ::core::ffi::c_ulonglong,
    /// [kl_count], or null: 0
    pub kl_ref_logps: ::core::ffi::c_ulonglong,
    /// a scalar, or null
    pub device_normalizer: ::core::ffi::c_ulonglong,
    /// a scalar, or null: those of this batch
    pub chosen_tokens: ::core::ffi::c_ulonglong,
    /// [pairs]
    pub pair_losses: ::core::ffi::c_ulonglong,
    /// [pairs]
    pub chosen_rewards: ::core::ffi::c_ulonglong,
    /// [pairs]
    pub rejected_rewards: ::core::ffi::c_ulonglong,
    /// [pairs]
    pub margins: ::core::ffi::c_ulonglong,
    /// [sequences]
    pub coef: ::core::ffi::c_ulonglong,
    pub metrics: ::core::ffi::c_ulonglong,
    /// 0: log-probs only
    pub pairs: ::core::ffi::c_uint,
    pub pair_layout: ::core::ffi::c_uint,
    /// of the rewards; terms have their own
    pub length_normalized: ::core::ffi::c_uint,
    pub divergence: ::core::ffi::c_uint,
    pub normalizer_kind: ::core::ffi::c_uint,
    pub kl_count: ::core::ffi::c_uint,
    pub term_count: ::core::ffi::c_uint,
    /// of the rewards; terms have their own
    pub beta: f32,
    pub gamma: f32,
    /// n of an f' that is (e^(n x) - 1) / n: -1 for the forward KL, alpha - 1; otherwise 0
    pub order: f32,
    pub baseline: f32,
    pub normalizer: f32,
    /// of a pair, before its weight: 0 for WPO, else infinity
    pub most_log_weight: f32,
    pub terms: [DpoLossTerm; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoPairLoss"][::core::mem::size_of::<DpoPairLoss>() - 320usize];
    ["Alignment of DpoPairLoss"][::core::mem::align_of::<DpoPairLoss>() - 8usize];
    [
        "Offset of field: DpoPairLoss::ref_logps",
    ][::core::mem::offset_of!(DpoPairLoss, ref_logps) - 0usize];
    [
        "Offset of field: DpoPairLoss::chosen",
    ][::core::mem::offset_of!(DpoPairLoss, chosen) - 8usize];
    [
        "Offset of field: DpoPairLoss::rejected",
    ][::core::mem::offset_of!(DpoPairLoss, rejected) - 16usize];
    [
        "Offset of field: DpoPairLoss::lengths",
    ][::core::mem::offset_of!(DpoPairLoss, lengths) - 24usize];
    [
        "Offset of field: DpoPairLoss::betas",
    ][::core::mem::offset_of!(DpoPairLoss, betas) - 32usize];
    [
        "Offset of field: DpoPairLoss::gammas",
    ][::core::mem::offset_of!(DpoPairLoss, gammas) - 40usize];
    [
        "Offset of field: DpoPairLoss::weights",
    ][::core::mem::offset_of!(DpoPairLoss, weights) - 48usize];
    [
        "Offset of field: DpoPairLoss::label_smoothings",
    ][::core::mem::offset_of!(DpoPairLoss, label_smoothings) - 56usize];
    [
        "Offset of field: DpoPairLoss::sequence_log_weights",
    ][::core::mem::offset_of!(DpoPairLoss, sequence_log_weights) - 64usize];
    [
        "Offset of field: DpoPairLoss::kl_logps",
    ][::core::mem::offset_of!(DpoPairLoss, kl_logps) - 72usize];
    [
        "Offset of field: DpoPairLoss::kl_ref_logps",
    ][::core::mem::offset_of!(DpoPairLoss, kl_ref_logps) - 80usize];
    [
        "Offset of field: DpoPairLoss::device_normalizer",
    ][::core::mem::offset_of!(DpoPairLoss, device_normalizer) - 88usize];
    [
        "Offset of field: DpoPairLoss::chosen_tokens",
    ][::core::mem::offset_of!(DpoPairLoss, chosen_tokens) - 96usize];
    [
        "Offset of field: DpoPairLoss::pair_losses",
    ][::core::mem::offset_of!(DpoPairLoss, pair_losses) - 104usize];
    [
        "Offset of field: DpoPairLoss::chosen_rewards",
    ][::core::mem::offset_of!(DpoPairLoss, chosen_rewards) - 112usize];
    [
        "Offset of field: DpoPairLoss::rejected_rewards",
    ][::core::mem::offset_of!(DpoPairLoss, rejected_rewards) - 120usize];
    [
        "Offset of field: DpoPairLoss::margins",
    ][::core::mem::offset_of!(DpoPairLoss, margins) - 128usize];
    [
        "Offset of field: DpoPairLoss::coef",
    ][::core::mem::offset_of!(DpoPairLoss, coef) - 136usize];
    [
        "Offset of field: DpoPairLoss::metrics",
    ][::core::mem::offset_of!(DpoPairLoss, metrics) - 144usize];
    [
        "Offset of field: DpoPairLoss::pairs",
    ][::core::mem::offset_of!(DpoPairLoss, pairs) - 152usize];
    [
        "Offset of field: DpoPairLoss::pair_layout",
    ][::core::mem::offset_of!(DpoPairLoss, pair_layout) - 156usize];
    [
        "Offset of field: DpoPairLoss::length_normalized",
    ][::core::mem::offset_of!(DpoPairLoss, length_normalized) - 160usize];
    [
        "Offset of field: DpoPairLoss::divergence",
    ][::core::mem::offset_of!(DpoPairLoss, divergence) - 164usize];
    [
        "Offset of field: DpoPairLoss::normalizer_kind",
    ][::core::mem::offset_of!(DpoPairLoss, normalizer_kind) - 168usize];
    [
        "Offset of field: DpoPairLoss::kl_count",
    ][::core::mem::offset_of!(DpoPairLoss, kl_count) - 172usize];
    [
        "Offset of field: DpoPairLoss::term_count",
    ][::core::mem::offset_of!(DpoPairLoss, term_count) - 176usize];
    [
        "Offset of field: DpoPairLoss::beta",
    ][::core::mem::offset_of!(DpoPairLoss, beta) - 180usize];
    [
        "Offset of field: DpoPairLoss::gamma",
    ][::core::mem::offset_of!(DpoPairLoss, gamma) - 184usize];
    [
        "Offset of field: DpoPairLoss::order",
    ][::core::mem::offset_of!(DpoPairLoss, order) - 188usize];
    [
        "Offset of field: DpoPairLoss::baseline",
    ][::core::mem::offset_of!(DpoPairLoss, baseline) - 192usize];
    [
        "Offset of field: DpoPairLoss::normalizer",
    ][::core::mem::offset_of!(DpoPairLoss, normalizer) - 196usize];
    [
        "Offset of field: DpoPairLoss::most_log_weight",
    ][::core::mem::offset_of!(DpoPairLoss, most_log_weight) - 200usize];
    [
        "Offset of field: DpoPairLoss::terms",
    ][::core::mem::offset_of!(DpoPairLoss, terms) - 204usize];
};
/// What blocks leave for the last of them; all zero between launches.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoProgress {
    pub rows_done: ::core::ffi::c_uint,
    /// ~index of the first offender: 0 is none, and a maximum finds the first
    pub worst: [::core::ffi::c_uint; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoProgress"][::core::mem::size_of::<DpoProgress>() - 28usize];
    ["Alignment of DpoProgress"][::core::mem::align_of::<DpoProgress>() - 4usize];
    [
        "Offset of field: DpoProgress::rows_done",
    ][::core::mem::offset_of!(DpoProgress, rows_done) - 0usize];
    [
        "Offset of field: DpoProgress::worst",
    ][::core::mem::offset_of!(DpoProgress, worst) - 4usize];
};
/** How rows are divided among blocks: several rows to a block, each to as large a part of its threads, or several blocks to a
 row, each with some of its slices. One of the first two numbers is 1.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoRowPartition {
    pub rows_per_block: ::core::ffi::c_uint,
    pub blocks_per_row: ::core::ffi::c_uint,
    /// of one row; the last block has those that are left
    pub slices_per_block: ::core::ffi::c_uint,
    /// of a row
    pub slices: ::core::ffi::c_uint,
    /// 16-byte vectors; the last slice has what is left of the row
    pub slice_vectors: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoRowPartition"][::core::mem::size_of::<DpoRowPartition>() - 20usize];
    [
        "Alignment of DpoRowPartition",
    ][::core::mem::align_of::<DpoRowPartition>() - 4usize];
    [
        "Offset of field: DpoRowPartition::rows_per_block",
    ][::core::mem::offset_of!(DpoRowPartition, rows_per_block) - 0usize];
    [
        "Offset of field: DpoRowPartition::blocks_per_row",
    ][::core::mem::offset_of!(DpoRowPartition, blocks_per_row) - 4usize];
    [
        "Offset of field: DpoRowPartition::slices_per_block",
    ][::core::mem::offset_of!(DpoRowPartition, slices_per_block) - 8usize];
    [
        "Offset of field: DpoRowPartition::slices",
    ][::core::mem::offset_of!(DpoRowPartition, slices) - 12usize];
    [
        "Offset of field: DpoRowPartition::slice_vectors",
    ][::core::mem::offset_of!(DpoRowPartition, slice_vectors) - 16usize];
};
/// sum exp(x - reference) over the elements that one warp has of a slice.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoSliceSum {
    pub reference: f32,
    pub sum: f32,
    /** What the kernels with token metrics sum besides: see kernels/rows/metrics.cuh. An entropy alone needs `weighted`;
 the other three are for all metrics.*/
    pub weighted: f32,
    pub squares: f32,
    pub total: f32,
    pub beaten: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoSliceSum"][::core::mem::size_of::<DpoSliceSum>() - 24usize];
    ["Alignment of DpoSliceSum"][::core::mem::align_of::<DpoSliceSum>() - 4usize];
    [
        "Offset of field: DpoSliceSum::reference",
    ][::core::mem::offset_of!(DpoSliceSum, reference) - 0usize];
    [
        "Offset of field: DpoSliceSum::sum",
    ][::core::mem::offset_of!(DpoSliceSum, sum) - 4usize];
    [
        "Offset of field: DpoSliceSum::weighted",
    ][::core::mem::offset_of!(DpoSliceSum, weighted) - 8usize];
    [
        "Offset of field: DpoSliceSum::squares",
    ][::core::mem::offset_of!(DpoSliceSum, squares) - 12usize];
    [
        "Offset of field: DpoSliceSum::total",
    ][::core::mem::offset_of!(DpoSliceSum, total) - 16usize];
    [
        "Offset of field: DpoSliceSum::beaten",
    ][::core::mem::offset_of!(DpoSliceSum, beaten) - 20usize];
};
/// Sums over the scored rows of a sequence.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoTokenMetricSums {
    /// rows
    pub scored: f64,
    pub entropy: f64,
    pub correct: f64,
    pub mean_logit: f64,
    pub logsumexp: f64,
    pub sum_p2: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of DpoTokenMetricSums",
    ][::core::mem::size_of::<DpoTokenMetricSums>() - 48usize];
    [
        "Alignment of DpoTokenMetricSums",
    ][::core::mem::align_of::<DpoTokenMetricSums>() - 8usize];
    [
        "Offset of field: DpoTokenMetricSums::scored",
    ][::core::mem::offset_of!(DpoTokenMetricSums, scored) - 0usize];
    [
        "Offset of field: DpoTokenMetricSums::entropy",
    ][::core::mem::offset_of!(DpoTokenMetricSums, entropy) - 8usize];
    [
        "Offset of field: DpoTokenMetricSums::correct",
    ][::core::mem::offset_of!(DpoTokenMetricSums, correct) - 16usize];
    [
        "Offset of field: DpoTokenMetricSums::mean_logit",
    ][::core::mem::offset_of!(DpoTokenMetricSums, mean_logit) - 24usize];
    [
        "Offset of field: DpoTokenMetricSums::logsumexp",
    ][::core::mem::offset_of!(DpoTokenMetricSums, logsumexp) - 32usize];
    [
        "Offset of field: DpoTokenMetricSums::sum_p2",
    ][::core::mem::offset_of!(DpoTokenMetricSums, sum_p2) - 40usize];
};
/// Means over the scored rows of a batch; 0 without any.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoMeanTokenMetrics {
    /// rows
    pub scored: ::core::ffi::c_uint,
    pub entropy: f32,
    /// share of rows whose label is the most probable token
    pub accuracy: f32,
    pub mean_logit: f32,
    pub logsumexp: f32,
    pub sum_p2: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of DpoMeanTokenMetrics",
    ][::core::mem::size_of::<DpoMeanTokenMetrics>() - 24usize];
    [
        "Alignment of DpoMeanTokenMetrics",
    ][::core::mem::align_of::<DpoMeanTokenMetrics>() - 4usize];
    [
        "Offset of field: DpoMeanTokenMetrics::scored",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, scored) - 0usize];
    [
        "Offset of field: DpoMeanTokenMetrics::entropy",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, entropy) - 4usize];
    [
        "Offset of field: DpoMeanTokenMetrics::accuracy",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, accuracy) - 8usize];
    [
        "Offset of field: DpoMeanTokenMetrics::mean_logit",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, mean_logit) - 12usize];
    [
        "Offset of field: DpoMeanTokenMetrics::logsumexp",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, logsumexp) - 16usize];
    [
        "Offset of field: DpoMeanTokenMetrics::sum_p2",
    ][::core::mem::offset_of!(DpoMeanTokenMetrics, sum_p2) - 20usize];
};
/// Everything that there is one of in a batch, side by side, so that one copy fetches it.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoBatchMetrics {
    pub status: DpoStatus,
    pub pairs: DpoPairMetrics,
    pub tokens: DpoMeanTokenMetrics,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoBatchMetrics"][::core::mem::size_of::<DpoBatchMetrics>() - 80usize];
    [
        "Alignment of DpoBatchMetrics",
    ][::core::mem::align_of::<DpoBatchMetrics>() - 4usize];
    [
        "Offset of field: DpoBatchMetrics::status",
    ][::core::mem::offset_of!(DpoBatchMetrics, status) - 0usize];
    [
        "Offset of field: DpoBatchMetrics::pairs",
    ][::core::mem::offset_of!(DpoBatchMetrics, pairs) - 24usize];
    [
        "Offset of field: DpoBatchMetrics::tokens",
    ][::core::mem::offset_of!(DpoBatchMetrics, tokens) - 56usize];
};
/** What one read of a row tells besides its log-prob. Every array may be null. But `sums` is summed from the arrays above
 it and from DpoForward's logsumexp, so that it needs all five of them, and the two fields below it are made of `sums`.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoTokenMetrics {
    /// [rows]
    pub entropy: ::core::ffi::c_ulonglong,
    /// [rows]
    pub correct: ::core::ffi::c_ulonglong,
    /// [rows]
    pub mean_logit: ::core::ffi::c_ulonglong,
    /// [rows]
    pub sum_p2: ::core::ffi::c_ulonglong,
    /// [sequences]
    pub sums: ::core::ffi::c_ulonglong,
    /// [sequences]
    pub sequence_log_weights: ::core::ffi::c_ulonglong,
    /// one
    pub mean: ::core::ffi::c_ulonglong,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoTokenMetrics"][::core::mem::size_of::<DpoTokenMetrics>() - 56usize];
    [
        "Alignment of DpoTokenMetrics",
    ][::core::mem::align_of::<DpoTokenMetrics>() - 8usize];
    [
        "Offset of field: DpoTokenMetrics::entropy",
    ][::core::mem::offset_of!(DpoTokenMetrics, entropy) - 0usize];
    [
        "Offset of field: DpoTokenMetrics::correct",
    ][::core::mem::offset_of!(DpoTokenMetrics, correct) - 8usize];
    [
        "Offset of field: DpoTokenMetrics::mean_logit",
    ][::core::mem::offset_of!(DpoTokenMetrics, mean_logit) - 16usize];
    [
        "Offset of field: DpoTokenMetrics::sum_p2",
    ][::core::mem::offset_of!(DpoTokenMetrics, sum_p2) - 24usize];
    [
        "Offset of field: DpoTokenMetrics::sums",
    ][::core::mem::offset_of!(DpoTokenMetrics, sums) - 32usize];
    [
        "Offset of field: DpoTokenMetrics::sequence_log_weights",
    ][::core::mem::offset_of!(DpoTokenMetrics, sequence_log_weights) - 40usize];
    [
        "Offset of field: DpoTokenMetrics::mean",
    ][::core::mem::offset_of!(DpoTokenMetrics, mean) - 48usize];
};
/** logps and pair_loss in one launch; or in several, each over a window of the rows, the last of which to end has all that
 follows the rows. Logits and their gradient are addressed by the row's index in the batch: theirs is the address that
 row 0 has or, where the window begins later, would have.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoForward {
    pub batch: DpoBatch,
    pub partition: DpoRowPartition,
    /// [rows, vocab]
    pub logits: ::core::ffi::c_ulonglong,
    /// [rows]
    pub token_logps: ::core::ffi::c_ulonglong,
    /// [rows], or null
    pub logsumexp: ::core::ffi::c_ulonglong,
    /// [rows], or null
    pub logsumexp_residual: ::core::ffi::c_ulonglong,
    /// [sequences]
    pub logps: ::core::ffi::c_ulonglong,
    /// [sequences]
    pub scored: ::core::ffi::c_ulonglong,
    /// [sequences], zero between launches
    pub sequence_rows_done: ::core::ffi::c_ulonglong,
    /// [rows], zero between launches
    pub row_slices_done: ::core::ffi::c_ulonglong,
    /// [rows of the launch, slices, warps], where a row has several blocks
    pub slice_sums: ::core::ffi::c_ulonglong,
    pub progress: ::core::ffi::c_ulonglong,
    pub status: ::core::ffi::c_ulonglong,
    /// [rows], or null: what a token counts in its sequence's sum
    pub token_weights: ::core::ffi::c_ulonglong,
    pub metrics: DpoTokenMetrics,
    pub loss: DpoPairLoss,
    /// weight of tokens beyond the other's length
    pub ld_alpha: f32,
    /// of pairs, where ld_alpha is not 1: concatenated or interleaved
    pub partner_layout: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoForward"][::core::mem::size_of::<DpoForward>() - 592usize];
    ["Alignment of DpoForward"][::core::mem::align_of::<DpoForward>() - 8usize];
    [
        "Offset of field: DpoForward::batch",
    ][::core::mem::offset_of!(DpoForward, batch) - 0usize];
    [
        "Offset of field: DpoForward::partition",
    ][::core::mem::offset_of!(DpoForward, partition) - 88usize];
    [
        "Offset of field: DpoForward::logits",
    ][::core::mem::offset_of!(DpoForward, logits) - 112usize];
    [
        "Offset of field: DpoForward::token_logps",
    ][::core::mem::offset_of!(DpoForward, token_logps) - 120usize];
    [
        "Offset of field: DpoForward::logsumexp",
    ][::core::mem::offset_of!(DpoForward, logsumexp) - 128usize];
    [
        "Offset of field: DpoForward::logsumexp_residual",
    ][::core::mem::offset_of!(DpoForward, logsumexp_residual) - 136usize];
    [
        "Offset of field: DpoForward::logps",
    ][::core::mem::offset_of!(DpoForward, logps) - 144usize];
    [
        "Offset of field: DpoForward::scored",
    ][::core::mem::offset_of!(DpoForward, scored) - 152usize];
    [
        "Offset of field: DpoForward::sequence_rows_done",
    ][::core::mem::offset_of!(DpoForward, sequence_rows_done) - 160usize];
    [
        "Offset of field: DpoForward::row_slices_done",
    ][::core::mem::offset_of!(DpoForward, row_slices_done) - 168usize];
    [
        "Offset of field: DpoForward::slice_sums",
    ][::core::mem::offset_of!(DpoForward, slice_sums) - 176usize];
    [
        "Offset of field: DpoForward::progress",
    ][::core::mem::offset_of!(DpoForward, progress) - 184usize];
    [
        "Offset of field: DpoForward::status",
    ][::core::mem::offset_of!(DpoForward, status) - 192usize];
    [
        "Offset of field: DpoForward::token_weights",
    ][::core::mem::offset_of!(DpoForward, token_weights) - 200usize];
    [
        "Offset of field: DpoForward::metrics",
    ][::core::mem::offset_of!(DpoForward, metrics) - 208usize];
    [
        "Offset of field: DpoForward::loss",
    ][::core::mem::offset_of!(DpoForward, loss) - 264usize];
    [
        "Offset of field: DpoForward::ld_alpha",
    ][::core::mem::offset_of!(DpoForward, ld_alpha) - 584usize];
    [
        "Offset of field: DpoForward::partner_layout",
    ][::core::mem::offset_of!(DpoForward, partner_layout) - 588usize];
};
/// logps and pair_loss, and the gradient without its coefficients: one row per block or several blocks per row, a cluster.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoFactored {
    pub forward: DpoForward,
    /// [rows, vocab] at the logits' stride: the logits themselves, or another buffer
    pub gradient: ::core::ffi::c_ulonglong,
    /// of a slice, in dynamic shared memory: at least two, or all
    pub kept_vectors: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoFactored"][::core::mem::size_of::<DpoFactored>() - 608usize];
    ["Alignment of DpoFactored"][::core::mem::align_of::<DpoFactored>() - 8usize];
    [
        "Offset of field: DpoFactored::forward",
    ][::core::mem::offset_of!(DpoFactored, forward) - 0usize];
    [
        "Offset of field: DpoFactored::gradient",
    ][::core::mem::offset_of!(DpoFactored, gradient) - 592usize];
    [
        "Offset of field: DpoFactored::kept_vectors",
    ][::core::mem::offset_of!(DpoFactored, kept_vectors) - 600usize];
};
/// pair_loss alone: one block.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoPairLossAlone {
    /// [sequences]
    pub logps: ::core::ffi::c_ulonglong,
    /// [sequences], or null unless lengths or tokens are asked for
    pub scored: ::core::ffi::c_ulonglong,
    pub status: ::core::ffi::c_ulonglong,
    pub loss: DpoPairLoss,
    pub sequences: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoPairLossAlone"][::core::mem::size_of::<DpoPairLossAlone>() - 352usize];
    [
        "Alignment of DpoPairLossAlone",
    ][::core::mem::align_of::<DpoPairLossAlone>() - 8usize];
    [
        "Offset of field: DpoPairLossAlone::logps",
    ][::core::mem::offset_of!(DpoPairLossAlone, logps) - 0usize];
    [
        "Offset of field: DpoPairLossAlone::scored",
    ][::core::mem::offset_of!(DpoPairLossAlone, scored) - 8usize];
    [
        "Offset of field: DpoPairLossAlone::status",
    ][::core::mem::offset_of!(DpoPairLossAlone, status) - 16usize];
    [
        "Offset of field: DpoPairLossAlone::loss",
    ][::core::mem::offset_of!(DpoPairLossAlone, loss) - 24usize];
    [
        "Offset of field: DpoPairLossAlone::sequences",
    ][::core::mem::offset_of!(DpoPairLossAlone, sequences) - 344usize];
};
/// backward.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoBackward {
    pub batch: DpoBatch,
    pub partition: DpoRowPartition,
    /// [rows, vocab]
    pub logits: ::core::ffi::c_ulonglong,
    /// the same, or another buffer of the same shape and stride
    pub dlogits: ::core::ffi::c_ulonglong,
    /// [rows]
    pub logsumexp: ::core::ffi::c_ulonglong,
    /// [rows], or null
    pub logsumexp_residual: ::core::ffi::c_ulonglong,
    /// [sequences], or null: 1
    pub coef: ::core::ffi::c_ulonglong,
    /// [rows], or null: 1
    pub token_coef: ::core::ffi::c_ulonglong,
    /// [rows], of the kernels with an entropy's gradient alone
    pub entropy: ::core::ffi::c_ulonglong,
    /// [rows], the same
    pub entropy_coef: ::core::ffi::c_ulonglong,
    /// a scalar, or null: 1
    pub upstream: ::core::ffi::c_ulonglong,
    /// lowered to the first row with an infinity or a NaN; or null
    pub nonfinite_row: ::core::ffi::c_ulonglong,
    pub upstream_scale: f32,
    /// rows whose coefficient is no larger are zeros
    pub threshold: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoBackward"][::core::mem::size_of::<DpoBackward>() - 200usize];
    ["Alignment of DpoBackward"][::core::mem::align_of::<DpoBackward>() - 8usize];
    [
        "Offset of field: DpoBackward::batch",
    ][::core::mem::offset_of!(DpoBackward, batch) - 0usize];
    [
        "Offset of field: DpoBackward::partition",
    ][::core::mem::offset_of!(DpoBackward, partition) - 88usize];
    [
        "Offset of field: DpoBackward::logits",
    ][::core::mem::offset_of!(DpoBackward, logits) - 112usize];
    [
        "Offset of field: DpoBackward::dlogits",
    ][::core::mem::offset_of!(DpoBackward, dlogits) - 120usize];
    [
        "Offset of field: DpoBackward::logsumexp",
    ][::core::mem::offset_of!(DpoBackward, logsumexp) - 128usize];
    [
        "Offset of field: DpoBackward::logsumexp_residual",
    ][::core::mem::offset_of!(DpoBackward, logsumexp_residual) - 136usize];
    [
        "Offset of field: DpoBackward::coef",
    ][::core::mem::offset_of!(DpoBackward, coef) - 144usize];
    [
        "Offset of field: DpoBackward::token_coef",
    ][::core::mem::offset_of!(DpoBackward, token_coef) - 152usize];
    [
        "Offset of field: DpoBackward::entropy",
    ][::core::mem::offset_of!(DpoBackward, entropy) - 160usize];
    [
        "Offset of field: DpoBackward::entropy_coef",
    ][::core::mem::offset_of!(DpoBackward, entropy_coef) - 168usize];
    [
        "Offset of field: DpoBackward::upstream",
    ][::core::mem::offset_of!(DpoBackward, upstream) - 176usize];
    [
        "Offset of field: DpoBackward::nonfinite_row",
    ][::core::mem::offset_of!(DpoBackward, nonfinite_row) - 184usize];
    [
        "Offset of field: DpoBackward::upstream_scale",
    ][::core::mem::offset_of!(DpoBackward, upstream_scale) - 192usize];
    [
        "Offset of field: DpoBackward::threshold",
    ][::core::mem::offset_of!(DpoBackward, threshold) - 196usize];
};
/** What the gradient of the rows of a window is still to be multiplied by, as the head's kernels take it: c; or, where entropies have
 coefficients e, the larger of |c| and |e|, of which c and e are then fractions, so that a gradient of 16 bits is no smaller than one
 without them. 0 for a row that has no part in the gradients, whatever its logits are, and NaN for one whose label is a bad one.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoRowCoef {
    pub batch: DpoBatch,
    /// [sequences], or null: 1
    pub coef: ::core::ffi::c_ulonglong,
    /// [rows], or null: 1
    pub token_coef: ::core::ffi::c_ulonglong,
    /// [rows], where entropies have coefficients
    pub entropy: ::core::ffi::c_ulonglong,
    /// [rows], or null: entropies have none; becomes the fraction
    pub entropy_coef: ::core::ffi::c_ulonglong,
    /// [rows], where entropies have coefficients: c as a fraction
    pub coef_fraction: ::core::ffi::c_ulonglong,
    /// a scalar, or null: 1
    pub upstream: ::core::ffi::c_ulonglong,
    /// [rows]
    pub logsumexp: ::core::ffi::c_ulonglong,
    /// [rows]: what nonfinite_row calls them
    pub names: ::core::ffi::c_ulonglong,
    /// [rows of the window]
    pub row_coef: ::core::ffi::c_ulonglong,
    /// Lowered to the first row of whose coefficients, logsumexp and entropy one is not finite; or null.
    pub nonfinite_row: ::core::ffi::c_ulonglong,
    pub upstream_scale: f32,
    /// a coefficient that is no larger is 0
    pub threshold: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoRowCoef"][::core::mem::size_of::<DpoRowCoef>() - 176usize];
    ["Alignment of DpoRowCoef"][::core::mem::align_of::<DpoRowCoef>() - 8usize];
    [
        "Offset of field: DpoRowCoef::batch",
    ][::core::mem::offset_of!(DpoRowCoef, batch) - 0usize];
    [
        "Offset of field: DpoRowCoef::coef",
    ][::core::mem::offset_of!(DpoRowCoef, coef) - 88usize];
    [
        "Offset of field: DpoRowCoef::token_coef",
    ][::core::mem::offset_of!(DpoRowCoef, token_coef) - 96usize];
    [
        "Offset of field: DpoRowCoef::entropy",
    ][::core::mem::offset_of!(DpoRowCoef, entropy) - 104usize];
    [
        "Offset of field: DpoRowCoef::entropy_coef",
    ][::core::mem::offset_of!(DpoRowCoef, entropy_coef) - 112usize];
    [
        "Offset of field: DpoRowCoef::coef_fraction",
    ][::core::mem::offset_of!(DpoRowCoef, coef_fraction) - 120usize];
    [
        "Offset of field: DpoRowCoef::upstream",
    ][::core::mem::offset_of!(DpoRowCoef, upstream) - 128usize];
    [
        "Offset of field: DpoRowCoef::logsumexp",
    ][::core::mem::offset_of!(DpoRowCoef, logsumexp) - 136usize];
    [
        "Offset of field: DpoRowCoef::names",
    ][::core::mem::offset_of!(DpoRowCoef, names) - 144usize];
    [
        "Offset of field: DpoRowCoef::row_coef",
    ][::core::mem::offset_of!(DpoRowCoef, row_coef) - 152usize];
    [
        "Offset of field: DpoRowCoef::nonfinite_row",
    ][::core::mem::offset_of!(DpoRowCoef, nonfinite_row) - 160usize];
    [
        "Offset of field: DpoRowCoef::upstream_scale",
    ][::core::mem::offset_of!(DpoRowCoef, upstream_scale) - 168usize];
    [
        "Offset of field: DpoRowCoef::threshold",
    ][::core::mem::offset_of!(DpoRowCoef, threshold) - 172usize];
};
/// to[to_rows[i]] = row_coef[i] * from[from_rows[i]], matrices of `columns` elements a row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoMoveRows {
    pub from: ::core::ffi::c_ulonglong,
    pub to: ::core::ffi::c_ulonglong,
    /// [rows], or null: i
    pub from_rows: ::core::ffi::c_ulonglong,
    /// [rows], or null: i
    pub to_rows: ::core::ffi::c_ulonglong,
    /// [rows], or null: 1
    pub row_coef: ::core::ffi::c_ulonglong,
    /// lowered to the first row of `to` that is given an infinity or a NaN; or null
    pub nonfinite_row: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub columns: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoMoveRows"][::core::mem::size_of::<DpoMoveRows>() - 56usize];
    ["Alignment of DpoMoveRows"][::core::mem::align_of::<DpoMoveRows>() - 8usize];
    [
        "Offset of field: DpoMoveRows::from",
    ][::core::mem::offset_of!(DpoMoveRows, from) - 0usize];
    [
        "Offset of field: DpoMoveRows::to",
    ][::core::mem::offset_of!(DpoMoveRows, to) - 8usize];
    [
        "Offset of field: DpoMoveRows::from_rows",
    ][::core::mem::offset_of!(DpoMoveRows, from_rows) - 16usize];
    [
        "Offset of field: DpoMoveRows::to_rows",
    ][::core::mem::offset_of!(DpoMoveRows, to_rows) - 24usize];
    [
        "Offset of field: DpoMoveRows::row_coef",
    ][::core::mem::offset_of!(DpoMoveRows, row_coef) - 32usize];
    [
        "Offset of field: DpoMoveRows::nonfinite_row",
    ][::core::mem::offset_of!(DpoMoveRows, nonfinite_row) - 40usize];
    [
        "Offset of field: DpoMoveRows::rows",
    ][::core::mem::offset_of!(DpoMoveRows, rows) - 48usize];
    [
        "Offset of field: DpoMoveRows::columns",
    ][::core::mem::offset_of!(DpoMoveRows, columns) - 52usize];
};
/// Zeroes the rows whose c is 0.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoClearRows {
    /// rows of whole vectors, on 16-byte boundaries
    pub matrix: ::core::ffi::c_ulonglong,
    /// [rows]
    pub row_coef: ::core::ffi::c_ulonglong,
    pub rows: ::core::ffi::c_uint,
    pub row_vectors: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoClearRows"][::core::mem::size_of::<DpoClearRows>() - 24usize];
    ["Alignment of DpoClearRows"][::core::mem::align_of::<DpoClearRows>() - 8usize];
    [
        "Offset of field: DpoClearRows::matrix",
    ][::core::mem::offset_of!(DpoClearRows, matrix) - 0usize];
    [
        "Offset of field: DpoClearRows::row_coef",
    ][::core::mem::offset_of!(DpoClearRows, row_coef) - 8usize];
    [
        "Offset of field: DpoClearRows::rows",
    ][::core::mem::offset_of!(DpoClearRows, rows) - 16usize];
    [
        "Offset of field: DpoClearRows::row_vectors",
    ][::core::mem::offset_of!(DpoClearRows, row_vectors) - 20usize];
};
/// dbias[v] += sum row_coef[i] * gradient[i, v].
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoBiasGradient {
    /// [rows, columns]
    pub gradient: ::core::ffi::c_ulonglong,
    /// [rows]
    pub row_coef: ::core::ffi::c_ulonglong,
    /// [columns]
    pub dbias: ::core::ffi::c_ulonglong,
    pub row_stride: ::core::ffi::c_longlong,
    pub rows: ::core::ffi::c_uint,
    pub columns: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoBiasGradient"][::core::mem::size_of::<DpoBiasGradient>() - 40usize];
    [
        "Alignment of DpoBiasGradient",
    ][::core::mem::align_of::<DpoBiasGradient>() - 8usize];
    [
        "Offset of field: DpoBiasGradient::gradient",
    ][::core::mem::offset_of!(DpoBiasGradient, gradient) - 0usize];
    [
        "Offset of field: DpoBiasGradient::row_coef",
    ][::core::mem::offset_of!(DpoBiasGradient, row_coef) - 8usize];
    [
        "Offset of field: DpoBiasGradient::dbias",
    ][::core::mem::offset_of!(DpoBiasGradient, dbias) - 16usize];
    [
        "Offset of field: DpoBiasGradient::row_stride",
    ][::core::mem::offset_of!(DpoBiasGradient, row_stride) - 24usize];
    [
        "Offset of field: DpoBiasGradient::rows",
    ][::core::mem::offset_of!(DpoBiasGradient, rows) - 32usize];
    [
        "Offset of field: DpoBiasGradient::columns",
    ][::core::mem::offset_of!(DpoBiasGradient, columns) - 36usize];
};
/** Results of the scored rows to the places of these rows among all rows of the caller's batch, where the others get 0; and
 the rows that a status names, which it counts among the scored ones, in the caller's count.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoTokenResults {
    /// [scored_rows] each
    pub scored: [::core::ffi::c_ulonglong; 8usize],
    /// [rows] each, or null
    pub all: [::core::ffi::c_ulonglong; 8usize],
    /// [scored_rows]: the rows, in ascending order
    pub names: ::core::ffi::c_ulonglong,
    pub status: ::core::ffi::c_ulonglong,
    pub scored_rows: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DpoTokenResults"][::core::mem::size_of::<DpoTokenResults>() - 152usize];
    [
        "Alignment of DpoTokenResults",
    ][::core::mem::align_of::<DpoTokenResults>() - 8usize];
    [
        "Offset of field: DpoTokenResults::scored",
    ][::core::mem::offset_of!(DpoTokenResults, scored) - 0usize];
    [
        "Offset of field: DpoTokenResults::all",
    ][::core::mem::offset_of!(DpoTokenResults, all) - 64usize];
    [
        "Offset of field: DpoTokenResults::names",
    ][::core::mem::offset_of!(DpoTokenResults, names) - 128usize];
    [
        "Offset of field: DpoTokenResults::status",
    ][::core::mem::offset_of!(DpoTokenResults, status) - 136usize];
    [
        "Offset of field: DpoTokenResults::scored_rows",
    ][::core::mem::offset_of!(DpoTokenResults, scored_rows) - 144usize];
    [
        "Offset of field: DpoTokenResults::rows",
    ][::core::mem::offset_of!(DpoTokenResults, rows) - 148usize];
};
