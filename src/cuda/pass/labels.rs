//! Labels in device memory.

use cudarc::driver::CudaSlice;

/// Labels in device memory, one per row.
#[derive(Debug, Clone, Copy)]
pub enum DeviceLabels<'a> {
    /// 32-bit labels.
    I32(&'a CudaSlice<i32>),
    /// 64-bit labels.
    I64(&'a CudaSlice<i64>),
}
