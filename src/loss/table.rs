//! The table of losses, and losses by their names.

use super::info::LossInfo;
use super::kind::Kind;
use super::pair_loss::PairLoss;
use super::{combinations, of_logps, of_margin, of_rewards, of_sorted};
use crate::error::{Error, Result};

const KINDS: [&[&Kind]; 4] = [&of_margin::LOSSES, &of_rewards::LOSSES, &of_sorted::LOSSES, &of_logps::LOSSES];

const COUNT: usize =
    KINDS[0].len() + KINDS[1].len() + KINDS[2].len() + KINDS[3].len() + combinations::LOSSES.len();

/// Every loss.
pub static ALL: [LossInfo; COUNT] = {
    let mut all = [combinations::LOSSES[0]; COUNT];
    let mut filled = 0;
    // A constant is computed without iterators.
    let mut family = 0;
    while family < KINDS.len() {
        let mut i = 0;
        while i < KINDS[family].len() {
            all[filled] = LossInfo::of_kind(KINDS[family][i]);
            filled += 1;
            i += 1;
        }
        family += 1;
    }
    let mut i = 0;
    while i < combinations::LOSSES.len() {
        all[filled] = combinations::LOSSES[i];
        filled += 1;
        i += 1;
    }
    all
};

impl LossInfo {
    /// The loss of this name, or of this [other name](Self::other_names).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `loss`, with the names there are.
    pub fn named(name: &str) -> Result<&'static LossInfo> {
        ALL.iter().find(|info| info.names().any(|known| known == name)).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().flat_map(LossInfo::names).collect();
            Error::value("loss", format!("one of {}", names.join(", ")), name)
        })
    }
}

/// # Losses by name
impl PairLoss {
    /// A loss of [`ALL`] by its name, as TRL spells it, with the usual values for what is not β.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`, and for `loss` with the names there are.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    ///
    /// assert_eq!(PairLoss::named("dpo", 0.1)?, PairLoss::sigmoid(0.1)?);
    /// assert_eq!(PairLoss::named("discopop", 0.1)?, PairLoss::discopop(0.1, 0.05)?);
    /// // Without a β, it has the usual one.
    /// assert_eq!("simpo".parse::<PairLoss>()?, PairLoss::simpo(2.0, 1.0)?);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn named(name: &str, beta: impl Into<f64>) -> Result<Self> {
        LossInfo::named(name)?.make(beta.into(), &[])
    }
}

/// The table's loss of this name with its usual β.
impl std::str::FromStr for PairLoss {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let info = LossInfo::named(name)?;
        info.make(info.beta, &[])
    }
}
