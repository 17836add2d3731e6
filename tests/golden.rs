//! Every golden case on the reference and on the CPU backend.
//!
//! Every case is run through all three stages, with LD-DPO's weights of rows and WPO's of pairs where it has them.
//! `DPO_GOLDEN_DIR` names a further folder of vectors to run.

mod common;

use std::io::Write;
use std::path::Path;

use common::golden::{Case, Element, Golden, Tensors, splitmix};
use common::judge::Judge;
use common::tolerance::gradient::{Coefficient, stored};
use common::tolerance::pair_arguments::PairArguments;
use common::tolerance::precision::{self, Precision};
use common::tolerance::promise::Promise;
use common::tolerance::sequence::Uncertain;
use common::{bits, widen};
use dpo_kernels::Coef as BackwardCoef;
use dpo_kernels::cpu::BackwardInputs;
use dpo_kernels::loss::{PairInputs, Term};
use dpo_kernels::{
    Forward, HostBatch, IGNORE_INDEX, LabelAlignment, Logit, Logps, PairLoss, PairOutputs, TokenMetrics,
    Transform, cpu, reference,
};
use half::{bf16, f16};

/// The vectors are ordinary numbers, so that their well-conditioned results can be held to more than the worst case.
const REFERENCE: Precision =
    Precision { promise: Some(Promise { relative: 1e-12, gradient: 1e-12 }), ..precision::REFERENCE };
const CPU: Precision =
    Precision { promise: Some(Promise { relative: 2e-6, gradient: 1e-6 }), ..precision::CPU };

const NO_TRANSFORM: Transform = Transform { scale: 1.0, softcap: None, valid_vocab: None };

#[test]
fn golden() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into();
    let folders = [Some(here), std::env::var_os("DPO_GOLDEN_DIR")];

    let mut judge = Judge::default();
    let (mut total, mut passed) = (0, 0);
    for folder in folders.into_iter().flatten() {
        let golden = Golden::open(Path::new(&folder));
        assert!(!golden.cases.is_empty(), "{}: no cases", folder.display());
        total += golden.cases.len();
        for case in &golden.cases {
            let tensors = golden.tensors(case);
            let failures = judge.failures.len();
            match case.dtype.as_str() {
                "f32" => run::<f32>(case, &tensors, &mut judge),
                "f16" => run::<f16>(case, &tensors, &mut judge),
                "bf16" => run::<bf16>(case, &tensors, &mut judge),
                other => judge.failures.push(format!("{}: dtype {other}", case.name)),
            }
            passed += usize::from(judge.failures.len() == failures);
        }
    }

    // Not println!, which the test harness keeps to itself unless the test fails.
    writeln!(std::io::stdout().lock(), "golden: {passed} of {total} cases passed").unwrap();
    println!("largest errors:\n{}", judge.summary());
    assert!(judge.failures.is_empty(), "{} failures:\n{}", judge.failures.len(), judge.failures.join("\n"));
    assert_eq!(passed, total, "cases accounted for");
}

/// A case in the layout of its logits: `[sequences, len]` rows, where `len` counts the last row of `unshifted`, too.
struct Rows<'a, T> {
    case: &'a Case,
    tensors: &'a Tensors,
    name: &'a str,
    sequences: usize,
    len: usize,
    vocab: usize,
    alignment: LabelAlignment,
    labels: Vec<i32>,
    logits: Vec<T>,
}

impl<'a, T: Element + Logit + Into<f64>> Rows<'a, T> {
    fn new(case: &'a Case, tensors: &'a Tensors) -> Self {
        let unshifted = case.layout == "unshifted";
        let sequences = 2 * case.pairs;
        let len = case.len + usize::from(unshifted);
        Rows {
            case,
            tensors,
            name: &case.name,
            sequences,
            len,
            vocab: case.vocab,
            alignment: if unshifted { LabelAlignment::NextToken } else { LabelAlignment::Aligned },
            labels: tensors.required(if unshifted { "labels" } else { "targets" }),
            logits: case.logits(tensors),
        }
    }

    /// A tensor of one number per row.
    fn per_row(&self, name: &str) -> Option<Vec<f64>> {
        let values: Vec<f64> = self.tensors.get(name)?;
        // The last row of an unshifted sequence predicts nothing.
        let sequence =
            |s: &[f64]| (0..self.len).map(|t| s.get(t).copied().unwrap_or(0.0)).collect::<Vec<_>>();
        Some(values.chunks(self.case.len).flat_map(sequence).collect())
    }

    fn batch(&self) -> HostBatch<'static> {
        let batch = HostBatch::padded(self.sequences, self.len, self.vocab, self.alignment);
        let ld_alpha = self.case.ld_alpha.map_or(1.0, |alpha| alpha as f32);
        HostBatch { ld_alpha, ..batch }
    }

    /// The label that each row predicts.
    fn targets(&self) -> Vec<i32> {
        let shift = usize::from(self.alignment == LabelAlignment::NextToken);
        let sequences = self.labels.chunks(self.len);
        let target = |labels: &[i32], t: usize| labels.get(t + shift).copied().unwrap_or(IGNORE_INDEX as i32);
        sequences.flat_map(|labels| (0..self.len).map(|t| target(labels, t)).collect::<Vec<_>>()).collect()
    }

    /// The pairs in the order in which the vectors have their losses.
    fn order_of(&self, loss: &PairLoss) -> Vec<usize> {
        let n = self.case.pairs;
        let (logps, ref_logps): (Vec<f64>, Vec<f64>) =
            (self.tensors.required("logps"), self.tensors.required("ref_logps"));
        let mut order: Vec<usize> = (0..n).collect();
        match loss.terms()[0].kind.name() {
            "aot" => order.sort_by(|&i, &j| (logps[i] - logps[n + i]).total_cmp(&(logps[j] - logps[n + j]))),
            "aot_unpaired" => {
                order.sort_by(|&i, &j| (logps[i] - ref_logps[i]).total_cmp(&(logps[j] - ref_logps[j])));
            }
            _ => (),
        }
        order
    }

    /// What `backward` takes.
    fn coef<'c>(&self, logps: &'c Logps<f32>, sequences: &'c [f32]) -> BackwardCoef<'c, f32> {
        let tokens = self.case.ld_alpha.map(|_| &logps.token_weights[..]);
        BackwardCoef { sequences: Some(sequences), tokens, threshold: 0.0 }
    }

    /// What the logarithm of WPO's weight of a sequence may be off by.
    fn log_weight_error(&self, precision: &Precision, truth: &Logps<f64>, s: usize, log_weight: f64) -> f64 {
        let targets = self.targets();
        let bounds = precision.row(self.vocab, &NO_TRANSFORM);
        let rows = (s * self.len..(s + 1) * self.len).filter(|&row| targets[row] != IGNORE_INDEX as i32);
        let errors: Vec<f64> =
            rows.map(|row| bounds.token(truth.logsumexp[row], truth.token_logps[row]).error).collect();
        bounds.sequence_log_weight(errors.iter().sum::<f64>() / errors.len().max(1) as f64, log_weight)
    }

    /// Bounds of the sequence log-probs, from the truth of their rows.
    fn uncertain(&self, precision: &Precision, truth: &Logps<f64>) -> Vec<Uncertain> {
        let (targets, weights) = (self.targets(), &truth.token_weights);
        let bounds = precision.row(self.vocab, &NO_TRANSFORM);
        let token = |row: usize| bounds.token(truth.logsumexp[row], truth.token_logps[row]) * weights[row];
        let sequence = |s: usize| {
            let rows = (s * self.len..(s + 1) * self.len).filter(|&row| targets[row] != IGNORE_INDEX as i32);
            precision.sequence(rows.map(token), truth.logps[s])
        };
        (0..self.sequences).map(sequence).collect()
    }
}

fn run<T: Element + Logit + Into<f64>>(case: &Case, tensors: &Tensors, judge: &mut Judge) {
    let rows = Rows::<T>::new(case, tensors);
    let batch = rows.batch();
    let labels = rows.labels[..].into();
    let in_f64 = reference::logps(&batch, &rows.logits, labels).unwrap();
    let mut in_f32 = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
    cpu::logps(&batch, &rows.logits, labels, &mut in_f32).unwrap();
    // What a folder of vectors leaves out, the reference stands for.
    let truth = Logps {
        logps: tensors.get("logps").unwrap_or_else(|| in_f64.logps.clone()),
        token_logps: rows.per_row("per_token_logps").unwrap_or_else(|| in_f64.token_logps.clone()),
        logsumexp: rows.per_row("lse").unwrap_or_else(|| in_f64.logsumexp.clone()),
        token_weights: in_f64.token_weights.clone(),
        ..Logps::default()
    };
    judge_logps(&REFERENCE, &rows, &truth, &in_f64, judge);
    judge_logps(&CPU, &rows, &truth, &widen_logps(&in_f32), judge);

    let logps = LogProbs { truth, in_f64, in_f32 };
    let loss = case.pair_loss();
    let loss = if case.use_weighting { loss.with_wpo_weights() } else { loss };
    let coef = pair_loss_and_backward(&rows, &loss, &logps, judge);
    layouts_agree(&rows, &logps.in_f32, &coef, judge);
}

/// `logps`, as the vectors and both backends have it.
struct LogProbs {
    truth: Logps<f64>,
    in_f64: Logps<f64>,
    in_f32: Logps<f32>,
}

fn judge_logps<T: Element + Logit + Into<f64>>(
    precision: &Precision,
    rows: &Rows<'_, T>,
    truth: &Logps<f64>,
    found: &Logps<f64>,
    judge: &mut Judge,
) {
    let name = rows.name;
    let bounds = precision.row(rows.vocab, &NO_TRANSFORM);
    let logsumexp = |row: usize| bounds.logsumexp(truth.logsumexp[row]);
    // The vectors' log-probs are differences, z − logsumexp, which lose what is below the last bit of those.
    let token = |row: usize| {
        let of_vectors = f64::EPSILON * truth.logsumexp[row].abs().max(1.0);
        bounds.token(truth.logsumexp[row], truth.token_logps[row]).error + of_vectors
    };
    let label = |quantity: &str| format!("{}: {quantity}", precision.backend);
    judge.all_close(&label("logsumexp"), name, &found.logsumexp, &truth.logsumexp, logsumexp);
    judge.all_close(&label("token logps"), name, &found.token_logps, &truth.token_logps, token);
    let uncertain = rows.uncertain(precision, truth);
    let bound = |s: usize| precision.logp(truth.logps[s], uncertain[s]);
    judge.all_close(&label("logps"), name, &found.logps, &truth.logps, bound);
}

fn widen_logps(logps: &Logps<f32>) -> Logps<f64> {
    let logsumexp = widen(&logps.logsumexp).into_iter().zip(widen(&logps.logsumexp_residual));
    Logps {
        logps: widen(&logps.logps),
        scored: logps.scored.clone(),
        token_logps: widen(&logps.token_logps),
        logsumexp: logsumexp.map(|(value, residual)| value + residual).collect(),
        logsumexp_residual: Vec::new(),
        status: logps.status,
        ..Logps::default()
    }
}

fn widen_pairs(pairs: &PairOutputs<f32>) -> PairOutputs<f64> {
    let mut wide = PairOutputs {
        pair_losses: widen(&pairs.pair_losses),
        chosen_rewards: widen(&pairs.chosen_rewards),
        rejected_rewards: widen(&pairs.rejected_rewards),
        margins: widen(&pairs.margins),
        coef: widen(&pairs.coef),
        ..PairOutputs::default()
    };
    wide.metrics.loss = f64::from(pairs.metrics.loss);
    wide
}

/// The coefficients of `backward`, by sequence: the vectors', each backend's, and how far the backends' may be off.
struct Coef {
    truth: Vec<f64>,
    in_f64: Vec<f64>,
    in_f32: Vec<f32>,
    /// Of the reference and of the CPU backend.
    bounds: [Vec<f64>; 2],
}

/// What the vectors say, but for three cases: the limit where they record a peer's NaN, in DiscoPOP's e⁻ᶻ σ(z/τ) at
/// z = −1000; 0 where they have SFT's mean over no token; and NaN where they have the slope of a hinge whose z is NaN.
struct Recorded {
    loss: f64,
    pair_losses: Option<Vec<f64>>,
    coef: Option<Vec<f64>>,
    dlogits: Option<Vec<f64>>,
}

impl Recorded {
    fn of<T: Element + Logit + Into<f64>>(rows: &Rows<'_, T>, loss: &PairLoss) -> Self {
        let Rows { case, tensors, .. } = rows;
        if case.name == "nonfinite_discopop_overflow" {
            // −log σ(z), of slope −1.
            let loss = 1000.0;
            return Recorded {
                loss,
                pair_losses: Some(vec![loss]),
                coef: Some(vec![-case.beta, case.beta]),
                dlogits: None,
            };
        }
        if case.name == "nonfinite_both_target_neginf_hinge" {
            return Recorded {
                loss: f64::NAN,
                pair_losses: Some(vec![f64::NAN; case.pairs]),
                coef: Some(vec![f64::NAN; rows.sequences]),
                dlogits: None,
            };
        }
        // Of SFT, TRL has no pair losses, and its derivatives by tokens alone.
        let sft = loss.terms().iter().any(|term| term.kind.counts_chosen_tokens());
        let of_tokens = || {
            let (dtoken, targets) = (rows.per_row("dtoken")?, rows.targets());
            let scored = |s: usize| {
                (s * rows.len..(s + 1) * rows.len).find(|&row| targets[row] != IGNORE_INDEX as i32)
            };
            Some((0..rows.sequences).map(|s| scored(s).map_or(0.0, |row| dtoken[row])).collect())
        };
        Recorded {
            loss: if case.name == "nonfinite_sft_empty" { 0.0 } else { case.loss },
            pair_losses: if sft { None } else { tensors.get("pair_loss") },
            coef: if sft { of_tokens() } else { tensors.get("dlogps") },
            dlogits: tensors.get("dlogits"),
        }
    }
}

/// `pair_loss` and `backward`. Returns the CPU backend's coefficients.
fn pair_loss_and_backward<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    loss: &PairLoss,
    log_probs: &LogProbs,
    judge: &mut Judge,
) -> Vec<f32> {
    let Rows { case, tensors, .. } = rows;
    let LogProbs { truth, in_f64, in_f32 } = log_probs;
    let batch = rows.batch();
    let labels = rows.labels[..].into();
    let scored = &in_f64.scored;
    let lengths: Option<Vec<u32>> =
        tensors.get::<i32>("completion_len").map(|lengths| lengths.into_iter().map(|n| n as u32).collect());
    let length = |s: usize| f64::from(lengths.as_ref().map_or(scored[s], |lengths| lengths[s]).max(1));

    // The reference log-probs, and what there is of error in them.
    let true_ref: Vec<f64> = tensors.get("ref_logps").unwrap_or_else(|| vec![0.0; rows.sequences]);
    let (ref_f64, ref_f32, ref_uncertain) = match case.reference.as_str() {
        "zero" => (None, None, [None, None]),
        "logps" => {
            let ref_f32: Vec<f32> = true_ref.iter().map(|&logp| logp as f32).collect();
            (Some(true_ref.clone()), Some(ref_f32), [None, None])
        }
        _ => {
            let ref_logits = case.ref_logits::<T>(tensors).expect("ref_logits");
            let ref_f64 = reference::logps(&batch, &ref_logits, labels).unwrap();
            let mut ref_f32 = Logps::default();
            cpu::logps(&batch, &ref_logits, labels, &mut ref_f32).unwrap();
            let uncertain = [&REFERENCE, &CPU].map(|precision| Some(rows.uncertain(precision, &ref_f64)));
            if ref_logits.iter().map(|z| z.pattern()).eq(rows.logits.iter().map(|z| z.pattern())) {
                let same = bits(&ref_f32.logps) == bits(&in_f32.logps);
                judge.check(same, || format!("{}: the logps of equal logits differ", rows.name));
            }
            (Some(ref_f64.logps), Some(ref_f32.logps), uncertain)
        }
    };

    let log_weights = in_f64
        .metrics
        .as_ref()
        .filter(|_| case.use_weighting)
        .map(|metrics| &metrics.sequence_log_weights[..]);
    let log_weights_f32 = in_f32
        .metrics
        .as_ref()
        .filter(|_| case.use_weighting)
        .map(|metrics| &metrics.sequence_log_weights[..]);

    let inputs_f64 = PairInputs {
        ref_logps: ref_f64.as_deref(),
        lengths: lengths.as_deref(),
        sequence_log_weights: log_weights,
        ..PairInputs::default()
    };
    let inputs_f32 = PairInputs {
        ref_logps: ref_f32.as_deref(),
        lengths: lengths.as_deref(),
        sequence_log_weights: log_weights_f32,
        ..PairInputs::default()
    };
    let loss = if ref_f64.is_some() { loss } else { &loss.without_reference() };
    let evaluate =
        |logps: &[f64]| reference::pair_loss(&batch, logps, Some(scored), &inputs_f64, loss).unwrap();
    let found_f64 = evaluate(&in_f64.logps);
    let mut found_f32 = PairOutputs::default();
    cpu::pair_loss(&batch, &in_f32.logps, Some(scored), &inputs_f32, loss, &mut found_f32).unwrap();
    fused_agrees(rows, &inputs_f32, loss, in_f32, judge);

    let same_policy = ref_f32.as_ref().is_some_and(|ref_logps| bits(ref_logps) == bits(&in_f32.logps));
    if same_policy && loss.terms() == PairLoss::sigmoid(case.beta).unwrap().terms() {
        let rewards = found_f32.chosen_rewards.iter().chain(&found_f32.rejected_rewards);
        judge.check(rewards.copied().all(|r| r == 0.0), || format!("{}: rewards are not 0", rows.name));
        let ln_2 = std::f32::consts::LN_2;
        judge.check(found_f32.metrics.loss == ln_2, || format!("{}: the loss is not ln 2", rows.name));
    }

    let recorded = Recorded::of(rows, loss);
    let true_coef = recorded.coef.clone().unwrap_or_else(|| found_f64.coef.clone());
    let arguments = PairArguments {
        batch: &batch,
        loss,
        inputs: PairInputs { ref_logps: ref_f64.as_ref().map(|_| &true_ref[..]), ..inputs_f64 },
        logps: &truth.logps,
        scored,
    };
    let bounds =
        [(&REFERENCE, &found_f64, &ref_uncertain[0]), (&CPU, &widen_pairs(&found_f32), &ref_uncertain[1])]
            .map(|(precision, found, ref_uncertain)| {
                // Given reference log-probs have no error, but a size that may cancel.
                let given = |s: usize| Uncertain { error: 0.0, scale: true_ref[s].abs() };
                let of_ref = |s: usize| ref_uncertain.as_ref().map_or(given(s), |uncertain| uncertain[s]);
                let logps = rows.uncertain(precision, truth);
                let log_ratios: Vec<Uncertain> =
                    logps.iter().enumerate().map(|(s, &logp)| logp + of_ref(s)).collect();
                let mut bounds = precision.pair_loss(&arguments, &log_ratios, precision.unit);
                // The weight is exp of a sum of numbers, whose errors are relative ones in it.
                let off_by = |s: usize| {
                    log_weights.map_or(0.0, |weights| rows.log_weight_error(precision, truth, s, weights[s]))
                };
                for i in 0..case.pairs {
                    let (w, l) = (i, case.pairs + i);
                    let relative = off_by(w) + off_by(l);
                    bounds.pair_losses[i] += relative * found.pair_losses[i].abs();
                    for s in [w, l] {
                        bounds.coef[s] +=
                            relative * found.coef[s].abs() + oracle_error(loss) / case.pairs as f64;
                    }
                }
                judge_pairs(precision, rows, &length, loss, found, &recorded, &bounds, judge);
                bounds.coef
            });

    let in_f32_coef = found_f32.coef.clone();
    let coef = Coef { truth: true_coef, in_f64: found_f64.coef, in_f32: found_f32.coef, bounds };
    gradients(rows, &coef, log_probs, &recorded, judge);
    in_f32_coef
}

/// What the vectors lack in saturated tails: torch derives a sigmoid y by y(1 − y), which is off by some units of the
/// last place of 1.
fn oracle_error(loss: &PairLoss) -> f64 {
    let slope_of_sigmoid = |term: &Term| match term.kind.name() {
        "apo_zero" | "apo_down" | "exo_pair" => 1.0,
        "discopop" => 1.0 / term.parameters[0],
        _ => 0.0,
    };
    loss.terms().iter().map(|term| 4.0 * f64::EPSILON * term.beta * slope_of_sigmoid(term)).sum()
}

#[allow(clippy::too_many_arguments)]
fn judge_pairs<T: Element + Logit + Into<f64>>(
    precision: &Precision,
    rows: &Rows<'_, T>,
    length: &dyn Fn(usize) -> f64,
    loss: &PairLoss,
    found: &PairOutputs<f64>,
    recorded: &Recorded,
    bounds: &PairOutputs<f64>,
    judge: &mut Judge,
) {
    let Rows { case, tensors, name, .. } = rows;
    let label = |quantity: &str| format!("{}: {quantity}", precision.backend);

    if let Some(mut rewards) = tensors.get::<f64>("rewards") {
        if loss.length_normalized() {
            // TRL reports β·log-ratio also where the loss divides it by a length.
            rewards.iter_mut().enumerate().for_each(|(s, reward)| *reward /= length(s));
        }
        let (chosen, rejected) = rewards.split_at(case.pairs);
        let margins: Vec<f64> = chosen.iter().zip(rejected).map(|(w, l)| w - l).collect();
        let rewards = label("rewards");
        judge.all_close(&rewards, name, &found.chosen_rewards, chosen, |i| bounds.chosen_rewards[i]);
        judge.all_close(&rewards, name, &found.rejected_rewards, rejected, |i| bounds.rejected_rewards[i]);
        judge.all_close(&label("margins"), name, &found.margins, &margins, |i| bounds.margins[i]);
    }

    if let Some(pair_losses) = &recorded.pair_losses {
        // TRL gives the losses of the sorting ones by rank.
        let order = rows.order_of(loss);
        let [found, bounds] = [&found.pair_losses, &bounds.pair_losses]
            .map(|values| order.iter().map(|&i| values[i]).collect::<Vec<f64>>());
        judge.all_close(&label("pair losses"), name, &found, pair_losses, |i| bounds[i]);
    }
    let loss = (found.metrics.loss, recorded.loss);
    judge.close(&label("loss"), || name.to_string(), loss.0, loss.1, bounds.metrics.loss);
    if let Some(dlogps) = &recorded.coef {
        judge.all_close(&label("coef"), name, &found.coef, dlogps, |s| bounds.coef[s]);
    }
}

/// `forward` gives what `logps` and `pair_loss` give in two calls.
fn fused_agrees<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    inputs: &PairInputs<'_, f32>,
    loss: &PairLoss,
    logps: &Logps<f32>,
    judge: &mut Judge,
) {
    let batch = rows.batch();
    let mut fused = Forward::default();
    cpu::forward(&batch, &rows.logits, rows.labels[..].into(), inputs, loss, &mut fused).unwrap();
    let mut alone = PairOutputs::default();
    cpu::pair_loss(&batch, &logps.logps, Some(&logps.scored), inputs, loss, &mut alone).unwrap();
    let same = bits(&fused.logps.logps) == bits(&logps.logps)
        && bits(&fused.pairs.pair_losses) == bits(&alone.pair_losses)
        && bits(&fused.pairs.coef) == bits(&alone.coef)
        && bits(&[fused.pairs.metrics.loss]) == bits(&[alone.metrics.loss]);
    judge.check(same, || format!("{}: forward differs from its two stages", rows.name));
}

/// `backward` of both backends with their coefficients.
fn gradients<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    coef: &Coef,
    log_probs: &LogProbs,
    recorded: &Recorded,
    judge: &mut Judge,
) {
    let LogProbs { truth, in_f64, in_f32 } = log_probs;
    let (name, labels, batch) = (rows.name, rows.labels[..].into(), &rows.batch());
    let of_f64 = BackwardCoef {
        sequences: Some(&coef.in_f64[..]),
        tokens: rows.case.ld_alpha.map(|_| &in_f64.token_weights[..]),
        threshold: 0.0,
    };
    let found_f64 = reference::backward(batch, &rows.logits, labels, &in_f64.logsumexp, of_f64, 1.0).unwrap();
    let mut found_f32 = vec![T::from_f32(f32::NAN); rows.logits.len()];
    let of_f32 = rows.coef(in_f32, &coef.in_f32);
    cpu::backward(batch, &rows.logits, labels, BackwardInputs::new(in_f32, of_f32), &mut found_f32).unwrap();
    let found_f32: Vec<f64> = found_f32.into_iter().map(Into::into).collect();

    // c_s by row, with its bounds. LD-DPO's weight of the row is exact, or rounded once, and so is the product.
    let coef_of = |backend: usize, row: usize| {
        let (s, weight) = (row / rows.len, in_f64.token_weights[row]);
        let value = coef.truth[s] * weight;
        let rounding = if weight == 1.0 { 0.0 } else { 2.0 * [REFERENCE, CPU][backend].rounding(value) };
        Coefficient { value, error: coef.bounds[backend][s] * weight + rounding }
    };
    let targets = rows.targets();
    // The error of an element before its last rounding; of what is promised, `at_most`.
    let error = |backend: usize, i: usize, at_most: f64| {
        let (row, column) = (i / rows.vocab, i % rows.vocab);
        if targets[row] == IGNORE_INDEX as i32 {
            return 0.0;
        }
        let bounds = [&REFERENCE, &CPU][backend].row(rows.vocab, &NO_TRANSFORM);
        let mut gradient = bounds.gradient(T::DTYPE, truth.logsumexp[row], coef_of(backend, row));
        gradient.at_most = at_most;
        gradient.element(rows.logits[i].into(), targets[row] == column as i32)
    };

    let expected = match &recorded.dlogits {
        Some(dlogits) => {
            let at_most = REFERENCE.gradient_promised(T::DTYPE, largest(dlogits));
            let bound = |i: usize| error(0, i, at_most * truth.logsumexp[i / rows.vocab].abs().max(1.0));
            judge.all_close("reference: dlogits", name, &found_f64, dlogits, bound);
            dlogits.clone()
        }
        // Too large to be stored. Once the reference agrees with the vectors' sums and samples, it stands for them.
        None => {
            let error = |row: usize| {
                let softmax =
                    REFERENCE.row(rows.vocab, &NO_TRANSFORM).softmax(T::DTYPE, truth.logsumexp[row]);
                let Coefficient { value, error } = coef_of(0, row);
                softmax * value.abs() + error
            };
            judge_sums(rows.case, rows.tensors, &found_f64, error, judge);
            found_f64
        }
    };
    let at_most = CPU.gradient_promised(T::DTYPE, largest(&expected));
    let bound = |i: usize| stored(T::DTYPE, expected[i], error(1, i, at_most));
    let quantity = format!("cpu: dlogits {}", T::DTYPE.name());
    judge.all_close(&quantity, name, &found_f32, &expected, bound);

    for (row, &target) in rows.targets().iter().enumerate() {
        if target == IGNORE_INDEX as i32 {
            let zero = found_f32[row * rows.vocab..][..rows.vocab].iter().all(|&g| g == 0.0);
            judge.check(zero, || format!("{name}: dlogits of ignored row {row} are not 0"));
        }
    }
}

/// The largest finite magnitude: the natural scale of a gradient.
fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|value| value.is_finite()).fold(0.0, |largest, value| value.abs().max(largest))
}

/// Sums and samples of a gradient that is too large to be stored. `error` bounds c_s's error and the softmax's,
/// each of which moves the gradients of a row by at most twice itself in sum: |c|·Σ|1[v = y] − p| ≤ 2|c|.
fn judge_sums(
    case: &Case,
    tensors: &Tensors,
    dlogits: &[f64],
    error: impl Fn(usize) -> f64,
    judge: &mut Judge,
) {
    let rows: Vec<&[f64]> = dlogits.chunks(case.vocab).collect();
    let weights: Vec<f64> = (0..case.vocab as u64)
        .map(|j| (splitmix(0xC0FFEE, j) >> 40) as f64 / (1 << 24) as f64 - 0.5)
        .collect();
    let of_rows = |f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> { rows.iter().map(|row| f(row)).collect() };
    let sums = [
        ("row_sum", of_rows(&|row| row.iter().sum())),
        ("row_l1", of_rows(&|row| row.iter().map(|g| g.abs()).sum())),
        ("row_l2", of_rows(&|row| row.iter().map(|g| g * g).sum::<f64>().sqrt())),
        ("row_wsum", of_rows(&|row| row.iter().zip(&weights).map(|(g, w)| g * w).sum())),
    ];
    for (quantity, found) in sums {
        let Some(expected) = tensors.get::<f64>(quantity) else { continue };
        let label = format!("reference: dlogits {quantity}");
        judge.all_close(&label, &case.name, &found, &expected, |row| 2.0 * error(row));
    }

    let [rows, columns] = ["sample_row", "sample_col"].map(|name| tensors.get::<i32>(name));
    let (Some(rows), Some(columns), Some(expected)) = (rows, columns, tensors.get::<f64>("sample_val"))
    else {
        return;
    };
    let places: Vec<(usize, usize)> =
        rows.into_iter().zip(columns).map(|(row, column)| (row as usize, column as usize)).collect();
    let found: Vec<f64> = places.iter().map(|(row, column)| dlogits[row * case.vocab + column]).collect();
    let bound = |i: usize| error(places[i].0);
    judge.all_close("reference: dlogits samples", &case.name, &found, &expected, bound);
}

/// The same rows padded, packed, with gaps between them, and in place: the same bits.
fn layouts_agree<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    logps: &Logps<f32>,
    coef: &[f32],
    judge: &mut Judge,
) {
    let padded = rows.batch();
    let coef = rows.coef(logps, coef);
    let starts: Vec<i32> = (0..=rows.sequences).map(|s| (s * rows.len) as i32).collect();
    let packed = HostBatch {
        ld_alpha: padded.ld_alpha,
        ..HostBatch::packed(&starts, rows.labels.len(), rows.vocab, rows.alignment)
    };
    const GAP: usize = 3;
    let strided = HostBatch { row_stride: rows.vocab + GAP, ..padded };
    // NaN in the gaps, so that reading one would show.
    let spread: Vec<T> = rows
        .logits
        .chunks(rows.vocab)
        .flat_map(|row| row.iter().copied().chain([T::from_f32(f32::NAN); GAP]))
        .collect();

    let labels = rows.labels[..].into();
    let pattern = |dlogits: &[T]| -> Vec<u64> { dlogits.iter().map(|g| g.pattern()).collect() };
    let mut first = rows.logits.clone();
    cpu::backward_in_place(&padded, &mut first, labels, BackwardInputs::new(logps, coef)).unwrap();
    let first = pattern(&first);

    for (layout, batch, logits) in
        [("padded", &padded, &rows.logits), ("packed", &packed, &rows.logits), ("strided", &strided, &spread)]
    {
        let mut again = Logps::default();
        cpu::logps(batch, logits, labels, &mut again).unwrap();
        let same = bits(&again.logps) == bits(&logps.logps)
            && bits(&again.token_logps) == bits(&logps.token_logps)
            && bits(&again.logsumexp) == bits(&logps.logsumexp)
            && bits(&again.logsumexp_residual) == bits(&logps.logsumexp_residual);
        judge.check(same, || format!("{}: log-probs of the {layout} layout differ", rows.name));

        const UNTOUCHED: f32 = 1.5;
        let mut dlogits = vec![T::from_f32(UNTOUCHED); logits.len()];
        cpu::backward(batch, logits, labels, BackwardInputs::new(logps, coef), &mut dlogits).unwrap();
        let (inside, gaps): (Vec<&[T]>, Vec<&[T]>) =
            dlogits.chunks(batch.row_stride).map(|row| row.split_at(rows.vocab)).unzip();
        let same = pattern(&inside.concat()) == first;
        judge.check(same, || format!("{}: dlogits of the {layout} layout differ", rows.name));
        let untouched = gaps.concat().iter().all(|gap| gap.to_f32() == UNTOUCHED);
        judge.check(untouched, || format!("{}: gaps of the {layout} layout were written", rows.name));
    }
}
