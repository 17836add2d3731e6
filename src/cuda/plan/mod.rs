//! From shapes and addresses to steps: launches with kernel, grid, block and argument struct, and for the
//! [head](crate::lm_head) products of matrices, as data. Pure: nothing here touches a device, and no arithmetic about grids is
//! anywhere else.
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
//! The head in one plan, from hidden states to log-probs, loss and gradients. Its rows are found on the host, and their entries go to the
//! device by one small copy:
//!
//! ```
//! use dpo_kernels::cuda::plan::{
//!     self, Device, DeviceLmHead, DeviceLmHeadGradients, DevicePairInputs, LmHeadMemory, LmHeadRows, LmHeadWorkspace,
//!     LogpsBuffers, PairLossArguments, PairOutputBuffers,
//! };
//! use dpo_kernels::{DType, HostBatch, LabelAlignment, PairLoss};
//!
//! let device = Device {
//!     capability: (9, 0),
//!     multiprocessors: 132,
//!     shared_bytes_per_block: 227 << 10,
//!     l2_bytes: 50 << 20,
//!     cluster_blocks: 8,
//! };
//! // A pair of two tokens each; hidden states of 64 numbers, a vocabulary of 1000.
//! let batch = HostBatch::padded(2, 2, 1000, LabelAlignment::Aligned);
//! let rows = LmHeadRows::new(&batch, [1i64, 2, 3, -100][..].into())?;
//! let memory = LmHeadMemory::new(rows.capacity(), DType::BF16, 64);
//! assert!(memory.workspace_bytes()? > LmHeadMemory::DEFAULT_PRODUCT_BYTES);
//!
//! // Addresses of what has been allocated; the first is that of a copy of `rows.entries()`.
//! let entries = 0x1000;
//! let workspace = LmHeadWorkspace { address: 0x1_0000_0000, memory };
//! let head = DeviceLmHead { dtype: DType::BF16, hidden_size: 64, hidden: 0x2000, weight: 0x10_0000, bias: None };
//! let gradients = DeviceLmHeadGradients {
//!     hidden: Some(0x3000),
//!     weight: Some(0x20_0000),
//!     ..DeviceLmHeadGradients::default()
//! };
//! let logps = LogpsBuffers { logps: Some(0x4000), status: Some(0x4100), ..LogpsBuffers::default() };
//! let out = PairOutputBuffers {
//!     pair_losses: Some(0x5000),
//!     chosen_rewards: Some(0x5100),
//!     rejected_rewards: Some(0x5200),
//!     margins: Some(0x5300),
//!     coef: Some(0x5400),
//!     metrics: Some(0x5500),
//! };
//! let loss = PairLoss::sigmoid(0.1)?.without_reference();
//! let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::NONE, out: &out };
//! let plan = plan::lm_head(&device, &rows, entries, 1000, &head, &logps, Some(&loss), &gradients, &workspace)?;
//! // Logits, dW and dX, of the three rows that are scored.
//! assert_eq!(plan.products().count(), 3);
//! assert!(plan.products().all(|product| product.left.shape().0 == 3 || product.left.shape().1 == 3));
//! # Ok::<(), dpo_kernels::Error>(())
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
