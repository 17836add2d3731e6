//! The convenience over cudarc: batches on one stream, with outputs and workspace allocated once.

mod dpo_pass;
mod index_buffer;
mod inputs;
mod launch;
mod lm_head_pass;
mod read;
mod results;

pub use dpo_pass::DpoPass;
pub use inputs::{DeviceLabels, PairSlices};
pub use lm_head_pass::{LmHeadGradientSlices, LmHeadPass, LmHeadSlices};
pub use read::BatchMetrics;
