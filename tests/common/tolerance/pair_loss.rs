//! Rewards, margins, losses, coefficients and their means, from log-probs that are off by their errors.

use dpo_kernels::{PairMetrics, PairOutputs, Pairs};

use super::loss_sizes::ROUNDINGS;
use super::moves::Moves;
use super::pair_arguments::{Members, PairArguments};
use super::precision::Precision;
use super::sequence::Uncertain;

/// The share of a log-prob's natural scale by which it is moved to see how errors grow.
const NUDGE: f64 = 1e-6;

/// The size of a number. What is infinite is exact, and so is all that saturates because of it.
fn size(value: f64) -> f64 {
    if value.is_finite() { value.abs() } else { 0.0 }
}

impl Precision {
    /// Bounds for all that `pair_loss` gives, in the places of what they are bounds for.
    ///
    /// `log_ratios` are the sequences' logp − ref_logp: the errors and the scales of both, added. `log_weight_unit` is
    /// the unit to which the sequences' log-weights were rounded before the backend saw them, 0 where they were not.
    pub fn pair_loss(
        &self,
        arguments: &PairArguments<'_>,
        log_ratios: &[Uncertain],
        log_weight_unit: f64,
    ) -> PairOutputs<f64> {
        let (exact, pairs) = (arguments.evaluate(arguments.logps), arguments.pairs());
        let rewards = RewardErrors::of(self, arguments, log_ratios, &pairs, &exact);
        let mut bounds = self.losses_and_coef(arguments, log_ratios, &pairs, &exact);

        // The factor that the log-weights make is exp of a sum of rounded numbers, whose errors are relative ones of it.
        let off_by = |pair: usize| match arguments.inputs.sequence_log_weights {
            Some(_) => log_weight_unit * (1.0 + arguments.log_weight(pairs[pair]).size),
            None => 0.0,
        };
        for (pair, &(w, l)) in pairs.iter().enumerate() {
            bounds.pair_losses[pair] += off_by(pair) * size(exact.pair_losses[pair]);
            for s in [w, l].into_iter().flatten() {
                bounds.coef[s] += off_by(pair) * size(exact.coef[s]);
            }
        }
        let metrics = self.pair_metrics(arguments, &pairs, &exact, &bounds.pair_losses, &rewards);
        let RewardErrors { chosen, rejected, margins } = rewards;
        PairOutputs { chosen_rewards: chosen, rejected_rewards: rejected, margins, metrics, ..bounds }
    }

    /// An argument that is rounded is one that moved: the log-ratio, its product with the scale, the difference of two
    /// of them, and γ. What is left are the roundings of numbers as large as the loss has on the way, and of results.
    fn losses_and_coef(
        &self,
        arguments: &PairArguments<'_>,
        log_ratios: &[Uncertain],
        pairs: &[Members],
        exact: &PairOutputs<f64>,
    ) -> PairOutputs<f64> {
        let gamma = self.scalar * arguments.largest_gamma() / arguments.least_scale();
        // Of sorted numbers two that both move pass each other at a distance at which neither does alone.
        let sorts = arguments.loss.terms().iter().any(|term| term.kind.couples_pairs());
        let together = if sorts { 2.0 } else { 1.0 };
        let by = |s: usize| {
            let arguments = 8.0 * self.scalar * size(arguments.log_ratio(s)) + 4.0 * gamma;
            together * (log_ratios[s].error + arguments)
        };
        let by: Vec<f64> = (0..log_ratios.len()).map(by).collect();
        let Moves { mut losses, mut coef } = Moves::of(arguments, &by);

        let normalizer = arguments.normalizer();
        for (pair, &(w, l)) in pairs.iter().enumerate() {
            let sizes = arguments.sizes(pair, (w, l));
            // The weight is exp of a rounded sum: its error is relative, as large as the sum.
            let log_weight = arguments.log_weight((w, l)).sum.abs();
            let roundings = self.scalar * (ROUNDINGS + log_weight) * arguments.weight(pair, (w, l));
            losses[pair] += roundings * size(sizes.loss) + self.rounding(exact.pair_losses[pair]);
            for (s, slope) in [(w, sizes.chosen), (l, sizes.rejected)] {
                if let Some(s) = s {
                    coef[s] += roundings * size(slope) / normalizer;
                }
            }
        }
        for (error, rounding) in coef.iter_mut().zip(self.coef_roundings(arguments, pairs, exact)) {
            *error += rounding;
        }

        let promised = |values: &[f64], derived: Vec<f64>, nudged: Option<Vec<f64>>| match nudged {
            None => derived,
            Some(nudged) => {
                let growth = |i: usize| nudged[i] / (NUDGE * values[i].abs());
                let bound = |(i, derived)| self.promised(values[i], growth(i), derived);
                derived.into_iter().enumerate().map(bound).collect()
            }
        };
        let nudged = self.promise.map(|_| {
            let nudges: Vec<f64> = log_ratios.iter().map(|logp| NUDGE * logp.scale).collect();
            Moves::of(arguments, &nudges)
        });
        let (nudged_losses, nudged_coef) = nudged.map(|moves| (moves.losses, moves.coef)).unzip();
        PairOutputs {
            pair_losses: promised(&exact.pair_losses, losses, nudged_losses),
            coef: promised(&exact.coef, coef, nudged_coef),
            ..PairOutputs::default()
        }
    }

    /// Roundings of the coefficients as they are stored: each of a sequence's pairs adds to what there is so far.
    fn coef_roundings(
        &self,
        arguments: &PairArguments<'_>,
        pairs: &[Members],
        exact: &PairOutputs<f64>,
    ) -> Vec<f64> {
        if !matches!(arguments.batch.pairs, Pairs::Indexed { .. }) {
            return exact.coef.iter().map(|&coef| self.rounding(coef)).collect();
        }
        let mut so_far = vec![0.0; exact.coef.len()];
        let mut roundings = vec![0.0; exact.coef.len()];
        for (&(w, l), (of_w, of_l)) in pairs.iter().zip(arguments.contributions(pairs)) {
            for (s, contribution) in [(w, of_w), (l, of_l)] {
                if let Some(s) = s {
                    so_far[s] += contribution.abs();
                    roundings[s] += self.rounding(so_far[s]);
                }
            }
        }
        roundings
    }

    /// Means are sums in f64, divided and rounded; what a loss is divided by may be rounded, too.
    fn pair_metrics(
        &self,
        arguments: &PairArguments<'_>,
        pairs: &[Members],
        exact: &PairOutputs<f64>,
        losses: &[f64],
        rewards: &RewardErrors,
    ) -> PairMetrics<f64> {
        let mean = |values: &[f64], errors: &[f64], count: f64, mean: f64| {
            let additions = f64::EPSILON * values.iter().map(|&value| size(value)).sum::<f64>();
            let errors = errors.iter().sum::<f64>() + additions;
            errors / count + self.scalar * size(mean) + self.rounding(mean)
        };
        let count =
            |there: fn(&Members) -> bool| pairs.iter().filter(|pair| there(pair)).count().max(1) as f64;
        let (chosen, rejected) = (count(|pair| pair.0.is_some()), count(|pair| pair.1.is_some()));
        let metrics = &exact.metrics;
        let chosen_reward = mean(&exact.chosen_rewards, &rewards.chosen, chosen, metrics.chosen_reward);
        let rejected_reward =
            mean(&exact.rejected_rewards, &rewards.rejected, rejected, metrics.rejected_reward);
        // Unpaired, the mean margin is the difference of the two means.
        let margin = match arguments.batch.pairs {
            Pairs::Unpaired { .. } => chosen_reward + rejected_reward + self.rounding(metrics.margin),
            _ => mean(&exact.margins, &rewards.margins, chosen, metrics.margin),
        };
        // Pairs whose rewards are closer than their errors may fall either way.
        let unsure =
            exact.margins.iter().zip(&rewards.margins).filter(|(margin, error)| margin.abs() <= **error);
        PairMetrics {
            loss: mean(&exact.pair_losses, losses, arguments.normalizer(), metrics.loss),
            chosen_reward,
            rejected_reward,
            margin,
            accuracy: unsure.count() as f64 / pairs.len().max(1) as f64 + self.rounding(metrics.accuracy),
            // Counts are exact.
            ..PairMetrics::default()
        }
    }
}

/// Bounds for rewards, scale · (logp − ref_logp), and for margins.
struct RewardErrors {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    margins: Vec<f64>,
}

impl RewardErrors {
    fn of(
        precision: &Precision,
        arguments: &PairArguments<'_>,
        log_ratios: &[Uncertain],
        pairs: &[Members],
        exact: &PairOutputs<f64>,
    ) -> Self {
        let scaled = |pair: usize, s: Option<usize>| {
            let beta = arguments.beta(pair, arguments.loss.beta());
            let scale = |s| arguments.scale(beta, s, arguments.loss.length_normalized());
            s.map_or(Uncertain::default(), |s| log_ratios[s] * scale(s))
        };
        // Three roundings come before that of the product: β as an f32, β/n, and the log-ratio.
        let reward = |reward: f64, inputs: Uncertain| {
            let derived = inputs.error + 3.0 * precision.scalar * size(reward) + precision.rounding(reward);
            precision.promised(reward, inputs.scale / reward.abs(), derived)
        };
        let chosen = |pair: usize| reward(exact.chosen_rewards[pair], scaled(pair, pairs[pair].0));
        let rejected = |pair: usize| reward(exact.rejected_rewards[pair], scaled(pair, pairs[pair].1));
        // The kernels subtract the rewards as they are stored; f64 those before.
        let margin = |pair: usize| {
            let (w, l) = (exact.chosen_rewards[pair], exact.rejected_rewards[pair]);
            let inputs = scaled(pair, pairs[pair].0) + scaled(pair, pairs[pair].1);
            let rewards = 4.0 * precision.scalar * (size(w) + size(l));
            let derived = inputs.error + rewards + precision.rounding(exact.margins[pair]);
            precision.promised(exact.margins[pair], inputs.scale / exact.margins[pair].abs(), derived)
        };
        let pairs = 0..pairs.len();
        RewardErrors {
            chosen: pairs.clone().map(chosen).collect(),
            rejected: pairs.clone().map(rejected).collect(),
            margins: pairs.map(margin).collect(),
        }
    }
}
