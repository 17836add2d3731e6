//! How rows of logits form sequences.

/// An array of indices whose length the host knows, wherever its elements live.
pub trait IndexArray {
    /// Number of elements.
    fn count(&self) -> usize;
}

impl IndexArray for &[i32] {
    fn count(&self) -> usize {
        self.len()
    }
}

/// How rows form sequences. Every sequence is a contiguous run of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences<A> {
    /// `[count, len]`: sequence `s` is rows `s·len .. (s+1)·len`; padding is marked by the ignore index.
    Padded {
        /// Number of sequences S.
        count: usize,
        /// Rows per sequence T.
        len: usize,
    },
    /// Sequence `s` is rows `cu_seqlens[s] .. cu_seqlens[s+1]`.
    Packed {
        /// `[S + 1]`, from 0 to `rows`, never decreasing; equal neighbours are an empty sequence.
        cu_seqlens: A,
        /// Number of rows, which is also the last entry of `cu_seqlens`.
        rows: usize,
    },
}

impl<A: IndexArray> Sequences<A> {
    /// Number of sequences S.
    pub fn count(&self) -> usize {
        match self {
            Sequences::Padded { count, .. } => *count,
            Sequences::Packed { cu_seqlens, .. } => cu_seqlens.count().saturating_sub(1),
        }
    }

    /// Number of rows over all sequences, or `None` if that overflows.
    pub(crate) fn checked_rows(&self) -> Option<usize> {
        match self {
            Sequences::Padded { count, len } => count.checked_mul(*len),
            Sequences::Packed { rows, .. } => Some(*rows),
        }
    }
}

impl Sequences<&[i32]> {
    /// Rows of sequence `s`, of a validated batch.
    pub(crate) fn range(&self, s: usize) -> std::ops::Range<usize> {
        match self {
            Sequences::Padded { len, .. } => s * len..(s + 1) * len,
            Sequences::Packed { cu_seqlens, .. } => cu_seqlens[s] as usize..cu_seqlens[s + 1] as usize,
        }
    }

    /// The sequence that row `row` belongs to, of a validated batch.
    pub(crate) fn of_row(&self, row: usize) -> usize {
        match self {
            Sequences::Padded { len, .. } => row / len,
            // The last sequence to start at or before the row: empty ones that start there come earlier.
            Sequences::Packed { cu_seqlens, .. } => {
                cu_seqlens.partition_point(|&start| start as usize <= row) - 1
            }
        }
    }
}
