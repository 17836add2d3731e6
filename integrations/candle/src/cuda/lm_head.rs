//! The head on CUDA storage: plans with products, on candle's own stream.

use candle_core::{CudaDevice, DType, Result, Tensor};
use dpo_kernels::cuda::plan::{
    self, Capacity, DeviceAddress, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, LmHeadMemory,
    LmHeadRows, LmHeadWorkspace, PairLossArguments,
};
use dpo_kernels::{ForwardTensors, LogpsTensors, PairLoss};

use super::addresses::{LockedTensors, address, element_type};
use super::kernels;
use super::loss::LossOfRecords;
use super::results::{Allocate, Locate};
use crate::cpu::HostTargets;
use crate::graph::{Coefficients, ForwardPass};
use crate::head_graph::HeadGradients;
use crate::inputs::CheckedInputs;
use crate::lm_head::{CheckedHead, HeadLoss};
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// `logps`: what is wanted of it.
pub(crate) fn head_logps(
    device: &CudaDevice,
    head: &CheckedHead,
    targets: &Targets,
    wanted: &LogpsTensors<Selection>,
) -> Result<LogpsTensors<Tensors>> {
    let out = wanted.convert(&mut Allocate::new(head.hidden.device(), head.has_gradient(), targets)?)?;
    let pass = Pass::new(device, head, targets)?;
    let locked = LockedTensors::new(device);
    let on_device = pass.head(&locked)?;
    let buffers = out.convert(&mut Locate { device })?;
    let none = DeviceLmHeadGradients::default();
    let plan = |device: &_| {
        let Pass { rows, entries, workspace, .. } = &pass;
        plan::lm_head(device, rows, *entries, head.vocab(), &on_device, &buffers, None, &none, workspace)
    };
    // SAFETY: what is read is locked, so that it is live and of the size that the batch asks for until the steps are queued;
    // what is written was made for this call, in sizes of the same batch, and nobody else has it. candle frees memory in the order
    // of the stream that the steps are queued on, so that nothing is freed before they have run.
    unsafe { kernels::run_with_products(device, plan)? };
    Ok(out)
}

/// The loss, all results, and gradients where they lead to a variable.
pub(crate) fn head_dpo_loss(
    device: &CudaDevice,
    head: &CheckedHead,
    targets: &Targets,
    inputs: &CheckedInputs,
    loss: &PairLoss,
    wanted: &LogpsTensors<Selection>,
) -> Result<HeadLoss> {
    let mut allocate = Allocate::new(head.hidden.device(), head.has_gradient(), targets)?;
    let logps = wanted.convert(&mut allocate)?;
    let pairs = selection::pair_outputs().convert(&mut allocate)?;
    let out = ForwardTensors { logps, pairs };
    let pass = Pass::new(device, head, targets)?;
    let now = head.hidden.dtype() != DType::F16;
    let gradients = if now { gradients_of(head)? } else { HeadGradients::default() };

    let locked = LockedTensors::new(device);
    let on_device = pass.head(&locked)?;
    let buffers = out.convert(&mut Locate { device })?;
    let arguments = PairLossArguments { loss, inputs: locked.pair_inputs(inputs)?, out: &buffers.pairs };
    let to = locate(&gradients, device)?;
    let plan = |device: &_| {
        let (Pass { rows, entries, workspace, .. }, loss) = (&pass, Some(&arguments));
        plan::lm_head(device, rows, *entries, head.vocab(), &on_device, &buffers.logps, loss, &to, workspace)
    };
    // SAFETY: as in `head_logps`.
    unsafe { kernels::run_with_products(device, plan)? };
    drop(locked);
    let loss = allocate.records().apply_op1_no_bwd(&LossOfRecords)?;
    Ok(HeadLoss { loss, out, gradients: now.then_some(gradients) })
}

/// The gradients of a pass, from logits that are made again.
pub(crate) fn head_backward(
    device: &CudaDevice,
    head: &CheckedHead,
    forward: &ForwardPass,
    coef: &Coefficients,
) -> Result<HeadGradients> {
    let pass = Pass::new(device, head, &forward.targets)?;
    let gradients = gradients_of(head)?;
    let locked = LockedTensors::new(device);
    let on_device = pass.head(&locked)?;
    let inputs = DeviceLmHeadCoef {
        logsumexp: locked.address(&forward.logsumexp)?,
        logsumexp_residual: Some(locked.address(&forward.logsumexp_residual)?),
        coef: locked.optional(&coef.sequences)?,
        token_coef: locked.optional(&coef.tokens)?,
        entropy: None,
        threshold: 0.0,
    };
    let upstream = locked.optional(&coef.upstream)?;
    let to = DeviceLmHeadGradients { upstream, ..locate(&gradients, device)? };
    let plan = |device: &_| {
        let Pass { rows, entries, workspace, .. } = &pass;
        plan::lm_head_backward(device, rows, *entries, head.vocab(), &on_device, &inputs, &to, workspace)
    };
    // SAFETY: as in `head_logps`.
    unsafe { kernels::run_with_products(device, plan)? };
    drop(locked);
    Ok(gradients)
}

/// What every pass through a head has of its own.
struct Pass<'a> {
    head: &'a CheckedHead,
    rows: LmHeadRows,
    entries: DeviceAddress,
    workspace: LmHeadWorkspace,
    /// Where the entries and the workspace are, which nobody else has.
    _memory: [Tensor; 2],
}

impl<'a> Pass<'a> {
    /// The scored rows, which the host has to know, and memory for a chunk of them.
    fn new(device: &CudaDevice, head: &'a CheckedHead, targets: &Targets) -> Result<Self> {
        let host = HostTargets::new(targets, head.vocab(), head.vocab())?;
        let rows = LmHeadRows::new(&host.batch(), host.labels())?;
        let memory = head_memory(head, rows.capacity());
        let on = head.hidden.device();
        let entries = Tensor::from_slice(rows.entries(), rows.entries().len(), on)?;
        let words = memory.workspace_bytes()?.div_ceil(size_of::<u32>());
        let workspace = Tensor::zeros(words, DType::U32, on)?;
        Ok(Pass {
            head,
            rows,
            entries: address(&entries, device)?,
            workspace: LmHeadWorkspace { address: address(&workspace, device)?, memory },
            _memory: [entries, workspace],
        })
    }

    /// Hidden states, weight and bias, locked.
    fn head(&self, locked: &LockedTensors<'a>) -> Result<DeviceLmHead> {
        let CheckedHead { hidden, weight, bias, .. } = self.head;
        Ok(DeviceLmHead {
            dtype: element_type(hidden),
            hidden_size: self.head.hidden_size(),
            hidden: locked.address(hidden)?,
            weight: locked.address(weight)?,
            bias: locked.optional(bias)?,
        })
    }
}

fn head_memory(head: &CheckedHead, capacity: Capacity) -> LmHeadMemory {
    let memory = LmHeadMemory::new(capacity, element_type(&head.hidden), head.hidden_size());
    LmHeadMemory { budget_bytes: head.budget_bytes.unwrap_or(memory.budget_bytes), ..memory }
}

/// Tensors for the gradients of what leads to a variable: zeros, to which those of weight and bias are added.
fn gradients_of(head: &CheckedHead) -> Result<HeadGradients> {
    let zeros = |tensor: &Tensor, dtype| {
        let wanted = tensor.track_op();
        wanted.then(|| Tensor::zeros(tensor.shape(), dtype, tensor.device())).transpose()
    };
    let bias = head.bias.as_ref().map(|bias| zeros(bias, DType::F32)).transpose()?;
    Ok([zeros(&head.hidden, head.hidden.dtype())?, zeros(&head.weight, DType::F32)?, bias.flatten()])
}

fn locate(gradients: &HeadGradients, device: &CudaDevice) -> Result<DeviceLmHeadGradients> {
    let at = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| address(tensor, device)).transpose();
    let [hidden, weight, bias] = gradients;
    Ok(DeviceLmHeadGradients {
        hidden: at(hidden)?,
        weight: at(weight)?,
        bias: at(bias)?,
        ..DeviceLmHeadGradients::default()
    })
}
