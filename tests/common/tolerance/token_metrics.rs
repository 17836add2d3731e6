//! Token metrics. With e = exp(z′ − R) and S = Σe, all are sums over the same terms as S, in the same read.

use super::precision::Precision;
use super::row::Row;

impl Row<'_> {
    /// Bound for H = ln S − Σ e(z′ − R)/S.
    ///
    /// The size of the second term is at most ln V and what R is below the maximum, twice. It has S's relative error
    /// four times: as e does, as S does, from the sum that takes its elements one by one, and from moving R, when all
    /// exponents fall. |∂H/∂z′| = p|ln p + H| adds up to 2 ln V at most.
    pub fn entropy(&self) -> f64 {
        let Precision { scalar, unit, reference_below, .. } = self.precision;
        let size = self.ln_columns() + 2.0 * reference_below;
        (1.0 + 4.0 * size) * self.sum()
            + (2.0 * self.ln_columns() + 2.0) * self.softcap()
            + (4.0 * scalar + unit) * size
    }

    /// Relative error of Σ p², and the absolute one of its logarithm.
    ///
    /// S² has that of S twice. Σe² has that of e twice, takes its elements one by one, and shrinks by a square where R
    /// rises: within four times that of S. Under a cap, |∂ log Σp²/∂z′| adds up to 4.
    pub fn sum_p2(&self) -> f64 {
        6.0 * self.sum() + 4.0 * self.softcap()
    }

    /// Bound for the mean of z′, the mean of whose sizes is `size`.
    pub fn mean_logit(&self, size: f64) -> f64 {
        // The product with the scale, and the division.
        let rounding = 2.0 * self.precision.scalar + self.precision.unit;
        size * (self.additions(self.precision.plain_sum) + rounding) + self.softcap()
    }

    /// Bound for a sequence's mean of logp − log Σp² over its scored rows, whose log-probs are off by `logps` in the
    /// mean. log Σp² is at most ln V in size and off by 2 roundings.
    pub fn sequence_log_weight(&self, logps: f64, log_weight: f64) -> f64 {
        let log_p2 = self.sum_p2() + 2.0 * self.precision.scalar * self.ln_columns();
        logps + log_p2 + self.precision.rounding(log_weight)
    }
}

impl Precision {
    /// The mean of the metrics of rows as they were found, and its bound: the sum is in f64, whose order is the
    /// backend's own.
    pub fn mean_of_rows(&self, rows: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let count = rows.clone().count().max(1) as f64;
        let mean = rows.clone().sum::<f64>() / count;
        let additions = f64::EPSILON * rows.map(f64::abs).sum::<f64>();
        (mean, additions + self.rounding(mean))
    }
}
