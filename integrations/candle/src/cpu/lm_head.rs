//! The head on CPU storage.

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
use dpo_kernels::{ForwardTensors, LmHead, LmHeadGradients, Logit, LogpsTensors, PairLoss};
use half::{bf16, f16};

use super::backward::HostBackward;
use super::results::{Empty, HostArrays, IntoTensors};
use super::targets::HostTargets;
use crate::graph::{Coefficients, ForwardPass};
use crate::head_graph::HeadGradients;
use crate::inputs::CheckedInputs;
use crate::lm_head::{CheckedHead, HeadLoss};
use crate::no_gradient::NoGradient;
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// `$function::<T>($arguments)` for the type of the hidden states.
macro_rules! by_dtype {
    ($head:expr, $function:ident($($argument:expr),*)) => {
        match $head.hidden.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F16 => $function::<f16>($($argument),*),
            DType::BF16 => $function::<bf16>($($argument),*),
            _ => unreachable!("hidden states are f32, f16 or bf16"),
        }
    };
}

/// `logps`: what is wanted of it.
pub(crate) fn head_logps(
    head: &CheckedHead,
    targets: &Targets,
    wanted: &LogpsTensors<Selection>,
) -> Result<LogpsTensors<Tensors>> {
    let host = HostTargets::new(targets, head.vocab(), head.vocab())?;
    let Ok(mut out) = wanted.convert(&mut Empty);
    by_dtype!(head, logps_of(head, &host, &mut out))?;
    let no_gradient = NoGradient::new(head.hidden.device(), head.has_gradient())?;
    out.convert(&mut IntoTensors::new(no_gradient, targets))
}

fn logps_of<T: Logit + WithDType>(
    head: &CheckedHead,
    host: &HostTargets,
    out: &mut LogpsTensors<HostArrays>,
) -> Result<()> {
    let mut workspace = workspace(head);
    with_head::<T, _>(head, |head| {
        Ok(lm_head::logps(&host.batch(), head, host.labels(), out, &mut workspace)?)
    })
}

/// The loss, all results, and gradients where they lead to a variable.
pub(crate) fn head_dpo_loss(
    head: &CheckedHead,
    targets: &Targets,
    inputs: &CheckedInputs,
    loss: &PairLoss,
    wanted: &LogpsTensors<Selection>,
) -> Result<HeadLoss> {
    by_dtype!(head, loss_of(head, targets, inputs, loss, wanted))
}

fn loss_of<T: Logit + WithDType>(
    head: &CheckedHead,
    targets: &Targets,
    inputs: &CheckedInputs,
    loss: &PairLoss,
    wanted: &LogpsTensors<Selection>,
) -> Result<HeadLoss> {
    let host = HostTargets::new(targets, head.vocab(), head.vocab())?;
    let inputs = inputs.as_ref().try_map(|_, t| t.to_vec1(), |_, t| t.to_vec1(), |_, t| t.to_scalar())?;
    let inputs = inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number);
    let (Ok(logps), Ok(pairs)) = (wanted.convert(&mut Empty), selection::pair_outputs().convert(&mut Empty));
    let mut out = ForwardTensors { logps, pairs };
    let mut workspace = workspace(head);
    let now = <T as Logit>::DTYPE != dpo_kernels::DType::F16;
    let mut buffers = Buffers::<T>::of(head, now);
    with_head::<T, _>(head, |head| {
        let (batch, labels) = (host.batch(), host.labels());
        let mut gradients = buffers.gradients();
        lm_head::forward(&batch, head, labels, &inputs, loss, &mut out, &mut gradients, &mut workspace)?;
        Ok(())
    })?;
    let metrics = out.pairs.metrics.as_ref().expect("every loss asks for it");
    let loss = Tensor::new(metrics.loss, head.hidden.device())?;
    let no_gradient = NoGradient::new(head.hidden.device(), head.has_gradient())?;
    let out = out.convert(&mut IntoTensors::new(no_gradient, targets))?;
    Ok(HeadLoss { loss, out, gradients: now.then(|| buffers.tensors(head)).transpose()? })
}

/// The gradients of a pass, from logits that are made again.
pub(crate) fn head_backward(
    head: &CheckedHead,
    pass: &ForwardPass,
    coef: &Coefficients,
) -> Result<HeadGradients> {
    by_dtype!(head, backward_of(head, pass, coef))
}

fn backward_of<T: Logit + WithDType>(
    head: &CheckedHead,
    pass: &ForwardPass,
    coef: &Coefficients,
) -> Result<HeadGradients> {
    let host = HostTargets::new(&pass.targets, head.vocab(), head.vocab())?;
    let inputs = HostBackward::new(pass, coef)?;
    let mut workspace = workspace(head);
    let mut buffers = Buffers::<T>::of(head, true);
    with_head::<T, _>(head, |head| {
        let mut gradients = buffers.gradients();
        lm_head::backward(
            &host.batch(),
            head,
            host.labels(),
            inputs.inputs(),
            &mut gradients,
            &mut workspace,
        )?;
        Ok(())
    })?;
    buffers.tensors(head)
}

fn workspace(head: &CheckedHead) -> LmHeadWorkspace {
    head.budget_bytes.map_or_else(LmHeadWorkspace::default, LmHeadWorkspace::new)
}

/// Gradients by what leads to a variable.
struct Buffers<T> {
    hidden: Option<Vec<T>>,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl<T: Logit + WithDType> Buffers<T> {
    /// Zeros, if gradients are to be made now.
    fn of(head: &CheckedHead, now: bool) -> Self {
        let len = |tensor: &Tensor| (now && tensor.track_op()).then(|| tensor.elem_count());
        let zeros = |len: usize| vec![0.0; len];
        Buffers {
            hidden: len(&head.hidden).map(|len| vec![T::zero(); len]),
            weight: len(&head.weight).map(zeros),
            bias: head.bias.as_ref().and_then(len).map(zeros),
        }
    }

    fn gradients(&mut self) -> LmHeadGradients<'_, T> {
        LmHeadGradients {
            hidden: self.hidden.as_deref_mut(),
            weight: self.weight.as_deref_mut(),
            bias: self.bias.as_deref_mut(),
            upstream: 1.0,
        }
    }

    fn tensors(self, head: &CheckedHead) -> Result<HeadGradients> {
        let hidden = self.hidden.map(|values| Tensor::from_vec(values, head.hidden.shape(), &Device::Cpu));
        let weight = self.weight.map(|values| Tensor::from_vec(values, head.weight.shape(), &Device::Cpu));
        let bias = self.bias.map(|values| Tensor::from_vec(values, head.vocab(), &Device::Cpu));
        Ok([hidden.transpose()?, weight.transpose()?, bias.transpose()?])
    }
}

/// Calls `pass` with the elements of a head, where they lie.
fn with_head<T: Logit + WithDType, R>(
    head: &CheckedHead,
    pass: impl FnOnce(&LmHead<'_, T>) -> Result<R>,
) -> Result<R> {
    let hidden_size = head.hidden_size();
    with_elements(&head.hidden, |hidden| {
        with_elements(&head.weight, |weight| match &head.bias {
            Some(bias) => {
                with_elements(bias, |bias| pass(&LmHead { hidden_size, hidden, weight, bias: Some(bias) }))
            }
            None => pass(&LmHead { hidden_size, hidden, weight, bias: None }),
        })
    })
}

/// Calls `f` with the elements of a contiguous tensor.
fn with_elements<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("a head on the CPU") };
    let start = layout.start_offset();
    f(&T::cpu_storage_as_slice(storage)?[start..start + layout.shape().elem_count()])
}
