//! One row: Σ exp, its logarithm, and the log-prob of the label.

use dpo_kernels::Transform;

use super::precision::{Additions, Precision};
use super::sequence::Uncertain;

/// A row of so many columns, whose logits go through a transform.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub(super) precision: &'a Precision,
    pub(super) columns: usize,
    pub(super) transform: &'a Transform,
}

impl Precision {
    pub fn row<'a>(&'a self, columns: usize, transform: &'a Transform) -> Row<'a> {
        Row { precision: self, columns, transform }
    }
}

impl Row<'_> {
    pub(super) fn ln_columns(&self) -> f64 {
        (self.columns as f64).ln()
    }

    /// Relative error of an exponent, which is relative to |z′ − R|.
    pub(super) fn exponent(&self) -> f64 {
        let Precision { exponent, element, .. } = self.precision;
        element * if self.transform.scale == 1.0 { exponent.unscaled } else { exponent.scaled }
    }

    /// Relative error of a sum over the row from its additions. The fewest threads that a row has are 32, and the least
    /// that a group holds are 16 elements; where a row has many groups, it has more threads.
    pub(super) fn additions(&self, additions: Additions) -> f64 {
        let groups = self.columns.div_ceil(32 * 16).min(64) as f64;
        self.precision.element * (additions.fixed + additions.per_group * groups)
    }

    /// Relative error of Σ exp(z′ − R).
    ///
    /// That of an exponent is weighted with p: Σ p·(max − z′) is H − (logsumexp − max), no more than the entropy, which
    /// is at most ln V; R may be below the maximum.
    pub(super) fn sum(&self) -> f64 {
        let Precision { exp, sum, reference_below, .. } = self.precision;
        self.exponent() * (self.ln_columns() + reference_below) + exp + self.additions(*sum)
    }

    /// Absolute error of z′ under a soft cap C, ±C(1 − 2q) with q = 1/(1 + e^(2|t|)).
    ///
    /// q changes by q(1 − q) ≤ ¼ of the power's relative error, and by 2|t| q(1 − q) ≤ ¼ of that of the argument 2|t|;
    /// its own roundings are relative to itself, at most ½. Twice that, and the rounding of the result.
    pub(super) fn softcap(&self) -> f64 {
        let Precision { exp, element, softcap, .. } = self.precision;
        let q = 0.25 * exp + element * (0.25 * softcap.argument + 0.5 * softcap.reciprocal);
        self.transform.softcap.map_or(0.0, |cap| f64::from(cap) * (2.0 * q + element))
    }

    /// Absolute error of log Σ exp z′ before it is stored. The logarithm of the sum is at most ln V and off by 2
    /// roundings.
    pub(super) fn log_sum(&self, logsumexp: f64) -> f64 {
        let Precision { scalar, natural, .. } = self.precision;
        self.sum() + 2.0 * scalar * self.ln_columns() + self.softcap() + natural * logsumexp.abs().max(1.0)
    }

    /// Bound for logsumexp, in two parts of f32, which are 48 bits together.
    pub fn logsumexp(&self, logsumexp: f64) -> f64 {
        let unit = self.precision.unit;
        self.log_sum(logsumexp) + unit * unit * logsumexp.abs()
    }

    /// Bound for the first part of logsumexp alone.
    pub fn rounded_logsumexp(&self, logsumexp: f64) -> f64 {
        self.log_sum(logsumexp) + self.precision.rounding(logsumexp)
    }

    /// Relative error of Σ_{v≠y} exp(z′_v − z′_y), and so of log p and 1 − p where the label y has more than the others:
    /// log(1 + x) and what it is made of have no larger relative error than x.
    ///
    /// `rest` is 1 − p. The others are summed from a reference that is within ln V of their own logsumexp, and the label is
    /// log(p / (1 − p)) above that; that is one more exponent and one more exponential, and two of each where the reference
    /// is raised to the label. Then there are a product, a quotient, a logarithm of 2 roundings and one of e^x − 1.
    pub fn others(&self, rest: f64) -> f64 {
        if rest == 0.0 {
            return 0.0;
        }
        let Precision { exp, scalar, .. } = self.precision;
        let above = ((1.0 - rest) / rest).ln() + self.ln_columns();
        self.sum() + 2.0 * (self.exponent() * above.max(0.0) + exp + self.softcap()) + 6.0 * scalar
    }

    /// Bound and scale of the log-prob of a scored row's label, (z′_y − R) − ln Σ exp(z′ − R).
    ///
    /// The error of that logarithm is absolute, and R is within ln V of logsumexp. Where the label has more than the others
    /// together, log p is made of their sum instead.
    pub fn token(&self, logsumexp: f64, logp: f64) -> Uncertain {
        if !(logsumexp.is_finite() && logp.is_finite()) {
            return Uncertain::default(); // not judged by size
        }
        let difference = self.precision.scalar * (logp.abs() + self.ln_columns());
        let absolute = self.log_sum(logsumexp) + self.softcap() + difference;
        let rest = -logp.exp_m1();
        let error = if rest < 0.5 { absolute.min(-logp * self.others(rest)) } else { absolute };
        Uncertain {
            error: error + self.precision.unit * logp.abs() + self.precision.underflow,
            scale: logsumexp.abs().max(1.0),
        }
    }
}
