//! From the header's structs to plans, without a device. Addresses are checked by the plan, not followed.

use std::ffi::c_void;

use dpo_kernels::cuda::plan::{
    self, Capacity, Device, DeviceAddress, DeviceArray, DeviceBatch, DevicePairInputs, EntropyBuffers,
    GradientBuffers, Inputs, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan, Workspace,
};
use dpo_kernels::{Batch, IndexArray, PairLoss, Result};

use crate::batch::{self, paired_sequences};
use crate::gradient::{Numbers, both_or_none};
use crate::header::*;
use crate::inputs::{dtype, label_type, pair_inputs};
use crate::loss;
use crate::pointers::{Indices, pointer, read};
use crate::results::{self, ToDevice};

/// `logps`.
///
/// # Safety
///
/// Pointers to structs of the header are null, or point to ones of the size that they say; so do the pointers to structs,
/// terms and names in them. That also holds for the other functions here.
pub(crate) unsafe fn logps(
    device: &Device,
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    out: *const dpo_logps,
    workspace: *const dpo_workspace,
) -> Result<Plan> {
    // SAFETY: the caller's promise.
    unsafe {
        let batch = device_batch(batch)?;
        let (inputs, out) = (device_inputs(inputs)?, logps_buffers(out)?);
        plan::forward(device, &batch, &inputs, &out, None, device_workspace(workspace, &batch)?)
    }
}

/// `pair_loss`.
///
/// # Safety
///
/// That of [`logps`].
pub(crate) unsafe fn pair_loss(
    batch: *const dpo_batch,
    logps: *const f32,
    ref_logps: *const f32,
    scored: *const u32,
    loss: *const dpo_loss,
    out: *const dpo_pair_outputs,
    status: *mut dpo_status,
) -> Result<Plan> {
    // SAFETY: the caller's promise.
    unsafe {
        let batch = on_device(paired_sequences(read("batch", batch)?)?)?;
        let (loss, inputs) = device_loss(loss, ref_logps, &batch)?;
        let out = pair_buffers("out", out)?;
        let loss = PairLossArguments { loss: &loss, inputs, out: &out };
        let sequences = batch.sequences.count();
        plan::pair_loss(&batch.pairs, sequences, address(logps), optional(scored), &loss, address(status))
    }
}

/// What the header's `forward` and `factored` take alike, read for the `plan` of either.
///
/// # Safety
///
/// That of [`logps`].
unsafe fn with_loss(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    plan: impl FnOnce(&DeviceBatch, &Inputs, &LogpsBuffers, &PairLossArguments<'_>) -> Result<Plan>,
) -> Result<Plan> {
    // SAFETY: the caller's promise.
    unsafe {
        let batch = device_batch(batch)?;
        let inputs = device_inputs(inputs)?;
        let (loss, pair_inputs) = device_loss(loss, ref_logps, &batch)?;
        let (out, pair_outputs) = (logps_buffers(out)?, pair_buffers("pair_outputs", pair_outputs)?);
        let loss = PairLossArguments { loss: &loss, inputs: pair_inputs, out: &pair_outputs };
        plan(&batch, &inputs, &out, &loss)
    }
}

/// `forward`.
///
/// # Safety
///
/// That of [`logps`].
#[allow(clippy::too_many_arguments)] // those of the header's function
pub(crate) unsafe fn forward(
    device: &Device,
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    workspace: *const dpo_workspace,
) -> Result<Plan> {
    let plan = |batch: &_, inputs: &_, out: &_, loss: &PairLossArguments<'_>| {
        // SAFETY: the caller's promise.
        let workspace = unsafe { device_workspace(workspace, batch) }?;
        plan::forward(device, batch, inputs, out, Some(loss), workspace)
    };
    // SAFETY: the caller's promise.
    unsafe { with_loss(batch, inputs, ref_logps, loss, out, pair_outputs, plan) }
}

/// `factored`.
///
/// # Safety
///
/// That of [`logps`].
#[allow(clippy::too_many_arguments)] // those of the header's function
pub(crate) unsafe fn factored(
    device: &Device,
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    gradient: *mut c_void,
    workspace: *const dpo_workspace,
) -> Result<Plan> {
    let plan = |batch: &_, inputs: &_, out: &_, loss: &PairLossArguments<'_>| {
        // SAFETY: the caller's promise.
        let workspace = unsafe { device_workspace(workspace, batch) }?;
        plan::factored(device, batch, inputs, out, Some(loss), address(gradient), workspace)
    };
    // SAFETY: the caller's promise.
    unsafe { with_loss(batch, inputs, ref_logps, loss, out, pair_outputs, plan) }
}

/// What a workspace serves, in batches of so many pairs, which take nothing of it.
pub(crate) fn capacity(workspace: &dpo_workspace, pairs: usize) -> Capacity {
    let dpo_workspace { sequences, rows, vocab, .. } = *workspace;
    Capacity { sequences, rows, pairs, vocab }
}

/// The workspace of a launch over a batch.
///
/// # Safety
///
/// That of [`logps`].
unsafe fn device_workspace(workspace: *const dpo_workspace, batch: &DeviceBatch) -> Result<Workspace> {
    // SAFETY: the caller's promise.
    let workspace = unsafe { read("workspace", workspace) }?;
    let capacity = Some(capacity(workspace, batch.pair_count()));
    let memory = pointer::<u32>("memory", workspace.memory.cast())?;
    Ok(Workspace { address: address(memory.as_ptr()), capacity })
}

/// `backward`.
///
/// # Safety
///
/// That of [`logps`].
pub(crate) unsafe fn backward(
    device: &Device,
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    gradient: *const dpo_gradient,
) -> Result<Plan> {
    // SAFETY: the caller's promise.
    unsafe {
        let batch = device_batch(batch)?;
        let inputs = device_inputs(inputs)?;
        plan::backward(device, &batch, &inputs, &gradient_buffers(read("gradient", gradient)?)?)
    }
}

pub(super) fn address<T>(pointer: *const T) -> DeviceAddress {
    pointer.addr() as DeviceAddress
}

pub(super) fn optional<T>(pointer: *const T) -> Option<DeviceAddress> {
    (!pointer.is_null()).then(|| address(pointer))
}

fn on_device(batch: Batch<Indices>) -> Result<DeviceBatch> {
    batch.try_map_indices(|Indices { array, .. }| {
        Ok(DeviceArray { address: address(array.pointer), len: array.len })
    })
}

/// # Safety
///
/// That of [`logps`].
unsafe fn device_batch(batch: *const dpo_batch) -> Result<DeviceBatch> {
    // SAFETY: the caller's promise.
    on_device(batch::batch(unsafe { read("batch", batch) }?)?)
}

/// # Safety
///
/// That of [`logps`].
unsafe fn device_inputs(inputs: *const dpo_inputs) -> Result<Inputs> {
    // SAFETY: the caller's promise.
    let inputs = unsafe { read("inputs", inputs) }?;
    Ok(Inputs {
        dtype: dtype("dtype", inputs.dtype)?,
        logits: address(inputs.logits),
        label_type: label_type(inputs.label_type)?,
        labels: address(inputs.labels),
        window: None,
    })
}

/// # Safety
///
/// That of [`logps`].
pub(crate) unsafe fn device_loss<A: IndexArray>(
    loss: *const dpo_loss,
    ref_logps: *const f32,
    batch: &Batch<A>,
) -> Result<(PairLoss, DevicePairInputs)> {
    // SAFETY: the caller's promise.
    unsafe {
        let loss = read("loss", loss)?;
        let inputs = pair_inputs(loss, ref_logps, batch.sequences.count(), batch.pair_count())?;
        let inputs = inputs.map(
            |floats| DeviceArray { address: address(floats.pointer), len: floats.len },
            |counts| DeviceArray { address: address(counts.pointer), len: counts.len },
            address,
        );
        Ok((loss::loss(loss)?, inputs))
    }
}

/// # Safety
///
/// That of [`logps`].
pub(crate) unsafe fn logps_buffers(out: *const dpo_logps) -> Result<LogpsBuffers> {
    // SAFETY: the caller's promise.
    unsafe { results::logps(read("out", out)?) }?.convert(&mut ToDevice)
}

/// # Safety
///
/// That of [`logps`].
pub(crate) unsafe fn pair_buffers(
    argument: &'static str,
    out: *const dpo_pair_outputs,
) -> Result<PairOutputBuffers> {
    // SAFETY: the caller's promise.
    results::pair_outputs(unsafe { read(argument, out) }?).convert(&mut ToDevice)
}

pub(super) fn entropy_buffers(coef: *const f32, entropy: *const f32) -> Result<Option<EntropyBuffers>> {
    let both = both_or_none(optional(coef), optional(entropy))?;
    Ok(both.map(|(coef, entropy)| EntropyBuffers { coef, entropy }))
}

fn gradient_buffers(gradient: &dpo_gradient) -> Result<GradientBuffers> {
    let Numbers { upstream_scale, threshold } = Numbers::of(gradient)?;
    Ok(GradientBuffers {
        logsumexp: address(gradient.logsumexp),
        logsumexp_residual: optional(gradient.logsumexp_residual),
        coef: optional(gradient.coef),
        token_coef: optional(gradient.token_coef),
        entropy: entropy_buffers(gradient.entropy_coef, gradient.entropy)?,
        upstream: optional(gradient.upstream),
        upstream_scale,
        threshold,
        nonfinite_row: optional(gradient.nonfinite_row),
        dlogits: address(gradient.dlogits),
    })
}
