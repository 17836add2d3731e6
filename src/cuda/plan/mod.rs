//! From shapes and addresses to steps: launches with kernel, grid, block and argument struct. Pure: nothing here touches
//! a device, and no arithmetic about grids is anywhere else.
//!
//! Addresses are the caller's word: a plan checks that they are there, aligned and consistent, not what they point to.
//! Whoever [runs](super::Kernels::run) a plan vouches for them.
//!
//! A step with buffers of one's own, on a raw stream. They are cudarc's here, and may come from any
//! allocator:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dpo_kernels::cuda::params::{DPO_NO_TROUBLE, DpoPairMetrics, DpoStatus};
//! use dpo_kernels::cuda::plan::{
//!     self, DeviceArray, DevicePairInputs, GradientBuffers, Inputs, LogpsBuffers, PairLossArguments,
//!     PairOutputBuffers,
//! };
//! use dpo_kernels::cuda::{Kernels, context};
//! use dpo_kernels::cudarc::driver::{DevicePtr, DriverError};
//! use dpo_kernels::{Batch, DType, LabelAlignment, LabelType, PairLoss};
//!
//! let context = context(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::new(&context)?;
//! let device = kernels.device();
//!
//! // Two pairs, chosen first: 4 sequences of 512 rows. Index arrays, where there are any, are on the GPU.
//! let batch = Batch::<DeviceArray>::padded(4, 512, 128_256, LabelAlignment::Aligned);
//! let extent = batch.extent();
//!
//! // Results are 4 bytes for each sequence, row or pair, and records of the batch; `None` is not written.
//! let mut memory = Vec::new();
//! let mut zeros = |bytes: usize| {
//!     let buffer = stream.alloc_zeros::<u8>(bytes)?;
//!     let address = buffer.device_ptr(&stream).0;
//!     memory.push(buffer);
//!     Ok::<_, DriverError>(address)
//! };
//! let logps = LogpsBuffers {
//!     logps: Some(zeros(4 * extent.sequences)?),
//!     logsumexp: Some(zeros(4 * extent.rows)?),
//!     logsumexp_residual: Some(zeros(4 * extent.rows)?),
//!     status: Some(zeros(size_of::<DpoStatus>())?),
//!     ..LogpsBuffers::default()
//! };
//! let pairs = PairOutputBuffers {
//!     pair_losses: Some(zeros(4 * extent.pairs)?),
//!     chosen_rewards: Some(zeros(4 * extent.pairs)?),
//!     rejected_rewards: Some(zeros(4 * extent.pairs)?),
//!     margins: Some(zeros(4 * extent.pairs)?),
//!     coef: Some(zeros(4 * extent.sequences)?),
//!     metrics: Some(zeros(size_of::<DpoPairMetrics>())?),
//! };
//! let workspace = zeros(plan::workspace_bytes(&batch)?)?; // zeroed once, for all steps with this shape
//!
//! // From a model, and from its data.
//! let logits = zeros(batch.logits_len() * DType::BF16.size())?;
//! let labels = zeros(size_of::<i64>() * extent.rows)?;
//! let ref_logps = DeviceArray { address: zeros(4 * extent.sequences)?, len: extent.sequences };
//! let nonfinite_row = stream.clone_htod(&[DPO_NO_TROUBLE])?;
//!
//! let inputs = Inputs { dtype: DType::BF16, logits, label_type: LabelType::I64, labels, window: None };
//! let loss = PairLoss::sigmoid(0.1)?;
//! let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::reference(ref_logps), out: &pairs };
//! let forward = plan::forward(device, &batch, &inputs, &logps, Some(&loss), workspace)?;
//! let gradient = GradientBuffers {
//!     logsumexp: logps.logsumexp.expect("it was asked for"),
//!     logsumexp_residual: logps.logsumexp_residual,
//!     coef: pairs.coef,
//!     token_coef: None,
//!     entropy: None,
//!     upstream: None,
//!     upstream_scale: 1.0,
//!     threshold: 0.0,
//!     nonfinite_row: Some(nonfinite_row.device_ptr(&stream).0),
//!     dlogits: logits, // in place
//! };
//! let backward = plan::backward(device, &batch, &inputs, &gradient)?;
//!
//! // Plans are made once, and each step runs them. They allocate, copy and wait for nothing.
//! let raw = stream.cu_stream();
//! // SAFETY: the context is current on this thread and the stream its own; every address is of a live buffer
//! // of the size that the documentation gives it, and none overlaps another; the workspace is zero, and no
//! // other stream's.
//! unsafe {
//!     kernels.run(&forward, raw)?;
//!     kernels.run(&backward, raw)?;
//! }
//! stream.synchronize()?;
//! # Ok(())
//! # }
//! ```
//!
//! Where shapes change from step to step, memory is allocated for a [`Capacity`], the [`Workspace`] is laid
//! out for it, and [`pack_index_arrays`] brings a batch's index arrays to the device in one piece.

mod backward;
mod batch;
mod capacity;
mod factored;
mod forward;
mod index_arrays;
mod launch;
mod lm_head;
mod loss_arguments;
mod pair_loss;
mod product;
mod steps;
mod window;
mod workspace;

pub use super::address::{
    Addresses, DeviceAddress, DeviceArray, ForwardBuffers, LogpsBuffers, PairOutputBuffers,
    TokenMetricBuffers,
};
pub use super::properties::{Device, MAX_CLUSTER};
pub use backward::{EntropyBuffers, GradientBuffers, backward};
pub use batch::{DeviceBatch, Inputs};
pub use capacity::Capacity;
pub use factored::factored;
pub use forward::forward;
pub use index_arrays::pack_index_arrays;
pub use launch::{Arguments, Launch};
pub use lm_head::{
    DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, LmHeadMemory, LmHeadRows, LmHeadWorkspace,
    lm_head, lm_head_backward,
};
pub use loss_arguments::{DevicePairInputs, PairLossArguments};
pub use pair_loss::pair_loss;
pub use product::{Factor, Matrix, Product};
pub use steps::{Plan, Step};
pub use window::RowWindow;
pub use workspace::{Workspace, workspace_bytes};
