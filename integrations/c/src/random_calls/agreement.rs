//! Whether the results of an accepted call are those of the f64 reference, within the bounds of
//! tests/common/tolerance.

use dpo_kernels::loss::PairTensors;
use dpo_kernels::{DType, HostBatch, Logit, Logps, PairLoss, PairOutputs, Pairs, Sequences, reference};

use super::call::Results;
use super::description::{Description, WideInputs};
use super::memory::{Buffer, Memory};
use super::tolerance::gradient::{Coefficient, EntropyPart, stored};
use super::tolerance::pair_arguments::PairArguments;
use super::tolerance::precision::Precision;
use super::tolerance::sequence::Uncertain;
use super::verdict::{Truth, wide};
use crate::calls::Stage;
use crate::cpu::with_logit;
use crate::header::*;

/// One call and what it gave.
pub struct Agreement<'a> {
    pub description: &'a Description,
    pub memory: &'a Memory,
    pub results: &'a Results,
    pub precision: &'a Precision,
}

impl Agreement<'_> {
    /// Panics where a result is not as it should be.
    pub fn check(&self, truth: &Truth) {
        if let Some(truth) = &truth.head {
            return self.check_behind_head(truth);
        }
        let description = self.description;
        let batch = description.host_batch();
        with_logit!(description.dtype, T => {
            let logits: Vec<T> = description.logits.iter().map(|&z| T::from_f32(z)).collect();
            let mut status = None;
            if let Some(logps) = &truth.logps {
                self.logps(&batch, &logits, logps);
                status = Some(logps.status);
            }
            if let Some(loss) = &truth.loss {
                let mut found = status.unwrap_or_default();
                found.bad_pair_input = self.pairs(&batch, loss, truth.logps.as_ref());
                status = Some(found);
            }
            if let Some(status) = status {
                let found = self.read::<dpo_status>(self.results.status)[0];
                assert_eq!(dpo_kernels::Status::from(found), status, "status");
            }
            if let Some(gradient) = &truth.gradient {
                self.gradient(&batch, &logits, gradient, truth.logps.as_ref());
            }
        });
    }

    fn read<T: Copy>(&self, buffer: Option<Buffer>) -> Vec<T> {
        self.memory.read(buffer.expect("it was asked for"))
    }

    fn rows_of(&self, batch: &HostBatch<'_>, s: usize) -> std::ops::Range<usize> {
        match batch.sequences {
            Sequences::Padded { len, .. } => s * len..(s + 1) * len,
            Sequences::Packed { cu_seqlens, .. } => cu_seqlens[s] as usize..cu_seqlens[s + 1] as usize,
        }
    }

    /// The label that each row predicts, if it is scored, and the row's sequence.
    fn targets(&self, batch: &HostBatch<'_>) -> Vec<(usize, Option<i64>)> {
        let shift = usize::from(batch.label_alignment == dpo_kernels::LabelAlignment::NextToken);
        let mut targets = vec![];
        for s in 0..batch.sequences.count() {
            let rows = self.rows_of(batch, s);
            for row in rows.clone() {
                let label = (row + shift < rows.end).then(|| self.description.labels[row + shift]);
                targets.push((s, label.filter(|&label| label != batch.ignore_index)));
            }
        }
        targets
    }

    fn logps<T: Logit + Into<f64>>(&self, batch: &HostBatch<'_>, logits: &[T], truth: &Logps<f64>) {
        let results = self.results;
        let bounds = self.precision.row(batch.columns(), &batch.transform);
        let targets = self.targets(batch);
        let scored = |row: usize| targets[row].1.is_some();
        // Rows that are not scored are exactly 0.
        let of_scored = |row: usize, bound: f64| if scored(row) { bound } else { 0.0 };
        let token = |row: usize| match scored(row) {
            true => bounds.token(truth.logsumexp[row], truth.token_logps[row]),
            false => Uncertain::default(),
        };
        self.close("token_logps", results.token_logps, &truth.token_logps, |row| token(row).error);
        self.close("logsumexp", results.logsumexp, &truth.logsumexp, |row| {
            of_scored(row, bounds.rounded_logsumexp(truth.logsumexp[row]))
        });
        if let (Some(value), Some(residual)) = (results.logsumexp, results.logsumexp_residual) {
            let (values, residuals) = (self.memory.read::<f32>(value), self.memory.read::<f32>(residual));
            for (row, (value, residual)) in values.into_iter().zip(residuals).enumerate() {
                let whole = f64::from(value) + f64::from(residual);
                let bound = of_scored(row, bounds.logsumexp(truth.logsumexp[row]));
                near("logsumexp + residual", row, whole, truth.logsumexp[row], bound);
            }
        }
        self.close("token_weights", results.token_weights, &truth.token_weights, |_| 0.0);
        if let Some(scored) = results.scored {
            assert_eq!(self.memory.read::<u32>(scored), truth.scored, "scored");
        }
        self.close("logps", results.logps, &truth.logps, |s| {
            let weighted = self.rows_of(batch, s).map(|row| token(row) * truth.token_weights[row]);
            self.precision.sequence(weighted, truth.logps[s]).error
        });

        let metrics = truth.metrics.as_ref().expect("the reference gives them");
        let mean_logit = |row: usize| {
            let row = &logits[row * batch.row_stride..][..batch.columns()];
            let sizes = row.iter().map(|&z| batch.transform.apply(z.into()).abs());
            bounds.mean_logit(sizes.filter(|size| size.is_finite()).sum::<f64>() / batch.columns() as f64)
        };
        let sum_p2 = |row: usize| metrics.sum_p2[row] * bounds.sum_p2();
        self.close("entropy", results.entropy, &metrics.entropy, |row| of_scored(row, bounds.entropy()));
        self.close("correct", results.correct, &metrics.correct, |_| 0.0);
        self.close("mean_logit", results.mean_logit, &metrics.mean_logit, |row| {
            of_scored(row, mean_logit(row))
        });
        self.close("sum_p2", results.sum_p2, &metrics.sum_p2, |row| of_scored(row, sum_p2(row)));
        self.close(
            "sequence_log_weights",
            results.sequence_log_weights,
            &metrics.sequence_log_weights,
            |s| {
                let logps = self.rows_of(batch, s).map(|row| token(row).error).sum::<f64>();
                let logps = logps / f64::from(truth.scored[s].max(1));
                bounds.sequence_log_weight(logps, metrics.sequence_log_weights[s])
            },
        );
        let Some(mean) = results.mean else { return };
        let found = self.memory.read::<dpo_mean_token_metrics>(mean)[0];
        let rows: Vec<usize> = (0..targets.len()).filter(|&row| scored(row)).collect();
        assert_eq!(found.scored as usize, rows.len(), "mean.scored");
        let check = |name, found: f32, expected: f64, values: &[f64], bound: &dyn Fn(usize) -> f64| {
            let values = rows.iter().map(|&row| values[row]);
            let (_, own) = self.precision.mean_of_rows(values);
            let of_rows = rows.iter().map(|&row| bound(row)).sum::<f64>() / rows.len().max(1) as f64;
            near(name, 0, found.into(), expected, own + of_rows);
        };
        let means = &metrics.mean;
        let logsumexp = |row: usize| bounds.rounded_logsumexp(truth.logsumexp[row]);
        check("mean.entropy", found.entropy, means.entropy, &metrics.entropy, &|_| bounds.entropy());
        check("mean.accuracy", found.accuracy, means.accuracy, &metrics.correct, &|_| 0.0);
        check("mean.mean_logit", found.mean_logit, means.mean_logit, &metrics.mean_logit, &mean_logit);
        check("mean.logsumexp", found.logsumexp, means.logsumexp, &truth.logsumexp, &logsumexp);
        check("mean.sum_p2", found.sum_p2, means.sum_p2, &metrics.sum_p2, &sum_p2);
    }

    /// The pair stage computes in f64 from the log-probs that there are: its results are the reference's,
    /// rounded once. Returns the first pair with a bad input.
    fn pairs(&self, batch: &HostBatch<'_>, loss: &PairLoss, truth: Option<&Logps<f64>>) -> Option<usize> {
        let results = self.results;
        let (logps, scored) = match truth {
            None => (wide(&self.description.logps), self.description.scored.clone()),
            Some(truth) => (wide(&self.read(results.logps)), Some(truth.scored.clone())),
        };
        let inputs = WideInputs::of(&self.description.inputs);
        let (inputs, scored) = (inputs.inputs(), scored.as_deref());
        let expected = reference::pair_loss(batch, &logps, scored, &inputs, loss).expect("it was accepted");
        for (name, buffer, expected) in [
            ("pair_losses", results.pair_losses, &expected.pair_losses),
            ("chosen_rewards", results.chosen_rewards, &expected.chosen_rewards),
            ("rejected_rewards", results.rejected_rewards, &expected.rejected_rewards),
            ("margins", results.margins, &expected.margins),
            ("coef", results.coef, &self.coef(batch, loss, &inputs, &logps, scored, &expected)),
        ] {
            let found: Vec<f32> = self.read(buffer);
            assert_eq!(found.len(), expected.len(), "{name}");
            found
                .iter()
                .zip(expected)
                .enumerate()
                .for_each(|(at, (&found, &expected))| same(name, at, found, expected));
        }
        let found = self.read::<dpo_pair_metrics>(results.metrics)[0];
        let of = &expected.metrics;
        let counts = (found.pairs, found.chosen, found.rejected);
        assert_eq!(counts, (of.pairs, of.chosen, of.rejected), "counts of metrics");
        for (name, found, expected) in [
            ("metrics.loss", found.loss, of.loss),
            ("metrics.chosen_reward", found.chosen_reward, of.chosen_reward),
            ("metrics.rejected_reward", found.rejected_reward, of.rejected_reward),
            ("metrics.margin", found.margin, of.margin),
            ("metrics.accuracy", found.accuracy, of.accuracy),
        ] {
            same(name, 0, found, expected);
        }
        let status = reference::pair_status(batch, &logps, scored, &inputs, loss);
        status.expect("it was accepted").bad_pair_input
    }

    /// The coefficients, which are rounded after each pair that adds to them.
    fn coef(
        &self,
        batch: &HostBatch<'_>,
        loss: &PairLoss,
        inputs: &PairTensors<&[f64], &[u32], f64>,
        logps: &[f64],
        scored: Option<&[u32]>,
        expected: &PairOutputs<f64>,
    ) -> Vec<f64> {
        let Pairs::Indexed { .. } = batch.pairs else { return expected.coef.clone() };
        // Where nothing was counted, every length is 1.
        let ones = vec![1; logps.len()];
        let scored = scored.unwrap_or(&ones);
        let arguments = PairArguments { batch, loss, inputs: *inputs, logps, scored };
        let pairs = arguments.pairs();
        let mut coef = vec![0.0f32; logps.len()];
        for (&(w, l), (of_w, of_l)) in pairs.iter().zip(arguments.contributions(&pairs)) {
            for (s, contribution) in [(w, of_w), (l, of_l)] {
                let s = s.expect("indexed pairs have both");
                coef[s] = (f64::from(coef[s]) + contribution) as f32;
            }
        }
        wide(&coef)
    }

    fn gradient<T: Logit + Into<f64>>(
        &self,
        batch: &HostBatch<'_>,
        logits: &[T],
        truth: &[f64],
        logps: Option<&Logps<f64>>,
    ) {
        let Description { stage, gradient, .. } = self.description;
        let factored = *stage == Stage::Factored;
        let buffer = self.results.gradient.expect("it is written");
        let (found, before) = (self.memory.read::<T>(buffer), self.memory.read_before::<T>(buffer));
        let upstream = self.description.upstream();
        let (given, residual) = super::call::logsumexp(self.description);
        let bounds = self.precision.row(batch.columns(), &batch.transform);
        let mut first_nonfinite = None;
        for (row, (s, target)) in self.targets(batch).into_iter().enumerate() {
            let of_sequence = gradient.coef.as_ref().map_or(1.0, |coef| coef[s]);
            let narrow = gradient.token_coef.as_ref().map_or(of_sequence, |tokens| of_sequence * tokens[row]);
            let exact = gradient.token_coef.as_ref().map_or(1.0, |tokens| f64::from(tokens[row]));
            let (narrow, exact) = match factored {
                true => (1.0, 1.0),
                false => (f64::from(narrow * upstream), f64::from(of_sequence) * exact * f64::from(upstream)),
            };
            let logsumexp = match logps {
                Some(logps) => logps.logsumexp[row],
                None if gradient.residual => f64::from(given[row]) + f64::from(residual[row]),
                None => f64::from(given[row]),
            };
            // What rounding took from logsumexp, where that is not given: Σp is not 1 by so much.
            let lost = if factored || gradient.residual { 0.0 } else { f64::from(residual[row]).abs() };
            let threshold = f64::from(gradient.threshold.unwrap_or(0.0));
            // A coefficient that rounding takes over the threshold may be skipped or not.
            let unsure = !factored && (narrow.abs() <= threshold) != (exact.abs() <= threshold);
            let mut of_row = bounds.gradient(T::DTYPE, logsumexp, Coefficient { value: exact, error: 0.0 });
            of_row.entropy =
                gradient.entropy.as_ref().filter(|_| !factored).map(|[coef, entropy]| EntropyPart {
                    coef: f64::from(coef[row]) * f64::from(upstream),
                    entropy: entropy[row].into(),
                    error: 0.0,
                });
            // Both coefficients are 0, of which the reference of the entropies' part alone does not know. The row of a bad label is
            // NaN nevertheless.
            let has_label = target.is_some_and(|label| (0..batch.columns() as i64).contains(&label));
            let has_no_coef = narrow == 0.0 && of_row.entropy.is_some_and(|part| part.coef == 0.0);
            let start = row * batch.row_stride;
            for column in 0..batch.row_stride.min(found.len() - start) {
                let at = start + column;
                let (now, expected): (f64, f64) = (found[at].into(), truth[at]);
                if column >= batch.vocab {
                    let same = found[at].to_f32().to_bits() == before[at].to_f32().to_bits();
                    assert!(same, "gradient between rows [{at}]: {now}");
                    continue;
                }
                if !now.is_finite() {
                    first_nonfinite.get_or_insert(row as u32);
                }
                let Some(label) = target.filter(|_| column < batch.columns()) else {
                    assert_eq!(now, 0.0, "gradient of what is not scored [{at}]");
                    continue;
                };
                if has_label && has_no_coef {
                    assert_eq!(now, 0.0, "gradient of a row without coefficients [{at}]");
                    continue;
                }
                if unsure {
                    continue;
                }
                let of_entropy = of_row.entropy.map_or(0.0, |part| part.coef + part.entropy);
                if !of_entropy.is_finite() && (now.is_nan() || (expected.is_nan() && now.is_infinite())) {
                    // Where p is 0, or another infinity meets it.
                    continue;
                }
                if exact.is_infinite() {
                    // Its product with a p that is 0 in an f32, and not in an f64, is NaN.
                    assert_eq!(
                        now.is_finite(),
                        expected.is_finite(),
                        "gradient[{at}]: {now}, not {expected}"
                    );
                    continue;
                }
                let is_label = label == column as i64;
                let slope = batch.transform.slope(logits[at].into());
                let of_lost = if is_label { 2.0 * exact.abs() * slope * lost } else { 0.0 };
                let error = of_row.element(logits[at].into(), is_label) + of_lost;
                let bound = stored(T::DTYPE, expected, error);
                let overflows = expected.abs() + bound >= largest(T::DTYPE);
                if overflows && now.is_infinite() && now.signum() == expected.signum() {
                    continue;
                }
                near("gradient", at, now, expected, bound);
            }
        }
        if let (Stage::Backward, Some(buffer)) = (*stage, self.results.nonfinite_row) {
            let before = gradient.nonfinite_row.expect("it was asked for");
            let expected = first_nonfinite.map_or(before, |row| row.min(before));
            assert_eq!(self.memory.read::<u32>(buffer), [expected], "nonfinite_row");
        }
    }

    fn close(&self, name: &str, buffer: Option<Buffer>, expected: &[f64], bound: impl Fn(usize) -> f64) {
        let Some(buffer) = buffer else { return };
        let found: Vec<f32> = self.memory.read(buffer);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            near(name, at, found.into(), expected, bound(at));
        }
    }
}

/// The largest number of a type.
fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f32::MAX.into(),
        DType::F16 => half::f16::MAX.into(),
        DType::BF16 => half::bf16::MAX.into(),
    }
}

/// `found` is within `bound` of `expected`; what is not finite is the same.
fn near(name: &str, at: usize, found: f64, expected: f64, bound: f64) {
    let same = found == expected || (found.is_nan() && expected.is_nan());
    let close = expected.is_finite() && (found - expected).abs() <= bound;
    assert!(same || close, "{name}[{at}]: expected {expected:e} within {bound:e}, found {found:e}");
}

/// `found` is `expected`, rounded once.
fn same(name: &str, at: usize, found: f32, expected: f64) {
    let expected = expected as f32;
    let same = found == expected || (found.is_nan() && expected.is_nan());
    assert!(same, "{name}[{at}]: expected {expected:e}, found {found:e}");
}
