//! What is known of a loss by its name.

use super::kind::Kind;
use super::pair_loss::PairLoss;
use super::parameter::{MAX_PARAMETERS, Parameter};
use crate::error::Result;

/// One loss of [`ALL`](super::ALL).
#[derive(Debug, Clone, Copy)]
pub struct LossInfo {
    /// What TRL calls it, or else its paper.
    pub name: &'static str,
    /// What else it is called, and known by.
    pub other_names: &'static [&'static str],
    /// The loss of a pair; symbols as in [the module](super).
    pub formula: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What it reads besides log-probs.
    pub needs: &'static str,
    /// Sensible ranges of its parameters.
    pub ranges: &'static str,
    /// The usual β; of the rewards alone, where the loss is of log-probs.
    pub beta: f64,
    /// The numbers of its own, besides those that all losses have.
    pub parameters: &'static [Parameter],
    pub(super) make: Make,
}

/// How a loss is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Make {
    OfKind(&'static Kind),
    OfOthers(fn(beta: f64, parameters: [f64; MAX_PARAMETERS]) -> Result<PairLoss>),
}

impl LossInfo {
    /// The row of a loss that is not made of others.
    pub(super) const fn of_kind(kind: &'static Kind) -> LossInfo {
        LossInfo {
            name: kind.name,
            other_names: kind.other_names,
            formula: kind.formula,
            source: kind.source,
            needs: kind.needs,
            ranges: kind.ranges,
            beta: kind.beta,
            parameters: kind.parameters,
            make: Make::OfKind(kind),
        }
    }

    /// A row to which only texts must be added, of a loss that is made of others.
    pub(super) const fn of_others(
        name: &'static str,
        make: fn(f64, [f64; MAX_PARAMETERS]) -> Result<PairLoss>,
    ) -> LossInfo {
        LossInfo {
            name,
            other_names: &[],
            formula: "",
            source: "",
            needs: "",
            ranges: "",
            beta: 0.1,
            parameters: &[],
            make: Make::OfOthers(make),
        }
    }

    /// Its name and what else it is called.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.other_names.iter().copied())
    }

    /// Whether a β is in its formula.
    pub fn reads_beta(&self) -> bool {
        match self.make {
            Make::OfKind(kind) => kind.reads_beta(),
            Make::OfOthers(_) => true,
        }
    }

    /// The loss at a β. `parameters` are its own in the order of [`parameters`](Self::parameters); those left out at
    /// the end have their usual values.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta` and the parameters where they are out of their ranges, and for `parameters` if there
    /// are more than the loss has.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::LossInfo;
    ///
    /// let simpo = LossInfo::named("simpo")?;
    /// assert_eq!(simpo.parameters[0].name, "gamma");
    /// assert_eq!(simpo.make(2.0, &[1.5])?, PairLoss::simpo(2.0, 1.5)?);
    /// assert_eq!(simpo.make(2.0, &[])?, PairLoss::simpo(2.0, simpo.parameters[0].usual(2.0))?);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn make(&self, beta: f64, parameters: &[f64]) -> Result<PairLoss> {
        match self.make {
            Make::OfKind(kind) => PairLoss::of(kind, beta, parameters),
            Make::OfOthers(make) => make(beta, Parameter::or_usual(self.parameters, beta, parameters)?),
        }
    }
}
