//! How rows are divided among blocks: one table, by pass and bytes of a row; and for the factored forward, by what of a row
//! the device can keep on chip.
//!
//! The order of a row's sum follows from the slices and threads of the table, which knows nothing of the number of rows: a
//! row has the same bits in every batch (on one device and for one dtype). Which block takes which slices may follow that
//! number, since the order does not depend on it.

use super::params::{DPO_FACTORED_THREADS, DPO_ROW_BLOCKS, DPO_ROW_THREADS, DpoRowPartition};
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
    /// The longest row, vocab times element size, in bytes.
    pub row_bytes: usize,
    /// Threads per block.
    pub threads: u32,
    /// Rows that a block takes at once, its threads in equal parts.
    pub rows_per_block: u32,
    /// Bytes of a slice at most, of which a longer row has several.
    pub slice_bytes: usize,
}

const KIB: usize = 1 << 10;

/// The first entry that fits counts.
///
/// Measured on an H100 at commit 5a75f23, bf16, 8192 rows of 128256, as a share of the copy's bandwidth: whole rows to a block
/// read at 0.998, slices of 48 KiB to a block at 0.944 (0.982 with cheaper arrivals), blocks of 128 threads with 24 KiB at 0.970,
/// slices of 16 KiB at 0.649. Of 64 rows whole ones read at 0.261 and slices at 0.333, of 1024 at 0.864 and 0.826. Derived,
/// and not yet measured:
///
/// - *Bytes in flight.* Little's law, bandwidth × latency (0.7 µs) per multiprocessor: 10 KB on an A100, 25 KB on an
///   H200, 38 KB on a B200, 7 KB on an RTX 5090; half of it in a backward pass, which writes as much as it reads. A thread
///   has four 16-byte loads in flight, and 1024 threads of 64 registers fit on a multiprocessor: 64 KiB at best, times
///   the share of a block's life in which it loads.
/// - *Slices of a forward pass.* A block that takes several in turn merges its warps' sums after each, for some 40
///   instructions a thread: 5% of those for four groups of four loads. Where blocks take one slice each, they wait for the
///   row's label before the first load (0.7 µs) and for the counters after the last (1.2 µs), and each round of four loads
///   takes 0.8 µs: four rounds load for 65% of the time.
/// - *Blocks of 256 threads*, four on a multiprocessor: where one waits at its start or end, the others load. A short row
///   has a warp for itself, which never waits for another before the row is done.
/// - *Slices of a backward pass*, which counts nothing: two rounds of loads are enough everywhere.
/// - *Counters.* Additions to one address take about a nanosecond each, so that a block should move several KiB.
pub const TABLE: [Entry; 5] = [
    entry(RowPass::Forward, 16 * KIB, 8, 16 * KIB),
    entry(RowPass::Forward, usize::MAX, 1, 64 * KIB),
    entry(RowPass::Backward, 4 * KIB, 8, 4 * KIB),
    entry(RowPass::Backward, 16 * KIB, 4, 16 * KIB),
    entry(RowPass::Backward, usize::MAX, 1, 32 * KIB),
];

const fn entry(pass: RowPass, row_bytes: usize, rows_per_block: u32, slice_bytes: usize) -> Entry {
    Entry { pass, row_bytes, threads: DPO_ROW_THREADS, rows_per_block, slice_bytes }
}

/// Bytes of a vector, which is what one thread loads at a time.
const VECTOR: usize = 16;

/// Threads of a warp.
const WARP: u32 = 32;

/// How one launch divides its rows among blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowPartition {
    /// Threads per block.
    pub threads: u32,
    /// What the kernel needs to know.
    pub params: DpoRowPartition,
}

impl Entry {
    /// One block to each slice.
    fn partition(&self, row_bytes: usize) -> RowPartition {
        let vectors = row_bytes.div_ceil(VECTOR);
        let slice_vectors = match self.pass {
            // Each thread has whole groups of loads in all slices but the last, since what is left of a group costs more.
            RowPass::Forward => self.slice_bytes / VECTOR,
            // Slices of about the same size, since each has a block, of as many vectors for one thread as for another.
            RowPass::Backward => {
                vectors.div_ceil(row_bytes.div_ceil(self.slice_bytes)).next_multiple_of(self.threads as usize)
            }
        };
        let slices = vectors.div_ceil(slice_vectors) as u32;
        RowPartition {
            threads: self.threads,
            params: DpoRowPartition {
                rows_per_block: self.rows_per_block,
                blocks_per_row: slices,
                slices_per_block: 1,
                slices,
                slice_vectors: slice_vectors as u32,
            },
        }
    }
}

/// Blocks that a forward launch asks for at least, as a multiple of those that the device runs at once, before it leaves rows
/// whole: with four times as many, the last ones leave a tenth of the device idle at most.
const WAVES: u32 = 4;

/// Rows of a forward launch that has several blocks to a row at most, on any device: what the workspace has room for.
pub const MOST_DIVIDED_ROWS: u32 = 2048;

impl RowPartition {
    /// The partition of rows of `vocab` elements, with a block for each slice.
    pub fn of(pass: RowPass, dtype: DType, vocab: usize) -> Self {
        let row_bytes = vocab * dtype.size();
        TABLE
            .iter()
            .find(|entry| entry.pass == pass && row_bytes <= entry.row_bytes)
            .expect("each pass's last entry takes every row")
            .partition(row_bytes)
    }

    /// The same slices, dealt for a forward launch over `rows` rows: to no more blocks than keep the device busy.
    #[must_use]
    pub fn for_rows(self, rows: u32, device: &Device) -> Self {
        let slices = self.params.slices;
        let enough = WAVES.saturating_mul(DPO_ROW_BLOCKS).saturating_mul(device.multiprocessors);
        let blocks = if rows > MOST_DIVIDED_ROWS { 1 } else { enough.div_ceil(rows.max(1)).clamp(1, slices) };
        let slices_per_block = slices.div_ceil(blocks);
        let blocks_per_row = slices.div_ceil(slices_per_block);
        RowPartition { params: DpoRowPartition { slices_per_block, blocks_per_row, ..self.params }, ..self }
    }

    /// Blocks for a number of rows.
    pub fn blocks(&self, rows: u32) -> u64 {
        u64::from(rows.div_ceil(self.params.rows_per_block)) * u64::from(self.params.blocks_per_row)
    }
}

/// The most sums that the warps of a forward launch leave of a row of `vocab` elements, in any dtype: what the workspace has
/// room for. A longer row never has fewer, so that a workspace for the longest has room for all.
pub fn most_slice_sums(vocab: usize) -> u32 {
    let sums = |dtype| {
        let RowPartition { threads, params } = RowPartition::of(RowPass::Forward, dtype, vocab);
        // Rows of one slice leave nothing.
        if params.slices == 1 { 0 } else { params.slices * threads / WARP }
    };
    DType::ALL.map(sums).into_iter().max().unwrap_or(0)
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
                params: DpoRowPartition {
                    rows_per_block: 1,
                    blocks_per_row: blocks,
                    slices_per_block: 1,
                    slices: blocks,
                    slice_vectors,
                },
            },
            kept_vectors: slice_vectors.min(room(if crowded { 1 } else { 2 })),
        }
    }

    /// Dynamic shared memory of a block, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.kept_vectors * VECTOR as u32
    }
}
