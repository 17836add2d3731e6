//! The CPU half of the header.

pub(crate) mod lm_head;
pub(crate) mod lm_head_workspace;

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use dpo_kernels::cpu::{self, BackwardInputs, Logsumexp};
use dpo_kernels::memory::Extent;
use dpo_kernels::{Coef, EntropyCoef, ForwardTensors, GradientStatus, HostBatch, PairInputs, PairLoss};

use crate::batch::{self, in_host_memory};
use crate::failure::{Result, guard};
use crate::gradient::{self, both_or_none};
use crate::header::*;
use crate::inputs::{dtype, host_labels, host_pair_inputs, pair_inputs};
use crate::loss;
use crate::pointers::{optional_slice, pointer, read, slice, slice_mut};
use crate::results::{self, HostBuffers, Pointers, ToHost, WriteRecords};

/// Evaluates an expression with `$T` as the Rust type of a [`DType`].
macro_rules! with_logit {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            dpo_kernels::DType::F32 => {
                type $T = f32;
                $body
            }
            dpo_kernels::DType::F16 => {
                type $T = half::f16;
                $body
            }
            dpo_kernels::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_logit;

fn address(pointer: *const c_void) -> u64 {
    pointer.addr() as u64
}

/// # Safety
///
/// `batch` is null or points to a struct of the size that it says, whose index arrays are null or as long as the header
/// says and stay as they are for `'a`.
unsafe fn host_batch<'a>(batch: *const dpo_batch) -> Result<HostBatch<'a>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { in_host_memory(batch::batch(read("batch", batch)?)?) }?)
}

/// A loss, and what `pair_loss` reads for this batch.
///
/// # Safety
///
/// `loss` is null or points to a struct of the size that it says; `ref_logps` and what the struct points to are null or as
/// long as the header says, and stay as they are for `'a`.
unsafe fn host_loss<'a>(
    loss: *const dpo_loss,
    ref_logps: *const f32,
    batch: &HostBatch<'_>,
) -> Result<(PairLoss, PairInputs<'a, f32>)> {
    // SAFETY: the caller's promise.
    unsafe {
        let loss = read("loss", loss)?;
        let inputs = pair_inputs(loss, ref_logps, batch.sequences.count(), batch.pair_count())?;
        Ok((loss::loss(loss)?, host_pair_inputs(inputs)?))
    }
}

/// Where `logps` and `pair_loss` write.
///
/// # Safety
///
/// `out` and `pair_outputs` are null or point to structs of the size that they say; what these point to is null or as large as
/// the header says, and nothing else uses it for `'a`.
unsafe fn host_outputs<'a>(
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    extent: Extent,
) -> Result<ForwardTensors<HostBuffers<'a>>> {
    // SAFETY: the caller's promise.
    unsafe {
        let out: ForwardTensors<Pointers> = ForwardTensors {
            logps: results::logps(read("out", out)?)?,
            pairs: results::pair_outputs(read("pair_outputs", pair_outputs)?),
        };
        Ok(out.convert(&mut ToHost::new(extent))?)
    }
}

/// What `backward` reads of the stages before it.
struct BackwardPointers {
    logsumexp: *const f32,
    logsumexp_residual: *const f32,
    coef: *const f32,
    token_coef: *const f32,
    entropy_coef: *const f32,
    entropy: *const f32,
}

impl BackwardPointers {
    /// With an upstream gradient of 1.
    ///
    /// # Safety
    ///
    /// The pointers are null or point to as many numbers as the header says for the batch, which stay as they are for `'a`.
    unsafe fn in_host_memory<'a>(&self, batch: &HostBatch<'_>, threshold: f32) -> Result<BackwardInputs<'a>> {
        let rows = batch.rows();
        // SAFETY: the caller's promise.
        unsafe {
            let logsumexp = Logsumexp {
                values: slice("logsumexp", self.logsumexp, rows)?,
                residual: optional_slice("logsumexp_residual", self.logsumexp_residual, rows)?,
            };
            let coef = Coef {
                sequences: optional_slice("coef", self.coef, batch.sequences.count())?,
                tokens: optional_slice("token_coef", self.token_coef, rows)?,
                threshold,
            };
            let inputs = BackwardInputs::new(logsumexp, coef);
            let coef = optional_slice("entropy_coef", self.entropy_coef, rows)?;
            let entropy = both_or_none(coef, optional_slice("entropy", self.entropy, rows)?)?;
            Ok(BackwardInputs {
                entropy: entropy.map(|(coef, entropy)| EntropyCoef { coef, entropy }),
                ..inputs
            })
        }
    }
}

/// The upstream gradient, of both its factors.
///
/// # Safety
///
/// `upstream` is null or points to a number.
unsafe fn upstream(upstream: *const f32, scale: f32) -> Result<f32> {
    // SAFETY: the caller's promise.
    let upstream = unsafe { optional_slice("upstream", upstream, 1) }?;
    Ok(upstream.map_or(1.0, |factor| factor[0]) * scale)
}

/// Where the first row goes whose gradient is not finite, if that is wanted.
struct NonfiniteRow(Option<NonNull<u32>>);

impl NonfiniteRow {
    fn judged(to: *mut u32) -> Result<Self> {
        Ok(NonfiniteRow((!to.is_null()).then(|| pointer("nonfinite_row", to)).transpose()?))
    }

    /// # Safety
    ///
    /// It points to a number that can be written.
    unsafe fn lower(self, status: GradientStatus) {
        if let (Some(row), Some(to)) = (status.nonfinite_row, self.0) {
            // SAFETY: the caller's promise. Rows are counted in 31 bits.
            unsafe { to.write(to.read().min(row as u32)) };
        }
    }
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_logps(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    out: *const dpo_logps,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = host_batch(batch)?;
        let inputs = read("inputs", inputs)?;
        let labels = host_labels(inputs.label_type, inputs.labels, batch.rows())?;
        let out = results::logps(read("out", out)?)?;
        let mut out = out.convert::<HostBuffers<'_>, _>(&mut ToHost::new(batch.extent()))?;
        with_logit!(dtype("dtype", inputs.dtype)?, T => {
            let logits = slice::<T>("logits", inputs.logits.cast(), batch.logits_len())?;
            cpu::logps(&batch, logits, labels, &mut out)?;
        });
        let Ok(_) = out.convert(&mut WriteRecords);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_pair_loss(
    batch: *const dpo_batch,
    logps: *const f32,
    ref_logps: *const f32,
    scored: *const u32,
    loss: *const dpo_loss,
    out: *const dpo_pair_outputs,
    status: *mut dpo_status,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(batch::paired_sequences(read("batch", batch)?)?)?;
        let extent = batch.extent();
        let logps = slice("logps", logps, extent.sequences)?;
        let scored = optional_slice("scored", scored, extent.sequences)?;
        let (loss, inputs) = host_loss(loss, ref_logps, &batch)?;
        let out = results::pair_outputs(read("out", out)?);
        let mut out = out.convert::<HostBuffers<'_>, _>(&mut ToHost::new(extent))?;
        let status = pointer("status", status)?;
        let found = cpu::pair_loss(&batch, logps, scored, &inputs, &loss, &mut out)?;
        let Ok(_) = out.convert(&mut WriteRecords);
        status.write(found.into());
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_forward(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = host_batch(batch)?;
        let inputs = read("inputs", inputs)?;
        let labels = host_labels(inputs.label_type, inputs.labels, batch.rows())?;
        let (loss, pair_inputs) = host_loss(loss, ref_logps, &batch)?;
        let mut out = host_outputs(out, pair_outputs, batch.extent())?;
        with_logit!(dtype("dtype", inputs.dtype)?, T => {
            let logits = slice::<T>("logits", inputs.logits.cast(), batch.logits_len())?;
            cpu::forward(&batch, logits, labels, &pair_inputs, &loss, &mut out)?;
        });
        let Ok(_) = out.convert(&mut WriteRecords);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_factored(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    gradient: *mut c_void,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = host_batch(batch)?;
        let inputs = read("inputs", inputs)?;
        let labels = host_labels(inputs.label_type, inputs.labels, batch.rows())?;
        let (loss, pair_inputs) = host_loss(loss, ref_logps, &batch)?;
        let mut out = host_outputs(out, pair_outputs, batch.extent())?;
        let dtype = dtype("dtype", inputs.dtype)?;
        batch.check_gradient("gradient", dtype, address(inputs.logits), address(gradient))?;
        with_logit!(dtype, T => {
            let len = batch.logits_len();
            let logits = pointer::<T>("logits", inputs.logits.cast())?;
            let gradient = slice_mut::<T>("gradient", gradient.cast(), len)?;
            if ptr::eq(logits.as_ptr(), gradient.as_ptr()) {
                cpu::factored_in_place(&batch, gradient, labels, &pair_inputs, &loss, &mut out)?;
            } else {
                let logits = slice("logits", logits.as_ptr(), len)?;
                cpu::factored(&batch, logits, labels, &pair_inputs, &loss, &mut out, gradient)?;
            }
        });
        let Ok(_) = out.convert(&mut WriteRecords);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_backward(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    gradient: *const dpo_gradient,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = host_batch(batch)?;
        let inputs = read("inputs", inputs)?;
        let gradient = read("gradient", gradient)?;
        let labels = host_labels(inputs.label_type, inputs.labels, batch.rows())?;
        let numbers = gradient::Numbers::of(gradient)?;
        let inputs_of_stages = BackwardPointers {
            logsumexp: gradient.logsumexp,
            logsumexp_residual: gradient.logsumexp_residual,
            coef: gradient.coef,
            token_coef: gradient.token_coef,
            entropy_coef: gradient.entropy_coef,
            entropy: gradient.entropy,
        };
        let inputs_of_stages = inputs_of_stages
            .in_host_memory(&batch, numbers.threshold)?
            .with_upstream(upstream(gradient.upstream, numbers.upstream_scale)?);
        let nonfinite_row = NonfiniteRow::judged(gradient.nonfinite_row)?;

        let dtype = dtype("dtype", inputs.dtype)?;
        batch.check_gradient("dlogits", dtype, address(inputs.logits), address(gradient.dlogits))?;
        let status = with_logit!(dtype, T => {
            let len = batch.logits_len();
            let logits = pointer::<T>("logits", inputs.logits.cast())?;
            let dlogits = slice_mut::<T>("dlogits", gradient.dlogits.cast(), len)?;
            if ptr::eq(logits.as_ptr(), dlogits.as_ptr()) {
                cpu::backward_in_place(&batch, dlogits, labels, inputs_of_stages)?
            } else {
                let logits = slice("logits", logits.as_ptr(), len)?;
                cpu::backward(&batch, logits, labels, inputs_of_stages, dlogits)?
            }
        });
        nonfinite_row.lower(status);
        Ok(())
    })
}
