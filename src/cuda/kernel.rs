//! The kernels by name: one table that plans choose from, that loading walks over, and that tests go through.

use std::fmt;

use crate::dtype::DType;
use crate::results::MetricsLevel;

/// One entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Log-probs, and the loss over pairs.
    Forward {
        /// What else it computes of each row.
        metrics: MetricsLevel,
        /// Whether it caps the logits. It scales them in any case, which costs nothing.
        softcap: bool,
        /// Element type of the logits.
        dtype: DType,
    },
    /// The loss over pairs alone.
    PairLoss,
    /// The gradient of the logits.
    Backward {
        /// Whether it has a part of the rows' entropies.
        entropy: bool,
        /// As of [`Kernel::Forward`].
        softcap: bool,
        /// Element type of the logits.
        dtype: DType,
    },
    /// Log-probs, the loss over pairs, and the gradient without its coefficients.
    Factored {
        /// As of [`Kernel::Forward`].
        softcap: bool,
        /// Element type of the logits.
        dtype: DType,
    },
    /// c of rows, for the head.
    RowCoef,
    /// Rows of a matrix to other places, times c.
    MoveRows {
        /// Element type of what is read: `to`; or f32 where that is not, and another where it is.
        from: DType,
        /// Element type of what is written.
        to: DType,
    },
    /// Zeroes in rows whose c is 0.
    ClearRows,
    /// The gradient of the head's bias.
    BiasGradient {
        /// Element type of the logits.
        dtype: DType,
    },
    /// Results of scored rows to their places among all rows.
    TokenResults,
}

/// The sources, without `.cu`: the [`unit`](super::images::Image::unit) of each image.
pub const UNITS: [&str; 8] = [
    "forward",
    "pair_loss",
    "backward",
    "factored",
    "row_coef",
    "move_rows",
    "bias_gradient",
    "token_results",
];

/// Kernels of which there is one for each dtype.
const PER_DTYPE: usize = 14;

impl Kernel {
    /// Every kernel, in the order in which they are loaded.
    pub const ALL: [Kernel; Kernel::ONCE.len() + PER_DTYPE * DType::ALL.len()] = {
        let mut all = [Kernel::PairLoss; Kernel::ONCE.len() + PER_DTYPE * DType::ALL.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = match i.checked_sub(Kernel::ONCE.len()) {
                None => Kernel::ONCE[i],
                Some(i) => Kernel::of(DType::ALL[i / PER_DTYPE])[i % PER_DTYPE],
            };
            i += 1;
        }
        all
    };

    /// Those of which there is not one for each dtype.
    const ONCE: [Kernel; 8] = [
        Kernel::PairLoss,
        Kernel::RowCoef,
        Kernel::ClearRows,
        Kernel::TokenResults,
        Kernel::MoveRows { from: DType::F32, to: DType::F16 },
        Kernel::MoveRows { from: DType::F32, to: DType::BF16 },
        Kernel::MoveRows { from: DType::F16, to: DType::F32 },
        Kernel::MoveRows { from: DType::BF16, to: DType::F32 },
    ];

    const fn of(dtype: DType) -> [Kernel; PER_DTYPE] {
        use MetricsLevel::{All, Entropy, None};
        [
            Kernel::Forward { metrics: None, softcap: false, dtype },
            Kernel::Forward { metrics: None, softcap: true, dtype },
            Kernel::Forward { metrics: Entropy, softcap: false, dtype },
            Kernel::Forward { metrics: Entropy, softcap: true, dtype },
            Kernel::Forward { metrics: All, softcap: false, dtype },
            Kernel::Forward { metrics: All, softcap: true, dtype },
            Kernel::Backward { entropy: false, softcap: false, dtype },
            Kernel::Backward { entropy: false, softcap: true, dtype },
            Kernel::Backward { entropy: true, softcap: false, dtype },
            Kernel::Backward { entropy: true, softcap: true, dtype },
            Kernel::Factored { softcap: false, dtype },
            Kernel::Factored { softcap: true, dtype },
            Kernel::MoveRows { from: dtype, to: dtype },
            Kernel::BiasGradient { dtype },
        ]
    }

    /// Its place in [`Kernel::ALL`].
    pub fn index(self) -> usize {
        Kernel::ALL.iter().position(|&kernel| kernel == self).expect("the table has every kernel")
    }

    /// The source that it stands in, one of [`UNITS`].
    pub fn unit(self) -> &'static str {
        match self {
            Kernel::Forward { .. } => "forward",
            Kernel::PairLoss => "pair_loss",
            Kernel::Backward { .. } => "backward",
            Kernel::Factored { .. } => "factored",
            Kernel::RowCoef => "row_coef",
            Kernel::MoveRows { .. } | Kernel::ClearRows => "move_rows",
            Kernel::BiasGradient { .. } => "bias_gradient",
            Kernel::TokenResults => "token_results",
        }
    }
}

/// The name of the entry point: `dpo_forward_entropy_softcap_bf16`.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capped = |softcap| if softcap { "_softcap" } else { "" };
        match *self {
            Kernel::Forward { metrics, softcap, dtype } => {
                let metrics = match metrics {
                    MetricsLevel::None => "",
                    MetricsLevel::Entropy => "_entropy",
                    MetricsLevel::All => "_metrics",
                };
                write!(f, "dpo_forward{metrics}{}_{}", capped(softcap), dtype.name())
            }
            Kernel::PairLoss => write!(f, "dpo_pair_loss"),
            Kernel::Backward { entropy, softcap, dtype } => {
                let entropy = if entropy { "_entropy" } else { "" };
                write!(f, "dpo_backward{entropy}{}_{}", capped(softcap), dtype.name())
            }
            Kernel::Factored { softcap, dtype } => {
                write!(f, "dpo_factored{}_{}", capped(softcap), dtype.name())
            }
            Kernel::RowCoef => write!(f, "dpo_row_coef"),
            Kernel::MoveRows { from, to } if from == to => write!(f, "dpo_move_rows_{}", to.name()),
            Kernel::MoveRows { from, to } => write!(f, "dpo_move_rows_{}_to_{}", from.name(), to.name()),
            Kernel::ClearRows => write!(f, "dpo_clear_rows"),
            Kernel::BiasGradient { dtype } => write!(f, "dpo_bias_gradient_{}", dtype.name()),
            Kernel::TokenResults => write!(f, "dpo_token_results"),
        }
    }
}
