//! The CUDA backend, from the outside in:
//!
//! - [`DpoPass`]: one batch shape on one stream, with buffers of its own, over cudarc's slices;
//! - [`Kernels`]: the loaded kernels, which run a [`plan::Launch`] on a raw stream handle;
//! - [`plan`]: from shapes and device addresses to launches, without a device;
//! - [`tuning`]: how rows are divided among blocks, and what of them is kept on chip;
//! - [`images`]: what build.rs compiled.
//!
//! A missing driver, device or kernel image is an [`Error`], never a panic. Nothing in a launch allocates, copies or
//! synchronises, and everything is asynchronous on the caller's stream.

pub mod images;
mod lowering;
#[allow(missing_docs, rustdoc::broken_intra_doc_links)] // generated, and compared with a fresh run as it is
#[rustfmt::skip]
pub mod params;
pub mod plan;
pub mod tuning;

mod device;
mod pass;

pub use cudarc::driver::sys::CUstream;
pub use device::{Kernels, context, device_count};
pub use pass::{BatchMetrics, DeviceLabels, DpoPass, PairSlices};

#[cfg(doc)]
use crate::Error;
