//! How far a backend may be from the truth, derived from its arithmetic.
//!
//! Errors are followed through the chain, each step by its derivative and its own rounding:
//!
//! 1. A row's Σ exp has a relative error, which is an absolute one in its logarithm: `row_error`.
//! 2. A sequence's logp collects the errors of its rows and of their rounding.
//! 3. u = r̂_w − r̂_l has the errors of both log-ratios, times β/n: Δu.
//! 4. A loss and its coefficients are off by as much as the f64 reference's move when the log-probs move by their
//!    errors: [`Moves`].
//! 5. dlogits has the error of c_s, that of the softmax, and one rounding to its own type.
//!
//! A result is *well-conditioned* if errors of its inputs, relative to their natural scale, grow by less than a
//! factor of 8 on the way: if the subtractions lose less than 3 bits. The natural scale of a log-prob is
//! Σ max(1, |logsumexp|) of its rows: it is a difference of numbers of that size, whose error does not shrink with
//! the difference; nor does that of log Σ exp(x − max) shrink with its value, since one of the terms is always 1.
//! Well-conditioned results must be as near as [`Precision::relative`], whatever the bound above would allow.

use dpo_kernels::DType;
use dpo_kernels::PairOutputs;

use super::moves::Moves;

/// Unit roundoff of f32.
pub const UNIT_F32: f64 = 1.0 / (1u64 << 24) as f64;

/// The smallest positive f32, 2⁻¹⁴⁹.
const SMALLEST_F32: f64 = f32::from_bits(1) as f64;

/// What a backend promises.
#[derive(Debug, Clone, Copy)]
pub struct Precision {
    pub backend: &'static str,
    /// Bound of the relative error of well-conditioned results.
    pub relative: f64,
    /// Growth of relative errors from which on a result is no longer well-conditioned.
    pub growth: f64,
    /// Unit roundoff of stored results.
    pub unit: f64,
    /// Half the smallest positive number that can be stored.
    pub underflow: f64,
    /// Absolute error of log Σ exp in a row, given the vocabulary and logsumexp.
    pub row_error: fn(usize, f64) -> f64,
    /// Error of dlogits beside that of c_s and the final rounding, in units of the natural scale.
    pub gradient: f64,
}

/// The f64 reference: 1e-12 of the natural scale throughout.
pub const REFERENCE: Precision = Precision {
    backend: "reference",
    relative: 1e-12,
    growth: LOST_BITS,
    unit: 1e-12,
    underflow: 0.0,
    row_error: |_, logsumexp| 1e-12 * logsumexp.abs().max(1.0),
    gradient: 1e-12,
};

/// The f32 CPU backend. A row's sum has: 8 f32 additions in a lane (f64 beyond); the exponential's error of 2⁻²²; and
/// 5/4 units of |x − R| (a fused multiply-add, and log₂ e as an f32), weighted with p(x): Σ p·|x − R| is at most that of
/// x − max, which is no more than the entropy, ≤ ln V, and what R is below the maximum, ≤ ln 32.
pub const CPU: Precision = Precision {
    backend: "cpu",
    relative: 2e-6,
    growth: LOST_BITS,
    unit: UNIT_F32,
    underflow: 0.5 * SMALLEST_F32,
    row_error: |vocab, _| (8.0 + 4.0 + 1.25 * ((vocab as f64).ln() + 32f64.ln())) * UNIT_F32,
    gradient: 1e-6,
};

/// What the CPU backend's exponential takes from a gradient that is rounded to 16 bits, relative to the softmax.
pub fn short_exp(dtype: DType) -> f64 {
    if dtype == DType::F32 { 0.0 } else { 1.0 / (1u64 << 18) as f64 }
}

/// 3 bits.
const LOST_BITS: f64 = 8.0;

/// A log-prob's possible absolute error, and the natural scale it is to be judged by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncertain {
    pub error: f64,
    pub scale: f64,
}

impl Precision {
    /// Bound for logsumexp of a row.
    pub fn logsumexp(&self, vocab: usize, logsumexp: f64) -> f64 {
        // Stored in two parts, of 48 bits together.
        (self.row_error)(vocab, logsumexp) + self.unit * self.unit * logsumexp.abs()
    }

    /// Bound and scale of a token's log-prob.
    pub fn token(&self, vocab: usize, logsumexp: f64, logp: f64) -> Uncertain {
        if !(logsumexp.is_finite() && logp.is_finite()) {
            return Uncertain::default(); // not judged by size
        }
        Uncertain {
            error: (self.row_error)(vocab, logsumexp) + self.unit * logp.abs(),
            scale: logsumexp.abs().max(1.0),
        }
    }

    /// Bound and scale of a sequence's log-prob, from those of its scored tokens.
    pub fn sequence(&self, tokens: impl Iterator<Item = Uncertain>, logp: f64) -> Uncertain {
        let sum = tokens.fold(Uncertain::default(), |sum, token| Uncertain {
            error: sum.error + token.error,
            scale: sum.scale + token.scale,
        });
        Uncertain { error: sum.error + self.rounding(logp), ..sum }
    }

    /// The bound of `value`, whose relative error is `growth` times that of its inputs.
    pub fn bound(&self, value: f64, growth: f64, derived: f64) -> f64 {
        if growth < self.growth { self.relative * value.abs() + self.underflow } else { derived }
    }

    /// Rounding of a stored result; what is infinite or NaN is judged by its class alone.
    pub fn rounding(&self, value: f64) -> f64 {
        if value.is_finite() { (self.unit * value.abs()).max(self.underflow) } else { 0.0 }
    }

    /// Bound for a sequence's log-prob.
    pub fn logp(&self, value: f64, logp: Uncertain) -> f64 {
        self.bound(value, logp.scale / value.abs(), logp.error)
    }
}

/// One sequence of a pair, as `pair_loss` sees it.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// β, or β/n.
    pub scale: f64,
    pub logp: f64,
    pub ref_logp: f64,
    /// Of logp − ref_logp: the errors and the scales of both, added.
    pub uncertain: Uncertain,
}

impl Side {
    fn reward(&self) -> f64 {
        self.scale * (self.logp - self.ref_logp)
    }

    fn reward_error(&self) -> f64 {
        self.scale * self.uncertain.error
    }
}

/// Bounds for what `pair_loss` makes of a batch.
#[derive(Debug, Clone)]
pub struct PairBounds {
    pub chosen_rewards: Vec<f64>,
    pub rejected_rewards: Vec<f64>,
    pub margins: Vec<f64>,
    pub losses: Vec<f64>,
    /// Of the sequences.
    pub coef: Vec<f64>,
}

/// The share of a log-prob's natural scale by which it is moved to see how errors grow.
const NUDGE: f64 = 1e-6;

impl PairBounds {
    /// `sides` are the sequences, `pairs` the (chosen, rejected) of them; `evaluate` is the reference's `pair_loss` as a
    /// function of the log-probs.
    pub fn new(
        precision: &Precision,
        sides: &[Side],
        pairs: &[(usize, usize)],
        evaluate: &dyn Fn(&[f64]) -> PairOutputs<f64>,
    ) -> Self {
        let reward = |side: Side| {
            let growth = side.uncertain.scale / (side.logp - side.ref_logp).abs();
            precision.bound(side.reward(), growth, side.reward_error() + precision.rounding(side.reward()))
        };
        let margin = |&(w, l): &(usize, usize)| {
            let (w, l) = (sides[w], sides[l]);
            let u = w.reward() - l.reward();
            let error = w.reward_error() + l.reward_error();
            let inputs = w.scale * w.uncertain.scale + l.scale * l.uncertain.scale;
            precision.bound(u, inputs / u.abs(), error + precision.rounding(u))
        };
        let logps: Vec<f64> = sides.iter().map(|side| side.logp).collect();
        let exact = evaluate(&logps);
        let errors: Vec<f64> = sides.iter().map(|side| side.uncertain.error).collect();
        let nudges: Vec<f64> = sides.iter().map(|side| NUDGE * side.uncertain.scale).collect();
        let (moved, nudged) = (Moves::of(&logps, &errors, evaluate), Moves::of(&logps, &nudges, evaluate));
        let bounds = |values: &[f64], moved: &[f64], nudged: &[f64]| -> Vec<f64> {
            let bound = |i: usize| {
                let derived = moved[i] + precision.rounding(values[i]);
                precision.bound(values[i], nudged[i] / (NUDGE * values[i].abs()), derived)
            };
            (0..values.len()).map(bound).collect()
        };
        PairBounds {
            chosen_rewards: pairs.iter().map(|&(w, _)| reward(sides[w])).collect(),
            rejected_rewards: pairs.iter().map(|&(_, l)| reward(sides[l])).collect(),
            margins: pairs.iter().map(margin).collect(),
            losses: bounds(&exact.pair_losses, &moved.losses, &nudged.losses),
            coef: bounds(&exact.coef, &moved.coef, &nudged.coef),
        }
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

/// Compares results with the truth, and keeps the largest error of each quantity in units of its bound.
#[derive(Debug, Default)]
pub struct Judge {
    worst: std::collections::BTreeMap<String, (f64, String)>,
    pub failures: Vec<String>,
}

impl Judge {
    /// `found` must be within `bound` of `expected`; NaN, ∞ and −∞ must be met exactly.
    pub fn close(
        &mut self,
        quantity: &str,
        place: impl Fn() -> String,
        found: f64,
        expected: f64,
        bound: f64,
    ) {
        if !expected.is_finite() || !found.is_finite() {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            if !same {
                self.failures.push(format!("{quantity} of {}: {found}, expected {expected}", place()));
            }
            return;
        }
        let error = (found - expected).abs();
        let ratio = if error == 0.0 { 0.0 } else { error / bound };
        // Negated, so that a NaN bound fails.
        if !matches!(ratio.partial_cmp(&1.0), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
            self.failures.push(format!(
                "{quantity} of {}: {found:e}, expected {expected:e}: off by {error:e}, allowed {bound:e}",
                place()
            ));
        }
        match self.worst.get_mut(quantity) {
            Some((worst, _)) if *worst >= ratio => (),
            Some(entry) => *entry = (ratio, place()),
            None => drop(self.worst.insert(quantity.to_string(), (ratio, place()))),
        }
    }

    /// [`close`](Self::close) for whole slices.
    pub fn all_close(
        &mut self,
        quantity: &str,
        name: &str,
        found: &[f64],
        expected: &[f64],
        bound: impl Fn(usize) -> f64,
    ) {
        assert_eq!(found.len(), expected.len(), "{quantity} of {name}: lengths");
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            self.close(quantity, || format!("{name}[{i}]"), found, expected, bound(i));
        }
    }

    /// Something that must hold exactly.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(what());
        }
    }

    /// One line per quantity: its largest error in units of its bound, and where that was.
    pub fn summary(&self) -> String {
        let line = |(quantity, (ratio, place)): (&String, &(f64, String))| {
            format!("  {quantity:<32} {ratio:.3} of the bound, at {place}\n")
        };
        self.worst.iter().map(line).collect()
    }
}
