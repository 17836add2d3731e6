//! Devices to plan for, from their data sheets.

use dpo_kernels::cuda::params::DpoRowPartition;
use dpo_kernels::cuda::plan::{Device, MAX_CLUSTER};

pub const A100: Device = Device {
    capability: (8, 0),
    multiprocessors: 108,
    shared_bytes_per_block: 163 << 10,
    l2_bytes: 40 << 20,
    cluster_blocks: 1,
};
pub const H200: Device = Device {
    capability: (9, 0),
    multiprocessors: 132,
    shared_bytes_per_block: 227 << 10,
    l2_bytes: 50 << 20,
    cluster_blocks: MAX_CLUSTER,
};
pub const B200: Device = Device {
    capability: (10, 0),
    multiprocessors: 148,
    shared_bytes_per_block: 227 << 10,
    l2_bytes: 126 << 20,
    cluster_blocks: MAX_CLUSTER,
};
pub const RTX_5090: Device = Device {
    capability: (12, 0),
    multiprocessors: 170,
    shared_bytes_per_block: 99 << 10,
    l2_bytes: 96 << 20,
    cluster_blocks: MAX_CLUSTER,
};

/// One device of every architecture that kernels are compiled for.
pub const ALL: [Device; 4] = [A100, H200, B200, RTX_5090];

/// Deals the slices of a launch's rows anew, so many of them to a block.
pub fn deal(grid: &mut u32, partition: &mut DpoRowPartition, slices_per_block: u32) {
    *grid /= partition.blocks_per_row;
    partition.slices_per_block = slices_per_block.min(partition.slices);
    partition.blocks_per_row = partition.slices.div_ceil(partition.slices_per_block);
    *grid *= partition.blocks_per_row;
}
