//! From shapes and addresses to steps: launches with kernel, grid, block and argument struct. Pure: nothing here touches
//! a device, and no arithmetic about grids is anywhere else.
//!
//! Addresses are the caller's word: a plan checks that they are there, aligned and consistent, not what they point to.
//! Whoever [runs](super::Kernels::run) a plan vouches for them.

mod backward;
mod batch;
mod factored;
mod forward;
mod pair_loss;
mod workspace;

use std::mem::size_of;

use super::kernel::Kernel;
use super::params::{DpoBackward, DpoFactored, DpoForward, DpoPairLossAlone};
use super::tuning::RowPartition;
use crate::error::{Error, Result};

pub use super::address::{
    Addresses, DeviceAddress, DeviceArray, ForwardBuffers, LogpsBuffers, PairOutputBuffers,
    TokenMetricBuffers,
};
pub use super::properties::{Device, MAX_CLUSTER};
pub use backward::{GradientBuffers, backward};
pub use batch::{DeviceBatch, Inputs};
pub use factored::factored;
pub use forward::forward;
pub use pair_loss::{DevicePairInputs, PairLossArguments, pair_loss};
pub use workspace::workspace_bytes;

/// What to do, in order.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a plan does nothing until it is run"]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// A plan of one launch.
    fn of(launch: Launch) -> Self {
        Plan { steps: vec![Step::Launch(launch)] }
    }

    /// The steps, the first one first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The launches among the steps.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().map(|Step::Launch(launch)| launch)
    }
}

/// One step of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// A kernel of this crate.
    Launch(Launch),
}

/// The argument struct of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arguments {
    /// `logps` and `pair_loss`.
    Forward(DpoForward),
    /// `pair_loss` alone.
    PairLoss(DpoPairLossAlone),
    /// `backward`.
    Backward(DpoBackward),
    /// `logps` and `pair_loss`, and the gradient without its coefficients.
    Factored(DpoFactored),
}

impl Arguments {
    /// The struct's bytes, as the kernel's one parameter.
    pub fn as_bytes(&self) -> &[u8] {
        fn bytes<T>(value: &T) -> &[u8] {
            // SAFETY: the argument structs are plain C structs; padding, if any, is at worst copied.
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
        }
        match self {
            Arguments::Forward(params) => bytes(params),
            Arguments::PairLoss(params) => bytes(params),
            Arguments::Backward(params) => bytes(params),
            Arguments::Factored(params) => bytes(params),
        }
    }
}

/// One kernel launch. Grids, clusters and blocks are one-dimensional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch {
    /// Entry point.
    pub kernel: Kernel,
    /// Blocks, a multiple of `cluster`.
    pub grid: u32,
    /// Blocks of a cluster; 1 without clusters.
    pub cluster: u32,
    /// Threads per block, a multiple of 32.
    pub block: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's one parameter.
    pub arguments: Arguments,
}

/// Blocks of a grid at most.
const MAX_GRID: u32 = i32::MAX as u32;

/// Blocks for a number of rows.
fn grid(partition: &RowPartition, rows: u32) -> Result<u32> {
    let blocks = partition.blocks(rows);
    u32::try_from(blocks).ok().filter(|&blocks| blocks <= MAX_GRID).ok_or_else(|| {
        let expected = format!("rows that fill at most {MAX_GRID} blocks");
        Error::value("rows", expected, format!("{rows} rows in {blocks} blocks"))
    })
}
