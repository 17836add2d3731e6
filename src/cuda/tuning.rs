//! How rows are divided among blocks: one table, by pass, architecture and bytes of a row; and for the factored forward,
//! by what of a row the device can keep on chip.
//!
//! The order of a row's sum follows from it, so it knows nothing of the number of rows: a row has the same bits in every
//! batch (on one device and for one dtype).

use super::params::{DPO_FACTORED_THREADS, DPO_ROW_THREADS, DpoRowPartition};
use super::properties::Device;
use crate::dtype::DType;

/// A pass over rows, which all of its kernels divide alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPass {
    /// `logps` and `pair_loss`.
    Forward,
    /// `backward`.
    Backward,
}

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The pass it is for.
    pub pass: RowPass,
    /// The first and the last compute capability, as major · 10 + minor.
    pub capabilities: (u32, u32),
    /// The longest row, vocab times element size, in bytes.
    pub row_bytes: usize,
    /// Threads per block.
    pub threads: u32,
    /// Rows that a block takes at once, its threads in equal parts.
    pub rows_per_block: u32,
    /// Bytes of a row that one block takes at most: a longer row goes to several.
    pub slice_bytes: usize,
}

const KIB: usize = 1 << 10;
const ANY: (u32, u32) = (0, u32::MAX);
const HOPPER: (u32, u32) = (90, 99);
const DATACENTER_BLACKWELL: (u32, u32) = (100, 119);

/// The first entry that fits counts.
///
/// Derived, and not yet measured:
///
/// - *Bytes in flight.* Little's law, bandwidth × latency (0.7 µs) per multiprocessor: 10 KB on an A100, 25 KB on an
///   H200, 38 KB on a B200, 7 KB on an RTX 5090; half of it in a backward pass, which writes as much as it reads. A thread
///   has four 16-byte loads in flight, and 1024 threads of 64 registers fit on a multiprocessor: 64 KiB at best, times
///   the share of a block's life in which it loads.
/// - *A block's life.* Before the first load it waits for the row's label (0.7 µs), and after the last one for the
///   counters (1.2 µs); each round of four loads takes 0.8 µs. Two rounds load for 45% of the time, three for 55%, four
///   for 65%: slices are as short as that share allows, since short ones spread few rows over more multiprocessors.
///   A backward pass counts nothing, and two rounds are enough everywhere.
/// - *Blocks of 256 threads*, four on a multiprocessor: where one waits at its start or end, the others load.
/// - *Counters.* Additions to one address take about a nanosecond each, so that a block should move several KiB.
pub const TABLE: [Entry; 9] = [
    entry(RowPass::Forward, ANY, 4 * KIB, 8, usize::MAX),
    entry(RowPass::Forward, ANY, 16 * KIB, 4, usize::MAX),
    entry(RowPass::Forward, ANY, 64 * KIB, 1, usize::MAX),
    entry(RowPass::Forward, HOPPER, usize::MAX, 1, 48 * KIB),
    entry(RowPass::Forward, DATACENTER_BLACKWELL, usize::MAX, 1, 64 * KIB),
    entry(RowPass::Forward, ANY, usize::MAX, 1, 32 * KIB),
    entry(RowPass::Backward, ANY, 4 * KIB, 8, usize::MAX),
    entry(RowPass::Backward, ANY, 16 * KIB, 4, usize::MAX),
    entry(RowPass::Backward, ANY, usize::MAX, 1, 32 * KIB),
];

const fn entry(
    pass: RowPass,
    capabilities: (u32, u32),
    row_bytes: usize,
    rows_per_block: u32,
    slice_bytes: usize,
) -> Entry {
    Entry { pass, capabilities, row_bytes, threads: DPO_ROW_THREADS, rows_per_block, slice_bytes }
}

/// Bytes of a vector, which is what one thread loads at a time.
const VECTOR: usize = 16;

/// How one launch divides its rows among blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowPartition {
    /// Threads per block.
    pub threads: u32,
    /// What the kernel needs to know.
    pub params: DpoRowPartition,
}

impl Entry {
    fn partition(&self, row_bytes: usize) -> RowPartition {
        let vectors = row_bytes.div_ceil(VECTOR);
        // Slices of about the same size, of as many vectors for one thread as for another.
        let slices = row_bytes.div_ceil(self.slice_bytes);
        let slice_vectors = vectors.div_ceil(slices).next_multiple_of(self.threads as usize);
        RowPartition {
            threads: self.threads,
            params: DpoRowPartition {
                rows_per_block: self.rows_per_block,
                blocks_per_row: vectors.div_ceil(slice_vectors) as u32,
                slice_vectors: slice_vectors as u32,
            },
        }
    }
}

impl RowPartition {
    /// The partition of rows of `vocab` elements, for a device of compute capability (major, minor).
    pub fn of(pass: RowPass, capability: (u32, u32), dtype: DType, vocab: usize) -> Self {
        let capability = 10 * capability.0 + capability.1;
        let row_bytes = vocab * dtype.size();
        TABLE
            .iter()
            .find(|entry| {
                let (first, last) = entry.capabilities;
                entry.pass == pass && (first..=last).contains(&capability) && row_bytes <= entry.row_bytes
            })
            .expect("each pass's last entry takes every row on every device")
            .partition(row_bytes)
    }

    /// Blocks for a number of rows.
    pub fn blocks(&self, rows: u32) -> u64 {
        u64::from(rows.div_ceil(self.params.rows_per_block)) * u64::from(self.params.blocks_per_row)
    }
}

/// The most slices that a forward launch has of a row of `vocab` elements, on any device and in any dtype:
/// what the workspace has room for. A longer row never has fewer, so that a workspace for the longest has
/// room for all.
pub fn most_slices(vocab: usize) -> u32 {
    let slices = |(capability, dtype)| {
        let capability: u32 = capability;
        RowPartition::of(RowPass::Forward, (capability / 10, capability % 10), dtype, vocab)
            .params
            .blocks_per_row
    };
    // The choice changes only where an entry's capabilities begin or end.
    let borders =
        TABLE.iter().flat_map(|entry| [entry.capabilities.0, entry.capabilities.1.saturating_add(1)]);
    borders.flat_map(|border| DType::ALL.map(|dtype| (border, dtype))).map(slices).max().unwrap_or(1)
}

/// Bytes that the device itself takes of the shared memory of every block.
const SYSTEM_SHARED: u32 = 1 << 10;

/// Static shared memory of the factored kernels at most, in bytes: the rest is for logits.
pub const FACTORED_STATIC_SHARED: u32 = 3 << 10;

/// How the factored forward divides rows among blocks: one row to a block, or a cluster of blocks to a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FactoredPartition {
    /// Blocks and slices.
    pub rows: RowPartition,
    /// Vectors of a slice that stay in shared memory from the sum to the gradient. The others are read again.
    pub kept_vectors: u32,
}

impl FactoredPartition {
    /// The partition of rows of `vocab` elements.
    ///
    /// Derived, and not yet measured: two blocks share a multiprocessor, so that one reads while the other writes, and
    /// the cluster is the smallest that then has the row in shared memory: a power of two, since clusters of other sizes
    /// leave multiprocessors idle. Where the largest cluster cannot hold the row, the rest comes from L2; the shared
    /// memory that blocks take bounds how many are in flight, and so how much of L2 they need. If that is more than half
    /// of it, each block gets a multiprocessor for itself: half as many rows in flight, and more of each on chip.
    ///
    /// A thread has about eight vectors, two rounds of loads.
    pub fn of(device: &Device, dtype: DType, vocab: usize) -> Self {
        let vectors = u32::try_from((vocab * dtype.size()).div_ceil(VECTOR)).unwrap_or(u32::MAX);
        let room = |blocks_per_multiprocessor: u32| {
            let share = (device.shared_bytes_per_block + SYSTEM_SHARED) / blocks_per_multiprocessor;
            (share.saturating_sub(SYSTEM_SHARED + FACTORED_STATIC_SHARED) / VECTOR as u32).max(2)
        };
        let mut blocks = 1;
        while 2 * blocks <= device.cluster_blocks && vectors.div_ceil(blocks) > room(2) {
            blocks *= 2;
        }
        let slice_vectors = vectors.div_ceil(blocks);
        let read_again = VECTOR as u64 * u64::from(slice_vectors.saturating_sub(room(2)));
        let crowded = read_again * 2 * u64::from(device.multiprocessors) > u64::from(device.l2_bytes / 2);
        FactoredPartition {
            rows: RowPartition {
                threads: (1 << (slice_vectors / 8).max(1).ilog2()).clamp(32, DPO_FACTORED_THREADS),
                params: DpoRowPartition { rows_per_block: 1, blocks_per_row: blocks, slice_vectors },
            },
            kept_vectors: slice_vectors.min(room(if crowded { 1 } else { 2 })),
        }
    }

    /// Dynamic shared memory of a block, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.kept_vectors * VECTOR as u32
    }
}
