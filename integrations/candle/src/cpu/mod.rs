//! The operation on CPU storage.

mod backward;
mod elements;
mod lm_head;
mod results;
mod targets;

use candle_core::{Result, Tensor};
use dpo_kernels::{ForwardTensors, LogpsTensors, PairLoss, cpu};

pub(crate) use self::backward::backward;
use self::elements::with_elements;
pub(crate) use self::lm_head::{head_backward, head_dpo_loss, head_logps};
use self::results::{Empty, IntoTensors};
pub(crate) use self::targets::HostTargets;
use crate::inputs::CheckedInputs;
use crate::logits::Logits;
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// `logps`: what is wanted of it.
pub(crate) fn logps(
    logits: &Logits,
    targets: &Targets,
    wanted: &LogpsTensors<Selection>,
) -> Result<LogpsTensors<Tensors>> {
    let host = HostTargets::new(targets, logits.vocab, logits.stride)?;
    let Ok(mut out) = wanted.convert(&mut Empty);
    with_elements!(logits.tensor, |values| cpu::logps(&host.batch(), values, host.labels(), &mut out))?;
    out.convert(&mut IntoTensors::new(logits.no_gradient()?, targets))
}

/// The loss, and all results.
pub(crate) fn dpo_loss(
    logits: &Logits,
    targets: &Targets,
    inputs: &CheckedInputs,
    loss: &PairLoss,
    wanted: &LogpsTensors<Selection>,
) -> Result<(Tensor, ForwardTensors<Tensors>)> {
    let host = HostTargets::new(targets, logits.vocab, logits.stride)?;
    let inputs = inputs.as_ref().try_map(|_, t| t.to_vec1(), |_, t| t.to_vec1(), |_, t| t.to_scalar())?;
    let inputs = inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number);
    let (Ok(logps), Ok(pairs)) = (wanted.convert(&mut Empty), selection::pair_outputs().convert(&mut Empty));
    let mut out = ForwardTensors { logps, pairs };
    with_elements!(logits.tensor, |values| {
        cpu::forward(&host.batch(), values, host.labels(), &inputs, loss, &mut out)
    })?;
    let metrics = out.pairs.metrics.as_ref().expect("every loss asks for it");
    let loss = Tensor::new(metrics.loss, logits.tensor.device())?;
    Ok((loss, out.convert(&mut IntoTensors::new(logits.no_gradient()?, targets))?))
}
