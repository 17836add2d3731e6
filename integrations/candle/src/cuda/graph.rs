//! The loss in candle's graph.

use std::mem::offset_of;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor};
use dpo_kernels::ForwardTensors;
use dpo_kernels::cuda::params::{DpoBatchMetrics, DpoPairMetrics};
use dpo_kernels::cuda::plan::{self, GradientBuffers};

use super::addresses::LockedTensors;
use super::kernels;
use crate::checks;
use crate::logits::Logits;
use crate::targets::Targets;
use crate::tensors::{RECORD_WORDS, Tensors};

/// The loss as a node of candle's graph, from logits to a scalar. The forward pass has been queued: the node carries
/// what the backward pass needs of its results, as tensors, whose addresses are looked up when that is queued.
pub(super) struct DpoLoss {
    targets: Targets,
    vocab: usize,
    stride: usize,
    logsumexp: Tensor,
    logsumexp_residual: Tensor,
    token_weights: Option<Tensor>,
    coef: Tensor,
    /// The words of a [`DpoBatchMetrics`], which has the loss.
    records: Tensor,
}

impl DpoLoss {
    /// Of the results that [a loss asks for](crate::selection::logps_of_loss).
    pub(super) fn new(
        logits: &Logits,
        targets: &Targets,
        out: &ForwardTensors<Tensors>,
        records: Tensor,
    ) -> Self {
        let result = |tensor: &Option<Tensor>| tensor.clone().expect("every loss asks for it");
        DpoLoss {
            targets: targets.clone(),
            vocab: logits.vocab,
            stride: logits.stride,
            logsumexp: result(&out.logps.logsumexp),
            logsumexp_residual: result(&out.logps.logsumexp_residual),
            token_weights: out.logps.token_weights.clone(),
            coef: result(&out.pairs.coef),
            records,
        }
    }
}

impl CustomOp1 for DpoLoss {
    fn name(&self) -> &'static str {
        "dpo-loss"
    }

    fn cpu_fwd(&self, _logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        unreachable!("made for logits on a GPU")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = logits.device.clone();
        let (records, _) = self.records.storage_and_layout();
        let Storage::Cuda(records) = &*records else { unreachable!("made for logits on a GPU") };
        let records = records.as_cuda_slice::<u32>()?;
        // SAFETY: any word is an f32.
        let floats = unsafe { records.transmute::<f32>(RECORD_WORDS) }.expect("as many bytes");
        let at = (offset_of!(DpoBatchMetrics, pairs) + offset_of!(DpoPairMetrics, loss)) / size_of::<f32>();
        let mut loss = device.alloc_zeros::<f32>(1)?;
        device.memcpy_dtod(&floats.slice(at..at + 1), &mut loss)?;
        Ok((CudaStorage::wrap_cuda_slice(loss, device), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        checks::dtype("upstream gradient", upstream, &[DType::F32])?;
        checks::shape("upstream gradient", upstream, &[])?;
        let (_, outer) = logits.dims().split_last().expect("logits have a vocabulary");
        let shape = [outer, &[self.stride]].concat();
        // SAFETY: the kernel fills the vocabulary's columns, and the others are cut off below.
        let dlogits = unsafe { Tensor::empty(shape, logits.dtype(), logits.device())? };

        let locked = LockedTensors::new(logits.device().as_cuda_device()?);
        let batch = self.targets.batch(self.vocab, self.stride, |indices| locked.array(indices))?;
        let inputs = locked.inputs(logits, &self.targets)?;
        let buffers = GradientBuffers {
            logsumexp: locked.address(&self.logsumexp)?,
            logsumexp_residual: Some(locked.address(&self.logsumexp_residual)?),
            coef: Some(locked.address(&self.coef)?),
            token_coef: locked.optional(&self.token_weights)?,
            upstream: Some(locked.address(upstream)?),
            upstream_scale: 1.0,
            threshold: 0.0,
            nonfinite_row: None,
            dlogits: locked.address(&dlogits)?,
        };
        let plan = |device: &_| plan::backward(device, &batch, &inputs, &buffers);
        // SAFETY: all tensors are locked, so that they are live and of the sizes that the batch asks for until the launch
        // is queued, on the stream in whose order candle frees memory; dlogits is this call's own.
        unsafe { kernels::run(locked.device(), plan)? };
        dlogits.narrow(outer.len(), 0, self.vocab).map(Some)
    }
}
