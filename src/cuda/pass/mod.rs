//! The convenience over cudarc: one batch shape on one stream, with outputs and workspace allocated once.

mod dpo_pass;
mod inputs;
mod launch;
mod read;

pub use dpo_pass::DpoPass;
pub use inputs::{DeviceLabels, PairSlices};
pub use read::BatchMetrics;
