//! The log-prob of a row's label.

use super::online_sum::RowSums;

/// `logps` of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLogp {
    /// z′[y] − logsumexp.
    pub logp: f32,
    /// log Σ exp z′, rounded to f32.
    pub logsumexp: f32,
    /// What that rounding took away.
    pub residual: f32,
}

impl RowLogp {
    /// A row that is not scored.
    pub const NOT_SCORED: RowLogp = RowLogp { logp: 0.0, logsumexp: 0.0, residual: 0.0 };

    /// A row whose label is out of range. Its logsumexp is NaN so that `backward` makes the row's gradient NaN.
    pub const BAD_LABEL: RowLogp = RowLogp { logp: f32::NAN, logsumexp: f32::NAN, residual: 0.0 };
}

impl<K> From<&RowSums<K>> for RowLogp {
    fn from(sums: &RowSums<K>) -> Self {
        let ln_sum = sums.sum.ln();
        let logsumexp = sums.logsumexp() as f32;
        // The two large numbers are subtracted first, so that ln_sum survives even where it is below the last bit of
        // the reference.
        let residual = (sums.reference - f64::from(logsumexp)) + ln_sum;
        let residual = if logsumexp.is_finite() { residual as f32 } else { 0.0 };

        // Here too: near ±1e4 the difference of the large numbers is exact, while logsumexp is not.
        let logp = (sums.at_label - sums.reference) - ln_sum;
        // A sum that was rounded down could make a probability above 1. NaN is not above 0 and stays.
        let logp = if logp > 0.0 { 0.0 } else { logp as f32 };
        RowLogp { logp, logsumexp, residual }
    }
}
