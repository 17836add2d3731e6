//! How far an f32 pass may be from the f64 reference, from the arithmetic it does.
//!
//! u = 2⁻²⁴ is the relative error of one f32 operation. The bounds are worst cases summed by absolute value; nothing in
//! them is tuned to what comes out.

use dpo_kernels::{Coef, DType, Logit, MetricsLevel, Transform, reference};
use dpo_kernels::{Logps, PairOutputs, TokenMetrics};

use crate::arithmetic::{Numbers, ROUNDINGS, Sizes};
use crate::case::Case;
use crate::executor::Outcome;
use crate::moves::Moves;

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Relative error of a row's Σ exp(x − reference).
///
/// Each term: the difference and its product with log2(e), and that of a scale with log2(e), are off by
/// 3u·|x − reference| (weighted by the terms themselves, whose share at distance d is at most e⁻ᵈ of the sum: at most
/// 3u·ln(vocab) + 3u), exp2 by 4u. Adding up:
/// one u per addition on the longest path, which is at most 16 within a group of lanes or a vector, one per group of a
/// thread (the fewest threads a row has are 32, the least a group holds are 16 elements), 2·5 per shuffle tree with
/// its rescaling, at most four times: in a warp and across those of a slice, and the same over the slices.
fn sum_error(vocab: usize) -> f64 {
    let groups = vocab.div_ceil(32 * 16).min(64) as f64;
    U * (3.0 * (vocab as f64).ln() + 7.0 + 16.0 + 4.0 * groups + 40.0)
}

/// Absolute error of z′ under a soft cap C, ±C(1 − 2q) with q = 1/(1 + e^(2|t|)).
///
/// The argument 2|t| is off by 3u relative, its e-power by 4u more, the sum by u, the reciprocal by 2u, relative to
/// themselves; q changes by q(1 − q) ≤ ¼ of the power's relative error, where 2|t| q(1 − q) is below ¼ too. So q, at
/// most ½, is off by ¼·4u + ¼·3u + ½·3u at most; twice that, and the rounding of the result.
fn softcap_error(transform: &Transform) -> f64 {
    transform.softcap.map_or(0.0, |cap| 8.0 * U * f64::from(cap))
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
    /// What `backward` multiplied with: `[S]`, and `[rows]`.
    coef: Vec<f64>,
    tokens: Option<Vec<f64>>,
    dlogits: Vec<f64>,
}

impl Expected {
    pub fn of<T: Logit + Into<f64>>(case: &Case<T>) -> Expected {
        let (batch, labels) = (case.batch(), case.labels());
        let logps = reference::logps(&batch, &case.logits, labels).unwrap();
        let pairs = case.reference_pairs(&logps.logps, &logps.scored);
        let upstream = f64::from(case.spec.upstream);
        let wide = |values: &Vec<f32>| values.iter().map(|&value| value.into()).collect::<Vec<f64>>();
        let weights: Vec<f32> = logps.token_weights.iter().map(|&weight| weight as f32).collect();
        let tokens = case.token_factors(&weights).as_ref().map(wide);
        let own = case.own_coef.as_ref().map(wide);
        let coef = Coef {
            sequences: Some(own.as_deref().unwrap_or(&pairs.coef)),
            tokens: tokens.as_deref(),
            threshold: case.spec.threshold.into(),
        };
        let dlogits =
            reference::backward(&batch, &case.logits, labels, &logps.logsumexp, coef, upstream).unwrap();
        let coef = coef.sequences.expect("given above").to_vec();
        Expected { logps, pairs, coef, tokens, dlogits }
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

        // `logps`. A token's log-prob is (z_y − r) − ln s, with r within ln(vocab) of logsumexp.
        let ln_vocab = (spec.vocab as f64).ln();
        let lse_error = sum_error(spec.vocab) + 2.0 * U * ln_vocab + softcap_error(&spec.transform);
        let mut logp_errors = vec![0.0; spec.sequences];
        let mut token_errors = vec![0.0; expected.token_logps.len()];
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            let rows = token_errors.iter_mut().enumerate().take(bounds[1] as usize).skip(bounds[0] as usize);
            for (row, token_error) in rows {
                let (lse, logp) = (expected.logsumexp[row], expected.token_logps[row]);
                let bound = if logp == 0.0 && lse == 0.0 {
                    0.0
                } else {
                    lse_error + softcap_error(&spec.transform) + 2.0 * U * (logp.abs() + ln_vocab)
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
                // Weights are at most 1, and their product with a log-prob is in f64.
                logp_errors[s] += if bound.is_finite() { bound } else { 0.0 };
                *token_error = bound;
            }
            let logp = expected.logps[s];
            logp_errors[s] += if logp.is_finite() { U * logp.abs() } else { 0.0 };
            near("logps", s, found.logps[s].into(), logp, logp_errors[s]);
        }

        let weights: Vec<f32> = expected.token_weights.iter().map(|&weight| weight as f32).collect();
        assert_eq!(found.token_weights, weights, "{who}: token_weights in {spec:?}");
        self.check_metrics(who, case, outcome, &token_errors, &near);

        let coef_errors = self.check_pairs(case, outcome, &logp_errors, &near);
        self.check_gradient(who, case, outcome, &coef_errors, lse_error, &near);
    }

    /// `pair_loss`: a result moves with the log-probs as the reference's does, and has roundings of its own, of numbers
    /// whose sizes are those of [`sizes`]. Returns bounds of the coefficients.
    fn check_pairs<T: Logit + Into<f64>>(
        &self,
        case: &Case<T>,
        outcome: &Outcome<T>,
        logp_errors: &[f64],
        near: &dyn Fn(&str, usize, f64, f64, f64),
    ) -> Vec<f64> {
        let (spec, inputs) = (&case.spec, case.inputs());
        let (found, expected) = (&outcome.pairs, &self.pairs);
        // An infinite number is exact, and so is all that saturates because of it.
        let size = |value: f64| if value.is_finite() { value.abs() } else { 0.0 };
        let numbers = Numbers { case, logps: &self.logps };
        let pairs = case.pairs();

        // Rewards: scale · (logp − ref_logp), with the error of logp and three roundings, and one where β is not an f32.
        let reward_error = |pair: usize, s: Option<usize>, reward: f64| {
            let scale = |s| numbers.scale(pair, s, spec.loss.length_normalized());
            s.map_or(0.0, |s| scale(s) * logp_errors[s] + 5.0 * U * size(reward))
        };

        // An argument that is rounded is one that moved: the log-ratio, its product with the scale, the difference of
        // two of them, and γ.
        let gamma = inputs.gamma.map_or(spec.loss.gamma().abs(), |margin| {
            margin.iter().fold(0.0, |most, &gamma| f64::from(gamma.abs()).max(most))
        });
        let gamma_error = U * gamma / numbers.least_scale();
        let by: Vec<f64> =
            (0..spec.sequences)
                .map(|s| logp_errors[s] + 8.0 * U * size(numbers.log_ratio(s)) + 4.0 * gamma_error)
                // Sorted numbers pass each other when both move.
                .map(|by| {
                    if spec.loss.terms().iter().any(|term| term.kind.couples_pairs()) { 2.0 * by } else { by }
                })
                .collect();
        let evaluate = |logps: &[f64]| case.reference_pairs(logps, &self.logps.scored);
        let moves = Moves::of(&self.logps.logps, &by, &evaluate);

        let normalizer = numbers.normalizer();
        let mut coef_errors = moves.coef.clone();
        let mut sums = [0.0; 4];
        let mut loss_size = 0.0;
        for (pair, &(w, l)) in pairs.iter().enumerate() {
            let (reward_w, reward_l) = (expected.chosen_rewards[pair], expected.rejected_rewards[pair]);
            let (error_w, error_l) = (reward_error(pair, w, reward_w), reward_error(pair, l, reward_l));
            let margin = expected.margins[pair];
            let margin_error = error_w + error_l + U * size(margin);
            near("chosen_rewards", pair, found.chosen_rewards[pair].into(), reward_w, error_w);
            near("rejected_rewards", pair, found.rejected_rewards[pair].into(), reward_l, error_l);
            near("margins", pair, found.margins[pair].into(), margin, margin_error);

            let weight = numbers.weight(pair, w, l);
            let mut sizes = Sizes::default();
            for term in spec.loss.terms() {
                let of_term = numbers.sizes(term, pair, w, l);
                sizes.loss += term.weight * of_term.loss;
                sizes.chosen += term.weight * of_term.chosen;
                sizes.rejected += term.weight * of_term.rejected;
            }
            // The weight is exp of a sum: its error is relative, as large as the sum.
            let roundings = weight * (ROUNDINGS + weight.ln().abs()) * U;
            let loss = expected.pair_losses[pair];
            let loss_error = moves.losses[pair] + roundings * size(sizes.loss);
            near("pair_losses", pair, found.pair_losses[pair].into(), loss, loss_error);
            for (sum, error) in sums.iter_mut().zip([loss_error, error_w, error_l, margin_error]) {
                *sum += error;
            }
            loss_size += size(loss);
            for (s, size_of_slope) in [(w, sizes.chosen), (l, sizes.rejected)] {
                if let Some(s) = s {
                    coef_errors[s] += roundings * size(size_of_slope) / normalizer;
                }
            }
        }
        for (s, &error) in coef_errors.iter().enumerate() {
            near("coef", s, found.coef[s].into(), expected.coef[s], error);
        }

        let (f, e) = (&found.metrics, &expected.metrics);
        let loss_error = sums[0] / normalizer + 2.0 * U * loss_size / normalizer;
        near("metrics.loss", 0, f.loss.into(), e.loss, loss_error);
        let count = pairs.len() as f64;
        let chosen = pairs.iter().filter(|pair| pair.0.is_some()).count() as f64;
        let rejected = pairs.iter().filter(|pair| pair.1.is_some()).count() as f64;
        let mean = |sum: f64, of: f64, value: f64| sum / of + 2.0 * U * size(value) + f64::MIN_POSITIVE;
        let error_w = mean(sums[1], chosen, e.chosen_reward);
        let error_l = mean(sums[2], rejected, e.rejected_reward);
        near("metrics.chosen_reward", 0, f.chosen_reward.into(), e.chosen_reward, error_w);
        near("metrics.rejected_reward", 0, f.rejected_reward.into(), e.rejected_reward, error_l);
        let error = mean(sums[3], count, e.margin) + if chosen < count { error_w + error_l } else { 0.0 };
        near("metrics.margin", 0, f.margin.into(), e.margin, error);
        // Pairs whose rewards are closer than their errors may fall either way.
        let unsure = (0..pairs.len()).filter(|&pair| {
            let (w, l) = pairs[pair];
            let (reward_w, reward_l) = (expected.chosen_rewards[pair], expected.rejected_rewards[pair]);
            let error = reward_error(pair, w, reward_w) + reward_error(pair, l, reward_l);
            expected.margins[pair].abs() <= error
        });
        near("metrics.accuracy", 0, f.accuracy.into(), e.accuracy, unsure.count() as f64 / count + 2.0 * U);
        coef_errors
    }

    /// Token metrics, with e = exp(z′ − reference) and S = Σe: all are sums of S's own terms, by the same paths.
    fn check_metrics<T: Logit + Into<f64>>(
        &self,
        who: &str,
        case: &Case<T>,
        outcome: &Outcome<T>,
        token_errors: &[f64],
        near: &dyn Fn(&str, usize, f64, f64, f64),
    ) {
        let spec = &case.spec;
        let Some(found) = &outcome.logps.metrics else {
            assert_eq!(spec.metrics, MetricsLevel::None, "{who}: no metrics in {spec:?}");
            return;
        };
        let expected = self.logps.metrics.as_ref().expect("the reference gives them");
        let sum_error = sum_error(spec.vocab);
        let softcap_error = softcap_error(&spec.transform);
        let ln_vocab = (spec.vocab as f64).ln();
        let columns = case.batch().columns();
        // Σp² and its logarithm: twice the relative error of e, and of S; under a cap, |∂ log Σp² / ∂z′| adds up to 4.
        let p2_error = 6.0 * sum_error + 4.0 * softcap_error;
        for (row, target) in case.targets().iter().enumerate() {
            // H = ln S − Σ e(z′ − reference) / S. The reference is within 4 of the largest z′, so that the size of the
            // second term is at most ln V + 8; it has the relative error of S twice, and again from moving the
            // reference. |∂H/∂z′| = p|ln p + H| adds up to 2 ln V at most.
            let entropy_error = (1.0 + 4.0 * (ln_vocab + 8.0)) * sum_error
                + (2.0 * ln_vocab + 2.0) * softcap_error
                + 4.0 * U * (ln_vocab + 8.0);
            near("entropy", row, found.entropy[row].into(), expected.entropy[row], entropy_error);
            if target.is_none() {
                assert_eq!(found.entropy[row], 0.0);
            }
            if spec.metrics == MetricsLevel::Entropy {
                continue;
            }
            let (p2, expected_p2) = (found.sum_p2[row].into(), expected.sum_p2[row]);
            near("sum_p2", row, p2, expected_p2, expected_p2 * p2_error);
            let (mean, expected_mean) = (found.mean_logit[row].into(), expected.mean_logit[row]);
            let logits = &case.logits[row * spec.row_stride..][..columns];
            let sizes = logits.iter().map(|&z| spec.transform.apply(z.into()).abs());
            let size = sizes.filter(|size| size.is_finite()).sum::<f64>() / columns as f64;
            near("mean_logit", row, mean, expected_mean, size * sum_error + softcap_error);
            let correct = f64::from(found.correct[row]);
            assert_eq!(correct, expected.correct[row], "{who}: correct[{row}] in {spec:?}");
            if target.is_none() {
                assert_eq!((found.mean_logit[row], found.sum_p2[row]), (0.0, 0.0));
            }
        }
        if spec.metrics == MetricsLevel::Entropy {
            return;
        }
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            let rows = bounds[0] as usize..bounds[1] as usize;
            let errors: f64 = rows.map(|row| token_errors[row]).filter(|error| error.is_finite()).sum();
            let weight = expected.sequence_log_weights[s];
            let error = errors / f64::from(self.logps.scored[s].max(1)) + p2_error + 8.0 * U * weight.abs();
            near("sequence_log_weights", s, found.sequence_log_weights[s].into(), weight, error);
        }
        self.check_means(who, case, outcome, found, near);
    }

    /// Means, of the rows as they were found: sums in f64, each addition of which may take 2⁻⁵³ of all that is added, here
    /// and there; rounded once.
    fn check_means<T: Logit>(
        &self,
        who: &str,
        case: &Case<T>,
        outcome: &Outcome<T>,
        metrics: &TokenMetrics<f32>,
        near: &dyn Fn(&str, usize, f64, f64, f64),
    ) {
        let TokenMetrics { entropy, correct, mean_logit, sum_p2, mean: means, .. } = metrics;
        let scored: Vec<bool> = case.targets().iter().map(Option::is_some).collect();
        let count = scored.iter().filter(|&&scored| scored).count();
        assert_eq!(means.scored as usize, count, "{who}: means.scored in {:?}", case.spec);
        for (what, rows, found) in [
            ("means.entropy", entropy, means.entropy),
            ("means.accuracy", correct, means.accuracy),
            ("means.mean_logit", mean_logit, means.mean_logit),
            ("means.logsumexp", &outcome.logps.logsumexp, means.logsumexp),
            ("means.sum_p2", sum_p2, means.sum_p2),
        ] {
            let scored = rows.iter().zip(&scored).filter(|(_, scored)| **scored);
            let figures = scored.map(|(&figure, _)| f64::from(figure));
            let expected = figures.clone().sum::<f64>() / count.max(1) as f64;
            let additions = f64::EPSILON * figures.map(f64::abs).sum::<f64>();
            near(what, 0, found.into(), expected, additions + U * expected.abs());
        }
    }

    /// `backward`: c(1[v = y] − p), with p off by a factor of 1 ± (the error of logsumexp, of two differences and exp2).
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
        let (scale, columns) = (f64::from(spec.transform.scale), case.batch().columns());
        let mut nonfinite_row = None;
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            for (row, target) in targets.iter().enumerate().take(bounds[1] as usize).skip(bounds[0] as usize)
            {
                let factor =
                    self.tokens.as_ref().map_or(1.0, |tokens| tokens[row]) * f64::from(spec.upstream);
                let coef = (self.coef[s] * factor * scale).abs();
                let own_error = if case.own_coef.is_some() { 0.0 } else { coef_errors[s] };
                let coef_error = own_error * (factor * scale).abs() + 5.0 * U * coef;
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
                    if !found.is_finite() {
                        nonfinite_row.get_or_insert(row);
                    }
                    if outcome.factored && !coef.is_finite() && target.is_some() && at - start < columns {
                        // An infinity times a rounded 1 - p: NaN where `backward` has an infinity, or the other way round.
                        assert!(!found.is_finite(), "{who}: dlogits[{at}] is {found} in {spec:?}");
                        continue;
                    }
                    if target.is_none() || at - start >= columns {
                        assert!(found == 0.0, "{who}: dlogits[{at}], not scored, is {found} in {spec:?}");
                        continue;
                    }
                    let z = spec.transform.apply(case.logits[at].into());
                    let distance = (z - self.logps.logsumexp[row]).abs();
                    let p = (z - self.logps.logsumexp[row]).exp();
                    let z_error = softcap_error(&spec.transform);
                    let relative = if p > 0.0 {
                        lse_error + z_error + U * (6.0 * distance + 8.0) + short_exp
                    } else {
                        0.0
                    };
                    let p_error = p * relative + 2f64.powi(-126);
                    // The slope, 4q(1 − q): q's relative error twice, which is that of e^(2|t|) where q is small.
                    let logit: f64 = case.logits[at].into();
                    let slope = spec.transform.slope(logit) / scale;
                    let t = spec
                        .transform
                        .softcap
                        .map_or(0.0, |cap| (logit * scale / f64::from(cap)).abs().min(100.0));
                    let slope_error = 2.0 * U * (6.0 * t + 8.0) * slope + 2f64.powi(-120);
                    let mut exact =
                        slope * (coef * p_error + coef_error + 2.0 * U * coef) + coef * slope_error;
                    if outcome.factored {
                        let one = if *target == Some(at - start) { 1.0 } else { 0.0 };
                        exact += coef * rounding(T::DTYPE, (one - p).abs() + p_error);
                    }
                    let bound = exact + rounding(T::DTYPE, expected.abs() + exact);
                    near("dlogits", at, found, expected, bound);
                }
            }
        }
        // The factored forward knows no coefficients.
        let nonfinite_row = nonfinite_row.filter(|_| !outcome.factored);
        assert_eq!(outcome.gradient.nonfinite_row, nonfinite_row, "{who}: gradient status in {spec:?}");
    }
}
