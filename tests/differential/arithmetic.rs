//! The sizes of the numbers that a loss adds up on a device, from which the roundings of its f32 arithmetic follow.
//!
//! A loss is a sum of few products of few numbers, each an elementary function that is off by at most 2 units in the
//! last place: ROUNDINGS units of the largest number on the way, and more only where a number is a difference of
//! larger ones, which is then the size.

use dpo_kernels::loss::{Divergence, LossInfo, Normalizer, Sequence, Term};
use dpo_kernels::{Logit, Logps};

use crate::case::Case;

/// Roundings on the longest way from the arguments to a result.
pub const ROUNDINGS: f64 = 16.0;

/// Sizes of a loss and of its derivatives by the two log-probs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
}

/// What `pair_loss` reads, in f64.
pub struct Numbers<'a, T> {
    pub case: &'a Case<T>,
    pub logps: &'a Logps<f64>,
}

impl<T: Logit> Numbers<'_, T> {
    fn length(&self, s: usize) -> f64 {
        let lengths = self.case.tensors.lengths.as_ref().unwrap_or(&self.logps.scored);
        f64::from(lengths[s].max(1))
    }

    fn beta(&self, pair: usize) -> f64 {
        self.case.tensors.beta.as_ref().map_or(self.case.spec.loss.beta(), |beta| beta[pair].into())
    }

    pub fn scale(&self, pair: usize, s: usize, length_normalized: bool) -> f64 {
        if length_normalized { self.beta(pair) / self.length(s) } else { self.beta(pair) }
    }

    /// The least that a log-ratio is multiplied by.
    pub fn least_scale(&self) -> f64 {
        let pairs = self.case.pairs();
        let least_beta = (0..pairs.len()).map(|pair| self.beta(pair)).fold(f64::INFINITY, f64::min);
        let longest = (0..self.case.spec.sequences).map(|s| self.length(s)).fold(1.0, f64::max);
        least_beta / longest
    }

    fn ref_logp(&self, s: usize) -> f64 {
        self.case.ref_logps.as_ref().map_or(0.0, |ref_logps| ref_logps[s].into())
    }

    pub fn log_ratio(&self, s: usize) -> f64 {
        self.logps.logps[s] - self.ref_logp(s)
    }

    fn tokens(&self) -> (f64, f64) {
        let scored = |s: Option<usize>| s.map_or(0.0, |s| f64::from(self.logps.scored[s]));
        let sum = |tokens: (f64, f64), (w, l)| (tokens.0 + scored(w), tokens.1 + scored(l));
        self.case.pairs().into_iter().fold((0.0, 0.0), sum)
    }

    pub fn normalizer(&self) -> f64 {
        let tokens = self.tokens();
        match (self.case.tensors.normalizer, self.case.spec.loss.normalizer()) {
            (Some(number), _) => number.into(),
            (None, Normalizer::Number(number)) => number,
            (None, Normalizer::Pairs) => self.case.pairs().len() as f64,
            (None, Normalizer::Tokens) => tokens.0 + tokens.1,
        }
    }

    pub fn weight(&self, pair: usize, w: Option<usize>, l: Option<usize>) -> f64 {
        let tensors = &self.case.tensors;
        let log_weight = |s: Option<usize>| match (s, &tensors.sequence_log_weights) {
            (Some(s), Some(log_weights)) => f64::from(log_weights[s]),
            _ => 0.0,
        };
        let of_pair = tensors.weight.as_ref().map_or(1.0, |weight| f64::from(weight[pair]));
        of_pair * (log_weight(w) + log_weight(l)).exp()
    }

    /// |f′(x)| and its derivative; a difference has the size of what it is the difference of.
    fn score(&self, x: f64) -> (f64, f64) {
        match self.case.spec.loss.divergence() {
            Divergence::ForwardKl => ((-x).exp() + 1.0, (-x).exp()),
            Divergence::JensenShannon => (x.abs() + 2.0, 1.0),
            Divergence::Alpha(alpha) if alpha != 1.0 => {
                let power = ((alpha - 1.0) * x).min(80.0).exp();
                ((power + 1.0) / (alpha - 1.0).abs(), power)
            }
            _ => (x.abs(), 1.0),
        }
    }

    /// Of one loss of the sum.
    pub fn sizes(&self, term: &Term, pair: usize, w: Option<usize>, l: Option<usize>) -> Sizes {
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        let scale = |s: Option<usize>| s.map_or(0.0, |s| self.scale(pair, s, term.length_normalized));
        let ratio = |s: Option<usize>| finite(s.map_or(0.0, |s| self.log_ratio(s)));
        let logp = |s: Option<usize>| finite(s.map_or(0.0, |s| self.logps.logps[s].abs()));
        let ((scale_w, scale_l), (a, b)) = ((scale(w), scale(l)), (ratio(w), ratio(l)));
        let (beta, tensors) = (self.beta(pair), &self.case.tensors);
        let epsilon =
            tensors.label_smoothing.as_ref().map_or(term.label_smoothing, |given| given[pair].into());
        let gamma = tensors.gamma.as_ref().map_or(self.case.spec.loss.gamma(), |given| given[pair].into());

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
                let mean = |values: &Option<Vec<f32>>| {
                    values.as_ref().map_or(0.0, |v| v.iter().map(|x| x.abs()).fold(0.0, f32::max).into())
                };
                let baseline: f64 = self.case.spec.loss.baseline().unwrap_or(0.0)
                    + mean(&tensors.kl_logps)
                    + mean(&tensors.kl_ref_logps);
                let size = desirable.max(undesirable) * (rewards + 2.0 * beta * baseline);
                of_rewards(size, size)
            }
            "aot" | "aot_unpaired" => {
                // Beside this pair's stands any other's.
                let largest = (0..self.case.spec.sequences)
                    .map(|s| finite(self.logps.logps[s]).abs() + self.ref_logp(s).abs())
                    .fold(0.0, f64::max);
                of_rewards(4.0 * beta * largest + 1.0, 4.0 * beta * largest + 1.0)
            }
            "sft" => {
                let tokens = tensors.chosen_tokens.map_or(self.tokens().0, f64::from);
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
    let mut loss = info.make(beta, &term.parameters[..info.parameters.len()]).unwrap();
    if term.kind.takes_label_smoothing() {
        loss = loss.with_label_smoothing(epsilon).unwrap();
    }
    let at = |z: f64| {
        let sequence = |logp: f64| Sequence { logp, ref_logp: 0.0, length: 1 };
        let pair = loss.pair(sequence(z / beta), sequence(0.0));
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
