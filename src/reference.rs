//! The oracle: every formula of the crate in f64 and plain loops, to be checked by eye.
//!
//! Nothing here is shared with the backends but the description of the batch and the losses, each of which is written
//! once for the host, and nothing is clever. It is tested against vectors of an independent implementation and against
//! finite differences; the backends are tested against it.
//!
//! Logits are of any type that widens to f64, f64 itself included, so that finite differences can be taken of the
//! whole chain from logits to loss.
//!
//! ```
//! use dpo_kernels::{HostBatch, LabelAlignment, PairInputs, PairLoss, reference};
//!
//! // One pair of one token each, over two candidates; the reference policy is indifferent.
//! let batch = HostBatch::padded(2, 1, 2, LabelAlignment::Aligned);
//! let (logits, labels) = ([1.0, 0.0, 1.0, 0.0], [0i32, 1]);
//! let logps = reference::logps(&batch, &logits, labels[..].into())?;
//! let ref_logps = [0.5f64.ln(); 2];
//!
//! // The log-ratios differ by the logits' difference, 1, so u = β.
//! let inputs = PairInputs::reference(&ref_logps);
//! let out = reference::pair_loss(&batch, &logps.logps, None, &inputs, &PairLoss::sigmoid(2.0)?)?;
//! assert!((out.margins[0] - 2.0).abs() < 1e-15);
//! assert!((out.metrics.loss - (1.0 + (-2.0f64).exp()).ln()).abs() < 1e-15);
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

pub mod lm_head;

use crate::batch::HostBatch;
use crate::coef::{Coef, EntropyCoef};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::loss::{PairInputs, PairLoss, PairStage};
use crate::metrics::MeanTokenMetricsSum;
use crate::results::{Logps, PairOutputs, TokenMetrics};
use crate::status::Status;

/// `logps`: log-probs of the labels, per token and per sequence.
///
/// ```text
/// logsumexp[r] = m + log Σ_v exp(z′[r, v] − m),   m = max_v z′[r, v],   z′ = transform(z), v below valid_vocab
/// logp[r]      = z′[r, y_r] − logsumexp[r] = −log(1 + Σ_{v ≠ y_r} exp(z′[r, v] − z′[r, y_r]))
/// logp_s       = Σ_{r in s, label ≠ ignore} w[r] logp[r],   w = 1, or ld_alpha beyond the other's length
/// ```
///
/// Shapes, non-finite values and status are those of [`cpu::logps`](crate::cpu::logps).
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate), and [`Error::Length`] that names `logits` or `labels`.
pub fn logps<T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
) -> Result<Logps<f64>> {
    batch.check_pass(logits.len(), labels)?;
    let (rows, transform) = (batch.rows(), &batch.transform);
    let mut out = Logps {
        token_logps: vec![0.0; rows],
        logsumexp: vec![0.0; rows],
        logsumexp_residual: vec![0.0; rows],
        token_weights: vec![0.0; rows],
        ..Logps::default()
    };
    let mut metrics = TokenMetrics {
        entropy: vec![0.0; rows],
        correct: vec![0.0; rows],
        mean_logit: vec![0.0; rows],
        sum_p2: vec![0.0; rows],
        ..TokenMetrics::default()
    };
    let mut mean = MeanTokenMetricsSum::default();
    for s in 0..batch.sequences.count() {
        let full_tokens = batch.full_tokens(labels, s);
        let (mut logp, mut scored, mut adjusted) = (0.0, 0, 0.0);
        let range = batch.sequences.range(s);
        for r in range.clone() {
            let Some(label) = batch.label(labels, r, range.end) else { continue };
            let row = &logits[r * batch.row_stride..][..batch.columns()];
            let z: Vec<f64> = row.iter().map(|&z| transform.apply(z.into())).collect();
            match batch.column(label) {
                Some(y) => {
                    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    // ∞ − ∞ would be NaN where the sum is 0 or ∞.
                    let m = if max.is_finite() { max } else { 0.0 };
                    let term = |z: &f64| (z - m).exp();
                    let others = z[..y].iter().chain(&z[y + 1..]).map(term).sum::<f64>();
                    let label = term(&z[y]);
                    let sum = others + label;
                    let log_sum = sum.ln();
                    out.logsumexp[r] = m + log_sum;
                    // z − logsumexp, with the large numbers subtracted from each other first; but where the label has more
                    // than all others, −log(1 + others/label), which loses nothing however small it is.
                    out.token_logps[r] = if others < label && label.is_finite() {
                        -(others / label).ln_1p()
                    } else {
                        (z[y] - m) - log_sum
                    };

                    let p = || z.iter().map(|z| (z - m).exp() / sum);
                    // p log p is 0 at p = 0.
                    let p_log_p =
                        p().zip(&z).map(|(p, z)| if p == 0.0 { 0.0 } else { p * (z - m - log_sum) });
                    metrics.entropy[r] = -p_log_p.sum::<f64>();
                    metrics.sum_p2[r] = p().map(|p| p * p).sum();
                    metrics.mean_logit[r] = z.iter().sum::<f64>() / z.len() as f64;
                    let at_y: f64 = row[y].into();
                    let first = row[..y].iter().all(|&z| z.into() < at_y);
                    let largest = first && row[y..].iter().all(|&z| z.into() <= at_y);
                    metrics.correct[r] = f64::from(largest && !out.token_logps[r].is_nan());
                }
                None => {
                    out.logsumexp[r] = f64::NAN;
                    out.token_logps[r] = f64::NAN;
                    metrics.entropy[r] = f64::NAN;
                    metrics.sum_p2[r] = f64::NAN;
                    metrics.mean_logit[r] = f64::NAN;
                    out.status.bad_label.get_or_insert(r);
                }
            }
            if !out.token_logps[r].is_finite() {
                out.status.nonfinite_row.get_or_insert(r);
            }
            out.token_weights[r] = if scored < full_tokens { 1.0 } else { batch.ld_alpha.into() };
            logp += out.token_weights[r] * out.token_logps[r];
            adjusted += out.token_logps[r] - metrics.sum_p2[r].ln();
            mean.add(
                metrics.entropy[r],
                metrics.correct[r],
                metrics.mean_logit[r],
                out.logsumexp[r],
                metrics.sum_p2[r],
            );
            scored += 1;
        }
        if scored == 0 {
            out.status.empty_sequence.get_or_insert(s);
        }
        out.logps.push(logp);
        out.scored.push(scored as u32);
        metrics.sequence_log_weights.push(adjusted / scored.max(1) as f64);
    }
    metrics.mean = mean.mean();
    out.metrics = Some(metrics);
    Ok(out)
}

/// `pair_loss`: from sequence log-probs to loss, metrics and the coefficient c_s of each sequence.
///
/// [`loss`](crate::loss) has the formulas: each loss is written once for the host, in f64. Shapes and conventions are
/// those of [`cpu::pair_loss`](crate::cpu::pair_loss).
///
/// # Errors
///
/// Those of [`cpu::pair_loss`](crate::cpu::pair_loss).
pub fn pair_loss(
    batch: &HostBatch<'_>,
    logps: &[f64],
    scored: Option<&[u32]>,
    inputs: &PairInputs<'_, f64>,
    loss: &PairLoss,
) -> Result<PairOutputs<f64>> {
    let mut out = PairOutputs::default();
    pair_stage(batch, logps, scored, inputs, loss)?.run(out.slices(&batch.extent())?);
    Ok(out)
}

/// What [`pair_loss`] finds in what it is given: the first pair with a [bad input](Status::bad_pair_input).
///
/// # Errors
///
/// Those of [`pair_loss`].
pub fn pair_status(
    batch: &HostBatch<'_>,
    logps: &[f64],
    scored: Option<&[u32]>,
    inputs: &PairInputs<'_, f64>,
    loss: &PairLoss,
) -> Result<Status> {
    let stage = pair_stage(batch, logps, scored, inputs, loss)?;
    Ok(Status { bad_pair_input: stage.bad_input(), ..Status::default() })
}

/// The stage of a valid call.
fn pair_stage<'a>(
    batch: &HostBatch<'a>,
    logps: &'a [f64],
    scored: Option<&'a [u32]>,
    inputs: &'a PairInputs<'a, f64>,
    loss: &'a PairLoss,
) -> Result<PairStage<'a, f64>> {
    batch.validate()?;
    Error::check_len("logps", "[sequences]", batch.sequences.count(), logps.len())?;
    loss.check_host_inputs(batch, inputs, scored.map(<[u32]>::len))?;
    Ok(PairStage { pairs: batch.pairs, logps, scored, inputs, loss })
}

/// `backward`: the gradient of the loss by the logits, `[rows, vocab]` with the row stride of the batch.
///
/// ```text
/// dlogits[r, v] = −c · p[r, v] · ∂z′/∂z,   p[r, v] = exp(z′[r, v] − logsumexp[r]),   v ≠ y_r
/// dlogits[r, y] = c · Σ_{v ≠ y} p[r, v] · ∂z′/∂z,   y = y_r,   c = coef[s] · token_coef[r] · upstream
/// ```
///
/// An infinite c gives NaN at the label, as PyTorch's log_softmax does, where it is c − c · p.
/// 0 in ignored rows, which are not read, in skipped ones (see [`Coef`]), and from `valid_vocab` to `row_stride`.
///
/// # Errors
///
/// Those of [`cpu::backward`](crate::cpu::backward).
pub fn backward<'a, T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    logsumexp: &[f64],
    coef: impl Into<Coef<'a, f64>>,
    upstream: f64,
) -> Result<Vec<f64>> {
    batch.check_pass(logits.len(), labels)?;
    Error::check_len("logsumexp", "[rows]", batch.rows(), logsumexp.len())?;
    let coef = coef.into();
    coef.check(batch)?;

    let mut dlogits = vec![0.0; batch.logits_len()];
    for s in 0..batch.sequences.count() {
        let range = batch.sequences.range(s);
        for r in range.clone() {
            let Some(label) = batch.label(labels, r, range.end) else { continue };
            let y = batch.column(label);
            let c = coef.of(s, r, upstream);
            if y.is_some() && coef.skips(c) {
                continue;
            }
            let row = r * batch.row_stride..r * batch.row_stride + batch.columns();
            let p = |logit: f64| (batch.transform.apply(logit) - logsumexp[r]).exp();
            // 1 − p of the label, which near p = 1 is summed over the others and loses nothing.
            let rest = |y: usize| {
                let others = logits[row.clone()].iter().enumerate().filter(|&(v, _)| v != y);
                let label = p(logits[row.start + y].into());
                // A NaN, of an infinite logit, is none of these.
                if label >= 0.5 { others.map(|(_, &logit)| p(logit.into())).sum() } else { 1.0 - label }
            };
            let rest = y.map(rest);
            for (v, (dlogit, &logit)) in dlogits[row.clone()].iter_mut().zip(&logits[row.clone()]).enumerate()
            {
                let logit = logit.into();
                let by_transformed = match rest {
                    Some(rest) if y == Some(v) => c * rest + 0.0 * c,
                    _ => -c * p(logit),
                };
                *dlogit = by_transformed * batch.transform.slope(logit);
            }
        }
    }
    Ok(dlogits)
}

/// The part of `backward` that an [`EntropyCoef`] adds, in the same shape.
///
/// ```text
/// dlogits[r, v] = −e_r · upstream · p (log p + H_r) · ∂z′/∂z,   p = exp(z′[r, v] − logsumexp[r]), and 0 where p is 0
/// ```
///
/// A coefficient of 0 leaves nothing of a finite H, and of another a NaN. What [`backward`] skips for both coefficients of a row
/// is the caller's to leave out.
///
/// # Errors
///
/// Those of [`backward`]; [`Error::Length`] that names `entropy_coef` or `entropy`.
pub fn entropy_gradient<T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    logsumexp: &[f64],
    entropy: EntropyCoef<'_, f64>,
    upstream: f64,
) -> Result<Vec<f64>> {
    batch.check_pass(logits.len(), labels)?;
    Error::check_len("logsumexp", "[rows]", batch.rows(), logsumexp.len())?;
    entropy.check(batch)?;
    let mut dlogits = vec![0.0; batch.logits_len()];
    for (r, (&e, &h)) in entropy.coef.iter().zip(entropy.entropy).enumerate() {
        let end = batch.sequences.range(batch.sequences.of_row(r)).end;
        let none = e * upstream == 0.0 && h.is_finite();
        if batch.label(labels, r, end).is_none() || none {
            continue;
        }
        let row = r * batch.row_stride..r * batch.row_stride + batch.columns();
        for (dlogit, &logit) in dlogits[row.clone()].iter_mut().zip(&logits[row]) {
            let logp = batch.transform.apply(logit.into()) - logsumexp[r];
            let p = logp.exp();
            let product = if p == 0.0 { 0.0 } else { p * (logp + h) };
            *dlogit = -e * upstream * product * batch.transform.slope(logit.into());
        }
    }
    Ok(dlogits)
}

/// `backward` without its coefficients, `[rows, vocab]` with the row stride of the batch.
///
/// ```text
/// gradient[r, v] = (1[v = y_r] − exp(z′[r, v] − logsumexp[r])) · ∂z′/∂z
/// ```
///
/// so that dlogits = coef\[s\] · upstream · gradient, with 0 where [`backward`] has 0. What
/// [`cpu::factored`](crate::cpu::factored) writes; its doc says what it is for.
///
/// # Errors
///
/// Those of [`backward`].
pub fn factored_gradient<T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    logsumexp: &[f64],
) -> Result<Vec<f64>> {
    batch.validate()?;
    // The weights of LD-DPO's tokens are a part of the coefficients, which are left out.
    let ones = vec![1.0; batch.rows()];
    backward(batch, logits, labels, logsumexp, Coef { tokens: Some(&ones), ..Coef::default() }, 1.0)
}
