//! What stands around the loss, by closed forms: transforms, token metrics, weights, skipping, overflow. On the f64
//! reference and the CPU backend alike.

use dpo_kernels::cpu::BackwardInputs;
use dpo_kernels::memory::Number;
use dpo_kernels::{
    Batch, Coef, Error, Forward, GradientStatus, HostBatch, LabelAlignment, Logit, Logps, PairInputs,
    PairLoss, Pairs, Transform, cpu, reference,
};
use dpo_kernels::{MeanTokenMetrics, TokenMetrics};
use half::{bf16, f16};

fn logits(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1601) as f32 / 100.0 - 8.0).collect()
}

fn run<T: Logit>(batch: &HostBatch<'_>, logits: &[T], labels: &[i64]) -> Logps<f32> {
    let mut out = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
    cpu::logps(batch, logits, labels.into(), &mut out).unwrap();
    out
}

fn gradient(batch: &HostBatch<'_>, logits: &[f32], labels: &[i64], coef: Coef<'_>) -> Vec<f32> {
    let logps = run(batch, logits, labels);
    let mut dlogits = vec![7.0; logits.len()];
    cpu::backward(batch, logits, labels.into(), BackwardInputs::new(&logps, coef), &mut dlogits).unwrap();
    dlogits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Uniform rows, over n tokens: H = ln n, Σp² = 1/n, and the first of equals is the most probable one.
#[test]
fn uniform_rows() {
    let batch = HostBatch::padded(2, 2, 1000, LabelAlignment::Aligned);
    let valid = Batch { transform: Transform { valid_vocab: Some(10), ..Transform::default() }, ..batch };
    for (batch, n) in [(batch, 1000.0f64), (valid, 10.0)] {
        let out = run(&batch, &[2.5f32; 4000], &[0, 1, -100, 9]);
        let metrics = out.metrics.unwrap();
        let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 4e-7 * expected.abs();
        for row in [0, 1, 3] {
            assert!(close(metrics.entropy[row], n.ln()) && close(metrics.sum_p2[row], 1.0 / n));
            assert!(close(metrics.mean_logit[row], 2.5));
        }
        assert_eq!(metrics.correct, [1.0, 0.0, 0.0, 0.0]);
        assert_eq!((metrics.entropy[2], metrics.mean_logit[2], metrics.sum_p2[2]), (0.0, 0.0, 0.0));
        // log p − log Σp² is 0 for uniform rows.
        assert!(metrics.sequence_log_weights.iter().all(|weight| weight.abs() < 2e-6));
    }
}

/// A token that is certain has no entropy; one that is masked by −∞ adds none.
#[test]
fn certain_and_masked_tokens() {
    let mut row = vec![f32::NEG_INFINITY; 300];
    row[270] = -4.0;
    let out = run(
        &Batch { pairs: Pairs::None, ..HostBatch::padded(1, 1, 300, LabelAlignment::Aligned) },
        &row,
        &[270],
    );
    let metrics = out.metrics.unwrap();
    assert_eq!((out.token_logps[0], metrics.entropy[0], metrics.sum_p2[0]), (0.0, 0.0, 1.0));
    assert_eq!((metrics.correct[0], metrics.mean_logit[0]), (1.0, f32::NEG_INFINITY));
    row[3] = -4.0;
    let out = run(
        &Batch { pairs: Pairs::None, ..HostBatch::padded(1, 1, 300, LabelAlignment::Aligned) },
        &row,
        &[270],
    );
    let metrics = out.metrics.unwrap();
    assert!((metrics.entropy[0] - std::f32::consts::LN_2).abs() < 1e-7 && metrics.sum_p2[0] == 0.5);
    assert_eq!(metrics.correct[0], 0.0, "the first of equals is token 3");
}

/// Neither a NaN nor a bad label is ever right.
#[test]
fn rows_that_cannot_be_scored() {
    let mut values = logits(2 * 200);
    values[7] = f32::NAN;
    let batch = Batch { pairs: Pairs::None, ..HostBatch::padded(1, 2, 200, LabelAlignment::Aligned) };
    let out = run(&batch, &values, &[7, 200]);
    let metrics = out.metrics.unwrap();
    for row in 0..2 {
        let figures = [metrics.entropy[row], metrics.mean_logit[row], metrics.sum_p2[row]];
        assert!(figures.iter().all(|figure| figure.is_nan()), "{figures:?}");
        assert_eq!(metrics.correct[row], 0.0);
    }
    assert!(metrics.sequence_log_weights[0].is_nan());
    let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = metrics.mean;
    assert!([entropy, mean_logit, logsumexp, sum_p2].iter().all(|mean| mean.is_nan()));
    assert_eq!((scored, accuracy), (2, 0.0));
}

/// Means are over the scored rows alone, whatever these weigh; of no rows they are 0; and those of the parts of a batch,
/// weighted by their numbers of rows, make the whole's.
#[test]
fn means_are_of_the_scored_rows() {
    fn figures(means: MeanTokenMetrics<f64>) -> [f64; 5] {
        [means.entropy, means.accuracy, means.mean_logit, means.logsumexp, means.sum_p2]
    }
    fn wide(means: MeanTokenMetrics<f32>) -> MeanTokenMetrics<f64> {
        let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = means;
        let [entropy, accuracy, mean_logit, logsumexp, sum_p2] =
            [entropy, accuracy, mean_logit, logsumexp, sum_p2].map(f64::from);
        MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 }
    }
    /// Within `error` of its size of the mean of the rows that are scored.
    fn check<F: Number>(logps: &Logps<F>, labels: &[i64], means: MeanTokenMetrics<f64>, error: f64) {
        let metrics = logps.metrics.as_ref().unwrap();
        let rows: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != -100).collect();
        assert_eq!(means.scored as usize, rows.len());
        let of_rows =
            [&metrics.entropy, &metrics.correct, &metrics.mean_logit, &logps.logsumexp, &metrics.sum_p2];
        for (figures, mean) in of_rows.into_iter().zip(figures(means)) {
            let figures = rows.iter().map(|&row| -> f64 { figures[row].into() });
            let (sum, size) = (figures.clone().sum::<f64>(), figures.map(f64::abs).sum::<f64>());
            let rows = rows.len() as f64;
            assert!((mean - sum / rows).abs() <= error * size / rows, "{mean}, not {}", sum / rows);
        }
    }
    let labels = [5i64, -100, 700, 1, 2, 3, -100, -100, 900, -100, 11, 12];
    let mut values = logits(12 * 1003);
    for row in [3, 4, 10] {
        values[row * 1003 + labels[row] as usize] = 9.0; // the most probable token
    }
    let batch = Batch { ld_alpha: 0.0, ..HostBatch::padded(4, 3, 1003, LabelAlignment::Aligned) };
    let whole = run(&batch, &values, &labels);
    let exact = reference::logps(&batch, &values, labels[..].into()).unwrap();
    let means = whole.metrics.as_ref().unwrap().mean;
    assert_eq!((means.scored, means.accuracy), (8, 0.375));
    // One rounding, and eight additions in f64.
    let unit = f64::from(f32::EPSILON) / 2.0;
    check(&whole, &labels, wide(means), unit + 16.0 * f64::EPSILON);
    check(&exact, &labels, exact.metrics.as_ref().unwrap().mean, 16.0 * f64::EPSILON);

    let parts = [0, 1].map(|half| {
        let (values, labels) = (&values[half * 6 * 1003..][..6 * 1003], &labels[half * 6..][..6]);
        wide(
            run(&HostBatch::padded(2, 3, 1003, LabelAlignment::Aligned), values, labels)
                .metrics
                .unwrap()
                .mean,
        )
    });
    assert_eq!(parts.map(|part| part.scored), [5, 3]);
    let [first, second] = parts.map(figures);
    for (at, mean) in figures(wide(means)).into_iter().enumerate() {
        let (first, second) = (5.0 / 8.0 * first[at], 3.0 / 8.0 * second[at]);
        let error = 2.0 * unit * (first.abs() + second.abs());
        assert!((mean - (first + second)).abs() <= error, "{mean}, not {first} + {second}");
    }

    let none = run(&HostBatch::padded(2, 2, 1003, LabelAlignment::Aligned), &values[..4 * 1003], &[-100; 4]);
    assert_eq!(none.metrics.unwrap().mean, MeanTokenMetrics::default());
}

/// Metrics are beside the point: asking for them changes no bit of the rest.
#[test]
fn metrics_change_nothing_else() {
    let (values, labels) = (logits(4 * 1003), [5i64, 1002, -100, 0]);
    for transform in [
        Transform::default(),
        Transform { scale: 1.25, ..Transform::default() },
        Transform { softcap: Some(5.0), ..Transform::default() },
    ] {
        let batch = Batch { transform, ..HostBatch::padded(2, 2, 1003, LabelAlignment::Aligned) };
        let mut plain = Logps::default();
        cpu::logps(&batch, &values, labels[..].into(), &mut plain).unwrap();
        let with = run(&batch, &values, &labels);
        assert_eq!(Logps { metrics: None, ..with }, plain);
    }
}

/// A scale of 2 is exact in f32: as if the logits had been doubled, and the chain rule doubles the gradient.
#[test]
fn a_scale_is_a_scale() {
    let (values, labels) = (logits(2 * 777), [5i64, 700]);
    let doubled: Vec<f32> = values.iter().map(|z| 2.0 * z).collect();
    let plain = HostBatch::padded(2, 1, 777, LabelAlignment::Aligned);
    let scaled = Batch { transform: Transform { scale: 2.0, ..Transform::default() }, ..plain };
    let (one, other) = (run(&scaled, &values, &labels), run(&plain, &doubled, &labels));
    assert_eq!(bits(&one.token_logps), bits(&other.token_logps));
    assert_eq!(bits(&one.logsumexp), bits(&other.logsumexp));
    assert_eq!(one.metrics, other.metrics);
    let coef = [0.25, -1.0];
    let twice: Vec<f32> =
        gradient(&plain, &doubled, &labels, (&coef).into()).iter().map(|d| 2.0 * d).collect();
    assert_eq!(bits(&gradient(&scaled, &values, &labels, (&coef).into())), bits(&twice));
}

/// Far below the cap nothing happens; far above all is the cap, and nothing moves it.
#[test]
fn a_soft_cap_caps() {
    let labels = [1i64, 0];
    let capped = Batch {
        transform: Transform { softcap: Some(30.0), ..Transform::default() },
        ..HostBatch::padded(2, 1, 2, LabelAlignment::Aligned)
    };
    let values = [1e-3f32, -1e-3, 1e6, -f32::INFINITY];
    let out = run(&capped, &values, &labels);
    assert!((out.token_logps[0] - (-2e-3f32 - (1.0 + (-2e-3f32).exp()).ln())).abs() < 30.0 * 2f32.powi(-20));
    assert_eq!(out.logsumexp[1], 30.0, "the cap, and e⁻⁶⁰ beside it");
    assert!(out.token_logps[1].abs() < 2f32.powi(-21));
    let dlogits = gradient(&capped, &values, &labels, (&[1.0, 1.0]).into());
    assert!((dlogits[1] - 0.5).abs() < 1e-3 && (dlogits[0] + 0.5).abs() < 1e-3);
    assert_eq!(dlogits[2..], [0.0, 0.0]);
    // A row that is masked altogether is uniform over −C.
    let out = run(&capped, &[f32::NEG_INFINITY; 4], &labels);
    let ln_2 = std::f32::consts::LN_2;
    assert!((out.token_logps[0] + ln_2).abs() < 30.0 * 2f32.powi(-21));
    assert!((out.logsumexp[0] + 30.0 - ln_2).abs() < 30.0 * 2f32.powi(-21));
    assert_eq!(out.metrics.unwrap().correct, [0.0, 1.0]);
}

/// A padded vocabulary gives the bits of the vocabulary without padding, zeros beyond, and bad labels there.
#[test]
fn a_padded_vocabulary_is_the_vocabulary() {
    let (vocab, valid, labels) = (1024, 1000, [5i64, 999, 0, -100]);
    let mut padded = vec![f32::NAN; 4 * vocab];
    for (row, values) in padded.chunks_mut(vocab).zip(logits(4 * valid).chunks(valid)) {
        row[..valid].copy_from_slice(values);
    }
    let plain = HostBatch { row_stride: vocab, ..HostBatch::padded(2, 2, valid, LabelAlignment::Aligned) };
    let transform = Transform { valid_vocab: Some(valid), ..Transform::default() };
    let batch = Batch { transform, ..HostBatch::padded(2, 2, vocab, LabelAlignment::Aligned) };
    assert_eq!(run(&batch, &padded, &labels), run(&plain, &padded, &labels));
    let coef = [0.5, -0.25];
    let (with, without) = (
        gradient(&batch, &padded, &labels, (&coef).into()),
        gradient(&plain, &padded, &labels, (&coef).into()),
    );
    for (with, without) in with.chunks(vocab).zip(without.chunks(vocab)) {
        assert_eq!(bits(&with[..valid]), bits(&without[..valid]));
        assert!(with[valid..].iter().all(|&d| d == 0.0));
    }
    let status = run(&batch, &padded, &[5, 999, 0, 1000]).status;
    assert_eq!(status.bad_label, Some(3));
}

/// LD-DPO by hand: 3 and 1 scored tokens, so that two of the first sequence weigh α.
#[test]
fn ld_alpha_weighs_the_tail() {
    let (values, labels) = (logits(2 * 4 * 11), [1i64, -100, 2, 3, -100, 4, -100, -100]);
    for pairs in [Pairs::Concatenated, Pairs::Interleaved] {
        let plain = Batch { pairs, ..HostBatch::padded(2, 4, 11, LabelAlignment::Aligned) };
        let batch = Batch { ld_alpha: 0.25, ..plain };
        let (one, whole) = (run(&batch, &values, &labels), run(&plain, &values, &labels));
        assert_eq!(one.token_weights, [1.0, 0.0, 0.25, 0.25, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(whole.token_weights, [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let t: Vec<f64> = one.token_logps.iter().map(|&logp| logp.into()).collect();
        assert_eq!(one.logps, [(t[0] + 0.25 * (t[2] + t[3])) as f32, t[5] as f32]);
        assert_eq!(one.scored, [3, 1], "lengths are what they were");
        let coef =
            Coef { sequences: Some(&[1.0, -1.0]), tokens: Some(&one.token_weights), ..Coef::default() };
        let weighted = gradient(&batch, &values, &labels, coef);
        let plain = gradient(&plain, &values, &labels, (&[1.0, -1.0]).into());
        for (row, weight) in one.token_weights.iter().enumerate() {
            for at in row * 11..(row + 1) * 11 {
                assert_eq!(weighted[at], weight * plain[at]); // a power of two is exact
            }
        }
    }
}

/// The factored gradient is the same with LD-DPO's weights and without: they are a part of the coefficients, which it
/// leaves out.
#[test]
fn ld_alpha_is_left_out_of_the_factored_gradient() {
    let (values, labels) = (logits(2 * 4 * 11), [1i64, -100, 2, 3, -100, 4, -100, -100]);
    let plain = HostBatch::padded(2, 4, 11, LabelAlignment::Aligned);
    let gradient = |batch: &HostBatch<'_>| {
        let logps = reference::logps(batch, &values, labels[..].into()).unwrap();
        reference::factored_gradient(batch, &values, labels[..].into(), &logps.logsumexp).unwrap()
    };
    let weighted = Batch { ld_alpha: 0.25, ..plain };
    assert_eq!(gradient(&weighted), gradient(&plain));

    let (mut out, mut found) = (Forward::default(), vec![7.0f32; values.len()]);
    let (loss, inputs) = (PairLoss::sigmoid(0.1).unwrap(), PairInputs::reference(&[-3.0, -2.0][..]));
    cpu::factored(&weighted, &values, labels[..].into(), &inputs, &loss, &mut out, &mut found).unwrap();
    for (found, expected) in found.iter().zip(gradient(&weighted)) {
        assert!(
            (f64::from(*found) - expected).abs() < 4.0 * f64::from(f32::EPSILON),
            "{found}, not {expected}"
        );
    }

    let short = reference::factored_gradient(
        &HostBatch::padded(2, 0, 11, LabelAlignment::Aligned),
        &values,
        labels[..].into(),
        &[],
    );
    assert!(matches!(short, Err(Error::Value { argument: "rows", .. })), "{short:?}");
}

/// A label whose logit is infinite has no gradient that is a number, whoever's the coefficient is.
#[test]
fn the_gradient_of_an_infinite_label_is_nan() {
    let (labels, coef) = ([1i64, 2], [1.0f32, -1.0]);
    let batch = HostBatch::padded(2, 1, 5, LabelAlignment::Aligned);
    let mut values = logits(2 * 5);
    values[1] = f32::INFINITY;
    let found = gradient(&batch, &values, &labels, (&coef).into());
    let logps = reference::logps(&batch, &values, labels[..].into()).unwrap();
    let lse = &logps.logsumexp;
    let expected = reference::backward(&batch, &values, labels[..].into(), lse, &[1.0, -1.0], 1.0).unwrap();
    for (at, (&found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!((found.is_nan(), expected.is_nan()), (at == 1, at == 1), "{at}: {found}, {expected}");
    }
}

/// Rows whose coefficient is 0, or no larger than the threshold, are zeros and not read; NaN is never skipped.
#[test]
fn skipped_rows_are_not_read() {
    let labels = [1i64, 2, 3, 4];
    let batch = HostBatch::padded(4, 1, 50, LabelAlignment::Aligned);
    let values = logits(4 * 50);
    let logps = run(&batch, &values, &labels);
    let mut poisoned = values.clone();
    poisoned[..100].fill(f32::NAN);
    let coef = Coef { sequences: Some(&[0.0, -1e-3, 2e-3, f32::NAN]), threshold: 1e-3, ..Coef::default() };
    let mut dlogits = vec![7.0; 200];
    let status =
        cpu::backward(&batch, &poisoned, labels[..].into(), BackwardInputs::new(&logps, coef), &mut dlogits)
            .unwrap();
    assert!(dlogits[..100].iter().all(|d| d.to_bits() == 0));
    assert!(dlogits[100..150].iter().all(|&d| d != 0.0 && d.is_finite()));
    assert!(dlogits[150..].iter().all(|d| d.is_nan()));
    assert_eq!(status.nonfinite_row, Some(3));
    let in_place =
        cpu::backward_in_place(&batch, &mut poisoned, labels[..].into(), BackwardInputs::new(&logps, coef));
    assert_eq!(in_place, Ok(status));
    assert_eq!(bits(&poisoned), bits(&dlogits));

    let exact: Vec<f64> = logps.logsumexp.iter().map(|&x| x.into()).collect();
    let coef = Coef { sequences: Some(&[0.0, -1e-3, 2e-3, 1.0][..]), threshold: 1e-3, ..Coef::default() };
    let dlogits = reference::backward(&batch, &values, labels[..].into(), &exact, coef, 1.0).unwrap();
    assert!(dlogits[..100].iter().all(|&d| d == 0.0) && dlogits[100..].iter().all(|&d| d != 0.0));
    // A bad label is NaN whatever its coefficient.
    let mut dlogits = vec![7.0; 200];
    let bad = [50i64, 2, 3, 4];
    let logps = run(&batch, &values, &bad);
    cpu::backward(
        &batch,
        &values,
        bad[..].into(),
        BackwardInputs::new(&logps, coef_of(&[0.0; 4])),
        &mut dlogits,
    )
    .unwrap();
    assert!(dlogits[..50].iter().all(|d| d.is_nan()) && dlogits[50..].iter().all(|&d| d == 0.0));
}

fn coef_of(sequences: &[f32]) -> Coef<'_> {
    sequences.into()
}

/// An f16 beyond 65504 is an infinity, and said to be one; the same gradient fits into a bf16.
#[test]
fn overflow_is_reported() {
    fn first<T: Logit>(upstream: f32) -> GradientStatus {
        let batch = HostBatch::padded(2, 2, 40, LabelAlignment::Aligned);
        let values: Vec<T> = logits(4 * 40).into_iter().map(T::from_f32).collect();
        let labels = [-100i64, 1, 2, 3];
        let logps = run(&batch, &values, &labels);
        let mut dlogits = vec![T::from_f32(0.0); values.len()];
        let coef = [-1.0, 2.0];
        let status = cpu::backward(
            &batch,
            &values,
            labels[..].into(),
            BackwardInputs::new(&logps, &coef).with_upstream(upstream),
            &mut dlogits,
        )
        .unwrap();
        let found = dlogits.iter().position(|d| !d.to_f32().is_finite()).map(|at| at / 40);
        assert_eq!(status.nonfinite_row, found);
        status
    }
    assert_eq!(first::<f16>(1.0).check(), Ok(()));
    // Only the coefficient of 2 reaches beyond.
    assert_eq!(first::<f16>(60_000.0).nonfinite_row, Some(2));
    let status = first::<f16>(90_000.0);
    assert_eq!(status.nonfinite_row, Some(1));
    assert_eq!(status.check(), Err(Error::Gradient(status)));
    assert_eq!(
        status.check().unwrap_err().to_string(),
        "gradient: expected finite numbers, found infinity or NaN, first in row 1"
    );
    assert!(first::<bf16>(90_000.0).is_clean());
    assert!(!first::<f32>(3e38).is_clean());
}

/// At step 0 policy and reference are one model, whatever is done to its logits.
#[test]
fn policy_equal_to_reference_under_transforms() {
    let (values, labels) = (logits(4 * 3 * 333), [5i64, 32, -100, 0, 1, 2, 3, 9, 17, 300, 299, 11]);
    for (softcap, ld_alpha) in [(None, 0.5), (Some(5.0), 1.0), (Some(5.0), 0.0)] {
        let transform = Transform { scale: 0.7, softcap, valid_vocab: Some(330) };
        let batch = Batch { transform, ld_alpha, ..HostBatch::padded(4, 3, 333, LabelAlignment::Aligned) };
        let loss = PairLoss::sigmoid(0.1f32).unwrap();
        let ref_logps = run(&batch, &values, &labels).logps;
        let mut out = Forward::default();
        cpu::forward(&batch, &values, labels[..].into(), &PairInputs::reference(&ref_logps), &loss, &mut out)
            .unwrap();
        assert!(
            out.pairs.chosen_rewards.iter().chain(&out.pairs.rejected_rewards).all(|&reward| reward == 0.0)
        );
        assert!(out.pairs.pair_losses.iter().all(|&loss| loss == std::f32::consts::LN_2));
    }
}
