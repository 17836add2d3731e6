//! What the steps of each backend cost.

use dpo_kernels::DType;

use super::promise::Promise;

/// Unit roundoff of f32.
pub const UNIT_F32: f64 = 1.0 / (1u64 << 24) as f64;

/// Unit roundoff of f64.
const UNIT_F64: f64 = 1.0 / (1u64 << 53) as f64;

/// Half the smallest positive f32, 2⁻¹⁵⁰.
const UNDERFLOW_F32: f64 = 0.5 * f32::from_bits(1) as f64;

/// The costs of a backend's steps. Those that are not said to be absolute or relative count roundings of f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    pub backend: &'static str,
    /// Unit roundoff of stored results.
    pub unit: f64,
    /// What storing a result may take from it at least.
    pub underflow: f64,
    /// Unit roundoff of what is computed for each element of a row.
    pub element: f64,
    /// Unit roundoff of what is computed once a row, a sequence or a pair; 0 where that is f64 by the reference's own
    /// formulas, next to which storing the result in f32 is all.
    pub scalar: f64,
    /// Absolute error of logsumexp in units of max(1, |logsumexp|), beside that of Σ exp.
    pub natural: f64,
    /// Roundings on the way to the exponent of exp(z′ − R), each of which is relative to |z′ − R|.
    pub exponent: Exponent,
    /// Relative error of the exponential of a given exponent, as Σ exp and gradients of f32 take it.
    pub exp: f64,
    /// The same in gradients of 16 bits.
    pub exp_16: f64,
    /// Absolute error of exponentials too small for the relative one.
    pub exp_underflow: f64,
    /// How far R may be below the largest z′.
    pub reference_below: f64,
    /// Roundings on the longest way of a term into Σ exp.
    pub sum: Additions,
    /// The same of sums that take the elements one by one.
    pub plain_sum: Additions,
    /// Roundings of a soft cap.
    pub softcap: Softcap,
    /// Roundings of dlogits that are relative to p, beside those of its exponential.
    pub softmax: f64,
    /// Relative error of a p of the factored pass beside that: its logsumexp is not the stored one.
    pub factored: f64,
    /// Roundings of dlogits that are relative to c (1[v = y] − p).
    pub coef: f64,
    /// What is asked of well-conditioned results; without it, the bounds that follow from the arithmetic are all.
    pub promise: Option<Promise>,
}

/// Roundings of y = (z′ − R) log₂ e.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponent {
    pub unscaled: f64,
    /// With a scale.
    pub scaled: f64,
}

/// Roundings on the longest way of a term into a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Additions {
    pub fixed: f64,
    /// For each group of elements that one thread takes at a time.
    pub per_group: f64,
}

/// Roundings of ±C(1 − 2q) with q = 1/(1 + e^(2|t|)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softcap {
    /// Of 2|t| log₂ e.
    pub argument: f64,
    /// Of 1 + e^(2|t|) and its reciprocal.
    pub reciprocal: f64,
}

/// log₂ e as an f32 is off by a quarter of a unit.
const LOG2_E: f64 = 0.25;

/// The f64 reference: 1e-12 of the natural scale, thousands of f64's roundings, throughout.
pub const REFERENCE: Precision = Precision {
    backend: "reference",
    unit: 1e-12,
    underflow: 0.0,
    element: UNIT_F64,
    scalar: 0.0,
    natural: 1e-12,
    exponent: Exponent { unscaled: 0.0, scaled: 0.0 },
    exp: 0.0,
    exp_16: 0.0,
    exp_underflow: 0.0,
    reference_below: 0.0,
    sum: Additions { fixed: 0.0, per_group: 0.0 },
    plain_sum: Additions { fixed: 0.0, per_group: 0.0 },
    softcap: Softcap { argument: 2.0, reciprocal: 2.0 },
    softmax: 3.0,
    factored: 0.0,
    coef: 2.0,
    promise: None,
};

/// The CPU backend: a row's elements in f32, all else in f64.
pub const CPU: Precision = Precision {
    backend: "cpu",
    unit: UNIT_F32,
    underflow: UNDERFLOW_F32,
    element: UNIT_F32,
    scalar: 0.0,
    natural: UNIT_F64,
    // A fused multiply-add by L, which is log₂ e, or that times the scale and rounded.
    exponent: Exponent { unscaled: 1.0 + LOG2_E, scaled: 2.0 },
    // What src/cpu/exp2.rs promises of its two polynomials, and tests for every float.
    exp: 1.0 / (1u64 << 22) as f64,
    exp_16: 1.0 / (1u64 << 18) as f64,
    exp_underflow: f32::MIN_POSITIVE as f64 / (1u64 << 22) as f64,
    // The reference is raised once a lane's sum over a block exceeds 32.
    reference_below: 3.465_735_902_799_727,
    // A block's 16 vectors in two sums, which are added up; f64 from there on.
    sum: Additions { fixed: 8.0, per_group: 0.0 },
    plain_sum: Additions { fixed: 16.0, per_group: 0.0 },
    softcap: Softcap { argument: 2.0, reciprocal: 2.0 },
    // c times what R is off from logsumexp, the product with the exponential, and that with the slope.
    softmax: 3.0,
    factored: 0.0,
    // c is a product with the token's factor and with upstream.
    coef: 2.0,
    promise: None,
};

/// The CPU backend on a processor without a fused multiply-add: x − R is rounded on its own, and so is a product that is
/// added to something.
pub const CPU_UNFUSED: Precision = Precision {
    exponent: Exponent { unscaled: 2.0 + LOG2_E, scaled: 3.0 },
    plain_sum: Additions { fixed: 17.0, per_group: 0.0 },
    softcap: Softcap { argument: 2.0, reciprocal: 3.0 },
    ..CPU
};

/// The kernels: f32, but for sums over rows and pairs.
pub const KERNELS: Precision = Precision {
    backend: "kernels",
    unit: UNIT_F32,
    underflow: UNDERFLOW_F32,
    element: UNIT_F32,
    scalar: UNIT_F32,
    natural: 0.0,
    // The difference, with the scale in the same multiply-add, and its product with log₂ e.
    exponent: Exponent { unscaled: 2.0 + LOG2_E, scaled: 2.0 + LOG2_E },
    // ex2.approx.ftz: 2 units in the last place, and subnormal results are 0.
    exp: 1.0 / (1u64 << 22) as f64,
    exp_16: 1.0 / (1u64 << 22) as f64,
    exp_underflow: f32::MIN_POSITIVE as f64,
    reference_below: 0.0,
    // 16 additions within a vector and a group; 2·5 in a tree of shuffles with its rescaling, and four trees at most: in
    // a warp and across the warps of a slice, and the same over the slices. A group adds once, and rescales by an
    // exponential where it raises the reference.
    sum: Additions { fixed: 16.0 + 40.0, per_group: 4.0 },
    // 5 in each of the trees, and 16 elements of a group.
    plain_sum: Additions { fixed: 20.0, per_group: 16.0 },
    // rcp.approx.ftz: 1 unit in the last place.
    softcap: Softcap { argument: 2.0, reciprocal: 1.0 + 2.0 },
    // The residual of logsumexp times log₂ e, and the product of the exponential with c and the slope.
    softmax: 2.0,
    // lg2.approx.ftz is off by 2⁻²² between 1 and 2.
    factored: std::f64::consts::LN_2 / (1u64 << 22) as f64,
    // c is a product with the token's factor, two of upstream and the scale; of the label, c (1 − p) is a difference.
    coef: 5.0,
    promise: None,
};

impl Precision {
    /// Rounding of a stored result; what is infinite or NaN is judged by its class alone.
    pub fn rounding(&self, value: f64) -> f64 {
        if value.is_finite() { (self.unit * value.abs()).max(self.underflow) } else { 0.0 }
    }
}

/// Half the distance between neighbours of `dtype` around `value`: the error of one rounding.
pub fn rounding(dtype: DType, value: f64) -> f64 {
    let (unit, smallest_subnormal): (f64, f64) = match dtype {
        DType::F32 => (UNIT_F32, 2f64.powi(-149)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-24)),
        DType::BF16 => (2f64.powi(-8), 2f64.powi(-133)),
    };
    (unit * value.abs()).max(0.5 * smallest_subnormal)
}
