//! The gradient by logits on the CPU.

use candle_core::{Device, Result, Tensor, WithDType};
use dpo_kernels::cpu::{self, BackwardInputs, Logsumexp};
use dpo_kernels::{Coef, Logit};

use super::elements::with_elements;
use super::targets::HostTargets;
use crate::graph::{Coefficients, ForwardPass};
use crate::logits::Logits;

/// `backward`: the gradient by the logits of a pass, in their shape and type.
pub(crate) fn backward(logits: &Logits, pass: &ForwardPass, coef: &Coefficients) -> Result<Tensor> {
    let host = HostTargets::new(&pass.targets, logits.vocab, logits.stride)?;
    let inputs = HostBackward::new(pass, coef)?;
    with_elements!(logits.tensor, |values| dlogits(logits, values, &host, inputs.inputs()))
}

/// What `backward` is given besides logits and labels, in host memory.
pub(super) struct HostBackward {
    logsumexp: Vec<f32>,
    residual: Vec<f32>,
    sequences: Option<Vec<f32>>,
    tokens: Option<Vec<f32>>,
    upstream: f32,
}

impl HostBackward {
    pub fn new(pass: &ForwardPass, coef: &Coefficients) -> Result<Self> {
        Ok(HostBackward {
            logsumexp: vector(&pass.logsumexp)?,
            residual: vector(&pass.logsumexp_residual)?,
            sequences: coef.sequences.as_ref().map(vector).transpose()?,
            tokens: coef.tokens.as_ref().map(vector).transpose()?,
            upstream: coef.upstream.as_ref().map_or(Ok(1.0), Tensor::to_scalar)?,
        })
    }

    pub fn inputs(&self) -> BackwardInputs<'_> {
        let logsumexp = Logsumexp { values: &self.logsumexp, residual: Some(&self.residual) };
        let (sequences, tokens) = (self.sequences.as_deref(), self.tokens.as_deref());
        BackwardInputs::new(logsumexp, Coef { sequences, tokens, ..Coef::default() })
            .with_upstream(self.upstream)
    }
}

fn dlogits<T: Logit + WithDType>(
    logits: &Logits,
    values: &[T],
    host: &HostTargets,
    inputs: BackwardInputs<'_>,
) -> Result<Tensor> {
    let batch = host.batch();
    let mut dlogits = vec![T::zero(); batch.rows() * batch.row_stride];
    cpu::backward(&batch, values, host.labels(), inputs, &mut dlogits)?;
    logits.without_gaps(Tensor::from_vec(dlogits, logits.shape_with_gaps(), &Device::Cpu)?)
}

/// The elements of a tensor in f32, whatever its shape.
fn vector(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
