//! A batch in device memory, and in the kernels' terms.

use super::window::RowWindow;
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
    /// `[rows, vocab]`, aligned to the element type; of the rows of `window` alone, where there is one.
    pub logits: DeviceAddress,
    /// Element type of the labels.
    pub label_type: LabelType,
    /// `[rows]`, aligned to the element type.
    pub labels: DeviceAddress,
    /// The rows that are to be gone through; `None` is all of them.
    pub window: Option<RowWindow>,
}

/// A checked batch in the kernels' terms, with the window of the launch. Counts fit: `validate_shape` bounds them by 2³¹.
pub(super) fn kernel_batch(batch: &DeviceBatch, inputs: &Inputs) -> Result<(DpoBatch, RowWindow)> {
    batch.validate_shape()?;
    let rows = batch.rows();
    let window = inputs.window.unwrap_or(RowWindow { first: 0, end: rows }).within(rows)?;
    let label_bytes = match inputs.label_type {
        LabelType::I32 => 4,
        LabelType::I64 => 8,
    };
    let (cu_seqlens, sequence_len) = match batch.sequences {
        Sequences::Padded { len, .. } => (0, len as u32),
        Sequences::Packed { cu_seqlens, .. } => (address("cu_seqlens", 4, cu_seqlens.address)?, 0),
    };
    let kernel_batch = DpoBatch {
        labels: address("labels", label_bytes, inputs.labels)?,
        cu_seqlens,
        row_stride: batch.row_stride as i64,
        ignore_index: batch.ignore_index,
        rows: rows as u32,
        first_row: window.first as u32,
        end_row: window.end as u32,
        vocab: batch.vocab as u32,
        columns: batch.columns() as u32,
        sequences: batch.sequences.count() as u32,
        sequence_len,
        label_bytes: label_bytes as u32,
        next_token: u32::from(batch.label_alignment == LabelAlignment::NextToken),
        scale: batch.transform.scale,
        scale_log2: f64::from(batch.transform.scale).log2() as f32,
        softcap: batch.transform.softcap.unwrap_or(0.0),
        softcap_power: batch.transform.softcap.map_or(0.0, |cap| {
            let power = 2.0 * std::f64::consts::LOG2_E * f64::from(batch.transform.scale) / f64::from(cap);
            power as f32
        }),
    };
    Ok((kernel_batch, window))
}

/// The logits' address as the kernels take it: see [`RowWindow::row_0`].
pub(super) fn logits_address(
    batch: &DeviceBatch,
    inputs: &Inputs,
    window: RowWindow,
) -> Result<DeviceAddress> {
    let logits = address("logits", inputs.dtype.size(), inputs.logits)?;
    Ok(window.row_0(logits, batch.row_stride * inputs.dtype.size()))
}

/// The address of the logits' gradient as the kernels take it.
pub(super) fn gradient_address(
    batch: &DeviceBatch,
    inputs: &Inputs,
    window: RowWindow,
    argument: &'static str,
    gradient: DeviceAddress,
) -> Result<DeviceAddress> {
    let gradient = address(argument, inputs.dtype.size(), gradient)?;
    batch.check_gradient_of_rows(argument, window.rows(), inputs.dtype, inputs.logits, gradient)?;
    Ok(window.row_0(gradient, batch.row_stride * inputs.dtype.size()))
}
