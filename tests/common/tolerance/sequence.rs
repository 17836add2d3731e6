//! A sequence's log-prob, the weighted sum of its tokens'.

use std::ops::{Add, Mul};

use super::precision::Precision;

/// A log-prob's possible absolute error, and the natural scale it is to be judged by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncertain {
    pub error: f64,
    pub scale: f64,
}

impl Add for Uncertain {
    type Output = Uncertain;

    fn add(self, other: Uncertain) -> Uncertain {
        Uncertain { error: self.error + other.error, scale: self.scale + other.scale }
    }
}

impl Mul<f64> for Uncertain {
    type Output = Uncertain;

    fn mul(self, factor: f64) -> Uncertain {
        Uncertain { error: self.error * factor.abs(), scale: self.scale * factor.abs() }
    }
}

impl Precision {
    /// Bound and scale of a sequence's log-prob, from those of its scored tokens times their weights: the sum is in
    /// f64, and is rounded once.
    pub fn sequence(&self, tokens: impl Iterator<Item = Uncertain>, logp: f64) -> Uncertain {
        let sum = tokens.fold(Uncertain::default(), Add::add);
        Uncertain { error: sum.error + self.rounding(logp), ..sum }
    }

    /// Bound for a sequence's log-prob.
    pub fn logp(&self, value: f64, logp: Uncertain) -> f64 {
        self.promised(value, logp.scale / value.abs(), logp.error)
    }
}
