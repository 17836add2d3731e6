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
//! use dpo_kernels::{HostBatch, PairLoss, reference};
//!
//! // One pair of one token each, over two candidates; the reference policy is indifferent.
//! let batch = HostBatch::padded(2, 1, 2);
//! let (logits, labels) = ([1.0, 0.0, 1.0, 0.0], [0i32, 1]);
//! let logps = reference::logps(&batch, &logits, labels[..].into())?;
//! let ref_logps = [0.5f64.ln(); 2];
//!
//! // The log-ratios differ by the logits' difference, 1, so u = β.
//! let out = reference::pair_loss(&batch, &logps.logps, Some(&ref_logps), None, &PairLoss::sigmoid(2.0)?)?;
//! assert!((out.margins[0] - 2.0).abs() < 1e-15);
//! assert!((out.metrics.loss - (1.0 + (-2.0f64).exp()).ln()).abs() < 1e-15);
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

use crate::batch::{HostBatch, Labels, Logps, PairOutputs, Status};
use crate::error::{Error, Result};
use crate::loss::{PairInputs, PairLoss};

/// Floor 1: log-probs of the labels, per token and per sequence.
///
/// ```text
/// logsumexp[r] = m + log Σ_v exp(z[r, v] − m),   m = max_v z[r, v]
/// logp[r]      = z[r, y_r] − logsumexp[r]
/// logp_s       = Σ_{r in s, label ≠ ignore} logp[r]
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
    let rows = batch.rows();
    let mut out = Logps {
        logps: Vec::new(),
        scored: Vec::new(),
        token_logps: vec![0.0; rows],
        logsumexp: vec![0.0; rows],
        logsumexp_residual: vec![0.0; rows],
        status: Status::default(),
    };
    for s in 0..batch.sequences.count() {
        let (mut logp, mut scored) = (0.0, 0);
        let range = batch.sequences.range(s);
        for r in range.clone() {
            let Some(label) = batch.label(labels, r, range.end) else { continue };
            let z: Vec<f64> =
                logits[r * batch.row_stride..][..batch.vocab].iter().map(|&z| z.into()).collect();
            match batch.column(label) {
                Some(y) => {
                    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    // ∞ − ∞ would be NaN where the sum is 0 or ∞.
                    let m = if max.is_finite() { max } else { 0.0 };
                    let log_sum = z.iter().map(|z| (z - m).exp()).sum::<f64>().ln();
                    out.logsumexp[r] = m + log_sum;
                    // z − logsumexp, with the large numbers subtracted from each other first.
                    out.token_logps[r] = (z[y] - m) - log_sum;
                }
                None => {
                    out.logsumexp[r] = f64::NAN;
                    out.token_logps[r] = f64::NAN;
                    out.status.bad_label.get_or_insert(r);
                }
            }
            if !out.token_logps[r].is_finite() {
                out.status.nonfinite_row.get_or_insert(r);
            }
            logp += out.token_logps[r];
            scored += 1;
        }
        if scored == 0 {
            out.status.empty_sequence.get_or_insert(s);
        }
        out.logps.push(logp);
        out.scored.push(scored);
    }
    Ok(out)
}

/// Floor 2: from sequence log-probs to loss, metrics and the coefficient c_s of each sequence.
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
    ref_logps: Option<&[f64]>,
    lengths: Option<&[u32]>,
    loss: &PairLoss,
) -> Result<PairOutputs<f64>> {
    pair_loss_with(batch, logps, lengths, &PairInputs::of_reference(ref_logps), loss)
}

/// [`pair_loss`] with everything it can be given.
///
/// # Errors
///
/// Those of [`cpu::pair_loss_with`](crate::cpu::pair_loss_with).
pub fn pair_loss_with(
    batch: &HostBatch<'_>,
    logps: &[f64],
    scored: Option<&[u32]>,
    inputs: &PairInputs<'_, f64>,
    loss: &PairLoss,
) -> Result<PairOutputs<f64>> {
    let mut out = PairOutputs::default();
    batch.floor_two(logps, scored, inputs, loss)?.run(&mut out);
    Ok(out)
}

/// Floor 3: the gradient of the loss by the logits, `[rows, vocab]` with the row stride of the batch.
///
/// ```text
/// dlogits[r, v] = c · 1[v = y_r] − c · exp(z[r, v] − logsumexp[r]),   c = coef[s] · upstream
/// ```
///
/// in this form because an infinite c then gives NaN at the label, as PyTorch's log_softmax does.
/// 0 in ignored rows, which are not read, and between `vocab` and `row_stride`.
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate), and [`Error::Length`] that names `logits`, `labels`, `logsumexp`
/// or `coef`.
pub fn backward<T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    logsumexp: &[f64],
    coef: &[f64],
    upstream: f64,
) -> Result<Vec<f64>> {
    batch.check_pass(logits.len(), labels)?;
    Error::check_len("logsumexp", "[rows]", batch.rows(), logsumexp.len())?;
    Error::check_len("coef", "[sequences]", batch.sequences.count(), coef.len())?;

    let mut dlogits = vec![0.0; batch.logits_len()];
    for (s, coef) in coef.iter().enumerate() {
        let c = coef * upstream;
        let range = batch.sequences.range(s);
        for r in range.clone() {
            let Some(label) = batch.label(labels, r, range.end) else { continue };
            for v in 0..batch.vocab {
                let z: f64 = logits[r * batch.row_stride + v].into();
                let one = if batch.column(label) == Some(v) { c } else { 0.0 };
                dlogits[r * batch.row_stride + v] = one - c * (z - logsumexp[r]).exp();
            }
        }
    }
    Ok(dlogits)
}

/// Floor 3 without its coefficients, `[rows, vocab]` with the row stride of the batch.
///
/// ```text
/// gradient[r, v] = 1[v = y_r] − exp(z[r, v] − logsumexp[r])
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
    backward(batch, logits, labels, logsumexp, &vec![1.0; batch.sequences.count()], 1.0)
}
