//! A batch in device memory, and in the kernels' terms.

use crate::batch::Batch;
use crate::cuda::address::{DeviceAddress, DeviceArray, address};
use crate::cuda::params::DpoBatch;
use crate::dtype::DType;
use crate::error::Result;
use crate::labels::{LabelAlignment, LabelType};
use crate::sequences::Sequences;

/// A batch whose index arrays are in device memory.
///
/// Their entries are checked by the kernels, and trouble is reported in the status.
pub type DeviceBatch = Batch<DeviceArray>;

/// What `logps` and `backward` read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// Element type of the logits.
    pub dtype: DType,
    /// `[rows, vocab]`, aligned to the element type.
    pub logits: DeviceAddress,
    /// Element type of the labels.
    pub label_type: LabelType,
    /// `[rows]`, aligned to the element type.
    pub labels: DeviceAddress,
}

/// A checked batch in the kernels' terms. Counts fit: `validate_shape` bounds them by 2³¹.
pub(super) fn kernel_batch(batch: &DeviceBatch, inputs: &Inputs) -> Result<DpoBatch> {
    batch.validate_shape()?;
    let label_bytes = match inputs.label_type {
        LabelType::I32 => 4,
        LabelType::I64 => 8,
    };
    let (cu_seqlens, sequence_len) = match batch.sequences {
        Sequences::Padded { len, .. } => (0, len as u32),
        Sequences::Packed { cu_seqlens, .. } => (address("cu_seqlens", 4, cu_seqlens.address)?, 0),
    };
    Ok(DpoBatch {
        labels: address("labels", label_bytes, inputs.labels)?,
        cu_seqlens,
        row_stride: batch.row_stride as i64,
        ignore_index: batch.ignore_index,
        rows: batch.rows() as u32,
        vocab: batch.vocab as u32,
        columns: batch.columns() as u32,
        sequences: batch.sequences.count() as u32,
        sequence_len,
        label_bytes: label_bytes as u32,
        next_token: u32::from(batch.label_alignment == LabelAlignment::NextToken),
        scale: batch.transform.scale,
        softcap: batch.transform.softcap.unwrap_or(0.0),
        softcap_power: batch.transform.softcap.map_or(0.0, |cap| {
            let power = 2.0 * std::f64::consts::LOG2_E * f64::from(batch.transform.scale) / f64::from(cap);
            power as f32
        }),
    })
}
