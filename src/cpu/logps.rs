//! From logits to log-probs of tokens and sequences.

use rayon::prelude::*;

use super::row::row_kernels;
use super::row_logp::RowLogp;
use super::row_metrics::RowMetrics;
use super::tasks::task_rows;
use super::transform::TransformKind;
use crate::batch::HostBatch;
use crate::dtype::Logit;
use crate::error::Result;
use crate::labels::Labels;
use crate::memory::HostMemory;
use crate::metrics::MeanTokenMetricsSum;
use crate::results::{LogpsSlices, LogpsTensors, MetricsLevel};
use crate::status::Status;

/// `logps`: log-probs of the labels, per token and per sequence.
///
/// ```text
/// z′           = transform(z)                                    z itself, unless Batch::transform says otherwise
/// logsumexp[r] = log Σ_v exp z′[r, v]                            v below valid_vocab
/// logp[r]      = z′[r, y_r] − logsumexp[r] = −log(1 + Σ_{v ≠ y_r} exp(z′[r, v] − z′[r, y_r]))
/// logp_s       = Σ_{r in s, label ≠ ignore} w[r] logp[r]         w = 1, or ld_alpha beyond the other's length
/// ```
///
/// `logits` is `[rows, vocab]` with [`row_stride`](crate::Batch::row_stride), of exactly `rows · row_stride` elements or of
/// [`logits_len`](crate::Batch::logits_len), which ends with the last row: whoever has a larger buffer hands on a slice of
/// it, since a longer one would hide that T or V is off by one; `labels` is `[rows]`. Log-probs are in nats. Rows are summed in f32
/// over short blocks and f64 beyond, sequences in f64 in row order, and rounded once. Ignored rows are not read.
/// Token metrics come from the same read where [`Logps::metrics`] asks for them. The label is summed apart from the other
/// tokens, so that the log-prob of one that is all but certain keeps its digits, however small it is.
///
/// A NaN in a scored row, a row of −∞, and a label outside the vocabulary give NaN; a label at a logit of −∞ gives
/// −∞ (PyTorch's `log_softmax` semantics). All are recorded in [`Logps::status`], with the first place.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, Logps, Pairs, cpu};
///
/// // One sequence of a reference model: equal logits over four tokens, at two rows of which one is scored.
/// let batch = HostBatch { pairs: Pairs::None, ..HostBatch::padded(1, 2, 4, LabelAlignment::Aligned) };
/// let mut out = Logps::default();
/// cpu::logps(&batch, &[0.5f32; 8], [3i64, -100][..].into(), &mut out)?;
/// out.status.check()?;
/// assert_eq!((out.scored[0], out.logps[0]), (1, -(4f32.ln())));
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate), and [`Error::Length`] that names `logits` or `labels`. `out` is
/// untouched then.
///
/// [`Logps::metrics`]: crate::Logps::metrics
/// [`Logps::status`]: crate::Logps::status
/// [`Error::Length`]: crate::Error::Length
pub fn logps<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    out: &mut LogpsTensors<M>,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    let mut out = out.slices(&batch.extent())?;
    let rows = read_rows(batch, logits, labels, out.metrics_level());
    sum_sequences(batch, labels, &rows, &mut out);
    Ok(())
}

/// What one read of a row gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowResult {
    pub logp: RowLogp,
    pub metrics: RowMetrics,
}

impl RowResult {
    /// A row that is not scored, or whose label is a bad one: neither is read.
    pub fn unread(label: Option<i64>) -> Self {
        match label {
            None => RowResult { logp: RowLogp::NOT_SCORED, metrics: RowMetrics::NOT_SCORED },
            Some(_) => RowResult { logp: RowLogp::BAD_LABEL, metrics: RowMetrics::BAD_LABEL },
        }
    }
}

/// The label that a row predicts, if it is scored.
pub(super) fn label_of(batch: &HostBatch<'_>, labels: Labels<'_>, row: usize) -> Option<i64> {
    batch.label(labels, row, batch.sequences.range(batch.sequences.of_row(row)).end)
}

/// Reads a scored row once, whose label is in a column of it.
pub(super) fn read_row<T: Logit>(
    logits: &[T],
    column: usize,
    transform: TransformKind,
    level: MetricsLevel,
) -> RowResult {
    let (kernels, unasked) = (row_kernels::<T>(), RowMetrics::NOT_SCORED);
    let (logp, metrics) = match level {
        MetricsLevel::None => (kernels.logp(logits, column, transform), unasked),
        MetricsLevel::Entropy => {
            let (logp, entropy) = kernels.logp_and_entropy(logits, column, transform);
            (logp, RowMetrics { entropy, ..unasked })
        }
        MetricsLevel::All => kernels.logp_and_metrics(logits, column, transform),
    };
    RowResult { logp, metrics }
}

/// Reads every scored row once.
pub(super) fn read_rows<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    level: MetricsLevel,
) -> Vec<RowResult> {
    let transform = TransformKind::from(&batch.transform);
    let read = |row: usize| {
        let label = label_of(batch, labels, row);
        let Some(column) = label.and_then(|label| batch.column(label)) else {
            return RowResult::unread(label);
        };
        read_row(&logits[row * batch.row_stride..][..batch.columns()], column, transform, level)
    };
    (0..batch.rows()).into_par_iter().with_min_len(task_rows(batch.vocab)).map(read).collect()
}

/// What `pair_loss` reads of the sequences.
pub(super) struct Sequences {
    pub logps: Vec<f32>,
    pub scored: Vec<u32>,
}

/// Sums the rows to sequences, in row order, and writes what is wanted of rows and sequences.
pub(super) fn sum_sequences(
    batch: &HostBatch<'_>,
    labels: Labels<'_>,
    rows: &[RowResult],
    out: &mut LogpsSlices<'_>,
) -> Sequences {
    let mut status = Status::default();
    let mut mean = MeanTokenMetricsSum::default();
    let count = batch.sequences.count();
    let mut sequences = Sequences { logps: Vec::with_capacity(count), scored: Vec::with_capacity(count) };
    if let Some(weights) = &mut out.token_weights {
        weights.fill(0.0);
    }
    for s in 0..count {
        let full_tokens = batch.full_tokens(labels, s);
        let range = batch.sequences.range(s);
        let (mut logp, mut log_weight, mut scored) = (0.0, 0.0, 0);
        for row in range.clone() {
            let Some(label) = batch.label(labels, row, range.end) else { continue };
            let RowResult { logp: row_logp, metrics } = rows[row];
            let token_logp = f64::from(row_logp.logp);
            let weight = if scored < full_tokens { 1.0 } else { batch.ld_alpha };
            if let Some(weights) = &mut out.token_weights {
                weights[row] = weight;
            }
            logp += f64::from(weight) * token_logp;
            log_weight += token_logp - f64::from(metrics.sum_p2).ln();
            mean.add(
                metrics.entropy.into(),
                metrics.correct.into(),
                metrics.mean_logit.into(),
                row_logp.logsumexp.into(),
                metrics.sum_p2.into(),
            );
            scored += 1;
            if batch.column(label).is_none() {
                status.bad_label.get_or_insert(row);
            }
            if !row_logp.logp.is_finite() {
                status.nonfinite_row.get_or_insert(row);
            }
        }
        if scored == 0 {
            status.empty_sequence.get_or_insert(s);
        }
        sequences.logps.push(logp as f32);
        sequences.scored.push(scored as u32);
        if let Some(log_weights) =
            out.metrics.as_mut().and_then(|metrics| metrics.sequence_log_weights.as_mut())
        {
            log_weights[s] = (log_weight / scored.max(1) as f64) as f32;
        }
    }

    let write = |to: &mut Option<&mut [f32]>, value: fn(&RowResult) -> f32| {
        if let Some(to) = to {
            to.iter_mut().zip(rows).for_each(|(to, row)| *to = value(row));
        }
    };
    write(&mut out.token_logps, |row| row.logp.logp);
    write(&mut out.logsumexp, |row| row.logp.logsumexp);
    write(&mut out.logsumexp_residual, |row| row.logp.residual);
    if let Some(metrics) = &mut out.metrics {
        write(&mut metrics.entropy, |row| row.metrics.entropy);
        write(&mut metrics.correct, |row| row.metrics.correct);
        write(&mut metrics.mean_logit, |row| row.metrics.mean_logit);
        write(&mut metrics.sum_p2, |row| row.metrics.sum_p2);
        if let Some(to) = &mut metrics.mean {
            **to = mean.mean();
        }
    }
    if let Some(to) = &mut out.logps {
        to.copy_from_slice(&sequences.logps);
    }
    if let Some(to) = &mut out.scored {
        to.copy_from_slice(&sequences.scored);
    }
    if let Some(to) = &mut out.status {
        **to = status;
    }
    sequences
}
