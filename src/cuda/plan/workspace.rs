//! What a forward launch needs of the caller beside its results.

use std::mem::size_of;

use crate::batch::Batch;
use crate::cuda::params::{DpoProgress, DpoSliceSum, DpoTokenMetricSums};
use crate::cuda::tuning::most_slices;
use crate::error::Result;
use crate::sequences::IndexArray;

/// The workspace of a forward launch: completion counters first, then what the caller did not ask for but the kernel
/// needs to pass on between blocks.
pub(super) struct Workspace {
    pub sequence_rows_done: u64,
    pub row_slices_done: u64,
    pub token_logps: u64,
    pub scored: u64,
    /// Metrics of rows that are summed: logsumexp and those of [`TokenMetrics`](crate::TokenMetrics), `[rows]` each.
    pub summed: [u64; 5],
    pub slice_sums: u64,
    /// Its elements are aligned to 8, to which the workspace need not be.
    pub token_sums: u64,
    pub bytes: u64,
}

impl Workspace {
    pub fn of<A: IndexArray>(batch: &Batch<A>) -> Self {
        let (rows, sequences) = (batch.rows() as u64, batch.sequences.count() as u64);
        let sequence_rows_done = size_of::<DpoProgress>() as u64;
        let row_slices_done = sequence_rows_done + 4 * sequences;
        let token_logps = row_slices_done + 4 * rows;
        let scored = token_logps + 4 * rows;
        let summed = [0, 1, 2, 3, 4].map(|metric| scored + 4 * sequences + 4 * rows * metric);
        let slice_sums = summed[4] + 4 * rows;
        // Rows of one slice leave nothing there.
        let sums = match u64::from(most_slices(batch.columns())) {
            1 => 0,
            slices => rows * slices,
        };
        let token_sums = slice_sums + size_of::<DpoSliceSum>() as u64 * sums;
        let bytes = token_sums + 4 + size_of::<DpoTokenMetricSums>() as u64 * sequences;
        Workspace {
            sequence_rows_done,
            row_slices_done,
            token_logps,
            scored,
            summed,
            slice_sums,
            token_sums,
            bytes,
        }
    }
}

/// Bytes of workspace that [`forward`](super::forward()) and [`factored`](super::factored()) need, aligned to 4: enough on any device and for any dtype.
///
/// Zero it once, after allocation; every launch leaves it ready for the next, so a captured graph replays.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`].
pub fn workspace_bytes<A: IndexArray>(batch: &Batch<A>) -> Result<usize> {
    batch.validate_shape()?;
    Ok(Workspace::of(batch).bytes as usize)
}
