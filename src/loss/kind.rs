//! What is known of one loss: the row that constructors, checks, the lowering to the kernels, the table of losses and
//! the generic tests read. The rows themselves stand with their formulas, by family: `of_margin`, `of_rewards`,
//! `of_sorted`, `of_logps`.

use std::fmt;

use super::function::FunctionOf;
use super::parameter::Parameter;
use super::range::Range;

/// A loss that is not made of others. [`ALL`](super::ALL) has them, together with what is made of them.
pub struct Kind {
    /// Its number in `DpoLossKind` of kernels/params.h.
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    /// What else it is called.
    pub(super) other_names: &'static [&'static str],
    pub(super) formula: &'static str,
    pub(super) source: &'static str,
    pub(super) needs: &'static str,
    pub(super) ranges: &'static str,
    /// The usual β.
    pub(super) beta: f64,
    /// Numbers of its own, at most [`MAX_PARAMETERS`](super::MAX_PARAMETERS).
    pub(crate) parameters: &'static [Parameter],
    /// ε, where the loss has one.
    pub(crate) label_smoothing: Option<LabelSmoothing>,
    /// Whether log-ratios are divided by lengths without being asked to.
    pub(super) length_normalized: bool,
    pub(super) needs_baseline: bool,
    pub(super) function: FunctionOf,
}

/// What ε may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelSmoothing {
    pub range: Range,
    pub usual: f64,
}

/// What a loss sorts over the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sorts {
    Margins,
    Rewards,
}

impl Kind {
    /// A row to which only texts must be added: the number and name of a loss, and the loss.
    pub(super) const fn new(id: u32, name: &'static str, function: FunctionOf) -> Kind {
        Kind {
            id,
            name,
            other_names: &[],
            formula: "",
            source: "",
            needs: "reference",
            ranges: "",
            beta: 0.1,
            parameters: &[],
            label_smoothing: None,
            length_normalized: false,
            needs_baseline: false,
            function,
        }
    }

    /// Its name, as [`LossInfo::name`](super::LossInfo::name).
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is a function of z = β(f′(a) − f′(b)) − γ, and so takes a γ and f-divergences.
    pub fn is_of_margin(&self) -> bool {
        matches!(self.function, FunctionOf::Margin(_))
    }

    /// Whether it takes an ε.
    pub fn takes_label_smoothing(&self) -> bool {
        self.label_smoothing.is_some()
    }

    /// Whether it compares a pair with others of the batch.
    pub fn couples_pairs(&self) -> bool {
        self.sorts().is_some()
    }

    pub(super) fn sorts(&self) -> Option<Sorts> {
        match self.function {
            FunctionOf::SortedMargins(_) => Some(Sorts::Margins),
            FunctionOf::SortedRewards(_) => Some(Sorts::Rewards),
            _ => None,
        }
    }

    /// Whether it is the sum of a term of the chosen and a term of the rejected, so that either may be missing.
    pub fn is_sided(&self) -> bool {
        matches!(
            self.function,
            FunctionOf::Sides { .. } | FunctionOf::MeanLogp(_) | FunctionOf::BatchMeanLogp(_)
        )
    }

    /// Whether it divides by the lengths of sequences, whatever [`Term::length_normalized`](super::Term) says.
    pub fn needs_lengths(&self) -> bool {
        self.length_normalized || matches!(self.function, FunctionOf::MeanLogp(_) | FunctionOf::MeanLogps(_))
    }

    /// Whether it divides by the number of scored chosen tokens of the batch.
    pub fn counts_chosen_tokens(&self) -> bool {
        matches!(self.function, FunctionOf::BatchMeanLogp(_))
    }

    /// Whether it compares rewards with a baseline, KTO's z₀.
    pub fn needs_baseline(&self) -> bool {
        self.needs_baseline
    }

    /// Whether it reads β, which scales log-ratios: a loss of log-probs has none in it.
    pub fn reads_beta(&self) -> bool {
        !self.ignores_reference()
    }

    /// Whether it reads log-probs, not log-ratios.
    pub fn ignores_reference(&self) -> bool {
        matches!(
            self.function,
            FunctionOf::MeanLogp(_) | FunctionOf::MeanLogps(_) | FunctionOf::BatchMeanLogp(_)
        )
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.id == other.id
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
