//! What `backward` is given besides logits and labels: most often all that `forward` gave.

use super::row_gradient::RowEntropy;
use crate::batch::HostBatch;
use crate::coef::{Coef, EntropyCoef};
use crate::error::{Error, Result};
use crate::results::{Forward, Logps};

/// What `backward` needs of `logps`: log Σ exp of each row.
///
/// ```
/// use dpo_kernels::Logps;
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

/// What `backward` needs of the stages before it, and the upstream gradient.
///
/// The outputs of [`forward`](super::forward()) turn into one by themselves. A loss of one's own has the outputs of
/// [`logps`](super::logps()), and coefficients:
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, Logps, Pairs, cpu};
///
/// let batch = HostBatch { pairs: Pairs::None, ..HostBatch::padded(2, 1, 3, LabelAlignment::Aligned) };
/// let (logits, labels) = ([0.0f32; 6], [0i64, 2]);
/// let mut out = Logps::default();
/// cpu::logps(&batch, &logits, labels[..].into(), &mut out)?;
///
/// // The loss −logp_0, scaled up by 1024 against underflow in f16.
/// let inputs = cpu::BackwardInputs::new(&out, &[-1.0, 0.0]).with_upstream(1024.0);
/// let mut dlogits = [0.0; 6];
/// cpu::backward(&batch, &logits, labels[..].into(), inputs, &mut dlogits)?.check()?;
/// assert!((dlogits[0] + 1024.0 * 2.0 / 3.0).abs() < 1e-3);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackwardInputs<'a> {
    /// Of the same logits and labels.
    pub logsumexp: Logsumexp<'a>,
    /// What each row's gradient is multiplied by.
    pub coef: Coef<'a>,
    /// What the gradient of each row's entropy is multiplied by, if that has one.
    pub entropy: Option<EntropyCoef<'a>>,
    /// ∂L/∂loss, where the loss goes into a larger L whose gradient is wanted; 1 where that is the loss itself.
    pub upstream: f32,
}

impl<'a> BackwardInputs<'a> {
    /// Without a gradient of entropies, and with an upstream gradient of 1.
    pub fn new(logsumexp: impl Into<Logsumexp<'a>>, coef: impl Into<Coef<'a>>) -> Self {
        BackwardInputs { logsumexp: logsumexp.into(), coef: coef.into(), entropy: None, upstream: 1.0 }
    }

    /// Checks the lengths, for a batch that is valid.
    pub(super) fn check(&self, batch: &HostBatch<'_>) -> Result<()> {
        let BackwardInputs { logsumexp, coef, entropy, .. } = self;
        Error::check_len("logsumexp.values", "[rows]", batch.rows(), logsumexp.values.len())?;
        if let Some(residual) = logsumexp.residual {
            Error::check_len("logsumexp.residual", "[rows]", batch.rows(), residual.len())?;
        }
        entropy.map_or(Ok(()), |entropy| entropy.check(batch))?;
        coef.check(batch)
    }

    /// e of a row, times the upstream gradient, and H.
    pub(super) fn row_entropy(&self, row: usize) -> Option<RowEntropy> {
        let EntropyCoef { coef, entropy } = self.entropy?;
        Some(RowEntropy { coef: coef[row] * self.upstream, value: entropy[row] })
    }

    /// Whether a row with this c and this entropy's coefficient is zeros. Not so for NaN.
    pub(super) fn skips(&self, c: f32, entropy: Option<RowEntropy>) -> bool {
        self.coef.skips(c) && entropy.is_none_or(|entropy| self.coef.skips(entropy.coef))
    }

    /// With a gradient of the rows' entropies.
    #[must_use]
    pub fn with_entropy(self, entropy: EntropyCoef<'a>) -> Self {
        BackwardInputs { entropy: Some(entropy), ..self }
    }

    /// With another upstream gradient.
    #[must_use]
    pub fn with_upstream(self, upstream: f32) -> Self {
        BackwardInputs { upstream, ..self }
    }
}

/// All that `forward` gave, the weights of tokens ([`ld_alpha`](crate::Batch::ld_alpha)) among it.
impl<'a> From<&'a Forward<f32>> for BackwardInputs<'a> {
    fn from(out: &'a Forward<f32>) -> Self {
        let coef = Coef { tokens: Some(&out.logps.token_weights), ..Coef::from(&out.pairs.coef) };
        BackwardInputs::new(&out.logps, coef)
    }
}
