//! `logps` and `pair_loss` in one call.

use super::logps::{read_rows, sum_sequences};
use crate::batch::HostBatch;
use crate::dtype::Logit;
use crate::error::Result;
use crate::labels::Labels;
use crate::loss::{PairInputs, PairLoss, PairStage};
use crate::memory::HostMemory;
use crate::results::ForwardTensors;

/// `logps` and `pair_loss`: from logits to loss, metrics and coefficients.
///
/// [`logps`] and [`pair_loss`] one after the other; a length-normalised loss divides by the numbers of scored rows.
///
/// ```
/// use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, cpu};
///
/// // One pair of one token each: the chosen one is e times as likely as under the reference.
/// let batch = HostBatch::padded(2, 1, 2, LabelAlignment::Aligned);
/// let (logits, labels) = ([1.0f32, 0.0, 0.0, 0.0], [0i64, 1]);
/// let ref_logps = [-1.0 - (1.0 + (-1f32).exp()).ln(), 0.5f32.ln()];
/// let mut out = Forward::default();
/// let loss = PairLoss::sigmoid(0.5)?;
/// cpu::forward(&batch, &logits, labels[..].into(), &PairInputs::reference(&ref_logps), &loss, &mut out)?;
/// assert!((out.pairs.margins[0] - 0.5).abs() < 1e-6);
///
/// let mut dlogits = [0.0; 4];
/// cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?.check()?;
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`logps`] and [`pair_loss`], all before any work is done.
///
/// [`logps`]: super::logps()
/// [`pair_loss`]: super::pair_loss()
pub fn forward<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut ForwardTensors<M>,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    // The numbers of scored rows will be there.
    loss.check_host_inputs(batch, inputs, Some(batch.sequences.count()))?;
    let mut out = out.slices(&batch.extent())?;
    let rows = read_rows(batch, logits, labels, out.logps.metrics_level());
    let sequences = sum_sequences(batch, labels, &rows, &mut out.logps);
    let (logps, scored) = (&sequences.logps[..], Some(&sequences.scored[..]));
    PairStage { pairs: batch.pairs, logps, scored, inputs, loss }.run_and_report(out);
    Ok(())
}
