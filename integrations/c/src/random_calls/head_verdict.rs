//! What a call behind the language model's head is to answer: what the crate's function gives for the same arguments, to
//! the bit. That this is right is for the tests of the crate to say.

use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
use dpo_kernels::cpu::{BackwardInputs, Logsumexp};
use dpo_kernels::{
    Coef, DType, Forward, HostBatch, Labels, LmHead, LmHeadGradients, LmHeadPlan, Logit, Logps, PairLoss,
    PairOutputs, Result, TokenMetrics, Way,
};

use super::agreement::Agreement;
use super::description::{Description, Head};
use super::memory::Buffer;
use super::verdict::refusal;
use crate::calls::{self, Stage};
use crate::cpu::with_logit;
use crate::header::*;

/// What an accepted call is to give.
#[derive(Default)]
pub struct HeadTruth {
    plan: Option<LmHeadPlan>,
    logps: Option<Logps<f32>>,
    pairs: Option<PairOutputs<f32>>,
    gradients: Gradients,
}

/// Those that are not wanted are empty.
#[derive(Default)]
struct Gradients {
    hidden: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    nonfinite_row: Option<usize>,
}

/// The truth, or why the call is to be refused.
pub fn verdict(description: &Description) -> Result<HeadTruth> {
    let batch = description.host_batch();
    batch.validate()?;
    if batch.row_stride != batch.vocab {
        return Err(refusal("row_stride"));
    }
    let head = of(description);
    let has_loss = description.stage.has_loss() && head.has_loss;
    let loss = has_loss.then(|| description.loss.make()).transpose()?;
    with_logit!(description.dtype, T => {
        let typed = Typed::<T>::of(head);
        description.with_labels(|labels| Pass { description, batch, labels, head: typed.head() }.run(loss))
    })
}

/// log Σ exp of each row, in two numbers; zeros where there is none.
pub fn logsumexp(description: &Description) -> (Vec<f32>, Vec<f32>) {
    let rows = description.labels.len();
    let mut out = Logps::default();
    let batch = description.host_batch();
    let found = with_logit!(description.dtype, T => {
        let typed = Typed::<T>::of(of(description));
        let workspace = &mut LmHeadWorkspace::default();
        description.with_labels(|labels| lm_head::logps(&batch, &typed.head(), labels, &mut out, workspace))
    });
    match found {
        Ok(()) => (out.logsumexp, out.logsumexp_residual),
        Err(_) => (vec![0.0; rows], vec![0.0; rows]),
    }
}

fn of(description: &Description) -> &Head {
    description.head.as_ref().expect("the stage is behind one")
}

/// A head in its type.
struct Typed<T> {
    hidden_size: usize,
    hidden: Vec<T>,
    weight: Vec<T>,
    bias: Option<Vec<T>>,
}

impl<T: Logit> Typed<T> {
    fn of(head: &Head) -> Self {
        let typed = |values: &Vec<f32>| values.iter().map(|&value| T::from_f32(value)).collect();
        let Head { hidden_size, ref hidden, ref weight, ref bias, .. } = *head;
        Typed { hidden_size, hidden: typed(hidden), weight: typed(weight), bias: bias.as_ref().map(typed) }
    }

    fn head(&self) -> LmHead<'_, T> {
        let Typed { hidden_size, hidden, weight, bias } = self;
        LmHead { hidden_size: *hidden_size, hidden, weight, bias: bias.as_deref() }
    }
}

/// The arguments of the crate's functions.
struct Pass<'a, T> {
    description: &'a Description,
    batch: HostBatch<'a>,
    labels: Labels<'a>,
    head: LmHead<'a, T>,
}

impl<T: Logit> Pass<'_, T> {
    fn run(&self, loss: Option<PairLoss>) -> Result<HeadTruth> {
        let Pass { description, batch, labels, head } = self;
        let Stage::LmHead(call) = description.stage else { unreachable!("it is behind a head") };
        let budget = of(description).budget_bytes.unwrap_or(LmHeadWorkspace::DEFAULT_BUDGET_BYTES);
        let workspace = &mut LmHeadWorkspace::new(budget);
        let mut truth = HeadTruth::default();
        match call {
            calls::LmHead::Plan => {
                let wanted = of(description).gradients.unwrap_or_default();
                let of_row = LmHeadWorkspace::bytes_per_row(batch.columns(), head.hidden_size);
                truth.plan = Some(LmHeadPlan::new(batch, *labels, loss.as_ref(), wanted, of_row, budget)?);
            }
            calls::LmHead::Logps => {
                let mut out = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
                lm_head::logps(batch, head, *labels, &mut out, workspace)?;
                truth.logps = Some(out);
            }
            calls::LmHead::Forward => {
                let mut out = Forward::default();
                out.logps.metrics = Some(TokenMetrics::default());
                let inputs = description.inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number);
                let loss = loss.expect("a forward pass has one");
                truth.gradients = self.gradients(|gradients| {
                    lm_head::forward(batch, head, *labels, &inputs, &loss, &mut out, gradients, workspace)
                        .map(|status| status.nonfinite_row)
                })?;
                (truth.logps, truth.pairs) = (Some(out.logps), Some(out.pairs));
            }
            calls::LmHead::Backward => {
                let (values, residual) = logsumexp(description);
                let from = &description.gradient;
                let logsumexp =
                    Logsumexp { values: &values, residual: from.residual.then_some(&residual[..]) };
                let coef = Coef {
                    sequences: from.coef.as_deref(),
                    tokens: from.token_coef.as_deref(),
                    threshold: from.threshold.unwrap_or(0.0),
                };
                let inputs = BackwardInputs::new(logsumexp, coef);
                truth.gradients = self.gradients(|gradients| {
                    lm_head::backward(batch, head, *labels, inputs, gradients, workspace)
                        .map(|status| status.nonfinite_row)
                })?;
            }
        }
        Ok(truth)
    }

    /// The gradients that are wanted, as a function adds and writes them.
    fn gradients(
        &self,
        write: impl FnOnce(&mut LmHeadGradients<'_, T>) -> Result<Option<usize>>,
    ) -> Result<Gradients> {
        let Head { gradients, start, .. } = of(self.description);
        let wanted = gradients.unwrap_or_default();
        let len = |is_wanted: bool, len: usize| if is_wanted { len } else { 0 };
        let mut hidden = vec![T::from_f32(9.0); len(wanted.hidden, self.head.hidden.len())];
        let mut weight = vec![*start; len(wanted.weight, self.head.weight.len())];
        let mut bias = vec![*start; len(wanted.bias, self.batch.vocab)];
        let nonfinite_row = write(&mut LmHeadGradients {
            hidden: wanted.hidden.then_some(&mut hidden),
            weight: wanted.weight.then_some(&mut weight),
            bias: wanted.bias.then_some(&mut bias),
            upstream: self.description.upstream(),
        })?;
        let hidden = hidden.iter().map(|value| value.to_f32()).collect();
        Ok(Gradients { hidden, weight, bias, nonfinite_row })
    }
}

impl Agreement<'_> {
    /// Panics where a result is not that of the crate's function.
    pub fn check_behind_head(&self, truth: &HeadTruth) {
        let Agreement { description, memory, results, .. } = self;
        if let Some(plan) = &truth.plan {
            self.check_plan(plan);
        }
        if let Some(Logps { status, metrics, .. }) = &truth.logps {
            let logps = truth.logps.as_ref().expect("it is there");
            self.same("logps", results.logps, &logps.logps);
            self.same("token_logps", results.token_logps, &logps.token_logps);
            self.same("logsumexp", results.logsumexp, &logps.logsumexp);
            self.same("logsumexp_residual", results.logsumexp_residual, &logps.logsumexp_residual);
            self.same("token_weights", results.token_weights, &logps.token_weights);
            if let Some(scored) = results.scored {
                assert_eq!(memory.read::<u32>(scored), logps.scored, "scored");
            }
            let metrics = metrics.as_ref().expect("they were asked for");
            self.same("entropy", results.entropy, &metrics.entropy);
            self.same("correct", results.correct, &metrics.correct);
            self.same("mean_logit", results.mean_logit, &metrics.mean_logit);
            self.same("sum_p2", results.sum_p2, &metrics.sum_p2);
            self.same("log_weights", results.sequence_log_weights, &metrics.sequence_log_weights);
            // Records are numbers of 4 bytes.
            self.same("mean", results.mean, &words(&dpo_mean_token_metrics::from(metrics.mean)));
            self.same("status", results.status, &words(&dpo_status::from(*status)));
        }
        if let Some(pairs) = &truth.pairs {
            self.same("pair_losses", results.pair_losses, &pairs.pair_losses);
            self.same("chosen_rewards", results.chosen_rewards, &pairs.chosen_rewards);
            self.same("rejected_rewards", results.rejected_rewards, &pairs.rejected_rewards);
            self.same("margins", results.margins, &pairs.margins);
            self.same("coef", results.coef, &pairs.coef);
            self.same("metrics", results.metrics, &words(&dpo_pair_metrics::from(pairs.metrics)));
        }
        if !matches!(description.stage, Stage::LmHead(calls::LmHead::Forward | calls::LmHead::Backward)) {
            return;
        }
        let Gradients { hidden, weight, bias, nonfinite_row } = &truth.gradients;
        if let Some(buffer) = results.gradient_of_hidden {
            with_logit!(description.dtype, T => {
                let found = memory.read::<T>(buffer).into_iter().map(Logit::to_f32);
                same("gradients.hidden", &found.collect::<Vec<f32>>(), hidden);
            });
        }
        self.same("gradients.weight", results.gradient_of_weight, weight);
        self.same("gradients.bias", results.gradient_of_bias, bias);
        let is_given = of(description).gradients.is_some();
        if let (Some(buffer), Some(before), true) =
            (results.nonfinite_row, description.gradient.nonfinite_row, is_given)
        {
            let expected = nonfinite_row.map_or(before, |row| before.min(row as u32));
            assert_eq!(memory.read::<u32>(buffer), [expected], "nonfinite_row");
        }
    }

    fn check_plan(&self, plan: &LmHeadPlan) {
        let found = self.memory.read::<dpo_lm_head_plan>(self.results.plan.expect("it was asked for"))[0];
        let rows = |way| -> usize {
            plan.chunks().iter().filter(|chunk| chunk.way == way).map(|chunk| chunk.rows.len()).sum()
        };
        assert_eq!((found.chunks, found.most_rows), (plan.chunks().len(), plan.most_rows()), "plan");
        assert_eq!(found.chunk_bytes, plan.chunk_bytes(), "plan.chunk_bytes");
        assert_eq!(found.multiplied_rows, plan.multiplied_rows(), "plan.multiplied_rows");
        let found_rows =
            [found.logps_rows, found.frozen_weight_rows, found.whole_pairs_rows, found.two_sweeps_rows];
        let ways = [Way::Logps, Way::FrozenWeight, Way::WholePairs, Way::TwoSweeps];
        assert_eq!(found_rows, ways.map(rows), "rows of the plan by way");
        assert_eq!(found.weight_block_bytes == 0, self.description.dtype == DType::F32, "{found:?}");
    }

    /// What was asked for is the same to the bit.
    fn same(&self, name: &str, buffer: Option<Buffer>, expected: &[f32]) {
        let Some(buffer) = buffer else { return };
        same(name, &self.memory.read::<f32>(buffer), expected);
    }
}

/// A NaN is as good as another.
fn same(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{name}[{at}]: expected {expected:e}, found {found:e}");
    }
}

/// A record of the header as its words.
fn words<T>(record: &T) -> Vec<f32> {
    // SAFETY: the records of the header are numbers of 4 bytes.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<f32>(), size_of::<T>() / 4) }
        .to_vec()
}
