//! Every golden case on the reference and on the CPU backend.
//!
//! A case whose loss is built in is run through all three floors. Of the others, floor 1 is compared with the
//! vectors, and floor 3 with the vectors' own ∂loss/∂(token log-prob) as coefficients; they count as not applicable.
//! `DPO_GOLDEN_DIR` names a further folder of vectors to run.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use common::golden::{Case, Element, Golden, Tensors, splitmix};
use common::tolerance::{CPU, Judge, PairBounds, Precision, REFERENCE, Side, Uncertain, rounding, short_exp};
use common::{bits, widen};
use dpo_kernels::batch::{IGNORE_INDEX, Logps, PairOutputs};
use dpo_kernels::{HostBatch, LabelAlignment, Logit, PairLoss, Pairs, cpu, reference};
use half::{bf16, f16};

#[test]
fn golden() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into();
    let folders = [Some(here), std::env::var_os("DPO_GOLDEN_DIR")];

    let mut judge = Judge::default();
    let (mut total, mut passed) = (0, 0);
    let mut not_applicable = BTreeMap::<String, Vec<String>>::new();
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
            match built_in_loss(case) {
                _ if judge.failures.len() > failures => (),
                Ok(_) => passed += 1,
                Err(reason) => not_applicable.entry(reason).or_default().push(case.name.clone()),
            }
        }
    }

    // Not println!, which the test harness keeps to itself unless the test fails.
    let mut stdout = std::io::stdout().lock();
    for (reason, names) in &not_applicable {
        writeln!(stdout, "golden: not applicable: {reason}: {}", names.join(", ")).unwrap();
    }
    let not_applicable: usize = not_applicable.values().map(Vec::len).sum();
    writeln!(stdout, "golden: {passed} cases passed, {not_applicable} not applicable").unwrap();
    drop(stdout);
    println!("largest errors:\n{}", judge.summary());
    assert!(judge.failures.is_empty(), "{} failures:\n{}", judge.failures.len(), judge.failures.join("\n"));
    assert_eq!(passed + not_applicable, total, "cases accounted for");
}

/// The loss of a case, or why this crate has none like it.
fn built_in_loss(case: &Case) -> Result<PairLoss, String> {
    let name = match case.loss_type.as_slice() {
        [name] if case.loss_weights == [1.0] => name.as_str(),
        several => return Err(not_built_in(&format!("loss {}", several.join(" + ")))),
    };
    if case.ld_alpha.is_some() {
        return Err(not_built_in("LD-DPO"));
    }
    if case.use_weighting {
        return Err(not_built_in(&format!("WPO weighting of loss {name}")));
    }
    if case.f_divergence_type != "reverse_kl" {
        return Err(not_built_in(&format!("{} of loss {name}", case.f_divergence_type)));
    }
    let loss = PairLoss::sigmoid(case.beta).unwrap();
    match name {
        // TRL 1.16 has dropped the label smoothing of its sigmoid loss; the vectors with it are a group of their own.
        "sigmoid" if case.group == "cdpo" => Ok(loss.with_label_smoothing(case.label_smoothing).unwrap()),
        "sigmoid" => Ok(loss),
        "sigmoid_norm" => Ok(loss.with_length_normalization()),
        _ => Err(not_built_in(&format!("loss {name}"))),
    }
}

fn not_built_in(what: &str) -> String {
    format!("{what} is not built in yet; floors 1 and 3 checked")
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
        let batch = HostBatch::padded(self.sequences, self.len, self.vocab);
        HostBatch { label_alignment: self.alignment, ..batch }
    }

    /// The label that each row predicts.
    fn targets(&self) -> Vec<i32> {
        let shift = usize::from(self.alignment == LabelAlignment::NextToken);
        let sequences = self.labels.chunks(self.len);
        let target = |labels: &[i32], t: usize| labels.get(t + shift).copied().unwrap_or(IGNORE_INDEX as i32);
        sequences.flat_map(|labels| (0..self.len).map(|t| target(labels, t)).collect::<Vec<_>>()).collect()
    }

    /// Bounds of the sequence log-probs, from the truth of their rows.
    fn uncertain(&self, precision: &Precision, truth: &Logps<f64>) -> Vec<Uncertain> {
        let targets = self.targets();
        let token = |row: usize| precision.token(self.vocab, truth.logsumexp[row], truth.token_logps[row]);
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
    let mut in_f32 = Logps::default();
    cpu::logps(&batch, &rows.logits, labels, &mut in_f32).unwrap();
    // What a folder of vectors leaves out, the reference stands for.
    let truth = Logps {
        logps: tensors.get("logps").unwrap_or_else(|| in_f64.logps.clone()),
        token_logps: rows.per_row("per_token_logps").unwrap_or_else(|| in_f64.token_logps.clone()),
        logsumexp: rows.per_row("lse").unwrap_or_else(|| in_f64.logsumexp.clone()),
        ..Logps::default()
    };
    judge_logps(&REFERENCE, &rows, &truth, &in_f64, judge);
    judge_logps(&CPU, &rows, &truth, &widen_logps(&in_f32), judge);

    let logps = Floor1 { truth, in_f64, in_f32 };
    let coef = match built_in_loss(case) {
        Ok(loss) => pair_loss(&rows, &loss, &logps, judge),
        Err(_) => given_coefficients(&rows, &logps, judge),
    };
    layouts_agree(&rows, &logps.in_f32, &coef, judge);
}

/// Floor 1, as the vectors and both backends have it.
struct Floor1 {
    truth: Logps<f64>,
    in_f64: Logps<f64>,
    in_f32: Logps<f32>,
}

/// Floor 3 of a loss that is not built in, with the vectors' coefficients. Returns those of the sequences.
fn given_coefficients<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    logps: &Floor1,
    judge: &mut Judge,
) -> Vec<f32> {
    if let Some(dtoken) = rows.per_row("dtoken") {
        // Every row as a sequence of its own, so that coefficients may differ from token to token.
        let starts: Vec<i32> = (0..=rows.labels.len() as i32).collect();
        let batch = HostBatch::packed(&starts, rows.labels.len(), rows.vocab);
        let batch = HostBatch { pairs: Pairs::None, ..batch };
        let coef = Coef {
            in_f64: dtoken.clone(),
            in_f32: dtoken.iter().map(|&c| c as f32).collect(),
            bounds: [&REFERENCE, &CPU].map(|p| dtoken.iter().map(|&c| p.rounding(c)).collect()),
            truth: dtoken,
        };
        gradients(rows, &batch, &rows.targets(), &coef, logps, judge);
    }
    let dlogps: Option<Vec<f64>> = rows.tensors.get("dlogps");
    dlogps.map_or(vec![1.0; rows.sequences], |dlogps| dlogps.iter().map(|&c| c as f32).collect())
}

fn judge_logps<T: Element + Logit + Into<f64>>(
    precision: &Precision,
    rows: &Rows<'_, T>,
    truth: &Logps<f64>,
    found: &Logps<f64>,
    judge: &mut Judge,
) {
    let name = rows.name;
    let logsumexp = |row: usize| precision.logsumexp(rows.vocab, truth.logsumexp[row]);
    let token = |row: usize| precision.token(rows.vocab, truth.logsumexp[row], truth.token_logps[row]).error;
    let label = |quantity: &str| format!("{}: {quantity}", precision.backend);
    judge.all_close(&label("logsumexp"), name, &found.logsumexp, &truth.logsumexp, logsumexp);
    judge.all_close(&label("token logps"), name, &found.token_logps, &truth.token_logps, token);
    // Of LD-DPO, the vectors' sums are weighted.
    if rows.case.ld_alpha.is_none() {
        let uncertain = rows.uncertain(precision, truth);
        let bound = |s: usize| precision.logp(truth.logps[s], uncertain[s]);
        judge.all_close(&label("logps"), name, &found.logps, &truth.logps, bound);
    }
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

/// The coefficients of floor 3: the vectors', each backend's, and how far the backends' may be off.
struct Coef {
    truth: Vec<f64>,
    in_f64: Vec<f64>,
    in_f32: Vec<f32>,
    /// Of the reference and of the CPU backend.
    bounds: [Vec<f64>; 2],
}

/// Floors 2 and 3 of a built-in loss. Returns the CPU backend's coefficients.
fn pair_loss<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    loss: &PairLoss,
    floor_1: &Floor1,
    judge: &mut Judge,
) -> Vec<f32> {
    let Rows { case, tensors, .. } = rows;
    let Floor1 { truth, in_f64, in_f32 } = floor_1;
    let batch = rows.batch();
    let labels = rows.labels[..].into();
    let lengths: Vec<u32> = match tensors.get::<i32>("completion_len") {
        Some(lengths) => lengths.into_iter().map(|n| n.max(1) as u32).collect(),
        None => in_f64.scored.iter().map(|&n| n.max(1)).collect(),
    };

    // The reference log-probs, and what there is of error in them.
    let true_ref: Vec<f64> = tensors.get("ref_logps").unwrap_or_else(|| vec![0.0; rows.sequences]);
    let (ref_f64, ref_f32, ref_uncertain) = match case.reference.as_str() {
        "zero" => (None, None, [None, None]),
        "logps" => {
            let ref_f32 = true_ref.iter().map(|&logp| logp as f32).collect();
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

    let found_f64 =
        reference::pair_loss(&batch, &in_f64.logps, ref_f64.as_deref(), Some(&lengths), loss).unwrap();
    let mut found_f32 = PairOutputs::default();
    cpu::pair_loss(&batch, &in_f32.logps, ref_f32.as_deref(), Some(&lengths), loss, &mut found_f32).unwrap();
    fused_agrees(rows, ref_f32.as_deref(), loss, in_f32, judge);

    if ref_f32.as_ref().is_some_and(|ref_logps| bits(ref_logps) == bits(&in_f32.logps)) {
        let rewards = found_f32.chosen_rewards.iter().chain(&found_f32.rejected_rewards);
        judge.check(rewards.copied().all(|r| r == 0.0), || format!("{}: rewards are not 0", rows.name));
        let ln_2 = std::f32::consts::LN_2;
        judge.check(found_f32.metrics.loss == ln_2, || format!("{}: the loss is not ln 2", rows.name));
    }

    let true_coef = tensors.get("dlogps").unwrap_or_else(|| found_f64.coef.clone());
    let bounds =
        [(&REFERENCE, &found_f64, &ref_uncertain[0]), (&CPU, &widen_pairs(&found_f32), &ref_uncertain[1])]
            .map(|(precision, found, ref_uncertain)| {
                let uncertain = rows.uncertain(precision, truth);
                let side = |s: usize| {
                    // Given reference log-probs have no error, but a size that may cancel.
                    let given = Uncertain { error: 0.0, scale: true_ref[s].abs() };
                    let of_ref = ref_uncertain.as_ref().map_or(given, |uncertain| uncertain[s]);
                    Side {
                        scale: if loss.length_normalized() {
                            case.beta / f64::from(lengths[s])
                        } else {
                            case.beta
                        },
                        logp: truth.logps[s],
                        ref_logp: true_ref[s],
                        uncertain: Uncertain {
                            error: uncertain[s].error + of_ref.error,
                            scale: uncertain[s].scale + of_ref.scale,
                        },
                    }
                };
                let bounds: Vec<PairBounds> = (0..case.pairs)
                    .map(|i| {
                        let epsilon = loss.label_smoothing();
                        PairBounds::new(precision, epsilon, case.pairs as f64, side(i), side(case.pairs + i))
                    })
                    .collect();
                judge_pairs(precision, rows, &lengths, loss, found, &bounds, judge);
                let (chosen, rejected) =
                    (bounds.iter().map(|b| b.chosen_coef), bounds.iter().map(|b| b.rejected_coef));
                chosen.chain(rejected).collect::<Vec<f64>>()
            });

    let in_f32_coef = found_f32.coef.clone();
    let coef = Coef { truth: true_coef, in_f64: found_f64.coef, in_f32: found_f32.coef, bounds };
    gradients(rows, &batch, &rows.labels, &coef, floor_1, judge);
    in_f32_coef
}

fn judge_pairs<T>(
    precision: &Precision,
    rows: &Rows<'_, T>,
    lengths: &[u32],
    loss: &PairLoss,
    found: &PairOutputs<f64>,
    bounds: &[PairBounds],
    judge: &mut Judge,
) {
    let Rows { case, tensors, name, .. } = rows;
    let label = |quantity: &str| format!("{}: {quantity}", precision.backend);

    if let Some(mut rewards) = tensors.get::<f64>("rewards") {
        if loss.length_normalized() {
            // TRL reports β·log-ratio also where the loss divides it by a length.
            rewards.iter_mut().zip(lengths).for_each(|(reward, &length)| *reward /= f64::from(length));
        }
        let (chosen, rejected) = rewards.split_at(case.pairs);
        let margins: Vec<f64> = chosen.iter().zip(rejected).map(|(w, l)| w - l).collect();
        let rewards = label("rewards");
        judge.all_close(&rewards, name, &found.chosen_rewards, chosen, |i| bounds[i].chosen_reward);
        judge.all_close(&rewards, name, &found.rejected_rewards, rejected, |i| bounds[i].rejected_reward);
        judge.all_close(&label("margins"), name, &found.margins, &margins, |i| bounds[i].margin);
    }

    if let Some(pair_losses) = tensors.get::<f64>("pair_loss") {
        judge.all_close(&label("pair losses"), name, &found.pair_losses, &pair_losses, |i| bounds[i].loss);
    }
    let expected = case.loss;
    // Pair losses are not negative, so that nothing cancels in their mean.
    let loss_bound = if bounds.iter().all(|b| b.loss_well_conditioned) {
        precision.relative * expected.abs() + precision.underflow
    } else {
        bounds.iter().map(|b| b.loss).sum::<f64>() / case.pairs as f64 + precision.rounding(expected)
    };
    judge.close(&label("loss"), || name.to_string(), found.metrics.loss, expected, loss_bound);

    let coef_bound = |s: usize| match s.checked_sub(case.pairs) {
        None => bounds[s].chosen_coef,
        Some(i) => bounds[i].rejected_coef,
    };
    if let Some(dlogps) = tensors.get::<f64>("dlogps") {
        judge.all_close(&label("coef"), name, &found.coef, &dlogps, coef_bound);
    }
}

/// Floors 1 and 2 in one call are floors 1 and 2 in two.
fn fused_agrees<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    ref_logps: Option<&[f32]>,
    loss: &PairLoss,
    logps: &Logps<f32>,
    judge: &mut Judge,
) {
    let batch = rows.batch();
    let mut fused = cpu::Forward::default();
    cpu::forward(&batch, &rows.logits, rows.labels[..].into(), ref_logps, loss, &mut fused).unwrap();
    let mut alone = PairOutputs::default();
    cpu::pair_loss(&batch, &logps.logps, ref_logps, Some(&logps.scored), loss, &mut alone).unwrap();
    let same = bits(&fused.logps.logps) == bits(&logps.logps)
        && bits(&fused.pairs.pair_losses) == bits(&alone.pair_losses)
        && bits(&fused.pairs.coef) == bits(&alone.coef)
        && bits(&[fused.pairs.metrics.loss]) == bits(&[alone.metrics.loss]);
    judge.check(same, || format!("{}: forward differs from its floors", rows.name));
}

/// Floor 3 of both backends with their coefficients, over `batch`, whose rows are those of `rows`.
fn gradients<T: Element + Logit + Into<f64>>(
    rows: &Rows<'_, T>,
    batch: &HostBatch<'_>,
    labels: &[i32],
    coef: &Coef,
    floor_1: &Floor1,
    judge: &mut Judge,
) {
    let Floor1 { truth, in_f64, in_f32 } = floor_1;
    let (name, labels) = (rows.name, labels.into());
    let found_f64 =
        reference::backward(batch, &rows.logits, labels, &in_f64.logsumexp, &coef.in_f64, 1.0).unwrap();
    let mut found_f32 = vec![T::from_f32(f32::NAN); rows.logits.len()];
    cpu::backward(batch, &rows.logits, labels, in_f32.into(), &coef.in_f32, 1.0, &mut found_f32).unwrap();
    let found_f32: Vec<f64> = found_f32.into_iter().map(Into::into).collect();

    // c_s by row, with its bounds.
    let rows_per_coef = rows.labels.len() / coef.truth.len();
    let true_coef = |row: usize| coef.truth[row / rows_per_coef];
    let coef_bound = |backend: usize, row: usize| coef.bounds[backend][row / rows_per_coef];

    // The gradient is c_s·(1[v = y] − p), so that an error of c_s shows in proportion.
    let from_coef = |backend: usize, row: usize, expected: f64| {
        let (c, error) = (true_coef(row), coef_bound(backend, row));
        if c == 0.0 { error } else { error * (expected / c).abs() }
    };

    let expected = match rows.tensors.get::<f64>("dlogits") {
        Some(dlogits) => {
            let scale = largest(&dlogits);
            let bound = |i: usize| {
                let lse = truth.logsumexp[i / rows.vocab];
                REFERENCE.gradient * scale * lse.abs().max(1.0) + from_coef(0, i / rows.vocab, dlogits[i])
            };
            judge.all_close("reference: dlogits", name, &found_f64, &dlogits, bound);
            dlogits
        }
        // Too large to be stored. Once the reference agrees with the vectors' sums and samples, it stands for them.
        None => {
            let error = |row: usize| {
                let relative = REFERENCE.gradient * truth.logsumexp[row].abs().max(1.0);
                relative * true_coef(row).abs() + coef_bound(0, row)
            };
            judge_sums(rows.case, rows.tensors, &found_f64, error, judge);
            found_f64
        }
    };
    let scale = largest(&expected);
    let relative = CPU.gradient + short_exp(T::DTYPE);
    let bound = |i: usize| {
        rounding(T::DTYPE, expected[i]) + relative * scale + from_coef(1, i / rows.vocab, expected[i])
    };
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
    let starts: Vec<i32> = (0..=rows.sequences).map(|s| (s * rows.len) as i32).collect();
    let packed = HostBatch {
        label_alignment: rows.alignment,
        ..HostBatch::packed(&starts, rows.labels.len(), rows.vocab)
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
    cpu::backward_in_place(&padded, &mut first, labels, logps.into(), coef, 1.0).unwrap();
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
        cpu::backward(batch, logits, labels, logps.into(), coef, 1.0, &mut dlogits).unwrap();
        let (inside, gaps): (Vec<&[T]>, Vec<&[T]>) =
            dlogits.chunks(batch.row_stride).map(|row| row.split_at(rows.vocab)).unzip();
        let same = pattern(&inside.concat()) == first;
        judge.check(same, || format!("{}: dlogits of the {layout} layout differ", rows.name));
        let untouched = gaps.concat().iter().all(|gap| gap.to_f32() == UNTOUCHED);
        judge.check(untouched, || format!("{}: gaps of the {layout} layout were written", rows.name));
    }
}
