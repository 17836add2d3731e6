//! What a pass is given in cudarc's slices.

use cudarc::driver::CudaSlice;

use crate::loss::PairTensors;

/// Labels in device memory, one per row.
#[derive(Debug, Clone, Copy)]
pub enum DeviceLabels<'a> {
    /// 32-bit labels.
    I32(&'a CudaSlice<i32>),
    /// 64-bit labels.
    I64(&'a CudaSlice<i64>),
}

/// [`PairTensors`] in cudarc's slices; single numbers are `[1]`.
///
/// Only the kernels see the values: see [`DevicePairInputs`](crate::cuda::plan::DevicePairInputs).
pub type PairSlices<'a> = PairTensors<&'a CudaSlice<f32>, &'a CudaSlice<u32>, &'a CudaSlice<f32>>;
