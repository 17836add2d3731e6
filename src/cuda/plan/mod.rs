//! From shapes and addresses to steps: launches with kernel, grid, block and argument struct. Pure: nothing here touches
//! a device, and no arithmetic about grids is anywhere else.
//!
//! Addresses are the caller's word: a plan checks that they are there, aligned and consistent, not what they point to.
//! Whoever [runs](super::Kernels::run) a plan vouches for them.

mod backward;
mod batch;
mod capacity;
mod factored;
mod forward;
mod index_arrays;
mod launch;
mod loss_arguments;
mod pair_loss;
mod steps;
mod window;
mod workspace;

pub use super::address::{
    Addresses, DeviceAddress, DeviceArray, ForwardBuffers, LogpsBuffers, PairOutputBuffers,
    TokenMetricBuffers,
};
pub use super::properties::{Device, MAX_CLUSTER};
pub use backward::{GradientBuffers, backward};
pub use batch::{DeviceBatch, Inputs};
pub use capacity::Capacity;
pub use factored::factored;
pub use forward::forward;
pub use index_arrays::pack_index_arrays;
pub use launch::{Arguments, Launch};
pub use loss_arguments::{DevicePairInputs, PairLossArguments};
pub use pair_loss::pair_loss;
pub use steps::{Plan, Step};
pub use window::RowWindow;
pub use workspace::{Workspace, workspace_bytes};
