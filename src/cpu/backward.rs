//! From logits and coefficients to the gradient by the logits.

use rayon::prelude::*;

use super::backward_inputs::BackwardInputs;
use super::row::row_kernels;
use super::row_gradient::{RowGradient, Source};
use super::tasks::{STREAM_BYTES, task_rows};
use super::transform::TransformKind;
use crate::batch::HostBatch;
use crate::dtype::Logit;
use crate::error::Result;
use crate::labels::Labels;
use crate::status::GradientStatus;

/// `backward`: the gradient of the loss by the logits.
///
/// ```text
/// dlogits[r, v] = c_r · (1[v = y_r] − softmax(z′[r])[v]) · ∂z′/∂z,   c_r = coef[s] · token_coef[r] · upstream
/// ```
///
/// and, for an objective with an [`EntropyCoef`], −e_r · upstream · p (log p + H_r) · ∂z′/∂z on top, with p the softmax of z′.
///
/// `logits` and `dlogits` are laid out as for [`logps`]. `inputs` are what [`forward`] gave for them, or
/// [`BackwardInputs`] of what [`logps`] gave and of coefficients: a caller's own `[S]` of ∂loss/∂logp_s, or a
/// [`Coef`](crate::Coef) that also knows factors of tokens and what to skip.
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
/// `logsumexp.residual`, `coef`, `token_coef`, `entropy_coef`, `entropy` or `dlogits`; [`Error::Missing`] for `token_coef`
/// where the batch has an [`ld_alpha`](crate::Batch::ld_alpha); [`Error::Value`] for `threshold`. `dlogits` is untouched then.
///
/// [`EntropyCoef`]: crate::EntropyCoef
/// [`Error::Length`]: crate::Error::Length
/// [`Error::Missing`]: crate::Error::Missing
/// [`Error::Value`]: crate::Error::Value
/// [`forward`]: super::forward()
/// [`logps`]: super::logps()
pub fn backward<'a, T: Logit>(
    batch: &HostBatch<'_>,
    logits: &[T],
    labels: Labels<'_>,
    inputs: impl Into<BackwardInputs<'a>>,
    dlogits: &mut [T],
) -> Result<GradientStatus> {
    batch.check_pass(logits.len(), labels)?;
    let inputs = inputs.into();
    inputs.check(batch)?;
    batch.check_logits("dlogits", dlogits.len())?;
    let source = |row: usize| Source::Separate(&logits[row * batch.row_stride..][..batch.columns()]);
    Ok(gradient_rows(batch, labels, inputs, dlogits, source))
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
    inputs: impl Into<BackwardInputs<'a>>,
) -> Result<GradientStatus> {
    batch.check_pass(logits.len(), labels)?;
    let inputs = inputs.into();
    inputs.check(batch)?;
    Ok(gradient_rows(batch, labels, inputs, logits, |_| Source::InPlace))
}

/// `backward` over rows whose logits, where they are scored, are in `source`.
fn gradient_rows<'a, T: Logit>(
    batch: &HostBatch<'_>,
    labels: Labels<'_>,
    inputs: BackwardInputs<'_>,
    dlogits: &mut [T],
    source: impl Fn(usize) -> Source<'a, T> + Sync,
) -> GradientStatus {
    let BackwardInputs { logsumexp, coef, upstream, .. } = inputs;
    let (kernels, transform) = (row_kernels::<T>(), TransformKind::from(&batch.transform));
    let streamed = size_of_val(dlogits) > STREAM_BYTES;
    let write_row = |row: usize, out: &mut [T]| {
        let (out, padding) = out[..batch.vocab].split_at_mut(batch.columns());
        padding.fill(T::from_f32(0.0));
        let s = batch.sequences.of_row(row);
        let label = batch.label(labels, row, batch.sequences.range(s).end);
        let target = label.and_then(|label| batch.column(label));
        let c = coef.of(s, row, upstream);
        let entropy = inputs.row_entropy(row);
        if label.is_none() || (target.is_some() && inputs.skips(c, entropy)) {
            kernels.write_zeros(out, streamed);
            return true;
        }
        let gradient = RowGradient {
            target,
            logsumexp: logsumexp.values[row],
            residual: logsumexp.residual.map_or(0.0, |residual| residual[row]),
            coef: c,
            entropy,
            transform,
        };
        kernels.write_gradient(gradient, source(row), streamed, out);
        // Nothing is larger than the coefficients allow, so that hardly a row has to be looked at again.
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
