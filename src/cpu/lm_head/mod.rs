//! From hidden states: the three stages behind the language model's head, without the logits.
//!
//! | function | products | from | to |
//! |---|---|---|---|
//! | [`logps`] | 1 | hidden states, weight, labels | token and sequence log-probs |
//! | [`forward`] | 1 to 4, see [`Way`] | the same, and a loss | log-probs, loss, metrics, c_s, and the gradients that are asked for |
//! | [`backward`] | 2 or 3 | the same, logsumexp, c | dX, dW, db: for a loss of your own |
//!
//! The [formulas](crate::lm_head) are one module up. Hidden states and weight are f32, f16 or bf16; products have f32 factors
//! and sums, and the logits of a chunk are f32, so that they are rounded less than a model rounds its own. Numbers beyond f32
//! do not arise: what the results promise of [`cpu::logps`](super::logps()) and [`cpu::backward`](super::backward()) they
//! promise here, of those logits.
//!
//! The same call gives the same bits again, on any number of threads. The logits of a row may differ in their last bits from one
//! chunk size to another, since the product sums in blocks that suit the matrix.
//!
//! Memory: a chunk of at most the [workspace's](LmHeadWorkspace) budget, a block of the weight of 4 MiB where it is not f32, and
//! some numbers a row. A [plan](crate::LmHeadPlan) says what a call would do.

mod chunk;
mod product;
mod workspace;

pub use workspace::LmHeadWorkspace;

use rayon::prelude::*;

use self::chunk::{Pass, RowWeights};
use super::backward_inputs::BackwardInputs;
use super::logps::{RowResult, label_of, sum_sequences};
use super::row_logp::RowLogp;
use crate::batch::HostBatch;
use crate::coef::Coef;
use crate::dtype::Logit;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::lm_head::{LmHead, LmHeadGradients, LmHeadPlan, WantedGradients, Way, rows_within};
use crate::loss::{PairInputs, PairLoss, PairStage};
use crate::memory::HostMemory;
use crate::results::{ForwardTensors, LogpsSlices, LogpsTensors, PairOutputSlices};
use crate::status::GradientStatus;

/// [`cpu::logps`](super::logps()) of z = X Wᵀ + b: log-probs of the labels, per token and per sequence.
///
/// ```
/// use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
/// use dpo_kernels::{HostBatch, LabelAlignment, LmHead, Logps, Pairs};
///
/// // One sequence of two tokens; hidden states of two numbers, a vocabulary of three.
/// let batch = HostBatch { pairs: Pairs::None, ..HostBatch::padded(1, 2, 3, LabelAlignment::Aligned) };
/// let head = LmHead {
///     hidden_size: 2,
///     hidden: &[1.0f32, 0.0, 0.0, 2.0],
///     weight: &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
///     bias: None,
/// };
/// let (mut out, mut workspace) = (Logps::default(), LmHeadWorkspace::default());
/// lm_head::logps(&batch, &head, [1i64, 2][..].into(), &mut out, &mut workspace)?;
/// // Logits 0, 1, 0 and 0, 0, 2.
/// assert!((out.token_logps[0] - (1.0 - (2.0 + 1f32.exp()).ln())).abs() < 1e-6);
/// assert!((out.token_logps[1] - (2.0 - (2.0 + 2f32.exp()).ln())).abs() < 1e-6);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate); [`Error::Value`] for a `hidden_size` out of range and a budget below one row;
/// [`Error::Length`] that names `hidden`, `weight`, `bias`, `labels` or a slice of `out`. Nothing is written then.
pub fn logps<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    head: &LmHead<'_, T>,
    labels: Labels<'_>,
    out: &mut LogpsTensors<M>,
    workspace: &mut LmHeadWorkspace,
) -> Result<()> {
    let pass = Pass::checked(batch, head, labels)?;
    let plan = pass.plan(None, WantedGradients::default(), workspace)?;
    let mut out = out.slices(&batch.extent())?;
    let level = out.metrics_level();
    let mut rows = pass.unread_rows();
    for chunk in plan.chunks() {
        pass.multiply(&chunk.rows, workspace).read(level, &mut rows);
    }
    sum_sequences(batch, labels, &rows, &mut out);
    Ok(())
}

/// Log-probs, loss and the gradients that are asked for, from hidden states: [`cpu::forward`](super::forward()) of
/// z = X Wᵀ + b, and what follows it.
///
/// ```
/// use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
/// use dpo_kernels::{Forward, HostBatch, LabelAlignment, LmHead, LmHeadGradients, PairInputs, PairLoss};
///
/// // A pair of one token each.
/// let batch = HostBatch::padded(2, 1, 3, LabelAlignment::Aligned);
/// let (hidden, weight) = ([1.0f32, 0.5, -0.5, 1.0], [0.1f32, 0.2, 0.3, -0.1, 0.0, 0.4]);
/// let head = LmHead { hidden_size: 2, hidden: &hidden, weight: &weight, bias: None };
/// let (inputs, loss) = (PairInputs::reference(&[-1.0, -1.2]), PairLoss::sigmoid(0.1)?);
///
/// let (mut dhidden, mut dweight) = ([0.0f32; 4], [0.0f32; 6]);
/// let mut gradients = LmHeadGradients {
///     hidden: Some(&mut dhidden),
///     weight: Some(&mut dweight),
///     ..LmHeadGradients::default()
/// };
/// let (mut out, mut workspace) = (Forward::default(), LmHeadWorkspace::default());
/// let labels = [0i64, 2];
/// lm_head::forward(&batch, &head, labels[..].into(), &inputs, &loss, &mut out, &mut gradients, &mut workspace)?
///     .check()?;
/// out.logps.status.check()?;
/// // Down the gradient, the chosen token's logit rises with its hidden state, and the rejected one's falls.
/// assert!(dweight[1] < 0.0 && dweight[5] > 0.0);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// A row whose coefficient is 0, such as one of a pair of weight 0, has a dX of exactly 0 and no part in dW and db, whatever its
/// logits are; unless its label is a bad one, which is never hidden. The status names the first row whose coefficient,
/// logsumexp or dX is not finite. With a [frozen weight](Way::FrozenWeight), dX is rounded to its type before c comes to it,
/// and once more after.
///
/// # Errors
///
/// Those of [`logps`] and of [`cpu::pair_loss`](super::pair_loss()); [`Error::Length`] that names a buffer of `gradients`.
/// Nothing is written then.
#[expect(clippy::too_many_arguments, reason = "four to read, three to write or work in, and the loss")]
pub fn forward<T: Logit, M: HostMemory<Number = f32>>(
    batch: &HostBatch<'_>,
    head: &LmHead<'_, T>,
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut ForwardTensors<M>,
    gradients: &mut LmHeadGradients<'_, T>,
    workspace: &mut LmHeadWorkspace,
) -> Result<GradientStatus> {
    let pass = Pass::checked(batch, head, labels)?;
    loss.check_host_inputs(batch, inputs, Some(batch.sequences.count()))?;
    gradients.check(batch, head.hidden_size)?;
    let plan = pass.plan(Some(loss), gradients.wanted(), workspace)?;
    let mut out = out.slices(&batch.extent())?;
    let level = out.logps.metrics_level();
    let upstream = gradients.upstream;

    let mut rows = pass.unread_rows();
    clear_hidden(gradients);
    for chunk in plan.chunks() {
        let mut chunk_rows = pass.multiply(&chunk.rows, workspace);
        match chunk.way {
            Way::Logps | Way::TwoSweeps => chunk_rows.read(level, &mut rows),
            Way::FrozenWeight => {
                chunk_rows.read_and_differentiate(level, &mut rows);
                chunk_rows.write_hidden(gradients, |_| 1.0);
            }
            Way::WholePairs => {
                chunk_rows.read_and_differentiate(level, &mut rows);
                // Those of pairs that are not through yet are of no account.
                let weights = pass.row_weights(&rows, inputs, loss, upstream);
                chunk_rows.write_hidden(gradients, |row| weights[row].coef);
                chunk_rows.add_to_weight(gradients, |row| weights[row].coef);
            }
        }
    }
    let weights = pass.row_weights(&rows, inputs, loss, upstream);
    let sequences = sum_sequences(batch, labels, &rows, &mut out.logps);
    let (logps, scored) = (&sequences.logps[..], Some(&sequences.scored[..]));
    PairStage { pairs: batch.pairs, logps, scored, inputs, loss }.run_and_report(out);

    for chunk in plan.chunks() {
        match chunk.way {
            Way::FrozenWeight => pass.scale_hidden(&chunk.rows, gradients, &weights),
            Way::TwoSweeps => pass.sweep(&chunk.rows, gradients, &weights, &mut rows, workspace),
            Way::Logps | Way::WholePairs => (),
        }
    }
    Ok(if gradients.wanted() == WantedGradients::default() {
        GradientStatus::default()
    } else {
        pass.gradient_status(&rows, gradients, &weights)
    })
}

/// The gradients of a loss of your own, from the log-probs of [`logps`] and coefficients, as [`cpu::backward`](super::backward())
/// takes them. The logits are made again; rows that [`Coef`] skips are not.
///
/// ```
/// use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
/// use dpo_kernels::cpu::BackwardInputs;
/// use dpo_kernels::{HostBatch, LabelAlignment, LmHead, LmHeadGradients, Logps, Pairs};
///
/// let batch = HostBatch { pairs: Pairs::None, ..HostBatch::padded(2, 1, 3, LabelAlignment::Aligned) };
/// let (hidden, weight) = ([1.0f32, 0.5, -0.5, 1.0], [0.1f32, 0.2, 0.3, -0.1, 0.0, 0.4]);
/// let head = LmHead { hidden_size: 2, hidden: &hidden, weight: &weight, bias: None };
/// let (labels, mut out, mut workspace) = ([0i64, 2], Logps::default(), LmHeadWorkspace::default());
/// lm_head::logps(&batch, &head, labels[..].into(), &mut out, &mut workspace)?;
///
/// // The loss −logp_0.
/// let mut dhidden = [0.0f32; 4];
/// let mut gradients = LmHeadGradients { hidden: Some(&mut dhidden), ..LmHeadGradients::default() };
/// let inputs = BackwardInputs::new(&out, &[-1.0, 0.0]);
/// lm_head::backward(&batch, &head, labels[..].into(), inputs, &mut gradients, &mut workspace)?.check()?;
/// assert!(dhidden[0] != 0.0 && dhidden[2..] == [0.0, 0.0]);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// The upstream gradient is the product of `inputs`' and `gradients`'. An objective with an [`EntropyCoef`](crate::EntropyCoef),
/// which the other ways of the head do not know, goes this way.
///
/// # Errors
///
/// Those of [`logps`] and of [`cpu::backward`](super::backward()); [`Error::Length`] that names a buffer of `gradients`.
/// Nothing is written then.
pub fn backward<'a, T: Logit>(
    batch: &HostBatch<'_>,
    head: &LmHead<'_, T>,
    labels: Labels<'_>,
    inputs: impl Into<BackwardInputs<'a>>,
    gradients: &mut LmHeadGradients<'_, T>,
    workspace: &mut LmHeadWorkspace,
) -> Result<GradientStatus> {
    let pass = Pass::checked(batch, head, labels)?;
    let inputs = inputs.into();
    inputs.check(batch)?;
    gradients.check(batch, head.hidden_size)?;
    let most = pass.most_rows(workspace)?;
    let inputs = inputs.with_upstream(inputs.upstream * gradients.upstream);
    let BackwardInputs { logsumexp, coef, upstream, .. } = inputs;
    let mut rows = pass.unread_rows();
    let mut weights = vec![RowWeights::of_logp(0.0); batch.rows()];
    let mut taken = vec![];
    for (row, result) in rows.iter_mut().enumerate() {
        if label_of(batch, labels, row).is_none() {
            continue;
        }
        let c = coef.of(batch.sequences.of_row(row), row, upstream);
        let entropy = inputs.row_entropy(row);
        if pass.target(row).is_some() {
            let residual = logsumexp.residual.map_or(0.0, |residual| residual[row]);
            result.logp = RowLogp { logp: 0.0, logsumexp: logsumexp.values[row], residual };
            if inputs.skips(c, entropy) {
                continue;
            }
        }
        weights[row] = RowWeights { coef: c, entropy };
        taken.push(row);
    }
    clear_hidden(gradients);
    for chunk in taken.chunks(most) {
        pass.sweep(chunk, gradients, &weights, &mut rows, workspace);
    }
    Ok(pass.gradient_status(&rows, gradients, &weights))
}

/// dX of rows that no product writes.
fn clear_hidden<T: Logit>(gradients: &mut LmHeadGradients<'_, T>) {
    if let Some(dhidden) = &mut gradients.hidden {
        dhidden.fill(T::from_f32(0.0));
    }
}

impl<'a, T: Logit> Pass<'a, T> {
    fn checked(batch: &'a HostBatch<'a>, head: &'a LmHead<'a, T>, labels: Labels<'a>) -> Result<Self> {
        batch.validate()?;
        head.check(batch)?;
        Error::check_len("labels", "[rows]", batch.rows(), labels.len())?;
        Ok(Pass { batch, head, labels })
    }

    fn bytes_per_row(&self) -> usize {
        LmHeadWorkspace::bytes_per_row(self.batch.columns(), self.head.hidden_size)
    }

    fn most_rows(&self, workspace: &LmHeadWorkspace) -> Result<usize> {
        rows_within(workspace.budget_bytes, self.bytes_per_row())
    }

    fn plan(
        &self,
        loss: Option<&PairLoss>,
        wanted: WantedGradients,
        workspace: &LmHeadWorkspace,
    ) -> Result<LmHeadPlan> {
        let budget = workspace.budget_bytes;
        LmHeadPlan::new(self.batch, self.labels, loss, wanted, self.bytes_per_row(), budget)
    }

    /// What rows are before they are read.
    fn unread_rows(&self) -> Vec<RowResult> {
        let unread = |row| RowResult::unread(label_of(self.batch, self.labels, row));
        (0..self.batch.rows()).map(unread).collect()
    }

    /// What the gradient of every row is multiplied by, from the log-probs of the rows so far.
    fn row_weights(
        &self,
        rows: &[RowResult],
        inputs: &PairInputs<'_, f32>,
        loss: &PairLoss,
        upstream: f32,
    ) -> Vec<RowWeights> {
        let batch = self.batch;
        let (mut coef, mut weights) = (vec![0.0; batch.sequences.count()], vec![0.0; batch.rows()]);
        let mut logps = LogpsSlices { token_weights: Some(&mut weights), ..LogpsSlices::default() };
        let sequences = sum_sequences(batch, self.labels, rows, &mut logps);
        let (logps, scored) = (&sequences.logps[..], Some(&sequences.scored[..]));
        let out = PairOutputSlices { coef: Some(&mut coef), ..PairOutputSlices::default() };
        PairStage { pairs: batch.pairs, logps, scored, inputs, loss }.run(out);
        let coef = Coef { sequences: Some(&coef), tokens: Some(&weights), threshold: 0.0 };
        let of_row = |row| RowWeights::of_logp(coef.of(batch.sequences.of_row(row), row, upstream));
        (0..batch.rows()).map(of_row).collect()
    }

    /// The gradients of rows whose log-probs are known, from logits that are made again.
    fn sweep(
        &self,
        rows: &[usize],
        gradients: &mut LmHeadGradients<'_, T>,
        weights: &[RowWeights],
        results: &mut [RowResult],
        workspace: &mut LmHeadWorkspace,
    ) {
        let taken = |&row: &usize| !self.skips(row, weights[row]);
        let rows: Vec<usize> = rows.iter().copied().filter(taken).collect();
        if rows.is_empty() {
            return;
        }
        let mut chunk = self.multiply(&rows, workspace);
        // G is a factor of a log-prob's gradient alone: with a part of the entropy, the coefficients go in before.
        let split = |row: usize| match weights[row] {
            RowWeights { coef, entropy: None } => (RowWeights::G, coef),
            weights => (weights, 1.0),
        };
        chunk.differentiate(results, |row| split(row).0);
        chunk.write_hidden(gradients, |row| split(row).1);
        chunk.add_to_weight(gradients, |row| split(row).1);
    }

    /// c comes to G W at the end.
    fn scale_hidden(&self, rows: &[usize], gradients: &mut LmHeadGradients<'_, T>, weights: &[RowWeights]) {
        let Some(dhidden) = &mut gradients.hidden else { return };
        let hidden_size = self.head.hidden_size;
        for &row in rows {
            let c = weights[row].coef;
            let values = &mut dhidden[row * hidden_size..][..hidden_size];
            if self.skips(row, weights[row]) {
                values.fill(T::from_f32(0.0));
            } else {
                values.iter_mut().for_each(|value| *value = T::from_f32(c * value.to_f32()));
            }
        }
    }

    /// The first scored row whose gradients are not finite.
    fn gradient_status(
        &self,
        rows: &[RowResult],
        gradients: &LmHeadGradients<'_, T>,
        weights: &[RowWeights],
    ) -> GradientStatus {
        let hidden_size = self.head.hidden_size;
        let finite = |row: &usize| {
            let row = *row;
            if label_of(self.batch, self.labels, row).is_none() || self.skips(row, weights[row]) {
                return true;
            }
            let dhidden =
                gradients.hidden.as_ref().map(|dhidden| &dhidden[row * hidden_size..][..hidden_size]);
            weights[row].is_finite()
                && rows[row].logp.logsumexp.is_finite()
                && dhidden.is_none_or(|dhidden| dhidden.iter().all(|value| value.to_f32().is_finite()))
        };
        let nonfinite_row = (0..self.batch.rows()).into_par_iter().filter(|row| !finite(row)).min();
        GradientStatus { nonfinite_row }
    }
}
