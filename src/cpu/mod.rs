//! The CPU backend: f32 vectors, threads over rows, each pass at about the speed of memory.
//!
//! The three stages, each callable alone, and the first two together:
//!
//! | stage | function | from | to |
//! |---|---|---|---|
//! | logps | [`logps`] | logits, labels | token and sequence log-probs, logsumexp |
//! | pair_loss | [`pair_loss`] | log-probs | loss, metrics, c_s |
//! | logps + pair_loss | [`forward`] | logits, labels | all of these |
//! | backward | [`backward`], [`backward_in_place`] | logits, labels, logsumexp, c_s | dlogits |
//! | forward, and backward but for c_s | [`factored`], [`factored_in_place`] | logits, labels | all of these; the gradient that c_s multiplies |
//!
//! Work runs on the current rayon thread pool. The forward reads the logits once and the backward reads and writes them
//! once; ignored rows are not read, and nothing is allocated but results that do not fit in the buffers given.
//!
//! A row's result depends on that row alone: the bits are the same whatever the number of threads, the other rows of
//! the batch, and the alignment of the buffers. Instructions are chosen when the program runs: AVX-512 or AVX2 with FMA
//! on x86-64, otherwise what every processor of the target has. These do the same operations in the same order, so
//! that between processors bits may differ for two reasons alone: without a fused multiply-add (SSE2), products are
//! rounded too, and the reference of a row is subtracted on its own; and `ln` and `exp` of f64 are the platform's.
//!
//! One training step with two pairs of three tokens, over a vocabulary of five:
//!
//! ```
//! use dpo_kernels::{HostBatch, PairLoss, cpu};
//!
//! let batch = HostBatch::padded(4, 3, 5);
//! let logits: Vec<f32> = (0..4 * 3 * 5).map(|i| (i * 7 % 11) as f32 * 0.1).collect();
//! let labels: [i64; 12] = [0, 1, 2, 3, 4, -100, 0, 0, 1, -100, 2, 3];
//! let ref_logps = [-5.0, -3.5, -4.5, -3.0];
//! let loss = PairLoss::sigmoid(0.1)?;
//!
//! let mut out = cpu::Forward::default();
//! cpu::forward(&batch, &logits, labels[..].into(), Some(&ref_logps), &loss, &mut out)?;
//! out.logps.status.check()?;
//! assert!(out.pairs.metrics.loss > 0.0);
//!
//! let mut dlogits = vec![0.0; logits.len()];
//! let logsumexp = (&out.logps).into();
//! cpu::backward(&batch, &logits, labels[..].into(), logsumexp, &out.pairs.coef, 1.0, &mut dlogits)?;
//! assert_eq!(dlogits[5 * 5..6 * 5], [0.0; 5]); // row 5 is ignored
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

mod block;
mod element;
mod exp2;
mod exponents;
mod metric_sums;
mod online_sum;
mod prefetch;
mod row;
mod row_gradient;
mod row_logp;
mod row_metrics;
mod simd;
mod streaming;
mod transform;

use rayon::prelude::*;

use self::row::row_kernels;
use self::row_gradient::{RowGradient, Source};
use self::row_logp::RowLogp;
use self::row_metrics::RowMetrics;
use self::transform::TransformKind;
use crate::batch::{HostBatch, Labels, Logit, Logps, MeanTokenMetrics, PairOutputs, Status, TokenMetrics};
use crate::error::{Error, Result};
use crate::gradient::{Coef, GradientStatus};
use crate::loss::{PairInputs, PairLoss};

/// Logits below which a piece of work is not worth handing to another thread.
const TASK_LOGITS: usize = 1 << 14;

/// Bytes of gradient from which on it is written past the caches, except over logits that were just read. What is
/// smaller may still be there when the caller reads it; what is larger would be read into them only to be overwritten,
/// half as much traffic again.
const STREAM_BYTES: usize = 8 << 20;

/// Rows of a piece of work.
fn task_rows(vocab: usize) -> usize {
    TASK_LOGITS.div_ceil(vocab)
}

/// `logps` and `pair_loss` of a batch.
///
/// Buffers are resized to fit, so one value serves call after call without allocating again.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forward {
    /// `logps`.
    pub logps: Logps<f32>,
    /// `pair_loss`.
    pub pairs: PairOutputs<f32>,
}

/// What `backward` needs of `logps`: log Σ exp of each row.
///
/// ```
/// use dpo_kernels::batch::Logps;
/// use dpo_kernels::cpu::Logsumexp;
///
/// let logps = Logps { logsumexp: vec![1.5; 4], logsumexp_residual: vec![0.0; 4], ..Logps::default() };
/// assert_eq!(Logsumexp::from(&logps).values, [1.5; 4]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logsumexp<'a> {
    /// `[rows]`: log Σ exp, rounded to f32. Entries of ignored rows are not read.
    pub values: &'a [f32],
    /// `[rows]`: what that rounding took away ([`Logps::logsumexp_residual`]). Without it every gradient of a row
    /// has a relative error of up to |logsumexp|·2⁻²⁴.
    pub residual: Option<&'a [f32]>,
}

impl<'a> From<&'a Logps<f32>> for Logsumexp<'a> {
    fn from(logps: &'a Logps<f32>) -> Self {
        Logsumexp { values: &logps.logsumexp, residual: Some(&logps.logsumexp_residual) }
    }
}

/// `logps`: log-probs of the labels, per token and per sequence.
///
/// ```text
/// z′           = transform(z)                                    z itself, unless Batch::transform says otherwise
/// logsumexp[r] = log Σ_v exp z′[r, v]                            v below valid_vocab
/// logp[r]      = z′[r, y_r] − logsumexp[r]
/// logp_s       = Σ_{r in s, label ≠ ignore} w[r] logp[r]         w = 1, or ld_alpha beyond the other's length
/// ```
///
/// `logits` is `[rows, vocab]` with [`row_stride`](crate::Batch::row_stride), and may be longer than
/// [`logits_len`](crate::Batch::logits_len); `labels` is `[rows]`. Log-probs are in nats. Rows are summed in f32
/// over short blocks and f64 beyond, sequences in f64 in row order, and rounded once. Ignored rows are not read.
/// Token metrics come from the same read where [`Logps::metrics`] asks for them.
///
/// A NaN in a scored row, a row of −∞, and a label outside the vocabulary give NaN; a label at a logit of −∞ gives
/// −∞ (PyTorch's `log_softmax` semantics). All are recorded in [`Logps::status`], with the first place.
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate), and [`Error::Length`] that names `logits` or `labels`. `out` is
/// untouched then.
pub fn logps<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    out: &mut Logps<f32>,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    let rows = batch.rows();
    resize_rows(rows, out);
    let Logps { token_logps, logsumexp, logsumexp_residual, metrics, .. } = out;

    let kernels = row_kernels::<T>();
    let transform = TransformKind::from(&batch.transform);
    // The logits and the column of a scored row, or none of them where its label is a bad one.
    let scored = |row: usize| {
        let label = label_of(batch, labels, row)?;
        Some(batch.column(label).map(|y| (&logits[row * batch.row_stride..][..batch.columns()], y)))
    };
    let log_probs = (token_logps, logsumexp, logsumexp_residual).into_par_iter();
    match metrics {
        None => log_probs.enumerate().with_min_len(task_rows(batch.vocab)).for_each(|(row, to)| {
            let found = match scored(row) {
                None => RowLogp::NOT_SCORED,
                Some(None) => RowLogp::BAD_LABEL,
                Some(Some((logits, y))) => kernels.logp(logits, y, transform),
            };
            found.store(to);
        }),
        Some(TokenMetrics { entropy, correct, mean_logit, sum_p2, .. }) => {
            for values in [&mut *entropy, correct, mean_logit, sum_p2] {
                values.resize(rows, 0.0);
            }
            let metrics = (entropy, correct, mean_logit, sum_p2).into_par_iter();
            log_probs.zip(metrics).enumerate().with_min_len(task_rows(batch.vocab)).for_each(
                |(row, (to, metrics_to))| {
                    let (found, metrics) = match scored(row) {
                        None => (RowLogp::NOT_SCORED, RowMetrics::NOT_SCORED),
                        Some(None) => (RowLogp::BAD_LABEL, RowMetrics::BAD_LABEL),
                        Some(Some((logits, y))) => kernels.logp_and_metrics(logits, y, transform),
                    };
                    found.store(to);
                    metrics.store(metrics_to);
                },
            );
        }
    }
    sum_sequences(batch, labels, out);
    Ok(())
}

fn resize_rows(rows: usize, out: &mut Logps<f32>) {
    out.token_logps.resize(rows, 0.0);
    out.logsumexp.resize(rows, 0.0);
    out.logsumexp_residual.resize(rows, 0.0);
}

/// The label that a row predicts, if it is scored.
fn label_of(batch: &HostBatch<'_>, labels: Labels<'_>, row: usize) -> Option<i64> {
    batch.label(labels, row, batch.sequences.range(batch.sequences.of_row(row)).end)
}

/// From the token log-probs of `out` to its sequence log-probs and status, in row order.
fn sum_sequences(batch: &HostBatch<'_>, labels: Labels<'_>, out: &mut Logps<f32>) {
    out.logps.clear();
    out.scored.clear();
    out.status = Status::default();
    out.token_weights.clear();
    out.token_weights.resize(batch.rows(), 0.0);
    if let Some(metrics) = &mut out.metrics {
        metrics.sequence_log_weights.clear();
    }
    let mut sums = [0.0; 5];
    for s in 0..batch.sequences.count() {
        let full_tokens = batch.full_tokens(labels, s);
        let rows = batch.sequences.range(s);
        let end = rows.end;
        let (mut logp, mut wpo) = (0.0, 0.0);
        let mut scored = 0;
        for row in rows {
            let Some(label) = batch.label(labels, row, end) else { continue };
            let token_logp = f64::from(out.token_logps[row]);
            out.token_weights[row] = if scored < full_tokens { 1.0 } else { batch.ld_alpha };
            logp += f64::from(out.token_weights[row]) * token_logp;
            scored += 1;
            if let Some(metrics) = &out.metrics {
                wpo += token_logp - f64::from(metrics.sum_p2[row]).ln();
                let TokenMetrics { entropy, correct, mean_logit, sum_p2, .. } = metrics;
                let metrics = [entropy, correct, mean_logit, &out.logsumexp, sum_p2];
                for (sum, metric) in sums.iter_mut().zip(metrics) {
                    *sum += f64::from(metric[row]);
                }
            }
            if batch.column(label).is_none() {
                out.status.bad_label.get_or_insert(row);
            }
            if !out.token_logps[row].is_finite() {
                out.status.nonfinite_row.get_or_insert(row);
            }
        }
        if scored == 0 {
            out.status.empty_sequence.get_or_insert(s);
        }
        out.logps.push(logp as f32);
        out.scored.push(scored as u32);
        if let Some(metrics) = &mut out.metrics {
            metrics.sequence_log_weights.push((wpo / scored.max(1) as f64) as f32);
        }
    }
    if let Some(metrics) = &mut out.metrics {
        let scored = out.scored.iter().sum::<u32>();
        let [entropy, accuracy, mean_logit, logsumexp, sum_p2] =
            sums.map(|sum| (sum / f64::from(scored.max(1))) as f32);
        metrics.means = MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 };
    }
}

/// `pair_loss`: from sequence log-probs to loss, metrics and the coefficient c_s of each sequence.
///
/// `logps`, `ref_logps` and `lengths` are `[S]`; log-probs are sums in nats, also where the loss is
/// length-normalised and `lengths`, the numbers of scored rows, says by what (a length of 0 counts as 1). Without
/// `ref_logps` the reference log-probs are 0. [`loss`](crate::loss) has the formulas; their f64 results are rounded
/// once, on store. A sequence that stands in several pairs has its coefficients added up in pair order.
///
/// ```
/// use dpo_kernels::batch::PairOutputs;
/// use dpo_kernels::{HostBatch, PairLoss, cpu};
///
/// let (batch, loss) = (HostBatch::padded(2, 1, 1), PairLoss::sigmoid(0.5)?);
/// let mut out = PairOutputs::default();
/// cpu::pair_loss(&batch, &[-3.0, -7.0], Some(&[-4.0, -6.0]), None, &loss, &mut out)?;
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
pub fn pair_loss(
    batch: &HostBatch<'_>,
    logps: &[f32],
    ref_logps: Option<&[f32]>,
    lengths: Option<&[u32]>,
    loss: &PairLoss,
    out: &mut PairOutputs<f32>,
) -> Result<()> {
    pair_loss_with(batch, logps, lengths, &PairInputs::of_reference(ref_logps), loss, out)
}

/// [`pair_loss`] with everything it can be given: per-pair values, lengths apart from the numbers of `scored` rows,
/// normalisers.
///
/// # Errors
///
/// Those of [`pair_loss`]; [`Error::Length`] that names an input; [`Error::Value`] for one with a value out of its
/// range, and for one that the loss has no use for.
pub fn pair_loss_with(
    batch: &HostBatch<'_>,
    logps: &[f32],
    scored: Option<&[u32]>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut PairOutputs<f32>,
) -> Result<()> {
    batch.pair_stage(logps, scored, inputs, loss)?.run(out);
    Ok(())
}

/// `logps` and `pair_loss`: from logits to loss, metrics and coefficients.
///
/// [`logps`] and [`pair_loss`] one after the other; a length-normalised loss divides by the numbers of scored rows.
///
/// # Errors
///
/// Those of [`logps`] and [`pair_loss`], all before any work is done.
pub fn forward<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    ref_logps: Option<&[f32]>,
    loss: &PairLoss,
    out: &mut Forward,
) -> Result<()> {
    forward_with(batch, logits, labels, &PairInputs::of_reference(ref_logps), loss, out)
}

/// [`forward`] with everything that `pair_loss` can be given.
///
/// # Errors
///
/// Those of [`logps`] and [`pair_loss_with`], all before any work is done.
pub fn forward_with<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut Forward,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    check_loss(batch, inputs, loss)?;

    logps(batch, logits, labels, &mut out.logps)?;
    pair_loss_with(batch, &out.logps.logps, Some(&out.logps.scored), inputs, loss, &mut out.pairs)
}

/// What `pair_loss` will say of its inputs once `logps` has counted the scored rows.
fn check_loss(batch: &HostBatch<'_>, inputs: &PairInputs<'_, f32>, loss: &PairLoss) -> Result<()> {
    let sequences = batch.sequences.count();
    loss.check_inputs(&batch.pairs, sequences, &inputs.lens(), Some(sequences))?;
    loss.check_values(inputs)
}

/// `backward`: the gradient of the loss by the logits.
///
/// ```text
/// dlogits[r, v] = c_r · (1[v = y_r] − softmax(z′[r])[v]) · ∂z′/∂z,   c_r = coef[s] · token_coef[r] · upstream
/// ```
///
/// `logits` and `dlogits` are laid out as for [`logps`]; `logsumexp` is what that gave for them. `coef` is the `[S]`
/// of [`PairOutputs`], a caller's own ∂loss/∂logp_s, or a [`Coef`] that also knows factors of tokens and what to skip.
/// Ignored rows become exactly 0 and are not read, so they may hold NaN; so do skipped ones and the columns from
/// [`valid_vocab`](crate::Transform::valid_vocab) on. Elements between `vocab` and `row_stride` are not touched.
/// Values are rounded once to the type of the logits, the nearest one; for f16 and bf16 the exponential has a relative
/// error of up to 2⁻¹⁸ before that. A gradient larger than the caches is written past them, so that its old contents
/// are not read first.
///
/// Returns whether all that was written is finite: an f16 may overflow. See [`GradientStatus`].
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate); [`Error::Length`] that names `logits`, `labels`, `logsumexp.values`,
/// `logsumexp.residual`, `coef`, `token_coef` or `dlogits`; [`Error::Missing`] for `token_coef` where the batch has an
/// [`ld_alpha`](crate::Batch::ld_alpha); [`Error::Value`] for `threshold`. `dlogits` is untouched then.
pub fn backward<'a, T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    logsumexp: Logsumexp<'_>,
    coef: impl Into<Coef<'a>>,
    upstream: f32,
    dlogits: &mut [T],
) -> Result<GradientStatus> {
    batch.check_pass(logits.len(), labels)?;
    let coef = coef.into();
    check_backward(batch, logsumexp, &coef)?;
    batch.check_logits("dlogits", dlogits.len())?;
    let source = |row: usize| Source::Separate(&logits[row * batch.row_stride..][..batch.columns()]);
    Ok(gradient_rows(batch, labels, logsumexp, coef, upstream, dlogits, source))
}

/// [`backward`] that leaves the gradient where the logits were, bit for bit the same.
///
/// # Errors
///
/// Those of [`backward`]; `logits` is untouched then.
pub fn backward_in_place<'a, T: Logit>(
    batch: &HostBatch<'_>,
    logits: &mut [T],
    labels: Labels<'_>,
    logsumexp: Logsumexp<'_>,
    coef: impl Into<Coef<'a>>,
    upstream: f32,
) -> Result<GradientStatus> {
    batch.check_pass(logits.len(), labels)?;
    let coef = coef.into();
    check_backward(batch, logsumexp, &coef)?;
    Ok(gradient_rows(batch, labels, logsumexp, coef, upstream, logits, |_| Source::InPlace))
}

/// [`forward_with`], and the gradient without its coefficients, with one read and one write of the logits.
///
/// ```text
/// gradient[r, v] = 1[v = y_r] − softmax(z[r])[v]
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
/// [`forward_with`], bit for bit. Under LD-DPO, c of a row is also multiplied by its
/// [`token_weights`](crate::Logps::token_weights).
///
/// ```
/// use dpo_kernels::loss::PairInputs;
/// use dpo_kernels::{HostBatch, PairLoss, cpu};
///
/// let batch = HostBatch::padded(2, 1, 3);
/// let (logits, labels) = ([1.0f32, 0.0, -1.0, 0.5, 0.5, 0.5], [0i64, 2]);
/// let loss = PairLoss::sigmoid(0.1)?;
/// let (mut out, mut gradient) = (cpu::Forward::default(), vec![0.0; 6]);
/// let inputs = PairInputs { ref_logps: Some(&[-1.5, -1.0]), ..PairInputs::default() };
/// cpu::factored(&batch, &logits, labels[..].into(), &inputs, &loss, &mut out, &mut gradient)?;
/// assert!((gradient[5] - (1.0 - 1.0 / 3.0)).abs() < 1e-6);
///
/// let mut dlogits = vec![0.0; 6];
/// let logsumexp = (&out.logps).into();
/// cpu::backward(&batch, &logits, labels[..].into(), logsumexp, &out.pairs.coef, 1.0, &mut dlogits)?;
/// assert!((dlogits[5] - out.pairs.coef[1] * gradient[5]).abs() < 1e-8);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`forward_with`]; [`Error::Length`] that names `gradient`; [`Error::Value`] for a batch with a
/// [`transform`](crate::Batch::transform) and for token metrics, which only the other passes know. Nothing is written
/// then.
pub fn factored<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut Forward,
    gradient: &mut [T],
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    batch.check_logits("gradient", gradient.len())?;
    let source = |row: usize| Source::Separate(&logits[row * batch.row_stride..][..batch.vocab]);
    factor_rows(batch, labels, inputs, loss, out, gradient, source)
}

/// [`factored`] that leaves the gradient where the logits were, bit for bit the same.
///
/// # Errors
///
/// Those of [`factored`]; nothing is written then.
pub fn factored_in_place<T: Logit>(
    batch: &HostBatch<'_>,
    logits: &mut [T],
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut Forward,
) -> Result<()> {
    batch.check_pass(logits.len(), labels)?;
    factor_rows(batch, labels, inputs, loss, out, logits, |_| Source::InPlace)
}

/// Row by row, `logps` and at once the gradient, which finds the row in the caches; then `pair_loss`.
fn factor_rows<'a, T: Logit>(
    batch: &HostBatch<'_>,
    labels: Labels<'_>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    out: &mut Forward,
    gradient: &mut [T],
    source: impl Fn(usize) -> Source<'a, T> + Sync,
) -> Result<()> {
    check_loss(batch, inputs, loss)?;
    batch.check_factored(out.logps.metrics.is_some())?;

    let kernels = row_kernels::<T>();
    let transform = TransformKind::from(&batch.transform);
    let streamed = size_of_val(gradient) > STREAM_BYTES;
    let Forward { logps, pairs } = out;
    resize_rows(batch.rows(), logps);
    let rows = gradient[..batch.logits_len()].par_chunks_mut(batch.row_stride);
    (rows, &mut logps.token_logps, &mut logps.logsumexp, &mut logps.logsumexp_residual)
        .into_par_iter()
        .enumerate()
        .with_min_len(task_rows(batch.vocab))
        .for_each(|(row, (gradient, token_logp, logsumexp, residual))| {
            let gradient = &mut gradient[..batch.vocab];
            let source = source(row);
            let logits = match source {
                Source::InPlace => &*gradient,
                Source::Separate(logits) => logits,
            };
            let label = label_of(batch, labels, row);
            let target = label.and_then(|label| batch.column(label));
            let row_logp = match (label, target) {
                (None, _) => RowLogp::NOT_SCORED,
                (_, None) => RowLogp::BAD_LABEL,
                (_, Some(column)) => kernels.logp(logits, column, transform),
            };
            if label.is_some() {
                let RowLogp { logsumexp, residual, .. } = row_logp;
                let row = RowGradient { target, logsumexp, residual, coef: 1.0, transform };
                kernels.write_gradient(row, source, streamed, gradient);
            } else {
                kernels.write_zeros(gradient, streamed);
            }
            row_logp.store((token_logp, logsumexp, residual));
        });
    sum_sequences(batch, labels, logps);
    pair_loss_with(batch, &logps.logps, Some(&logps.scored), inputs, loss, pairs)
}

fn check_backward(batch: &HostBatch<'_>, logsumexp: Logsumexp<'_>, coef: &Coef<'_>) -> Result<()> {
    Error::check_len("logsumexp.values", "[rows]", batch.rows(), logsumexp.values.len())?;
    if let Some(residual) = logsumexp.residual {
        Error::check_len("logsumexp.residual", "[rows]", batch.rows(), residual.len())?;
    }
    coef.check(batch)
}

/// `backward` over rows whose logits, where they are scored, are in `source`.
fn gradient_rows<'a, T: Logit>(
    batch: &HostBatch<'_>,
    labels: Labels<'_>,
    logsumexp: Logsumexp<'_>,
    coef: Coef<'_>,
    upstream: f32,
    dlogits: &mut [T],
    source: impl Fn(usize) -> Source<'a, T> + Sync,
) -> GradientStatus {
    let kernels = row_kernels::<T>();
    let transform = TransformKind::from(&batch.transform);
    let streamed = size_of_val(dlogits) > STREAM_BYTES;
    let write_row = |row: usize, out: &mut [T]| {
        let (out, padding) = out[..batch.vocab].split_at_mut(batch.columns());
        padding.fill(T::from_f32(0.0));
        let s = batch.sequences.of_row(row);
        let label = batch.label(labels, row, batch.sequences.range(s).end);
        let target = label.and_then(|label| batch.column(label));
        let c = coef.of(s, row, upstream);
        if label.is_none() || (target.is_some() && coef.skips(c)) {
            kernels.write_zeros(out, streamed);
            return true;
        }
        let gradient = RowGradient {
            target,
            logsumexp: logsumexp.values[row],
            residual: logsumexp.residual.map_or(0.0, |residual| residual[row]),
            coef: c,
            transform,
        };
        kernels.write_gradient(gradient, source(row), streamed, out);
        // Nothing is larger than |c|, so that hardly a row has to be looked at again.
        gradient.stays_below(T::DTYPE.largest()) || out.iter().all(|value| value.to_f32().is_finite())
    };
    let nonfinite_row = dlogits[..batch.logits_len()]
        .par_chunks_mut(batch.row_stride)
        .enumerate()
        .with_min_len(task_rows(batch.vocab))
        .filter_map(|(row, out)| (!write_row(row, out)).then_some(row))
        .min();
    GradientStatus { nonfinite_row }
}
