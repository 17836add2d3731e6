// Made by bindgen from kernels/params.h (`make params`); a test compares it with a fresh run.

pub const DPO_NO_TROUBLE: u32 = 4294967295;
pub const DPO_LOSS_TERMS: u32 = 4;
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
/// The losses; src/loss/kind.rs has their formulas.
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
/// What the sum of pair losses is divided by, unless the device knows.
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
pub const DPO_TROUBLES: DpoTrouble = 5;
/// Kinds of trouble that only the device can see; positions in DpoProgress and DpoStatus.
pub type DpoTrouble = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoStatus {
    pub first: [::core::ffi::c_uint; 5usize],
}
/// Figures of a batch.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoMetrics {
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
    /// of the scaled logits, or 0: none
    pub softcap: f32,
    /// 2 scale log2(e) / softcap, or 0
    pub softcap_power: f32,
}
/// One loss of a weighted sum.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoLossTerm {
    pub kind: ::core::ffi::c_uint,
    pub length_normalized: ::core::ffi::c_uint,
    pub weight: f32,
    pub label_smoothing: f32,
    pub parameters: [f32; 2usize],
}
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
    /// [pairs], or null: beta
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
    pub beta: f32,
    pub gamma: f32,
    pub alpha: f32,
    pub baseline: f32,
    pub normalizer: f32,
    pub terms: [DpoLossTerm; 4usize],
}
/// What blocks leave for the last of them; all zero between launches.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoProgress {
    pub rows_done: ::core::ffi::c_uint,
    /// ~index of the first offender: 0 is none, and a maximum finds the first
    pub worst: [::core::ffi::c_uint; 5usize],
}
/** How rows are dealt to blocks: several rows to a block, each to as large a part of its threads, or several blocks to a
 row, each with a slice of its vectors. One of the two numbers is 1.*/
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoDealing {
    pub rows_per_block: ::core::ffi::c_uint,
    pub blocks_per_row: ::core::ffi::c_uint,
    /// 16-byte vectors; the last slice has what is left of the row
    pub slice_vectors: ::core::ffi::c_uint,
}
/// sum exp(x - reference) over the elements of one slice.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoSliceSum {
    pub reference: f32,
    pub sum: f32,
    /// with token metrics only, as the next
    pub weighted: f32,
    /// with token metrics only, as the next
    pub squares: f32,
    /// with token metrics only, as the next
    pub total: f32,
    /// with token metrics only, as the next
    pub largest: f32,
    pub first: ::core::ffi::c_uint,
}
/// What one read of a row tells beside its log-prob, each of them optional: [rows] and at the end [sequences], or null.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoTokenMetrics {
    pub entropy: ::core::ffi::c_ulonglong,
    pub correct: ::core::ffi::c_ulonglong,
    pub mean_logit: ::core::ffi::c_ulonglong,
    pub sum_p2: ::core::ffi::c_ulonglong,
    /// needs sum_p2
    pub sequence_log_weights: ::core::ffi::c_ulonglong,
}
/// Floors 1 and 2 in one launch.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoForward {
    pub batch: DpoBatch,
    pub dealing: DpoDealing,
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
    /// [rows, blocks_per_row], where that is more than 1
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
/// Floors 1 and 2, and the gradient without its coefficients: one row per block or several blocks per row, a cluster.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoFactored {
    pub forward: DpoForward,
    /// [rows, vocab] at the logits' stride: the logits themselves, or another buffer
    pub gradient: ::core::ffi::c_ulonglong,
    /// of a slice, in dynamic shared memory: at least two, or all
    pub kept_vectors: ::core::ffi::c_uint,
}
/// Floor 2 alone: one block.
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
/// Floor 3.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct DpoBackward {
    pub batch: DpoBatch,
    pub dealing: DpoDealing,
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
    /// a scalar, or null: 1
    pub upstream: ::core::ffi::c_ulonglong,
    /// lowered to the first row with an infinity or a NaN; or null
    pub nonfinite_row: ::core::ffi::c_ulonglong,
    pub upstream_scale: f32,
    /// rows whose coefficient is no larger are zeros
    pub threshold: f32,
}
