//! Losses of one's own, made of log-probs in candle's operations: their gradients against the f64 reference
//! and against the built-in loss.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use dpo_kernels::{Coef, HostBatch, Labels, Logps, Pairs, Transform, reference};
use dpo_kernels_candle::{
    DpoOutput, LabelAlignment, MetricsLevel, PairInputs, PairLoss, Targets, dpo_loss, sequence_logps,
    token_logps, token_metrics,
};

use common::{
    LABELS, LEN, SEQUENCES, TOLERANCE, VOCAB, assert_close, assert_within, batch, logits, targets, values,
    vector,
};

const REF_LOGPS: [f32; SEQUENCES] = [-12.0, -7.5, -9.0, -11.0];

/// The logits of the batch as a variable of some type.
fn policy(dtype: DType) -> Var {
    let logits = Tensor::from_vec(logits(), (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    Var::from_tensor(&logits.to_dtype(dtype).unwrap()).unwrap()
}

fn gradient(loss: &Tensor, logits: &Var) -> Tensor {
    loss.backward().unwrap().remove(logits).expect("a gradient")
}

/// Coefficients without a pattern. The fifth is 0, and every eleventh from there.
fn coefficients(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 37 % 11) as f32 / 4.0 - 1.25).collect()
}

/// Σ of `results` times `coef`, whose gradient by the results is `coef`.
fn weighted(results: &Tensor, coef: &[f32]) -> Tensor {
    let coef = Tensor::from_slice(coef, results.shape(), &Device::Cpu).unwrap();
    (results * coef).unwrap().sum_all().unwrap()
}

/// `logps` of the reference on these logits.
fn expected(logits: &Var, batch: &HostBatch<'_>) -> Logps<f64> {
    reference::logps(batch, &floats(logits), Labels::from(&LABELS[..])).unwrap()
}

/// `backward` of the reference.
fn expected_gradient(logits: &Var, batch: &HostBatch<'_>, logps: &Logps<f64>, coef: Coef<f64>) -> Vec<f64> {
    let labels = Labels::from(&LABELS[..]);
    reference::backward(batch, &floats(logits), labels, &logps.logsumexp, coef, 1.0).unwrap()
}

fn floats(logits: &Var) -> Vec<f32> {
    values(logits).into_iter().map(|logit| logit as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// What stands around log-probs: for candle, and for the reference.
fn around() -> Vec<(Targets, HostBatch<'static>)> {
    let transform = Transform { scale: 1.5, softcap: Some(2.5), valid_vocab: Some(10) };
    let (ld_alpha, interleaved) = (0.3, Pairs::Interleaved);
    vec![
        (targets(), batch()),
        (targets().with_transform(transform), HostBatch { transform, ..batch() }),
        (targets().with_ld_alpha(ld_alpha), HostBatch { ld_alpha, ..batch() }),
        (
            targets().with_pairs(Pairs::Interleaved).unwrap().with_ld_alpha(ld_alpha),
            HostBatch { ld_alpha, pairs: interleaved, ..batch() },
        ),
    ]
}

/// The types of logits, with what one rounding to them does to a number.
const DTYPES: [(DType, f64); 3] = [(DType::F32, 0.0), (DType::F16, 1.0 / 2048.0), (DType::BF16, 1.0 / 256.0)];

#[test]
fn log_probs_of_sequences_have_the_gradient_of_the_reference() {
    for (dtype, rounding) in DTYPES {
        for (targets, batch) in around() {
            let (policy, coef) = (policy(dtype), coefficients(SEQUENCES));
            let found = sequence_logps(&policy, &targets).unwrap();
            let expected = expected(&policy, &batch);
            assert_close(&found, &expected.logps);

            let (coef64, tokens) = (wide(&coef), Some(&expected.token_weights[..]));
            let coef64 = Coef { tokens, ..Coef::from(&coef64) };
            let gradient = gradient(&weighted(&found, &coef), &policy);
            assert_eq!((gradient.dtype(), gradient.dims()), (dtype, policy.dims()));
            let dlogits = expected_gradient(&policy, &batch, &expected, coef64);
            assert_within(rounding + TOLERANCE, &gradient, &dlogits);
        }
    }
}

#[test]
fn log_probs_of_tokens_have_the_gradient_of_the_reference() {
    for (dtype, rounding) in DTYPES {
        for (targets, batch) in around() {
            let (policy, coef) = (policy(dtype), coefficients(SEQUENCES * LEN));
            let found = token_logps(&policy, &targets).unwrap();
            assert_eq!(found.dims(), [SEQUENCES, LEN]);
            let expected = expected(&policy, &batch);
            assert_close(&found, &expected.token_logps);

            let coef64 = wide(&coef);
            let coef64 = Coef { tokens: Some(&coef64), ..Coef::default() };
            let gradient = gradient(&weighted(&found, &coef), &policy);
            let dlogits = expected_gradient(&policy, &batch, &expected, coef64);
            assert_within(rounding + TOLERANCE, &gradient, &dlogits);
        }
    }
}

#[test]
fn packed_log_probs() {
    let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
    let cu_seqlens = Tensor::new(&[0u32, 5, 10, 15, 20], &Device::Cpu).unwrap();
    let packed = Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken).unwrap();
    let padded = policy(DType::F32);
    let rows = Var::from_tensor(&padded.flatten(0, 1).unwrap()).unwrap();
    let coef = coefficients(SEQUENCES * LEN);
    for (of_rows, of_padded) in [
        (sequence_logps(&rows, &packed).unwrap(), sequence_logps(&padded, &targets()).unwrap()),
        (token_logps(&rows, &packed).unwrap(), token_logps(&padded, &targets()).unwrap()),
    ] {
        assert_eq!(values(&of_rows), values(&of_padded));
        let coef = &coef[..of_rows.elem_count()];
        let of_rows = gradient(&weighted(&of_rows, coef), &rows);
        assert_eq!(of_rows.dims(), [SEQUENCES * LEN, VOCAB]);
        assert_eq!(values(&of_rows), values(&gradient(&weighted(&of_padded, coef), &padded)));
    }
}

#[test]
fn views_of_more_columns() {
    let dense = policy(DType::F32);
    let base =
        Tensor::cat(&[&Tensor::ones((4, LEN, 2), DType::F32, &Device::Cpu).unwrap(), &dense, &dense], 2);
    let base = Var::from_tensor(&base.unwrap()).unwrap();
    let coef = coefficients(SEQUENCES * LEN);
    let results = |logits: &Tensor| {
        let logps = weighted(&sequence_logps(logits, &targets()).unwrap(), &coef[..SEQUENCES]);
        (logps + weighted(&token_logps(logits, &targets()).unwrap(), &coef)).unwrap()
    };
    let found = gradient(&results(&base.narrow(2, 2, VOCAB).unwrap()), &base);
    let expected = gradient(&results(&dense), &dense);
    assert_eq!(values(&found.narrow(2, 2, VOCAB).unwrap()), values(&expected));
    for (start, columns) in [(0, 2), (2 + VOCAB, VOCAB)] {
        assert!(values(&found.narrow(2, start, columns).unwrap()).iter().all(|&x| x == 0.0));
    }
}

fn sigmoid() -> PairLoss {
    PairLoss::sigmoid(0.3).unwrap()
}

fn output(logits: &Tensor, targets: &Targets) -> DpoOutput {
    let ref_logps = Tensor::new(&REF_LOGPS, &Device::Cpu).unwrap();
    dpo_loss(logits, targets, &PairInputs::reference(&ref_logps), &sigmoid()).unwrap()
}

/// DPO in candle's operations.
fn dpo(logps: &Tensor) -> Result<Tensor> {
    let rewards = ((logps - Tensor::new(&REF_LOGPS, &Device::Cpu)?)? * 0.3)?;
    let margins = (rewards.narrow(0, 0, 2)? - rewards.narrow(0, 2, 2)?)?;
    (margins.neg()?.exp()? + 1.0)?.log()?.mean_all()
}

#[test]
fn dpo_by_hand_is_the_loss_of_the_crate() {
    for (dtype, rounding) in DTYPES {
        for targets in [targets(), targets().with_ld_alpha(0.3)] {
            let policy = policy(dtype);
            let loss = output(&policy, &targets).loss;
            let expected = values(&gradient(&loss, &policy));
            let by_hand = dpo(&sequence_logps(&policy, &targets).unwrap()).unwrap();
            assert_close(&by_hand, &values(&loss));
            assert_within(2.0 * rounding + TOLERANCE, &gradient(&by_hand, &policy), &expected);
            // From the log-probs that come with the loss, whose read of the logits serves both.
            let by_hand = dpo(&output(&policy, &targets).logps).unwrap();
            assert_within(2.0 * rounding + TOLERANCE, &gradient(&by_hand, &policy), &expected);
        }
    }
}

#[test]
fn an_auxiliary_loss_of_the_output_s_log_probs() {
    // RPO: the chosen sequences' negative log-prob beside DPO.
    let (policy, coef) = (policy(DType::F32), [-0.5f32, -0.5, 0.0, 0.0]);
    let output = output(&policy, &targets());
    let loss = (&output.loss + weighted(&output.logps, &coef)).unwrap();
    let (dpo, nll) = (gradient(&output.loss, &policy), gradient(&weighted(&output.logps, &coef), &policy));
    assert_close(&gradient(&loss, &policy), &values(&(dpo + nll).unwrap()));
}

#[test]
fn a_loss_of_ratios_of_tokens() {
    // A policy gradient off policy: −Σ A exp(logp − logp_old) ÷ n.
    let (policy, advantages) = (policy(DType::F32), coefficients(SEQUENCES * LEN));
    let logps = token_logps(&policy, &targets()).unwrap();
    let old = (logps.detach() * 1.25).unwrap();
    let ratios = (&logps - &old).unwrap().exp().unwrap();
    let loss = (weighted(&ratios, &advantages) / -13.0).unwrap();

    let expected = expected(&policy, &batch());
    let old = values(&old);
    let coef: Vec<f64> = (0..SEQUENCES * LEN)
        .map(|row| -f64::from(advantages[row]) * (expected.token_logps[row] - old[row]).exp() / 13.0)
        .collect();
    let coef = Coef { tokens: Some(&coef), ..Coef::default() };
    assert_close(&gradient(&loss, &policy), &expected_gradient(&policy, &batch(), &expected, coef));
}

#[test]
fn a_nan_coefficient_is_a_nan_gradient_and_one_of_0_is_not_read() {
    // The second sequence's rows are NaN, and so are two that are not scored.
    let mut poisoned = logits();
    poisoned[LEN * VOCAB..2 * LEN * VOCAB].fill(f32::NAN);
    poisoned[(LEN - 1) * VOCAB..LEN * VOCAB].fill(f32::NAN);
    let poisoned = Tensor::from_vec(poisoned, (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    let policy = Var::from_tensor(&poisoned).unwrap();
    let scored = values(&token_logps(&self::policy(DType::F32), &targets()).unwrap());
    let is_scored = |row: usize| scored[row] != 0.0;

    let logps = sequence_logps(&policy, &targets()).unwrap();
    assert!(values(&logps)[1].is_nan());
    let without = |rows: &[usize]| logps.index_select(&indices(rows), 0).unwrap().sum_all().unwrap();
    let clean = gradient(&without(&[0, 2, 3]), &policy);
    assert!(values(&clean).iter().all(|x| x.is_finite()));
    assert!(values(&clean.get(1).unwrap()).iter().all(|&x| x == 0.0));
    assert!(values(&clean.get(0).unwrap()).iter().any(|&x| x != 0.0));

    // NaN from above: in all scored rows of its sequence, or in its row.
    let nan = gradient(&(without(&[2]) * f64::NAN).unwrap(), &policy);
    let tokens = (token_logps(&policy, &targets()).unwrap().get(2).unwrap() * f64::NAN).unwrap();
    for nan in [nan, gradient(&tokens.sum_all().unwrap(), &policy)] {
        let rows: Vec<Vec<f32>> = nan.flatten(0, 1).unwrap().to_vec2().unwrap();
        for (row, values) in rows.iter().enumerate() {
            if row / LEN == 2 && is_scored(row) {
                assert!(values.iter().all(|x| x.is_nan()), "row {row}: {values:?}");
            } else {
                assert!(values.iter().all(|&x| x == 0.0), "row {row}: {values:?}");
            }
        }
    }
}

fn indices(rows: &[usize]) -> Tensor {
    Tensor::from_iter(rows.iter().map(|&row| row as u32), &Device::Cpu).unwrap()
}

/// The results without a gradient, by name.
fn constants(logits: &Tensor) -> Vec<(&'static str, Tensor)> {
    let output = output(logits, &targets().with_token_metrics(MetricsLevel::All));
    let metrics = token_metrics(logits, &targets(), MetricsLevel::All).unwrap();
    let mut constants = vec![
        ("pair_losses", output.pair_losses),
        ("chosen_rewards", output.chosen_rewards),
        ("rejected_rewards", output.rejected_rewards),
        ("margins", output.margins),
        ("coef", output.coef),
    ];
    for metrics in [output.token_metrics, metrics] {
        constants.extend([
            ("entropy", metrics.entropy.unwrap()),
            ("correct", metrics.correct.unwrap()),
            ("mean_logit", metrics.mean_logit.unwrap()),
            ("sum_p2", metrics.sum_p2.unwrap()),
            ("sequence_log_weights", metrics.sequence_log_weights.unwrap()),
        ]);
    }
    constants
}

#[test]
fn backward_through_a_constant_says_so() {
    let policy = policy(DType::F32);
    let loss = output(&policy, &targets()).loss;
    for (name, constant) in constants(&policy) {
        for through in [constant.clone(), (&loss + constant.sum_all().unwrap()).unwrap()] {
            let error = through.backward().expect_err(name).to_string();
            let expected =
                format!("{name}: expected detach() before backward(), for a result that has no gradient");
            assert!(error.starts_with(&expected), "{error}");
        }
        // Neither the logits nor the model are kept by what is kept of it.
        assert!(constant.sorted_nodes().iter().all(|node| node.id() != policy.id()), "{name}");

        // As a constant of a loss it is what its values are.
        let factor = constant.detach().mean_all().unwrap();
        let found = gradient(&(&loss * &factor).unwrap(), &policy);
        let factor = values(&factor)[0];
        let expected: Vec<f64> = values(&gradient(&loss, &policy)).iter().map(|x| x * factor).collect();
        assert_close(&found, &expected);
    }
}

#[test]
fn results_of_logits_without_a_gradient_have_no_graph() {
    let policy = policy(DType::F32);
    let frozen = policy.detach();
    for ((name, frozen), (_, trained)) in constants(&frozen).into_iter().zip(constants(&policy)) {
        assert!(!frozen.track_op(), "{name}");
        assert_eq!(values(&frozen), values(&trained), "{name}");
    }
    let (of_frozen, of_trained) = (output(&frozen, &targets()), output(&policy, &targets()));
    for (frozen, trained) in [
        (of_frozen.loss, of_trained.loss),
        (of_frozen.logps, of_trained.logps),
        (sequence_logps(&frozen, &targets()).unwrap(), sequence_logps(&policy, &targets()).unwrap()),
        (token_logps(&frozen, &targets()).unwrap(), token_logps(&policy, &targets()).unwrap()),
    ] {
        assert!(!frozen.track_op() && trained.track_op());
        assert_eq!(values(&frozen), values(&trained));
    }
}

#[test]
fn constants_go_into_further_passes() {
    // WPO's weights and a margin made of rewards are inputs, through which no gradient runs.
    let policy = policy(DType::F32);
    let metrics = token_metrics(&policy, &targets(), MetricsLevel::All).unwrap();
    let rewards = output(&policy, &targets()).chosen_rewards;
    let run = |weights: &Tensor, gamma: &Tensor| {
        let ref_logps = vector(&REF_LOGPS).unwrap();
        let inputs = PairInputs {
            sequence_log_weights: Some(weights),
            gamma: Some(gamma),
            ..PairInputs::reference(&ref_logps)
        };
        gradient(&dpo_loss(&policy, &targets(), &inputs, &sigmoid()).unwrap().loss, &policy)
    };
    let weights = metrics.sequence_log_weights.unwrap();
    let expected = values(&run(&weights.detach(), &rewards.detach()));
    assert_eq!(values(&run(&weights, &rewards)), expected);
}
