//! The operation on CUDA storage: launches on candle's own stream, and the host waits for nothing but a head's labels, where those are
//! on the GPU.

mod addresses;
mod backward;
mod kernels;
mod lm_head;
mod loss;
mod results;

use candle_core::{CudaDevice, DType, Result, Tensor};
use dpo_kernels::cuda::plan::{self, DeviceBatch, LogpsBuffers, PairLossArguments};
use dpo_kernels::{ForwardTensors, LogpsTensors, PairLoss};

use self::addresses::LockedTensors;
pub(crate) use self::backward::backward;
pub(crate) use self::lm_head::{head_backward, head_dpo_loss, head_logps};
use self::loss::LossOfRecords;
use self::results::{Allocate, Locate};
use crate::inputs::CheckedInputs;
use crate::logits::Logits;
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// `logps`: what is wanted of it.
pub(crate) fn logps(
    device: &CudaDevice,
    logits: &Logits,
    targets: &Targets,
    wanted: &LogpsTensors<Selection>,
) -> Result<LogpsTensors<Tensors>> {
    let out = wanted.convert(&mut Allocate::new(logits.tensor.device(), logits.has_gradient(), targets)?)?;
    let locked = LockedTensors::new(device);
    let batch = targets.batch(logits.vocab, logits.stride, |indices| locked.array(indices))?;
    forward(&locked, logits, targets, &batch, &out.convert(&mut Locate { device })?, None)?;
    Ok(out)
}

/// The loss, and all results.
pub(crate) fn dpo_loss(
    device: &CudaDevice,
    logits: &Logits,
    targets: &Targets,
    inputs: &CheckedInputs,
    loss: &PairLoss,
    wanted: &LogpsTensors<Selection>,
) -> Result<(Tensor, ForwardTensors<Tensors>)> {
    let mut allocate = Allocate::new(logits.tensor.device(), logits.has_gradient(), targets)?;
    let logps = wanted.convert(&mut allocate)?;
    let pairs = selection::pair_outputs().convert(&mut allocate)?;
    let out = ForwardTensors { logps, pairs };

    let locked = LockedTensors::new(device);
    let batch = targets.batch(logits.vocab, logits.stride, |indices| locked.array(indices))?;
    let buffers = out.convert(&mut Locate { device })?;
    let arguments = PairLossArguments { loss, inputs: locked.pair_inputs(inputs)?, out: &buffers.pairs };
    forward(&locked, logits, targets, &batch, &buffers.logps, Some(&arguments))?;
    Ok((allocate.records().apply_op1_no_bwd(&LossOfRecords)?, out))
}

/// Queues `logps`, and `pair_loss` where there is a loss.
fn forward<'a>(
    locked: &LockedTensors<'a>,
    logits: &'a Logits,
    targets: &'a Targets,
    batch: &DeviceBatch,
    out: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
) -> Result<()> {
    let words = plan::workspace_bytes(batch)?.div_ceil(4);
    let workspace = Tensor::zeros(words, DType::U32, logits.tensor.device())?;
    let workspace = addresses::address(&workspace, locked.device())?;
    let inputs = locked.inputs(&logits.tensor, targets)?;
    let plan = |device: &_| plan::forward(device, batch, &inputs, out, loss, workspace);
    // SAFETY: what is read is locked, so that it is live and of the size that the batch asks for until the
    // launch is queued; what is written was made for this call, in sizes of the same batch, and nobody else
    // has it. candle frees memory in the order of the stream that the launch is queued on, so that nothing is
    // freed before it has run.
    unsafe { kernels::run(locked.device(), plan) }
}
