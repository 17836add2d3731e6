//! A loss of the header in the crate's terms.

use std::ffi::CStr;

use dpo_kernels::loss::{Divergence, LossInfo, MAX_PARAMETERS, MAX_TERMS};
use dpo_kernels::{Error, PairLoss, Result};

use crate::failure::renamed;
use crate::given::{given, zero};
use crate::header::*;
use crate::pointers::{pointer, slice, value};

/// # Safety
///
/// `loss.terms` is null or points to `term_count` terms, whose names are null or C strings.
pub(crate) unsafe fn loss(loss: &dpo_loss) -> Result<PairLoss> {
    let (label_smoothing, gamma, baseline, alpha, normalizer) = given![loss.given;
        DPO_LOSS_LABEL_SMOOTHING => "label_smoothing": loss.label_smoothing,
        DPO_LOSS_GAMMA => "gamma": loss.gamma,
        DPO_LOSS_BASELINE => "baseline": loss.baseline,
        DPO_LOSS_ALPHA => "alpha": loss.alpha,
        DPO_LOSS_NORMALIZER => "normalizer": loss.normalizer,
    ];
    let reference_free = match loss.reference_free {
        0 => false,
        1 => true,
        other => return Err(value("reference_free", "0 or 1", other)),
    };
    // SAFETY: the caller's promise.
    let mut pair_loss = unsafe { terms(loss, reference_free) }?;
    if let Some(label_smoothing) = label_smoothing {
        pair_loss = pair_loss.with_label_smoothing(label_smoothing)?;
    }
    if let Some(gamma) = gamma {
        pair_loss = pair_loss.with_gamma(gamma)?;
    }
    if let Some(baseline) = baseline {
        pair_loss = pair_loss.with_baseline(baseline)?;
    }
    match loss.length_normalized {
        0 => (),
        1 => pair_loss = pair_loss.with_length_normalization(),
        other => return Err(value("length_normalized", "0 or 1", other)),
    }
    match loss.wpo_weights {
        0 => (),
        1 => pair_loss = pair_loss.with_wpo_weights(),
        other => return Err(value("wpo_weights", "0 or 1", other)),
    }
    pair_loss = pair_loss.with_divergence(divergence(loss.divergence, alpha)?)?;
    match (loss.normalized_by, normalizer) {
        (DPO_BY_PAIRS, None) => Ok(pair_loss),
        (DPO_BY_PAIRS, Some(number)) => pair_loss.with_normalizer(number),
        (DPO_BY_TOKENS, None) => Ok(pair_loss.with_token_normalizer()),
        (DPO_BY_TOKENS, Some(number)) => {
            Err(value("normalizer", "none where normalized_by is DPO_BY_TOKENS", number))
        }
        (other, _) => Err(value("normalized_by", "a dpo_normalizer", other)),
    }
}

fn divergence(divergence: dpo_divergence, alpha: Option<f64>) -> Result<Divergence> {
    match (divergence, alpha) {
        (DPO_REVERSE_KL, None) => Ok(Divergence::ReverseKl),
        (DPO_FORWARD_KL, None) => Ok(Divergence::ForwardKl),
        (DPO_JENSEN_SHANNON, None) => Ok(Divergence::JensenShannon),
        (DPO_ALPHA_DIVERGENCE, Some(alpha)) => Ok(Divergence::Alpha(alpha)),
        (DPO_ALPHA_DIVERGENCE, None) => {
            Err(Error::Missing { argument: "alpha", because: "divergence is DPO_ALPHA_DIVERGENCE" })
        }
        (DPO_REVERSE_KL | DPO_FORWARD_KL | DPO_JENSEN_SHANNON, Some(alpha)) => {
            Err(value("alpha", "none where divergence is not DPO_ALPHA_DIVERGENCE", alpha))
        }
        (other, _) => Err(value("divergence", "a dpo_divergence", other)),
    }
}

/// The sum of the terms, each without a reference if that is asked for; sigmoid where there are none.
///
/// # Safety
///
/// That of [`loss`].
unsafe fn terms(loss: &dpo_loss, reference_free: bool) -> Result<PairLoss> {
    let told = |loss: PairLoss| if reference_free { loss.without_reference() } else { loss };
    if loss.terms.is_null() {
        zero("term_count", loss.term_count, "where terms is null")?;
        return PairLoss::sigmoid(loss.beta).map(told);
    }
    if !(1..=MAX_TERMS).contains(&loss.term_count) {
        let expected = format!("from 1 to {MAX_TERMS} where terms is given");
        return Err(value("term_count", expected, loss.term_count));
    }
    // SAFETY: the caller's promise.
    let terms = unsafe { slice("terms", loss.terms, loss.term_count) }?;
    // SAFETY: the caller's promise.
    let (first, weight) = unsafe { term(&terms[0], loss.beta) }?;
    let mut sum = told(first.weighted(weight)?);
    for other in &terms[1..] {
        // SAFETY: the caller's promise.
        let (other, weight) = unsafe { term(other, loss.beta) }?;
        sum = sum.and(told(other), weight)?;
    }
    if loss.beta != 0.0 && terms.iter().all(|term| term.given & DPO_TERM_BETA != 0) {
        return Err(value("beta", "0 where every term has its own", loss.beta));
    }
    Ok(sum)
}

/// One loss of a sum, and its weight.
///
/// # Safety
///
/// `term.name` is null or a C string.
unsafe fn term(term: &dpo_loss_term, beta: f64) -> Result<(PairLoss, f64)> {
    let (weight, own_beta, first, second) = given![term.given;
        DPO_TERM_WEIGHT => "weight": term.weight,
        DPO_TERM_BETA => "beta": term.beta,
        DPO_TERM_PARAMETER_0 => "parameters[0]": term.parameters[0],
        DPO_TERM_PARAMETER_1 => "parameters[1]": term.parameters[1],
    ];
    let name = pointer("name", term.name)?;
    // SAFETY: not null, and the caller's promise.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy();
    let info = LossInfo::named(&name).map_err(|error| renamed(error, |_| Some("name")))?;
    if let Some(beta) = own_beta.filter(|_| !info.reads_beta()) {
        return Err(value("beta", format!("none for {}", info.name), beta));
    }
    let beta = own_beta.unwrap_or(beta);
    let loss = info.make(beta, &parameters(info, beta, [first, second])?).map_err(|error| {
        let place = |argument: &str| info.parameters.iter().position(|known| known.name == argument);
        renamed(error, |argument| place(argument).map(|place| PARAMETERS[place]))
    })?;
    Ok((loss, weight.unwrap_or(1.0)))
}

/// What errors call the parameters of a term.
const PARAMETERS: [&str; MAX_PARAMETERS] = ["parameters[0]", "parameters[1]"];

/// A loss's own parameters: those that are given, and the usual ones.
fn parameters(info: &LossInfo, beta: f64, given: [Option<f64>; MAX_PARAMETERS]) -> Result<Vec<f64>> {
    for (place, given) in PARAMETERS.into_iter().zip(given).skip(info.parameters.len()) {
        if let Some(given) = given {
            return Err(value(place, format!("none for {}", info.name), given));
        }
    }
    let values = info.parameters.iter().zip(given);
    Ok(values.map(|(parameter, given)| given.unwrap_or(parameter.usual(beta))).collect())
}
