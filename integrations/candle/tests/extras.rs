//! What stands around the loss (transforms, LD-DPO, token metrics, per-pair tensors) against the f64
//! reference.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use dpo_kernels::loss::PairTensors;
use dpo_kernels::{
    Coef, HostBatch, LabelAlignment, Labels, Logps, MeanTokenMetrics, MetricsLevel, PairLoss, PairOutputs,
    Pairs, Sequences, Transform, reference,
};
use dpo_kernels_candle::{DpoOutput, Targets, TokenMetrics, dpo_loss, sequence_logps, token_metrics};

use common::{
    LABELS, LEN, SEQUENCES, TOLERANCE, VOCAB, assert_close, batch, logits, targets, values, vector,
};

const UPSTREAM: f64 = 3.0;

/// [`PairInputs`] with tensors of their own.
type Inputs = PairTensors<Tensor, Tensor, Tensor>;

fn scalar(value: f32) -> Option<Tensor> {
    Some(Tensor::new(value, &Device::Cpu).unwrap())
}

/// `logps` and `pair_loss` of the reference, and the gradient times [`UPSTREAM`].
fn expected(
    batch: &HostBatch<'_>,
    inputs: &Inputs,
    loss: &PairLoss,
) -> (Logps<f64>, PairOutputs<f64>, Vec<f64>) {
    let inputs = inputs.as_ref().map(values, |counts| counts.to_vec1().unwrap(), |number| values(number)[0]);
    let inputs = inputs.as_ref().map(Vec::as_slice, Vec::<u32>::as_slice, |&number| number);
    let (logits, labels) = (logits(), Labels::from(&LABELS[..]));
    let logps = reference::logps(batch, &logits, labels).unwrap();
    let pairs = reference::pair_loss(batch, &logps.logps, Some(&logps.scored), &inputs, loss).unwrap();
    let coef = Coef { tokens: Some(&logps.token_weights), ..Coef::from(&pairs.coef) };
    let dlogits = reference::backward(batch, &logits, labels, &logps.logsumexp, coef, UPSTREAM).unwrap();
    (logps, pairs, dlogits)
}

/// Loss and gradient of the operation.
fn run(targets: &Targets, inputs: &Inputs, loss: &PairLoss) -> (DpoOutput, Tensor) {
    let logits = Tensor::from_vec(logits(), (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    let logits = Var::from_tensor(&logits).unwrap();
    let output = dpo_loss(&logits, targets, &inputs.as_ref(), loss).unwrap();
    assert!(output.status().unwrap().is_clean());
    let gradient = (&output.loss * UPSTREAM).unwrap().backward().unwrap().remove(&logits).unwrap();
    (output, gradient)
}

#[track_caller]
fn check(targets: Targets, batch: HostBatch<'_>, inputs: &Inputs, loss: &PairLoss) {
    let (output, gradient) = run(&targets, inputs, loss);
    let (logps, pairs, dlogits) = expected(&batch, inputs, loss);
    assert_close(&output.logps, &logps.logps);
    assert_close(&output.pair_losses, &pairs.pair_losses);
    assert_close(&output.chosen_rewards, &pairs.chosen_rewards);
    assert_close(&output.rejected_rewards, &pairs.rejected_rewards);
    assert_close(&output.margins, &pairs.margins);
    assert_close(&output.coef, &pairs.coef);
    assert_close(&output.loss, &[pairs.metrics.loss]);
    assert_close(&gradient, &dlogits);

    let logits = Tensor::from_vec(common::logits(), (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    assert_eq!(values(&sequence_logps(&logits, &targets).unwrap()), values(&output.logps));
}

fn sigmoid() -> PairLoss {
    PairLoss::sigmoid(0.3).unwrap()
}

fn ref_logps() -> Inputs {
    Inputs { ref_logps: vector(&[-12.0, -7.5, -9.0, -11.0]), ..Inputs::default() }
}

#[test]
fn transforms() {
    for transform in [
        Transform { scale: 0.7, ..Transform::default() },
        Transform { softcap: Some(3.0), ..Transform::default() },
        Transform { valid_vocab: Some(10), ..Transform::default() },
        Transform { scale: 1.5, softcap: Some(2.5), valid_vocab: Some(10) },
    ] {
        let (targets, batch) = (targets().with_transform(transform), HostBatch { transform, ..batch() });
        check(targets.clone(), batch, &ref_logps(), &sigmoid());
        // Padding of the vocabulary has a gradient of exactly 0.
        let (_, gradient) = run(&targets, &ref_logps(), &sigmoid());
        let padding = values(&gradient.narrow(2, 10, 1).unwrap());
        assert_eq!(padding.iter().all(|&x| x == 0.0), transform.valid_vocab.is_some());
    }
}

#[test]
fn length_desensitization() {
    let ld_alpha = 0.3;
    check(targets().with_ld_alpha(ld_alpha), HostBatch { ld_alpha, ..batch() }, &ref_logps(), &sigmoid());
    let interleaved = targets().with_pairs(Pairs::Interleaved).unwrap().with_ld_alpha(ld_alpha);
    let batch = HostBatch { ld_alpha, pairs: Pairs::Interleaved, ..batch() };
    check(interleaved, batch, &ref_logps(), &sigmoid());
}

#[test]
fn values_of_each_pair() {
    let all = Inputs {
        beta: vector(&[0.2, 0.5]),
        gamma: vector(&[0.5, -0.25]),
        weight: vector(&[2.0, 0.5]),
        label_smoothing: vector(&[0.1, 0.3]),
        sequence_log_weights: vector(&[-0.5, -1.0, -0.25, 0.125]),
        normalizer: scalar(5.0),
        ..ref_logps()
    };
    // Each alone, and together.
    check(targets(), batch(), &Inputs { beta: all.beta.clone(), ..ref_logps() }, &sigmoid());
    check(targets(), batch(), &Inputs { gamma: all.gamma.clone(), ..ref_logps() }, &sigmoid());
    check(targets(), batch(), &Inputs { weight: all.weight.clone(), ..ref_logps() }, &sigmoid());
    let smoothed = Inputs { label_smoothing: all.label_smoothing.clone(), ..ref_logps() };
    check(targets(), batch(), &smoothed, &sigmoid());
    let weighted = Inputs { sequence_log_weights: all.sequence_log_weights.clone(), ..ref_logps() };
    check(targets(), batch(), &weighted, &sigmoid());
    check(targets(), batch(), &Inputs { normalizer: all.normalizer.clone(), ..ref_logps() }, &sigmoid());
    check(targets(), batch(), &all, &sigmoid());
}

#[test]
fn what_some_losses_take() {
    let lengths = Tensor::new(&[7u32, 0, 3, 5], &Device::Cpu).unwrap();
    let lengths = Inputs { lengths: Some(lengths), ..ref_logps() };
    check(targets(), batch(), &lengths, &PairLoss::ipo(0.2).unwrap());
    let tokens = Inputs { chosen_tokens: scalar(20.0), ..Inputs::default() };
    check(targets(), batch(), &tokens, &PairLoss::sft());
    let kto = PairLoss::kto(0.3).unwrap();
    let mismatched = Inputs {
        kl_logps: vector(&[-8.0, -9.0, -7.5]),
        kl_ref_logps: vector(&[-9.0, -9.5, -8.0]),
        ..ref_logps()
    };
    check(targets(), batch(), &mismatched, &kto);
    let desirable = [1, 0, 0, 1];
    let pairs = Pairs::Unpaired { desirable: Tensor::new(&desirable.map(i64::from), &Device::Cpu).unwrap() };
    let unpaired = HostBatch { pairs: Pairs::Unpaired { desirable: &desirable }, ..batch() };
    let weight = Inputs { weight: vector(&[1.0, 2.0, 0.5, 1.5]), ..mismatched };
    check(targets().with_pairs(pairs).unwrap(), unpaired, &weight, &kto);
}

#[test]
fn strided_values() {
    let table = Tensor::new(&[[0.2f32, 9.0], [0.5, 9.0]], &Device::Cpu).unwrap();
    let column = Inputs { beta: Some(table.narrow(1, 0, 1).unwrap().squeeze(1).unwrap()), ..ref_logps() };
    check(targets(), batch(), &column, &sigmoid());
}

#[test]
fn metrics_of_each_token() {
    let logits = Tensor::from_vec(logits(), (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    let transform = Transform { softcap: Some(3.0), ..Transform::default() };
    for (targets, batch) in
        [(targets(), batch()), (targets().with_transform(transform), HostBatch { transform, ..batch() })]
    {
        let expected = expected(&batch, &ref_logps(), &sigmoid()).0.metrics.unwrap();
        let asked = targets.clone().with_token_metrics(MetricsLevel::All);
        let asked = dpo_loss(&logits, &asked, &ref_logps().as_ref(), &sigmoid()).unwrap().token_metrics;
        for metrics in [token_metrics(&logits, &targets, MetricsLevel::All).unwrap(), asked] {
            assert_close_mean(&metrics, &expected.mean);
            assert_eq!(metrics.entropy.as_ref().unwrap().dims(), [SEQUENCES, LEN]);
            assert_close_metrics(&metrics, &expected);
        }
    }

    // Packed, they are vectors.
    let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
    let cu_seqlens = Tensor::new(&[0u32, 5, 10, 15, 20], &Device::Cpu).unwrap();
    let packed = Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken).unwrap();
    let metrics = token_metrics(&logits.flatten(0, 1).unwrap(), &packed, MetricsLevel::All).unwrap();
    assert_eq!(metrics.entropy.unwrap().dims(), [SEQUENCES * LEN]);
}

#[test]
fn metrics_up_to_a_level() {
    let metrics = |level| run(&targets().with_token_metrics(level), &ref_logps(), &sigmoid()).0.token_metrics;
    let none = metrics(MetricsLevel::None);
    assert!(none.entropy.is_none() && none.correct.is_none() && none.mean.is_none());
    let entropy = metrics(MetricsLevel::Entropy);
    assert!(entropy.correct.is_none() && entropy.sequence_log_weights.is_none() && entropy.mean.is_none());
    let all = metrics(MetricsLevel::All);
    assert_eq!(values(&entropy.entropy.unwrap()), values(&all.entropy.unwrap()));
}

/// Each array against that of f64.
fn assert_close_metrics(metrics: &TokenMetrics, expected: &dpo_kernels::TokenMetrics<f64>) {
    let found = |tensor: &Option<Tensor>| tensor.clone().expect("asked for");
    assert_close(&found(&metrics.entropy), &expected.entropy);
    assert_eq!(values(&found(&metrics.correct)), expected.correct);
    assert_close(&found(&metrics.mean_logit), &expected.mean_logit);
    assert_close(&found(&metrics.sum_p2), &expected.sum_p2);
    assert_close(&found(&metrics.sequence_log_weights), &expected.sequence_log_weights);
}

/// The means over the batch against those of f64.
fn assert_close_mean(metrics: &TokenMetrics, expected: &MeanTokenMetrics<f64>) {
    let found = metrics.mean.as_ref().unwrap().read().unwrap();
    assert_eq!(found.scored, expected.scored);
    for (name, found, expected) in [
        ("entropy", found.entropy, expected.entropy),
        ("accuracy", found.accuracy, expected.accuracy),
        ("mean_logit", found.mean_logit, expected.mean_logit),
        ("logsumexp", found.logsumexp, expected.logsumexp),
        ("sum_p2", found.sum_p2, expected.sum_p2),
    ] {
        assert!(
            (f64::from(found) - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
            "{name}: {found}"
        );
    }
}

#[test]
fn asking_for_metrics_changes_no_bit() {
    let (plain, gradient) = run(&targets(), &ref_logps(), &sigmoid());
    let (asked, same) = run(&targets().with_token_metrics(MetricsLevel::All), &ref_logps(), &sigmoid());
    assert_eq!(values(&asked.loss), values(&plain.loss));
    assert_eq!(values(&asked.logps), values(&plain.logps));
    assert_eq!(values(&same), values(&gradient));
}

#[test]
fn wpo() {
    let logits = Tensor::from_vec(logits(), (SEQUENCES, LEN, VOCAB), &Device::Cpu).unwrap();
    let sequence_log_weights =
        token_metrics(&logits, &targets(), MetricsLevel::All).unwrap().sequence_log_weights;
    let weights = values(sequence_log_weights.as_ref().unwrap());
    let inputs = Inputs { sequence_log_weights, ..ref_logps() };
    let weighted = values(&run(&targets(), &inputs, &sigmoid()).0.pair_losses);
    let plain = values(&run(&targets(), &ref_logps(), &sigmoid()).0.pair_losses);
    for pair in 0..2 {
        let expected = plain[pair] * (weights[pair] + weights[pair + 2]).exp();
        assert!((weighted[pair] - expected).abs() <= TOLERANCE * expected, "{weighted:?}");
    }
}

#[test]
fn keys_are_those_of_the_batch() {
    let ids: Vec<u32> = (0..(SEQUENCES * LEN) as u32).map(|i| i * 5 % VOCAB as u32).collect();
    let tokens = Tensor::from_slice(&ids, (SEQUENCES, LEN), &Device::Cpu).unwrap();
    let transform = Transform { valid_vocab: Some(10), ..Transform::default() };
    for (targets, batch) in [
        (targets(), batch()),
        (targets().with_pairs(Pairs::None).unwrap(), batch()),
        (targets().with_transform(transform), HostBatch { transform, ..batch() }),
        (targets().with_ld_alpha(0.5), HostBatch { ld_alpha: 0.5, ..batch() }),
    ] {
        let expected = batch.sequence_keys(&ids, LABELS[..].into()).unwrap();
        assert_eq!(targets.sequence_keys(&tokens).unwrap(), expected);
        assert_eq!(targets.sequence_keys(&tokens.to_dtype(DType::I64).unwrap()).unwrap(), expected);
    }
    let cu_seqlens = [0, 5, 12, 20];
    let batch = HostBatch { sequences: Sequences::Packed { cu_seqlens: &cu_seqlens, rows: 20 }, ..batch() };
    let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
    let cu_seqlens = Tensor::new(&cu_seqlens, &Device::Cpu).unwrap();
    let packed = Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken).unwrap();
    assert_eq!(
        packed.sequence_keys(&tokens.flatten_all().unwrap()).unwrap(),
        batch.sequence_keys(&ids, LABELS[..].into()).unwrap()
    );
}
