//! Every loss, once: a function from the numbers of one pair to the loss and its derivatives by the two log-probs.
//!
//! kernels/losses.cuh is the same in f32. A loss is added here, there, and in `table.rs`; nothing else knows one loss
//! from another.

use super::divergence::Divergence;
use super::math::{bell, complement, sigmoid, softplus, vanishing};

/// A loss, with the parameters that are its own. [`PairLoss`](super::PairLoss) has their constructors and formulas.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// −(1 − ε) log σ(z) − ε log σ(−z).
    Sigmoid,
    /// max(0, 1 − z).
    Hinge,
    /// ((z − 1/2)/β)², over log-ratios divided by lengths.
    Ipo,
    /// σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε).
    ExoPair,
    /// −log σ(u) − ½ log σ(−u) − ½ log σ(−v).
    NcaPair,
    /// (−(1 − ε) log σ(z) + ε log σ(−z))/(1 − 2ε).
    Robust,
    /// −log σ(u) − log σ(−v).
    BcoPair,
    /// ((u − ½)/β)² + ((v + ½)/β)².
    SppoHard,
    /// Sigmoid of sorted policy margins against sorted reference margins.
    Aot,
    /// Sigmoid of sorted chosen rewards against sorted rejected rewards.
    AotUnpaired,
    /// 1 − σ(u) + σ(v).
    ApoZero,
    /// σ(u) + 1 − σ(u − v).
    ApoDown,
    /// −log σ(z)(1 − m) + e⁻ᶻ m with m = σ(z/τ).
    Discopop {
        /// τ.
        tau: f64,
    },
    /// −Σ logp_w/(scored chosen tokens of the batch).
    Sft,
    /// −logp_w/n_w.
    Nll,
    /// −log σ(log odds of the chosen − log odds of the rejected).
    OddsRatio,
    /// λ_D σ(βz₀ − u) + λ_U σ(v − βz₀).
    Kto {
        /// λ_D.
        desirable: f64,
        /// λ_U.
        undesirable: f64,
    },
}

/// A range, in words, and whether a number lies in it.
pub(crate) type Range = (&'static str, fn(f64) -> bool);

impl Kind {
    /// Looks at z = β(s_w − s_l) − γ, and so takes margins γ and f-divergences.
    pub(crate) fn is_of_margin(self) -> bool {
        matches!(
            self,
            Kind::Sigmoid | Kind::Hinge | Kind::Ipo | Kind::ExoPair | Kind::Robust | Kind::Discopop { .. }
        )
    }

    /// Where ε may lie, in words, and whether a number does.
    pub(crate) fn label_smoothing(self) -> Option<Range> {
        match self {
            Kind::Sigmoid | Kind::Aot | Kind::AotUnpaired => {
                Some(("a number from 0 to 0.5", |e| (0.0..=0.5).contains(&e)))
            }
            Kind::Robust => Some(("a number from 0 to below 0.5", |e| (0.0..0.5).contains(&e))),
            Kind::ExoPair => Some(("a number above 0, to 0.5", |e| e > 0.0 && e <= 0.5)),
            _ => None,
        }
    }

    /// Compares a pair with others of the batch.
    pub(crate) fn couples_pairs(self) -> bool {
        matches!(self, Kind::Aot | Kind::AotUnpaired)
    }

    /// A sum of a term of the chosen and a term of the rejected: either may be missing.
    pub(crate) fn is_sided(self) -> bool {
        let of_rewards =
            matches!(self, Kind::NcaPair | Kind::BcoPair | Kind::SppoHard | Kind::ApoZero | Kind::Kto { .. });
        of_rewards || matches!(self, Kind::Sft | Kind::Nll)
    }

    /// Divides by the lengths of sequences, whatever [`Term::length_normalized`] says.
    pub(crate) fn needs_lengths(self) -> bool {
        matches!(self, Kind::Ipo | Kind::Nll | Kind::OddsRatio)
    }

    /// Reads log-probs, not log-ratios.
    pub(crate) fn ignores_reference(self) -> bool {
        matches!(self, Kind::Sft | Kind::Nll | Kind::OddsRatio)
    }
}

/// One loss of a weighted sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Which.
    pub kind: Kind,
    /// Its weight, finite and not negative.
    pub weight: f64,
    /// ε, where the loss takes it.
    pub label_smoothing: f64,
    /// Whether it divides log-ratios by lengths.
    pub length_normalized: bool,
}

/// What a loss reads of one sequence of a pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// logp, in nats.
    pub logp: f64,
    pub log_ratio: f64,
    /// n, at least 1.
    pub length: f64,
    /// β, or β/n.
    pub scale: f64,
    /// The other sequences' number that [`Kind::AotUnpaired`] sorts beside this one.
    pub sorted_partner: f64,
}

/// What a loss reads of one pair. Either side may be missing where the loss [is sided](Kind::is_sided).
#[derive(Debug, Clone, Copy)]
pub(super) struct PairNumbers {
    pub chosen: Option<Side>,
    pub rejected: Option<Side>,
    pub beta: f64,
    /// γ.
    pub gamma: f64,
    /// ε.
    pub label_smoothing: f64,
    pub divergence: Divergence,
    /// z₀, in nats.
    pub baseline: f64,
    /// What [`Kind::Sft`] multiplies a log-prob with: normaliser ÷ tokens.
    pub per_token: f64,
    /// The reference margin that [`Kind::Aot`] sorts beside this pair's.
    pub sorted_partner: f64,
}

/// The loss of one pair and its derivatives by the log-probs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slopes {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
}

impl Kind {
    pub(super) fn slopes(self, pair: &PairNumbers) -> Slopes {
        let epsilon = pair.label_smoothing;
        match self {
            Kind::Sigmoid => pair.of_margin(|z| smoothed_sigmoid(z, epsilon)),
            Kind::Hinge => pair.of_margin(|z| if z >= 1.0 { (0.0, 0.0) } else { (1.0 - z, -1.0) }),
            Kind::Ipo => pair.of_margin(|z| square((z - 0.5) / pair.beta, pair.beta)),
            Kind::ExoPair => pair.of_margin(|z| exo(z, epsilon)),
            Kind::Robust => pair.of_margin(|z| {
                let flipped = if epsilon > 0.0 { epsilon * softplus(z) } else { 0.0 };
                let loss = (1.0 - epsilon) * softplus(-z) - flipped;
                let slope = -(1.0 - epsilon) * sigmoid(-z) - epsilon * sigmoid(z);
                (loss / (1.0 - 2.0 * epsilon), slope / (1.0 - 2.0 * epsilon))
            }),
            Kind::Discopop { tau } => pair.of_margin(|z| discopop(z, tau)),
            Kind::NcaPair => pair.of_sides(
                |u| (softplus(-u) + 0.5 * softplus(u), 0.5 * sigmoid(u) - sigmoid(-u)),
                |v| (0.5 * softplus(v), 0.5 * sigmoid(v)),
            ),
            Kind::BcoPair => pair.of_sides(|u| (softplus(-u), -sigmoid(-u)), |v| (softplus(v), sigmoid(v))),
            Kind::SppoHard => pair.of_sides(
                |u| square((u - 0.5) / pair.beta, pair.beta),
                |v| square((v + 0.5) / pair.beta, pair.beta),
            ),
            Kind::ApoZero => pair.of_sides(|u| (sigmoid(-u), -bell(u)), |v| (sigmoid(v), bell(v))),
            Kind::ApoDown => pair.of_both(|u, v| {
                let slope = bell(u - v);
                (sigmoid(u) + sigmoid(v - u), bell(u) - slope, slope)
            }),
            Kind::Kto { desirable, undesirable } => {
                let baseline = pair.beta * pair.baseline;
                pair.of_sides(
                    |u| (desirable * sigmoid(baseline - u), -desirable * bell(u - baseline)),
                    |v| (undesirable * sigmoid(v - baseline), undesirable * bell(v - baseline)),
                )
            }
            Kind::Aot => pair.of_both_sides(|w, l| {
                let (loss, slope) =
                    smoothed_sigmoid(w.scale * w.logp - l.scale * l.logp - pair.sorted_partner, epsilon);
                (loss, w.scale * slope, -l.scale * slope)
            }),
            // The loss at the rank of the chosen; the rejected stands at a rank of its own.
            Kind::AotUnpaired => pair.of_both_sides(|w, l| {
                let (loss, slope) = smoothed_sigmoid(w.scale * w.log_ratio - w.sorted_partner, epsilon);
                let (_, slope_of_rejected) =
                    smoothed_sigmoid(l.sorted_partner - l.scale * l.log_ratio, epsilon);
                (loss, w.scale * slope, -l.scale * slope_of_rejected)
            }),
            Kind::Sft => pair.of_chosen(|w| {
                // Without a token there is nothing to move.
                let slope = if pair.per_token.is_infinite() { 0.0 } else { -pair.per_token };
                (-w.logp * pair.per_token, slope)
            }),
            Kind::Nll => pair.of_chosen(|w| (-w.logp / w.length, -1.0 / w.length)),
            Kind::OddsRatio => pair.of_both_sides(|w, l| {
                let (x, y) = (w.logp / w.length, l.logp / l.length);
                let (rest_w, rest_l) = (complement(x), complement(y));
                let log_odds_ratio = (x - y) + (rest_l.ln() - rest_w.ln());
                // ∂/∂x of log(1 + odds_l/odds_w), both divided by the probability of the rejected.
                let denominator = (x - y).exp() * rest_l + rest_w;
                let (dx, dy) = (-1.0 / denominator, rest_w / rest_l / denominator);
                (softplus(-log_odds_ratio), dx / w.length, dy / l.length)
            }),
        }
    }
}

/// (loss, derivative) of −(1 − ε) log σ(z) − ε log σ(−z).
fn smoothed_sigmoid(z: f64, epsilon: f64) -> (f64, f64) {
    // ε·softplus(z) is skipped at ε = 0, where z = ∞ would make it 0·∞.
    let flipped = if epsilon > 0.0 { epsilon * softplus(z) } else { 0.0 };
    ((1.0 - epsilon) * softplus(-z) + flipped, epsilon - sigmoid(-z))
}

/// x² with x = (z − …)/β, derived by z.
fn square(x: f64, beta: f64) -> (f64, f64) {
    (x * x, 2.0 * x / beta)
}

fn exo(z: f64, epsilon: f64) -> (f64, f64) {
    let (right, wrong) = (sigmoid(z), sigmoid(-z));
    let (log_rest, log_epsilon) = ((-epsilon).ln_1p(), epsilon.ln());
    let loss = vanishing(right, -softplus(-z) - log_rest) + vanishing(wrong, -softplus(z) - log_epsilon);
    (loss, vanishing(right * wrong, z - log_rest + log_epsilon))
}

fn discopop(z: f64, tau: f64) -> (f64, f64) {
    let (m, rest) = (sigmoid(z / tau), sigmoid(-z / tau));
    // e⁻ᶻ m as one exponential where e⁻ᶻ alone would overflow; finite since τ < 1.
    let exponential =
        if z < 0.0 { (z / tau * (1.0 - tau) - (z / tau).exp().ln_1p()).exp() } else { (-z).exp() * m };
    let loss = vanishing(rest, softplus(-z)) + exponential;
    let blend = exponential * rest - vanishing(m * rest, softplus(-z));
    (loss, -sigmoid(-z) * rest - exponential + blend / tau)
}

impl PairNumbers {
    /// Of z, by f′ of each log-ratio.
    fn of_margin(&self, f: impl Fn(f64) -> (f64, f64)) -> Slopes {
        self.of_both_sides(|w, l| {
            let (f_prime_w, f_prime_l) =
                (self.divergence.f_prime(w.log_ratio), self.divergence.f_prime(l.log_ratio));
            let (loss, slope) = f(w.scale * f_prime_w.value - l.scale * f_prime_l.value - self.gamma);
            (loss, w.scale * slope * f_prime_w.slope, -l.scale * slope * f_prime_l.slope)
        })
    }

    /// Of the rewards u and v, each by itself.
    fn of_sides(&self, f: impl Fn(f64) -> (f64, f64), g: impl Fn(f64) -> (f64, f64)) -> Slopes {
        let (loss_w, chosen) = self.chosen.map_or((0.0, 0.0), |w| {
            let (loss, slope) = f(w.scale * w.log_ratio);
            (loss, w.scale * slope)
        });
        let (loss_l, rejected) = self.rejected.map_or((0.0, 0.0), |l| {
            let (loss, slope) = g(l.scale * l.log_ratio);
            (loss, l.scale * slope)
        });
        Slopes { loss: loss_w + loss_l, chosen, rejected }
    }

    /// Of the rewards u and v together.
    fn of_both(&self, f: impl Fn(f64, f64) -> (f64, f64, f64)) -> Slopes {
        self.of_both_sides(|w, l| {
            let (loss, du, dv) = f(w.scale * w.log_ratio, l.scale * l.log_ratio);
            (loss, w.scale * du, l.scale * dv)
        })
    }

    fn of_both_sides(&self, f: impl Fn(Side, Side) -> (f64, f64, f64)) -> Slopes {
        match (self.chosen, self.rejected) {
            (Some(w), Some(l)) => {
                let (loss, chosen, rejected) = f(w, l);
                Slopes { loss, chosen, rejected }
            }
            // Refused before: a loss that is not sided has pairs.
            _ => Slopes::default(),
        }
    }

    fn of_chosen(&self, f: impl Fn(Side) -> (f64, f64)) -> Slopes {
        let (loss, chosen) = self.chosen.map_or((0.0, 0.0), f);
        Slopes { loss, chosen, rejected: 0.0 }
    }
}
