//! A loss in the kernels' terms: the numbers of a [`PairLoss`], narrowed to f32, with the addresses of what it reads and
//! writes.

use super::address::{Check, DeviceArray, KernelAddresses, address};
use super::params::*;
use super::plan::PairLossArguments;
use crate::error::{Error, Result};
use crate::loss::{Divergence, MAX_PARAMETERS, MAX_TERMS, Normalizer, PairLoss, Range, Term};
use crate::pairs::Pairs;
use crate::results::PairOutputTensors;

const _: () = assert!(MAX_TERMS == DPO_LOSS_TERMS as usize);

/// The loss of a launch over `sequences` sequences, checked. `scored` is how many numbers of scored rows there will be.
pub(super) fn kernel_loss(
    pairs: &Pairs<DeviceArray>,
    sequences: usize,
    arguments: &PairLossArguments<'_>,
    scored: Option<usize>,
) -> Result<DpoPairLoss> {
    let PairLossArguments { loss, inputs, out } = arguments;
    let lens = inputs.map(|floats| floats.len, |counts| counts.len, |_| ());
    loss.check_inputs(pairs, sequences, &lens, scored)?;
    let count = pairs.count(sequences);
    let (pair_layout, chosen, rejected): (DpoPairLayout, _, _) = match pairs {
        Pairs::None | Pairs::Concatenated => (DPO_PAIRS_CONCATENATED, 0, 0),
        Pairs::Interleaved => (DPO_PAIRS_INTERLEAVED, 0, 0),
        Pairs::Indexed { chosen, rejected } => (
            DPO_PAIRS_INDEXED,
            address("chosen", 4, chosen.address)?,
            address("rejected", 4, rejected.address)?,
        ),
        Pairs::Unpaired { desirable } => (DPO_PAIRS_UNPAIRED, address("desirable", 4, desirable.address)?, 0),
    };
    let array = |argument, array: DeviceArray| address(argument, 4, array.address);
    // The kernels count in 32 bits.
    let kl_count = inputs.kl_logps.map_or(Ok(0), |array| {
        let expected = || format!("at most {}", u32::MAX);
        u32::try_from(array.len).map_err(|_| Error::value("kl_logps", expected(), array.len))
    })?;
    let inputs = inputs.try_map(array, array, |argument, number| address(argument, 4, number))?;
    let out: PairOutputTensors<KernelAddresses> = out.convert(&mut Check)?;
    Ok(DpoPairLoss {
        ref_logps: inputs.ref_logps.unwrap_or(0),
        chosen,
        rejected,
        lengths: inputs.lengths.unwrap_or(0),
        betas: inputs.beta.unwrap_or(0),
        gammas: inputs.gamma.unwrap_or(0),
        weights: inputs.weight.unwrap_or(0),
        label_smoothings: inputs.label_smoothing.unwrap_or(0),
        sequence_log_weights: inputs.sequence_log_weights.unwrap_or(0),
        kl_logps: inputs.kl_logps.unwrap_or(0),
        kl_ref_logps: inputs.kl_ref_logps.unwrap_or(0),
        device_normalizer: inputs.normalizer.unwrap_or(0),
        chosen_tokens: inputs.chosen_tokens.unwrap_or(0),
        pair_losses: address("pair_losses", 4, out.pair_losses)?,
        chosen_rewards: address("chosen_rewards", 4, out.chosen_rewards)?,
        rejected_rewards: address("rejected_rewards", 4, out.rejected_rewards)?,
        margins: address("margins", 4, out.margins)?,
        coef: address("coef", 4, out.coef)?,
        metrics: address("metrics", 4, out.metrics)?,
        pairs: count as u32,
        pair_layout,
        kl_count,
        ..lower_loss(loss)?
    })
}

/// The loss for any batch; the addresses of what it reads and writes are null.
fn lower_loss(loss: &PairLoss) -> Result<DpoPairLoss> {
    let (divergence, order): (DpoDivergence, _) = match loss.divergence() {
        Divergence::ReverseKl => (DPO_REVERSE_KL, 0.0),
        Divergence::ForwardKl => (DPO_FORWARD_KL, -1.0),
        Divergence::JensenShannon => (DPO_JENSEN_SHANNON, 0.0),
        // α − 1 is taken in f64, since an f32 has few of its digits near α = 1.
        Divergence::Alpha(alpha) => match narrow("alpha", Range::FINITE, alpha - 1.0)? {
            0.0 => (DPO_REVERSE_KL, 0.0),
            order => (DPO_ALPHA_DIVERGENCE, order),
        },
    };
    let (normalizer_kind, normalizer) = match loss.normalizer() {
        Normalizer::Pairs => (DPO_NORMALIZER_PAIRS, 1.0),
        Normalizer::Number(number) => (DPO_NORMALIZER_NUMBER, number),
        Normalizer::Tokens => (DPO_NORMALIZER_TOKENS, 1.0),
    };
    let mut terms = [DpoLossTerm::default(); MAX_TERMS];
    for (lowered, term) in terms.iter_mut().zip(loss.terms()) {
        *lowered = lower_term(term)?;
    }
    Ok(DpoPairLoss {
        length_normalized: u32::from(loss.length_normalized()),
        divergence,
        normalizer_kind,
        term_count: loss.terms().len() as u32,
        beta: narrow("beta", Range::ABOVE_ZERO, loss.beta())?,
        gamma: narrow("gamma", Range::FINITE, loss.gamma())?,
        order,
        baseline: narrow("baseline", Range::FROM_ZERO, loss.baseline().unwrap_or(0.0))?,
        normalizer: narrow("normalizer", Range::ABOVE_ZERO, normalizer)?,
        most_log_weight: if loss.has_wpo_weights() { 0.0 } else { f32::INFINITY },
        terms,
        ..DpoPairLoss::default()
    })
}

fn lower_term(term: &Term) -> Result<DpoLossTerm> {
    let mut parameters = [0.0; MAX_PARAMETERS];
    for (i, parameter) in term.kind.parameters.iter().enumerate() {
        parameters[i] = narrow(parameter.name, parameter.range, term.parameters[i])?;
    }
    Ok(DpoLossTerm {
        kind: term.kind.id,
        length_normalized: u32::from(term.length_normalized),
        weight: narrow("weight", Range::ABOVE_ZERO, term.weight)?,
        beta: narrow("beta", Range::ABOVE_ZERO, term.beta)?,
        label_smoothing: match term.kind.label_smoothing {
            Some(epsilon) => narrow("label_smoothing", epsilon.range, term.label_smoothing)?,
            None => 0.0,
        },
        parameters,
    })
}

/// The kernels compute in f32, where a number of the host may be infinite, 0, or at the end of a range that it lies in.
fn narrow(argument: &'static str, range: Range, value: f64) -> Result<f32> {
    let narrow = value as f32;
    if (range.contains)(narrow.into()) {
        Ok(narrow)
    } else {
        Err(Error::value(argument, "a number that f32 can hold", value))
    }
}
