//! Losses of the margin z = β(f′(a) − f′(b)) − γ: each with its row, its formula and its constructor.

use super::function::FunctionOf;
use super::kind::{Kind, LabelSmoothing};
use super::math::{ValueSlope, sigmoid, softplus, vanishing};
use super::pair_loss::PairLoss;
use super::parameter::Parameter;
use super::range::Range;
use crate::error::Result;

pub(super) static LOSSES: [&Kind; 6] = [&SIGMOID, &HINGE, &IPO, &EXO_PAIR, &ROBUST, &DISCOPOP];

/// ε of −(1 − ε) log σ − ε log σ: beyond a half the loss would train against the preferences.
pub(super) const LABEL_SMOOTHING: LabelSmoothing = LabelSmoothing {
    range: Range { words: "a number from 0 to 0.5", contains: |e| (0.0..=0.5).contains(&e) },
    usual: 0.0,
};

static SIGMOID: Kind = Kind {
    other_names: &["dpo"],
    formula: "−(1 − ε) log σ(z) − ε log σ(−z)",
    source: "DPO, arXiv:2305.18290; ε: Mitchell 2023",
    ranges: "β 0.01 to 0.5, ε 0 to 0.5",
    label_smoothing: Some(LABEL_SMOOTHING),
    ..Kind::new(0, "sigmoid", FunctionOf::Margin(|z, pair| smoothed_sigmoid(z, pair.label_smoothing)))
};

/// −(1 − ε) log σ(z) − ε log σ(−z).
pub(super) fn smoothed_sigmoid(z: f64, epsilon: f64) -> ValueSlope {
    // At ε = 0 the second term is skipped, since an infinite z would make it 0·∞.
    let flipped = if epsilon > 0.0 { epsilon * softplus(z) } else { 0.0 };
    ValueSlope { value: (1.0 - epsilon) * softplus(-z) + flipped, slope: epsilon - sigmoid(-z) }
}

static HINGE: Kind = Kind {
    formula: "max(0, 1 − z)",
    source: "SLiC, arXiv:2305.10425",
    ranges: "β 0.01 to 0.5",
    ..Kind::new(1, "hinge", FunctionOf::Margin(|z, _| hinge(z)))
};

fn hinge(z: f64) -> ValueSlope {
    if z >= 1.0 { ValueSlope { value: 0.0, slope: 0.0 } } else { ValueSlope { value: 1.0 - z, slope: -1.0 } }
}

static IPO: Kind = Kind {
    formula: "(a/n_w − b/n_l − 1/(2β))²",
    source: "IPO, arXiv:2310.12036",
    needs: "reference, lengths",
    ranges: "β 0.01 to 1",
    length_normalized: true,
    ..Kind::new(2, "ipo", FunctionOf::Margin(|z, pair| square(z - 0.5, pair.beta)))
};

/// (x/β)².
pub(super) fn square(x: f64, beta: f64) -> ValueSlope {
    let x = x / beta;
    ValueSlope { value: x * x, slope: 2.0 * x / beta }
}

static EXO_PAIR: Kind = Kind {
    formula: "σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε)",
    source: "EXO, arXiv:2402.00856",
    ranges: "ε above 0 to 0.5, usually 0.001 to 0.1",
    label_smoothing: Some(LabelSmoothing {
        range: Range { words: "a number above 0, to 0.5", contains: |e| e > 0.0 && e <= 0.5 },
        usual: 1e-3,
    }),
    ..Kind::new(3, "exo_pair", FunctionOf::Margin(|z, pair| exo_pair(z, pair.label_smoothing)))
};

fn exo_pair(z: f64, epsilon: f64) -> ValueSlope {
    let (right, wrong) = (sigmoid(z), sigmoid(-z));
    let (log_rest, log_epsilon) = ((-epsilon).ln_1p(), epsilon.ln());
    ValueSlope {
        value: vanishing(right, -softplus(-z) - log_rest) + vanishing(wrong, -softplus(z) - log_epsilon),
        slope: vanishing(right * wrong, z - log_rest + log_epsilon),
    }
}

static ROBUST: Kind = Kind {
    formula: "(−(1 − ε) log σ(z) + ε log σ(−z))/(1 − 2ε)",
    source: "Robust DPO, arXiv:2403.00409",
    ranges: "ε 0 to below 0.5",
    label_smoothing: Some(LabelSmoothing {
        range: Range { words: "a number from 0 to below 0.5", contains: |e| (0.0..0.5).contains(&e) },
        usual: 0.1,
    }),
    ..Kind::new(5, "robust", FunctionOf::Margin(|z, pair| robust(z, pair.label_smoothing)))
};

fn robust(z: f64, epsilon: f64) -> ValueSlope {
    let flipped = if epsilon > 0.0 { epsilon * softplus(z) } else { 0.0 };
    let value = (1.0 - epsilon) * softplus(-z) - flipped;
    let slope = -(1.0 - epsilon) * sigmoid(-z) - epsilon * sigmoid(z);
    let unbiased = 1.0 - 2.0 * epsilon;
    ValueSlope { value: value / unbiased, slope: slope / unbiased }
}

static DISCOPOP: Kind = Kind {
    formula: "−log σ(z)(1 − m) + e⁻ᶻ m,  m = σ(z/τ)",
    source: "DiscoPOP, arXiv:2406.08414",
    ranges: "τ above 0, usually 0.05",
    parameters: &[Parameter { name: "tau", usual: |_| 0.05, range: Range::ABOVE_ZERO }],
    ..Kind::new(12, "discopop", FunctionOf::Margin(|z, pair| discopop(z, pair.parameters[0])))
};

fn discopop(z: f64, tau: f64) -> ValueSlope {
    let (m, rest) = (sigmoid(z / tau), sigmoid(-z / tau));
    // Where e⁻ᶻ alone would overflow, e⁻ᶻ m is computed as one exponential, which does only where e⁻ᶻ m does.
    let exponential =
        if z < 0.0 { (vanishing(1.0 - tau, z / tau) - softplus(z / tau)).exp() } else { (-z).exp() * m };
    ValueSlope {
        value: vanishing(rest, softplus(-z)) + exponential,
        // e⁻ᶻ m has the derivative e⁻ᶻ m (rest/τ − 1), which is one product: e⁻ᶻ m may be infinite where τ > 1.
        slope: -sigmoid(-z) * rest
            - vanishing(exponential, 1.0 - rest / tau)
            - vanishing(m * rest, softplus(-z)) / tau,
    }
}

/// # Losses of the margin z
impl PairLoss {
    /// DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): −log σ(z).
    ///
    /// `beta` (usually 0.01 to 0.5) is how much a nat of log-ratio counts. With
    /// [label smoothing](Self::with_label_smoothing) ε it is conservative DPO (Mitchell 2023, "A note on DPO with
    /// noisy preferences"), −(1 − ε) log σ(z) − ε log σ(−z): a preference is taken to be flipped with probability ε.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `beta` is finite and above 0; so have all constructors.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// // A policy that is its reference has u = v = 0, a loss of ln 2, and moves both log-probs by β/2.
    /// let same = Sequence { logp: -12.0, ref_logp: Some(-12.0), length: 4 };
    /// let pair = PairLoss::sigmoid(0.1)?.pair(same, same)?;
    /// assert_eq!(pair.loss, std::f64::consts::LN_2);
    /// assert_eq!((pair.chosen_coef, pair.rejected_coef), (-0.05, 0.05));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn sigmoid(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&SIGMOID, beta, &[])
    }

    /// SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425; over log-ratios, Liu et al. 2023, RSO, arXiv:2309.06657):
    /// max(0, 1 − z). A pair past its margin has a coefficient of exactly 0.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    pub fn hinge(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&HINGE, beta, &[])
    }

    /// IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17): (a/n_w − b/n_l − 1/(2β))², TRL's form, averaged over
    /// tokens; ((z − ½)/β)² with a z over log-ratios divided by lengths. Rewards are reported as for DPO,
    /// β·log-ratio. β is usually 0.01 to 1. A [γ](Self::with_gamma) is of rewards, as for every loss of z: with it
    /// the target 1/(2β) grows by γ/β.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// // With β = 0.5 the target is a lead of 1 nat a token.
    /// let chosen = Sequence { logp: -6.0, ref_logp: Some(-8.0), length: 2 };
    /// let rejected = Sequence { logp: -9.0, ref_logp: Some(-9.0), length: 3 };
    /// assert_eq!(PairLoss::ipo(0.5)?.pair(chosen, rejected)?.loss, 0.0);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn ipo(beta: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&IPO, beta, &[])
    }

    /// EXO for pairs (Ji et al. 2024, arXiv:2402.00856, eq. 16): the KL of σ(z) from the smoothed label,
    /// σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε). ε is usually 0.001 to 0.1. The loss is 0 at
    /// z = log((1 − ε)/ε).
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `label_smoothing` unless it is above 0 and at most
    /// 0.5.
    pub fn exo_pair(beta: impl Into<f64>, label_smoothing: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&EXO_PAIR, beta, &[])?.with_label_smoothing(label_smoothing)
    }

    /// Robust DPO (Chowdhury et al. 2024, arXiv:2403.00409, eq. 12): (−(1 − ε) log σ(z) + ε log σ(−z))/(1 − 2ε),
    /// unbiased where a share ε of the preferences is flipped.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `label_smoothing` unless it is from 0 to below 0.5.
    pub fn robust(beta: impl Into<f64>, label_smoothing: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&ROBUST, beta, &[])?.with_label_smoothing(label_smoothing)
    }

    /// DiscoPOP's log-ratio modulated loss (Lu et al. 2024, arXiv:2406.08414, eq. 5): −log σ(z)(1 − m) + e⁻ᶻ m with
    /// m = σ(z/τ). τ is usually 0.05. Where z is very negative, e⁻ᶻ m is computed as one exponential, of which TRL's
    /// ∞·0 is NaN from z = −88 (f32) or −709 (f64) on: e^{−z(1 − 1/τ)}, which for τ up to 1 is at most 1, and beyond
    /// grows exponentially in −z, and the coefficients with it. At τ = 2 the loss of z = −180 is beyond f32.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for `beta`, and for `tau` unless it is finite and above 0.
    pub fn discopop(beta: impl Into<f64>, tau: impl Into<f64>) -> Result<Self> {
        PairLoss::of(&DISCOPOP, beta, &[tau.into()])
    }
}
