//! `pair_loss` on the host, for the CPU backend in f32 and for the reference in f64: the arithmetic is f64 in both, since
//! there are two numbers per pair and width costs nothing.

use super::function::{PairNumbers, Side, Slopes};
use super::inputs::PairInputs;
use super::kind::Sorts;
use super::math::vanishing;
use super::pair_loss::{PairLoss, Term};
use crate::batch::HostBatch;
use crate::error::Result;
use crate::memory::Number;
use crate::metrics::PairMetrics;
use crate::pairs::{PairTokens, Pairs};
use crate::results::{ForwardSlices, PairOutputSlices};

/// A batch of pairs with all that was given for it; checked.
pub(crate) struct PairStage<'a, F> {
    pub pairs: Pairs<&'a [i32]>,
    pub logps: &'a [F],
    pub scored: Option<&'a [u32]>,
    pub inputs: &'a PairInputs<'a, F>,
    pub loss: &'a PairLoss,
}

/// What all pairs share.
#[derive(Debug, Clone, Copy)]
struct BatchScalars {
    /// Pairs that count, and those of them that have a chosen and a rejected sequence.
    pairs: u32,
    chosen: u32,
    rejected: u32,
    /// 1 over the normaliser, or 0 where that is a count of nothing.
    per_normalizer: f64,
    baseline: f64,
    per_token: f64,
}

/// `sum` over a count, or 0 where nothing was counted.
fn over_count(sum: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { sum / count }
}

/// What the sorting losses compare the numbers of each pair with. Empty where no loss sorts.
#[derive(Default)]
struct Partners {
    /// Reference margins, for the policy margins.
    of_margins: Vec<f64>,
    /// Rejected rewards, for the chosen rewards.
    of_chosen: Vec<f64>,
    /// Chosen rewards, for the rejected rewards.
    of_rejected: Vec<f64>,
}

/// For each of `own` the number of `others` that has its rank, both in ascending order, with NaN last and equals in their
/// order. A pair that is not a number in `others` has no partner.
fn partners(own: &[f64], others: &[f64]) -> Vec<f64> {
    let sorted = |values: &[f64]| -> Vec<usize> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        let key = |&i: &usize| (values[i].is_nan(), values[i]);
        order.sort_by(|i, j| key(i).partial_cmp(&key(j)).unwrap_or(std::cmp::Ordering::Equal));
        order
    };
    let mut partners = vec![f64::NAN; own.len()];
    for (i, other) in sorted(own).into_iter().zip(sorted(others)) {
        if !others[i].is_nan() {
            partners[i] = others[other];
        }
    }
    partners
}

impl PairLoss {
    /// Checks what `pair_loss` is given in host memory for a valid batch, which has `scored` numbers of scored rows.
    pub(crate) fn check_host_inputs<F: Number>(
        &self,
        batch: &HostBatch<'_>,
        inputs: &PairInputs<'_, F>,
        scored: Option<usize>,
    ) -> Result<()> {
        self.check_inputs(&batch.pairs, batch.sequences.count(), &inputs.lens(), scored)?;
        self.check_values(inputs)
    }
}

impl<F: Number> PairStage<'_, F> {
    fn count(&self) -> usize {
        self.pairs.count(self.logps.len())
    }

    fn members(&self, i: usize) -> (Option<usize>, Option<usize>) {
        self.pairs.members(i, self.count())
    }

    fn length(&self, s: usize) -> f64 {
        let length = self.inputs.lengths.or(self.scored).map_or(1, |lengths| lengths[s]);
        f64::from(length.max(1))
    }

    fn is_empty(&self, s: usize) -> bool {
        self.inputs.lengths.or(self.scored).is_some_and(|lengths| lengths[s] == 0)
    }

    /// The pair's own β, or else the usual one, of a loss of the sum or of the rewards.
    fn beta(&self, i: usize, usual: f64) -> f64 {
        self.inputs.beta.map_or(usual, |beta| beta[i].into())
    }

    fn scale(&self, beta: f64, s: usize, length_normalized: bool) -> f64 {
        if length_normalized { beta / self.length(s) } else { beta }
    }

    fn logp(&self, s: usize) -> f64 {
        self.logps[s].into()
    }

    fn ref_logp(&self, s: usize) -> f64 {
        self.inputs.ref_logps.map_or(0.0, |ref_logps| ref_logps[s].into())
    }

    fn log_ratio(&self, s: usize) -> f64 {
        self.logp(s) - self.ref_logp(s)
    }

    /// Whether the pair is part of the batch at all: one of weight 0 is not.
    fn counts(&self, i: usize) -> bool {
        self.inputs.weight.is_none_or(|weight| weight[i].into() != 0.0)
    }

    fn batch_scalars(&self) -> BatchScalars {
        let (mut pairs, mut chosen, mut rejected) = (0, 0, 0);
        for i in (0..self.count()).filter(|&i| self.counts(i)) {
            let (w, l) = self.members(i);
            pairs += 1;
            chosen += u32::from(w.is_some());
            rejected += u32::from(l.is_some());
        }
        let of_scored = |scored| self.pairs.tokens(self.count(), |i| self.counts(i), scored);
        let tokens = self.scored.map_or(PairTokens::default(), of_scored);
        let of_batch = self.loss.normalizer.of(pairs, tokens.all());
        let normalizer = self.inputs.normalizer.map_or(of_batch, Into::into);
        let chosen_tokens = self.inputs.chosen_tokens.map_or(tokens.chosen as f64, Into::into);
        BatchScalars {
            pairs,
            chosen,
            rejected,
            per_normalizer: over_count(1.0, normalizer),
            baseline: self.baseline(),
            per_token: over_count(normalizer, chosen_tokens),
        }
    }

    fn baseline(&self) -> f64 {
        let Some(logps) = self.inputs.kl_logps else { return self.loss.baseline.unwrap_or(0.0) };
        let sum = (0..logps.len()).fold(0.0, |sum, k| {
            let of_ref = self.inputs.kl_ref_logps.map_or(0.0, |of_ref| of_ref[k].into());
            sum + (logps[k].into() - of_ref)
        });
        let mean = sum / logps.len() as f64;
        if mean < 0.0 { 0.0 } else { mean }
    }

    fn partners(&self) -> Partners {
        let mut all = Partners::default();
        let each = |f: &dyn Fn(usize, usize, usize) -> f64| -> Vec<f64> {
            (0..self.count())
                .map(|i| match self.members(i) {
                    (Some(w), Some(l)) => f(i, w, l),
                    _ => f64::NAN,
                })
                .collect()
        };
        for term in self.loss.terms() {
            let scaled =
                |i, s, number: f64| self.scale(self.beta(i, term.beta), s, term.length_normalized) * number;
            let margin = |i, w, l, of: &dyn Fn(usize) -> f64| scaled(i, w, of(w)) - scaled(i, l, of(l));
            match term.kind.sorts() {
                Some(Sorts::Margins) => {
                    let policy = each(&|i, w, l| margin(i, w, l, &|s| self.logp(s)));
                    let reference = each(&|i, w, l| margin(i, w, l, &|s| self.ref_logp(s)));
                    all.of_margins = partners(&policy, &reference);
                }
                Some(Sorts::Rewards) => {
                    let chosen = each(&|i, w, _| scaled(i, w, self.log_ratio(w)));
                    let rejected = each(&|i, _, l| scaled(i, l, self.log_ratio(l)));
                    all.of_chosen = partners(&chosen, &rejected);
                    all.of_rejected = partners(&rejected, &chosen);
                }
                None => (),
            }
        }
        all
    }

    fn term(&self, i: usize, term: &Term, scalars: &BatchScalars, partners: &Partners) -> Slopes {
        let (w, l) = self.members(i);
        let beta = self.beta(i, term.beta);
        let partner = |partners: &[f64]| partners.get(i).copied().unwrap_or(f64::NAN);
        let side = |s: usize, sorted_partner: f64| Side {
            logp: self.logp(s),
            log_ratio: self.log_ratio(s),
            length: self.length(s),
            is_empty: self.is_empty(s),
            scale: self.scale(beta, s, term.length_normalized),
            sorted_partner,
        };
        let given = self.inputs.label_smoothing.filter(|_| term.kind.takes_label_smoothing());
        let pair = PairNumbers {
            chosen: w.map(|w| side(w, partner(&partners.of_chosen))),
            rejected: l.map(|l| side(l, partner(&partners.of_rejected))),
            beta,
            gamma: self.inputs.gamma.map_or(self.loss.gamma, |gamma| gamma[i].into()),
            label_smoothing: given.map_or(term.label_smoothing, |epsilon| epsilon[i].into()),
            parameters: term.parameters,
            divergence: self.loss.divergence,
            baseline: scalars.baseline,
            per_token: scalars.per_token,
            sorted_partner: partner(&partners.of_margins),
        };
        term.kind.function.slopes(&pair)
    }

    /// The weighted sum of all terms.
    fn slopes(&self, i: usize, scalars: &BatchScalars, partners: &Partners) -> Slopes {
        if !self.counts(i) {
            return Slopes::default();
        }
        let mut sum = Slopes::default();
        for term in self.loss.terms() {
            let slopes = self.term(i, term, scalars, partners);
            sum.loss += term.weight * slopes.loss;
            sum.chosen += term.weight * slopes.chosen;
            sum.rejected += term.weight * slopes.rejected;
        }
        // A slope may be a constant, or that of one side alone, where the loss is not a number.
        if sum.loss.is_nan() {
            sum = Slopes { loss: f64::NAN, chosen: f64::NAN, rejected: f64::NAN };
        }
        let weight = self.weight(i);
        let weighted = |slope: f64| vanishing(weight, slope);
        Slopes { loss: weighted(sum.loss), chosen: weighted(sum.chosen), rejected: weighted(sum.rejected) }
    }

    fn weight(&self, i: usize) -> f64 {
        let of_pair = self.inputs.weight.map_or(1.0, |weight| weight[i].into());
        let (w, l) = self.members(i);
        let log_weight = |s: Option<usize>| match (s, self.inputs.sequence_log_weights) {
            (Some(s), Some(log_weights)) => log_weights[s].into(),
            _ => 0.0,
        };
        let of_sequences = log_weight(w) + log_weight(l);
        let beyond = self.loss.wpo_weights && of_sequences > 0.0;
        of_pair * if beyond { 1.0 } else { of_sequences.exp() }
    }

    /// The first pair that counts and has an input that is not finite. In host memory the ranges have been checked.
    pub(crate) fn bad_input(&self) -> Option<usize> {
        let baseline = self.baseline();
        let reads_numbers = |i: usize| {
            let (w, l) = self.members(i);
            let has_reference = |s: Option<usize>| s.is_none_or(|s| self.ref_logp(s).is_finite());
            has_reference(w) && has_reference(l) && self.weight(i).is_finite() && baseline.is_finite()
        };
        (0..self.count()).find(|&i| self.counts(i) && !reads_numbers(i))
    }

    /// Writes what is wanted of the results after `logps`, whose status it completes.
    pub(crate) fn run_and_report(&self, out: ForwardSlices<'_, F>) {
        self.run(out.pairs);
        if let Some(status) = out.logps.status {
            status.bad_pair_input = self.bad_input();
        }
    }

    /// Writes what is wanted of the results.
    pub(crate) fn run(&self, mut out: PairOutputSlices<'_, F>) {
        let (scalars, partners) = (self.batch_scalars(), self.partners());
        if let Some(coef) = &mut out.coef {
            coef.fill(F::default());
        }
        let mut sums = PairMetrics::<f64>::default();
        for i in 0..self.count() {
            let (w, l) = self.members(i);
            let slopes = self.slopes(i, &scalars, &partners);
            let beta = self.beta(i, self.loss.beta);
            let reward = |s: Option<usize>| {
                s.map_or(0.0, |s| self.scale(beta, s, self.loss.length_normalized) * self.log_ratio(s))
            };
            let (chosen_reward, rejected_reward) = (reward(w), reward(l));
            let margin = chosen_reward - rejected_reward;
            for (to, value) in [
                (&mut out.pair_losses, slopes.loss),
                (&mut out.chosen_rewards, chosen_reward),
                (&mut out.rejected_rewards, rejected_reward),
                (&mut out.margins, margin),
            ] {
                if let Some(to) = to {
                    to[i] = F::round(value);
                }
            }
            if !self.counts(i) {
                continue;
            }
            for (s, slope) in [(w, slopes.chosen), (l, slopes.rejected)] {
                if let (Some(s), Some(coef)) = (s, &mut out.coef) {
                    coef[s] = F::round(coef[s].into() + vanishing(slope, scalars.per_normalizer));
                }
            }
            sums.loss += slopes.loss;
            sums.chosen_reward += chosen_reward;
            sums.rejected_reward += rejected_reward;
            sums.accuracy += f64::from(chosen_reward > rejected_reward);
            sums.margin += margin;
        }
        let Some(metrics) = out.metrics else { return };
        let BatchScalars { pairs, chosen, rejected, per_normalizer, .. } = scalars;
        let chosen_reward = over_count(sums.chosen_reward, chosen.into());
        let rejected_reward = over_count(sums.rejected_reward, rejected.into());
        let margin = match self.pairs {
            Pairs::Unpaired { .. } if chosen == 0 || rejected == 0 => 0.0,
            Pairs::Unpaired { .. } => chosen_reward - rejected_reward,
            _ => over_count(sums.margin, pairs.into()),
        };
        *metrics = PairMetrics {
            pairs,
            chosen,
            rejected,
            loss: F::round(vanishing(sums.loss, per_normalizer)),
            chosen_reward: F::round(chosen_reward),
            rejected_reward: F::round(rejected_reward),
            margin: F::round(margin),
            accuracy: F::round(over_count(sums.accuracy, pairs.into())),
        };
    }
}
