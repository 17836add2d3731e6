//! The scored rows of a batch, put together.

use std::ops::Range;

use crate::batch::{Batch, HostBatch};
use crate::cuda::address::{DeviceAddress, DeviceArray};
use crate::cuda::plan::batch::DeviceBatch;
use crate::cuda::plan::capacity::Capacity;
use crate::error::{Error, Result};
use crate::labels::{LabelAlignment, Labels};
use crate::sequences::{IndexArray, Sequences};
use crate::transform::Transform;

/// The scored rows of a batch, put together: what the passes through the head see of it.
///
/// The head multiplies no row that is not scored, and the host, which has the labels, knows which are. They are a packed batch of
/// the same sequences, pairs and weights of tokens, all of whose rows are scored; a sequence without scored rows is an empty
/// one. Its index arrays, its labels and the places of its rows in the caller's batch are the [`entries`](Self::entries), which
/// one copy brings to the device.
///
/// ```
/// use dpo_kernels::cuda::plan::LmHeadRows;
/// use dpo_kernels::{HostBatch, LabelAlignment};
///
/// // A pair of three rows each, of which prompts are ignored: two rows, and one.
/// let batch = HostBatch::padded(2, 3, 1000, LabelAlignment::Aligned);
/// let rows = LmHeadRows::new(&batch, [-100i64, 7, 8, -100, -100, 9][..].into())?;
/// assert_eq!(rows.count(), 3);
/// // cu_seqlens, labels, rows and scored rows of each sequence.
/// assert_eq!(rows.entries(), [0, 2, 3, 7, 8, 9, 1, 2, 5, 2, 1]);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LmHeadRows {
    batch: Batch<Span>,
    entries: Vec<i32>,
    labels: Span,
    names: Span,
    scored: Span,
    /// Rows of the caller's batch.
    all: usize,
}

/// A run of entries.
#[derive(Debug, Clone, PartialEq)]
struct Span(Range<usize>);

impl IndexArray for Span {
    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Stands for every label that lies outside the vocabulary, whether or not i32 holds it.
const BAD_LABEL: i32 = -2;
/// The label of the one row that a batch without scored rows keeps, since a batch has rows.
const IGNORED: i32 = -1;

impl LmHeadRows {
    /// The scored rows of a batch. The batch's [`row_stride`](Batch::row_stride) is of no account.
    ///
    /// # Errors
    ///
    /// Those of [`HostBatch::validate`], and [`Error::Length`] that names `labels`.
    pub fn new(batch: &HostBatch<'_>, labels: Labels<'_>) -> Result<Self> {
        batch.validate()?;
        Error::check_len("labels", "[rows]", batch.rows(), labels.len())?;
        let (mut cu_seqlens, mut found, mut names, mut scored) = (vec![0], vec![], vec![], vec![]);
        for s in 0..batch.sequences.count() {
            let rows = batch.sequences.range(s);
            let end = rows.end;
            for row in rows {
                let Some(label) = batch.label(labels, row, end) else { continue };
                found.push(batch.column(label).map_or(BAD_LABEL, |column| column as i32));
                names.push(row as i32);
            }
            scored.push(names.len() as i32 - cu_seqlens[s]);
            cu_seqlens.push(names.len() as i32);
        }
        if names.is_empty() {
            let first = (0..batch.sequences.count()).find(|&s| !batch.sequences.range(s).is_empty());
            cu_seqlens.iter_mut().skip(first.map_or(1, |s| s + 1)).for_each(|end| *end = 1);
            found.push(IGNORED);
            names.push(0);
        }

        let mut entries = vec![];
        let mut append = |values: &[i32]| {
            entries.extend_from_slice(values);
            Span(entries.len() - values.len()..entries.len())
        };
        let sequences = Sequences::Packed { cu_seqlens: append(&cu_seqlens), rows: names.len() };
        let pairs = batch.pairs.try_map_indices(|array| Ok(append(array)))?;
        let columns = batch.columns();
        let packed = Batch {
            // What a dtype's rows are apart is for the plan to say.
            row_stride: columns,
            pairs,
            ignore_index: IGNORED.into(),
            transform: Transform { valid_vocab: None, ..batch.transform },
            ld_alpha: batch.ld_alpha,
            ..Batch::new(columns, sequences, LabelAlignment::Aligned)
        };
        let (labels, names, scored) = (append(&found), append(&names), append(&scored));
        Ok(LmHeadRows { batch: packed, entries, labels, names, scored, all: batch.rows() })
    }

    /// How many rows there are. A batch without scored rows keeps one, which is not read.
    pub fn count(&self) -> usize {
        self.names.count()
    }

    /// What is to be on the device while a plan runs: 4-byte numbers, whose address the plan is told.
    pub fn entries(&self) -> &[i32] {
        &self.entries
    }

    /// How many entries there are at most for batches within a capacity.
    pub fn most_entries(capacity: &Capacity) -> usize {
        let rows = capacity.rows.saturating_mul(2);
        capacity.index_entries().saturating_add(capacity.sequences).saturating_add(rows)
    }

    /// The capacity that the rows take.
    pub fn capacity(&self) -> Capacity {
        Capacity::of(&self.batch)
    }

    /// Whether no row is scored: the one that is there then is not multiplied.
    pub(super) fn is_empty(&self) -> bool {
        self.entries[self.labels.0.start] == IGNORED
    }

    /// Rows of the caller's batch.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// Whether the gradients take weights of tokens.
    pub(crate) fn weighs_tokens(&self) -> bool {
        self.batch.ld_alpha != 1.0
    }

    /// Columns that are multiplied.
    pub(super) fn columns(&self) -> usize {
        self.batch.vocab
    }

    /// The batch on the host, with its labels.
    pub(super) fn on_host(&self) -> Result<(HostBatch<'_>, Labels<'_>)> {
        let batch = self.batch.try_map_indices(|span| Ok(&self.entries[span.0.clone()]))?;
        Ok((batch, Labels::I32(&self.entries[self.labels.0.clone()])))
    }

    /// The batch on the device.
    pub(super) fn on_device(&self, entries: DeviceAddress, row_stride: usize) -> Result<DeviceBatch> {
        let batch = self
            .batch
            .try_map_indices(|span| Ok(DeviceArray { address: at(entries, span), len: span.count() }))?;
        Ok(Batch { row_stride, ..batch })
    }

    /// `[count]`: the labels on the device.
    pub(super) fn labels(&self, entries: DeviceAddress) -> DeviceAddress {
        at(entries, &self.labels)
    }

    /// `[count]`: the rows of the caller's batch that these are, in ascending order.
    pub(super) fn names(&self, entries: DeviceAddress) -> DeviceAddress {
        at(entries, &self.names)
    }

    /// `[S]`: how many rows each sequence has that are scored.
    pub(super) fn scored(&self, entries: DeviceAddress) -> DeviceAddress {
        at(entries, &self.scored)
    }
}

fn at(entries: DeviceAddress, span: &Span) -> DeviceAddress {
    entries.wrapping_add(size_of::<i32>() as u64 * span.0.start as u64)
}
