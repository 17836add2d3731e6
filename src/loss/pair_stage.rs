//! `pair_loss` on the host, for the CPU backend in f32 and for the reference in f64: the arithmetic is f64 in both, since
//! there are two numbers per pair and width costs nothing.

use super::function::{PairNumbers, Side, Slopes};
use super::inputs::PairInputs;
use super::kind::Sorts;
use super::pair_loss::{PairLoss, Term};
use crate::batch::HostBatch;
use crate::error::Result;
use crate::memory::Number;
use crate::metrics::PairMetrics;
use crate::pairs::Pairs;
use crate::results::PairOutputSlices;

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
    normalizer: f64,
    baseline: f64,
    per_token: f64,
}

/// The numbers that the sorting losses compare, sorted. Empty where no loss sorts.
#[derive(Default)]
struct Sorted {
    /// Margins of the reference, and for each pair the rank of its policy margin.
    reference: Vec<f64>,
    policy_rank: Vec<usize>,
    /// Rewards of both sides, and for each pair the ranks of its own.
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    chosen_rank: Vec<usize>,
    rejected_rank: Vec<usize>,
}

/// Sorts `values`, NaN last and equals in their order, and gives the rank of each.
fn sort(values: &mut [f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let key = |&i: &usize| (values[i].is_nan(), values[i]);
    order.sort_by(|i, j| key(i).partial_cmp(&key(j)).unwrap_or(std::cmp::Ordering::Equal));
    let mut rank = vec![0; values.len()];
    order.iter().enumerate().for_each(|(place, &i)| rank[i] = place);
    let sorted: Vec<f64> = order.iter().map(|&i| values[i]).collect();
    values.copy_from_slice(&sorted);
    rank
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

    fn beta(&self, i: usize) -> f64 {
        self.inputs.beta.map_or(self.loss.beta, |beta| beta[i].into())
    }

    fn scale(&self, i: usize, s: usize, length_normalized: bool) -> f64 {
        if length_normalized { self.beta(i) / self.length(s) } else { self.beta(i) }
    }

    fn logp(&self, s: usize) -> f64 {
        self.logps[s].into()
    }

    fn ref_logp(&self, s: usize) -> f64 {
        self.inputs.ref_logps.map_or(0.0, |ref_logps| ref_logps[s].into())
    }

    fn reward(&self, i: usize, s: usize, length_normalized: bool) -> f64 {
        self.scale(i, s, length_normalized) * (self.logp(s) - self.ref_logp(s))
    }

    fn batch_scalars(&self) -> BatchScalars {
        let scored = |s: Option<usize>| match (s, self.scored) {
            (Some(s), Some(scored)) => u64::from(scored[s]),
            _ => 0,
        };
        let (mut chosen_tokens, mut rejected_tokens) = (0, 0);
        for i in 0..self.count() {
            let (w, l) = self.members(i);
            chosen_tokens += scored(w);
            rejected_tokens += scored(l);
        }
        let of_batch = self.loss.normalizer.of(self.count(), chosen_tokens + rejected_tokens);
        let normalizer = self.inputs.normalizer.map_or(of_batch, Into::into);
        let chosen_tokens = self.inputs.chosen_tokens.map_or(chosen_tokens as f64, Into::into);
        BatchScalars { normalizer, baseline: self.baseline(), per_token: normalizer / chosen_tokens }
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

    fn sorted(&self) -> Sorted {
        let mut sorted = Sorted::default();
        let each = |f: &dyn Fn(usize, usize, usize) -> f64| -> Vec<f64> {
            (0..self.count())
                .map(|i| match self.members(i) {
                    (Some(w), Some(l)) => f(i, w, l),
                    _ => f64::NAN,
                })
                .collect()
        };
        for term in self.loss.terms() {
            let normalized = term.length_normalized;
            let margin = |i, w, l, of: &dyn Fn(usize) -> f64| {
                self.scale(i, w, normalized) * of(w) - self.scale(i, l, normalized) * of(l)
            };
            match term.kind.sorts() {
                Some(Sorts::Margins) => {
                    let mut policy = each(&|i, w, l| margin(i, w, l, &|s| self.logp(s)));
                    sorted.policy_rank = sort(&mut policy);
                    sorted.reference = each(&|i, w, l| margin(i, w, l, &|s| self.ref_logp(s)));
                    sort(&mut sorted.reference);
                }
                Some(Sorts::Rewards) => {
                    sorted.chosen = each(&|i, w, _| self.reward(i, w, normalized));
                    sorted.rejected = each(&|i, _, l| self.reward(i, l, normalized));
                    sorted.chosen_rank = sort(&mut sorted.chosen);
                    sorted.rejected_rank = sort(&mut sorted.rejected);
                }
                None => (),
            }
        }
        sorted
    }

    fn term(&self, i: usize, term: &Term, scalars: &BatchScalars, sorted: &Sorted) -> Slopes {
        let (w, l) = self.members(i);
        let side = |s: usize, sorted_partner: f64| Side {
            logp: self.logp(s),
            log_ratio: self.logp(s) - self.ref_logp(s),
            length: self.length(s),
            scale: self.scale(i, s, term.length_normalized),
            sorted_partner,
        };
        let sorted_partner =
            |sorted: &[f64], rank: &[usize]| rank.get(i).map_or(f64::NAN, |&rank| sorted[rank]);
        let given = self.inputs.label_smoothing.filter(|_| term.kind.takes_label_smoothing());
        let pair = PairNumbers {
            chosen: w.map(|w| side(w, sorted_partner(&sorted.rejected, &sorted.chosen_rank))),
            rejected: l.map(|l| side(l, sorted_partner(&sorted.chosen, &sorted.rejected_rank))),
            beta: self.beta(i),
            gamma: self.inputs.gamma.map_or(self.loss.gamma, |gamma| gamma[i].into()),
            label_smoothing: given.map_or(term.label_smoothing, |epsilon| epsilon[i].into()),
            parameters: term.parameters,
            divergence: self.loss.divergence,
            baseline: scalars.baseline,
            per_token: scalars.per_token,
            sorted_partner: sorted_partner(&sorted.reference, &sorted.policy_rank),
        };
        term.kind.function.slopes(&pair)
    }

    /// The weighted sum of all terms.
    fn slopes(&self, i: usize, scalars: &BatchScalars, sorted: &Sorted) -> Slopes {
        let mut sum = Slopes::default();
        for term in self.loss.terms() {
            let slopes = self.term(i, term, scalars, sorted);
            sum.loss += term.weight * slopes.loss;
            sum.chosen += term.weight * slopes.chosen;
            sum.rejected += term.weight * slopes.rejected;
        }
        let weight = self.weight(i);
        Slopes { loss: weight * sum.loss, chosen: weight * sum.chosen, rejected: weight * sum.rejected }
    }

    fn weight(&self, i: usize) -> f64 {
        let of_pair = self.inputs.weight.map_or(1.0, |weight| weight[i].into());
        let (w, l) = self.members(i);
        let log_weight = |s: Option<usize>| match (s, self.inputs.sequence_log_weights) {
            (Some(s), Some(log_weights)) => log_weights[s].into(),
            _ => 0.0,
        };
        of_pair * (log_weight(w) + log_weight(l)).exp()
    }

    /// Writes what is wanted of the results.
    pub(crate) fn run(&self, mut out: PairOutputSlices<'_, F>) {
        let count = self.count();
        let (scalars, sorted) = (self.batch_scalars(), self.sorted());
        if let Some(coef) = &mut out.coef {
            coef.fill(F::default());
        }
        let mut sums = PairMetrics::<f64>::default();
        let (mut chosen_count, mut rejected_count) = (0, 0);
        for i in 0..count {
            let (w, l) = self.members(i);
            let slopes = self.slopes(i, &scalars, &sorted);
            let reward = |s: Option<usize>| s.map_or(0.0, |s| self.reward(i, s, self.loss.length_normalized));
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
            for (s, slope) in [(w, slopes.chosen), (l, slopes.rejected)] {
                if let (Some(s), Some(coef)) = (s, &mut out.coef) {
                    coef[s] = F::round(coef[s].into() + slope / scalars.normalizer);
                }
            }
            sums.loss += slopes.loss;
            sums.chosen_reward += chosen_reward;
            sums.rejected_reward += rejected_reward;
            sums.accuracy += f64::from(chosen_reward > rejected_reward);
            sums.margin += margin;
            chosen_count += usize::from(w.is_some());
            rejected_count += usize::from(l.is_some());
        }
        let Some(metrics) = out.metrics else { return };
        let chosen_reward = sums.chosen_reward / chosen_count as f64;
        let rejected_reward = sums.rejected_reward / rejected_count as f64;
        *metrics = PairMetrics {
            loss: F::round(sums.loss / scalars.normalizer),
            chosen_reward: F::round(chosen_reward),
            rejected_reward: F::round(rejected_reward),
            margin: F::round(match self.pairs {
                Pairs::Unpaired { .. } => chosen_reward - rejected_reward,
                _ => sums.margin / count as f64,
            }),
            accuracy: F::round(sums.accuracy / count as f64),
        };
    }
}
