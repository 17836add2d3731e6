//! How far an f32 pass may be from the f64 reference, from the arithmetic it does.
//!
//! u = 2⁻²⁴ is the relative error of one f32 operation. The bounds are worst cases summed by absolute value; nothing in
//! them is tuned to what comes out.

use dpo_kernels::batch::{Logps, PairOutputs};
use dpo_kernels::{DType, Logit, reference};

use crate::case::Case;
use crate::executor::Outcome;

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Relative error of a row's Σ exp(x − reference).
///
/// Each term: the difference and its product with log2(e) are off by 2u·|x − reference| (weighted by the terms
/// themselves, whose share at distance d is at most e⁻ᵈ of the sum: at most 2u·ln(vocab) + 2u), exp2 by 4u. Adding up:
/// one u per addition on the longest path, which is at most 16 within a group of lanes or a vector, one per group of a
/// thread (the fewest threads a row has are 32, the least a group holds are 16 elements), 2·5 per shuffle tree with
/// its rescaling, at most four times: in a warp and across those of a slice, and the same over the slices.
fn sum_error(vocab: usize) -> f64 {
    let groups = vocab.div_ceil(32 * 16).min(64) as f64;
    U * (2.0 * (vocab as f64).ln() + 6.0 + 16.0 + 4.0 * groups + 40.0)
}

/// What rounding to `dtype` may take from a number: half a unit in the last place, or half the least subnormal.
fn rounding(dtype: DType, value: f64) -> f64 {
    let (relative, least) = match dtype {
        DType::F32 => (U, 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DType::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
    };
    (value.abs() * relative).max(least)
}

/// The reference's results for a case.
pub struct Expected {
    logps: Logps<f64>,
    pairs: PairOutputs<f64>,
    dlogits: Vec<f64>,
}

impl Expected {
    pub fn of<T: Logit + Into<f64>>(case: &Case<T>) -> Expected {
        let (batch, labels, loss) = (case.batch(), case.labels(), &case.spec.loss);
        let logps = reference::logps(&batch, &case.logits, labels).unwrap();
        let ref_logps: Option<Vec<f64>> =
            case.ref_logps.as_ref().map(|values| values.iter().map(|&value| value.into()).collect());
        let scored = Some(&logps.scored[..]);
        let pairs = reference::pair_loss(&batch, &logps.logps, ref_logps.as_deref(), scored, loss).unwrap();
        let upstream = f64::from(case.spec.upstream);
        let dlogits =
            reference::backward(&batch, &case.logits, labels, &logps.logsumexp, &pairs.coef, upstream)
                .unwrap();
        Expected { logps, pairs, dlogits }
    }

    /// Compares an outcome with the reference, by the bounds; `who` and the case stand in every complaint.
    pub fn check<T: Logit + Into<f64>>(&self, who: &str, case: &Case<T>, outcome: &Outcome<T>) {
        let spec = &case.spec;
        // What is not finite must be the same thing: NaN, or the infinity of the same sign.
        let near = |what: &str, at: usize, found: f64, expected: f64, bound: f64| {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            assert!(
                same || (expected.is_finite() && (found - expected).abs() <= bound),
                "{who}: {what}[{at}]: expected {expected:e} within {bound:e}, found {found:e} in {spec:?}"
            );
        };
        let (found, expected) = (&outcome.logps, &self.logps);
        assert_eq!(found.status, expected.status, "{who}: status in {spec:?}");
        assert_eq!(found.scored, expected.scored, "{who}: scored in {spec:?}");

        // Floor 1. A token's log-prob is (z_y − r) − ln s, with r within ln(vocab) of logsumexp.
        let ln_vocab = (spec.vocab as f64).ln();
        let lse_error = sum_error(spec.vocab) + 2.0 * U * ln_vocab;
        let mut logp_errors = vec![0.0; spec.sequences];
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            for row in bounds[0] as usize..bounds[1] as usize {
                let (lse, logp) = (expected.logsumexp[row], expected.token_logps[row]);
                let bound = if logp == 0.0 && lse == 0.0 {
                    0.0
                } else {
                    lse_error + 2.0 * U * (logp.abs() + ln_vocab)
                };
                near("token_logps", row, found.token_logps[row].into(), logp, bound);
                near(
                    "logsumexp",
                    row,
                    found.logsumexp[row].into(),
                    lse,
                    lse_error.min(bound) + U * lse.abs(),
                );
                let whole = f64::from(found.logsumexp[row]) + f64::from(found.logsumexp_residual[row]);
                near("logsumexp + residual", row, whole, lse, lse_error.min(bound));
                logp_errors[s] += if bound.is_finite() { bound } else { 0.0 };
            }
            let logp = expected.logps[s];
            logp_errors[s] += if logp.is_finite() { U * logp.abs() } else { 0.0 };
            near("logps", s, found.logps[s].into(), logp, logp_errors[s]);
        }

        // Floor 2. A reward is scale · (logp − ref_logp): the error of logp, and three roundings.
        let (found, expected) = (&outcome.pairs, &self.pairs);
        let batch = case.batch();
        let scale = |s: usize| {
            let length = if spec.loss.length_normalized() { self.logps.scored[s].max(1) } else { 1 };
            spec.loss.beta() / f64::from(length)
        };
        let pairs: Vec<(usize, usize)> = (0..expected.margins.len())
            .map(|pair| match batch.pairs {
                dpo_kernels::Pairs::Concatenated => (pair, expected.margins.len() + pair),
                dpo_kernels::Pairs::Interleaved => (2 * pair, 2 * pair + 1),
                _ => (case.chosen[pair] as usize, case.rejected[pair] as usize),
            })
            .collect();
        let normalizer = spec.loss.normalizer(pairs.len());
        let mut coef_errors = vec![0.0; spec.sequences];
        let mut sums = [0.0; 4];
        let mut loss_size = 0.0;
        for (pair, &(w, l)) in pairs.iter().enumerate() {
            let (reward_w, reward_l) = (expected.chosen_rewards[pair], expected.rejected_rewards[pair]);
            // An infinite reward is exact, and so is all that saturates because of it.
            let size = |value: f64| if value.is_finite() { value.abs() } else { 0.0 };
            let error_w = scale(w) * logp_errors[w] + 4.0 * U * size(reward_w);
            let error_l = scale(l) * logp_errors[l] + 4.0 * U * size(reward_l);
            let margin = expected.margins[pair];
            let margin_error = error_w + error_l + U * size(margin);
            // |∂loss/∂u| ≤ 1, and the loss is a sum of few terms no larger than itself and |u|.
            let loss = expected.pair_losses[pair];
            let loss_error = margin_error + 8.0 * U * (size(loss) + 1.0);
            near("chosen_rewards", pair, found.chosen_rewards[pair].into(), reward_w, error_w);
            near("rejected_rewards", pair, found.rejected_rewards[pair].into(), reward_l, error_l);
            near("margins", pair, found.margins[pair].into(), margin, margin_error);
            near("pair_losses", pair, found.pair_losses[pair].into(), loss, loss_error);
            for (sum, error) in sums.iter_mut().zip([loss_error, error_w, error_l, margin_error]) {
                *sum += error;
            }
            loss_size += size(loss);
            // |∂²loss/∂u²| ≤ 1/4.
            for s in [w, l] {
                coef_errors[s] += scale(s) / normalizer * (margin_error / 4.0 + 12.0 * U);
            }
        }
        for (s, &error) in coef_errors.iter().enumerate() {
            near("coef", s, found.coef[s].into(), expected.coef[s], error);
        }
        let count = pairs.len() as f64;
        let (f, e) = (&found.metrics, &expected.metrics);
        let loss_error = sums[0] / normalizer + 2.0 * U * loss_size / normalizer;
        near("metrics.loss", 0, f.loss.into(), e.loss, loss_error);
        let mean = |sum: f64, value: f64| sum / count + 2.0 * U * value.abs() + f64::MIN_POSITIVE;
        near(
            "metrics.chosen_reward",
            0,
            f.chosen_reward.into(),
            e.chosen_reward,
            mean(sums[1], e.chosen_reward),
        );
        near(
            "metrics.rejected_reward",
            0,
            f.rejected_reward.into(),
            e.rejected_reward,
            mean(sums[2], e.rejected_reward),
        );
        near("metrics.margin", 0, f.margin.into(), e.margin, mean(sums[3], e.margin));
        // Pairs whose rewards are closer than their errors may fall either way.
        let unsure = pairs.iter().enumerate().filter(|&(pair, &(w, l))| {
            let error = scale(w) * logp_errors[w] + scale(l) * logp_errors[l];
            expected.margins[pair].abs() <= error + 8.0 * U * expected.chosen_rewards[pair].abs()
        });
        near("metrics.accuracy", 0, f.accuracy.into(), e.accuracy, unsure.count() as f64 / count + 2.0 * U);

        self.check_gradient(who, case, outcome, &coef_errors, lse_error, &near);
    }

    /// Floor 3: c(1[v = y] − p), with p off by a factor of 1 ± (the error of logsumexp, of two differences and exp2).
    fn check_gradient<T: Logit + Into<f64>>(
        &self,
        who: &str,
        case: &Case<T>,
        outcome: &Outcome<T>,
        coef_errors: &[f64],
        lse_error: f64,
        near: &dyn Fn(&str, usize, f64, f64, f64),
    ) {
        let spec = &case.spec;
        let fill: f64 = if spec.gradient_phase.is_some() { 12345.0 } else { f64::NAN };
        let fill = T::from_f32(fill as f32).into();
        let targets = case.targets();
        // The CPU's exponential for results of 16 bits.
        let short_exp = if T::DTYPE == DType::F32 { 0.0 } else { 2f64.powi(-18) };
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            let coef = (self.pairs.coef[s] * f64::from(spec.upstream)).abs();
            let coef_error = coef_errors[s] * f64::from(spec.upstream).abs() + 3.0 * U * coef;
            for (row, target) in targets.iter().enumerate().take(bounds[1] as usize).skip(bounds[0] as usize)
            {
                let start = row * spec.row_stride;
                let end = (start + spec.row_stride).min(case.logits.len());
                for at in start..end {
                    let found: f64 = outcome.dlogits[at].into();
                    if at - start >= spec.vocab {
                        let untouched = found == fill || (found.is_nan() && fill.is_nan());
                        assert!(untouched, "{who}: dlogits[{at}], between rows, was written in {spec:?}");
                        continue;
                    }
                    let expected = self.dlogits[at];
                    if target.is_none() {
                        assert!(found == 0.0, "{who}: dlogits[{at}], not scored, is {found} in {spec:?}");
                        continue;
                    }
                    let z: f64 = case.logits[at].into();
                    let distance = (z - self.logps.logsumexp[row]).abs();
                    let p = (z - self.logps.logsumexp[row]).exp();
                    let relative =
                        if p > 0.0 { lse_error + U * (4.0 * distance + 8.0) + short_exp } else { 0.0 };
                    let p_error = p * relative + 2f64.powi(-126);
                    let exact = coef * p_error + coef_error + 2.0 * U * coef;
                    let bound = exact + rounding(T::DTYPE, expected.abs() + exact);
                    near("dlogits", at, found, expected, bound);
                }
            }
        }
    }
}
