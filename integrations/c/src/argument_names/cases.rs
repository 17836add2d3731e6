//! Calls that are wrong in one thing each.

use std::ffi::c_void;
use std::ptr;

use super::call::{Call, Memory, ROWS, VOCAB};
use crate::calls::Stage::{self, Backward, Factored, Forward, Logps, PairLoss};
use crate::header::*;

/// An address that no element is aligned to.
pub(super) fn misaligned<T>() -> *mut T {
    ptr::without_provenance_mut(1)
}

/// A gradient that overlaps the logits.
fn inside_logits(call: &Call) -> *mut c_void {
    call.inputs.logits.cast_mut().wrapping_byte_add(8)
}

/// A wrong call: the function, the argument that its error is to name, and what is wrong.
pub(super) type Case = (Stage, &'static str, fn(&mut Call));

/// A case for each of the fields, which is misaligned.
macro_rules! each {
    ($stage:expr; $(|$call:ident| $set:expr => $($field:ident)*);* $(;)?) => {
        [$($(
            ($stage, stringify!($field), (|$call: &mut Call| { let set = $set; set.$field = misaligned() }) as fn(&mut Call)),
        )*)*]
    };
}
pub(super) use each;

/// Pointers, which both halves refuse.
pub(super) fn pointers() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    cases.extend(each!(Forward;
        |call| &mut call.inputs => logits labels;
        |call| &mut call.out => logps scored token_logps logsumexp logsumexp_residual token_weights metrics status;
        |call| call.with_metrics() => entropy correct mean_logit sum_p2 sequence_log_weights mean;
        |call| &mut call.pair_outputs => pair_losses chosen_rewards rejected_rewards margins coef metrics;
        |call| &mut call.loss => inputs;
        |call| call.with_inputs() => lengths beta gamma weight label_smoothing sequence_log_weights normalizer;
        |call| call.indexed() => chosen rejected;
        |call| call => ref_logps;
    ));
    cases.extend(each!(Logps; |call| call.packed() => cu_seqlens));
    cases.extend(each!(Backward;
        |call| &mut call.gradient => logsumexp logsumexp_residual coef token_coef upstream nonfinite_row dlogits;
    ));
    let more: [Case; 5] = [
        (Forward, "chosen_tokens", |call| {
            call.term(c"sft");
            call.with_inputs().chosen_tokens = misaligned();
        }),
        (Forward, "kl_logps", |call| {
            call.term(c"kto");
            call.pair_inputs.kl_ref_logps = call.memory.place();
            call.with_inputs().kl_count = 1;
            call.with_inputs().kl_logps = misaligned();
        }),
        (Forward, "kl_ref_logps", |call| {
            call.term(c"kto");
            call.pair_inputs.kl_logps = call.memory.place();
            call.with_inputs().kl_count = 1;
            call.with_inputs().kl_ref_logps = misaligned();
        }),
        (Forward, "desirable", |call| {
            call.term(c"sft");
            call.batch.pairs = DPO_PAIRS_UNPAIRED;
            call.batch.desirable = misaligned();
        }),
        (Forward, "terms", |call| {
            call.loss.terms = misaligned();
            call.loss.term_count = 1;
        }),
    ];
    cases.extend(more);
    cases
}

/// Values, which both halves refuse.
pub(super) fn values() -> Vec<Case> {
    vec![
        (Forward, "batch", |call| call.batch.struct_size -= 1),
        (Forward, "inputs", |call| call.inputs.struct_size -= 1),
        (Forward, "inputs", |call| call.with_inputs().struct_size -= 1),
        (Forward, "loss", |call| call.loss.struct_size -= 1),
        (Forward, "out", |call| call.out.struct_size -= 1),
        (Forward, "metrics", |call| call.with_metrics().struct_size -= 1),
        (Forward, "pair_outputs", |call| call.pair_outputs.struct_size -= 1),
        (PairLoss, "out", |call| call.pair_outputs.struct_size -= 1),
        (Backward, "gradient", |call| call.gradient.struct_size -= 1),
        (Forward, "dtype", |call| call.inputs.dtype = 9),
        (Forward, "label_type", |call| call.inputs.label_type = 9),
        // The batch.
        (Forward, "vocab", |call| call.batch.vocab = 0),
        (Forward, "sequences", |call| call.batch.sequences = 0),
        (Forward, "sequences", |call| call.batch.sequences = 3),
        (Forward, "rows", |call| call.batch.sequence_len = 0),
        (Forward, "rows", |call| call.batch.rows = ROWS),
        (Forward, "rows", |call| call.packed().rows = 0),
        (Forward, "sequence_len", |call| call.packed().sequence_len = 2),
        (Forward, "cu_seqlens", |call| call.packed().sequences = 0),
        (Logps, "label_alignment", |call| call.batch.label_alignment = 0),
        (Forward, "label_alignment", |call| call.batch.label_alignment = 0),
        (Factored, "label_alignment", |call| call.batch.label_alignment = 0),
        (Backward, "label_alignment", |call| call.batch.label_alignment = 0),
        (Forward, "label_alignment", |call| call.batch.label_alignment = 9),
        (Forward, "pairs", |call| call.batch.pairs = 9),
        (Forward, "pairs", |call| call.batch.pairs = DPO_PAIRS_NONE),
        (Forward, "pair_count", |call| call.batch.pair_count = 1),
        (Forward, "pair_count", |call| call.indexed().pair_count = 0),
        (Forward, "chosen", |call| call.batch.chosen = call.memory.place()),
        (Forward, "rejected", |call| call.batch.rejected = call.memory.place()),
        (Forward, "desirable", |call| call.batch.desirable = call.memory.place()),
        (Forward, "given", |call| call.batch.given = 1 << 31),
        (Forward, "row_stride", |call| call.batch.row_stride = VOCAB),
        (Forward, "row_stride", |call| {
            call.batch.given = DPO_BATCH_ROW_STRIDE;
            call.batch.row_stride = VOCAB - 1;
        }),
        (Forward, "ignore_index", |call| call.batch.ignore_index = -100),
        (Forward, "ld_alpha", |call| call.batch.ld_alpha = 0.5),
        (Forward, "ld_alpha", |call| {
            call.batch.given = DPO_BATCH_LD_ALPHA;
            call.batch.ld_alpha = 2.0;
        }),
        (Forward, "given", |call| call.batch.transform.given = 1 << 31),
        (Forward, "transform.scale", |call| call.batch.transform.scale = 2.0),
        (Forward, "transform.scale", |call| call.batch.transform.given = DPO_TRANSFORM_SCALE),
        (Forward, "transform.softcap", |call| call.batch.transform.given = DPO_TRANSFORM_SOFTCAP),
        (Forward, "transform.valid_vocab", |call| call.batch.transform.given = DPO_TRANSFORM_VALID_VOCAB),
        (Factored, "metrics", |call| {
            call.token_metrics.entropy = call.memory.place();
            call.with_metrics();
        }),
        (Factored, "gradient", |call| call.factored = misaligned()),
        (Factored, "gradient", |call| call.factored = inside_logits(call)),
        // The loss.
        (Forward, "beta", |call| call.loss.beta = 0.0),
        (Forward, "given", |call| call.loss.given = 1 << 31),
        (Forward, "term_count", |call| call.loss.term_count = 1),
        (Forward, "term_count", |call| (0..5).for_each(|_| _ = call.term(c"sigmoid"))),
        (Forward, "terms", |call| (0..3).for_each(|_| _ = call.term(c"cpo"))),
        (Forward, "name", |call| call.term(c"").name = ptr::null()),
        (Forward, "name", |call| _ = call.term(c"ppo")),
        (Forward, "given", |call| call.term(c"kto").given = 1 << 31),
        (Forward, "weight", |call| call.term(c"hinge").given = DPO_TERM_WEIGHT),
        (Forward, "parameters[0]", |call| call.term(c"kto").given = DPO_TERM_PARAMETER_0),
        (Forward, "parameters[1]", |call| call.term(c"kto").given = DPO_TERM_PARAMETER_1),
        (Forward, "parameters[0]", |call| call.term(c"discopop").given = DPO_TERM_PARAMETER_0),
        (Forward, "parameters[0]", |call| {
            let term = call.term(c"simpo");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [-1.0, 0.0]);
        }),
        (Forward, "parameters[0]", |call| {
            let term = call.term(c"cpo");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [-1.0, 0.0]);
        }),
        (Forward, "parameters[1]", |call| call.term(c"cpo").given = DPO_TERM_PARAMETER_1),
        (Forward, "loss", |call| {
            call.term(c"sigmoid");
            call.term(c"cpo");
        }),
        (Forward, "gamma", |call| call.loss.gamma = 1.0),
        (Forward, "gamma", |call| {
            call.loss.given = DPO_LOSS_GAMMA;
            call.loss.gamma = f64::NAN;
        }),
        (Forward, "label_smoothing", |call| {
            call.loss.given = DPO_LOSS_LABEL_SMOOTHING;
            call.loss.label_smoothing = 2.0;
        }),
        (Forward, "baseline", |call| call.loss.given = DPO_LOSS_BASELINE),
        (Forward, "length_normalized", |call| call.loss.length_normalized = 2),
        (Forward, "wpo_weights", |call| call.loss.wpo_weights = 2),
        (Forward, "reference_free", |call| call.loss.reference_free = 2),
        (Forward, "sequence_log_weights", |call| call.loss.wpo_weights = 1),
        (Forward, "divergence", |call| call.loss.divergence = 9),
        (Forward, "divergence", |call| {
            call.term(c"nca_pair");
            call.loss.divergence = DPO_FORWARD_KL;
        }),
        (Forward, "alpha", |call| call.loss.given = DPO_LOSS_ALPHA),
        (Forward, "alpha", |call| call.loss.divergence = DPO_ALPHA_DIVERGENCE),
        (Forward, "normalized_by", |call| call.loss.normalized_by = 9),
        (Forward, "normalizer", |call| call.loss.given = DPO_LOSS_NORMALIZER),
        (Forward, "normalizer", |call| {
            call.loss.normalized_by = DPO_BY_TOKENS;
            call.loss.given = DPO_LOSS_NORMALIZER;
        }),
        // What it is given.
        (Forward, "ref_logps", |call| call.ref_logps = ptr::null()),
        (Forward, "ref_logps", |call| call.loss.reference_free = 1),
        (Forward, "ref_logps", |call| _ = call.term(c"simpo")),
        (Forward, "beta", |call| {
            call.term(c"nll");
            call.pair_inputs.beta = call.memory.place();
            call.with_inputs();
        }),
        (Forward, "label_smoothing", |call| {
            call.term(c"hinge");
            call.pair_inputs.label_smoothing = call.memory.place();
            call.with_inputs();
        }),
        (Forward, "weight", |call| {
            call.term(c"aot");
            call.pair_inputs.weight = call.memory.place();
            call.with_inputs();
        }),
        (Forward, "kl_count", |call| call.with_inputs().kl_count = 1),
        (Forward, "kl_count", |call| {
            call.term(c"kto");
            call.pair_inputs.kl_logps = call.memory.place();
            call.pair_inputs.kl_ref_logps = call.memory.place();
            call.with_inputs().kl_count = 1 << 31;
        }),
        (Forward, "kl_ref_logps", |call| {
            call.pair_inputs.kl_ref_logps = call.memory.place();
            call.with_inputs();
        }),
        (Forward, "kl_ref_logps", |call| {
            call.term(c"kto");
            call.pair_inputs.kl_logps = call.memory.place();
            call.with_inputs().kl_count = 1;
        }),
        (Forward, "kl_logps", |call| _ = call.term(c"kto")),
        (Forward, "chosen_tokens", |call| {
            call.pair_inputs.chosen_tokens = call.memory.place();
            call.with_inputs();
        }),
        (PairLoss, "lengths", |call| {
            call.loss.length_normalized = 1;
            call.scored = ptr::null();
        }),
        (PairLoss, "scored", |call| {
            call.loss.normalized_by = DPO_BY_TOKENS;
            call.scored = ptr::null();
        }),
        (PairLoss, "scored", |call| call.scored = misaligned()),
        (PairLoss, "logps", |call| call.logps = ptr::null()),
        (PairLoss, "status", |call| call.status = ptr::null_mut()),
        // The gradient.
        (Backward, "given", |call| call.gradient.given = 1 << 31),
        (Backward, "upstream_scale", |call| call.gradient.upstream_scale = 1.0),
        (Backward, "threshold", |call| {
            call.gradient.given = DPO_GRADIENT_THRESHOLD;
            call.gradient.threshold = -1.0;
        }),
        (Backward, "token_coef", |call| call.batch.given = DPO_BATCH_LD_ALPHA),
        (Backward, "dlogits", |call| call.gradient.dlogits = inside_logits(call)),
    ]
}

/// What can only be seen in host memory.
pub(super) fn host_values() -> Vec<Case> {
    vec![
        (Forward, "cu_seqlens[2]", |call| _ = call.packed()),
        (Forward, "rejected[0]", |call| {
            let (rejected, place) = (call.indexed().rejected, call.memory.places - 1);
            assert_eq!(rejected, call.memory.words[place * Memory::PLACE..].as_ptr().cast());
            call.memory.words[place * Memory::PLACE] = 7;
        }),
        // Chosen and rejected are sequence 0.
        (Forward, "rejected[0]", |call| _ = call.indexed()),
        (Forward, "beta", |call| {
            call.pair_inputs.beta = call.memory.place();
            call.with_inputs();
        }),
    ]
}

/// What only the GPU needs, and what only its arithmetic cannot hold.
#[cfg(feature = "cuda")]
pub(super) fn device_values() -> Vec<Case> {
    vec![
        (Forward, "memory", |call| call.workspace.memory = ptr::null_mut()),
        (Logps, "memory", |call| call.workspace.memory = call.workspace.memory.wrapping_byte_add(1)),
        (Logps, "workspace", |call| call.workspace.struct_size = 0),
        (Forward, "sequences", |call| call.workspace.sequences -= 1),
        (Logps, "rows", |call| call.workspace.rows = 0),
        (Factored, "rows", |call| call.workspace.rows -= 1),
        (Forward, "vocab", |call| call.workspace.vocab -= 1),
        (PairLoss, "status", |call| call.status = ptr::null_mut()),
        (Forward, "parameters", |call| {
            let term = call.term(c"discopop");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [1e-300, 0.0]);
        }),
        (Forward, "beta", |call| call.loss.beta = 1e-300),
        (Forward, "alpha", |call| {
            call.loss.divergence = DPO_ALPHA_DIVERGENCE;
            (call.loss.given, call.loss.alpha) = (DPO_LOSS_ALPHA, 1e300);
        }),
    ]
}
