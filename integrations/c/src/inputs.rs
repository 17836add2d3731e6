//! What the stages read besides the batch: logits and labels, and what `pair_loss` is given.

use std::ffi::c_void;

use dpo_kernels::loss::PairTensors;
use dpo_kernels::{DType, LabelType, Labels, PairInputs, Result};

use crate::given::{null, zero};
use crate::header::*;
use crate::pointers::{Array, read, slice, value};

pub(crate) fn dtype(argument: &'static str, dtype: dpo_dtype) -> Result<DType> {
    match dtype {
        DPO_F32 => Ok(DType::F32),
        DPO_F16 => Ok(DType::F16),
        DPO_BF16 => Ok(DType::BF16),
        other => Err(value(argument, "a dpo_dtype", other)),
    }
}

pub(crate) fn label_type(label_type: dpo_label_type) -> Result<LabelType> {
    match label_type {
        DPO_LABELS_I32 => Ok(LabelType::I32),
        DPO_LABELS_I64 => Ok(LabelType::I64),
        other => Err(value("label_type", "a dpo_label_type", other)),
    }
}

/// Labels in host memory.
///
/// # Safety
///
/// `labels` is null or points to `rows` labels of the type, which stay as they are for `'a`.
pub(crate) unsafe fn host_labels<'a>(
    of_type: dpo_label_type,
    labels: *const c_void,
    rows: usize,
) -> Result<Labels<'a>> {
    // SAFETY: the caller's promise.
    unsafe {
        Ok(match label_type(of_type)? {
            LabelType::I32 => Labels::I32(slice("labels", labels.cast(), rows)?),
            LabelType::I64 => Labels::I64(slice("labels", labels.cast(), rows)?),
        })
    }
}

/// What `pair_loss` reads, in whichever memory the call is about.
pub(crate) type PairInputPointers = PairTensors<Array<f32>, Array<u32>, *const f32>;

/// What `pair_loss` reads of a loss for `sequences` sequences in `pairs` pairs.
///
/// # Safety
///
/// `loss.inputs` is null or points to a struct of the size that it says.
pub(crate) unsafe fn pair_inputs(
    loss: &dpo_loss,
    ref_logps: *const f32,
    sequences: usize,
    pairs: usize,
) -> Result<PairInputPointers> {
    let ref_logps = Array::optional(ref_logps, sequences);
    if loss.inputs.is_null() {
        return Ok(PairTensors { ref_logps, ..PairTensors::NONE });
    }
    // SAFETY: the caller's promise.
    let inputs = unsafe { read("inputs", loss.inputs) }?;
    if inputs.kl_logps.is_null() {
        zero("kl_count", inputs.kl_count, "where kl_logps is null")?;
        null("kl_ref_logps", inputs.kl_ref_logps, "where kl_logps is null")?;
    } else if inputs.kl_count > i32::MAX as usize {
        return Err(value("kl_count", format!("at most {}", i32::MAX), inputs.kl_count));
    }
    let number = |number: *const f32| (!number.is_null()).then_some(number);
    Ok(PairTensors {
        ref_logps,
        lengths: Array::optional(inputs.lengths, sequences),
        beta: Array::optional(inputs.beta, pairs),
        gamma: Array::optional(inputs.gamma, pairs),
        weight: Array::optional(inputs.weight, pairs),
        label_smoothing: Array::optional(inputs.label_smoothing, pairs),
        sequence_log_weights: Array::optional(inputs.sequence_log_weights, sequences),
        kl_logps: Array::optional(inputs.kl_logps, inputs.kl_count),
        kl_ref_logps: Array::optional(inputs.kl_ref_logps, inputs.kl_count),
        normalizer: number(inputs.normalizer),
        chosen_tokens: number(inputs.chosen_tokens),
    })
}

/// The same in host memory.
///
/// # Safety
///
/// The arrays are as long as they say, and stay as they are for `'a`.
pub(crate) unsafe fn host_pair_inputs<'a>(inputs: PairInputPointers) -> Result<PairInputs<'a, f32>> {
    inputs.try_map(
        // SAFETY: the caller's promise.
        |argument, array| unsafe { slice(argument, array.pointer, array.len) },
        // SAFETY: the caller's promise.
        |argument, array| unsafe { slice(argument, array.pointer, array.len) },
        // SAFETY: the caller's promise.
        |argument, number| unsafe { slice(argument, number, 1) }.map(|number| number[0]),
    )
}
