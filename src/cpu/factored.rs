//! `forward`, and the gradient without its coefficients, with one read of the logits.

use rayon::prelude::*;

use super::logps::{RowResult, label_of, sum_sequences};
use super::row::row_kernels;
use super::row_gradient::{RowGradient, Source};
use super::row_logp::RowLogp;
use super::row_metrics::RowMetrics;
use super::tasks::{STREAM_BYTES, task_rows};
use super::transform::TransformKind;
use crate::batch::HostBatch;
use crate::dtype::Logit;
use crate::error::Result;
use crate::labels::Labels;
use crate::loss::{PairInputs, PairLoss, PairStage};
use crate::memory::HostMemory;
use crate::results::ForwardTensors;

/// [`forward`](super::forward()), and the gradient without its coefficients, with one read and one write of the logits.
///
/// ```text
/// gradient[r, v] = (1[v = y_r] − softmax(z′[r])[v]) · ∂z′/∂z
/// dlogits[r, v]  = c · gradient[r, v],   c = coef[s] · upstream
/// ```
///
/// c_s is known only when all rows of a pair have been read, which is why [`backward`] must read the logits again. Here
/// the gradient is written at once, and whoever consumes it multiplies by c: where the logits come from a linear head,
/// z = X Wᵀ with hidden states X `[rows, hidden]` and W `[vocab, hidden]`, the coefficients of the rows go into the two
/// products that follow, at no cost beside them:
///
/// ```text
/// dX = diag(c) (G W)        dW = Gᵀ (diag(c) X)        c[r] = coef[s] · upstream, of the sequence s that has row r
/// ```
///
/// `gradient` is laid out like the logits; its values are rounded once to their type, before c comes to them. (In f16
/// that loses probabilities below 2⁻²⁵, which no loss scaling brings back; bf16 and f32 have the range.) Where a c is
/// infinite, c times it is infinite or NaN, not always as [`backward`] has it. Rows that are
/// not scored become exactly 0 and are not read; rows that cannot be scored become NaN. All of `out` is as from
/// [`forward`](super::forward()), bit for bit. Under LD-DPO, c of a row is also multiplied by its
/// [`token_weights`](crate::Logps::token_weights).
///
/// ```
/// use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, cpu};
///
/// let batch = HostBatch::padded(2, 1, 3, LabelAlignment::Aligned);
/// let (logits, labels) = ([1.0f32, 0.0, -1.0, 0.5, 0.5, 0.5], [0i64, 2]);
/// let loss = PairLoss::sigmoid(0.1)?;
/// let (mut out, mut gradient) = (Forward::default(), vec![0.0; 6]);
/// let inputs = PairInputs::reference(&[-1.5, -1.0]);
/// cpu::factored(&batch, &logits, labels[..].into(), &inputs, &loss, &mut out, &mut gradient)?;
/// assert!((gradient[5] - (1.0 - 1.0 / 3.0)).abs() < 1e-6);
///
/// let mut dlogits = vec![0.0; 6];
/// cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?;
/// assert!((dlogits[5] - out.pairs.coef[1] * gradient[5]).abs() < 1e-8);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`forward`](super::forward()); [`Error::Length`] that names `gradient`; [`Error::Value`] for token metrics, which
/// only the other passes know. Nothing is written then.
///
/// [`backward`]: super::backward()
/// [`Error::Length`]: crate::Error::Length
/// [`Error::Value`]: crate::Error::Value
pub fn factored<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut ForwardTensors<M>,
    gradient: &mut [T],
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    batch.check_logits("gradient", gradient.len())?;
    let source = |row: usize| Source::Separate(&logits[row * batch.row_stride..][..batch.columns()]);
    factor_rows(batch, labels, inputs, loss, out, gradient, source)
}

/// [`factored`] that leaves the gradient where the logits were, bit for bit the same.
///
/// # Errors
///
/// Those of [`factored`]; nothing is written then.
pub fn factored_in_place<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    logits: &mut [T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut ForwardTensors<M>,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    factor_rows(batch, labels, inputs, loss, out, logits, |_| Source::InPlace)
}

/// Row by row, `logps` and at once the gradient, which finds the row in the caches; then `pair_loss`.
fn factor_rows<'a, T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut ForwardTensors<M>,
    gradient: &mut [T],
    source: impl Fn(usize) -> Source<'a, T> + Sync,
) -> Result<()> {
    loss.check_host_inputs(batch, inputs, Some(batch.sequences.count()))?;
    let mut out = out.slices(&batch.extent())?;
    out.logps.metrics_level().check_factored()?;

    let (kernels, transform) = (row_kernels::<T>(), TransformKind::from(&batch.transform));
    let streamed = size_of_val(gradient) > STREAM_BYTES;
    let factor_row = |(row, gradient): (usize, &mut [T])| {
        let (gradient, padding) = gradient[..batch.vocab].split_at_mut(batch.columns());
        padding.fill(T::from_f32(0.0));
        let label = label_of(batch, labels, row);
        if label.is_none() {
            kernels.write_zeros(gradient, streamed);
            return RowResult::unread(label);
        }
        let source = source(row);
        let logits = match source {
            Source::InPlace => &*gradient,
            Source::Separate(logits) => logits,
        };
        let target = label.and_then(|label| batch.column(label));
        let result = match target {
            None => RowResult::unread(label),
            Some(column) => {
                RowResult { logp: kernels.logp(logits, column, transform), metrics: RowMetrics::NOT_SCORED }
            }
        };
        let RowLogp { logsumexp, residual, .. } = result.logp;
        let row = RowGradient { target, logsumexp, residual, coef: 1.0, entropy: None, transform };
        kernels.write_gradient(row, source, streamed, gradient);
        result
    };
    let rows: Vec<RowResult> = gradient[..batch.logits_len()]
        .par_chunks_mut(batch.row_stride)
        .enumerate()
        .with_min_len(task_rows(batch.vocab))
        .map(factor_row)
        .collect();
    let sequences = sum_sequences(batch, labels, &rows, &mut out.logps);
    let (logps, scored) = (&sequences.logps[..], Some(&sequences.scored[..]));
    PairStage { pairs: batch.pairs, logps, scored, inputs, loss }.run_and_report(out);
    Ok(())
}
