//! Why the loss is what it is, over finite candidate sets.
//!
//! A prompt has candidates y = 0, 1, …, a policy is their probabilities, a reward a number for each:
//!
//! | step | function | Rafailov et al. 2023, arXiv:2305.18290 |
//! |---|---|---|
//! | preferences follow a reward | [`bradley_terry`] | eq. 1 |
//! | the policy should earn reward and stay near the reference | [`rlhf_objective`] | eq. 3 |
//! | the best policy is known in closed form | [`gibbs_policy`], [`log_partition`] | eq. 4 |
//! | so a policy says which reward it is best for | [`reward_from_policy`] | eq. 5 |
//! | of which preferences see differences alone, and Z(x) cancels | [`reward_difference`] | eq. 6 |
//!
//! Put into −log p(y_w ≻ y_l), the last line is the DPO loss (eq. 7), [`PairLoss::sigmoid`](crate::PairLoss::sigmoid).
//!
//! ```
//! use dpo_kernels::theory;
//!
//! let (reference, rewards, beta) = ([0.5, 0.3, 0.2], [1.0, 2.0, -1.0], 0.5);
//! let best = theory::gibbs_policy(&reference, &rewards, beta)?;
//!
//! // The best policy attains β log Z; the reference itself does worse.
//! let attained = theory::rlhf_objective(&best, &reference, &rewards, beta)?;
//! let log_z = theory::log_partition(&reference, &rewards, beta)?;
//! assert!((attained - beta * log_z).abs() < 1e-14);
//! assert!(theory::rlhf_objective(&reference, &reference, &rewards, beta)? < attained);
//!
//! // And it gives the rewards back: their differences without Z, the rewards themselves with it.
//! assert!((theory::reward_difference(&best, &reference, beta, 1, 0)? - 1.0).abs() < 1e-14);
//! assert!((theory::reward_from_policy(&best, &reference, beta, log_z)?[2] + 1.0).abs() < 1e-14);
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::loss::sigmoid;

/// How far a policy's probabilities may be from summing to 1.
pub const SUM_TOLERANCE: f64 = 1e-9;

/// The Bradley–Terry probability that y_w is preferred to y_l: σ(r_w − r_l).
///
/// Bradley & Terry 1952, "Rank analysis of incomplete block designs: I. The method of paired comparisons", with
/// strengths eʳ: e^{r_w} / (e^{r_w} + e^{r_l}).
///
/// ```
/// use dpo_kernels::theory::bradley_terry;
///
/// assert_eq!(bradley_terry(2.0, 2.0), 0.5);
/// assert!((bradley_terry(3.0f64.ln(), 0.0) - 0.75).abs() < 1e-15);
/// ```
pub fn bradley_terry(chosen_reward: f64, rejected_reward: f64) -> f64 {
    sigmoid(chosen_reward - rejected_reward)
}

/// KL(π‖π_ref) = Σ_y π(y) log(π(y)/π_ref(y)), in nats; 0·log 0 is 0, and ∞ comes of π > 0 where π_ref = 0.
///
/// Kullback & Leibler 1951, "On information and sufficiency".
///
/// # Errors
///
/// [`Error::Value`] that names `policy` or `reference` unless each is a distribution (numbers from 0, summing to 1
/// within [`SUM_TOLERANCE`]); [`Error::Length`] unless they are of one length.
pub fn kl_divergence(policy: &[f64], reference: &[f64]) -> Result<f64> {
    check_distribution("policy", policy)?;
    check_distribution("reference", reference)?;
    Error::check_len("reference", CANDIDATES, policy.len(), reference.len())?;
    let terms = policy.iter().zip(reference).filter(|&(&p, _)| p > 0.0);
    Ok(terms.map(|(p, q)| p * (p.ln() - q.ln())).sum())
}

/// The objective of reinforcement learning from human feedback: E_π\[r\] − β KL(π‖π_ref).
///
/// Rafailov et al. 2023, eq. 3; KL control of a language model goes back to Jaques et al. 2017 (arXiv:1611.02796)
/// and Ziegler et al. 2019 (arXiv:1909.08593).
///
/// # Errors
///
/// Those of [`kl_divergence`]; [`Error::Length`] for `rewards`; [`Error::Value`] for `rewards` unless all are finite,
/// and for `beta` unless it is finite and above 0.
pub fn rlhf_objective(policy: &[f64], reference: &[f64], rewards: &[f64], beta: f64) -> Result<f64> {
    Error::check_positive("beta", beta)?;
    let divergence = kl_divergence(policy, reference)?;
    check_rewards(rewards, policy.len())?;
    let expected_reward: f64 = policy.iter().zip(rewards).map(|(p, r)| p * r).sum();
    Ok(expected_reward - beta * divergence)
}

/// log Z = log Σ_y π_ref(y) e^{r(y)/β}: the normaliser of [`gibbs_policy`]. β log Z is the best value that
/// [`rlhf_objective`] can have.
///
/// Rafailov et al. 2023, below eq. 4. Computed in logs, so that small β does not overflow.
///
/// # Errors
///
/// [`Error::Value`] that names `reference` unless it is a distribution, `rewards` unless all are finite, `beta`
/// unless it is finite and above 0; [`Error::Length`] for `rewards`.
pub fn log_partition(reference: &[f64], rewards: &[f64], beta: f64) -> Result<f64> {
    Ok(log_sum_exp(&gibbs_log_weights(reference, rewards, beta)?))
}

/// The policy that maximises [`rlhf_objective`]: π*(y) = π_ref(y) e^{r(y)/β} / Z.
///
/// Rafailov et al. 2023, eq. 4; earlier as the solution of maximum-entropy and relative-entropy control: Peters &
/// Schaal 2007 (reward-weighted regression), Ziebart 2010 (thesis), Peng et al. 2019 (arXiv:1910.00177).
///
/// # Errors
///
/// Those of [`log_partition`].
pub fn gibbs_policy(reference: &[f64], rewards: &[f64], beta: f64) -> Result<Vec<f64>> {
    let log_weights = gibbs_log_weights(reference, rewards, beta)?;
    let log_z = log_sum_exp(&log_weights);
    Ok(log_weights.into_iter().map(|log_weight| (log_weight - log_z).exp()).collect())
}

/// The rewards for which `policy` is best: r(y) = β log(π(y)/π_ref(y)) + β log Z.
///
/// Rafailov et al. 2023, eq. 5. Any `log_partition` gives rewards of the same differences and thus the same
/// preferences; 0 gives the implicit reward of DPO. −∞ where π = 0, ∞ where only π_ref = 0, NaN where both are,
/// since the reward of a candidate that neither policy gives is not determined.
///
/// # Errors
///
/// [`Error::Value`] that names `policy` or `reference` unless each is a distribution, `beta` unless it is finite and
/// above 0, `log_partition` unless it is finite; [`Error::Length`] unless the policies are of one length.
pub fn reward_from_policy(
    policy: &[f64],
    reference: &[f64],
    beta: f64,
    log_partition: f64,
) -> Result<Vec<f64>> {
    Error::check_positive("beta", beta)?;
    check_distribution("policy", policy)?;
    check_distribution("reference", reference)?;
    Error::check_len("reference", CANDIDATES, policy.len(), reference.len())?;
    if !log_partition.is_finite() {
        return Err(Error::value("log_partition", "a finite number", log_partition));
    }
    Ok(policy.iter().zip(reference).map(|(p, q)| beta * (p.ln() - q.ln()) + beta * log_partition).collect())
}

/// The implicit reward difference r(y_w) − r(y_l) = β log(π(y_w)/π_ref(y_w)) − β log(π(y_l)/π_ref(y_l)): the margin
/// u of the DPO loss.
///
/// Rafailov et al. 2023, eq. 6: Z depends on the prompt alone and cancels, which is why DPO never needs it.
///
/// # Errors
///
/// Those of [`reward_from_policy`]; [`Error::Value`] that names `chosen` or `rejected` unless it is a candidate.
pub fn reward_difference(
    policy: &[f64],
    reference: &[f64],
    beta: f64,
    chosen: usize,
    rejected: usize,
) -> Result<f64> {
    let rewards = reward_from_policy(policy, reference, beta, 0.0)?;
    for (argument, candidate) in [("chosen", chosen), ("rejected", rejected)] {
        if candidate >= rewards.len() {
            return Err(Error::value(argument, format!("a candidate below {}", rewards.len()), candidate));
        }
    }
    Ok(rewards[chosen] - rewards[rejected])
}

const CANDIDATES: &str = "[candidates]";

/// log(π_ref(y) e^{r(y)/β}).
fn gibbs_log_weights(reference: &[f64], rewards: &[f64], beta: f64) -> Result<Vec<f64>> {
    Error::check_positive("beta", beta)?;
    check_distribution("reference", reference)?;
    check_rewards(rewards, reference.len())?;
    Ok(reference.iter().zip(rewards).map(|(q, r)| q.ln() + r / beta).collect())
}

/// log Σ eˣ of numbers that are not all −∞.
fn log_sum_exp(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

fn check_distribution(argument: &'static str, probabilities: &[f64]) -> Result<()> {
    if let Some(p) = probabilities.iter().find(|&p| !(0.0..=1.0 + SUM_TOLERANCE).contains(p)) {
        return Err(Error::value(argument, "probabilities from 0 to 1", p));
    }
    let sum = probabilities.iter().fold(0.0, |sum, p| sum + p); // `sum` would give −0 for none
    if (sum - 1.0).abs() <= SUM_TOLERANCE {
        Ok(())
    } else {
        Err(Error::value(argument, "probabilities that sum to 1", format!("a sum of {sum}")))
    }
}

fn check_rewards(rewards: &[f64], candidates: usize) -> Result<()> {
    Error::check_len("rewards", CANDIDATES, candidates, rewards.len())?;
    match rewards.iter().find(|r| !r.is_finite()) {
        None => Ok(()),
        Some(r) => Err(Error::value("rewards", "finite numbers", r)),
    }
}
