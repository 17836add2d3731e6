//! The operation on CPU storage.

mod elements;
mod graph;
mod results;
mod targets;

use candle_core::{Result, Tensor};
use dpo_kernels::{ForwardTensors, LogpsTensors, PairLoss, cpu};

use self::elements::with_elements;
use self::graph::DpoLoss;
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
    out.convert(&mut IntoTensors { targets })
}

/// The loss as a node of candle's graph, and all results.
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
    let tensors = out.convert(&mut IntoTensors { targets })?;
    let node = DpoLoss::new(host, out);
    Ok((logits.tensor.apply_op1(node)?, tensors))
}
