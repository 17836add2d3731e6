//! What `backward` multiplies each row's gradient by.

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::sequences::IndexArray;

/// What the gradient of a row's log-prob is multiplied by.
///
/// ```text
/// c_r = coef[s] · token_coef[r] · upstream                for row r of sequence s; what is not given is 1
/// ```
///
/// A loss over sequences gives `sequences`, a loss over tokens `tokens`, and either may stand alone. Slices and
/// vectors of `[S]` turn into one by themselves.
///
/// **Skipping.** A row with |c_r| ≤ `threshold` (and, where there is an [`EntropyCoef`], |e_r · upstream| too) is written as
/// exact zeros, without being read: it costs no more than a row that is not scored. At the default threshold of 0 these are
/// the rows whose coefficient is exactly 0, such as those of pairs past a hinge loss's margin, and nothing changes but that
/// a NaN among their logits does not show. A larger threshold changes no element of the gradient by more than itself (times
/// ∂z′/∂z, where there is a [`Transform`](crate::Transform); times 2 + H_r in all where entropies have coefficients). A NaN
/// coefficient is never skipped, and neither is a row with a bad label.
///
/// ```
/// use dpo_kernels::Coef;
///
/// let per_sequence = vec![-0.1f32, 0.1];
/// assert_eq!(Coef::from(&per_sequence), Coef { sequences: Some(&[-0.1, 0.1]), ..Coef::default() });
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coef<'a, F = f32> {
    /// `[S]`: c_s = ∂loss/∂logp_s.
    pub sequences: Option<&'a [F]>,
    /// `[rows]`: a factor of each token. Entries of rows that are not scored are not looked at. A batch with
    /// [`ld_alpha`](Batch::ld_alpha) needs `logps`' [`token_weights`](crate::Logps::token_weights) here, times the
    /// caller's own factors if there are any.
    pub tokens: Option<&'a [F]>,
    /// Rows with |c_r| up to here are zeros; finite and not below 0.
    pub threshold: F,
}

impl<F: Default> Default for Coef<'_, F> {
    fn default() -> Self {
        Coef { sequences: None, tokens: None, threshold: F::default() }
    }
}

impl<'a, F: Default> From<&'a [F]> for Coef<'a, F> {
    fn from(sequences: &'a [F]) -> Self {
        Coef { sequences: Some(sequences), ..Coef::default() }
    }
}

impl<'a, F: Default> From<&'a Vec<F>> for Coef<'a, F> {
    fn from(sequences: &'a Vec<F>) -> Self {
        sequences[..].into()
    }
}

impl<'a, F: Default, const N: usize> From<&'a [F; N]> for Coef<'a, F> {
    fn from(sequences: &'a [F; N]) -> Self {
        sequences[..].into()
    }
}

impl<F: Copy + Into<f64> + From<f32> + std::ops::Mul<Output = F>> Coef<'_, F> {
    /// c_r of row `row` in sequence `sequence`.
    pub(crate) fn of(&self, sequence: usize, row: usize, upstream: F) -> F {
        let one = F::from(1.0f32);
        let coef = self.sequences.map_or(one, |coef| coef[sequence]);
        self.tokens.map_or(coef, |tokens| coef * tokens[row]) * upstream
    }

    /// Whether a row with this c_r is zeros. Not so for NaN.
    pub(crate) fn skips(&self, c: F) -> bool {
        c.into().abs() <= self.threshold.into()
    }

    pub(crate) fn check<A: IndexArray>(&self, batch: &Batch<A>) -> Result<()> {
        if let Some(coef) = self.sequences {
            Error::check_len("coef", "[sequences]", batch.sequences.count(), coef.len())?;
        }
        match self.tokens {
            Some(tokens) => Error::check_len("token_coef", "[rows]", batch.rows(), tokens.len())?,
            None => check_token_weights(batch, false)?,
        }
        check_threshold(self.threshold.into())
    }
}

/// A batch whose tokens have weights must not lose them on the way to `backward`.
pub(crate) fn check_token_weights<A>(batch: &Batch<A>, given: bool) -> Result<()> {
    if given || batch.ld_alpha == 1.0 {
        Ok(())
    } else {
        Err(Error::Missing { argument: "token_coef", because: "ld_alpha is not 1" })
    }
}

/// The part of an objective that depends on the entropies of rows: a bonus, a penalty, a regulariser.
///
/// ```text
/// H_r = −Σ_v p[r, v] log p[r, v]                          in nats, of the transformed logits
/// ∂H_r/∂z′[r, v] = −p[r, v] (log p[r, v] + H_r)
/// ```
///
/// Entries of rows that are not scored are not looked at.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, Logps, Pairs, TokenMetrics, cpu};
///
/// let batch = HostBatch { pairs: Pairs::None, ..HostBatch::padded(1, 1, 2, LabelAlignment::Aligned) };
/// let (logits, labels) = ([0.3f32, -0.3], [0i64]);
/// let mut out = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
/// cpu::logps(&batch, &logits, labels[..].into(), &mut out)?;
///
/// // The objective −0.01 H, which flattens the distribution: its log-probs have no part in it.
/// let entropy = &out.metrics.as_ref().expect("it was asked for").entropy;
/// let entropy = dpo_kernels::EntropyCoef { coef: &[-0.01], entropy };
/// let inputs = cpu::BackwardInputs::new(&out, &[0.0]).with_entropy(entropy);
/// let mut dlogits = [0.0; 2];
/// cpu::backward(&batch, &logits, labels[..].into(), inputs, &mut dlogits)?.check()?;
/// // Down the gradient, the larger logit falls.
/// assert!(dlogits[0] > 0.0 && (dlogits[0] + dlogits[1]).abs() < 1e-9);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyCoef<'a, F = f32> {
    /// `[rows]`: e_r = ∂L/∂H_r, where the loss has an upstream gradient of 1.
    pub coef: &'a [F],
    /// `[rows]`: H_r, of [`logps`](crate::cpu::logps()) ([`TokenMetrics::entropy`](crate::TokenMetrics::entropy)).
    pub entropy: &'a [F],
}

impl<F> EntropyCoef<'_, F> {
    pub(crate) fn check<A: IndexArray>(&self, batch: &Batch<A>) -> Result<()> {
        Error::check_len("entropy_coef", "[rows]", batch.rows(), self.coef.len())?;
        Error::check_len("entropy", "[rows]", batch.rows(), self.entropy.len())
    }
}

pub(crate) fn check_threshold(threshold: f64) -> Result<()> {
    if threshold.is_finite() && threshold >= 0.0 {
        Ok(())
    } else {
        Err(Error::value("threshold", "a finite number that is not below 0", threshold))
    }
}
