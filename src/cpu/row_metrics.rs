//! The token metrics of a row.

use super::block::BLOCK;
use super::element::Element;
use super::metric_sums::{AllSums, EntropySums, total};
use super::online_sum::RowSums;
use super::row_logp::RowLogp;
use super::transform::TransformKind;

/// What [`TokenMetrics`](crate::TokenMetrics) have of one row.
#[derive(Debug, Clone, Copy)]
pub struct RowMetrics {
    pub entropy: f32,
    pub correct: f32,
    pub mean_logit: f32,
    pub sum_p2: f32,
}

impl RowMetrics {
    /// A row that is not scored.
    pub const NOT_SCORED: RowMetrics =
        RowMetrics { entropy: 0.0, correct: 0.0, mean_logit: 0.0, sum_p2: 0.0 };

    /// A row whose label is out of range.
    pub const BAD_LABEL: RowMetrics =
        RowMetrics { entropy: f32::NAN, correct: 0.0, mean_logit: f32::NAN, sum_p2: f32::NAN };

    /// The metrics of `row`, whose log-prob at column `target` is `row_logp`, from its sums.
    pub fn new<T: Element>(
        row: &[T],
        target: usize,
        transform: TransformKind,
        row_logp: RowLogp,
        sums: &RowSums<AllSums>,
    ) -> Self {
        let metrics = &sums.metrics;
        let correct = largest_column(row, metrics) == target && !row_logp.logp.is_nan();
        RowMetrics {
            entropy: entropy_of(sums, &metrics.entropy),
            correct: f32::from(u8::from(correct)),
            mean_logit: (transform.scaled(total(&metrics.unscaled)) / row.len() as f64) as f32,
            sum_p2: (total(&metrics.squares) / (sums.sum() * sums.sum())) as f32,
        }
    }
}

/// The entropy of a row in nats.
pub fn entropy(sums: &RowSums<EntropySums>) -> f32 {
    entropy_of(sums, &sums.metrics)
}

/// −Σ p log p = ln Σ exp(z′ − R) − Σ p·(z′ − R).
fn entropy_of<K>(sums: &RowSums<K>, metrics: &EntropySums) -> f32 {
    let weighted = total(&metrics.weighted) / std::f64::consts::LOG2_E;
    let entropy = sums.sum().ln() - weighted / sums.sum();
    // Rounding could leave an entropy of nearly 0 below it. NaN is not below 0 and stays.
    if entropy < 0.0 { 0.0 } else { entropy as f32 }
}

/// The first column that has the largest logit. It is in the first block that has it.
fn largest_column<T: Element>(row: &[T], metrics: &AllSums) -> usize {
    let start = metrics.largest_in * BLOCK;
    start + row[start..].iter().position(|z| z.to_f32() == metrics.largest).unwrap_or(0)
}
