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
}

/// The sources, without `.cu`: the [`unit`](super::images::Image::unit) of each image.
pub const UNITS: [&str; 4] = ["forward", "pair_loss", "backward", "factored"];

impl Kernel {
    /// Every kernel, in the order in which they are loaded.
    pub const ALL: [Kernel; 1 + 12 * DType::ALL.len()] = {
        let mut all = [Kernel::PairLoss; 1 + 12 * DType::ALL.len()];
        let mut i = 1;
        while i < all.len() {
            all[i] = Kernel::of(DType::ALL[(i - 1) / 12])[(i - 1) % 12];
            i += 1;
        }
        all
    };

    const fn of(dtype: DType) -> [Kernel; 12] {
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
        }
    }
}
