//! Finite differences in f64 against the reference's own gradients: of the whole chain, logits → log-probs → loss, and
//! of `pair_loss` for every loss. And the cases in which a paper's loss is another, or a number.

use dpo_kernels::loss::{ALL, Divergence, Kind, PairInputs};
use dpo_kernels::{
    Coef, EntropyCoef, HostBatch, LabelAlignment, PairLoss, Pairs, Sequences, Transform, reference,
};
use proptest::prelude::*;

/// Step of the central difference. Its truncation error is STEP²/6 times the third derivative, which the losses here
/// (β ≤ 1, few tokens, upstream/normaliser ≤ 2) keep below 10, times the cube of a transform's slope, which is at most
/// its scale, 1.5, and as much again for the soft cap's own curvature: below 70. Its rounding error is that of the loss over STEP.
const STEP: f64 = 1e-5;

fn tolerance(loss: f64) -> f64 {
    let truncation = STEP * STEP / 6.0 * 70.0;
    let rounding = 32.0 * f64::EPSILON * loss.abs().max(1.0) / STEP;
    truncation + rounding
}

struct Chain<'a> {
    batch: HostBatch<'a>,
    labels: &'a [i64],
    ref_logps: Option<&'a [f64]>,
    loss: PairLoss,
    upstream: f64,
}

impl Chain<'_> {
    fn loss(&self, logits: &[f64]) -> f64 {
        let logps = reference::logps(&self.batch, logits, self.labels.into()).unwrap();
        let (sums, lengths) = (&logps.logps, Some(&logps.scored[..]));
        let pairs = reference::pair_loss(
            &self.batch,
            sums,
            lengths,
            &PairInputs { ref_logps: self.ref_logps, ..PairInputs::NONE },
            &self.loss,
        )
        .unwrap();
        self.upstream * pairs.metrics.loss
    }

    fn gradient(&self, logits: &[f64]) -> Vec<f64> {
        let labels = self.labels.into();
        let logps = reference::logps(&self.batch, logits, labels).unwrap();
        let (sums, lengths) = (&logps.logps, Some(&logps.scored[..]));
        let pairs = reference::pair_loss(
            &self.batch,
            sums,
            lengths,
            &PairInputs { ref_logps: self.ref_logps, ..PairInputs::NONE },
            &self.loss,
        )
        .unwrap();
        let tokens = (self.batch.ld_alpha != 1.0).then_some(&logps.token_weights[..]);
        let coef = Coef { sequences: Some(&pairs.coef[..]), tokens, threshold: 0.0 };
        reference::backward(&self.batch, logits, labels, &logps.logsumexp, coef, self.upstream).unwrap()
    }

    fn check(&self, logits: &[f64]) {
        let gradient = self.gradient(logits);
        let tolerance = tolerance(self.loss(logits));
        for i in 0..logits.len() {
            let shifted = |by: f64| {
                let mut logits = logits.to_vec();
                logits[i] += by;
                self.loss(&logits)
            };
            let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            assert!(
                (difference - gradient[i]).abs() <= tolerance,
                "logit {i}: finite difference {difference:e}, gradient {:e}",
                gradient[i]
            );
        }
    }
}

const SEQUENCES: usize = 4;
const LEN: usize = 4;
const VOCAB: usize = 5;
const STRIDE: usize = 7;
const ROWS: usize = SEQUENCES * LEN;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn of_the_whole_chain(
        logits in prop::collection::vec(-3.0..3.0f64, ROWS * STRIDE),
        labels in prop::collection::vec(prop_oneof![3 => 0..VOCAB as i64, 1 => Just(-100)], ROWS),
        ref_logps in prop::option::of(prop::collection::vec(-12.0..0.0f64, SEQUENCES)),
        packed in any::<bool>(),
        next_token in any::<bool>(),
        layout in 0..3,
        beta in 0.05..1.0f64,
        label_smoothing in prop_oneof![Just(0.0), 0.0..0.5f64],
        length_normalized in any::<bool>(),
        normalizer in prop::option::of(1.0..4.0f64),
        upstream in -2.0..2.0f64,
        scale in prop_oneof![Just(1.0), 0.5..1.5f32],
        softcap in prop::option::of(2.0..10.0f32),
        valid_vocab in prop::option::of(3..=VOCAB),
        ld_alpha in prop_oneof![Just(1.0), Just(0.0), 0.0..1.0f32],
    ) {
        let mut loss = PairLoss::sigmoid(beta).unwrap().with_label_smoothing(label_smoothing).unwrap();
        if ref_logps.is_none() {
            loss = loss.without_reference();
        }
        if length_normalized {
            loss = loss.with_length_normalization();
        }
        if let Some(normalizer) = normalizer {
            loss = loss.with_normalizer(normalizer).unwrap();
        }
        // Sequence 2 has no rows.
        let cu_seqlens = [0, 3, 9, 9, ROWS as i32];
        let sequences = if packed {
            Sequences::Packed { cu_seqlens: &cu_seqlens[..], rows: ROWS }
        } else {
            Sequences::Padded { count: SEQUENCES, len: LEN }
        };
        let alignment = if next_token { LabelAlignment::NextToken } else { LabelAlignment::Aligned };
        let batch = HostBatch {
            row_stride: STRIDE,
            pairs: match layout {
                0 => Pairs::Concatenated,
                1 => Pairs::Interleaved,
                // Sequence 1 stands in all pairs, sequence 2 in none.
                _ => Pairs::Indexed { chosen: &[0, 1, 1], rejected: &[1, 3, 0] },
            },
            transform: Transform { scale, softcap, valid_vocab },
            ld_alpha: if layout == 2 { 1.0 } else { ld_alpha },
            ..HostBatch::new(VOCAB, sequences, alignment)
        };
        let labels: Vec<i64> =
            labels.iter().map(|&label| label.min(batch.columns() as i64 - 1)).collect();
        let chain = Chain { batch, labels: &labels, ref_logps: ref_logps.as_deref(), loss, upstream };
        chain.check(&logits[..batch.logits_len()]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Σ e_r H_r, whose third derivatives stay below those of the chain above.
    #[test]
    fn of_the_entropies(
        logits in prop::collection::vec(-3.0..3.0f64, 3 * STRIDE),
        coef in prop::collection::vec(-1.0..1.0f64, 3),
        masked in prop::option::of(1..VOCAB),
        upstream in -2.0..2.0f64,
        scale in prop_oneof![Just(1.0), 0.5..1.5f32],
        softcap in prop::option::of(2.0..10.0f32),
        valid_vocab in prop::option::of(3..=VOCAB),
    ) {
        let batch = HostBatch {
            row_stride: STRIDE,
            pairs: Pairs::None,
            transform: Transform { scale, softcap, valid_vocab },
            ..HostBatch::padded(1, 3, VOCAB, LabelAlignment::Aligned)
        };
        let mut logits = logits[..batch.logits_len()].to_vec();
        if let (Some(column), None) = (masked, softcap) {
            logits[STRIDE + column] = f64::NEG_INFINITY;
        }
        let labels = [0i64, 0, -100];
        let of = |logits: &[f64]| reference::logps(&batch, logits, labels[..].into()).unwrap();
        let objective = |logits: &[f64]| -> f64 {
            let metrics = of(logits).metrics.unwrap();
            coef.iter().zip(&metrics.entropy).map(|(e, h)| upstream * e * h).sum()
        };
        let out = of(&logits);
        let entropy = EntropyCoef { coef: &coef, entropy: &out.metrics.as_ref().unwrap().entropy };
        let gradient =
            reference::entropy_gradient(&batch, &logits, labels[..].into(), &out.logsumexp, entropy, upstream)
                .unwrap();
        let tolerance = tolerance(objective(&logits));
        for i in 0..logits.len() {
            if !logits[i].is_finite() {
                assert_eq!(gradient[i], 0.0);
                continue;
            }
            let shifted = |by: f64| {
                let mut logits = logits.clone();
                logits[i] += by;
                objective(&logits)
            };
            let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            prop_assert!(
                (difference - gradient[i]).abs() <= tolerance,
                "logit {i}: finite difference {difference:e}, gradient {:e}", gradient[i]
            );
        }
    }
}

/// Four pairs of log-probs, and everything that `pair_loss` can be given with them.
const LOGPS: [f64; 8] = [-3.1, -7.4, -2.2, -9.5, -4.0, -6.3, -5.9, -1.7];
const REF_LOGPS: [f64; 8] = [-3.9, -6.6, -4.1, -8.2, -3.3, -7.7, -5.1, -2.9];
const SCORED: [u32; 8] = [2, 5, 3, 4, 3, 4, 6, 1];
const KL_LOGPS: [f64; 3] = [-4.0, -5.5, -3.0];
const KL_REF_LOGPS: [f64; 3] = [-5.0, -6.0, -4.5];

fn has(loss: &PairLoss, property: fn(&Kind) -> bool) -> bool {
    loss.terms().iter().any(|term| property(term.kind))
}

fn everything(loss: &PairLoss) -> PairInputs<'static, f64> {
    let with_gamma = loss.with_gamma(1.0).is_ok();
    PairInputs {
        beta: has(loss, Kind::reads_beta).then_some(&[0.3, 0.5, 0.7, 0.9]),
        gamma: with_gamma.then_some(&[0.5, -0.25, 0.0, 1.0]),
        weight: Some(&[1.0, 0.5, 2.0, 0.25]),
        label_smoothing: loss.with_label_smoothing(0.1).is_ok().then_some(&[0.1, 0.2, 0.3, 0.4]),
        sequence_log_weights: Some(&[-0.5, -1.0, 0.25, 0.0, -0.75, -0.1, -0.2, -0.3]),
        lengths: Some(&[3, 6, 4, 0, 4, 5, 7, 2]),
        normalizer: loss.takes_normalizer().then_some(2.5),
        chosen_tokens: has(loss, Kind::counts_chosen_tokens).then_some(13.0),
        ..least(loss)
    }
}

/// What a loss cannot be without.
fn least(loss: &PairLoss) -> PairInputs<'static, f64> {
    let baseline = loss.estimates_baseline();
    PairInputs {
        ref_logps: (!loss.is_reference_free()).then_some(&REF_LOGPS),
        kl_logps: baseline.then_some(&KL_LOGPS),
        kl_ref_logps: baseline.then_some(&KL_REF_LOGPS),
        ..PairInputs::default()
    }
}

fn loss_of(
    batch: &HostBatch<'_>,
    logps: &[f64],
    inputs: &PairInputs<'_, f64>,
    loss: &PairLoss,
) -> (f64, Vec<f64>) {
    let out = reference::pair_loss(batch, logps, Some(&SCORED), inputs, loss).unwrap();
    (out.metrics.loss, out.coef)
}

/// Third derivatives reach (1/τ)³ for DiscoPOP, 1/(1 − 2ε) for robust and e^x for f-divergences; at this step they
/// leave 10⁻⁷ of a loss's size.
fn check_pair_loss(batch: &HostBatch<'_>, inputs: &PairInputs<'_, f64>, loss: &PairLoss) {
    const STEP: f64 = 1e-6;
    let (value, coef) = loss_of(batch, &LOGPS, inputs, loss);
    assert!(value.is_finite(), "{loss:?}");
    for s in 0..LOGPS.len() {
        let shifted = |by: f64| {
            let mut logps = LOGPS;
            logps[s] += by;
            loss_of(batch, &logps, inputs, loss).0
        };
        let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
        let tolerance = 1e-7 * value.abs().max(1.0);
        assert!(
            (difference - coef[s]).abs() <= tolerance,
            "{loss:?}: sequence {s}: finite difference {difference:e}, coef {:e}",
            coef[s]
        );
    }
}

fn check_loss(loss: PairLoss) {
    let batch = HostBatch::for_pair_loss(8);
    let indexed =
        HostBatch { pairs: Pairs::Indexed { chosen: &[0, 1, 2, 0], rejected: &[4, 3, 6, 7] }, ..batch };
    let unpaired = HostBatch { pairs: Pairs::Unpaired { desirable: &[1, 0, 0, 1, 1, 1, 0, 0] }, ..batch };
    for batch in [batch, indexed, unpaired] {
        let least = least(&loss);
        if reference::pair_loss(&batch, &LOGPS, Some(&SCORED), &least, &loss).is_err() {
            assert_eq!(batch.pairs, unpaired.pairs, "{loss:?}");
            continue;
        }
        check_pair_loss(&batch, &least, &loss);
        if loss.takes_normalizer() {
            check_pair_loss(&batch, &least, &loss.with_token_normalizer());
        }
        check_pair_loss(&batch, &least, &loss.with_length_normalization());
        if !has(&loss, Kind::couples_pairs) && batch.pairs != unpaired.pairs {
            check_pair_loss(&batch, &everything(&loss), &loss);
        }
    }
}

#[test]
fn of_every_loss() {
    for info in &ALL {
        check_loss(info.make(0.4, &[]).unwrap());
    }
}

#[test]
fn of_every_divergence() {
    let divergences = [
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha(0.0),
        Divergence::Alpha(0.5),
        Divergence::Alpha(1.0),
        Divergence::Alpha(3.0),
    ];
    for loss in ALL.iter().map(|info| info.make(0.4, &[]).unwrap()) {
        let takes_it = loss.terms().iter().all(|term| term.kind.is_of_margin());
        for divergence in divergences {
            let with_divergence = loss.with_divergence(divergence);
            assert_eq!(with_divergence.is_ok(), takes_it, "{loss:?}");
            with_divergence.into_iter().for_each(check_loss);
        }
    }
}

#[test]
fn of_sums() {
    let loss = |name: &str| PairLoss::named(name, 0.4).unwrap();
    check_loss(
        loss("sigmoid")
            .weighted(0.8)
            .unwrap()
            .and(loss("bco_pair"), 0.2)
            .unwrap()
            .and(loss("sft"), 1.0)
            .unwrap(),
    );
    check_loss(loss("aot").and(loss("aot_unpaired"), 2.0).unwrap().with_label_smoothing(0.2).unwrap());
    check_loss(loss("kto").and(loss("apo_zero"), 0.5).unwrap().with_kto_weights(1.5, 0.5).unwrap());
    check_loss(loss("hinge").and(loss("ipo"), 0.5).unwrap().with_gamma(0.3).unwrap());
}

/// What the papers' losses are in special cases.
mod limits {
    use super::*;

    const BETA: f64 = 0.4;

    fn out(loss: &PairLoss, inputs: &PairInputs<'_, f64>) -> (f64, Vec<f64>) {
        loss_of(&HostBatch::for_pair_loss(8), &LOGPS, inputs, loss)
    }

    fn assert_same((one, coef): (f64, Vec<f64>), (other, other_coef): (f64, Vec<f64>)) {
        let near = |x: f64, y: f64| (x - y).abs() <= 1e-14 * x.abs().max(1.0);
        assert!(near(one, other), "{one} is not {other}");
        assert!(coef.iter().zip(&other_coef).all(|(&x, &y)| near(x, y)), "{coef:?} is not {other_coef:?}");
    }

    fn free() -> PairInputs<'static, f64> {
        PairInputs::default()
    }

    fn with_reference() -> PairInputs<'static, f64> {
        PairInputs { ref_logps: Some(&REF_LOGPS), ..PairInputs::default() }
    }

    #[test]
    fn simpo_without_gamma_is_sigmoid_norm_without_a_reference() {
        let simpo = PairLoss::simpo(BETA, 0.0).unwrap();
        let sigmoid_norm = PairLoss::sigmoid_norm(BETA).unwrap().without_reference();
        assert_same(out(&simpo, &free()), out(&sigmoid_norm, &free()));
    }

    #[test]
    fn simpo_s_gamma_is_a_margin_of_every_pair() {
        let simpo = PairLoss::simpo(BETA, 0.7).unwrap();
        let margin = PairInputs { gamma: Some(&[0.7; 4]), ..PairInputs::default() };
        let sigmoid_norm = PairLoss::sigmoid_norm(BETA).unwrap().without_reference();
        assert_same(out(&simpo, &free()), out(&sigmoid_norm, &margin));
    }

    #[test]
    fn cpo_without_nll_is_sigmoid_without_a_reference() {
        let cpo = PairLoss::cpo(BETA, 0.0).unwrap();
        let sigmoid = PairLoss::sigmoid(BETA).unwrap().without_reference();
        assert_same(out(&cpo, &free()), out(&sigmoid, &free()));
    }

    #[test]
    fn rpo_without_alpha_is_dpo() {
        let rpo = PairLoss::rpo(BETA, 0.0).unwrap();
        assert_same(out(&rpo, &with_reference()), out(&PairLoss::sigmoid(BETA).unwrap(), &with_reference()));
    }

    #[test]
    fn orpo_at_equal_odds_is_nll_and_ln_2() {
        let orpo = PairLoss::orpo(BETA).unwrap();
        let batch = HostBatch::for_pair_loss(2);
        let logps = [-3.0, -4.5];
        let out = reference::pair_loss(&batch, &logps, Some(&[2, 3]), &PairInputs::NONE, &orpo).unwrap();
        assert!((out.metrics.loss - (1.5 + BETA * std::f64::consts::LN_2)).abs() < 1e-15);
    }

    /// A sum is the weighted sum of its losses, each at its own β; rewards are the first's.
    #[test]
    fn a_sum_has_the_losses_of_its_terms() {
        let [hinge, kto, ipo] = [
            PairLoss::hinge(0.5).unwrap(),
            PairLoss::kto(2.0).unwrap().with_baseline(0.25).unwrap(),
            PairLoss::ipo(1.5).unwrap(),
        ];
        let sum = hinge.weighted(0.5).unwrap().and(kto, 2.0).unwrap().and(ipo, 0.25).unwrap();
        let ref_logps = [-2.0, -3.5, -1.0, -4.0];
        let of = |loss: &PairLoss| {
            let batch = HostBatch::for_pair_loss(4);
            let (logps, inputs) = ([-2.5, -3.0, -1.25, -3.5], PairInputs::reference(&ref_logps));
            reference::pair_loss(&batch, &logps, Some(&[2, 3, 1, 4]), &inputs, loss).unwrap()
        };
        let (found, parts) = (of(&sum), [(0.5, of(&hinge)), (2.0, of(&kto)), (0.25, of(&ipo))]);
        for i in 0..2 {
            let expected: f64 = parts.iter().map(|(weight, part)| weight * part.pair_losses[i]).sum();
            assert!((found.pair_losses[i] - expected).abs() < 1e-14, "{found:?}");
        }
        for s in 0..4 {
            let expected: f64 = parts.iter().map(|(weight, part)| weight * part.coef[s]).sum();
            assert!((found.coef[s] - expected).abs() < 1e-14, "{found:?}");
        }
        assert_eq!(found.chosen_rewards, parts[0].1.chosen_rewards);
        // What reads no β has no say in the rewards.
        let after_nll = PairLoss::nll().and(hinge, 1.0).unwrap();
        assert_eq!(of(&after_nll).margins, parts[0].1.margins);
        // λ is orpo's, also where it comes second; and what adds no loss adds no β.
        let orpo = PairLoss::orpo(0.3).unwrap();
        let beta = |sum: dpo_kernels::Result<PairLoss>| sum.unwrap().beta();
        assert_eq!(beta(orpo.and(PairLoss::sigmoid(0.1).unwrap().without_reference(), 1.0)), 0.3);
        assert_eq!(beta(PairLoss::sft().and(orpo, 1.0)), 0.3);
        assert_eq!(beta(PairLoss::nll().and(hinge, 0.0)), PairLoss::nll().beta());
    }

    /// The tokens that labels and weights tell of are those that the token normaliser counts.
    #[test]
    fn pair_tokens_are_those_of_the_token_normaliser() {
        // Sequence 0 is in two pairs, sequence 3 in none; they have 2, 1, 3 and 3 scored tokens.
        let labels = [1i64, 2, -100, 0, -100, -100, 1, 1, 2, 0, 1, 2];
        let desirable = [1, 0, 0, 1];
        let ref_logps = [-2.0, -3.5, -1.0, -4.0];
        for (pairs, count) in [
            (Pairs::Concatenated, 2),
            (Pairs::Interleaved, 2),
            (Pairs::Indexed { chosen: &[0, 0][..], rejected: &[1, 2][..] }, 2),
            (Pairs::Unpaired { desirable: &desirable[..] }, 4),
        ] {
            let batch = HostBatch { pairs, ..HostBatch::padded(4, 3, 5, LabelAlignment::Aligned) };
            let scored = batch.scored_tokens(labels[..].into()).unwrap();
            assert_eq!(scored, [2, 1, 3, 3]);
            for first in [1.0, 0.0] {
                let mut weight = vec![1.0f32; count];
                weight[0] = first;
                let tokens = batch.pair_tokens(labels[..].into(), Some(&weight)).unwrap();
                let wide: Vec<f64> = weight.iter().map(|&weight| weight.into()).collect();
                let of = |loss: PairLoss, chosen_tokens| {
                    let weight = Some(&wide[..]);
                    let inputs = PairInputs { weight, chosen_tokens, ..PairInputs::reference(&ref_logps) };
                    let logps = [-2.5, -3.0, -1.25, -3.5];
                    reference::pair_loss(&batch, &logps, Some(&scored), &inputs, &loss).unwrap().metrics.loss
                };
                let bco = PairLoss::bco_pair(0.5).unwrap();
                let counted = bco.with_normalizer(tokens.all() as f64).unwrap();
                assert_eq!(of(counted, None), of(bco.with_token_normalizer(), None), "{pairs:?} {weight:?}");
                if tokens.chosen > 0 {
                    let sft = PairLoss::sft();
                    assert_eq!(of(sft, Some(tokens.chosen as f64)), of(sft, None), "{pairs:?} {weight:?}");
                }
            }
        }
    }

    /// log odds by its definition, where that does not lose anything.
    #[test]
    fn odds_are_probabilities_over_their_complements() {
        let loss = PairLoss::odds_ratio();
        let batch = HostBatch::for_pair_loss(2);
        let odds = |logp: f64| logp.exp() / (1.0 - logp.exp());
        let ratio = odds(-1.0) / odds(-0.5);
        let out =
            reference::pair_loss(&batch, &[-2.0, -0.5], Some(&[2, 1]), &PairInputs::NONE, &loss).unwrap();
        assert!((out.metrics.loss - (1.0 + 1.0 / ratio).ln()).abs() < 1e-15);
        // Near 1, log(1 − p) by its textbook form would be −∞.
        let out =
            reference::pair_loss(&batch, &[-1e-17, -1e-17], Some(&[1, 1]), &PairInputs::NONE, &loss).unwrap();
        assert_eq!(out.metrics.loss, std::f64::consts::LN_2);
    }

    #[test]
    fn kto_at_the_baseline_is_half_of_lambda() {
        let kto = PairLoss::kto(BETA).unwrap().with_kto_weights(1.5, 0.75).unwrap();
        let kto = kto.with_baseline(2.0).unwrap();
        let batch =
            HostBatch { pairs: Pairs::Unpaired { desirable: &[1, 0] }, ..HostBatch::for_pair_loss(2) };
        let out =
            reference::pair_loss(&batch, &[-3.0, -5.0], None, &PairInputs::reference(&[-5.0, -7.0]), &kto)
                .unwrap();
        assert_eq!(out.pair_losses, [0.75, 0.375]);
        assert_eq!(out.coef, [-1.5 * BETA / 8.0, 0.75 * BETA / 8.0]);
    }

    #[test]
    fn kto_s_baseline_is_the_mean_of_mismatched_log_ratios_from_zero() {
        let kto = PairLoss::kto(BETA).unwrap();
        let given =
            PairInputs { kl_logps: Some(&KL_LOGPS), kl_ref_logps: Some(&KL_REF_LOGPS), ..with_reference() };
        assert_same(out(&kto, &given), out(&kto.with_baseline(1.0).unwrap(), &with_reference()));
        let negative =
            PairInputs { kl_logps: Some(&KL_REF_LOGPS), kl_ref_logps: Some(&KL_LOGPS), ..with_reference() };
        assert_same(out(&kto, &negative), out(&kto.with_baseline(0.0).unwrap(), &with_reference()));
    }

    #[test]
    fn kto_without_a_baseline_is_apo_zero() {
        let kto = PairLoss::kto(BETA).unwrap().with_baseline(0.0).unwrap();
        assert_same(out(&kto, &with_reference()), out(&PairLoss::apo_zero(BETA).unwrap(), &with_reference()));
    }

    #[test]
    fn robust_without_noise_is_dpo() {
        let robust = PairLoss::robust(BETA, 0.0).unwrap();
        assert_same(
            out(&robust, &with_reference()),
            out(&PairLoss::sigmoid(BETA).unwrap(), &with_reference()),
        );
    }

    #[test]
    fn exo_is_zero_where_sigma_is_the_label() {
        let (beta, epsilon) = (1.0, 0.2f64);
        let exo = PairLoss::exo_pair(beta, epsilon).unwrap().without_reference();
        let z = ((1.0 - epsilon) / epsilon).ln();
        let out =
            reference::pair_loss(&HostBatch::for_pair_loss(2), &[z, 0.0], None, &PairInputs::NONE, &exo)
                .unwrap();
        assert!(out.metrics.loss.abs() < 1e-15 && out.coef[0].abs() < 1e-15, "{out:?}");
    }

    /// At z = ±∞ and beyond, what TRL computes as ∞·0.
    #[test]
    fn tails_have_their_limits() {
        let batch = HostBatch::for_pair_loss(2);
        let at = |loss: &PairLoss, z: f64| {
            let loss = loss.without_reference();
            let out = reference::pair_loss(&batch, &[z, 0.0], None, &PairInputs::NONE, &loss).unwrap();
            (out.metrics.loss, out.coef[0])
        };
        let discopop = PairLoss::discopop(1.0, 0.05).unwrap();
        assert_eq!(at(&discopop, -1e4), (1e4, -1.0));
        assert_eq!(at(&discopop, f64::NEG_INFINITY), (f64::INFINITY, -1.0));
        assert_eq!(at(&discopop, f64::INFINITY), (0.0, 0.0));
        let exo = PairLoss::exo_pair(1.0, 0.1).unwrap();
        assert_eq!(at(&exo, f64::INFINITY), (-(-0.1f64).ln_1p(), 0.0));
        assert_eq!(at(&exo, f64::NEG_INFINITY), (-0.1f64.ln(), 0.0));
        let (_, slope) = at(&PairLoss::apo_zero(1.0).unwrap(), 50.0);
        assert!((slope / -(-50.0f64).exp() - 1.0).abs() < 1e-14);
    }

    #[test]
    fn aot_of_one_pair_is_dpo() {
        let batch = HostBatch::for_pair_loss(2);
        let of = |loss: PairLoss| {
            let out = reference::pair_loss(
                &batch,
                &[-3.0, -4.0],
                None,
                &PairInputs::reference(&[-2.0, -5.0]),
                &loss,
            )
            .unwrap();
            (out.metrics.loss, out.coef)
        };
        let dpo = of(PairLoss::sigmoid(BETA).unwrap());
        assert_same(of(PairLoss::aot(BETA).unwrap()), dpo.clone());
        assert_same(of(PairLoss::aot_unpaired(BETA).unwrap()), dpo);
    }

    #[test]
    fn aot_sorts_nan_last_and_equals_in_their_order() {
        let batch = HostBatch::for_pair_loss(8);
        let logps = [-1.0, f64::NAN, -1.0, -3.0, 0.0, 0.0, 0.0, 0.0];
        for loss in [PairLoss::aot(BETA).unwrap(), PairLoss::aot_unpaired(BETA).unwrap()] {
            let loss = loss.without_reference();
            let out = reference::pair_loss(&batch, &logps, None, &PairInputs::NONE, &loss).unwrap();
            let nan: Vec<bool> = out.pair_losses.iter().map(|loss| loss.is_nan()).collect();
            assert_eq!(nan, [false, true, false, false]);
            assert_eq!(out.pair_losses[0], out.pair_losses[2]);
        }
    }

    #[test]
    fn sums_are_linear() {
        let named = |name: &str| PairLoss::named(name, BETA).unwrap();
        let (one, other) = (named("sigmoid"), named("nca_pair"));
        let (x, y) = (out(&one, &with_reference()), out(&other, &with_reference()));
        let sum = one.weighted(0.25).unwrap().and(other, 3.0).unwrap();
        let coef = x.1.iter().zip(&y.1).map(|(x, y)| 0.25 * x + 3.0 * y).collect();
        assert_same(out(&sum, &with_reference()), (0.25 * x.0 + 3.0 * y.0, coef));
    }

    #[test]
    fn alpha_divergences_have_the_kls_at_their_ends() {
        let sigmoid = PairLoss::sigmoid(BETA).unwrap();
        let with = |divergence| out(&sigmoid.with_divergence(divergence).unwrap(), &with_reference());
        assert_same(with(Divergence::Alpha(0.0)), with(Divergence::ForwardKl));
        assert_same(with(Divergence::Alpha(1.0)), with(Divergence::ReverseKl));
    }

    #[test]
    fn tensors_of_one_value_are_that_value() {
        let epsilon = 0.125;
        let loss = PairLoss::sigmoid(BETA).unwrap();
        let given = PairInputs {
            beta: Some(&[BETA; 4]),
            label_smoothing: Some(&[0.125; 4]),
            gamma: Some(&[0.5; 4]),
            weight: Some(&[1.0; 4]),
            sequence_log_weights: Some(&[0.0; 8]),
            normalizer: Some(4.0),
            lengths: Some(&SCORED),
            ..with_reference()
        };
        let plain = loss.with_label_smoothing(epsilon).unwrap().with_gamma(0.5).unwrap();
        let other = PairLoss::sigmoid(0.9).unwrap();
        assert_same(out(&other, &given), out(&plain, &with_reference()));
    }
}

/// However a batch is split, with a normaliser of the whole it has the gradient of the whole.
#[test]
fn of_splits() {
    const PAIRS: usize = 4;
    for info in &ALL {
        let mut loss = info.make(0.4, &[]).unwrap();
        if loss.takes_normalizer() {
            loss = loss.with_normalizer(PAIRS as f64).unwrap();
        }
        if has(&loss, Kind::couples_pairs) {
            continue;
        }
        let chosen_tokens = f64::from(SCORED[..PAIRS].iter().sum::<u32>());
        let chosen_tokens = has(&loss, Kind::counts_chosen_tokens).then_some(chosen_tokens);
        let inputs = PairInputs { chosen_tokens, ..least(&loss) };
        let whole = loss_of(&HostBatch::for_pair_loss(2 * PAIRS), &LOGPS, &inputs, &loss);

        // Bit i of `split` begins a new part after pair i.
        for split in 0..1 << (PAIRS - 1) {
            let (mut value, mut coef) = (0.0, vec![0.0; 2 * PAIRS]);
            let mut begin = 0;
            for end in (1..=PAIRS).filter(|&end| end == PAIRS || split >> (end - 1) & 1 == 1) {
                let members: Vec<usize> = (begin..end).chain(PAIRS + begin..PAIRS + end).collect();
                let pick = |values: &[f64]| members.iter().map(|&s| values[s]).collect::<Vec<f64>>();
                let scored: Vec<u32> = members.iter().map(|&s| SCORED[s]).collect();
                let ref_logps = inputs.ref_logps.map(pick);
                let inputs = PairInputs { ref_logps: ref_logps.as_deref(), ..inputs };
                let batch = HostBatch::for_pair_loss(members.len());
                let part =
                    reference::pair_loss(&batch, &pick(&LOGPS), Some(&scored), &inputs, &loss).unwrap();
                value += part.metrics.loss;
                members.iter().zip(&part.coef).for_each(|(&s, &c)| coef[s] = c);
                begin = end;
            }
            assert!((value - whole.0).abs() <= 1e-14 * whole.0.abs().max(1.0), "{}", info.name);
            let same = coef.iter().zip(&whole.1).all(|(x, y)| (x - y).abs() <= 1e-15 * y.abs());
            assert!(same, "{}: {coef:?} is not {:?}", info.name, whole.1);
        }
    }
}

/// A loss over tokens, Σ t_r logp_r: what token factors are for.
#[test]
fn of_a_loss_over_tokens() {
    let batch = HostBatch {
        pairs: Pairs::None,
        transform: Transform { scale: 0.7, softcap: Some(3.0), valid_vocab: Some(4) },
        ..HostBatch::padded(1, 3, VOCAB, LabelAlignment::Aligned)
    };
    let labels = [3i64, -100, 0];
    let factors = [-0.75, f64::NAN, 2.0]; // that of the ignored row is not looked at
    let logits: Vec<f64> = (0..3 * VOCAB).map(|i| (i * 7 % 11) as f64 * 0.4 - 2.0).collect();
    let logps = |logits: &[f64]| reference::logps(&batch, logits, labels[..].into()).unwrap();
    let loss = |logits: &[f64]| {
        let logps = logps(logits).token_logps;
        factors[0] * logps[0] + factors[2] * logps[2]
    };
    let coef = Coef { tokens: Some(&factors[..]), ..Coef::default() };
    let gradient =
        reference::backward(&batch, &logits, labels[..].into(), &logps(&logits).logsumexp, coef, 1.0)
            .unwrap();
    for i in 0..logits.len() {
        let shifted = |by: f64| {
            let mut logits = logits.clone();
            logits[i] += by;
            loss(&logits)
        };
        let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
        assert!((difference - gradient[i]).abs() <= tolerance(loss(&logits)), "logit {i}");
        if i % VOCAB == 4 {
            assert_eq!(gradient[i], 0.0, "padding of the vocabulary");
        }
    }
}
