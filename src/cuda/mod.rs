//! The CUDA backend, from the outside in:
//!
//! - [`DpoPass`]: batches on one stream, with buffers of its own, over cudarc's slices and views;
//! - [`LmHeadPass`]: the same from hidden states, through the [head](crate::lm_head);
//! - [`Kernels`]: the loaded kernels, which run a [`plan::Plan`] on a raw stream handle;
//! - [`Products`]: the library that multiplies matrices for the plans of the [head](crate::lm_head);
//! - [`plan`]: from shapes and device addresses to steps, without a device;
//! - [`kernel`]: the table of kernels;
//! - [`tuning`]: how rows are divided among blocks, and what of them is kept on chip;
//! - [`images`]: what build.rs compiled.
//!
//! A missing driver, device or kernel image is an [`Error`], never a panic. Nothing in a launch allocates, copies or
//! synchronises, and everything is asynchronous on the caller's stream.

mod address;
mod device_buffers;
pub mod images;
pub mod kernel;
mod lowering;
#[allow(missing_docs, rustdoc::broken_intra_doc_links)] // generated, and compared with a fresh run as it is
#[rustfmt::skip]
pub mod params;
pub mod plan;
mod products;
mod properties;
pub mod tuning;

mod device;
mod pass;

pub use cudarc::driver::sys::CUstream;
pub use device::{Kernels, context, device_count};
pub use pass::{
    BatchMetrics, DeviceLabels, DpoPass, LmHeadGradientSlices, LmHeadPass, LmHeadSlices, PairSlices,
};
pub use plan::{Capacity, LmHeadMemory};
pub use products::Products;

#[cfg(doc)]
use crate::Error;
