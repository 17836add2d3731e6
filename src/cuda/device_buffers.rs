//! Results in cudarc's slices: made, addressed and brought to the host.

use std::mem::offset_of;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, ValidAsZeroBits};

use super::address::{Addresses, DeviceAddress};
use super::device::driver;
use super::params::*;
use crate::error::{Error, Result};
use crate::memory::{Conversion, Extent, Field, Memory, Number, Record, RecordKind, Unallocated, Vectors};
use crate::metrics::{MeanTokenMetrics, PairMetrics};
use crate::status::Status;

/// Arrays in slices of their own. Records are all in one [`DpoBatchMetrics`] beside them.
#[derive(Debug)]
pub(super) enum DeviceBuffers {}

impl Memory for DeviceBuffers {
    type Number = f32;
    type Floats = CudaSlice<f32>;
    type Counts = CudaSlice<u32>;
    type Record<T: Record> = ();
}

// SAFETY: plain numbers, without padding: all are of 4 bytes.
unsafe impl DeviceRepr for DpoBatchMetrics {}
// SAFETY: 0 is a value of each of them.
unsafe impl ValidAsZeroBits for DpoBatchMetrics {}

/// Makes arrays for batches of an extent at most.
pub(super) struct Allocate<'a> {
    pub stream: &'a Arc<CudaStream>,
    pub extent: Extent,
}

impl Allocate<'_> {
    /// Zeros. An allocation of no bytes is an error to the driver: what has no elements has one that is not used.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        driver("cuMemAlloc", self.stream.alloc_zeros(len.max(1)))
    }
}

impl Conversion<Unallocated<f32>, DeviceBuffers> for Allocate<'_> {
    type Error = Error;

    fn floats(&mut self, field: Field, (): &()) -> Result<CudaSlice<f32>> {
        self.zeros(field.shape.len(&self.extent))
    }

    fn counts(&mut self, field: Field, (): &()) -> Result<CudaSlice<u32>> {
        self.zeros(field.shape.len(&self.extent))
    }

    fn record<T: Record>(&mut self, _: &'static str, (): &()) -> Result<()> {
        Ok(())
    }
}

/// Looks up where buffers are, for a launch on their own stream: between streams, cudarc would have to be told.
pub(super) struct Locate<'a> {
    pub stream: &'a Arc<CudaStream>,
    pub records: &'a CudaSlice<DpoBatchMetrics>,
}

impl Conversion<DeviceBuffers, Addresses> for Locate<'_> {
    type Error = std::convert::Infallible;

    fn floats(
        &mut self,
        _: Field,
        from: &CudaSlice<f32>,
    ) -> std::result::Result<Option<DeviceAddress>, Self::Error> {
        Ok(Some(from.device_ptr(self.stream).0))
    }

    fn counts(
        &mut self,
        _: Field,
        from: &CudaSlice<u32>,
    ) -> std::result::Result<Option<DeviceAddress>, Self::Error> {
        Ok(Some(from.device_ptr(self.stream).0))
    }

    fn record<T: Record>(
        &mut self,
        _: &'static str,
        (): &(),
    ) -> std::result::Result<Option<DeviceAddress>, Self::Error> {
        Ok(Some(self.records.device_ptr(self.stream).0 + T::KIND.offset() as DeviceAddress))
    }
}

impl RecordKind {
    /// Bytes from the start of a [`DpoBatchMetrics`] to the record of this kind.
    pub const fn offset(self) -> usize {
        match self {
            RecordKind::Status => offset_of!(DpoBatchMetrics, status),
            RecordKind::PairMetrics => offset_of!(DpoBatchMetrics, pairs),
            RecordKind::MeanTokenMetrics => offset_of!(DpoBatchMetrics, tokens),
        }
    }
}

/// Waits for the stream and brings everything of a batch to the host.
pub(super) struct Download<'a> {
    pub stream: &'a Arc<CudaStream>,
    /// The batch's, which may be smaller than what there is room for.
    pub extent: Extent,
    /// The records, which are there already.
    pub records: DpoBatchMetrics,
}

impl Download<'_> {
    fn array<T: DeviceRepr>(&self, field: Field, from: &CudaSlice<T>) -> Result<Vec<T>> {
        match field.shape.len(&self.extent) {
            // A copy of no bytes is not worth a call.
            0 => Ok(Vec::new()),
            len => driver("cuMemcpyDtoHAsync", self.stream.clone_dtoh(&from.slice(..len))),
        }
    }
}

impl Conversion<DeviceBuffers, Vectors<f32>> for Download<'_> {
    type Error = Error;

    fn floats(&mut self, field: Field, from: &CudaSlice<f32>) -> Result<Vec<f32>> {
        self.array(field, from)
    }

    fn counts(&mut self, field: Field, from: &CudaSlice<u32>) -> Result<Vec<u32>> {
        self.array(field, from)
    }

    fn record<T: Record>(&mut self, _: &'static str, (): &()) -> Result<T> {
        Ok(T::of_batch(&self.records))
    }
}

impl From<DpoStatus> for Status {
    /// From the kernels' word to the host's.
    fn from(status: DpoStatus) -> Self {
        let first = |kind: DpoTrouble| {
            let index = status.first[kind as usize];
            (index != DPO_NO_TROUBLE).then_some(index as usize)
        };
        Status {
            bad_label: first(DPO_BAD_LABEL),
            nonfinite_row: first(DPO_NONFINITE_ROW),
            empty_sequence: first(DPO_EMPTY_SEQUENCE),
            bad_cu_seqlens: first(DPO_BAD_CU_SEQLENS),
            bad_pair: first(DPO_BAD_PAIR),
            bad_pair_input: first(DPO_BAD_PAIR_INPUT),
        }
    }
}

impl<F: Number> From<DpoPairMetrics> for PairMetrics<F> {
    /// From the kernels' words to the host's.
    fn from(metrics: DpoPairMetrics) -> Self {
        PairMetrics {
            pairs: metrics.pairs,
            chosen: metrics.chosen,
            rejected: metrics.rejected,
            loss: metrics.loss.into(),
            chosen_reward: metrics.chosen_reward.into(),
            rejected_reward: metrics.rejected_reward.into(),
            margin: metrics.margin.into(),
            accuracy: metrics.accuracy.into(),
        }
    }
}

impl<F: Number> From<DpoMeanTokenMetrics> for MeanTokenMetrics<F> {
    /// From the kernels' words to the host's.
    fn from(mean: DpoMeanTokenMetrics) -> Self {
        MeanTokenMetrics {
            scored: mean.scored,
            entropy: mean.entropy.into(),
            accuracy: mean.accuracy.into(),
            mean_logit: mean.mean_logit.into(),
            logsumexp: mean.logsumexp.into(),
            sum_p2: mean.sum_p2.into(),
        }
    }
}
