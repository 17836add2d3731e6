//! The kernels between the products.

use crate::cuda::address::DeviceAddress;
use crate::cuda::kernel::Kernel;
use crate::cuda::params::*;
use crate::cuda::plan::launch::{Arguments, Launch};
use crate::cuda::plan::product::Matrix;
use crate::dtype::DType;

/// Threads of a warp.
const WARP: u32 = 32;

fn launch(kernel: Kernel, grid: usize, arguments: Arguments) -> Launch {
    // Rows and columns are counted in 31 bits.
    Launch { kernel, grid: grid as u32, cluster: 1, block: DPO_HEAD_THREADS, shared_bytes: 0, arguments }
}

/// Blocks for rows each of which is a warp's.
fn warps(rows: usize) -> usize {
    rows.div_ceil((DPO_HEAD_THREADS / WARP) as usize)
}

/// Rows of one matrix to rows of another, which has as many columns.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    pub from: (DeviceAddress, DType),
    pub to: (DeviceAddress, DType),
    pub columns: usize,
    /// How many rows.
    pub rows: usize,
    /// Which they are; 0 is one after the other.
    pub from_rows: DeviceAddress,
    /// Where they go; 0 is one after the other.
    pub to_rows: DeviceAddress,
    /// What they are multiplied by; 0 is 1.
    pub row_coef: DeviceAddress,
    /// What names the first row that is given an infinity or a NaN; 0 where nothing does.
    pub nonfinite_row: DeviceAddress,
}

impl Move {
    /// All rows of a matrix, to where another has as many, both without gaps between them.
    pub fn all(from: Matrix, to: Matrix) -> Self {
        debug_assert!(from.columns == from.row_stride && to.columns == to.row_stride);
        Move {
            from: (from.address, from.dtype),
            to: (to.address, to.dtype),
            columns: to.columns,
            rows: to.rows,
            from_rows: 0,
            to_rows: 0,
            row_coef: 0,
            nonfinite_row: 0,
        }
    }

    /// Numbers of f32, one a row, from where `from_rows` says.
    pub fn gather_floats(
        from: DeviceAddress,
        to: DeviceAddress,
        from_rows: DeviceAddress,
        rows: usize,
    ) -> Self {
        let of = |address| Matrix::dense(address, DType::F32, rows, 1);
        Move { from_rows, ..Move::all(of(from), of(to)) }
    }

    pub fn launch(self) -> Launch {
        let Move { from, to, columns, rows, from_rows, to_rows, row_coef, nonfinite_row } = self;
        let params = DpoMoveRows {
            from: from.0,
            to: to.0,
            from_rows,
            to_rows,
            row_coef,
            nonfinite_row,
            rows: rows as u32,
            columns: columns as u32,
        };
        launch(Kernel::MoveRows { from: from.1, to: to.1 }, rows, Arguments::MoveRows(params))
    }
}

/// What the gradient of the rows of the batch's window is still to be multiplied by.
pub fn row_coef(params: DpoRowCoef) -> Launch {
    let rows = params.batch.end_row - params.batch.first_row;
    launch(Kernel::RowCoef, warps(rows as usize), Arguments::RowCoef(params))
}

/// Zeroes in the rows of a matrix whose c is 0. Its rows are whole vectors.
pub fn clear_rows(matrix: Matrix, row_coef: DeviceAddress) -> Launch {
    let params = DpoClearRows {
        matrix: matrix.address,
        row_coef,
        rows: matrix.rows as u32,
        row_vectors: (matrix.row_stride * matrix.dtype.size() / 16) as u32,
    };
    launch(Kernel::ClearRows, matrix.rows, Arguments::ClearRows(params))
}

/// dbias += Gᵀ c.
pub fn bias_gradient(gradient: Matrix, row_coef: DeviceAddress, dbias: DeviceAddress) -> Launch {
    let params = DpoBiasGradient {
        gradient: gradient.address,
        row_coef,
        dbias,
        row_stride: gradient.row_stride as i64,
        rows: gradient.rows as u32,
        columns: gradient.columns as u32,
    };
    let blocks = gradient.columns.div_ceil(WARP as usize);
    launch(Kernel::BiasGradient { dtype: gradient.dtype }, blocks, Arguments::BiasGradient(params))
}

/// Results of the scored rows to their places.
pub fn token_results(params: DpoTokenResults) -> Launch {
    launch(Kernel::TokenResults, warps(params.scored_rows as usize), Arguments::TokenResults(params))
}
