//! How far a backend may be from the truth, derived from its arithmetic: the one theory of all suites.
//!
//! What a backend's steps cost is its row of `precision`. From there errors are followed through the chain, each step by
//! its derivative and its own rounding, as worst cases summed by absolute value:
//!
//! 1. `row`: Σ exp has a relative error, which is an absolute one of logsumexp and of the label's log-prob.
//! 2. `token_metrics`: entropy, Σ p² and the mean logit are sums over the same terms.
//! 3. `sequence`: a sequence's log-prob collects the errors of its rows.
//! 4. `pair_loss`: rewards and margins are multiples and differences of log-ratios. A loss and its coefficients move as
//!    far as the f64 reference's do when the log-probs move (`moves`), and have roundings of numbers as large as
//!    `loss_sizes` says.
//! 5. `gradient`: dlogits has the errors of the coefficient, of the softmax and of the transform's slope.
//!
//! `promise` has what is asked of well-conditioned results besides.

pub mod gradient;
mod loss_sizes;
mod moves;
pub mod pair_arguments;
mod pair_loss;
pub mod precision;
pub mod promise;
mod row;
pub mod sequence;
mod token_metrics;
