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
