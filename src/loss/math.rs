//! Functions whose textbook form overflows or loses its tail, and the type of a value with its derivative.

/// A function of one number at some point, and its derivative there. The kernels have a type of the same name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ValueSlope {
    pub value: f64,
    pub slope: f64,
}

/// log(1 + eˣ), without overflow and without losing the tail.
pub fn softplus(x: f64) -> f64 {
    // f64::max drops a NaN; the second term keeps it.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1/(1 + e⁻ˣ), without overflow and without losing the tail.
pub fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// dσ/dx = σ(x) σ(−x): the product keeps both tails, where y(1 − y) is 0 from x = 37 on.
pub(super) fn bell(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `one · other`, and 0 where 0 meets an infinity: what has vanished did so exponentially, and the other factor did not
/// grow so fast. A NaN stays.
pub(super) fn vanishing(one: f64, other: f64) -> f64 {
    let product = one * other;
    if product.is_nan() && !one.is_nan() && !other.is_nan() { 0.0 } else { product }
}

/// 1 − eˣ for x ≤ 0: the probability that is left to others by one of probability eˣ.
pub(super) fn complement(x: f64) -> f64 {
    // −expm1(0) would be −0, and a number divided by it negative.
    0.0 - x.exp_m1()
}
