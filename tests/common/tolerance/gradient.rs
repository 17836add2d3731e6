//! dlogits = (c (1[v = y] − p) − e p (log p + H)) ∂z′/∂z, element by element.

use dpo_kernels::DType;

use super::precision::{Precision, rounding};
use super::row::Row;

/// Below this a slope may be 0: four times the q that f32 rounds to 0, 2⁻¹²⁶.
const LEAST_SLOPE: f64 = 4.0 * f32::MIN_POSITIVE as f64;

/// c of a row, and how far it may be off.
#[derive(Debug, Clone, Copy)]
pub struct Coefficient {
    pub value: f64,
    pub error: f64,
}

/// e and H of a row, and how far H may be off.
#[derive(Debug, Clone, Copy)]
pub struct EntropyPart {
    pub coef: f64,
    pub entropy: f64,
    pub error: f64,
}

/// Bounds for one row of dlogits.
#[derive(Debug, Clone, Copy)]
pub struct RowGradient<'a> {
    row: Row<'a>,
    logsumexp: f64,
    coef: Coefficient,
    /// Of the logits.
    dtype: DType,
    /// Where 1[v = y] − p was rounded before c came to it, the type to which it was.
    pub factor: Option<DType>,
    /// The part of the row's entropy, if there is one.
    pub entropy: Option<EntropyPart>,
    /// What is promised of the errors beside that of c and the roundings to a dtype.
    pub at_most: f64,
}

impl Row<'_> {
    pub fn gradient(&self, dtype: DType, logsumexp: f64, coef: Coefficient) -> RowGradient<'_> {
        RowGradient {
            row: *self,
            logsumexp,
            coef,
            dtype,
            factor: None,
            entropy: None,
            at_most: f64::INFINITY,
        }
    }

    /// The relative error of a row's softmax as a whole: what Σ |error of p| may be. An exponent's error is weighted
    /// with p, as in Σ exp.
    pub fn softmax(&self, dtype: DType, logsumexp: f64) -> f64 {
        self.softmax_at(dtype, logsumexp, self.ln_columns())
    }

    /// The relative error of a p at a distance |z′ − logsumexp|.
    fn softmax_at(&self, dtype: DType, logsumexp: f64, distance: f64) -> f64 {
        let Precision { exp, exp_16, softmax, element, .. } = self.precision;
        let exp = if dtype == DType::F32 { exp } else { exp_16 };
        let of_row = self.logsumexp(logsumexp) + self.softcap();
        of_row + self.exponent() * distance + exp + softmax * element
    }

    /// Absolute error of ∂z′/∂z, which is 4s q(1 − q) under a soft cap: the relative error of q twice, for 1 − q is no
    /// smaller, and two roundings. Where q is small, its error is that of e^(2|t|).
    fn slope_error(&self, logit: f64, slope: f64) -> f64 {
        let Precision { exp, element, softcap, .. } = self.precision;
        let scale = f64::from(self.transform.scale);
        let Some(cap) = self.transform.softcap else { return 0.0 };
        let argument = if slope > 0.0 { 2.0 * (scale * logit / f64::from(cap)).abs() } else { 0.0 };
        let q = element * (softcap.argument * argument + softcap.reciprocal) + exp;
        slope * (2.0 * q + 2.0 * element) + LEAST_SLOPE * scale
    }
}

impl RowGradient<'_> {
    /// The error of one element before it is rounded to the dtype of dlogits.
    pub fn element(&self, logit: f64, is_label: bool) -> f64 {
        let Precision { element, coef, exp_underflow, underflow, .. } = self.row.precision;
        let (z, slope) = (self.row.transform.apply(logit), self.row.transform.slope(logit));
        let (p, distance) = ((z - self.logsumexp).exp(), (z - self.logsumexp).abs());
        // The factored pass has the logarithm of the scale in its exponents.
        let Precision { scalar, factored, .. } = self.row.precision;
        let of_scale = scalar * f64::from(self.row.transform.scale).log2().abs();
        let factored = self.factor.map_or(0.0, |_| factored + of_scale);
        let exponent = self.row.softmax_at(self.dtype, self.logsumexp, distance) + factored;
        let relative = if p > 0.0 { exponent } else { 0.0 };
        let p_error = p * relative + exp_underflow;
        let rest = (f64::from(u8::from(is_label)) - p).abs() + p_error;

        let c = self.coef.value.abs();
        let of_coef = coef * element * rest;
        let own = c * (slope * (p_error + of_coef) + self.row.slope_error(logit, slope) * rest);
        let factor = self.factor.map_or(0.0, |dtype| c * rounding(dtype, slope * rest));
        let of_entropy = self.entropy.map_or(0.0, |EntropyPart { coef: e, entropy, error }| {
            // log p has the absolute error that p has as a relative one. Where p is 0, so is p log p; the backends take 256 for
            // its logarithm there. c and the part of the entropy are added up before they are multiplied.
            let size = distance.min(256.0) + entropy.abs();
            let of_logp = relative + error + 4.0 * element * size;
            let sum = 4.0 * element * p * (c + e.abs() * size);
            let slopes =
                slope * (p * of_logp + p_error * size) + self.row.slope_error(logit, slope) * p * size;
            e.abs() * slopes + sum * slope
        });
        own.min(self.at_most) + factor + of_entropy + self.coef.error * slope * rest + underflow
    }
}

/// The bound for `value`, off by `error` before it is rounded to `dtype`.
pub fn stored(dtype: DType, value: f64, error: f64) -> f64 {
    error + rounding(dtype, value.abs() + error)
}
