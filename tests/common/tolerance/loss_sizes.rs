//! The sizes of the numbers that a loss adds up in f32, from which the roundings of its arithmetic follow.
//!
//! A loss is a sum of few products of few numbers, each an elementary function that is off by at most 2 units in the
//! last place: ROUNDINGS units of the largest number on the way, and more only where a number is a difference of
//! larger ones, which is then the size.

use dpo_kernels::loss::{Divergence, LossInfo, Sequence, Term};

use super::pair_arguments::{Members, PairArguments};

/// Roundings on the longest way from the arguments to a result, before it is stored.
pub const ROUNDINGS: f64 = 15.0;

/// Sizes of a loss and of its derivatives by the two log-probs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
}

impl PairArguments<'_> {
    /// |f′(x)| and its derivative; a difference has the size of what it is the difference of.
    fn score(&self, x: f64) -> (f64, f64) {
        match self.loss.divergence() {
            Divergence::ForwardKl => ((-x).exp() + 1.0, (-x).exp()),
            Divergence::JensenShannon => (x.abs() + 2.0, 1.0),
            Divergence::Alpha(alpha) if alpha != 1.0 => {
                let power = ((alpha - 1.0) * x).min(80.0).exp();
                ((power + 1.0) / (alpha - 1.0).abs(), power)
            }
            _ => (x.abs(), 1.0),
        }
    }

    /// Of all terms of the loss.
    pub(super) fn sizes(&self, pair: usize, members: Members) -> Sizes {
        self.loss.terms().iter().fold(Sizes::default(), |sum, term| {
            let of_term = self.sizes_of(term, pair, members);
            Sizes {
                loss: sum.loss + term.weight * of_term.loss,
                chosen: sum.chosen + term.weight * of_term.chosen,
                rejected: sum.rejected + term.weight * of_term.rejected,
            }
        })
    }

    fn sizes_of(&self, term: &Term, pair: usize, (w, l): Members) -> Sizes {
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        let beta = self.beta(pair, term.beta);
        let scale = |s: Option<usize>| s.map_or(0.0, |s| self.scale(beta, s, term.length_normalized));
        let ratio = |s: Option<usize>| finite(s.map_or(0.0, |s| self.log_ratio(s)));
        let logp = |s: Option<usize>| finite(s.map_or(0.0, |s| self.logps[s].abs()));
        let ((scale_w, scale_l), (a, b)) = ((scale(w), scale(l)), (ratio(w), ratio(l)));
        let inputs = &self.inputs;
        let epsilon = inputs.label_smoothing.map_or(term.label_smoothing, |given| given[pair]);
        let gamma = inputs.gamma.map_or(self.loss.gamma(), |given| given[pair]);

        // Of the margin: `loss` and `slope` by the size of z, the exponentials of f′ with the error of their arguments.
        let ((score_a, slope_a), (score_b, slope_b)) = (self.score(a), self.score(b));
        let z = scale_w * score_a + scale_l * score_b + gamma.abs();
        let of_margin = |loss: f64, slope: f64| Sizes {
            loss,
            chosen: scale_w * slope * slope_a * (1.0 + a.abs()),
            rejected: scale_l * slope * slope_b * (1.0 + b.abs()),
        };
        // Of the rewards.
        let rewards = scale_w * a.abs() + scale_l * b.abs() + 1.0;
        let of_rewards =
            |size: f64, slope: f64| Sizes { loss: size, chosen: scale_w * slope, rejected: scale_l * slope };
        let square = |x: f64| (4.0 * x * x, 2.0 * x / beta);
        match term.kind.name() {
            "sigmoid" => of_margin(z + 1.0, z + 1.0),
            "hinge" => of_margin(z + 1.0, 1.0),
            "ipo" => {
                let (loss, slope) = square((z + 0.5) / beta);
                of_margin(loss, slope)
            }
            "exo_pair" => of_margin(z + epsilon.ln().abs() + 1.0, z + epsilon.ln().abs() + 1.0),
            // 1 − 2ε is a difference, too.
            "robust" => {
                let rest = (1.0 - 2.0 * epsilon).powi(2);
                of_margin((z + 1.0) / rest, (z + 1.0) / rest)
            }
            "discopop" => {
                let tau = term.parameters[0];
                of_margin((z + 3.0).powi(2) / tau, (z + 3.0).powi(2) / (tau * tau))
            }
            "nca_pair" | "bco_pair" | "apo_zero" | "apo_down" => of_rewards(rewards, rewards),
            "sppo_hard" => {
                let (loss, slope) = square(rewards / beta);
                of_rewards(loss, slope)
            }
            "kto" => {
                let [desirable, undesirable] = term.parameters;
                let mean = |values: Option<&[f64]>| {
                    values.into_iter().flatten().fold(0.0, |a: f64, x| x.abs().max(a))
                };
                let baseline =
                    self.loss.baseline().unwrap_or(0.0) + mean(inputs.kl_logps) + mean(inputs.kl_ref_logps);
                let size = desirable.max(undesirable) * (rewards + 2.0 * beta * baseline);
                of_rewards(size, size)
            }
            "aot" | "aot_unpaired" => {
                // Beside this pair's stands any other's.
                let largest = (0..self.logps.len())
                    .map(|s| finite(self.logps[s]).abs() + self.ref_logp(s).abs())
                    .fold(0.0, f64::max);
                of_rewards(4.0 * beta * largest + 1.0, 4.0 * beta * largest + 1.0)
            }
            "sft" => {
                let tokens = inputs.chosen_tokens.unwrap_or(self.tokens().0);
                let slope = if w.is_some() { self.normalizer() / tokens } else { 0.0 };
                Sizes { loss: slope * logp(w), chosen: slope, rejected: 0.0 }
            }
            "nll" => {
                let slope = w.map_or(0.0, |w| 1.0 / self.length(w));
                Sizes { loss: slope * logp(w), chosen: slope, rejected: 0.0 }
            }
            "odds_ratio" => {
                let length = |s: Option<usize>| s.map_or(1.0, |s| self.length(s));
                let (x, y) = (-logp(w) / length(w), -logp(l) / length(l));
                let (rest_w, rest_l) = (-x.exp_m1(), -y.exp_m1());
                let denominator = (x - y).exp() * rest_l + rest_w;
                let arguments = 1.0 - x - y;
                Sizes {
                    loss: arguments + rest_w.ln().abs() + rest_l.ln().abs(),
                    chosen: arguments / denominator / length(w),
                    rejected: arguments * rest_w / rest_l / denominator / length(l),
                }
            }
            _ if term.kind.is_of_margin() => {
                let (loss, slope) = of_any_function(term, beta, epsilon, z);
                of_margin(loss, slope)
            }
            name => panic!("{name}: say how large its numbers are"),
        }
    }
}

/// Sizes of a loss of z and of its slope, for margins of at most `z`: each is off by some roundings of itself, and by
/// what it makes of the roundings of its argument. A loss whose formula has larger numbers on the way says so above.
fn of_any_function(term: &Term, beta: f64, epsilon: f64, z: f64) -> (f64, f64) {
    const STEP: f64 = 1e-3;
    let info = LossInfo::named(term.kind.name()).unwrap();
    let mut loss = info.make(beta, &term.parameters[..info.parameters.len()]).unwrap().without_reference();
    if term.kind.takes_label_smoothing() {
        loss = loss.with_label_smoothing(epsilon).unwrap();
    }
    let at = |z: f64| {
        let sequence = |logp: f64| Sequence { logp, ref_logp: None, length: 1 };
        let pair = loss.pair(sequence(z / beta), sequence(0.0)).unwrap();
        (pair.loss, pair.chosen_coef / beta)
    };
    let sizes = (-8..=8).map(|eighths| z * f64::from(eighths) / 8.0).map(|z| {
        let ((value, slope), (below, above)) = (at(z), (at(z - STEP).1, at(z + STEP).1));
        [value.abs(), slope.abs(), (above - below).abs() / (2.0 * STEP)]
    });
    let [value, slope, curvature] =
        sizes.fold([0.0; 3], |largest, size| [0, 1, 2].map(|i| f64::max(largest[i], size[i])));
    (value + (1.0 + z) * slope, slope + (1.0 + z) * curvature)
}
