//! How large the batches may be that memory was allocated for.

use crate::batch::{Batch, COUNT_LIMIT};
use crate::error::{Error, Result};
use crate::memory::Extent;
use crate::sequences::IndexArray;

/// How large the batches may be that memory was allocated for, so that shapes can change from launch to
/// launch.
///
/// A [`Workspace`](super::Workspace) and a [`DpoPass`](crate::cuda::DpoPass) take any batch that is
/// [within](Self::check) their capacity.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment};
/// use dpo_kernels::cuda::plan::Capacity;
///
/// let capacity = Capacity { sequences: 4, rows: 100, pairs: 2, vocab: 1000 };
/// capacity.check(&HostBatch::packed(&[0, 9, 30, 51, 60], 60, 1000, LabelAlignment::Aligned))?;
/// let refused = capacity.check(&HostBatch::padded(4, 30, 1000, LabelAlignment::Aligned)).unwrap_err();
/// assert_eq!(refused.to_string(), "rows: expected at most 100, the capacity, found 120");
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences S, at least 1.
    pub sequences: usize,
    /// Rows over all sequences, at least 1.
    pub rows: usize,
    /// Pairs N: as many as sequences for batches that are [unpaired](crate::Pairs::Unpaired), and 0 for those
    /// without pairs.
    pub pairs: usize,
    /// Vocabulary size V, at least 1. The row stride is of no account.
    pub vocab: usize,
}

impl Capacity {
    /// What a batch takes, and no more. Meaningful for a batch that [`validate_shape`](Batch::validate_shape)
    /// accepts.
    pub fn of<A: IndexArray>(batch: &Batch<A>) -> Self {
        let Extent { sequences, rows, pairs } = batch.extent();
        Capacity { sequences, rows, pairs, vocab: batch.vocab }
    }

    /// The least capacity for what either is one for: folded over the batches of a data set, one for all of
    /// them.
    #[must_use]
    pub fn max(self, other: Capacity) -> Self {
        Capacity {
            sequences: self.sequences.max(other.sequences),
            rows: self.rows.max(other.rows),
            pairs: self.pairs.max(other.pairs),
            vocab: self.vocab.max(other.vocab),
        }
    }

    /// Checks that the numbers are such as a batch can have.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `sequences`, `rows`, `pairs` or `vocab`.
    pub fn validate(&self) -> Result<()> {
        for (argument, least, found) in [
            ("sequences", 1, self.sequences),
            ("rows", 1, self.rows),
            ("pairs", 0, self.pairs),
            ("vocab", 1, self.vocab),
        ] {
            if !(least..=COUNT_LIMIT).contains(&found) {
                return Err(Error::value(
                    argument,
                    format!("a capacity between {least} and {COUNT_LIMIT}"),
                    found,
                ));
            }
        }
        Ok(())
    }

    /// Checks that a batch is within this capacity.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate) and of [`Batch::validate_shape`]; [`Error::Value`] that names
    /// `sequences`, `rows`, `pairs` or `vocab` where the batch has more of them.
    pub fn check<A: IndexArray>(&self, batch: &Batch<A>) -> Result<()> {
        self.validate()?;
        batch.validate_shape()?;
        let needed = Capacity::of(batch);
        for (argument, most, found) in [
            ("sequences", self.sequences, needed.sequences),
            ("rows", self.rows, needed.rows),
            ("pairs", self.pairs, needed.pairs),
            ("vocab", self.vocab, needed.vocab),
        ] {
            if found > most {
                return Err(Error::value(argument, format!("at most {most}, the capacity"), found));
            }
        }
        Ok(())
    }

    /// The extent of the largest batch.
    pub fn extent(&self) -> Extent {
        Extent { sequences: self.sequences, rows: self.rows, pairs: self.pairs }
    }

    /// Entries of all index arrays of a batch within this capacity at most: cu_seqlens, and chosen and
    /// rejected, or desirable. [`pack_index_arrays`](super::pack_index_arrays) puts no more of them together.
    pub fn index_entries(&self) -> usize {
        // There are as many pairs as sequences where those are unpaired, so desirable takes the place of
        // chosen.
        self.sequences.saturating_add(1).saturating_add(self.pairs.saturating_mul(2))
    }
}
