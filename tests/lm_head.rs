//! The language model's head: from hidden states to loss and gradients.
//!
//! The reference against finite differences of the whole chain from X, W and b to the loss; the CPU backend against the
//! reference, in every way, within the bounds of tests/common/head_case.rs.

mod common;

use common::head_case::{
    Case, Expected, ExpectedGradients, Found, HIDDEN, REF_LOGPS, START, UPSTREAM, VOCAB, cases, mixed, typed,
};
use common::random::Random;
use common::tolerance::precision::CPU;
use common::{bits, widen};
use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
use dpo_kernels::cpu::{self, BackwardInputs};
use dpo_kernels::{
    Coef, DType, EntropyCoef, Error, Forward, HostBatch, IGNORE_INDEX, LabelAlignment, LmHead,
    LmHeadGradients, LmHeadPlan, Logit, Logps, PairInputs, PairLoss, Pairs, TokenMetrics, Transform,
    WantedGradients, Way, reference,
};
use half::{bf16, f16};

/// How many rows fit into a chunk.
fn workspace(rows: usize, columns: usize) -> LmHeadWorkspace {
    LmHeadWorkspace::new(rows * LmHeadWorkspace::bytes_per_row(columns, HIDDEN))
}

fn run<T: Logit>(case: &Case<'_>, frozen: bool, workspace: &mut LmHeadWorkspace) -> Found {
    let (hidden, weight) = (typed::<T>(&case.hidden), typed::<T>(&case.weight));
    let bias = case.bias.as_deref().map(typed::<T>);
    let head = LmHead { hidden_size: HIDDEN, hidden: &hidden, weight: &weight, bias: bias.as_deref() };
    let mut dhidden = vec![T::from_f32(9.0); hidden.len()];
    let (mut dweight, mut dbias) = (vec![START; weight.len()], vec![START; VOCAB]);
    let mut out = Forward::default();
    out.logps.metrics = Some(TokenMetrics::default());
    let mut gradients = LmHeadGradients {
        hidden: Some(&mut dhidden),
        weight: (!frozen).then_some(&mut dweight[..]),
        bias: (!frozen).then_some(&mut dbias[..]),
        upstream: UPSTREAM,
    };
    let labels = case.labels[..].into();
    let status = lm_head::forward(
        &case.batch,
        &head,
        labels,
        &case.inputs,
        &case.loss,
        &mut out,
        &mut gradients,
        workspace,
    );
    Found {
        out,
        nonfinite_row: status.unwrap().nonfinite_row,
        hidden: dhidden.iter().map(|value| value.to_f32()).collect(),
        weight: dweight,
        bias: dbias,
    }
}

/// Chunks of one row, of less than a pair, of a pair and of everything; frozen and not.
fn every_way<T: Logit>() {
    let mut ways = std::collections::BTreeMap::new();
    for case in cases() {
        let expected = Expected::of(&case, &CPU, DType::F32, DType::F32);
        for frozen in [false, true] {
            for rows in [1, 7, 13, 29, case.scored()] {
                let wanted = WantedGradients { hidden: true, weight: !frozen, bias: !frozen };
                let bytes = LmHeadWorkspace::bytes_per_row(case.batch.columns(), HIDDEN);
                let labels = case.labels[..].into();
                let plan =
                    LmHeadPlan::new(&case.batch, labels, Some(&case.loss), wanted, bytes, rows * bytes);
                for chunk in plan.unwrap().chunks() {
                    assert!(!chunk.rows.is_empty() && chunk.rows.len() <= rows);
                    *ways.entry(format!("{:?}", chunk.way)).or_insert(0) += 1;
                }
                let mut workspace = workspace(rows, case.batch.columns());
                let found = run::<T>(&case, frozen, &mut workspace);
                expected.check(&case, T::DTYPE, frozen, &found);
                // The same bits again, from a workspace that has been used.
                assert_eq!(run::<T>(&case, frozen, &mut workspace), found, "{}", case.name);
            }
        }
    }
    let ways: Vec<&str> = ways.keys().map(String::as_str).collect();
    assert_eq!(ways, ["FrozenWeight", "TwoSweeps", "WholePairs"]);
}

#[test]
fn every_way_in_f32() {
    every_way::<f32>();
}

#[test]
fn every_way_in_f16() {
    every_way::<f16>();
}

#[test]
fn every_way_in_bf16() {
    every_way::<bf16>();
}

/// Step of the central difference; see tests/finite_differences.rs for the third derivative, times the cube of the states and
/// weights, at most 1, by which one number moves all logits of a row, or one logit of all rows.
const STEP: f64 = 1e-5;

#[test]
fn the_reference_has_the_gradients_of_finite_differences() {
    for case in cases() {
        let expected = Expected::of(&case, &CPU, DType::F32, DType::F32);
        let loss = |x: &[f64], w: &[f64], b: Option<&[f64]>| {
            let head = LmHead { hidden_size: HIDDEN, hidden: x, weight: w, bias: b };
            let labels = || case.labels[..].into();
            let logits = reference::lm_head::logits(&case.batch, &head).unwrap();
            let logps = reference::logps(&case.batch, &logits, labels()).unwrap();
            let (ref_logps, weight) = (case.inputs.ref_logps.map(widen), case.inputs.weight.map(widen));
            let inputs =
                PairInputs { ref_logps: ref_logps.as_deref(), weight: weight.as_deref(), ..PairInputs::NONE };
            let pairs =
                reference::pair_loss(&case.batch, &logps.logps, Some(&logps.scored), &inputs, &case.loss)
                    .unwrap();
            f64::from(UPSTREAM) * pairs.metrics.loss
        };
        let (x, w, b) = (widen(&case.hidden), widen(&case.weight), case.bias.as_deref().map(widen));
        let tolerance =
            70.0 * STEP * STEP / 6.0 * 50.0 + 64.0 * f64::EPSILON * expected.loss.abs().max(1.0) / STEP;
        let close = |what: &str, i: usize, up: f64, down: f64, found: f64| {
            let difference = (up - down) / (2.0 * STEP);
            let error = (difference - found).abs();
            assert!(error <= tolerance, "{}: {what}[{i}]: {difference:e}, {found:e}", case.name);
        };
        let moved = |values: &[f64], i: usize, by: f64| {
            let mut values = values.to_vec();
            values[i] += by;
            values
        };
        for i in (0..x.len()).step_by(41) {
            let at = |by: f64| loss(&moved(&x, i, by), &w, b.as_deref());
            close("dX", i, at(STEP), at(-STEP), expected.hidden[0][i]);
        }
        for i in (0..w.len()).step_by(53) {
            let at = |by: f64| loss(&x, &moved(&w, i, by), b.as_deref());
            close("dW", i, at(STEP), at(-STEP), expected.weight[0][i]);
        }
        if let Some(b) = &b {
            for i in 0..VOCAB {
                let at = |by: f64| loss(&x, &w, Some(&moved(b, i, by)));
                close("db", i, at(STEP), at(-STEP), expected.bias[0][i]);
            }
        }
    }
}

/// With W the identity, logits are the hidden states to the bit, and so is all that follows: the passes over logits, which the
/// vectors of an independent implementation hold, hold the head.
#[test]
fn a_head_of_the_identity_gives_the_bits_of_the_vectors_logits() {
    let golden = common::golden::Golden::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").as_ref());
    let mut cases = 0;
    for case in golden.cases.iter().filter(|case| case.dtype == "f32" && case.layout != "unshifted") {
        let tensors = golden.tensors(case);
        let logits: Vec<f32> = case.logits(&tensors);
        // An infinite logit is a NaN after its product with the identity's zeros.
        if case.vocab > 600 || !logits.iter().all(|z| z.is_finite()) {
            continue;
        }
        cases += 1;
        let labels: Vec<i32> = tensors.required("targets");
        let batch = HostBatch {
            ld_alpha: case.ld_alpha.map_or(1.0, |alpha| alpha as f32),
            ..HostBatch::padded(2 * case.pairs, case.len, case.vocab, LabelAlignment::Aligned)
        };
        let weight: Vec<f32> =
            (0..case.vocab * case.vocab).map(|i| f32::from(u8::from(i % (case.vocab + 1) == 0))).collect();
        let head = LmHead { hidden_size: case.vocab, hidden: &logits, weight: &weight, bias: None };
        let ref_logps: Vec<f64> = tensors.required("ref_logps");
        let ref_logps: Vec<f32> = ref_logps.iter().map(|&logp| logp as f32).collect();
        let (inputs, loss) = (PairInputs::reference(&ref_logps), PairLoss::sigmoid(0.1).unwrap());

        let (mut plain, mut found) = (Forward::default(), Forward::default());
        cpu::forward(&batch, &logits, labels[..].into(), &inputs, &loss, &mut plain).unwrap();
        let mut dlogits = vec![0.0f32; logits.len()];
        cpu::backward(&batch, &logits, labels[..].into(), &plain, &mut dlogits).unwrap();
        let mut dhidden = vec![0.0f32; logits.len()];
        let mut gradients = LmHeadGradients { hidden: Some(&mut dhidden), ..LmHeadGradients::default() };
        let mut workspace = LmHeadWorkspace::default();
        lm_head::forward(
            &batch,
            &head,
            labels[..].into(),
            &inputs,
            &loss,
            &mut found,
            &mut gradients,
            &mut workspace,
        )
        .unwrap();
        assert_eq!(bits(&found.logps.token_logps), bits(&plain.logps.token_logps), "{}", case.name);
        assert_eq!(bits(&found.pairs.coef), bits(&plain.pairs.coef), "{}", case.name);
        for (i, (found, right)) in dhidden.iter().zip(&dlogits).enumerate() {
            // c comes in another order, with one rounding more.
            assert!(
                (found - right).abs() <= 1e-6 * right.abs() + 1e-37,
                "{}: {i}: {found:e} {right:e}",
                case.name
            );
        }
    }
    assert!(cases > 50, "{cases} cases");
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let batch = HostBatch::padded(6, 90, VOCAB, LabelAlignment::Aligned);
    let case =
        Case::new("threads", batch, PairLoss::sigmoid(0.3).unwrap(), PairInputs::reference(&REF_LOGPS), true);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run::<bf16>(&case, false, &mut workspace(200, VOCAB)))
    };
    let expected = on(1);
    for threads in [2, 3, 5] {
        assert_eq!(on(threads), expected, "{threads} threads");
    }
}

/// `backward` with the coefficients of `forward` gives what `forward` gives in two sweeps: to the bit in the rows of dX; dW and db
/// add up rows in another order.
#[test]
fn a_loss_of_ones_own_has_the_same_gradients() {
    let reference = PairInputs::reference(&REF_LOGPS);
    let padded = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    let case = Case::new(
        "own loss",
        HostBatch { ld_alpha: 0.4, ..padded },
        PairLoss::sigmoid(0.3).unwrap(),
        reference,
        true,
    );
    // No pair fits into chunks of seven rows.
    let mut workspace = workspace(7, VOCAB);
    let expected = run::<f32>(&case, false, &mut workspace);
    let head = LmHead {
        hidden_size: HIDDEN,
        hidden: &case.hidden,
        weight: &case.weight,
        bias: case.bias.as_deref(),
    };
    let mut logps = Logps::default();
    lm_head::logps(&case.batch, &head, case.labels[..].into(), &mut logps, &mut workspace).unwrap();
    assert_eq!(bits(&logps.logps), bits(&expected.out.logps.logps));
    let coef = Coef {
        sequences: Some(&expected.out.pairs.coef),
        tokens: Some(&logps.token_weights),
        threshold: 0.0,
    };
    let inputs = BackwardInputs { upstream: UPSTREAM, ..BackwardInputs::new(&logps, coef) };
    let mut dhidden = vec![9.0f32; case.hidden.len()];
    let (mut dweight, mut dbias) = (vec![START; case.weight.len()], vec![START; VOCAB]);
    let mut gradients = LmHeadGradients {
        hidden: Some(&mut dhidden),
        weight: Some(&mut dweight),
        bias: Some(&mut dbias),
        upstream: 1.0,
    };
    let labels = case.labels[..].into();
    lm_head::backward(&case.batch, &head, labels, inputs, &mut gradients, &mut workspace)
        .unwrap()
        .check()
        .unwrap();
    assert_eq!(bits(&dhidden), bits(&expected.hidden));
    let sums = dweight.iter().chain(&dbias).zip(expected.weight.iter().chain(&expected.bias));
    for (found, right) in sums {
        assert!((found - right).abs() <= 1e-6, "{found:e} {right:e}");
    }
}

/// An objective with entropies in it, whatever the chunks.
#[test]
fn an_objective_with_entropies() {
    let batch = HostBatch {
        pairs: Pairs::None,
        transform: Transform { scale: 0.7, softcap: Some(6.0), valid_vocab: Some(VOCAB - 3) },
        ..HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned)
    };
    let loss = PairLoss::sigmoid(0.3).unwrap();
    let case = Case::new("entropies", batch, loss, PairInputs::default(), true);
    let mut random = Random(11);
    let (mut sequences, mut coef) = (mixed(&mut random, 6), mixed(&mut random, batch.rows()));
    // No part of the log-prob, none of the entropy, neither.
    sequences[..2].fill(0.0);
    coef[8..24].fill(0.0);
    let expected = ExpectedGradients::with_entropies(&case, &CPU, DType::F32, DType::F32, &sequences, &coef);
    let head = LmHead {
        hidden_size: HIDDEN,
        hidden: &case.hidden,
        weight: &case.weight,
        bias: case.bias.as_deref(),
    };
    let labels = || case.labels[..].into();
    for rows in [1, 7, 100] {
        let mut workspace = workspace(rows, VOCAB - 3);
        let mut logps = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
        lm_head::logps(&batch, &head, labels(), &mut logps, &mut workspace).unwrap();
        let entropy = EntropyCoef { coef: &coef, entropy: &logps.metrics.as_ref().unwrap().entropy };
        let inputs = BackwardInputs::new(&logps, &sequences).with_entropy(entropy);
        let mut dhidden = vec![9.0f32; case.hidden.len()];
        let (mut dweight, mut dbias) = (vec![START; case.weight.len()], vec![START; VOCAB]);
        let mut gradients = LmHeadGradients {
            hidden: Some(&mut dhidden),
            weight: Some(&mut dweight),
            bias: Some(&mut dbias),
            upstream: UPSTREAM,
        };
        lm_head::backward(&batch, &head, labels(), inputs, &mut gradients, &mut workspace)
            .unwrap()
            .check()
            .unwrap();
        expected.check(&format!("{rows} rows"), &case, DType::F32, [&dhidden, &dweight, &dbias]);
        let skipped = &dhidden[8 * HIDDEN..16 * HIDDEN];
        assert!(skipped.iter().all(|value| value.to_bits() == 0));
    }
}

/// A NaN in a scored hidden state is a NaN in its pair's loss and in the gradients, and the places are named; in one that is not
/// scored, or whose pair has weight 0, it is nowhere.
#[test]
fn a_nan_is_never_hidden_and_never_found_where_nothing_is_read() {
    let weights = [1.0, 0.0, 1.0];
    let inputs = PairInputs { weight: Some(&weights), ..PairInputs::reference(&REF_LOGPS) };
    let batch = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    for frozen in [false, true] {
        for rows in [3, 100] {
            let with_nan = |row: usize| {
                let mut case = Case::new("NaN", batch, PairLoss::sigmoid(0.3).unwrap(), inputs, false);
                case.hidden[row * HIDDEN + 2] = f32::NAN;
                let scored = case.labels_of(row).is_some();
                (scored, run::<f32>(&case, frozen, &mut workspace(rows, VOCAB)))
            };
            let (scored, ignored_row) = with_nan(5);
            assert!(!scored && ignored_row.nonfinite_row.is_none());
            assert!(ignored_row.out.pairs.metrics.loss.is_finite());
            assert!(ignored_row.hidden.iter().chain(&ignored_row.weight).all(|value| value.is_finite()));

            // Sequence 1, the chosen one of the pair of weight 0: its log-prob alone tells.
            let (scored, out_of_the_batch) = with_nan(9);
            assert!(scored && out_of_the_batch.out.pairs.metrics.loss.is_finite());
            assert_eq!(out_of_the_batch.out.logps.status.nonfinite_row, Some(9));
            assert!(out_of_the_batch.nonfinite_row.is_none());
            assert!(
                out_of_the_batch.hidden.iter().chain(&out_of_the_batch.weight).all(|value| value.is_finite())
            );

            let (scored, found) = with_nan(2);
            assert!(scored && found.out.pairs.metrics.loss.is_nan());
            assert_eq!((found.out.logps.status.nonfinite_row, found.nonfinite_row), (Some(2), Some(1)));
            assert!(found.hidden[2 * HIDDEN..3 * HIDDEN].iter().all(|value| value.is_nan()));
            // Another pair's rows are as they were.
            assert!(found.hidden[16 * HIDDEN..24 * HIDDEN].iter().all(|value| value.is_finite()));
            assert!(frozen || found.weight.iter().all(|value| value.is_nan()));
        }
    }
}

/// A label outside of the vocabulary is a NaN in its row, as it is without a head.
#[test]
fn a_bad_label_is_named() {
    let batch = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    let mut case =
        Case::new("label", batch, PairLoss::sigmoid(0.3).unwrap(), PairInputs::reference(&REF_LOGPS), false);
    case.labels[4] = VOCAB as i64;
    let found = run::<f32>(&case, false, &mut workspace(100, VOCAB));
    assert_eq!(found.out.logps.status.bad_label, Some(4));
    assert!(found.out.pairs.metrics.loss.is_nan() && found.hidden[4 * HIDDEN].is_nan());
}

/// Nothing to score: no product, zeros, and a status that says so.
#[test]
fn a_batch_without_scored_rows_moves_nothing() {
    let batch = HostBatch::padded(2, 3, VOCAB, LabelAlignment::Aligned);
    let mut case = Case::new(
        "empty",
        batch,
        PairLoss::sigmoid(0.3).unwrap(),
        PairInputs::reference(&REF_LOGPS[..2]),
        true,
    );
    case.labels.fill(IGNORE_INDEX);
    let found = run::<f32>(&case, false, &mut workspace(1, VOCAB));
    assert_eq!(found.out.logps.status.empty_sequence, Some(0));
    assert!(found.hidden.iter().all(|value| value.to_bits() == 0));
    assert!(found.weight.iter().chain(&found.bias).all(|&value| value == START));
}

/// All coefficients 0, and no row to multiply again.
#[test]
fn pairs_past_a_hinge_move_nothing() {
    let batch = HostBatch::padded(2, 8, VOCAB, LabelAlignment::Aligned);
    // The chosen answer has gained far more than the margin asks for.
    let inputs = PairInputs::reference(&[-1e4, 0.0]);
    let case = Case::new("hinge", batch, PairLoss::hinge(0.3).unwrap(), inputs, true);
    for rows in [1, 100] {
        let found = run::<f32>(&case, false, &mut workspace(rows, VOCAB));
        assert_eq!(found.out.pairs.coef, [0.0, 0.0]);
        assert!(found.hidden.iter().all(|&value| value == 0.0) && found.nonfinite_row.is_none());
        assert!(found.weight.iter().chain(&found.bias).all(|&value| value == START));
    }
    assert_eq!(LmHeadWorkspace::weight_block_bytes(DType::BF16, 0), 0);
}

#[test]
fn metrics_are_those_of_the_logits() {
    let case = &cases()[4];
    let found = run::<f32>(case, false, &mut workspace(100, case.batch.columns()));
    let (x, w, b) = (widen(&case.hidden), widen(&case.weight), case.bias.as_deref().map(widen));
    let head = LmHead { hidden_size: HIDDEN, hidden: &x, weight: &w, bias: b.as_deref() };
    let logits = reference::lm_head::logits(&case.batch, &head).unwrap();
    let right = reference::logps(&case.batch, &logits, case.labels[..].into()).unwrap().metrics.unwrap();
    let metrics = found.out.logps.metrics.unwrap();
    for (found, right) in metrics.entropy.iter().zip(&right.entropy) {
        // The logits are off by less than 1e-5, and an entropy below 5 moves by that times its logarithms' size.
        assert!((f64::from(*found) - right).abs() <= 1e-4);
    }
    assert_eq!(widen(&metrics.correct), right.correct);
}

#[test]
fn what_does_not_fit_is_named() {
    let batch = HostBatch::padded(2, 3, VOCAB, LabelAlignment::Aligned);
    let (hidden, weight) = (vec![0.5f32; 6 * HIDDEN], vec![0.5f32; VOCAB * HIDDEN]);
    let bias = vec![0.5f32; VOCAB];
    let labels = [1i64; 6];
    let head = LmHead { hidden_size: HIDDEN, hidden: &hidden, weight: &weight, bias: Some(&bias) };
    let loss = PairLoss::sigmoid(0.3).unwrap();
    let refused = |head: &LmHead<'_, f32>, labels: &[i64], lens: [usize; 3], budget: usize| {
        let (mut dhidden, mut dweight, mut dbias) =
            (vec![7.0; lens[0]], vec![7.0; lens[1]], vec![7.0; lens[2]]);
        let mut gradients = LmHeadGradients {
            hidden: Some(&mut dhidden),
            weight: Some(&mut dweight),
            bias: Some(&mut dbias),
            upstream: 1.0,
        };
        let inputs = PairInputs::reference(&REF_LOGPS[..2]);
        let mut workspace = LmHeadWorkspace::new(budget);
        let mut out = Forward::default();
        let status = lm_head::forward(
            &batch,
            head,
            labels.into(),
            &inputs,
            &loss,
            &mut out,
            &mut gradients,
            &mut workspace,
        );
        // Nothing is written.
        assert!(dhidden.iter().chain(&dweight).chain(&dbias).all(|&value| value == 7.0));
        status.unwrap_err()
    };
    let lens = [hidden.len(), weight.len(), bias.len()];
    let length = |error: Error| match error {
        Error::Length { argument, shape, expected, found } => (argument, shape, expected, found),
        other => panic!("{other}"),
    };
    let value = |error: Error| match error {
        Error::Value { argument, expected, found } => (argument, expected, found),
        other => panic!("{other}"),
    };
    let much = 1 << 20;
    let short = LmHead { hidden: &hidden[1..], ..head };
    assert_eq!(length(refused(&short, &labels, lens, much)), ("hidden", "[rows, hidden_size]", 144, 143));
    let short = LmHead { weight: &weight[1..], ..head };
    assert_eq!(length(refused(&short, &labels, lens, much)), ("weight", "[vocab, hidden_size]", 1608, 1607));
    let short = LmHead { bias: Some(&bias[1..]), ..head };
    assert_eq!(length(refused(&short, &labels, lens, much)), ("bias", "[vocab]", 67, 66));
    assert_eq!(length(refused(&head, &labels[1..], lens, much)).0, "labels");
    for (at, argument) in ["gradients.hidden", "gradients.weight", "gradients.bias"].into_iter().enumerate() {
        let mut lens = lens;
        lens[at] += 1;
        assert_eq!(length(refused(&head, &labels, lens, much)).0, argument);
    }
    for hidden_size in [0, 1 << 31] {
        let wrong = LmHead { hidden_size, ..head };
        assert_eq!(value(refused(&wrong, &labels, lens, much)).0, "hidden_size");
    }
    let row = LmHeadWorkspace::bytes_per_row(VOCAB, HIDDEN);
    let (argument, expected, found) = value(refused(&head, &labels, lens, row - 1));
    assert_eq!((argument, found), ("budget_bytes", (row - 1).to_string()));
    assert_eq!(expected, format!("at least {row}, the bytes of one row"));
    let wanted = WantedGradients { hidden: true, ..WantedGradients::default() };
    let plan = LmHeadPlan::new(&batch, labels[..].into(), None, wanted, row, much);
    assert_eq!(plan.unwrap_err(), Error::Missing { argument: "loss", because: "gradients are wanted" });
}

/// The way and the size of every chunk, without running anything.
#[test]
fn a_plan_says_what_will_be_done() {
    let batch = HostBatch::padded(4, 10, 100, LabelAlignment::Aligned);
    let labels = [1i64; 40];
    let all = WantedGradients { hidden: true, weight: true, bias: false };
    let frozen = WantedGradients { hidden: true, ..WantedGradients::default() };
    let plan = |loss: &PairLoss, wanted, rows: usize| {
        let plan = LmHeadPlan::new(&batch, labels[..].into(), Some(loss), wanted, 8, 8 * rows).unwrap();
        assert!(plan.chunk_bytes() <= 8 * rows && plan.chunk_bytes() == 8 * plan.most_rows());
        let chunks: Vec<_> = plan.chunks().iter().map(|chunk| (chunk.way, chunk.rows.len())).collect();
        (chunks, plan.multiplied_rows())
    };
    let sigmoid = PairLoss::sigmoid(0.1).unwrap();
    assert_eq!(
        plan(&sigmoid, WantedGradients::default(), 25),
        (vec![(Way::Logps, 20), (Way::Logps, 20)], 40)
    );
    let in_two = vec![(Way::FrozenWeight, 20), (Way::FrozenWeight, 20)];
    assert_eq!(plan(&sigmoid, frozen, 25), (in_two, 80));
    let pairs = vec![(Way::WholePairs, 20), (Way::WholePairs, 20)];
    assert_eq!(plan(&sigmoid, all, 25), (pairs, 120));
    assert_eq!(plan(&sigmoid, all, 40), (vec![(Way::WholePairs, 40)], 120));
    let sweeps = vec![(Way::TwoSweeps, 14), (Way::TwoSweeps, 14), (Way::TwoSweeps, 12)];
    assert_eq!(plan(&sigmoid, all, 19), (sweeps, 160));
    // The ranks of pairs need all of them.
    assert_eq!(plan(&PairLoss::aot(0.1).unwrap(), all, 40), (vec![(Way::TwoSweeps, 40)], 160));
    assert_eq!(plan(&PairLoss::aot(0.1).unwrap(), frozen, 40), (vec![(Way::FrozenWeight, 40)], 80));

    // One pair that does not fit: two sweeps for that one alone.
    let cu_seqlens = [0, 3, 20, 23, 40];
    let packed = HostBatch::packed(&cu_seqlens[..], 40, 100, LabelAlignment::Aligned);
    let plan = LmHeadPlan::new(&packed, labels[..].into(), Some(&sigmoid), all, 8, 8 * 20).unwrap();
    let chunks: Vec<_> = plan.chunks().iter().map(|chunk| (chunk.way, chunk.rows.len())).collect();
    assert_eq!(chunks, [(Way::WholePairs, 6), (Way::TwoSweeps, 17), (Way::TwoSweeps, 17)]);
    assert_eq!(plan.chunks()[0].rows, [0, 1, 2, 20, 21, 22]);
}
