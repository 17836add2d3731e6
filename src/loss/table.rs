//! The table of losses.

use super::PairLoss;
use crate::error::{Error, Result};

/// One loss of [`ALL`].
#[derive(Debug, Clone, Copy)]
pub struct LossInfo {
    /// What TRL calls it, or else its paper.
    pub name: &'static str,
    /// The loss of a pair; symbols as in [the module](super).
    pub formula: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What it reads besides log-probs.
    pub needs: &'static str,
    /// Sensible ranges of its parameters.
    pub ranges: &'static str,
    /// The usual β.
    pub beta: f64,
    /// The loss at a β, with the usual values of its other parameters.
    pub make: fn(f64) -> Result<PairLoss>,
}

impl LossInfo {
    /// The loss of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `loss`, with the names there are.
    pub fn named(name: &str) -> Result<&'static LossInfo> {
        ALL.iter().find(|info| info.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|info| info.name).collect();
            Error::value("loss", format!("one of {}", names.join(", ")), name)
        })
    }
}

macro_rules! table {
    ($(($name:literal, $formula:literal, $source:literal, $needs:literal, $ranges:literal, $beta:literal, $make:expr)),* $(,)?) => {
        [$(LossInfo {
            name: $name, formula: $formula, source: $source, needs: $needs, ranges: $ranges, beta: $beta, make: $make,
        }),*]
    };
}

/// Every loss.
#[rustfmt::skip]
pub static ALL: [LossInfo; 22] = table![
    ("sigmoid", "−(1 − ε) log σ(z) − ε log σ(−z)", "DPO, arXiv:2305.18290; ε: Mitchell 2023", "reference", "β 0.01 to 0.5, ε 0 to 0.5", 0.1, |beta| PairLoss::sigmoid(beta)),
    ("sigmoid_norm", "−log σ(β(a/n_w − b/n_l))", "TRL; SimPO, arXiv:2405.14734", "reference, lengths", "β 1 to 10", 2.0, |beta| PairLoss::sigmoid_norm(beta)),
    ("hinge", "max(0, 1 − z)", "SLiC, arXiv:2305.10425", "reference", "β 0.01 to 0.5", 0.1, |beta| PairLoss::hinge(beta)),
    ("ipo", "(a/n_w − b/n_l − 1/(2β))²", "IPO, arXiv:2310.12036", "reference, lengths", "β 0.01 to 1", 0.1, |beta| PairLoss::ipo(beta)),
    ("exo_pair", "σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε)", "EXO, arXiv:2402.00856", "reference", "ε above 0 to 0.5, usually 0.001 to 0.1", 0.1, |beta| PairLoss::exo_pair(beta, 1e-3)),
    ("robust", "(−(1 − ε) log σ(z) + ε log σ(−z))/(1 − 2ε)", "Robust DPO, arXiv:2403.00409", "reference", "ε 0 to below 0.5", 0.1, |beta| PairLoss::robust(beta, 0.1)),
    ("discopop", "−log σ(z)(1 − m) + e⁻ᶻ m,  m = σ(z/τ)", "DiscoPOP, arXiv:2406.08414", "reference", "τ above 0 to below 1, usually 0.05", 0.1, |beta| PairLoss::discopop(beta, 0.05)),
    ("nca_pair", "−log σ(u) − ½ log σ(−u) − ½ log σ(−v)", "NCA, arXiv:2402.05369", "reference", "β 0.01 to 0.1", 0.1, |beta| PairLoss::nca_pair(beta)),
    ("bco_pair", "−log σ(u) − log σ(−v)", "BCO, arXiv:2404.04656", "reference", "β 0.01 to 0.5", 0.1, |beta| PairLoss::bco_pair(beta)),
    ("sppo_hard", "(a − 1/(2β))² + (b + 1/(2β))²", "SPPO, arXiv:2405.00675", "reference", "β 0.001 to 1", 0.1, |beta| PairLoss::sppo_hard(beta)),
    ("apo_zero", "1 − σ(u) + σ(v)", "APO, arXiv:2408.06266", "reference", "β 0.05 to 0.5", 0.1, |beta| PairLoss::apo_zero(beta)),
    ("apo_down", "σ(u) + 1 − σ(u − v)", "APO, arXiv:2408.06266", "reference", "β 0.05 to 0.5", 0.1, |beta| PairLoss::apo_down(beta)),
    ("kto", "λ_D σ(βz₀ − u),  λ_U σ(v − βz₀)", "KTO, arXiv:2402.01306", "reference, z₀ or log-probs for it; pairs or none", "β 0.01 to 0.5, λ 1 to 1.5", 0.1, |beta| PairLoss::kto(beta)),
    ("aot", "sigmoid of sorted β(logp_w − logp_l) − sorted β(ref_logp_w − ref_logp_l)", "AOT, arXiv:2406.05882", "reference, many pairs", "ε 0 to 0.5", 0.1, |beta| PairLoss::aot(beta)),
    ("aot_unpaired", "sigmoid of sorted u − sorted v", "AOT, arXiv:2406.05882", "reference, many pairs", "ε 0 to 0.5", 0.1, |beta| PairLoss::aot_unpaired(beta)),
    ("sft", "−Σ logp_w/Σ n_w", "supervised fine-tuning", "scored", "", 0.1, |beta| PairLoss::sft(beta)),
    ("nll", "−logp_w/n_w", "supervised fine-tuning", "lengths", "", 0.1, |beta| PairLoss::nll(beta)),
    ("odds_ratio", "−log σ(log odds(e^(logp_w/n_w)) − log odds(e^(logp_l/n_l)))", "ORPO, arXiv:2403.07691", "lengths", "", 0.1, |beta| PairLoss::odds_ratio(beta)),
    ("orpo", "nll + λ odds_ratio", "ORPO, arXiv:2403.07691", "lengths, no reference", "λ 0.05 to 0.5", 0.1, |beta| PairLoss::orpo(beta)),
    ("simpo", "−log σ(β logp_w/n_w − β logp_l/n_l − γ)", "SimPO, arXiv:2405.14734", "lengths, no reference", "β 2 to 10, γ/β 0.3 to 0.8", 2.0, |beta| PairLoss::simpo(beta, 0.5 * beta)),
    ("cpo", "−log σ(β(logp_w − logp_l)) + α nll", "CPO, arXiv:2401.08417", "lengths, no reference", "β 0.1, α 1", 0.1, |beta| PairLoss::cpo(beta, 1.0)),
    ("rpo", "−log σ(z) + α nll", "RPO, arXiv:2404.19733", "reference, lengths", "α 0.2 to 1", 0.1, |beta| PairLoss::rpo(beta, 1.0)),
];
