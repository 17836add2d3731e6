//! The walk over a case's outputs, with the f64 reference as the judge and the bounds of tests/common/tolerance.

use dpo_kernels::loss::PairTensors;
use dpo_kernels::{Coef, EntropyCoef, Logit, Logps, MetricsLevel, PairOutputs, TokenMetrics, reference};

use crate::case::Case;
use crate::executor::Outcome;
use crate::tolerance::gradient::{Coefficient, EntropyPart, stored};
use crate::tolerance::pair_arguments::PairArguments;
use crate::tolerance::precision::Precision;
use crate::tolerance::sequence::Uncertain;

/// The reference's results for a case.
pub struct Expected {
    logps: Logps<f64>,
    /// What `pair_loss` is given.
    inputs: PairTensors<Vec<f64>, Vec<u32>, f64>,
    pairs: PairOutputs<f64>,
    /// What `backward` multiplied with: `[S]`, and `[rows]`.
    coef: Vec<f64>,
    tokens: Option<Vec<f64>>,
    dlogits: Vec<f64>,
}

/// How far an outcome may be from the reference, and who answers for it.
struct Check<'a, T> {
    who: &'a str,
    case: &'a Case<T>,
    outcome: &'a Outcome<T>,
    precision: &'a Precision,
}

impl Expected {
    pub fn of<T: Logit + Into<f64>>(case: &Case<T>) -> Expected {
        let (batch, labels) = (case.batch(), case.labels());
        let logps = reference::logps(&batch, &case.logits, labels).unwrap();
        let upstream = f64::from(case.spec.upstream);
        let wide = |values: &[f32]| values.iter().map(|&value| value.into()).collect::<Vec<f64>>();
        let inputs = case.inputs().map(wide, <[u32]>::to_vec, f64::from);
        let given = inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number);
        let scored = Some(&logps.scored[..]);
        let pairs = reference::pair_loss(&batch, &logps.logps, scored, &given, &case.spec.loss).unwrap();
        let weights: Vec<f32> = logps.token_weights.iter().map(|&weight| weight as f32).collect();
        let tokens = case.token_factors(&weights).as_deref().map(wide);
        let own = case.own_coef.as_deref().map(wide);
        let coef = Coef {
            sequences: Some(own.as_deref().unwrap_or(&pairs.coef)),
            tokens: tokens.as_deref(),
            threshold: case.spec.threshold.into(),
        };
        let logsumexp = &logps.logsumexp;
        let mut dlogits =
            reference::backward(&batch, &case.logits, labels, logsumexp, coef, upstream).unwrap();
        if let Some(coef) = case.entropy_coef.as_deref().map(wide) {
            let entropy = &logps.metrics.as_ref().expect("the reference gives them").entropy;
            let entropy = EntropyCoef { coef: &coef, entropy };
            let part =
                reference::entropy_gradient(&batch, &case.logits, labels, logsumexp, entropy, upstream);
            dlogits.iter_mut().zip(part.unwrap()).for_each(|(dlogit, part)| *dlogit += part);
        }
        let coef = coef.sequences.expect("given above").to_vec();
        Expected { logps, inputs, pairs, coef, tokens, dlogits }
    }

    /// Compares an outcome with the reference, by the bounds; `who` and the case stand in every complaint.
    pub fn check<T: Logit + Into<f64>>(&self, who: &str, case: &Case<T>, outcome: &Outcome<T>) {
        let check = Check { who, case, outcome, precision: outcome.precision };
        let tokens = self.check_logps(&check);
        self.check_metrics(&check, &tokens);
        let coef_errors = self.check_pairs(&check, &self.sequences(&check, &tokens));
        self.check_gradient(&check, &coef_errors);
    }

    /// Tokens and logsumexp; returns the bounds of the log-probs.
    fn check_logps<T: Logit + Into<f64>>(&self, check: &Check<'_, T>) -> Vec<Uncertain> {
        let (found, expected) = (&check.outcome.logps, &self.logps);
        check.same("status", &found.status, &expected.status);
        check.same("scored", &found.scored, &expected.scored);
        let weights: Vec<f32> = expected.token_weights.iter().map(|&weight| weight as f32).collect();
        check.same("token_weights", &found.token_weights, &weights);
        let batch = check.case.batch();
        let row_of_case = check.precision.row(batch.columns(), &batch.transform);
        let bounds = check.case.targets().into_iter().enumerate().map(|(row, target)| {
            let (lse, logp) = (expected.logsumexp[row], expected.token_logps[row]);
            let (first, residual) = (found.logsumexp[row], found.logsumexp_residual[row]);
            if target.is_none() {
                check.same("a row that is not scored", &[found.token_logps[row], first, residual], &[0.0; 3]);
                return Uncertain::default();
            }
            let token = row_of_case.token(lse, logp);
            check.near("token_logps", row, found.token_logps[row].into(), logp, token.error);
            check.near("logsumexp", row, first.into(), lse, row_of_case.rounded_logsumexp(lse));
            let whole = f64::from(first) + f64::from(residual);
            check.near("logsumexp + residual", row, whole, lse, row_of_case.logsumexp(lse));
            token
        });
        bounds.collect()
    }

    /// Sequences; returns the bounds of their log-probs.
    fn sequences<T: Logit>(&self, check: &Check<'_, T>, tokens: &[Uncertain]) -> Vec<Uncertain> {
        let (found, expected) = (&check.outcome.logps, &self.logps);
        let bounds = check.case.cu_seqlens.windows(2).enumerate().map(|(s, bounds)| {
            let rows = bounds[0] as usize..bounds[1] as usize;
            let weighted = rows.map(|row| tokens[row] * expected.token_weights[row]);
            let sequence = check.precision.sequence(weighted, expected.logps[s]);
            check.near("logps", s, found.logps[s].into(), expected.logps[s], sequence.error);
            sequence
        });
        bounds.collect()
    }

    /// `pair_loss`; returns the bounds of the coefficients.
    fn check_pairs<T: Logit>(&self, check: &Check<'_, T>, logps: &[Uncertain]) -> Vec<f64> {
        let batch = check.case.batch();
        let arguments = PairArguments {
            batch: &batch,
            loss: &check.case.spec.loss,
            inputs: self.inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number),
            logps: &self.logps.logps,
            scored: &self.logps.scored,
        };
        let bounds = check.precision.pair_loss(&arguments, logps, 0.0);
        let (found, expected) = (&check.outcome.pairs, &self.pairs);
        for (what, found, expected, bounds) in [
            ("chosen_rewards", &found.chosen_rewards, &expected.chosen_rewards, &bounds.chosen_rewards),
            (
                "rejected_rewards",
                &found.rejected_rewards,
                &expected.rejected_rewards,
                &bounds.rejected_rewards,
            ),
            ("margins", &found.margins, &expected.margins, &bounds.margins),
            ("pair_losses", &found.pair_losses, &expected.pair_losses, &bounds.pair_losses),
            ("coef", &found.coef, &expected.coef, &bounds.coef),
        ] {
            for (at, ((&found, &expected), &bound)) in found.iter().zip(expected).zip(bounds).enumerate() {
                check.near(what, at, found.into(), expected, bound);
            }
        }
        let (found, expected, of) = (&found.metrics, &expected.metrics, &bounds.metrics);
        let counts = |pairs, chosen, rejected| format!("{pairs} pairs, {chosen} chosen, {rejected} rejected");
        check.same(
            "counts of the metrics",
            &counts(found.pairs, found.chosen, found.rejected),
            &counts(expected.pairs, expected.chosen, expected.rejected),
        );
        for (what, found, expected, bound) in [
            ("metrics.loss", found.loss, expected.loss, of.loss),
            ("metrics.chosen_reward", found.chosen_reward, expected.chosen_reward, of.chosen_reward),
            ("metrics.rejected_reward", found.rejected_reward, expected.rejected_reward, of.rejected_reward),
            ("metrics.margin", found.margin, expected.margin, of.margin),
            ("metrics.accuracy", found.accuracy, expected.accuracy, of.accuracy),
        ] {
            check.near(what, 0, found.into(), expected, bound);
        }
        bounds.coef
    }

    /// Token metrics.
    fn check_metrics<T: Logit + Into<f64>>(&self, check: &Check<'_, T>, tokens: &[Uncertain]) {
        let spec = &check.case.spec;
        let Some(found) = &check.outcome.logps.metrics else {
            check.same("metrics", &spec.metrics, &MetricsLevel::None);
            return;
        };
        let expected = self.logps.metrics.as_ref().expect("the reference gives them");
        let batch = check.case.batch();
        let row_of_case = check.precision.row(batch.columns(), &batch.transform);
        for (row, target) in check.case.targets().iter().enumerate() {
            if target.is_none() {
                check.same("entropy of a row that is not scored", &found.entropy[row], &0.0);
            }
            let entropy = found.entropy[row].into();
            check.near("entropy", row, entropy, expected.entropy[row], row_of_case.entropy());
            if spec.metrics == MetricsLevel::Entropy {
                continue;
            }
            let (p2, expected_p2) = (found.sum_p2[row].into(), expected.sum_p2[row]);
            check.near("sum_p2", row, p2, expected_p2, expected_p2 * row_of_case.sum_p2());
            let logits = &check.case.logits[row * spec.row_stride..][..batch.columns()];
            let sizes = logits.iter().map(|&z| spec.transform.apply(z.into()).abs());
            let size = sizes.filter(|size| size.is_finite()).sum::<f64>() / batch.columns() as f64;
            let (mean, expected_mean) = (found.mean_logit[row].into(), expected.mean_logit[row]);
            check.near("mean_logit", row, mean, expected_mean, row_of_case.mean_logit(size));
            check.same("correct", &f64::from(found.correct[row]), &expected.correct[row]);
            if target.is_none() {
                check.same(
                    "metrics of a row that is not scored",
                    &[found.mean_logit[row], found.sum_p2[row]],
                    &[0.0; 2],
                );
            }
        }
        if spec.metrics == MetricsLevel::Entropy {
            return;
        }
        for (s, bounds) in check.case.cu_seqlens.windows(2).enumerate() {
            let rows = &tokens[bounds[0] as usize..bounds[1] as usize];
            let logps = rows.iter().map(|token| token.error).sum::<f64>();
            let logps = logps / f64::from(self.logps.scored[s].max(1));
            let weight = expected.sequence_log_weights[s];
            let bound = row_of_case.sequence_log_weight(logps, weight);
            check.near("sequence_log_weights", s, found.sequence_log_weights[s].into(), weight, bound);
        }
        self.check_means(check, found);
    }

    /// Means, of the rows as they were found.
    fn check_means<T: Logit>(&self, check: &Check<'_, T>, metrics: &TokenMetrics<f32>) {
        let TokenMetrics { entropy, correct, mean_logit, sum_p2, mean: means, .. } = metrics;
        let scored: Vec<bool> = check.case.targets().iter().map(Option::is_some).collect();
        let count = scored.iter().filter(|&&scored| scored).count();
        check.same("means.scored", &(means.scored as usize), &count);
        for (what, rows, found) in [
            ("means.entropy", entropy, means.entropy),
            ("means.accuracy", correct, means.accuracy),
            ("means.mean_logit", mean_logit, means.mean_logit),
            ("means.logsumexp", &check.outcome.logps.logsumexp, means.logsumexp),
            ("means.sum_p2", sum_p2, means.sum_p2),
        ] {
            let of_scored = rows.iter().zip(&scored).filter(|(_, scored)| **scored);
            let (mean, bound) = check.precision.mean_of_rows(of_scored.map(|(&metric, _)| metric.into()));
            check.near(what, 0, found.into(), mean, bound);
        }
    }

    /// `backward`, and what it must not touch.
    fn check_gradient<T: Logit + Into<f64>>(&self, check: &Check<'_, T>, coef_errors: &[f64]) {
        let (case, outcome, spec) = (check.case, check.outcome, &check.case.spec);
        let fill: f64 = if spec.gradient_phase.is_some() { 12345.0 } else { f64::NAN };
        let fill = T::from_f32(fill as f32).into();
        let (batch, targets) = (case.batch(), case.targets());
        let columns = batch.columns();
        let row_of_case = check.precision.row(columns, &batch.transform);
        let mut nonfinite_row = None;
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            for row in bounds[0] as usize..bounds[1] as usize {
                let factor =
                    self.tokens.as_ref().map_or(1.0, |tokens| tokens[row]) * f64::from(spec.upstream);
                let own_error = if case.own_coef.is_some() { 0.0 } else { coef_errors[s] };
                let coef = Coefficient { value: self.coef[s] * factor, error: own_error * factor.abs() };
                let mut gradient = row_of_case.gradient(T::DTYPE, self.logps.logsumexp[row], coef);
                gradient.factor = outcome.factored.then_some(T::DTYPE);
                gradient.entropy = case.entropy_coef.as_ref().map(|coef| EntropyPart {
                    coef: f64::from(coef[row]) * f64::from(spec.upstream),
                    entropy: self.logps.metrics.as_ref().expect("the reference gives them").entropy[row],
                    error: row_of_case.entropy(),
                });
                let start = row * spec.row_stride;
                let end = (start + spec.row_stride).min(case.logits.len());
                for at in start..end {
                    let (column, found, expected) =
                        (at - start, outcome.dlogits[at].into(), self.dlogits[at]);
                    if column >= spec.vocab {
                        check.near("dlogits between rows", at, found, fill, 0.0);
                        continue;
                    }
                    if !found.is_finite() {
                        nonfinite_row.get_or_insert(row);
                    }
                    let Some(target) = targets[row].filter(|_| column < columns) else {
                        check.near("dlogits not scored", at, found, 0.0, 0.0);
                        continue;
                    };
                    if outcome.factored && !coef.value.is_finite() {
                        // An infinity times a rounded 1 - p: NaN where `backward` has an infinity, or the other way round.
                        check.same("whether dlogits is finite", &found.is_finite(), &false);
                        continue;
                    }
                    let error = gradient.element(case.logits[at].into(), column == target);
                    check.near("dlogits", at, found, expected, stored(T::DTYPE, expected, error));
                }
            }
        }
        // The factored forward knows no coefficients.
        let nonfinite_row = nonfinite_row.filter(|_| !outcome.factored);
        check.same("gradient status", &outcome.gradient.nonfinite_row, &nonfinite_row);
    }
}

impl<T> Check<'_, T> {
    /// What is not finite must be the same thing: NaN, or the infinity of the same sign.
    fn near(&self, what: &str, at: usize, found: f64, expected: f64, bound: f64) {
        let Check { who, case, .. } = self;
        let same = found == expected || (found.is_nan() && expected.is_nan());
        assert!(
            same || (expected.is_finite() && (found - expected).abs() <= bound),
            "{who}: {what}[{at}]: expected {expected:e} within {bound:e}, found {found:e} in {:?}",
            case.spec
        );
    }

    fn same<V: PartialEq + std::fmt::Debug + ?Sized>(&self, what: &str, found: &V, expected: &V) {
        assert_eq!(found, expected, "{}: {what} in {:?}", self.who, self.case.spec);
    }
}
