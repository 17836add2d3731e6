//! Metrics of a whole batch: one number each.

use crate::memory::Number;

/// The loss of a batch, and means over its pairs; a pair of [weight](crate::PairInputs::weight) 0 is none of them.
///
/// A mean over nothing is 0, so that means of several batches, or of the ranks of a cluster, weighted by what they are
/// means over, make those of all together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairMetrics<F> {
    /// Number of pairs, or of sequences where they are [unpaired](crate::Pairs::Unpaired).
    pub pairs: u32,
    /// Number of chosen sequences: `pairs`, or of unpaired sequences the desirable.
    pub chosen: u32,
    /// Number of rejected sequences: `pairs`, or of unpaired sequences the others.
    pub rejected: u32,
    /// Σ pair_losses ÷ normaliser; 0 where that is a count of nothing.
    pub loss: F,
    /// Mean of the rewards of `chosen` sequences.
    pub chosen_reward: F,
    /// Mean of the rewards of `rejected` sequences.
    pub rejected_reward: F,
    /// Mean of the margins of `pairs`. Of unpaired sequences it is `chosen_reward − rejected_reward`, which only those two
    /// add up to over several batches, and 0 where there are none of one kind.
    pub margin: F,
    /// Share of `pairs` with r̂_w > r̂_l; a tie, or a NaN, counts as wrong. A reward that an unpaired sequence does not have
    /// is 0 here.
    pub accuracy: F,
}

/// Means over the scored rows of a batch, whatever their weights: sums in f64, rounded once.
///
/// What is NaN in one scored row is NaN in the mean, but for the accuracy, which counts that row as wrong. Without a
/// scored row all are 0, so that means of several batches, weighted by `scored`, make those of all together. Where
/// device-side cu_seqlens are out of order, `scored` is 0 and the means are NaN.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MeanTokenMetrics<F> {
    /// Number of scored rows.
    pub scored: u32,
    /// Mean entropy, in nats.
    pub entropy: F,
    /// Share of rows whose label is the most probable token.
    pub accuracy: F,
    /// Mean of z′ over rows and valid vocabulary.
    pub mean_logit: F,
    /// Mean of log Σ exp z′, in nats.
    pub logsumexp: F,
    /// Mean of Σ p².
    pub sum_p2: F,
}

/// Adds up the metrics of scored rows, one after the other, in f64.
#[derive(Debug, Default)]
pub(crate) struct MeanTokenMetricsSum {
    scored: u32,
    sums: [f64; 5],
}

impl MeanTokenMetricsSum {
    /// Adds one scored row.
    pub fn add(&mut self, entropy: f64, correct: f64, mean_logit: f64, logsumexp: f64, sum_p2: f64) {
        self.scored += 1;
        for (sum, value) in self.sums.iter_mut().zip([entropy, correct, mean_logit, logsumexp, sum_p2]) {
            *sum += value;
        }
    }

    /// The means over all that were added; 0 without any.
    pub fn mean<F: Number>(&self) -> MeanTokenMetrics<F> {
        let count = f64::from(self.scored.max(1));
        let [entropy, accuracy, mean_logit, logsumexp, sum_p2] = self.sums.map(|sum| F::round(sum / count));
        MeanTokenMetrics { scored: self.scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 }
    }
}
