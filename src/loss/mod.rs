//! Pair losses: functions from the log-probs of a pair to a loss and to one coefficient per sequence.
//!
//! This is `pair_loss`, and the whole of the coefficient contract: `logps` and `backward` know nothing of what happens
//! here. With log-ratios a = logp_w − ref_logp_w and b = logp_l − ref_logp_l, lengths n_w and n_l, and f′ of the
//! [`Divergence`], losses are functions of
//!
//! ```text
//! u = βa,  v = βb                       the rewards r̂_w and r̂_l        (β/n_w and β/n_l where length-normalised)
//! z = β(f′(a) − f′(b)) − γ              their difference, less what it is to be won by
//! ```
//!
//! | what | where |
//! |---|---|
//! | a loss with its parameters, checked | [`PairLoss`] |
//! | every loss by its name, with formula and source | [`ALL`] |
//! | per-pair values, lengths, baselines, normalisers | [`PairInputs`] |
//! | f-divergences | [`Divergence`] |
//!
//! Rewards are β·log-ratio whatever the loss makes of the log-ratios (divided by n where the loss is
//! [length-normalised](PairLoss::with_length_normalization)), and so are margins, u − v, and the accuracy.
//!
//! Each loss is written once for the host, in f64, and once for the device, in f32. On the host it is a row with its
//! formula and its constructor in the file of its family: `of_margin.rs`, `of_rewards.rs`, `of_sorted.rs`,
//! `of_logps.rs`, or `combinations.rs` where it is made of others. Checks, the table, the kernels' arguments and the
//! generic tests read the row, and know no loss by name. CONTRIBUTING.md shows how to add one.
//!
//! Where the textbook form of a loss is not a number though its limit is one, the limit is returned: e⁻ᶻ σ(z/τ) of
//! DiscoPOP at z = −1000 is 0, not ∞·0; σ(−z) log σ(−z) of EXO at z = ∞ is 0; odds near 1 go by expm1.

mod checks;
mod combinations;
mod divergence;
mod function;
mod info;
mod inputs;
mod kind;
mod math;
mod normalizer;
mod of_logps;
mod of_margin;
mod of_rewards;
mod of_sorted;
mod options;
mod pair;
mod pair_loss;
mod pair_stage;
mod parameter;
mod range;
mod table;

pub use divergence::Divergence;
pub use info::LossInfo;
pub use inputs::{PairInputs, PairTensors};
pub use kind::Kind;
pub use math::{sigmoid, softplus};
pub use normalizer::Normalizer;
pub use pair::{PairTerms, Sequence};
pub use pair_loss::{MAX_TERMS, PairLoss, Term};
pub use parameter::{MAX_PARAMETERS, Parameter};
pub use table::ALL;

pub(crate) use pair_stage::PairStage;
#[cfg(feature = "cuda")]
pub(crate) use range::Range;
