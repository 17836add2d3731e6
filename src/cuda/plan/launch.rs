//! One kernel launch, with its grid and its argument struct.

use std::mem::size_of;

use super::window::RowWindow;
use crate::cuda::kernel::Kernel;
use crate::cuda::params::{
    DpoBackward, DpoBiasGradient, DpoClearRows, DpoFactored, DpoForward, DpoMoveRows, DpoPairLossAlone,
    DpoRowCoef, DpoTokenResults,
};
use crate::cuda::tuning::RowPartition;
use crate::error::{Error, Result};

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
    /// c of rows.
    RowCoef(DpoRowCoef),
    /// Rows of a matrix to other places, times c.
    MoveRows(DpoMoveRows),
    /// Zeroes in rows whose c is 0.
    ClearRows(DpoClearRows),
    /// The gradient of the head's bias.
    BiasGradient(DpoBiasGradient),
    /// Results of scored rows to their places among all rows.
    TokenResults(DpoTokenResults),
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
            Arguments::RowCoef(params) => bytes(params),
            Arguments::MoveRows(params) => bytes(params),
            Arguments::ClearRows(params) => bytes(params),
            Arguments::BiasGradient(params) => bytes(params),
            Arguments::TokenResults(params) => bytes(params),
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

/// Blocks for the rows of a window.
pub(super) fn grid(partition: &RowPartition, window: RowWindow) -> Result<u32> {
    let rows = window.rows() as u32;
    let blocks = partition.blocks(rows);
    u32::try_from(blocks).ok().filter(|&blocks| blocks <= MAX_GRID).ok_or_else(|| {
        let expected = format!("rows that fill at most {MAX_GRID} blocks");
        Error::value("rows", expected, format!("{rows} rows in {blocks} blocks"))
    })
}
