//! What a plan depends on besides shapes.

/// What plans depend on besides shapes: the device, and what the kernels loaded there can do.
///
/// [`Kernels::device`](super::Kernels::device) knows it; a plan for a device that is not there takes its data sheet's
/// figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Compute capability, (major, minor).
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, static and dynamic together, when it opts in; in bytes.
    pub shared_bytes_per_block: u32,
    /// Size of the L2 cache in bytes.
    pub l2_bytes: u32,
    /// Blocks that a cluster may have: [`MAX_CLUSTER`] where device and kernel images know clusters, otherwise 1.
    pub cluster_blocks: u32,
}

/// Blocks in a cluster that every device with clusters allows.
pub const MAX_CLUSTER: u32 = 8;
