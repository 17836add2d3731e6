//! From what C hands over to what the crate takes. Pointers are judged here and nowhere else.

use std::ffi::CStr;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::slice;

use dpo_kernels::batch::{IGNORE_INDEX, IndexArray};
use dpo_kernels::loss::{Divergence, LossInfo, PairInputs};
use dpo_kernels::{
    Batch, DType, Error, HostBatch, LabelAlignment, LabelType, Labels, PairLoss, Pairs, Result, Sequences,
    Transform,
};

use crate::header::*;

const _: () = assert!(DPO_IGNORE_INDEX as i64 == IGNORE_INDEX);

fn value(argument: &'static str, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Value { argument, expected: expected.into(), found: found.to_string() }
}

/// Not null, and aligned.
pub(crate) fn pointer<T>(argument: &'static str, pointer: *const T) -> Result<NonNull<T>> {
    let expected = || format!("an address aligned to {} bytes", align_of::<T>());
    match NonNull::new(pointer.cast_mut()) {
        None => Err(value(argument, expected(), "null")),
        Some(there) if there.is_aligned() => Ok(there),
        Some(there) => Err(value(argument, expected(), format!("{there:p}"))),
    }
}

/// A versioned struct of the header, which starts with its own size.
///
/// # Safety
///
/// `from` is null or points to as many bytes as its first field says, which stay as they are for `'a`.
pub(crate) unsafe fn read<'a, T>(argument: &'static str, from: *const T) -> Result<&'a T> {
    let from = pointer(argument, from)?;
    // SAFETY: every versioned struct starts with struct_size.
    let found = unsafe { from.cast::<usize>().read() };
    if found != size_of::<T>() {
        return Err(value(argument, format!("struct_size = {}", size_of::<T>()), found));
    }
    // SAFETY: it is as large as it should be.
    Ok(unsafe { from.as_ref() })
}

/// # Safety
///
/// `from` is null or points to `len` elements, which stay as they are for `'a`.
pub(crate) unsafe fn slice<'a, T>(argument: &'static str, from: *const T, len: usize) -> Result<&'a [T]> {
    let from = pointer(argument, from)?;
    // SAFETY: not null, aligned, and the caller's promise.
    Ok(unsafe { slice::from_raw_parts(from.as_ptr(), len) })
}

/// A [`slice`], or none for null.
///
/// # Safety
///
/// That of [`slice`].
pub(crate) unsafe fn optional_slice<'a, T>(
    argument: &'static str,
    from: *const T,
    len: usize,
) -> Result<Option<&'a [T]>> {
    // SAFETY: the caller's promise.
    (!from.is_null()).then(|| unsafe { slice(argument, from, len) }).transpose()
}

/// # Safety
///
/// `to` is null or points to `len` elements, which nothing else uses for `'a`.
pub(crate) unsafe fn slice_mut<'a, T>(argument: &'static str, to: *mut T, len: usize) -> Result<&'a mut [T]> {
    let to = pointer(argument, to)?;
    // SAFETY: not null, aligned, and the caller's promise.
    Ok(unsafe { slice::from_raw_parts_mut(to.as_ptr(), len) })
}

/// An index array, in whichever memory the call is about.
#[derive(Clone, Copy)]
pub(crate) struct Indices {
    pub argument: &'static str,
    pub pointer: *const i32,
    pub len: usize,
}

impl IndexArray for Indices {
    fn count(&self) -> usize {
        self.len
    }
}

fn pairs(batch: &dpo_batch) -> Result<Pairs<Indices>> {
    let indices = |argument, pointer| Indices { argument, pointer, len: batch.pairs };
    match batch.pair_layout {
        DPO_PAIRS_CONCATENATED => Ok(Pairs::Concatenated),
        DPO_PAIRS_INTERLEAVED => Ok(Pairs::Interleaved),
        DPO_PAIRS_INDEXED => Ok(Pairs::Indexed {
            chosen: indices("chosen", batch.chosen),
            rejected: indices("rejected", batch.rejected),
        }),
        DPO_PAIRS_NONE => Ok(Pairs::None),
        DPO_PAIRS_UNPAIRED => Ok(Pairs::Unpaired {
            desirable: Indices { argument: "chosen", pointer: batch.chosen, len: batch.sequences },
        }),
        other => Err(value("pair_layout", "a dpo_pairs", other)),
    }
}

/// The whole batch, of a valid shape.
pub(crate) fn batch(batch: &dpo_batch) -> Result<Batch<Indices>> {
    let sequences = if batch.cu_seqlens.is_null() {
        Sequences::Padded { count: batch.sequences, len: batch.sequence_len }
    } else {
        let len = batch.sequences.saturating_add(1);
        let cu_seqlens = Indices { argument: "cu_seqlens", pointer: batch.cu_seqlens, len };
        Sequences::Packed { cu_seqlens, rows: batch.rows }
    };
    let batch = Batch {
        vocab: batch.vocab,
        row_stride: batch.row_stride,
        sequences,
        pairs: pairs(batch)?,
        label_alignment: match batch.label_alignment {
            DPO_ALIGNED => LabelAlignment::Aligned,
            DPO_NEXT_TOKEN => LabelAlignment::NextToken,
            other => return Err(value("label_alignment", "a dpo_label_alignment", other)),
        },
        ignore_index: batch.ignore_index,
        transform: Transform {
            scale: if batch.logit_scale == 0.0 { 1.0 } else { batch.logit_scale },
            softcap: (batch.softcap != 0.0).then_some(batch.softcap),
            valid_vocab: (batch.valid_vocab != 0).then_some(batch.valid_vocab),
        },
        ld_alpha: if batch.length_desensitized != 0 { batch.ld_alpha } else { 1.0 },
    };
    batch.validate_shape()?;
    Ok(batch)
}

/// What `pair_loss` needs of a batch: one row a sequence, the pairs, a valid shape.
pub(crate) fn paired_sequences(batch: &dpo_batch) -> Result<Batch<Indices>> {
    let batch = Batch { pairs: pairs(batch)?, ..Batch::padded(batch.sequences, 1, 1) };
    batch.validate_shape()?;
    Ok(batch)
}

/// The same batch with its index arrays in host memory.
///
/// # Safety
///
/// The index arrays are null or as long as they say, and stay as they are for `'a`.
pub(crate) unsafe fn in_host_memory<'a>(batch: Batch<Indices>) -> Result<HostBatch<'a>> {
    // SAFETY: the caller's promise.
    batch.try_map_indices(|array| unsafe { slice(array.argument, array.pointer, array.len) })
}

pub(crate) fn dtype(inputs: &dpo_inputs) -> Result<DType> {
    match inputs.dtype {
        DPO_F32 => Ok(DType::F32),
        DPO_F16 => Ok(DType::F16),
        DPO_BF16 => Ok(DType::BF16),
        other => Err(value("dtype", "a dpo_dtype", other)),
    }
}

pub(crate) fn label_type(inputs: &dpo_inputs) -> Result<LabelType> {
    match inputs.label_type {
        DPO_LABELS_I32 => Ok(LabelType::I32),
        DPO_LABELS_I64 => Ok(LabelType::I64),
        other => Err(value("label_type", "a dpo_label_type", other)),
    }
}

/// Labels in host memory.
///
/// # Safety
///
/// `inputs.labels` is null or points to `rows` labels, which stay as they are for `'a`.
pub(crate) unsafe fn host_labels<'a>(inputs: &dpo_inputs, rows: usize) -> Result<Labels<'a>> {
    // SAFETY: the caller's promise.
    unsafe {
        Ok(match label_type(inputs)? {
            LabelType::I32 => Labels::I32(slice("labels", inputs.labels.cast(), rows)?),
            LabelType::I64 => Labels::I64(slice("labels", inputs.labels.cast(), rows)?),
        })
    }
}

/// One loss of a sum, with the parameters that are its own.
///
/// # Safety
///
/// `term.name` is null or a C string.
unsafe fn term(term: &dpo_loss_term, loss: &dpo_loss) -> Result<PairLoss> {
    let name = pointer("name", term.name)?;
    // SAFETY: not null, and the caller's promise.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy();
    let info = LossInfo::named(&name)?;
    // 0 stands for the usual value; a parameter that the loss does not have must be left at 0.
    let given = term.parameters.iter().rposition(|&parameter| parameter != 0.0).map_or(0, |last| last + 1);
    let mut parameters = term.parameters;
    for (value, parameter) in parameters.iter_mut().zip(info.parameters) {
        if *value == 0.0 {
            *value = parameter.usual(loss.beta);
        }
    }
    info.make(loss.beta, &parameters[..given])
}

/// # Safety
///
/// `loss.terms` is null or points to `term_count` terms, whose names are null or C strings.
pub(crate) unsafe fn loss(loss: &dpo_loss) -> Result<PairLoss> {
    let mut pair_loss = PairLoss::sigmoid(loss.beta)?;
    if loss.term_count > 0 {
        // SAFETY: the caller's promise.
        let terms = unsafe { slice("terms", loss.terms, loss.term_count) }?;
        // SAFETY: the caller's promise.
        pair_loss = unsafe { term(&terms[0], loss) }?.weighted(terms[0].weight)?;
        for other in &terms[1..] {
            // SAFETY: the caller's promise.
            pair_loss = pair_loss.and(unsafe { term(other, loss) }?, other.weight)?;
        }
    }
    if loss.label_smoothing != 0.0 {
        pair_loss = pair_loss.with_label_smoothing(loss.label_smoothing)?;
    }
    if loss.gamma != 0.0 {
        pair_loss = pair_loss.with_gamma(loss.gamma)?;
    }
    if loss.has_baseline != 0 {
        pair_loss = pair_loss.with_baseline(loss.baseline)?;
    }
    if loss.length_normalized != 0 {
        pair_loss = pair_loss.with_length_normalization();
    }
    let divergence = match loss.divergence {
        DPO_REVERSE_KL => Divergence::ReverseKl,
        DPO_FORWARD_KL => Divergence::ForwardKl,
        DPO_JENSEN_SHANNON => Divergence::JensenShannon,
        DPO_ALPHA_DIVERGENCE => Divergence::Alpha(loss.alpha),
        other => return Err(value("divergence", "a dpo_divergence", other)),
    };
    pair_loss = pair_loss.with_divergence(divergence)?;
    match loss.normalized_by {
        DPO_BY_NUMBER if loss.normalizer == 0.0 => Ok(pair_loss),
        DPO_BY_NUMBER => pair_loss.with_normalizer(loss.normalizer),
        DPO_BY_TOKENS => Ok(pair_loss.with_token_normalizer()),
        other => Err(value("normalized_by", "a dpo_normalizer", other)),
    }
}

/// What `pair_loss` reads of host memory, for `sequences` sequences in `pairs` pairs.
///
/// # Safety
///
/// `ref_logps` and the arrays of `loss.inputs` are null or as long as the header says, and stay as they are for `'a`.
pub(crate) unsafe fn host_inputs<'a>(
    loss: &dpo_loss,
    ref_logps: *const f32,
    sequences: usize,
    pairs: usize,
) -> Result<PairInputs<'a, f32>> {
    // SAFETY: the caller's promise, here and below.
    let ref_logps = unsafe { optional_slice("ref_logps", ref_logps, sequences) }?;
    let mut inputs = PairInputs { ref_logps, ..PairInputs::default() };
    if loss.inputs.is_null() {
        return Ok(inputs);
    }
    unsafe {
        let given = read("inputs", loss.inputs)?;
        let number = |argument, from| {
            Ok::<_, Error>(optional_slice(argument, from, 1)?.map(|number: &[f32]| number[0]))
        };
        inputs.lengths = optional_slice("lengths", given.lengths, sequences)?;
        inputs.beta = optional_slice("beta", given.beta, pairs)?;
        inputs.gamma = optional_slice("gamma", given.gamma, pairs)?;
        inputs.weight = optional_slice("weight", given.weight, pairs)?;
        inputs.label_smoothing = optional_slice("label_smoothing", given.label_smoothing, pairs)?;
        inputs.sequence_log_weights =
            optional_slice("sequence_log_weights", given.sequence_log_weights, sequences)?;
        inputs.kl_logps = optional_slice("kl_logps", given.kl_logps, given.kl_count)?;
        inputs.kl_ref_logps = optional_slice("kl_ref_logps", given.kl_ref_logps, given.kl_count)?;
        inputs.normalizer = number("normalizer", given.normalizer)?;
        inputs.chosen_tokens = number("chosen_tokens", given.chosen_tokens)?;
    }
    Ok(inputs)
}
