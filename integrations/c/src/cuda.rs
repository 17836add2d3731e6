//! The GPU half of the header: plans of [`dpo_kernels::cuda::plan`], launched on the caller's stream. Without the
//! feature `cuda` the same functions are there, and say so.

use std::ffi::c_void;

use crate::failure::guard;
use crate::header::*;

#[cfg(feature = "cuda")]
use self::device::*;

/// Exported functions whose bodies need the feature `cuda`.
macro_rules! exported {
    ($(
        $(#[$attribute:meta])*
        unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block
    )*) => {$(
        /// See the header.
        ///
        /// # Safety
        ///
        /// What the header says of memory, of the handle, and of the stream and its context.
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> dpo_result {
            // SAFETY: the caller's promise.
            #[cfg(feature = "cuda")]
            return guard(|| unsafe { $body });
            #[cfg(not(feature = "cuda"))]
            {
                let _ = ($($argument,)*);
                guard(|| Err(crate::failure::Failure::unsupported()))
            }
        }
    )*};
}

exported! {
    unsafe fn dpo_cuda_load(kernels: *mut *mut dpo_cuda_kernels) {
        let kernels = pointer("kernels", kernels)?;
        let loaded = Kernels::load_current()?;
        kernels.write(Box::into_raw(Box::new(loaded)).cast());
        Ok(())
    }

    unsafe fn dpo_cuda_workspace_size(batch: *const dpo_batch, bytes: *mut usize) {
        let batch = arguments::batch(read("batch", batch)?)?;
        let bytes = pointer("bytes", bytes)?;
        bytes.write(plan::workspace_bytes(&batch)?);
        Ok(())
    }

    unsafe fn dpo_cuda_logps(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        out: *const dpo_logps,
        workspace: *mut c_void,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let batch = on_device(arguments::batch(read("batch", batch)?)?)?;
        let inputs = device_inputs(read("inputs", inputs)?)?;
        let out = logps_buffers(read("out", out)?);
        let launch = plan::forward(kernels.device(), &batch, &inputs, &out, None, address(workspace))?;
        Ok(kernels.launch(&launch, stream.cast())?)
    }

    unsafe fn dpo_cuda_pair_loss(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        logps: *const f32,
        ref_logps: *const f32,
        lengths: *const u32,
        loss: *const dpo_loss,
        out: *const dpo_pair_outputs,
        status: *mut dpo_status,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let batch = on_device(arguments::paired_sequences(read("batch", batch)?)?)?;
        let loss = read("loss", loss)?;
        let buffers = pair_buffers(read("out", out)?, ref_logps, loss, &batch)?;
        let loss = arguments::loss(loss)?;
        let launch = plan::pair_loss(
            &batch.pairs,
            batch.sequences.count(),
            address(logps),
            optional(lengths),
            &loss,
            &buffers,
            address(status),
        )?;
        Ok(kernels.launch(&launch, stream.cast())?)
    }

    unsafe fn dpo_cuda_forward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pairs: *const dpo_pair_outputs,
        workspace: *mut c_void,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let batch = on_device(arguments::batch(read("batch", batch)?)?)?;
        let inputs = device_inputs(read("inputs", inputs)?)?;
        let loss = read("loss", loss)?;
        let out = logps_buffers(read("out", out)?);
        let pairs = pair_buffers(read("pairs", pairs)?, ref_logps, loss, &batch)?;
        let loss = arguments::loss(loss)?;
        let launch = plan::forward(kernels.device(), &batch, &inputs, &out, Some((&loss, &pairs)), address(workspace))?;
        Ok(kernels.launch(&launch, stream.cast())?)
    }

    unsafe fn dpo_cuda_factored(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pairs: *const dpo_pair_outputs,
        gradient: *mut c_void,
        workspace: *mut c_void,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let batch = on_device(arguments::batch(read("batch", batch)?)?)?;
        let inputs = device_inputs(read("inputs", inputs)?)?;
        let loss = read("loss", loss)?;
        let out = logps_buffers(read("out", out)?);
        let pairs = pair_buffers(read("pairs", pairs)?, ref_logps, loss, &batch)?;
        let loss = arguments::loss(loss)?;
        let launch = plan::factored(
            kernels.device(),
            &batch,
            &inputs,
            &out,
            Some((&loss, &pairs)),
            address(gradient),
            address(workspace),
        )?;
        Ok(kernels.launch(&launch, stream.cast())?)
    }

    unsafe fn dpo_cuda_backward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        gradient: *const dpo_gradient,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let batch = on_device(arguments::batch(read("batch", batch)?)?)?;
        let inputs = device_inputs(read("inputs", inputs)?)?;
        let launch = plan::backward(kernels.device(), &batch, &inputs, &gradient_buffers(read("gradient", gradient)?))?;
        Ok(kernels.launch(&launch, stream.cast())?)
    }
}

/// See the header.
///
/// # Safety
///
/// `kernels` is null or came from [`dpo_cuda_load`] and has not been freed; its context exists.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cuda_free(kernels: *mut dpo_cuda_kernels) {
    guard(|| {
        #[cfg(feature = "cuda")]
        if !kernels.is_null() {
            // SAFETY: dpo_cuda_load made it of a box.
            drop(unsafe { Box::from_raw(kernels.cast::<Kernels>()) });
        }
        #[cfg(not(feature = "cuda"))]
        let _ = kernels; // there can be none
        Ok(())
    });
}

/// The header's structs in the plan's terms. Addresses are checked by the plan.
#[cfg(feature = "cuda")]
mod device {
    use dpo_kernels::cuda::plan::{
        DeviceAddress, DeviceArray, DeviceBatch, DevicePairInputs, GradientBuffers, Inputs, LogpsBuffers,
        PairBuffers, TokenMetricsBuffers,
    };
    pub(super) use dpo_kernels::cuda::{Kernels, plan};
    use dpo_kernels::{Batch, Result};

    pub(super) use crate::arguments::{self, pointer, read};
    use crate::arguments::{Indices, dtype, label_type};
    use crate::header::*;

    pub(in crate::cuda) fn address<T>(pointer: *const T) -> DeviceAddress {
        pointer.addr() as DeviceAddress
    }

    pub(in crate::cuda) fn optional<T>(pointer: *const T) -> Option<DeviceAddress> {
        (!pointer.is_null()).then(|| address(pointer))
    }

    fn array<T>(pointer: *const T, len: usize) -> Option<DeviceArray> {
        optional(pointer).map(|address| DeviceArray { address, len })
    }

    /// # Safety
    ///
    /// `kernels` is null or came from [`dpo_cuda_load`](super::dpo_cuda_load), and is not freed during `'a`.
    pub(in crate::cuda) unsafe fn loaded<'a>(kernels: *const dpo_cuda_kernels) -> Result<&'a Kernels> {
        // SAFETY: the caller's promise.
        Ok(unsafe { pointer("kernels", kernels.cast::<Kernels>())?.as_ref() })
    }

    pub(in crate::cuda) fn on_device(batch: Batch<Indices>) -> Result<DeviceBatch> {
        batch.try_map_indices(|array| Ok(DeviceArray { address: address(array.pointer), len: array.len }))
    }

    pub(in crate::cuda) fn device_inputs(inputs: &dpo_inputs) -> Result<Inputs> {
        Ok(Inputs {
            dtype: dtype(inputs)?,
            logits: address(inputs.logits),
            label_type: label_type(inputs)?,
            labels: address(inputs.labels),
        })
    }

    pub(in crate::cuda) fn logps_buffers(out: &dpo_logps) -> LogpsBuffers {
        LogpsBuffers {
            logps: address(out.logps),
            scored: optional(out.scored),
            token_logps: optional(out.token_logps),
            logsumexp: optional(out.logsumexp),
            logsumexp_residual: optional(out.logsumexp_residual),
            token_weights: optional(out.token_weights),
            metrics: TokenMetricsBuffers {
                entropy: optional(out.entropy),
                correct: optional(out.correct),
                mean_logit: optional(out.mean_logit),
                sum_p2: optional(out.sum_p2),
                sequence_log_weights: optional(out.sequence_log_weights),
                means: optional(out.mean_token_metrics),
            },
            status: address(out.status),
        }
    }

    /// # Safety
    ///
    /// `loss.inputs` is null or points to a struct of the size that it says.
    pub(in crate::cuda) unsafe fn pair_buffers(
        out: &dpo_pair_outputs,
        ref_logps: *const f32,
        loss: &dpo_loss,
        batch: &DeviceBatch,
    ) -> Result<PairBuffers> {
        // Arrays are as long as they must be: that is the caller's word.
        let (sequences, pairs) = (batch.sequences.count(), batch.pair_count());
        let ref_logps = array(ref_logps, sequences);
        let inputs = if loss.inputs.is_null() {
            DevicePairInputs { ref_logps, ..DevicePairInputs::NONE }
        } else {
            // SAFETY: the caller's promise.
            let given = unsafe { read("inputs", loss.inputs) }?;
            DevicePairInputs {
                ref_logps,
                lengths: array(given.lengths, sequences),
                beta: array(given.beta, pairs),
                gamma: array(given.gamma, pairs),
                weight: array(given.weight, pairs),
                label_smoothing: array(given.label_smoothing, pairs),
                sequence_log_weights: array(given.sequence_log_weights, sequences),
                kl_logps: array(given.kl_logps, given.kl_count),
                kl_ref_logps: array(given.kl_ref_logps, given.kl_count),
                normalizer: optional(given.normalizer),
                chosen_tokens: optional(given.chosen_tokens),
            }
        };
        Ok(PairBuffers {
            inputs,
            pair_losses: address(out.pair_losses),
            chosen_rewards: address(out.chosen_rewards),
            rejected_rewards: address(out.rejected_rewards),
            margins: address(out.margins),
            coef: address(out.coef),
            metrics: address(out.metrics),
        })
    }

    pub(in crate::cuda) fn gradient_buffers(gradient: &dpo_gradient) -> GradientBuffers {
        GradientBuffers {
            logsumexp: address(gradient.logsumexp),
            logsumexp_residual: optional(gradient.logsumexp_residual),
            coef: optional(gradient.coef),
            token_coef: optional(gradient.token_coef),
            upstream: optional(gradient.upstream),
            upstream_scale: gradient.upstream_scale,
            threshold: gradient.threshold,
            nonfinite_row: optional(gradient.nonfinite_row),
            dlogits: address(gradient.dlogits),
        }
    }
}
