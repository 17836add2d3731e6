//! The theory holds together, and the crate's own loss leads where it says.

use dpo_kernels::theory::{
    bradley_terry, gibbs_policy, kl_divergence, log_partition, reward_difference, reward_from_policy,
    rlhf_objective,
};
use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, cpu, reference};
use proptest::prelude::*;

/// A policy from unnormalised log-probs.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|z| z.exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Rounding of sums of some tens of terms of size `scale`.
fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-13 * (1.0 + scale.abs())
}

/// (π_ref, π, r, β) over 2 to 12 candidates; π is some other policy.
fn candidates() -> impl Strategy<Value = (Vec<f64>, Vec<f64>, Vec<f64>, f64)> {
    (2usize..12).prop_flat_map(|k| {
        let numbers = |range: std::ops::Range<f64>| prop::collection::vec(range, k);
        let policy = || numbers(-4.0..4.0).prop_map(|logits| softmax(&logits));
        (policy(), policy(), numbers(-5.0..5.0), 0.05..5.0)
    })
}

proptest! {
    #[test]
    fn the_gibbs_policy_attains_beta_log_z_and_no_policy_does_better(
        (reference, other, rewards, beta) in candidates()
    ) {
        let best = gibbs_policy(&reference, &rewards, beta).unwrap();
        let attained = rlhf_objective(&best, &reference, &rewards, beta).unwrap();
        let log_z = log_partition(&reference, &rewards, beta).unwrap();
        prop_assert!(close(attained, beta * log_z, 10.0), "{attained} against {}", beta * log_z);

        // What another policy lacks is exactly β KL(π‖π*), which is never negative.
        let lacking = attained - rlhf_objective(&other, &reference, &rewards, beta).unwrap();
        let divergence = kl_divergence(&other, &best).unwrap();
        prop_assert!(divergence >= 0.0);
        prop_assert!(close(lacking, beta * divergence, 100.0), "{lacking} against {}", beta * divergence);
    }

    #[test]
    fn the_partition_function_cancels_in_a_reward_difference((reference, _, rewards, beta) in candidates()) {
        let best = gibbs_policy(&reference, &rewards, beta).unwrap();
        let log_z = log_partition(&reference, &rewards, beta).unwrap();

        // With Z the rewards come back, with any other number in its place their differences do.
        let back = reward_from_policy(&best, &reference, beta, log_z).unwrap();
        let shifted = reward_from_policy(&best, &reference, beta, log_z + 7.0).unwrap();
        for i in 0..rewards.len() {
            prop_assert!(close(back[i], rewards[i], 100.0));
            for j in 0..rewards.len() {
                let difference = rewards[i] - rewards[j];
                prop_assert!(close(reward_difference(&best, &reference, beta, i, j).unwrap(), difference, 100.0));
                prop_assert!(close(shifted[i] - shifted[j], difference, 100.0));
                prop_assert!(close(bradley_terry(shifted[i], shifted[j]), bradley_terry(rewards[i], rewards[j]), 100.0));
            }
        }
    }

    #[test]
    fn a_reward_of_the_prompt_alone_changes_nothing((reference, _, rewards, beta) in candidates()) {
        let raised: Vec<f64> = rewards.iter().map(|r| r + 3.0).collect();
        let policy = gibbs_policy(&reference, &rewards, beta).unwrap();
        let same = gibbs_policy(&reference, &raised, beta).unwrap();
        prop_assert!(policy.iter().zip(&same).all(|(&a, &b)| close(a, b, 100.0)));
    }
}

#[test]
fn small_beta_does_not_overflow() {
    let policy = gibbs_policy(&[0.5, 0.5], &[1000.0, 999.0], 1e-3).unwrap();
    assert_eq!(policy, [1.0, 0.0]);
    assert_eq!(log_partition(&[0.5, 0.5], &[1000.0, 999.0], 1e-3).unwrap(), 1e6 + 0.5f64.ln());
}

#[test]
fn candidates_without_probability() {
    assert_eq!(kl_divergence(&[0.0, 1.0], &[0.5, 0.5]).unwrap(), 2.0f64.ln());
    assert_eq!(kl_divergence(&[0.5, 0.5], &[0.0, 1.0]).unwrap(), f64::INFINITY);
    assert_eq!(gibbs_policy(&[0.0, 1.0], &[9.0, 1.0], 1.0).unwrap(), [0.0, 1.0]);
    let rewards = reward_from_policy(&[0.0, 0.5, 0.5, 0.0], &[0.5, 0.0, 0.5, 0.0], 1.0, 0.0).unwrap();
    assert_eq!(rewards[..3], [f64::NEG_INFINITY, f64::INFINITY, 0.0]);
    assert!(rewards[3].is_nan());
}

const REWARDS: [f64; 5] = [1.5, -0.5, 0.0, 0.75, -2.0];
const REFERENCE: [f64; 5] = [0.1, 0.3, 0.25, 0.05, 0.3];
const BETA: f64 = 0.5;

/// ∂/∂logits of the loss of one comparison, in which `logits[0]` is the policy's row for the chosen answer and
/// `logits[1]` the same row for the rejected one.
type Gradient = fn(&HostBatch<'_>, &[f64], &[i64], &[f64], &PairLoss) -> Vec<f64>;

fn with_reference(
    batch: &HostBatch<'_>,
    logits: &[f64],
    labels: &[i64],
    ref_logps: &[f64],
    loss: &PairLoss,
) -> Vec<f64> {
    let logps = reference::logps(batch, logits, labels.into()).unwrap();
    let pairs =
        reference::pair_loss(batch, &logps.logps, None, &PairInputs::reference(ref_logps), loss).unwrap();
    reference::backward(batch, logits, labels.into(), &logps.logsumexp, &pairs.coef, 1.0).unwrap()
}

fn with_cpu(
    batch: &HostBatch<'_>,
    logits: &[f64],
    labels: &[i64],
    ref_logps: &[f64],
    loss: &PairLoss,
) -> Vec<f64> {
    let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&value| value as f32).collect() };
    let mut gradient = narrow(logits);
    let mut out = Forward::default();
    cpu::forward(batch, &gradient, labels.into(), &PairInputs::reference(&narrow(ref_logps)), loss, &mut out)
        .unwrap();
    cpu::backward_in_place(batch, &mut gradient, labels.into(), &out).unwrap();
    gradient.into_iter().map(f64::from).collect()
}

/// Gradient descent from the reference policy on the expected loss under exact Bradley–Terry preferences.
///
/// Candidates are the tokens of a vocabulary, answers have one token, and the policy is one row of logits. Every
/// pair of candidates is compared once; that it is decided against the better one with the probability of the
/// Bradley–Terry model is just what label smoothing says.
fn descend(gradient: Gradient, steps: usize) -> Vec<f64> {
    const RATE: f64 = 2.0;
    const K: usize = REWARDS.len();
    let batch = HostBatch::padded(2, 1, K, LabelAlignment::Aligned);
    let mut logits = REFERENCE.map(f64::ln);
    for _ in 0..steps {
        let mut total = [0.0; K];
        for i in 0..K {
            for j in (0..K).filter(|&j| REWARDS[i] > REWARDS[j]) {
                let flipped = bradley_terry(REWARDS[j], REWARDS[i]);
                let loss = PairLoss::sigmoid(BETA).unwrap().with_label_smoothing(flipped).unwrap();
                let ref_logps = [REFERENCE[i].ln(), REFERENCE[j].ln()];
                let rows = [logits, logits].concat();
                let gradient = gradient(&batch, &rows, &[i as i64, j as i64], &ref_logps, &loss);
                for (k, total) in total.iter_mut().enumerate() {
                    *total += gradient[k] + gradient[K + k];
                }
            }
        }
        for (logit, total) in logits.iter_mut().zip(total) {
            *logit -= RATE * total;
        }
    }
    softmax(&logits)
}

/// The loss is convex in the log-ratios, and its curvature at the optimum, β²σ(u)σ(−u) per comparison, contracts the
/// distance by some tens of percent a step: what remains after the steps below is the rounding of the gradient.
#[test]
fn descent_on_exact_preferences_arrives_at_the_gibbs_policy() {
    let best = gibbs_policy(&REFERENCE, &REWARDS, BETA).unwrap();
    for (gradient, steps, tolerance) in [(with_reference as Gradient, 2000, 1e-12), (with_cpu, 1000, 1e-5)] {
        let arrived = descend(gradient, steps);
        let distance = arrived.iter().zip(&best).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(distance < tolerance, "{arrived:?} is {distance:e} from {best:?}");
    }
}
