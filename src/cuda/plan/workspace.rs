//! What a forward launch needs of the caller beside its results.

use std::mem::size_of;

use super::capacity::Capacity;
use crate::batch::Batch;
use crate::cuda::address::{DeviceAddress, address};
use crate::cuda::params::{DpoProgress, DpoSliceSum, DpoTokenMetricSums};
use crate::cuda::tuning::{MOST_DIVIDED_ROWS, most_slice_sums};
use crate::error::{Error, Result};
use crate::sequences::IndexArray;

/// The workspace of a forward launch: memory of the caller's, with what blocks count and pass on to each
/// other.
///
/// It is zeroed once, after allocation. A launch finds its counters at zero and leaves them so, but leaves
/// anything behind them, and where they end depends on what the workspace is laid out for:
///
/// - An address alone, which turns into a workspace by itself, is laid out for the batch of the launch, and
///   has [`workspace_bytes`]. Before a launch over a batch with other numbers of sequences or rows, it is
///   zeroed again.
/// - With a [`Capacity`], it has [`Capacity::workspace_bytes`], and serves batches of any shape within that,
///   one launch after the other.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment};
/// use dpo_kernels::cuda::plan::{Capacity, Workspace, workspace_bytes};
///
/// let capacity = Capacity { sequences: 8, rows: 4096, pairs: 4, vocab: 128_256 };
/// let batch = HostBatch::padded(8, 100, 128_256, LabelAlignment::Aligned);
/// assert!(workspace_bytes(&batch)? <= capacity.workspace_bytes()?);
/// let workspace = Workspace { address: 0x1000, capacity: Some(capacity) };
/// assert_eq!(Workspace::from(0x1000), Workspace { capacity: None, ..workspace });
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workspace {
    /// Where it starts, aligned to 4.
    pub address: DeviceAddress,
    /// What it is laid out for; `None` is the batch of the launch.
    pub capacity: Option<Capacity>,
}

impl From<DeviceAddress> for Workspace {
    fn from(address: DeviceAddress) -> Self {
        Workspace { address, capacity: None }
    }
}

impl Workspace {
    /// Where everything is, for a launch over a batch.
    pub(super) fn places<A: IndexArray>(&self, batch: &Batch<A>) -> Result<Places> {
        let capacity = match self.capacity {
            Some(capacity) => {
                capacity.check(batch)?;
                capacity
            }
            None => Capacity::of(batch),
        };
        let start = address("workspace", 4, self.address)?;
        if start.checked_add(Places::at(0, &capacity).end).is_none() {
            let expected = "memory that does not reach beyond the last address";
            return Err(Error::value("workspace", expected, format!("{start:#x}")));
        }
        Ok(Places::at(start, &capacity))
    }
}

/// Where a workspace has what: completion counters first, then what the caller did not ask for but the kernel
/// needs to pass on between blocks.
pub(super) struct Places {
    pub progress: DeviceAddress,
    pub sequence_rows_done: DeviceAddress,
    pub row_slices_done: DeviceAddress,
    pub token_logps: DeviceAddress,
    pub scored: DeviceAddress,
    /// Metrics of rows that are summed: logsumexp and those of [`TokenMetrics`](crate::TokenMetrics), `[rows]` each.
    pub summed: [DeviceAddress; 5],
    pub slice_sums: DeviceAddress,
    /// Its elements are aligned to 8, to which the workspace need not be.
    pub token_sums: DeviceAddress,
    /// One past the last byte.
    pub end: DeviceAddress,
}

impl Places {
    fn at(progress: DeviceAddress, capacity: &Capacity) -> Self {
        let (rows, sequences) = (capacity.rows as u64, capacity.sequences as u64);
        let sequence_rows_done = progress + size_of::<DpoProgress>() as u64;
        let row_slices_done = sequence_rows_done + 4 * sequences;
        let token_logps = row_slices_done + 4 * rows;
        let scored = token_logps + 4 * rows;
        let summed = [0, 1, 2, 3, 4].map(|metric| scored + 4 * sequences + 4 * rows * metric);
        let slice_sums = summed[4] + 4 * rows;
        let sums = rows.min(u64::from(MOST_DIVIDED_ROWS)) * u64::from(most_slice_sums(capacity.vocab));
        let token_sums = slice_sums + size_of::<DpoSliceSum>() as u64 * sums;
        let end = token_sums + 4 + size_of::<DpoTokenMetricSums>() as u64 * sequences;
        Places {
            progress,
            sequence_rows_done,
            row_slices_done,
            token_logps,
            scored,
            summed,
            slice_sums,
            token_sums,
            end,
        }
    }
}

impl Capacity {
    /// Bytes of a [`Workspace`] of this capacity, aligned to 4: enough for every batch within it, on any
    /// device and for any dtype.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn workspace_bytes(&self) -> Result<usize> {
        self.validate()?;
        Ok(Places::at(0, self).end as usize)
    }
}

/// Bytes of [`Workspace`] that [`forward`](super::forward()) and [`factored`](super::factored()) need for a
/// batch, aligned to 4: enough on any device and for any dtype.
///
/// Zero it once, after allocation; every launch over a batch of this shape leaves it ready for the next, so a
/// captured graph replays. A workspace for batches of changing shapes has a [`Capacity`].
///
/// # Errors
///
/// Those of [`Batch::validate_shape`].
pub fn workspace_bytes<A: IndexArray>(batch: &Batch<A>) -> Result<usize> {
    batch.validate_shape()?;
    Capacity::of(batch).workspace_bytes()
}
