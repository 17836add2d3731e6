//! Which rows are multiplied when: a pure function of the batch, its labels, the loss and the memory that logits may take.

use super::gradients::WantedGradients;
use crate::batch::HostBatch;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::loss::PairLoss;

/// How a row's gradients come about. All ways give the same numbers, up to rounding.
///
/// | way | products of 2 · rows · hidden_size · vocab operations | when |
/// |---|---|---|
/// | [`Logps`](Way::Logps) | 1: z | no gradient is wanted |
/// | [`FrozenWeight`](Way::FrozenWeight) | 2: z, G W | that of the hidden states alone: c is multiplied in at the very end, whatever it depends on |
/// | [`WholePairs`](Way::WholePairs) | 3: z, G W, Gᵀ (diag(c) X) | those of weight or bias, too: a chunk has whole pairs, so that c is known while it has their logits |
/// | [`TwoSweeps`](Way::TwoSweeps) | 4: z twice | the same, where a pair does not fit into a chunk, or its c depends on the whole batch |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Log-probs alone.
    Logps,
    /// dX is G W, whose rows are multiplied by c once all chunks are through.
    FrozenWeight,
    /// All gradients of a chunk's pairs while its logits are there.
    WholePairs,
    /// All log-probs first; then logits again, and gradients of the rows whose c is not 0.
    TwoSweeps,
}

/// Rows that are multiplied together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// How their gradients come about.
    pub way: Way,
    /// Scored rows of the batch, in ascending order for each sequence.
    pub rows: Vec<usize>,
}

/// What a pass through the head does, before it does it.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, LmHeadPlan, PairLoss, WantedGradients, Way};
///
/// // Two pairs of 512 scored tokens a sequence: 134 MiB have room for one pair's logits and hidden states at a time.
/// let batch = HostBatch::padded(4, 512, 32_000, LabelAlignment::Aligned);
/// let labels = vec![7i64; 4 * 512];
/// let wanted = WantedGradients { hidden: true, weight: true, bias: false };
/// let loss = PairLoss::sigmoid(0.1)?;
/// let plan = |bytes| LmHeadPlan::new(&batch, labels[..].into(), Some(&loss), wanted, 4 * (32_000 + 2 * 896), bytes);
/// let whole_pairs = plan(134 << 20)?;
/// assert_eq!((whole_pairs.chunks().len(), whole_pairs.chunks()[0].way), (2, Way::WholePairs));
/// assert_eq!(whole_pairs.multiplied_rows(), 3 * 2048);
/// // With half of it the logits are made twice.
/// let two_sweeps = plan(67 << 20)?;
/// assert_eq!((two_sweeps.chunks().len(), two_sweeps.multiplied_rows()), (4, 4 * 2048));
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LmHeadPlan {
    wanted: WantedGradients,
    chunks: Vec<Chunk>,
    bytes_per_row: usize,
}

impl LmHeadPlan {
    /// The plan for a loss, or for log-probs where there is none, with chunks of at most `budget_bytes`, of which a row takes
    /// `bytes_per_row`.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](crate::Batch::validate); [`Error::Length`] that names `labels`; [`Error::Value`] for a budget
    /// below one row; [`Error::Missing`] for a loss, where gradients are wanted.
    pub fn new(
        batch: &HostBatch<'_>,
        labels: Labels<'_>,
        loss: Option<&PairLoss>,
        wanted: WantedGradients,
        bytes_per_row: usize,
        budget_bytes: usize,
    ) -> Result<Self> {
        batch.validate()?;
        Error::check_len("labels", "[rows]", batch.rows(), labels.len())?;
        let most = rows_within(budget_bytes, bytes_per_row)?;
        let rows = |s: usize| scored_rows(batch, labels, s);
        let every_row = || (0..batch.sequences.count()).flat_map(rows);
        let chunks = if wanted == WantedGradients::default() {
            cut(every_row(), Way::Logps, most)
        } else {
            let because = "gradients are wanted";
            let loss = loss.ok_or(Error::Missing { argument: "loss", because })?;
            if !(wanted.weight || wanted.bias) {
                cut(every_row(), Way::FrozenWeight, most)
            } else if loss.terms().iter().any(|term| term.kind.couples_pairs()) {
                cut(every_row(), Way::TwoSweeps, most)
            } else {
                whole_pairs(batch, rows, most)
            }
        };
        Ok(LmHeadPlan { wanted, chunks, bytes_per_row })
    }

    /// The chunks, in the order of their first products.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Rows of the largest chunk.
    pub fn most_rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.rows.len()).max().unwrap_or(0)
    }

    /// Bytes of the largest chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.most_rows() * self.bytes_per_row
    }

    /// Rows over all products, each of 2 · hidden_size · vocab operations a row: at most, since the second of
    /// [two sweeps](Way::TwoSweeps) leaves out rows whose coefficient is 0.
    pub fn multiplied_rows(&self) -> usize {
        let products = |way: Way| self.wanted.products() + if way == Way::TwoSweeps { 2 } else { 1 };
        self.chunks.iter().map(|chunk| products(chunk.way) * chunk.rows.len()).sum()
    }
}

/// Rows of a chunk at most.
pub(crate) fn rows_within(budget_bytes: usize, bytes_per_row: usize) -> Result<usize> {
    match budget_bytes / bytes_per_row.max(1) {
        0 => {
            let expected = format!("at least {bytes_per_row}, the bytes of one row");
            Err(Error::value("budget_bytes", expected, budget_bytes))
        }
        rows => Ok(rows),
    }
}

/// The scored rows of sequence `s`.
fn scored_rows(batch: &HostBatch<'_>, labels: Labels<'_>, s: usize) -> impl Iterator<Item = usize> {
    let rows = batch.sequences.range(s);
    let end = rows.end;
    rows.filter(move |&row| batch.label(labels, row, end).is_some())
}

/// As few chunks of the rows, in their order, as there may be, and of about the same size: each reads all of the weight.
fn cut(rows: impl Iterator<Item = usize>, way: Way, most: usize) -> Vec<Chunk> {
    let rows: Vec<usize> = rows.collect();
    let chunks = rows.len().div_ceil(most).max(1);
    let each = rows.len().div_ceil(chunks).max(1);
    rows.chunks(each).map(|rows| Chunk { way, rows: rows.to_vec() }).collect()
}

/// Chunks of as many whole groups of sequences as fit, where a group's coefficients depend on no other's; groups that do not
/// fit by themselves are cut.
fn whole_pairs<R: Iterator<Item = usize>>(
    batch: &HostBatch<'_>,
    rows: impl Fn(usize) -> R,
    most: usize,
) -> Vec<Chunk> {
    let mut chunks = vec![];
    let mut whole = vec![];
    let mut too_large = vec![];
    for group in groups(batch) {
        let group: Vec<usize> = group.into_iter().flat_map(&rows).collect();
        if group.len() > most {
            too_large.extend(group);
            continue;
        }
        if whole.len() + group.len() > most {
            chunks.push(Chunk { way: Way::WholePairs, rows: std::mem::take(&mut whole) });
        }
        whole.extend(group);
    }
    if !whole.is_empty() {
        chunks.push(Chunk { way: Way::WholePairs, rows: whole });
    }
    chunks.extend(cut(too_large.into_iter(), Way::TwoSweeps, most));
    chunks
}

/// The sequences that pairs connect, directly or through others: a sequence may stand in several pairs.
fn groups(batch: &HostBatch<'_>) -> Vec<Vec<usize>> {
    let sequences = batch.sequences.count();
    let mut first: Vec<usize> = (0..sequences).collect();
    // The least sequence of a group stands for it.
    fn representative(first: &mut [usize], mut s: usize) -> usize {
        while first[s] != s {
            first[s] = first[first[s]];
            s = first[s];
        }
        s
    }
    let count = batch.pair_count();
    for i in 0..count {
        if let (Some(w), Some(l)) = batch.pairs.members(i, count) {
            let (a, b) = (representative(&mut first, w), representative(&mut first, l));
            first[a.max(b)] = a.min(b);
        }
    }
    let mut groups = vec![vec![]; sequences];
    for s in 0..sequences {
        groups[representative(&mut first, s)].push(s);
    }
    groups.retain(|group| !group.is_empty());
    groups
}
