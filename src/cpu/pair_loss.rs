//! From log-probs of sequences to loss, metrics and coefficients.

use crate::batch::HostBatch;
use crate::error::{Error, Result};
use crate::loss::{PairInputs, PairLoss, PairStage};
use crate::memory::HostMemory;
use crate::results::PairOutputTensors;
use crate::status::Status;

/// `pair_loss`: from sequence log-probs to loss, metrics and the coefficient c_s of each sequence.
///
/// `logps`, `ref_logps` and `lengths` are `[S]`; log-probs are sums in nats, also where the loss is
/// length-normalised and `lengths`, the numbers of scored rows, says by what (a length of 0 counts as 1).
/// [`loss`](crate::loss) has the formulas; their f64 results are rounded once, on store. A sequence that stands in several pairs has its coefficients added up in pair order.
///
/// The status names the first pair with a [bad input](Status::bad_pair_input). `logps` are not among the inputs that it
/// looks at: they have the status of the stage that computed them.
///
/// ```
/// use dpo_kernels::{HostBatch, PairInputs, PairLoss, PairOutputs, cpu};
///
/// let (batch, loss) = (HostBatch::for_pair_loss(2), PairLoss::sigmoid(0.5)?);
/// let mut out = PairOutputs::default();
/// cpu::pair_loss(&batch, &[-3.0, -7.0], None, &PairInputs::reference(&[-4.0, -6.0]), &loss, &mut out)?;
/// assert_eq!((out.chosen_rewards[0], out.rejected_rewards[0], out.margins[0]), (0.5, -0.5, 1.0));
/// assert_eq!(out.coef[0], -out.coef[1]);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate); [`Error::Length`] that names `logps`, `ref_logps` or `lengths`;
/// [`Error::Missing`] for `lengths` where the loss is length-normalised, `scored` where it counts tokens, `kl_logps`
/// where it needs a baseline; [`Error::Value`] for a batch without the pairs that the loss needs, and for `ref_logps`
/// where it has no reference. `out` is untouched then.
pub fn pair_loss<M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    logps: &[f32],
    scored: Option<&[u32]>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut PairOutputTensors<M>,
) -> Result<Status> {
    batch.validate()?;
    let extent = batch.extent();
    Error::check_len("logps", "[sequences]", extent.sequences, logps.len())?;
    loss.check_host_inputs(batch, inputs, scored.map(<[u32]>::len))?;
    let out = out.slices(&extent)?;
    let stage = PairStage { pairs: batch.pairs, logps, scored, inputs, loss };
    stage.run(out);
    Ok(Status { bad_pair_input: stage.bad_input(), ..Status::default() })
}
