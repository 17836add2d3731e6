//! Where a pass has the index arrays of its batch.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::batch::HostBatch;
use crate::cuda::address::DeviceAddress;
use crate::cuda::device::{check_not_captured, driver};
use crate::cuda::device_buffers::Allocate;
use crate::cuda::plan::{DeviceBatch, LmHeadRows, pack_index_arrays};
use crate::error::Result;

/// Device memory for the index arrays of any batch within a capacity.
#[derive(Debug)]
pub(super) struct IndexBuffer {
    on_device: CudaSlice<i32>,
    /// What is copied there, kept so that no batch after the first allocates. The driver has copied it
    /// elsewhere when its call returns, since this memory is not pinned.
    entries: Vec<i32>,
}

impl IndexBuffer {
    pub fn new(allocate: &Allocate<'_>, len: usize) -> Result<Self> {
        Ok(IndexBuffer { on_device: allocate.zeros(len)?, entries: Vec::with_capacity(len) })
    }

    /// Where the entries are, for launches on a stream.
    pub fn address(&self, stream: &Arc<CudaStream>) -> DeviceAddress {
        self.on_device.device_ptr(stream).0
    }

    /// Checks a batch within the capacity and copies its index arrays here, all by one copy, after what
    /// `stream` has to do. They take the place of the last batch's only where no error is returned.
    pub fn load(&mut self, stream: &Arc<CudaStream>, batch: &HostBatch<'_>) -> Result<DeviceBatch> {
        let batch = pack_index_arrays(batch, self.address(stream), &mut self.entries)?;
        copy(stream, &self.entries, &mut self.on_device)?;
        Ok(batch)
    }

    /// The same with the entries of scored rows.
    pub fn load_rows(&mut self, stream: &Arc<CudaStream>, rows: &LmHeadRows) -> Result<()> {
        copy(stream, rows.entries(), &mut self.on_device)
    }
}

/// Copies entries to the device, unless the stream is being captured.
fn copy(stream: &Arc<CudaStream>, entries: &[i32], to: &mut CudaSlice<i32>) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    check_not_captured(driver("cuStreamIsCapturing", stream.capture_status())?)?;
    driver("cuMemcpyHtoDAsync", stream.memcpy_htod(entries, to))
}
