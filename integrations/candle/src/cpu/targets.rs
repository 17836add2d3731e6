//! Targets in host memory.

use candle_core::{DType, Device, Result};
use dpo_kernels::{Batch, HostBatch, Labels};

use crate::targets::Targets;

/// Targets in host memory, with the shape of the logits they are for.
pub(crate) struct HostTargets {
    labels: Vec<i64>,
    indices: Vec<Vec<i32>>,
    /// An index array is its place in `indices`.
    batch: Batch<usize>,
}

impl HostTargets {
    pub(crate) fn new(targets: &Targets, vocab: usize, stride: usize) -> Result<Self> {
        let mut indices = Vec::new();
        let batch = targets.batch(vocab, stride, |array| {
            indices.push(match array.dtype() {
                DType::I32 => array.to_vec1()?,
                // As the kernels read them: beyond i32 is negative, and refused as such.
                _ => array.to_vec1::<u32>()?.into_iter().map(|index| index as i32).collect(),
            });
            Ok(indices.len() - 1)
        })?;
        // (candle converts to i64 on the CPU alone.)
        let labels =
            targets.labels.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::I64)?.to_vec1()?;
        Ok(HostTargets { labels, indices, batch })
    }

    pub(crate) fn labels(&self) -> Labels<'_> {
        self.labels[..].into()
    }

    pub(crate) fn batch(&self) -> HostBatch<'_> {
        self.batch.try_map_indices(|&place| Ok(&self.indices[place][..])).expect("every place has an array")
    }
}
