//! A run of a batch's rows, which is what one launch covers.

use crate::cuda::address::DeviceAddress;
use crate::error::{Error, Result};

/// Rows `first..end` of a batch, both counted in the batch: those that a launch covers, and whose logits are in memory.
///
/// Whoever makes the logits of a few rows at a time plans each pass once for each window, with the logits, and the gradient,
/// of its rows alone; all else (labels, results, coefficients, workspace) is the whole batch's. The launches of one forward
/// pass follow one another on one stream, with the same workspace, and their windows hold each row of the batch once, in any
/// order: log-probs of sequences, status and the loss over pairs are there after the last of them, with the bits that a
/// single launch gives.
///
/// ```
/// use dpo_kernels::cuda::plan::RowWindow;
///
/// // A batch of 1000 rows, 384 at a time.
/// let windows: Vec<RowWindow> = RowWindow::each(1000, 384).collect();
/// assert_eq!(windows.last(), Some(&RowWindow { first: 768, end: 1000 }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowWindow {
    /// The first row.
    pub first: usize,
    /// One past the last row.
    pub end: usize,
}

impl RowWindow {
    /// Windows of `most` rows, and a last one of what is left, that together hold `rows` rows. A `most` of 0 counts as 1.
    pub fn each(rows: usize, most: usize) -> impl Iterator<Item = RowWindow> {
        let most = most.max(1);
        (0..rows)
            .step_by(most)
            .map(move |first| RowWindow { first, end: rows.min(first.saturating_add(most)) })
    }

    /// Itself, if it has rows and they are of a batch of `rows` rows.
    pub(super) fn within(self, rows: usize) -> Result<Self> {
        if self.first < self.end && self.end <= rows {
            return Ok(self);
        }
        let expected = format!("at least one row, of the {rows} of the batch");
        Err(Error::value("window", expected, format!("rows {}..{}", self.first, self.end)))
    }

    /// Rows in it.
    pub(super) fn rows(self) -> usize {
        self.end - self.first
    }

    /// Kernels address rows by their index in the batch: from where its row 0 would be, if the first row of this window is
    /// at `start`, and rows are `row_bytes` apart. That may lie before all memory; it only ever serves to find rows of the
    /// window.
    pub(super) fn row_0(self, start: DeviceAddress, row_bytes: usize) -> DeviceAddress {
        start.wrapping_sub((self.first * row_bytes) as u64)
    }
}
