//! Losses of the rewards u = βa and v = βb: each with its row, its formula and its constructor.

use super::function::{FunctionOf, Slopes};
use super::kind::Kind;
use super::math::{ValueSlope, bell, sigmoid, softplus};
use super::of_margin::square;
use super::pair_loss::PairLoss;
use super::parameter::Parameter;
use super::range::Range;
use crate::error::{Error, Result};

pub(super) static LOSSES: [&Kind; 6] = [&NCA_PAIR, &BCO_PAIR, &SPPO_HARD, &APO_ZERO, &APO_DOWN, &KTO];

static NCA_PAIR: Kind = Kind {
    formula: "−log σ(u) − ½ log σ(−u) − ½ log σ(−v)",
    source: "NCA, arXiv:2402.05369",
    ranges: "β 0.01 to 0.1",
    ..Kind::new(
        4,
        "nca_pair",
        FunctionOf::Sides {
            chosen: |u, _| ValueSlope {
                value: softplus(-u) + 0.5 * softplus(u),
                slope: 0.5 * sigmoid(u) - sigmoid(-u),
            },
            rejected: |v, _| ValueSlope { value: 0.5 * softplus(v), slope: 0.5 * sigmoid(v) },
        },
    )
};

static BCO_PAIR: Kind = Kind {
    formula: "−log σ(u) − log σ(−v)",
    source: "BCO, arXiv:2404.04656",
    ranges: "β 0.01 to 0.5",
    ..Kind::new(
        6,
        "bco_pair",
        FunctionOf::Sides {
            chosen: |u, _| ValueSlope { value: softplus(-u), slope: -sigmoid(-u) },
            rejected: |v, _| ValueSlope { value: softplus(v), slope: sigmoid(v) },
        },
    )
};

static SPPO_HARD: Kind = Kind {
    formula: "(a − 1/(2β))² + (b + 1/(2β))²",
    source: "SPPO, arXiv:2405.00675",
    ranges: "β 0.001 to 1",
    ..Kind::new(
        7,
        "sppo_hard",
        FunctionOf::Sides {
            chosen: |u, pair| square(u - 0.5, pair.beta),
            rejected: |v, pair| square(v + 0.5, pair.beta),
        },
    )
};

static APO_ZERO: Kind = Kind {
    formula: "1 − σ(u) + σ(v)",
    source: "APO, arXiv:2408.06266",
    ranges: "β 0.05 to 0.5",
    ..Kind::new(
        10,
        "apo_zero",
        FunctionOf::Sides {
            chosen: |u, _| ValueSlope { value: sigmoid(-u), slope: -bell(u) },
            rejected: |v, _| ValueSlope { value: sigmoid(v), slope: bell(v) },
        },
    )
};

static APO_DOWN: Kind = Kind {
    formula: "σ(u) + 1 − σ(u − v)",
    source: "APO, arXiv:2408.06266",
    ranges: "β 0.05 to 0.5",
    ..Kind::new(11, "apo_down", FunctionOf::Rewards(apo_down))
};

fn apo_down(u: f64, v: f64) -> Slopes {
    let slope = bell(u - v);
    Slopes { loss: sigmoid(u) + sigmoid(v - u), chosen: bell(u) - slope, rejected: slope }
}

static KTO: Kind = Kind {
    formula: "λ_D σ(βz₀ − u),  λ_U σ(v − βz₀)",
    source: "KTO, arXiv:2402.01306",
    needs: "reference, z₀ or log-probs for it; pairs or none",
    ranges: "β 0.01 to 0.5, λ 1 to 1.5",
    parameters: &[
        Parameter { name: "desirable_weight", usual: |_| 1.0, range: Range::ABOVE_ZERO },
        Parameter { name: "undesirable_weight", usual: |_| 1.0, range: Range::ABOVE_ZERO },
    ],
    needs_baseline: true,
    ..Kind::new(
        16,
        "kto",
        FunctionOf::Sides {
            chosen: |u, pair| {
                let (desirable, baseline) = (pair.parameters[0], pair.beta * pair.baseline);
                ValueSlope {
                    value: desirable * sigmoid(baseline - u),
                    slope: -desirable * bell(u - baseline),
                }
            },
            rejected: |v, pair| {
                let (undesirable, baseline) = (pair.parameters[1], pair.beta * pair.baseline);
                ValueSlope {
                    value: undesirable * sigmoid(v - baseline),
                    slope: undesirable * bell(v - baseline),
                }
            },
        },
    )
};

/// # Losses of the rewards u and v
impl PairLoss {
    /// NCA for pairs (Chen et al. 2024, arXiv:2402.05369, eq. 11): −log σ(u) − ½ log σ(−u) − ½ log σ(−v).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn nca_pair(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&NCA_PAIR, beta, &[])
    }

    /// BCO (Jung et al. 2024, arXiv:2404.04656) without its reward shift, as TRL's `bco_pair`:
    /// −log σ(u) − log σ(−v).
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn bco_pair(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&BCO_PAIR, beta, &[])
    }

    /// SPPO with hard labels (Wu et al. 2024, arXiv:2405.00675, eq. 4.7): (a − 1/(2β))² + (b + 1/(2β))².
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn sppo_hard(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&SPPO_HARD, beta, &[])
    }

    /// APO-zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 5): 1 − σ(u) + σ(v), for a policy worse than the
    /// chosen answers. Its slopes are σ(u)σ(−u) and σ(v)σ(−v), which keep both tails, where TRL's y(1 − y) is 0 from
    /// u = 17 (f32) on.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn apo_zero(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&APO_ZERO, beta, &[])
    }

    /// APO-down (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 6): σ(u) + 1 − σ(u − v), for a policy better than
    /// the chosen answers.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    pub fn apo_down(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&APO_DOWN, beta, &[])
    }

    /// KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8): λ_D σ(βz₀ − u) for a desirable answer, λ_U σ(v − βz₀)
    /// for an undesirable one, over [unpaired](crate::Pairs::Unpaired) sequences, or over pairs as their sum. λ_D and
    /// λ_U are 1 unless [said otherwise](Self::with_kto_weights).
    ///
    /// z₀, in nats, is the divergence of policy from reference: a [number](Self::with_baseline), or estimated from
    /// [`PairInputs::kl_logps`](super::PairInputs); a pass needs one of them.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for `beta`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, PairInputs, PairLoss, Pairs, reference};
    ///
    /// // Two sequences of one token, judged one by one: the first is desirable, the second is not.
    /// let batch = HostBatch { pairs: Pairs::Unpaired { desirable: &[1, 0] }, ..HostBatch::for_pair_loss(2) };
    /// let loss = PairLoss::kto(0.1)?.with_kto_weights(1.0, 1.5)?.with_baseline(0.0)?;
    /// let inputs = PairInputs::reference(&[-3.0, -5.0]);
    /// let out = reference::pair_loss(&batch, &[-3.0, -5.0], None, &inputs, &loss)?;
    /// assert_eq!(out.pair_losses, [0.5, 0.75]);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn kto(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&KTO, beta, &[])
    }

    /// Sets λ_D and λ_U of [`kto`](Self::kto). Where there are n_D desirable and n_U undesirable sequences, λ_D
    /// n_D/(λ_U n_U) is to lie between 1 and 3/2.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless they are finite and above 0, and for a loss without KTO.
    pub fn with_kto_weights(
        mut self,
        desirable_weight: impl Into<f64>,
        undesirable_weight: impl Into<f64>,
    ) -> Result<Self> {
        let weights = [
            KTO.parameters[0].check(desirable_weight.into())?,
            KTO.parameters[1].check(undesirable_weight.into())?,
        ];
        let mut kto = self.terms_mut().iter_mut().filter(|term| *term.kind == KTO).peekable();
        if kto.peek().is_none() {
            return Err(Error::value("desirable_weight", "none, for a loss without KTO", "one"));
        }
        kto.for_each(|term| term.parameters = weights);
        Ok(self)
    }
}
