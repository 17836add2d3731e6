//! What makes a call wrong that no description can say: addresses, sizes, enumerators, bits, and fields that
//! belong to another layout. Each is to be refused, by the name that stands beside it.

use std::ffi::c_void;
use std::ptr;

use super::call::{Call, Struct};
use super::random::Random;
use crate::calls::{LmHead, Stage};
use crate::header::*;

/// What a call reads, and so what can be wrong in it.
#[derive(Clone, Copy)]
enum Read {
    /// Sequences and pairs.
    Pairs,
    /// The rest of the batch.
    Rows,
    /// The logits' `dpo_inputs`.
    Inputs,
    Loss,
    /// What `pair_loss` reads besides log-probs, and is handed with the loss.
    PairInputs,
    Out,
    PairOutputs,
    Gradient,
    /// What `pair_loss` is handed beside structs.
    Sequences,
    /// The `gradient` of `factored`.
    Factored,
    /// What stands in a `dpo_lm_head`, and its labels.
    Head,
    /// Its hidden states, weight and bias, and the workspace.
    HeadArrays,
    BackwardInputs,
    /// Which gradients are wanted of a head.
    Gradients,
    /// Where these go.
    GradientArrays,
    Plan,
}

impl Read {
    fn by(self, call: &Call) -> bool {
        let stage = call.stage;
        let plans = stage == Stage::LmHead(LmHead::Plan);
        let goes_back = matches!(stage, Stage::Backward | Stage::LmHead(LmHead::Backward));
        match self {
            Read::Pairs => true,
            Read::Rows => stage != Stage::PairLoss,
            Read::Inputs => stage != Stage::PairLoss && !stage.is_behind_head(),
            Read::Loss => stage.has_loss() && call.head.as_ref().is_none_or(|head| head.has_loss),
            Read::PairInputs | Read::PairOutputs => stage.has_loss() && !plans,
            Read::Out => stage != Stage::PairLoss && !goes_back && !plans,
            Read::Gradient => stage == Stage::Backward,
            Read::Sequences => stage == Stage::PairLoss,
            Read::Factored => stage == Stage::Factored,
            Read::Head => stage.is_behind_head(),
            Read::HeadArrays => stage.is_behind_head() && !plans,
            Read::BackwardInputs => stage == Stage::LmHead(LmHead::Backward),
            Read::Gradients => stage.is_behind_head() && stage != Stage::LmHead(LmHead::Logps),
            Read::GradientArrays => stage.is_behind_head() && stage != Stage::LmHead(LmHead::Logps) && !plans,
            Read::Plan => plans,
        }
    }
}

/// The names that a refusal may have, and whether the call could be made wrong in this way.
type Spoil = (Read, &'static [&'static str], fn(&mut Call, &mut Random) -> bool);

/// Makes a call wrong in one thing, and returns the names by which it is to be refused. What is `wrong`
/// already, by its names, stays as it is: what is done twice may be undone.
pub fn spoil(call: &mut Call, random: &mut Random, wrong: &[&str]) -> &'static [&'static str] {
    loop {
        let (read, names, make_wrong) = random.pick(SPOILS);
        let mut spoilt = call.clone();
        let is_new = names.iter().all(|name| !wrong.contains(name));
        if is_new && read.by(call) && make_wrong(&mut spoilt, random) {
            *call = spoilt;
            return names;
        }
    }
}

impl Call {
    /// Where gradients of a head go, if any are wanted.
    fn gradients(&mut self) -> Option<&mut dpo_lm_head_gradients> {
        self.head.as_mut()?.gradients.as_mut()
    }

    /// The address of something that a head reads, in which no gradient may be.
    fn inputs_of_head(&self, random: &mut Random) -> Option<*mut c_void> {
        let head = &self.head.as_ref()?.head;
        let inputs = [head.hidden, head.weight, head.bias];
        Some(random.pick(&inputs).cast_mut()).filter(|input| !input.is_null())
    }
}

/// No number of bytes that a struct has.
fn wrong_size(size: &mut usize, random: &mut Random) -> bool {
    *size = random.pick(&[0, 1, 8, *size - 8, *size - 1, *size + 1, *size + 8, usize::MAX]);
    true
}

/// No enumerator.
fn no_enumerator(enumerator: &mut u32, random: &mut Random) -> bool {
    *enumerator = random.pick(&[5, 6, 255, 1 << 31, u32::MAX]);
    true
}

/// A bit that nothing knows, and those that are there.
fn unknown_bit(given: &mut u32, random: &mut Random) -> bool {
    *given |= random.pick(&[1 << 5, 1 << 6, 1 << 17, 1 << 31, u32::MAX]);
    true
}

/// An address that no element is aligned to, or null where that is none.
fn wrong_address<T>(address: &mut *mut T, random: &mut Random) -> bool {
    let misaligned = address.wrapping_byte_add(1);
    *address = if address.is_null() { ptr::without_provenance_mut(1) } else { misaligned };
    if random.below(2) == 0 {
        *address = ptr::null_mut();
    }
    true
}

/// The same of one that may be left out.
fn misaligned<T>(address: &mut *mut T) -> bool {
    let was_there = !address.is_null();
    *address = address.wrapping_byte_add(1);
    was_there
}

/// Number that has no bit.
fn without_bit(given: u32, bit: u32, number: &mut f64, random: &mut Random) -> bool {
    *number = random.pick(&[1.0, -0.5, f64::NAN, f64::INFINITY, 1e-300]);
    given & bit == 0
}

fn float_without_bit(given: u32, bit: u32, number: &mut f32, random: &mut Random) -> bool {
    *number = random.pick(&[1.0, -0.5, f32::NAN, f32::INFINITY, 1e-40]);
    given & bit == 0
}

/// A struct at an address where it cannot be.
fn displaced(call: &mut Call, which: Struct, random: &mut Random) -> bool {
    call.wrong_addresses.push((which, random.pick(&[0, 1, 4097, usize::MAX])));
    true
}

/// A flag that is neither 0 nor 1.
fn no_flag(flag: &mut i32, random: &mut Random) -> bool {
    *flag = random.pick(&[2, -1, i32::MIN, i32::MAX]);
    true
}

/// A struct that may be left out at an address where it cannot be.
fn misplaced(call: &mut Call, which: Struct) -> bool {
    call.wrong_addresses.push((which, 4097));
    true
}

/// A count that no batch has; 0 or more than are counted in 31 bits.
fn beyond_limit(count: &mut usize, random: &mut Random) -> bool {
    *count = random.pick(&[0, 1 << 31, 1 << 32, 1 << 61, 1 << 63, usize::MAX]);
    true
}

/// [`wrong_address`] of what is read.
fn wrong_input<T>(address: &mut *const T, random: &mut Random) -> bool {
    let mut wrong = address.cast_mut();
    let spoilt = wrong_address(&mut wrong, random);
    *address = wrong;
    spoilt
}

/// Takes away one of two arrays that are of use together, if both are there.
fn leave_out<T>(address: &mut *const T, other: *const T) -> bool {
    let are_there = !address.is_null() && !other.is_null();
    if are_there {
        *address = std::ptr::null();
    }
    are_there
}

/// [`misaligned`] of what is read.
fn misaligned_input<T>(address: &mut *const T) -> bool {
    let mut wrong = address.cast_mut();
    let spoilt = misaligned(&mut wrong);
    *address = wrong;
    spoilt
}

/// An array, misaligned or not, where `is_other` says that there is to be none.
fn other_layout<T>(address: &mut *const T, is_other: bool) -> bool {
    if is_other {
        *address = ptr::without_provenance(4096);
    }
    is_other
}

const SPOILS: &[Spoil] = &[
    // Structs.
    (Read::Pairs, &["batch"], |call, random| displaced(call, Struct::Batch, random)),
    (Read::Pairs, &["batch"], |call, random| wrong_size(&mut call.batch.struct_size, random)),
    (Read::Inputs, &["inputs"], |call, random| displaced(call, Struct::Inputs, random)),
    (Read::Inputs, &["inputs"], |call, random| wrong_size(&mut call.inputs.struct_size, random)),
    (Read::Loss, &["loss"], |call, random| {
        // A plan may be without one.
        if call.head.is_some() {
            misplaced(call, Struct::Loss)
        } else {
            displaced(call, Struct::Loss, random)
        }
    }),
    (Read::Loss, &["loss"], |call, random| wrong_size(&mut call.loss.struct_size, random)),
    (Read::Out, &["out"], |call, random| displaced(call, Struct::Out, random)),
    (Read::Out, &["out"], |call, random| wrong_size(&mut call.out.struct_size, random)),
    (Read::PairOutputs, &["pair_outputs", "out"], |call, random| {
        displaced(call, Struct::PairOutputs, random)
    }),
    (Read::PairOutputs, &["pair_outputs", "out"], |call, random| {
        wrong_size(&mut call.pair_outputs.struct_size, random)
    }),
    (Read::Gradient, &["gradient"], |call, random| displaced(call, Struct::Gradient, random)),
    (Read::Gradient, &["gradient"], |call, random| wrong_size(&mut call.gradient.struct_size, random)),
    (Read::PairInputs, &["inputs"], |call, random| {
        call.pair_inputs.as_mut().is_some_and(|to| wrong_size(&mut to.struct_size, random))
    }),
    (Read::Out, &["metrics"], |call, random| {
        call.token_metrics.as_mut().is_some_and(|to| wrong_size(&mut to.struct_size, random))
    }),
    (Read::PairInputs, &["inputs"], |call, _| {
        call.pair_inputs.is_some() && misplaced(call, Struct::PairInputs)
    }),
    (Read::Out, &["metrics"], |call, _| {
        call.token_metrics.is_some() && misplaced(call, Struct::TokenMetrics)
    }),
    (Read::Loss, &["terms"], |call, _| !call.terms.is_empty() && misplaced(call, Struct::Terms)),
    // The batch.
    (Read::Pairs, &["pairs"], |call, random| no_enumerator(&mut call.batch.pairs, random)),
    (Read::Rows, &["label_alignment"], |call, random| no_enumerator(&mut call.batch.label_alignment, random)),
    (Read::Rows, &["label_alignment"], |call, _| {
        call.batch.label_alignment = 0;
        true
    }),
    (Read::Rows, &["given"], |call, random| unknown_bit(&mut call.batch.given, random)),
    (Read::Rows, &["given"], |call, random| unknown_bit(&mut call.batch.transform.given, random)),
    (Read::Inputs, &["dtype"], |call, random| no_enumerator(&mut call.inputs.dtype, random)),
    (Read::Inputs, &["label_type"], |call, random| no_enumerator(&mut call.inputs.label_type, random)),
    (Read::Rows, &["vocab"], |call, random| beyond_limit(&mut call.batch.vocab, random)),
    (Read::Pairs, &["sequences", "cu_seqlens", "rows"], |call, random| {
        beyond_limit(&mut call.batch.sequences, random)
    }),
    (Read::Rows, &["rows"], |call, random| {
        call.batch.cu_seqlens.is_null() && beyond_limit(&mut call.batch.sequence_len, random)
    }),
    (Read::Rows, &["rows"], |call, random| {
        !call.batch.cu_seqlens.is_null() && beyond_limit(&mut call.batch.rows, random)
    }),
    (Read::Rows, &["sequence_len"], |call, random| {
        call.batch.sequence_len = 1 + random.below(9);
        !call.batch.cu_seqlens.is_null()
    }),
    (Read::Rows, &["rows"], |call, random| {
        call.batch.rows = 1 + random.below(9);
        call.batch.cu_seqlens.is_null()
    }),
    (Read::Rows, &["row_stride"], |call, random| {
        call.batch.given |= DPO_BATCH_ROW_STRIDE;
        let rows = call.batch.rows.max(call.batch.sequences.saturating_mul(call.batch.sequence_len));
        // With more than one row these are too many bytes; as is the last with a single one.
        let strides: &[usize] = if rows > 1 { &[0, 1 << 61, usize::MAX] } else { &[0, usize::MAX] };
        call.batch.row_stride = random.pick(strides);
        rows > 0
    }),
    (Read::Rows, &["row_stride"], |call, random| {
        call.batch.row_stride = 1 + random.below(99);
        call.batch.given & DPO_BATCH_ROW_STRIDE == 0
    }),
    (Read::Rows, &["ignore_index"], |call, random| {
        call.batch.ignore_index = random.pick(&[-100, 1, i64::MIN]);
        call.batch.given & DPO_BATCH_IGNORE_INDEX == 0
    }),
    (Read::Rows, &["ld_alpha"], |call, random| {
        float_without_bit(call.batch.given, DPO_BATCH_LD_ALPHA, &mut call.batch.ld_alpha, random)
    }),
    (Read::Rows, &["transform.scale"], |call, random| {
        let to = &mut call.batch.transform;
        float_without_bit(to.given, DPO_TRANSFORM_SCALE, &mut to.scale, random)
    }),
    (Read::Rows, &["transform.softcap"], |call, random| {
        let to = &mut call.batch.transform;
        float_without_bit(to.given, DPO_TRANSFORM_SOFTCAP, &mut to.softcap, random)
    }),
    (Read::Rows, &["transform.valid_vocab"], |call, random| {
        let to = &mut call.batch.transform;
        to.valid_vocab = 1 + random.below(9);
        to.given & DPO_TRANSFORM_VALID_VOCAB == 0
    }),
    (Read::Rows, &["transform.valid_vocab"], |call, random| {
        let to = &mut call.batch.transform;
        to.given |= DPO_TRANSFORM_VALID_VOCAB;
        to.valid_vocab = random.pick(&[0, call.batch.vocab.saturating_add(1), usize::MAX]);
        true
    }),
    (Read::Pairs, &["pair_count"], |call, random| {
        call.batch.pair_count = match call.batch.pairs {
            DPO_PAIRS_INDEXED => random.pick(&[0, 1 << 31, usize::MAX]),
            _ => 1 + random.below(9),
        };
        true
    }),
    (Read::Pairs, &["chosen"], |call, _| {
        other_layout(&mut call.batch.chosen, call.batch.pairs != DPO_PAIRS_INDEXED)
    }),
    (Read::Pairs, &["rejected"], |call, _| {
        other_layout(&mut call.batch.rejected, call.batch.pairs != DPO_PAIRS_INDEXED)
    }),
    (Read::Pairs, &["desirable"], |call, _| {
        other_layout(&mut call.batch.desirable, call.batch.pairs != DPO_PAIRS_UNPAIRED)
    }),
    (Read::Pairs, &["chosen"], |call, random| {
        call.batch.pairs == DPO_PAIRS_INDEXED && wrong_input(&mut call.batch.chosen, random)
    }),
    (Read::Pairs, &["rejected"], |call, random| {
        call.batch.pairs == DPO_PAIRS_INDEXED && wrong_input(&mut call.batch.rejected, random)
    }),
    (Read::Pairs, &["desirable"], |call, random| {
        call.batch.pairs == DPO_PAIRS_UNPAIRED && wrong_input(&mut call.batch.desirable, random)
    }),
    (Read::Rows, &["cu_seqlens"], |call, _| {
        let was_there = !call.batch.cu_seqlens.is_null();
        call.batch.cu_seqlens = call.batch.cu_seqlens.wrapping_byte_add(1);
        was_there
    }),
    // Logits and labels. Where they are not at their place, neither is a gradient that lies over them.
    (Read::Inputs, &["logits", "dlogits", "gradient"], |call, random| {
        wrong_input(&mut call.inputs.logits, random)
    }),
    (Read::Inputs, &["labels"], |call, random| wrong_input(&mut call.inputs.labels, random)),
    // The loss.
    (Read::Loss, &["given"], |call, random| unknown_bit(&mut call.loss.given, random)),
    (Read::Loss, &["divergence"], |call, random| no_enumerator(&mut call.loss.divergence, random)),
    (Read::Loss, &["normalized_by"], |call, random| no_enumerator(&mut call.loss.normalized_by, random)),
    (Read::Loss, &["length_normalized"], |call, random| no_flag(&mut call.loss.length_normalized, random)),
    (Read::Loss, &["wpo_weights"], |call, random| no_flag(&mut call.loss.wpo_weights, random)),
    (Read::Loss, &["reference_free"], |call, random| no_flag(&mut call.loss.reference_free, random)),
    (Read::Loss, &["label_smoothing"], |call, random| {
        without_bit(call.loss.given, DPO_LOSS_LABEL_SMOOTHING, &mut call.loss.label_smoothing, random)
    }),
    (Read::Loss, &["gamma"], |call, random| {
        without_bit(call.loss.given, DPO_LOSS_GAMMA, &mut call.loss.gamma, random)
    }),
    (Read::Loss, &["baseline"], |call, random| {
        without_bit(call.loss.given, DPO_LOSS_BASELINE, &mut call.loss.baseline, random)
    }),
    (Read::Loss, &["alpha"], |call, random| {
        without_bit(call.loss.given, DPO_LOSS_ALPHA, &mut call.loss.alpha, random)
    }),
    (Read::Loss, &["normalizer"], |call, random| {
        without_bit(call.loss.given, DPO_LOSS_NORMALIZER, &mut call.loss.normalizer, random)
    }),
    (Read::Loss, &["alpha"], |call, _| {
        let has_alpha = call.loss.given & DPO_LOSS_ALPHA != 0;
        call.loss.divergence = if has_alpha { DPO_REVERSE_KL } else { DPO_ALPHA_DIVERGENCE };
        true
    }),
    (Read::Loss, &["normalizer"], |call, _| {
        call.loss.given |= DPO_LOSS_NORMALIZER;
        call.loss.normalizer = 2.0;
        call.loss.normalized_by = DPO_BY_TOKENS;
        true
    }),
    (Read::Loss, &["term_count"], |call, random| {
        call.loss.term_count = if call.terms.is_empty() { 1 } else { random.pick(&[0, 5, usize::MAX]) };
        true
    }),
    (Read::Loss, &["given"], |call, random| {
        call.terms.first_mut().is_some_and(|term| unknown_bit(&mut term.given, random))
    }),
    (Read::Loss, &["name"], |call, _| {
        let first = call.terms.first_mut();
        first.is_some_and(|term| {
            term.name = ptr::null();
            true
        })
    }),
    (Read::Loss, &["weight"], |call, random| {
        let first = call.terms.first_mut();
        first.is_some_and(|term| without_bit(term.given, DPO_TERM_WEIGHT, &mut term.weight, random))
    }),
    (Read::Loss, &["parameters[0]"], |call, random| {
        let first = call.terms.first_mut();
        first.is_some_and(|term| {
            without_bit(term.given, DPO_TERM_PARAMETER_0, &mut term.parameters[0], random)
        })
    }),
    (Read::Loss, &["parameters[1]"], |call, random| {
        let first = call.terms.first_mut();
        first.is_some_and(|term| {
            without_bit(term.given, DPO_TERM_PARAMETER_1, &mut term.parameters[1], random)
        })
    }),
    // What it is given. An address that is wrong is of no use to some losses, which say so of the other one
    // first.
    (Read::PairInputs, &["lengths"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.lengths))
    }),
    (Read::PairInputs, &["beta"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.beta))
    }),
    (Read::PairInputs, &["gamma"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.gamma))
    }),
    (Read::PairInputs, &["weight"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.weight))
    }),
    (Read::PairInputs, &["label_smoothing"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.label_smoothing))
    }),
    (Read::PairInputs, &["sequence_log_weights"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.sequence_log_weights))
    }),
    (Read::PairInputs, &["kl_logps"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.kl_logps))
    }),
    (Read::PairInputs, &["kl_ref_logps"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.kl_ref_logps))
    }),
    (Read::PairInputs, &["normalizer"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.normalizer))
    }),
    (Read::PairInputs, &["chosen_tokens"], |call, _| {
        call.pair_inputs.as_mut().is_some_and(|to| misaligned_input(&mut to.chosen_tokens))
    }),
    (Read::PairInputs, &["kl_count"], |call, random| {
        let inputs = call.pair_inputs.as_mut();
        inputs.is_some_and(|to| {
            to.kl_count = random.pick(&[1 << 31, 1 << 32, usize::MAX]);
            true
        })
    }),
    (Read::PairInputs, &["kl_count"], |call, random| {
        let inputs = call.pair_inputs.as_mut();
        inputs.is_some_and(|to| {
            to.kl_count = 1 + random.below(9);
            to.kl_logps.is_null()
        })
    }),
    (Read::PairInputs, &["kl_ref_logps"], |call, _| {
        let inputs = call.pair_inputs.as_mut();
        inputs.is_some_and(|to| other_layout(&mut to.kl_ref_logps, to.kl_logps.is_null()))
    }),
    (Read::PairInputs, &["ref_logps"], |call, _| misaligned_input(&mut call.arguments.ref_logps)),
    (Read::Sequences, &["logps"], |call, random| wrong_input(&mut call.arguments.logps, random)),
    (Read::Sequences, &["scored"], |call, _| misaligned_input(&mut call.arguments.scored)),
    (Read::Sequences, &["status"], |call, random| wrong_address(&mut call.arguments.status, random)),
    // Results.
    (Read::Out, &["logps"], |call, random| wrong_address(&mut call.out.logps, random)),
    (Read::Out, &["status"], |call, random| wrong_address(&mut call.out.status, random)),
    (Read::Out, &["scored"], |call, _| misaligned(&mut call.out.scored)),
    (Read::Out, &["token_logps"], |call, _| misaligned(&mut call.out.token_logps)),
    (Read::Out, &["logsumexp"], |call, _| misaligned(&mut call.out.logsumexp)),
    (Read::Out, &["logsumexp_residual"], |call, _| misaligned(&mut call.out.logsumexp_residual)),
    (Read::Out, &["token_weights"], |call, _| misaligned(&mut call.out.token_weights)),
    (Read::Out, &["entropy"], |call, _| {
        call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.entropy))
    }),
    (Read::Out, &["correct"], |call, _| {
        call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.correct))
    }),
    (Read::Out, &["mean_logit"], |call, _| {
        call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.mean_logit))
    }),
    (Read::Out, &["sum_p2"], |call, _| {
        call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.sum_p2))
    }),
    (Read::Out, &["sequence_log_weights"], |call, _| {
        call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.sequence_log_weights))
    }),
    (Read::Out, &["mean"], |call, _| call.token_metrics.as_mut().is_some_and(|to| misaligned(&mut to.mean))),
    (Read::PairOutputs, &["pair_losses"], |call, random| {
        wrong_address(&mut call.pair_outputs.pair_losses, random)
    }),
    (Read::PairOutputs, &["chosen_rewards"], |call, random| {
        wrong_address(&mut call.pair_outputs.chosen_rewards, random)
    }),
    (Read::PairOutputs, &["rejected_rewards"], |call, random| {
        wrong_address(&mut call.pair_outputs.rejected_rewards, random)
    }),
    (Read::PairOutputs, &["margins"], |call, random| wrong_address(&mut call.pair_outputs.margins, random)),
    (Read::PairOutputs, &["coef"], |call, random| wrong_address(&mut call.pair_outputs.coef, random)),
    (Read::PairOutputs, &["metrics"], |call, random| wrong_address(&mut call.pair_outputs.metrics, random)),
    (Read::Factored, &["gradient"], |call, random| wrong_address(&mut call.arguments.factored, random)),
    // The gradient.
    (Read::Gradient, &["given"], |call, random| unknown_bit(&mut call.gradient.given, random)),
    (Read::Gradient, &["logsumexp"], |call, random| wrong_input(&mut call.gradient.logsumexp, random)),
    (Read::Gradient, &["logsumexp_residual"], |call, _| {
        misaligned_input(&mut call.gradient.logsumexp_residual)
    }),
    (Read::Gradient, &["coef"], |call, _| misaligned_input(&mut call.gradient.coef)),
    (Read::Gradient, &["token_coef"], |call, _| misaligned_input(&mut call.gradient.token_coef)),
    (Read::Gradient, &["entropy_coef"], |call, _| misaligned_input(&mut call.gradient.entropy_coef)),
    (Read::Gradient, &["entropy_coef"], |call, _| {
        leave_out(&mut call.gradient.entropy_coef, call.gradient.entropy)
    }),
    (Read::Gradient, &["entropy"], |call, _| misaligned_input(&mut call.gradient.entropy)),
    (Read::Gradient, &["entropy"], |call, _| {
        leave_out(&mut call.gradient.entropy, call.gradient.entropy_coef)
    }),
    (Read::Gradient, &["upstream"], |call, _| misaligned_input(&mut call.gradient.upstream)),
    (Read::Gradient, &["nonfinite_row"], |call, _| misaligned(&mut call.gradient.nonfinite_row)),
    (Read::Gradient, &["dlogits"], |call, random| wrong_address(&mut call.gradient.dlogits, random)),
    (Read::Gradient, &["upstream_scale"], |call, random| {
        float_without_bit(
            call.gradient.given,
            DPO_GRADIENT_UPSTREAM_SCALE,
            &mut call.gradient.upstream_scale,
            random,
        )
    }),
    (Read::Gradient, &["threshold"], |call, random| {
        float_without_bit(call.gradient.given, DPO_GRADIENT_THRESHOLD, &mut call.gradient.threshold, random)
    }),
    // The head.
    (Read::Head, &["head"], |call, random| displaced(call, Struct::Head, random)),
    (Read::Head, &["head"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_size(&mut to.head.struct_size, random))
    }),
    (Read::Head, &["dtype"], |call, random| {
        call.head.as_mut().is_some_and(|to| no_enumerator(&mut to.head.dtype, random))
    }),
    (Read::Head, &["label_type"], |call, random| {
        call.head.as_mut().is_some_and(|to| no_enumerator(&mut to.head.label_type, random))
    }),
    (Read::Head, &["labels"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_input(&mut to.head.labels, random))
    }),
    (Read::Head, &["hidden_size"], |call, random| {
        call.head.as_mut().is_some_and(|to| beyond_limit(&mut to.head.hidden_size, random))
    }),
    (Read::Head, &["given"], |call, random| {
        call.head.as_mut().is_some_and(|to| unknown_bit(&mut to.head.given, random))
    }),
    (Read::Head, &["budget_bytes"], |call, random| {
        call.head.as_mut().is_some_and(|to| {
            to.head.budget_bytes = 1 + random.below(1 << 20);
            to.head.given & DPO_LM_HEAD_BUDGET_BYTES == 0
        })
    }),
    (Read::HeadArrays, &["hidden"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_input(&mut to.head.hidden, random))
    }),
    (Read::HeadArrays, &["weight"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_input(&mut to.head.weight, random))
    }),
    (Read::HeadArrays, &["bias"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.head.bias))
    }),
    (Read::HeadArrays, &["workspace"], |call, random| {
        call.arguments.head_workspace = ptr::without_provenance_mut(random.pick(&[1, 4097, usize::MAX]));
        true
    }),
    (Read::Plan, &["plan"], |call, random| wrong_address(&mut call.arguments.plan, random)),
    (Read::BackwardInputs, &["inputs"], |call, random| displaced(call, Struct::BackwardInputs, random)),
    (Read::BackwardInputs, &["inputs"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_size(&mut to.inputs.struct_size, random))
    }),
    (Read::BackwardInputs, &["given"], |call, random| {
        call.head.as_mut().is_some_and(|to| unknown_bit(&mut to.inputs.given, random))
    }),
    (Read::BackwardInputs, &["threshold"], |call, random| {
        call.head.as_mut().is_some_and(|to| {
            float_without_bit(to.inputs.given, DPO_GRADIENT_THRESHOLD, &mut to.inputs.threshold, random)
        })
    }),
    (Read::BackwardInputs, &["logsumexp"], |call, random| {
        call.head.as_mut().is_some_and(|to| wrong_input(&mut to.inputs.logsumexp, random))
    }),
    (Read::BackwardInputs, &["logsumexp_residual"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.inputs.logsumexp_residual))
    }),
    (Read::BackwardInputs, &["coef"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.inputs.coef))
    }),
    (Read::BackwardInputs, &["token_coef"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.inputs.token_coef))
    }),
    (Read::BackwardInputs, &["entropy_coef"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.inputs.entropy_coef))
    }),
    (Read::BackwardInputs, &["entropy_coef"], |call, _| {
        call.head.as_mut().is_some_and(|to| leave_out(&mut to.inputs.entropy_coef, to.inputs.entropy))
    }),
    (Read::BackwardInputs, &["entropy"], |call, _| {
        call.head.as_mut().is_some_and(|to| misaligned_input(&mut to.inputs.entropy))
    }),
    (Read::BackwardInputs, &["entropy"], |call, _| {
        call.head.as_mut().is_some_and(|to| leave_out(&mut to.inputs.entropy, to.inputs.entropy_coef))
    }),
    // Its gradients.
    (Read::Gradients, &["gradients"], |call, _| {
        call.gradients().is_some() && misplaced(call, Struct::Gradients)
    }),
    (Read::Gradients, &["gradients"], |call, random| {
        call.gradients().is_some_and(|to| wrong_size(&mut to.struct_size, random))
    }),
    (Read::GradientArrays, &["given"], |call, random| {
        call.gradients().is_some_and(|to| unknown_bit(&mut to.given, random))
    }),
    (Read::GradientArrays, &["upstream_scale"], |call, random| {
        call.gradients().is_some_and(|to| {
            float_without_bit(to.given, DPO_GRADIENT_UPSTREAM_SCALE, &mut to.upstream_scale, random)
        })
    }),
    (Read::GradientArrays, &["upstream"], |call, _| {
        call.gradients().is_some_and(|to| misaligned_input(&mut to.upstream))
    }),
    (Read::GradientArrays, &["nonfinite_row"], |call, _| {
        call.gradients().is_some_and(|to| misaligned(&mut to.nonfinite_row))
    }),
    (Read::GradientArrays, &["gradients.hidden"], |call, _| {
        call.gradients().is_some_and(|to| misaligned(&mut to.hidden))
    }),
    (Read::GradientArrays, &["gradients.weight"], |call, _| {
        call.gradients().is_some_and(|to| misaligned(&mut to.weight))
    }),
    (Read::GradientArrays, &["gradients.bias"], |call, _| {
        call.gradients().is_some_and(|to| misaligned(&mut to.bias))
    }),
    // Where something else is.
    (Read::GradientArrays, &["gradients.hidden"], |call, random| {
        call.inputs_of_head(random).is_some_and(|other| {
            call.gradients().is_some_and(|to| {
                to.hidden = other;
                true
            })
        })
    }),
    (Read::GradientArrays, &["gradients.weight"], |call, random| {
        call.inputs_of_head(random).is_some_and(|other| {
            call.gradients().is_some_and(|to| {
                to.weight = other.cast();
                true
            })
        })
    }),
    (Read::GradientArrays, &["gradients.bias"], |call, _| {
        call.gradients().is_some_and(|to| {
            to.bias = to.weight;
            !to.weight.is_null()
        })
    }),
];
