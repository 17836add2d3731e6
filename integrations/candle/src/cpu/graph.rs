//! The loss in candle's graph.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, WithDType};
use dpo_kernels::cpu::{self, Logsumexp};
use dpo_kernels::{Coef, ForwardTensors, Logit};

use super::elements::with_elements;
use super::results::HostArrays;
use super::targets::HostTargets;

/// The loss as a node of candle's graph, from logits to a scalar. The forward pass has been made: the node carries
/// its results, and what the backward pass needs of them.
pub(super) struct DpoLoss {
    targets: HostTargets,
    loss: f32,
    logsumexp: Vec<f32>,
    logsumexp_residual: Vec<f32>,
    token_weights: Option<Vec<f32>>,
    coef: Vec<f32>,
}

impl DpoLoss {
    /// Of the results that [a loss asks for](crate::selection::logps_of_loss).
    pub(super) fn new(targets: HostTargets, out: ForwardTensors<HostArrays>) -> Self {
        let ForwardTensors { logps, pairs } = out;
        let wanted = "every loss asks for it";
        DpoLoss {
            targets,
            loss: pairs.metrics.expect(wanted).loss,
            logsumexp: logps.logsumexp.expect(wanted),
            logsumexp_residual: logps.logsumexp_residual.expect(wanted),
            token_weights: logps.token_weights,
            coef: pairs.coef.expect(wanted),
        }
    }

    fn dlogits<T: Logit + WithDType>(&self, logits: &[T], dims: &[usize], upstream: f32) -> Result<Tensor> {
        let batch = self.targets.batch();
        let mut dlogits = vec![T::zero(); batch.rows() * batch.row_stride];
        let logsumexp = Logsumexp { values: &self.logsumexp, residual: Some(&self.logsumexp_residual) };
        let coef = Coef { tokens: self.token_weights.as_deref(), ..Coef::from(&self.coef) };
        cpu::backward(&batch, logits, self.targets.labels(), logsumexp, coef, upstream, &mut dlogits)?;
        let (_, outer) = dims.split_last().expect("logits have a vocabulary");
        let padded = Tensor::from_vec(dlogits, [outer, &[batch.row_stride]].concat(), &Device::Cpu)?;
        padded.narrow(outer.len(), 0, batch.vocab)
    }
}

impl CustomOp1 for DpoLoss {
    fn name(&self) -> &'static str {
        "dpo-loss"
    }

    fn cpu_fwd(&self, _logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.to_scalar()?;
        with_elements!(logits, |values| self.dlogits(values, logits.dims(), upstream)).map(Some)
    }
}
