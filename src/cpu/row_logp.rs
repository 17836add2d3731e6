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
    /// Where the label has more than all others together, −log p = log(1 + others/label) is small, and right to its last
    /// bits; elsewhere it is the usual difference.
    fn from(sums: &RowSums<K>) -> Self {
        // NaN is not below, and an infinite logit of the label is not a certain label: both come to NaN by the difference.
        let (logp, base, ln_sum) = if sums.others < sums.label && sums.label.is_finite() {
            let surprise = (sums.others / sums.label).ln_1p();
            (-surprise, sums.at_label, surprise)
        } else {
            // The two large numbers are subtracted first: near ±1e4 their difference is exact, while logsumexp is not.
            let ln_sum = sums.sum().ln();
            ((sums.at_label - sums.reference) - ln_sum, sums.reference, ln_sum)
        };
        let logsumexp = (base + ln_sum) as f32;
        // Here too, so that ln_sum survives even where it is below the last bit of the other.
        let residual = (base - f64::from(logsumexp)) + ln_sum;
        let residual = if logsumexp.is_finite() { residual as f32 } else { 0.0 };
        RowLogp { logp: logp as f32, logsumexp, residual }
    }
}
