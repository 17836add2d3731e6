//! The loss among what a pass writes of a batch.

use std::mem::offset_of;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Error, Layout, Result, Shape};
use dpo_kernels::cuda::params::{DpoBatchMetrics, DpoPairMetrics};

use crate::tensors::RECORD_WORDS;

/// Copies the loss, a scalar, out of the words of a [`DpoBatchMetrics`].
pub(super) struct LossOfRecords;

impl CustomOp1 for LossOfRecords {
    fn name(&self) -> &'static str {
        "dpo-loss"
    }

    fn cpu_fwd(&self, _records: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::msg("expected records in the memory of a GPU"))
    }

    fn cuda_fwd(&self, records: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = records.device.clone();
        let records = records.as_cuda_slice::<u32>()?;
        // SAFETY: any word is an f32.
        let floats = unsafe { records.transmute::<f32>(RECORD_WORDS) }.expect("as many bytes");
        let at = (offset_of!(DpoBatchMetrics, pairs) + offset_of!(DpoPairMetrics, loss)) / size_of::<f32>();
        let mut loss = device.alloc_zeros::<f32>(1)?;
        device.memcpy_dtod(&floats.slice(at..at + 1), &mut loss)?;
        Ok((CudaStorage::wrap_cuda_slice(loss, device), Shape::from(())))
    }
}
