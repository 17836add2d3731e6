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
    /// PTX instructions of the kernel that were executed at least once, by index.
    pub covered: Vec<bool>,
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
    /// The fraction of the kernel's PTX instructions that were executed.
    pub fn coverage(&self) -> f64 {
        let hit = self.covered.iter().filter(|&&covered| covered).count();
        hit as f64 / self.covered.len().max(1) as f64
    }

    /// Adds the work of other launches or blocks of the same kernel.
    pub fn merge(&mut self, other: &KernelStats) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.instructions += other.instructions;
        if self.covered.len() < other.covered.len() {
            self.covered.resize(other.covered.len(), false);
        }
        for (mine, theirs) in self.covered.iter_mut().zip(&other.covered) {
            *mine |= theirs;
        }
    }
}
