//! What is asked of well-conditioned results, whatever the derived bound would allow.
//!
//! A result is *well-conditioned* if errors of its inputs, relative to their natural scale, grow by less than a factor
//! of 8 on the way: if the subtractions lose less than 3 bits. The natural scale of a log-prob is Σ max(1, |logsumexp|)
//! of its rows: it is a difference of numbers of that size, whose error does not shrink with the difference; nor does
//! that of log Σ exp(x − max) shrink with its value, since one of the terms is always 1.

use dpo_kernels::DType;

use super::precision::Precision;

/// 3 bits.
const LOST_BITS: f64 = 8.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// Bound of the relative error of well-conditioned results.
    pub relative: f64,
    /// Error of dlogits beside that of c_s and the final rounding, relative to the largest of them, which is their
    /// natural scale.
    pub gradient: f64,
}

impl Precision {
    /// What is promised of the errors of a gradient, beside that of c_s and the final rounding, whose largest element is
    /// `largest`: with the exponential of gradients of 16 bits where it is one of these.
    pub fn gradient_promised(&self, dtype: DType, largest: f64) -> f64 {
        let exp = if dtype == DType::F32 { 0.0 } else { self.exp_16 };
        self.promise.map_or(f64::INFINITY, |promise| (promise.gradient + exp) * largest)
    }

    /// The bound of `value`, whose relative error is `growth` times that of its inputs, and whose error is at most
    /// `derived`.
    pub(super) fn promised(&self, value: f64, growth: f64, derived: f64) -> f64 {
        match self.promise {
            Some(promise) if growth < LOST_BITS => {
                derived.min(promise.relative * value.abs() + self.underflow)
            }
            _ => derived,
        }
    }
}
