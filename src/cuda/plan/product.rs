//! A product of two matrices, as data: whoever runs the plan multiplies.

use crate::cuda::address::DeviceAddress;
use crate::dtype::DType;

/// A matrix in device memory, in row-major order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Its first element.
    pub address: DeviceAddress,
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// Elements from the start of a row to the start of the next, at least `columns`.
    pub row_stride: usize,
}

impl Matrix {
    /// One whose rows follow each other without a gap.
    pub(super) fn dense(address: DeviceAddress, dtype: DType, rows: usize, columns: usize) -> Self {
        Matrix { address, dtype, rows, columns, row_stride: columns }
    }
}

/// A factor: a matrix, or its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Factor {
    /// As it is in memory.
    pub matrix: Matrix,
    /// Whether its transpose is multiplied.
    pub transposed: bool,
}

impl Factor {
    /// Rows and columns of what is multiplied.
    pub fn shape(&self) -> (usize, usize) {
        let Matrix { rows, columns, .. } = self.matrix;
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }
}

impl Matrix {
    /// Itself as a factor.
    pub(super) fn as_is(self) -> Factor {
        Factor { matrix: self, transposed: false }
    }

    /// Its transpose as a factor.
    pub(super) fn transposed(self) -> Factor {
        Factor { matrix: self, transposed: true }
    }
}

/// `out = left · right + bias`, or `out += left · right`, with sums in f32.
///
/// Both factors have the same element type; `out` has it too, or is f32. Each sum has a fixed order: the same product gives the
/// same bits on every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// The left factor.
    pub left: Factor,
    /// The right factor.
    pub right: Factor,
    /// Where the product goes. It overlaps neither factor.
    pub out: Matrix,
    /// Whether the product is added to what `out` holds.
    pub accumulate: bool,
    /// One number for each column of `out`, of its element type, which is added to every row. Not where the product accumulates.
    pub bias: Option<DeviceAddress>,
    /// Memory that a library may work in, aligned to 256, and of no account between steps.
    pub workspace: DeviceAddress,
    /// Bytes of it, which may be 0.
    pub workspace_bytes: usize,
}
