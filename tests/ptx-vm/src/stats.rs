//! What ran, to show that a test exercised the kernels it claims to.

use std::collections::BTreeMap;

/// Work done, by kernel. Adds up over launches with [`Stats::merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Each kernel that was launched.
    pub kernels: BTreeMap<String, KernelStats>,
}

/// Work done by one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelStats {
    /// Times the kernel was launched.
    pub launches: u64,
    /// Blocks that ran to their end.
    pub blocks: u64,
    /// PTX instructions executed, counted once for each thread.
    pub instructions: u64,
    /// Instructions that warps issued, counted once for each warp, whichever of its lanes took part: what a profiler calls
    /// executed instructions. Those that machine code has in the operands of others do not count: moves, loads of
    /// parameters, conversions of addresses between spaces, and signs of f32.
    pub executed: u64,
    /// How often each PTX instruction of the kernel was issued, by index, counted once for each warp, whichever of its
    /// lanes took part.
    pub issued: Vec<u64>,
}

impl Stats {
    /// Adds the work of other launches.
    pub fn merge(&mut self, other: &Stats) {
        for (name, more) in &other.kernels {
            self.kernels.entry(name.clone()).or_default().merge(more);
        }
    }

    /// PTX instructions executed by all kernels together.
    pub fn instructions(&self) -> u64 {
        self.kernels.values().map(|kernel| kernel.instructions).sum()
    }
}

impl KernelStats {
    /// The fraction of the kernel's PTX instructions that were executed at least once.
    pub fn coverage(&self) -> f64 {
        let hit = self.issued.iter().filter(|&&times| times > 0).count();
        hit as f64 / self.issued.len().max(1) as f64
    }

    /// Adds the work of other launches or blocks of the same kernel.
    pub fn merge(&mut self, other: &KernelStats) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.instructions += other.instructions;
        self.executed += other.executed;
        if self.issued.len() < other.issued.len() {
            self.issued.resize(other.issued.len(), 0);
        }
        for (mine, theirs) in self.issued.iter_mut().zip(&other.issued) {
            *mine += theirs;
        }
    }
}
