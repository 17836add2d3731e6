//! The convenience over cudarc: batches on one stream, with outputs and workspace allocated once.

mod dpo_pass;
mod index_buffer;
mod inputs;
mod launch;
mod read;

pub use dpo_pass::DpoPass;
pub use inputs::{DeviceLabels, PairSlices};
pub use read::BatchMetrics;
