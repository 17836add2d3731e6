//! What a pass leaves on the device, and how it comes to the host: the same for every pass.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DeviceRepr};

use super::read::BatchMetrics;
use crate::cuda::address::{Addresses, DeviceAddress, ForwardBuffers};
use crate::cuda::device::driver;
use crate::cuda::device_buffers::{Allocate, DeviceBuffers, Download, Locate};
use crate::cuda::params::{DPO_NO_TROUBLE, DpoBatchMetrics};
use crate::cuda::plan::EntropyBuffers;
use crate::error::{Error, Result};
use crate::memory::{Extent, Unallocated};
use crate::results::{ForwardTensors, Logps, MetricsLevel, PairOutputs, TokenMetricTensors};
use crate::status::GradientStatus;

/// Results on the device, of a pass over any batch within an extent.
#[derive(Debug)]
pub(super) struct PassResults {
    stream: Arc<CudaStream>,
    pub out: ForwardTensors<DeviceBuffers>,
    pub records: CudaSlice<DpoBatchMetrics>,
    nonfinite_row: CudaSlice<u32>,
    pub metrics: MetricsLevel,
    /// ∂L/∂H of each row, where that is wanted.
    entropy_coef: Option<CudaSlice<f32>>,
}

impl PassResults {
    /// Allocates them, without token metrics.
    pub fn new(allocate: &mut Allocate<'_>) -> Result<Self> {
        let stream = allocate.stream.clone();
        Ok(PassResults {
            out: ForwardTensors::<Unallocated<f32>>::default().convert(allocate)?,
            records: allocate.zeros(1)?,
            nonfinite_row: driver("cuMemcpyHtoDAsync", stream.clone_htod(&[DPO_NO_TROUBLE]))?,
            stream,
            metrics: MetricsLevel::None,
            entropy_coef: None,
        })
    }

    /// Allocates the token metrics of a level.
    pub fn set_token_metrics(&mut self, allocate: &mut Allocate<'_>, level: MetricsLevel) -> Result<()> {
        self.out.logps.metrics = match level {
            MetricsLevel::None => None,
            _ => Some(TokenMetricTensors::<Unallocated<f32>>::default().convert(allocate)?),
        };
        self.metrics = level;
        Ok(())
    }

    /// Allocates coefficients of the rows' entropies, and those where there are none.
    pub fn set_entropy_coef(&mut self, allocate: &mut Allocate<'_>) -> Result<()> {
        if self.metrics == MetricsLevel::None {
            self.set_token_metrics(allocate, MetricsLevel::Entropy)?;
        }
        self.entropy_coef = Some(allocate.zeros(allocate.extent.rows)?);
        Ok(())
    }

    pub fn entropy_coef_mut(&mut self, rows: usize) -> Option<CudaViewMut<'_, f32>> {
        self.entropy_coef.as_mut().map(|coef| coef.slice_mut(..rows))
    }

    pub fn device_entropy(&self, rows: usize) -> Option<CudaView<'_, f32>> {
        self.out.logps.metrics.as_ref().map(|metrics| metrics.entropy.slice(..rows))
    }

    /// Where a backward pass finds coefficients of entropies, if there are any.
    pub fn entropy_buffers(&self) -> Result<Option<EntropyBuffers>> {
        let Some(coef) = &self.entropy_coef else { return Ok(None) };
        let entropy = self.addresses().logps.metrics.and_then(|metrics| metrics.entropy);
        let because = "entropies have coefficients";
        let entropy = entropy.ok_or(Error::Missing { argument: "token_metrics", because })?;
        Ok(Some(EntropyBuffers { coef: coef.device_ptr(&self.stream).0, entropy }))
    }

    /// Where they are: looked up for each launch, since this value owns them and nothing else keeps an address. Of token
    /// metrics, only those of the level asked for.
    pub fn addresses(&self) -> ForwardBuffers {
        let mut locate = Locate { stream: &self.stream, records: &self.records };
        let Ok(mut out) = self.out.convert::<Addresses, _>(&mut locate);
        if self.metrics == MetricsLevel::Entropy {
            out.logps.metrics = out.logps.metrics.map(|metrics| TokenMetricTensors {
                entropy: metrics.entropy,
                ..TokenMetricTensors::default()
            });
        }
        out
    }

    /// Where the first row is named whose gradient is not finite.
    pub fn nonfinite_row(&self) -> DeviceAddress {
        self.nonfinite_row.device_ptr(&self.stream).0
    }

    /// So many numbers of the records, from one of them on.
    pub fn device_records(&self, first: usize, count: usize) -> CudaView<'_, f32> {
        // SAFETY: all records are numbers of 4 bytes, and those from `first` on are f32.
        let words = unsafe { self.records.transmute::<f32>(size_of::<DpoBatchMetrics>() / 4) };
        words.expect("as many bytes").slice(first..first + count)
    }

    pub fn read_metrics(&self) -> Result<BatchMetrics> {
        let records = self.read_records()?;
        Ok(BatchMetrics {
            status: records.status.into(),
            pairs: records.pairs.into(),
            tokens: (self.metrics == MetricsLevel::All).then(|| records.tokens.into()),
        })
    }

    pub fn read_logps(&self, extent: Extent) -> Result<Logps<f32>> {
        self.out.logps.convert(&mut self.download(extent)?)
    }

    pub fn read_pairs(&self, extent: Extent) -> Result<PairOutputs<f32>> {
        self.out.pairs.convert(&mut self.download(extent)?)
    }

    pub fn take_gradient_status(&mut self) -> Result<GradientStatus> {
        let row = self.read(&self.nonfinite_row)?[0];
        driver("cuMemcpyHtoDAsync", self.stream.memcpy_htod(&[DPO_NO_TROUBLE], &mut self.nonfinite_row))?;
        Ok(GradientStatus { nonfinite_row: (row != DPO_NO_TROUBLE).then_some(row as usize) })
    }

    fn download(&self, extent: Extent) -> Result<Download<'_>> {
        Ok(Download { stream: &self.stream, extent, records: self.read_records()? })
    }

    fn read_records(&self) -> Result<DpoBatchMetrics> {
        Ok(self.read(&self.records)?[0])
    }

    fn read<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>> {
        driver("cuMemcpyDtoHAsync", self.stream.clone_dtoh(slice))
    }
}
