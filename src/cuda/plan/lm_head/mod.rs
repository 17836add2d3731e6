//! The head: from hidden states to log-probs, loss and gradients, a chunk of rows at a time.
//!
//! ```text
//! z = X Wᵀ + b      a product          X: the chunk's hidden states, gathered
//! G                 one launch for each run of rows: `factored`; or `forward` and then `backward`. In place of z, unless that is f32
//!                   and G is not
//! c                 `pair_loss`, and the sequence's c for each row
//! dW += Gᵀ (c X)    a product          db += Gᵀ c
//! dX = c (G W)      a product, whose rows go back to their places
//! ```
//!
//! Rows, chunks and the order of things are those of [`LmHeadPlan`](crate::LmHeadPlan).

mod arguments;
mod chunk;
mod launches;
mod memory;
mod rows;

pub use arguments::{DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients};
pub use memory::{LmHeadMemory, LmHeadWorkspace};
pub use rows::LmHeadRows;

use self::chunk::{Coefficients, LmHeadPass, Loss};
use self::launches::Move;
use super::backward::EntropyBuffers;
use super::loss_arguments::PairLossArguments;
use super::pair_loss::pair_loss;
use super::steps::{Plan, Step};
use crate::coef::{check_threshold, check_token_weights};
use crate::cuda::address::{DeviceAddress, LogpsBuffers, address, optional};
use crate::cuda::properties::Device;
use crate::error::Result;
use crate::lm_head::{WantedGradients, Way};

/// Log-probs of z = X Wᵀ + b, and with `loss` the loss and the gradients that are wanted: what
/// [`cpu::lm_head`](crate::cpu::lm_head) does in host memory.
///
/// `entries` is where those of `rows` are, and `vocab` how many rows the weight has. Logits have the hidden
/// states' type, or are f32 where the [memory](LmHeadMemory::logits_dtype) says so: log-probs then come of products that nobody has rounded. The
/// weight's gradient is a product of G, rounded to the hidden states' type, and of c X, rounded to it as well: where the type is f16, the upstream
/// gradient is to be scaled such that c X does not vanish. The gradient of the hidden states is rounded once, save with a
/// [frozen weight](Way::FrozenWeight), where it is rounded before c comes to it, too.
///
/// Results stand where `out` says for all rows of the caller's batch, 0 in rows that are not scored, and a status names
/// rows of it. Until the pass has run, results of the loss hold what is known so far.
///
/// # Errors
///
/// Those of [`forward`](super::forward()) and of [`LmHeadPlan::new`](crate::LmHeadPlan::new); [`Error::Value`](crate::Error::Value) for a `hidden_size` out of
/// range, for a head that is not the workspace's, for a null or misaligned address, for a gradient or workspace that overlaps
/// the other, the head or the entries, and for a batch beyond the workspace's [`Capacity`](super::Capacity).
#[expect(clippy::too_many_arguments, reason = "a batch in two parts, a head, a loss, and where results go")]
pub fn lm_head(
    device: &Device,
    rows: &LmHeadRows,
    entries: DeviceAddress,
    vocab: usize,
    head: &DeviceLmHead,
    out: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
    gradients: &DeviceLmHeadGradients,
    workspace: &LmHeadWorkspace,
) -> Result<Plan> {
    let mut pass = LmHeadPass::new(device, rows, entries, vocab, head, gradients, workspace)?;
    let plan = pass.plan(loss.map(|arguments| arguments.loss), gradients.wanted())?;
    let logps = pass.scored_results(out)?;
    let loss = loss.map(|arguments| -> Result<Loss<'_>> {
        let (pairs, sequences) = (&pass.batch.pairs, pass.batch.sequences.count());
        let scored = Some(rows.scored(entries));
        let logps = address("logps", 4, logps.logps.unwrap_or(0))?;
        let alone = pair_loss(pairs, sequences, logps, scored, arguments, pass.places.status)?;
        Ok(Loss { arguments, alone, coef: optional("coef", arguments.out.coef)? })
    });
    let loss = loss.transpose()?;
    let (logps, loss) = (&logps, loss.as_ref());

    pass.widen_bias();
    pass.clear_hidden();
    if plan.chunks().iter().any(|chunk| chunk.way == Way::WholePairs) {
        // Log-probs of pairs that are not through yet are of no account, but they are read.
        let bytes = size_of::<f32>() * pass.batch.sequences.count();
        pass.steps.push(Step::Zero { address: logps.logps.unwrap_or(0), bytes });
    }
    for chunk in plan.chunks() {
        let chunk_rows = pass.multiply(&chunk.rows);
        match chunk.way {
            Way::Logps | Way::TwoSweeps => pass.forward(&chunk_rows, logps, loss)?,
            Way::FrozenWeight => {
                pass.factored(&chunk_rows, logps, loss)?;
                pass.write_hidden(&chunk_rows, false);
            }
            Way::WholePairs => {
                pass.factored(&chunk_rows, logps, loss)?;
                if let Some(loss) = loss {
                    pass.steps.extend_from_slice(loss.alone.steps());
                    pass.row_coef(&chunk_rows, loss.coefficients(&pass))?;
                }
                pass.add_to_weight(&chunk_rows);
                pass.write_hidden(&chunk_rows, true);
            }
        }
    }
    if plan.chunks().is_empty() {
        let nothing = pass.one_row();
        pass.forward(&nothing, logps, loss)?;
    }
    if let Some(loss) = loss {
        if plan.chunks().iter().any(|chunk| chunk.way == Way::FrozenWeight) {
            pass.scale_hidden(loss.coefficients(&pass))?;
        }
        for chunk in plan.chunks().iter().filter(|chunk| chunk.way == Way::TwoSweeps) {
            pass.sweep(&chunk.rows, loss.coefficients(&pass))?;
        }
    }
    pass.token_results(out)?;
    Ok(Plan::from(pass.steps))
}

/// The gradients of a loss of your own, from what [`lm_head`] without a loss gave, and coefficients. The logits are made again.
///
/// # Errors
///
/// Those of [`lm_head`], and of [`backward`](super::backward()) for what `inputs` has.
#[expect(clippy::too_many_arguments, reason = "a batch in two parts, a head, and where gradients go")]
pub fn lm_head_backward(
    device: &Device,
    rows: &LmHeadRows,
    entries: DeviceAddress,
    vocab: usize,
    head: &DeviceLmHead,
    inputs: &DeviceLmHeadCoef,
    gradients: &DeviceLmHeadGradients,
    workspace: &LmHeadWorkspace,
) -> Result<Plan> {
    let mut pass = LmHeadPass::new(device, rows, entries, vocab, head, gradients, workspace)?;
    check_token_weights(&pass.batch, inputs.token_coef.is_some())?;
    check_threshold(inputs.threshold.into())?;
    // No loss is asked for, so that this is as many rows at a time as there is room for, in their order.
    let plan = pass.plan(None, WantedGradients::default())?;
    // The passes read numbers of the scored rows alone.
    let (names, count) = (rows.names(entries), rows.count());
    let mut gather = |name, from: Option<DeviceAddress>, to: DeviceAddress| {
        let from = optional(name, from)?;
        if from == 0 {
            return Ok(0);
        }
        pass.steps.push(Step::Launch(Move::gather_floats(from, to, names, count).launch()));
        Ok(to)
    };
    let [logsumexp, residual, token_coef, entropy, entropy_coef, ..] = pass.places.tokens;
    let mut required = |name, given, to| gather(name, Some(address(name, 4, given)?), to);
    let logsumexp = required("logsumexp", inputs.logsumexp, logsumexp)?;
    let entropy = inputs.entropy.map(|given| -> Result<_> {
        let entropy = required("entropy", given.entropy, entropy)?;
        Ok(EntropyBuffers { entropy, coef: required("entropy_coef", given.coef, entropy_coef)? })
    });
    let entropy = entropy.transpose()?;
    let residual = gather("logsumexp_residual", inputs.logsumexp_residual, residual)?;
    let token_coef = gather("token_coef", inputs.token_coef, token_coef)?;
    let coef = optional("coef", inputs.coef)?;
    let threshold = inputs.threshold;
    let coefficients = Coefficients { logsumexp, residual, entropy, coef, token_coef, threshold };
    pass.widen_bias();
    pass.clear_hidden();
    for chunk in plan.chunks() {
        pass.sweep(&chunk.rows, coefficients)?;
    }
    Ok(Plan::from(pass.steps))
}
