//! The index arrays of a batch on their way to the device.

use std::mem::size_of;

use super::batch::DeviceBatch;
use crate::batch::HostBatch;
use crate::cuda::address::{DeviceAddress, DeviceArray};
use crate::error::Result;

/// Checks a batch, and puts its index arrays one after the other into `entries`, so that one copy of these to
/// `address` brings all of them to the device; the batch that is returned finds them there. A batch without
/// index arrays leaves `entries` empty, and there is nothing to copy.
///
/// [`Capacity::index_entries`](super::Capacity::index_entries) says how many there can be. Batches whose
/// arrays have the same lengths have them at the same addresses, so that everything planned with one is
/// planned alike with the other: a captured graph replays with the new entries.
///
/// ```
/// use dpo_kernels::cuda::plan::{DeviceArray, pack_index_arrays};
/// use dpo_kernels::{HostBatch, LabelAlignment, Pairs, Sequences};
///
/// let pairs = Pairs::Indexed { chosen: &[0][..], rejected: &[1] };
/// let batch = HostBatch { pairs, ..HostBatch::packed(&[0, 2, 5], 5, 1000, LabelAlignment::Aligned) };
/// let mut entries = Vec::new();
/// let on_device = pack_index_arrays(&batch, 0x1000, &mut entries)?;
/// assert_eq!(entries, [0, 2, 5, 0, 1]);
/// assert_eq!(
///     on_device.pairs,
///     Pairs::Indexed {
///         chosen: DeviceArray { address: 0x100c, len: 1 },
///         rejected: DeviceArray { address: 0x1010, len: 1 },
///     },
/// );
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`HostBatch::validate`](crate::Batch::validate); `entries` are as they were then.
pub fn pack_index_arrays(
    batch: &HostBatch<'_>,
    address: DeviceAddress,
    entries: &mut Vec<i32>,
) -> Result<DeviceBatch> {
    batch.validate()?;
    entries.clear();
    batch.try_map_indices(|array| {
        let address = address.wrapping_add((entries.len() * size_of::<i32>()) as u64);
        entries.extend_from_slice(array);
        Ok(DeviceArray { address, len: array.len() })
    })
}
