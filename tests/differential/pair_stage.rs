//! `pair_loss` where its numbers are unbounded, not numbers, or none at all: one test for each kind, for every executor and
//! for the reference itself.

use dpo_kernels::loss::{ALL, Divergence, PairInputs, PairTensors};
use dpo_kernels::{
    HostBatch, Logit, MetricsLevel, PairLoss, PairMetrics, PairOutputs, Pairs, Status, cpu, reference,
};

use crate::case::{Case, Mask, Spec, Tensors};
use crate::executor::{Cpu, Executor, Factored, Outcome, slices};
use crate::guarded_memory::CopyOut;

/// What `pair_loss` is called with.
#[derive(Debug, Clone)]
pub struct PairCall {
    pub pairs: Pairs<Vec<i32>>,
    pub logps: Vec<f32>,
    pub scored: Option<Vec<u32>>,
    pub tensors: Tensors,
    pub loss: PairLoss,
}

impl PairCall {
    fn new(loss: PairLoss, logps: &[f32]) -> PairCall {
        let mut tensors = Tensors::NONE;
        if loss.estimates_baseline() {
            tensors.kl_logps = Some(vec![-4.0, -5.5]);
            tensors.kl_ref_logps = Some(vec![-5.0, -6.0]);
        }
        // A reference of 0, where a test is not about it.
        tensors.ref_logps = loss.needs_reference().then(|| vec![0.0; logps.len()]);
        let scored = Some(vec![3; logps.len()]);
        PairCall { pairs: Pairs::Concatenated, logps: logps.to_vec(), scored, tensors, loss }
    }

    fn with_reference(mut self, ref_logps: &[f32]) -> PairCall {
        self.tensors.ref_logps = (!self.loss.is_reference_free()).then(|| ref_logps.to_vec());
        self
    }

    pub fn batch(&self) -> HostBatch<'_> {
        let pairs = self.pairs.try_map_indices(|array| Ok(&array[..])).expect("nothing refuses a slice");
        HostBatch { pairs, ..HostBatch::for_pair_loss(self.logps.len()) }
    }

    pub fn inputs(&self) -> PairInputs<'_, f32> {
        self.tensors.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number)
    }
}

/// Something that runs `pair_loss` on log-probs that it is given.
pub trait PairExecutor {
    fn pair_loss(&mut self, call: &PairCall) -> (PairOutputs<f64>, Status);

    /// Whether results are rounded to f32, if only in the end.
    fn is_f32(&self) -> bool {
        true
    }
}

pub fn widen(pairs: &PairOutputs<f32>) -> PairOutputs<f64> {
    let wide = |values: &[f32]| values.iter().map(|&value| value.into()).collect();
    let PairMetrics {
        pairs: count,
        chosen,
        rejected,
        loss,
        chosen_reward,
        rejected_reward,
        margin,
        accuracy,
    } = pairs.metrics;
    PairOutputs {
        pair_losses: wide(&pairs.pair_losses),
        chosen_rewards: wide(&pairs.chosen_rewards),
        rejected_rewards: wide(&pairs.rejected_rewards),
        margins: wide(&pairs.margins),
        coef: wide(&pairs.coef),
        metrics: PairMetrics {
            pairs: count,
            chosen,
            rejected,
            loss: loss.into(),
            chosen_reward: chosen_reward.into(),
            rejected_reward: rejected_reward.into(),
            margin: margin.into(),
            accuracy: accuracy.into(),
        },
    }
}

impl PairExecutor for Cpu {
    fn pair_loss(&mut self, call: &PairCall) -> (PairOutputs<f64>, Status) {
        let (logps, indices) = (self.place(&call.logps), self.place_indices(&call.batch()));
        let scored = call.scored.as_ref().map(|scored| self.place(scored));
        let (batch, inputs) = (indices.batch(&call.batch()), self.place_inputs(&call.inputs()));
        let mut out = self.room(MetricsLevel::None).pairs;
        let status =
            cpu::pair_loss(&batch, &logps, scored.as_deref(), &slices(&inputs), &call.loss, &mut out);
        let Ok(out) = out.convert(&mut CopyOut);
        (widen(&out), status.unwrap())
    }
}

/// The judge of the others.
pub struct Reference;

impl PairExecutor for Reference {
    fn pair_loss(&mut self, call: &PairCall) -> (PairOutputs<f64>, Status) {
        let wide = |values: &[f32]| values.iter().map(|&value| value.into()).collect::<Vec<f64>>();
        let tensors: PairTensors<Vec<f64>, _, _> = call.inputs().map(wide, |lengths| lengths, f64::from);
        let inputs = tensors.as_ref().map(Vec::as_slice, |&lengths| lengths, |&number| number);
        let (batch, logps, scored) = (call.batch(), wide(&call.logps), call.scored.as_deref());
        let status = reference::pair_status(&batch, &logps, scored, &inputs, &call.loss).unwrap();
        (reference::pair_loss(&batch, &logps, scored, &inputs, &call.loss).unwrap(), status)
    }

    fn is_f32(&self) -> bool {
        false
    }
}

/// Every test of `pair_loss` alone.
pub fn every_kind(executor: &mut impl PairExecutor) {
    exponentials_of_unbounded_log_ratios(executor);
    limits_of_unbounded_log_ratios(executor);
    one_minus_sigma_by_subtraction(executor);
    nan_in_nan_out(executor);
    nan_in_a_sorting_loss(executor);
    counts_of_zero(executor);
    weight_zero_is_out(executor);
    means_over_nothing(executor);
    wpo_weights_are_at_most_one(executor);
}

const DIVERGENCES: [Divergence; 8] = [
    Divergence::ReverseKl,
    Divergence::ForwardKl,
    Divergence::JensenShannon,
    Divergence::Alpha(0.25),
    Divergence::Alpha(2.0),
    Divergence::Alpha(-3.0),
    Divergence::Alpha(1.0001),
    Divergence::Alpha(1e9),
];

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Log-ratios of all sizes and signs, in all pairings: nothing is NaN, and all is what the reference has.
///
/// An f32 computes what the reference would make of arguments, a log-ratio each and β, that are off by some roundings, and
/// rounds its result as often; [`ROUNDINGS`] is both. Losses that are differences lose more, of 1, where they vanish.
fn exponentials_of_unbounded_log_ratios(executor: &mut impl PairExecutor) {
    const ROUNDINGS: f64 = 16.0;
    const SIZES: [f32; 12] = [0.0, 1e-6, 0.5, 3.0, 20.0, 80.5, 88.0, 90.0, 120.0, 800.0, 1e4, 1e30];
    let ratios: Vec<f32> = SIZES.iter().flat_map(|&size| [size, -size]).skip(1).collect();
    let pairs: Vec<(f32, f32)> = ratios.iter().flat_map(|&a| ratios.iter().map(move |&b| (a, b))).collect();
    let logps: Vec<f32> = pairs.iter().map(|pair| pair.0).chain(pairs.iter().map(|pair| pair.1)).collect();
    let mut losses: Vec<PairLoss> = ALL
        .iter()
        .filter(|info| !["sft", "nll", "cpo", "rpo", "odds_ratio", "orpo"].contains(&info.name))
        .map(|info| info.make(0.125, &[]).unwrap())
        .filter(|loss| !loss.terms()[0].kind.couples_pairs())
        .collect();
    losses.extend([1.0, 2.0, 1e6].map(|tau| PairLoss::discopop(0.125, tau).unwrap()));
    for loss in losses {
        for loss in DIVERGENCES.into_iter().filter_map(|divergence| loss.with_divergence(divergence).ok()) {
            let call = PairCall::new(loss, &logps);
            let (found, status) = executor.pair_loss(&call);
            assert!(status.is_clean(), "{status:?}");
            let nearby = |by_a: f64, by_b: f64, by_beta: f64| {
                let by = |at: usize| 1.0 + ROUNDINGS * U * if at < pairs.len() { by_a } else { by_b };
                let logps: Vec<f64> = logps.iter().enumerate().map(|(i, &x)| f64::from(x) * by(i)).collect();
                let beta = vec![loss.beta() * (1.0 + ROUNDINGS * U * by_beta); pairs.len()];
                let kl: Option<[Vec<f64>; 2]> = loss
                    .estimates_baseline()
                    .then_some([&call.tensors.kl_logps, &call.tensors.kl_ref_logps])
                    .map(|kl| kl.map(|kl| kl.iter().flatten().map(|&x| x.into()).collect()));
                let ref_logps = call.tensors.ref_logps.as_ref().map(|_| vec![0.0; logps.len()]);
                let inputs = PairInputs {
                    ref_logps: ref_logps.as_deref(),
                    beta: Some(&beta),
                    kl_logps: kl.as_ref().map(|kl| &kl[0][..]),
                    kl_ref_logps: kl.as_ref().map(|kl| &kl[1][..]),
                    ..PairInputs::NONE
                };
                let scored = call.scored.as_deref();
                reference::pair_loss(&call.batch(), &logps, scored, &inputs, &loss).unwrap()
            };
            let signs = [-1.0, 0.0, 1.0];
            let all: Vec<PairOutputs<f64>> = signs
                .iter()
                .flat_map(|&a| signs.iter().flat_map(move |&b| signs.map(|beta| (a, b, beta))))
                .map(|(a, b, beta)| nearby(a, b, beta))
                .collect();
            let name = loss.terms()[0].kind.name();
            let is_difference =
                ["exo_pair", "robust", "nca_pair", "apo_down", "discopop", "hinge"].contains(&name);
            let near = |found: f64, of: &dyn Fn(&PairOutputs<f64>) -> f64| {
                let values = all.iter().map(of).map(|x| f64::from(x as f32));
                let (least, most) = values
                    .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), x| (least.min(x), most.max(x)));
                let slack = |x: f64| {
                    let of_one = if is_difference { ROUNDINGS * U } else { 0.0 };
                    if x.is_finite() {
                        ROUNDINGS * U * x.abs() + of_one + f64::from(f32::MIN_POSITIVE)
                    } else {
                        0.0
                    }
                };
                (least - slack(least)..=most + slack(most)).contains(&found)
            };
            for (pair, &(a, b)) in pairs.iter().enumerate() {
                let (w, l) = (pair, pairs.len() + pair);
                let values = [found.pair_losses[pair], found.coef[w], found.coef[l]];
                let what = || format!("{loss:?} at log-ratios {a:e}, {b:e}: {values:?}");
                assert!(values.iter().all(|value| !value.is_nan()), "{}", what());
                if !executor.is_f32() {
                    continue;
                }
                assert!(near(values[0], &|out| out.pair_losses[pair]), "{}", what());
                // Where the loss is infinite, so may be a factor of a slope that is not.
                if values[0].is_finite() {
                    assert!(near(values[1], &|out| out.coef[w]), "{}", what());
                    assert!(near(values[2], &|out| out.coef[l]), "{}", what());
                }
            }
        }
    }
}

/// Asserts that `found` is `expected` but for a few roundings, of f32 or f64.
fn assert_close(executor: &impl PairExecutor, what: &str, found: f64, expected: f64) {
    const ROUNDINGS: f64 = 16.0;
    let (unit, expected) = match executor.is_f32() {
        true => (U, f64::from(expected as f32)),
        false => (f64::EPSILON / 2.0, expected),
    };
    let same = found == expected || (found - expected).abs() <= ROUNDINGS * unit * expected.abs();
    assert!(same, "{what}: expected {expected:e}, found {found:e}");
}

/// Loss and coefficients of one pair.
fn of_one_pair(executor: &mut impl PairExecutor, loss: PairLoss, logps: [f32; 2]) -> [f64; 3] {
    let (found, _) = executor.pair_loss(&PairCall::new(loss, &logps));
    [found.pair_losses[0], found.coef[0], found.coef[1]]
}

/// The limits themselves, which follow by hand.
fn limits_of_unbounded_log_ratios(executor: &mut impl PairExecutor) {
    const INF: f64 = f64::INFINITY;
    let ln_2 = std::f64::consts::LN_2;
    let sigmoid = PairLoss::sigmoid(0.125).unwrap();
    let with = |divergence| sigmoid.with_divergence(divergence).unwrap();
    let forward = with(Divergence::ForwardKl);
    let cases = [
        // The margin is beta e^800, whose sigmoid vanishes faster than the slope of f' grows.
        (forward, [0.0, -800.0], [0.0, 0.0, 0.0]),
        (forward, [800.0, -800.0], [0.0, 0.0, 0.0]),
        (forward, [-800.0, 0.0], [INF, -INF, 0.125]),
        // Both are infinite, and their difference is 0.
        (forward, [-800.0, -800.0], [ln_2, -INF, INF]),
        (forward, [-1e30, -1e30], [ln_2, -INF, INF]),
        (forward, [-1e30, -2e30], [0.0, 0.0, 0.0]),
        (forward, [1e30, 1e30], [ln_2, 0.0, 0.0]),
        // e^90 is beyond f32, and e^90/16 is not.
        (with(Divergence::ForwardKl), [-90.0, -90.0], [ln_2, -(90f64.exp()) / 16.0, 90f64.exp() / 16.0]),
        (with(Divergence::Alpha(0.5)), [-180.0, -180.0], [ln_2, 0.0, 0.0]),
        (with(Divergence::JensenShannon), [-1e30, -1e30], [ln_2, -0.0625, 0.0625]),
        (with(Divergence::JensenShannon), [1e30, -1e30], [0.0, 0.0, 0.0]),
        // Clamped: constant, and the same on both sides.
        (with(Divergence::Alpha(2.0)), [1e30, 1e30], [ln_2, 0.0, 0.0]),
        // The exponential tail of tau > 1, e^(-z (1 - 1/tau)), of slope 1/tau - 1 and beyond it -1 of log sigma.
        (PairLoss::discopop(1.0, 2.0).unwrap(), [-1e30, 0.0], [INF, -INF, INF]),
        (PairLoss::discopop(1.0, 1.0).unwrap(), [-1e30, 0.0], [1e30f32.into(), -1.0, 1.0]),
        (
            PairLoss::discopop(1.0, 2.0).unwrap(),
            [-160.0, 0.0],
            [80f64.exp() + 160.0, -80f64.exp() / 2.0 - 1.0, 80f64.exp() / 2.0 + 1.0],
        ),
    ];
    for (loss, logps, expected) in cases {
        let found = of_one_pair(executor, loss, logps);
        for (what, (found, expected)) in
            ["loss", "chosen", "rejected"].into_iter().zip(found.into_iter().zip(expected))
        {
            assert_close(executor, &format!("{what} of {loss:?} at {logps:?}"), found, expected);
        }
    }
    // A weight of e^800 of a pair that has no loss.
    let mut call = PairCall::new(PairLoss::hinge(1.0).unwrap(), &[5.0, 0.0]);
    call.tensors.sequence_log_weights = Some(vec![800.0, 0.0]);
    let (found, status) = executor.pair_loss(&call);
    assert_eq!((found.pair_losses[0], found.coef), (0.0, vec![0.0; 2]));
    assert_eq!(status.bad_pair_input, Some(0));
}

/// What is left of 1 where a probability or a sigmoid saturates has all of its digits.
fn one_minus_sigma_by_subtraction(executor: &mut impl PairExecutor) {
    let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
    for u in [20.0f32, 31.25, 60.0, 80.0] {
        let rest = sigma(-f64::from(u));
        let mut check = |loss: PairLoss, logps: [f32; 2], expected: f64| {
            let [found, ..] = of_one_pair(executor, loss, logps);
            assert_close(executor, &format!("loss of {loss:?} at {logps:?}"), found, expected);
        };
        check(PairLoss::apo_zero(1.0).unwrap(), [u, -1e4], rest);
        check(PairLoss::apo_zero(1.0).unwrap(), [1e4, -u], rest);
        check(PairLoss::apo_down(1.0).unwrap(), [-1e4, -1e4 - u], rest);
        check(PairLoss::kto(1.0).unwrap().with_baseline(0.0).unwrap(), [u, -1e4], rest);
        let log_rest = (-f64::from(u)).exp().ln_1p();
        check(PairLoss::sigmoid(1.0).unwrap(), [u, 0.0], log_rest);
        check(PairLoss::bco_pair(1.0).unwrap(), [u, -1e4], log_rest);
    }
    // 1 - p of two probabilities near 1: odds of e^27 to 1 and of e^13 to 1.
    let [found, ..] =
        of_one_pair(executor, PairLoss::odds_ratio(), [-3.0 * 2f32.powi(-40), -3.0 * 2f32.powi(-20)]);
    let log_odds = |logp: f64| logp - (-logp.exp_m1()).ln();
    let expected = (log_odds(-(2f64.powi(-20))) - log_odds(-(2f64.powi(-40)))).exp().ln_1p();
    assert_close(executor, "odds ratio of probabilities near 1", found, expected);
    // log 2 - log(1 + e^-x) near 0, where it is x/2: of a sigmoid that turns within 2^-60.
    let tau = 2f64.powi(-60);
    let loss = PairLoss::discopop(1.0, tau).unwrap().with_divergence(Divergence::JensenShannon).unwrap();
    let [found, ..] = of_one_pair(executor, loss, [2f32.powi(-59), 0.0]);
    let m = sigma(1.0);
    assert_close(executor, "Jensen-Shannon near 0", found, std::f64::consts::LN_2 * (1.0 - m) + m);
}

/// Every loss of the table that does not compare a pair with others, with what it cannot be without.
fn uncoupled_losses() -> impl Iterator<Item = PairLoss> {
    let losses = ALL.iter().map(|info| info.make(0.25, &[]).unwrap());
    losses.filter(|loss| loss.terms().iter().all(|term| !term.kind.couples_pairs()))
}

const LOGPS: [f32; 6] = [-3.0, -4.5, -2.25, -5.0, -3.5, -1.0];
const REF_LOGPS: [f32; 6] = [-3.5, -4.0, -2.0, -4.0, -4.5, -1.5];

/// A number that is not one shows in the loss and in both coefficients of its pair, if the loss reads it, and nowhere else;
/// where it is an input, the status names the pair.
fn nan_in_nan_out(executor: &mut impl PairExecutor) {
    const PAIR: usize = 1;
    for loss in uncoupled_losses() {
        let healthy = PairCall::new(loss, &LOGPS).with_reference(&REF_LOGPS);
        let (expected, status) = executor.pair_loss(&healthy);
        assert!(status.is_clean() && expected.coef.iter().all(|c| c.is_finite()), "{loss:?}: {status:?}");
        let reads_rejected = loss.terms().iter().any(|term| !["sft", "nll"].contains(&term.kind.name()));
        let reads_reference = loss.needs_reference();
        type Spoil = fn(&mut PairCall, f32);
        let spoils: [(Spoil, bool, bool); 6] = [
            (|call, x| call.logps[PAIR] = x, true, false),
            (|call, x| call.logps[3 + PAIR] = x, reads_rejected, false),
            (|call, x| call.tensors.ref_logps.iter_mut().for_each(|of| of[PAIR] = x), reads_reference, true),
            (
                |call, x| call.tensors.ref_logps.iter_mut().for_each(|of| of[3 + PAIR] = x),
                reads_reference,
                true,
            ),
            (
                |call, x| call.tensors.sequence_log_weights = Some(vec![0.0, x, 0.0, 0.0, 0.0, 0.0]),
                true,
                true,
            ),
            (
                |call, x| call.tensors.sequence_log_weights = Some(vec![0.0, 0.0, 0.0, 0.0, x, 0.0]),
                true,
                true,
            ),
        ];
        for (spoil, is_read, is_input) in spoils {
            let mut call = healthy.clone();
            spoil(&mut call, f32::NAN);
            let reaches = call.tensors.ref_logps.is_some() || call.tensors != healthy.tensors || !is_input;
            let (found, status) = executor.pair_loss(&call);
            let first = (is_input && reaches).then_some(PAIR);
            assert_eq!(status, Status { bad_pair_input: first, ..Status::default() }, "{call:?}");
            for pair in 0..3 {
                let numbers =
                    |out: &PairOutputs<f64>| [out.pair_losses[pair], out.coef[pair], out.coef[3 + pair]];
                let (found, expected) = (numbers(&found), numbers(&expected));
                let right = match pair {
                    PAIR if is_read && reaches => found.iter().all(|x| x.is_nan()),
                    _ => found == expected,
                };
                assert!(right, "pair {pair} of {call:?}: {found:?}, without NaN {expected:?}");
            }
            assert_eq!(found.metrics.loss.is_nan(), is_read && reaches, "{call:?}");
        }
    }
    // An infinite reference has its limits, and is named all the same.
    let mut call = PairCall::new(PairLoss::sigmoid(0.25).unwrap(), &LOGPS).with_reference(&REF_LOGPS);
    call.tensors.ref_logps.as_mut().unwrap()[4] = f32::NEG_INFINITY;
    let (found, status) = executor.pair_loss(&call);
    assert_eq!(found.pair_losses[1], f64::INFINITY);
    assert_close(executor, "the slope of an infinite loss", found.coef[4], 0.25 / 3.0);
    assert_eq!(status.bad_pair_input, Some(1));
    // A baseline is every pair's, and so the first one's.
    let mut call = PairCall::new(PairLoss::kto(0.25).unwrap(), &LOGPS).with_reference(&REF_LOGPS);
    call.tensors.kl_ref_logps = Some(vec![-5.0, f32::NAN]);
    let (found, status) = executor.pair_loss(&call);
    assert!(found.pair_losses.iter().chain(&found.coef).all(|x| x.is_nan()));
    assert_eq!(status.bad_pair_input, Some(0));
}

/// A NaN in a loss that sorts spoils its own pair, and what is compared with it, which is the largest number; the others
/// have the partners that infinity would leave them.
fn nan_in_a_sorting_loss(executor: &mut impl PairExecutor) {
    // The largest policy margin and chosen reward are those of pair 3, the largest rejected reward is that of pair 0.
    let logps = [-3.0, -2.0, -1.0, 0.0, -7.0, -8.0, -9.0, -10.0];
    let losses = [PairLoss::aot(0.25).unwrap(), PairLoss::aot_unpaired(0.25).unwrap()];
    for (loss, of_reference, of_rejected, spoilt) in [
        (losses[0], false, false, &[1, 5][..]),
        (losses[0], false, true, &[1, 5]),
        (losses[0], true, false, &[1, 3, 5, 7]),
        (losses[0], true, true, &[1, 3, 5, 7]),
        (losses[1], false, false, &[1, 4, 5]),
        (losses[1], true, false, &[1, 4, 5]),
        (losses[1], false, true, &[1, 3, 5, 7]),
        (losses[1], true, true, &[1, 3, 5, 7]),
    ] {
        let mut call = PairCall::new(loss, &logps).with_reference(&[-4.0; 8]);
        let values = if of_reference { call.tensors.ref_logps.as_mut().unwrap() } else { &mut call.logps };
        values[if of_rejected { 5 } else { 1 }] = f32::NAN;
        let (found, status) = executor.pair_loss(&call);
        assert_eq!(status.bad_pair_input, of_reference.then_some(1));
        for s in 0..8 {
            assert_eq!(found.coef[s].is_nan(), spoilt.contains(&s), "coef[{s}] of {call:?}: {found:?}");
        }
        for pair in 0..4 {
            let is_spoilt = spoilt.contains(&pair);
            assert_eq!(found.pair_losses[pair].is_nan(), is_spoilt, "loss {pair} of {call:?}: {found:?}");
        }
    }
}

/// Where nothing is counted that a loss is divided by, it is 0, and so is every coefficient.
fn counts_of_zero(executor: &mut impl PairExecutor) {
    let losses: Vec<PairLoss> = ALL.iter().map(|info| info.make(0.25, &[]).unwrap()).collect();
    for loss in losses {
        let by_tokens = if loss.takes_normalizer() { loss.with_token_normalizer() } else { loss };
        let mut call = PairCall::new(by_tokens, &[0.0; 4]).with_reference(&[0.0, -1.0, -2.0, 0.0]);
        call.scored = Some(vec![0; 4]);
        let (found, status) = executor.pair_loss(&call);
        assert!(status.is_clean(), "{status:?}");
        assert!(found.pair_losses.iter().all(|loss| loss.is_finite()), "{loss:?}: {found:?}");
        assert_eq!((found.metrics.loss, &found.coef), (0.0, &vec![0.0; 4]), "{loss:?}");
        // Divided by the pairs, nothing is infinite either.
        call.loss = loss;
        let (found, _) = executor.pair_loss(&call);
        assert!(found.pair_losses.iter().chain(&found.coef).all(|x| x.is_finite()), "{loss:?}: {found:?}");
        // What comes from elsewhere divides as it is.
        call.tensors.normalizer = loss.takes_normalizer().then_some(2.0);
        let (found, _) = executor.pair_loss(&call);
        assert!(found.coef.iter().all(|x| x.is_finite()), "{loss:?}: {found:?}");
    }
    // Without tokens, sft has no loss: of its own batch, whatever the normaliser.
    let mut sft = PairCall::new(PairLoss::sft(), &[0.0; 4]);
    sft.scored = Some(vec![0; 4]);
    let (found, _) = executor.pair_loss(&sft);
    assert_eq!((found.pair_losses, found.coef), (vec![0.0; 2], vec![0.0; 4]));
    // An answer without a token has no odds: its pair is left out, and the other is as it would be.
    for empty in [0, 2] {
        let mut call = PairCall::new(PairLoss::odds_ratio(), &[-1.0, -2.0, -3.0, -4.0]);
        let (expected, _) = executor.pair_loss(&call);
        call.logps[empty] = 0.0;
        call.scored = Some((0..4).map(|s| if s == empty { 0 } else { 3 }).collect());
        let (found, _) = executor.pair_loss(&call);
        assert_eq!(found.pair_losses, [0.0, expected.pair_losses[1]]);
        assert_eq!(found.coef, [0.0, expected.coef[1], 0.0, expected.coef[3]]);
    }
}

/// A pair of weight 0 is not there, whatever it holds: the rest is, to the bit, as without it.
fn weight_zero_is_out(executor: &mut impl PairExecutor) {
    let out_of = |values: &[f32], out: &[usize]| -> Vec<f32> {
        (0..values.len()).filter(|i| !out.contains(i)).map(|i| values[i]).collect()
    };
    for loss in uncoupled_losses() {
        for loss in std::iter::once(loss).chain(loss.takes_normalizer().then(|| loss.with_token_normalizer()))
        {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -7.0] {
                let mut call = PairCall::new(loss, &LOGPS).with_reference(&REF_LOGPS);
                (call.logps[1], call.logps[4]) = (bad, bad);
                call.tensors.ref_logps.iter_mut().for_each(|ref_logps| ref_logps[4] = bad);
                call.tensors.weight = Some(vec![1.0, 0.0, 0.5]);
                let (found, status) = executor.pair_loss(&call);
                assert!(status.is_clean(), "{status:?} of {call:?}");
                let mut without = call.clone();
                without.logps = out_of(&call.logps, &[1, 4]);
                without.tensors.ref_logps = call.tensors.ref_logps.as_ref().map(|of| out_of(of, &[1, 4]));
                without.tensors.weight = Some(vec![1.0, 0.5]);
                without.scored = Some(vec![3; 4]);
                let (expected, _) = executor.pair_loss(&without);
                assert_eq!(found.metrics, expected.metrics, "{call:?}");
                assert_eq!((found.metrics.pairs, found.metrics.chosen, found.metrics.rejected), (2, 2, 2));
                assert_eq!(found.pair_losses, [expected.pair_losses[0], 0.0, expected.pair_losses[1]]);
                let [a, b, c, d] = expected.coef[..] else { panic!("of four sequences") };
                assert_eq!(found.coef, [a, 0.0, b, c, 0.0, d], "{call:?}");
                // Sequences by index have the sum over their pairs.
                let mut indexed = call.clone();
                indexed.pairs = Pairs::Indexed { chosen: vec![0, 1, 2], rejected: vec![3, 4, 5] };
                let (indexed, _) = executor.pair_loss(&indexed);
                assert_eq!((indexed.metrics, indexed.coef), (found.metrics, found.coef), "{call:?}");
            }
        }
    }
    // One sequence of an unpaired batch.
    let kto = PairLoss::kto(0.25).unwrap().with_baseline(0.5).unwrap();
    let mut call = PairCall::new(kto, &[-3.0, f32::NAN, -4.0]).with_reference(&[-2.0, -3.0, -1.0]);
    call.pairs = Pairs::Unpaired { desirable: vec![1, 1, 0] };
    call.tensors.weight = Some(vec![1.0, 0.0, 1.0]);
    let (found, _) = executor.pair_loss(&call);
    let PairMetrics { pairs, chosen, rejected, loss, .. } = found.metrics;
    assert_eq!((pairs, chosen, rejected), (2, 1, 1));
    assert_close(executor, "the mean of two", loss, (found.pair_losses[0] + found.pair_losses[2]) / 2.0);
    // All of them: a batch that is filled up only.
    call.tensors.weight = Some(vec![0.0; 3]);
    let (found, _) = executor.pair_loss(&call);
    assert_eq!((found.metrics, found.coef), (PairMetrics::default(), vec![0.0; 3]));
}

/// The mean of no reward is 0, and the counts say so: with them, means of parts make those of the whole.
fn means_over_nothing(executor: &mut impl PairExecutor) {
    let kto = PairLoss::kto(0.25).unwrap().with_baseline(0.5).unwrap();
    let (logps, ref_logps) = ([-3.0, -5.0, -4.0, -1.0], [-2.0, -3.0, -1.0, -2.0]);
    let mut of = |logps: &[f32], ref_logps: &[f32], desirable: &[i32]| {
        let mut call = PairCall::new(kto, logps).with_reference(ref_logps);
        call.pairs = Pairs::Unpaired { desirable: desirable.to_vec() };
        executor.pair_loss(&call).0.metrics
    };
    let whole = of(&logps, &ref_logps, &[1, 1, 0, 0]);
    assert_eq!((whole.pairs, whole.chosen, whole.rejected), (4, 2, 2));
    assert_eq!((whole.chosen_reward, whole.rejected_reward, whole.margin), (-0.375, -0.25, -0.125));
    let desirable = of(&logps[..2], &ref_logps[..2], &[1, 1]);
    assert_eq!((desirable.pairs, desirable.chosen, desirable.rejected), (2, 2, 0));
    assert_eq!((desirable.chosen_reward, desirable.rejected_reward, desirable.margin), (-0.375, 0.0, 0.0));
    let undesirable = of(&logps[2..], &ref_logps[2..], &[0, 0]);
    assert_eq!((undesirable.pairs, undesirable.chosen, undesirable.rejected), (2, 0, 2));
    assert_eq!(
        (undesirable.chosen_reward, undesirable.rejected_reward, undesirable.margin),
        (0.0, -0.25, 0.0)
    );
    let parts = [desirable, undesirable];
    let mean = |count: fn(&PairMetrics<f64>) -> u32, value: fn(&PairMetrics<f64>) -> f64| {
        parts.iter().map(|part| f64::from(count(part)) * value(part)).sum::<f64>()
            / f64::from(parts.iter().map(count).sum::<u32>())
    };
    assert_eq!(mean(|part| part.chosen, |part| part.chosen_reward), whole.chosen_reward);
    assert_eq!(mean(|part| part.rejected, |part| part.rejected_reward), whole.rejected_reward);
    assert_eq!(mean(|part| part.pairs, |part| part.accuracy), whole.accuracy);
    assert_close(executor, "the loss of the whole", mean(|part| part.pairs, |part| part.loss), whole.loss);
}

/// WPO's weight of a pair is at most 1; the sum of log-weights alone is not.
fn wpo_weights_are_at_most_one(executor: &mut impl PairExecutor) {
    let sigmoid = PairLoss::sigmoid(0.25).unwrap();
    let mut call = PairCall::new(sigmoid.with_wpo_weights(), &[-3.0; 6]);
    call.tensors.sequence_log_weights = Some(vec![0.5, 0.75, f32::NAN, -1.0, 0.25, 9.0]);
    let (found, _) = executor.pair_loss(&call);
    let ln_2 = std::f64::consts::LN_2;
    assert_close(executor, "a weight below 1", found.pair_losses[0], (-0.5f64).exp() * ln_2);
    assert_close(executor, "a weight of 1", found.pair_losses[1], ln_2);
    assert_close(executor, "its slope", found.coef[1], -0.125 / 3.0);
    assert!(found.pair_losses[2].is_nan());
    call.loss = sigmoid;
    let (found, _) = executor.pair_loss(&call);
    assert_close(executor, "a weight above 1", found.pair_losses[1], 1f64.exp() * ln_2);
}

/// Of a whole pass: a reference log-prob that is NaN makes its pair's gradient NaN, leaves the others' as they were, and
/// stands in the status.
pub fn a_nan_reference_spoils_its_pair<T: Logit>(executor: &mut impl Executor) {
    const VOCAB: usize = 33;
    for name in ["hinge", "sigmoid", "kto"] {
        let loss = PairLoss::named(name, 0.1).unwrap();
        let healthy = Case::<T>::draw(Spec { loss, ..Spec::plain(VOCAB) });
        let mut case = healthy.clone();
        // Sequence 1 is the chosen one of the second of two pairs.
        case.ref_logps.as_mut().expect("drawn")[1] = f32::NAN;
        let (expected, found) = (executor.run(&healthy), executor.run(&case));
        assert!(expected.logps.status.is_clean());
        assert_eq!(found.logps.status, Status { bad_pair_input: Some(1), ..Status::default() }, "{name}");
        assert!(found.pairs.metrics.loss.is_nan());
        for (at, (found, expected)) in found.dlogits.iter().zip(&expected.dlogits).enumerate() {
            let (found, expected) = (found.to_f32(), expected.to_f32());
            let in_pair = at / VOCAB / 3 % 2 == 1;
            assert!(
                if in_pair { found.is_nan() } else { found == expected },
                "{name}: dlogits[{at}] is {found}"
            );
        }
    }
}

/// Of a whole pass: where no token is scored, nothing moves, whatever the loss is divided by, and no product is spoilt.
pub fn nothing_scored_moves_nothing<T: Logit>(executor: &mut impl Executor) {
    for name in ["sigmoid", "sft", "nll", "orpo", "simpo", "kto"] {
        let loss = PairLoss::named(name, 0.1).unwrap();
        let loss = if loss.takes_normalizer() { loss.with_token_normalizer() } else { loss };
        let spec = Spec { mask: Mask::Everything, loss, ..Spec::plain(33) };
        let case = Case::<T>::draw(spec);
        let check = |outcome: Outcome<T>| {
            assert_eq!(outcome.logps.status, Status { empty_sequence: Some(0), ..Status::default() });
            assert_eq!((outcome.pairs.metrics.loss, &outcome.pairs.coef), (0.0, &vec![0.0; 4]), "{name}");
            assert!(outcome.dlogits.iter().all(|d| d.to_f32() == 0.0), "{name}");
        };
        check(executor.run(&case));
        check(executor.factored(&case));
        check(Factored(executor).run(&case));
    }
}
