//! Products of matrices in row-major order, by the `gemm` crate, on the current rayon thread pool.

use gemm::Parallelism;

/// A matrix to read: rows of a slice, or the transpose of such a one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` elements, `stride` from one to the next.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert_holds(values.len(), rows, columns, stride);
        Matrix { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix to write: rows of a slice.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Rows of `columns` elements, `stride` from one to the next.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert_holds(values.len(), rows, columns, stride);
        MatrixMut { values, rows, columns, stride }
    }

    /// Becomes a · b.
    pub fn set_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.multiply(false, a, b);
    }

    /// Has a · b added to it.
    pub fn add_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.multiply(true, a, b);
    }

    fn multiply(self, add: bool, a: Matrix<'_>, b: Matrix<'_>) {
        let MatrixMut { values, rows, columns, stride } = self;
        assert_eq!((a.rows, a.columns, b.columns), (rows, b.rows, columns));
        // SAFETY: every matrix holds its rows and columns at its strides, as their constructors have asserted, and the sizes fit
        // to each other; the one that is written is borrowed alone.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                a.columns,
                values.as_mut_ptr(),
                1,
                stride as isize,
                add,
                a.values.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    }
}

/// Rows of `columns` elements at a stride that is no smaller lie within `len` elements.
fn assert_holds(len: usize, rows: usize, columns: usize, stride: usize) {
    assert!(columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= len));
}
