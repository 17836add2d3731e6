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
    let (logsumexp, residual) = (vector(&pass.logsumexp)?, vector(&pass.logsumexp_residual)?);
    let logsumexp = Logsumexp { values: &logsumexp, residual: Some(&residual) };
    let sequences = coef.sequences.as_ref().map(vector).transpose()?;
    let tokens = coef.tokens.as_ref().map(vector).transpose()?;
    let upstream = coef.upstream.as_ref().map_or(Ok(1.0), Tensor::to_scalar)?;
    let coef = Coef { sequences: sequences.as_deref(), tokens: tokens.as_deref(), ..Coef::default() };
    let inputs = BackwardInputs::new(logsumexp, coef).with_upstream(upstream);
    with_elements!(logits.tensor, |values| dlogits(logits, values, &host, inputs))
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
pub(super) fn vector(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
