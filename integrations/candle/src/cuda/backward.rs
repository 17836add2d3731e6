//! The gradient by logits on a GPU.

use candle_core::{CudaDevice, Result, Tensor};
use dpo_kernels::cuda::plan::{self, GradientBuffers};

use super::addresses::LockedTensors;
use super::kernels;
use crate::graph::{Coefficients, ForwardPass};
use crate::logits::Logits;

/// Queues `backward`: the gradient by the logits of a pass, in their shape and type. The addresses of what it
/// reads are looked up now, when the forward pass may be long ago.
pub(crate) fn backward(
    device: &CudaDevice,
    logits: &Logits,
    pass: &ForwardPass,
    coef: &Coefficients,
) -> Result<Tensor> {
    let (dtype, on) = (logits.tensor.dtype(), logits.tensor.device());
    // SAFETY: the kernel fills the vocabulary's columns, and the others are cut off below.
    let dlogits = unsafe { Tensor::empty(logits.shape_with_gaps(), dtype, on)? };

    let locked = LockedTensors::new(device);
    let batch = pass.targets.batch(logits.vocab, logits.stride, |indices| locked.array(indices))?;
    let inputs = locked.inputs(&logits.tensor, &pass.targets)?;
    let buffers = GradientBuffers {
        logsumexp: locked.address(&pass.logsumexp)?,
        logsumexp_residual: Some(locked.address(&pass.logsumexp_residual)?),
        coef: locked.optional(&coef.sequences)?,
        token_coef: locked.optional(&coef.tokens)?,
        entropy: None,
        upstream: locked.optional(&coef.upstream)?,
        upstream_scale: 1.0,
        threshold: 0.0,
        nonfinite_row: None,
        dlogits: locked.address(&dlogits)?,
    };
    let plan = |device: &_| plan::backward(device, &batch, &inputs, &buffers);
    // SAFETY: all tensors are locked, so that they are live and of the sizes that the batch asks for until
    // the launch is queued, on the stream in whose order candle frees memory; dlogits is this call's own.
    unsafe { kernels::run(device, plan)? };
    drop(locked);
    logits.without_gaps(dlogits)
}
