//! A loss in the kernels' terms.

use super::address::{Check, DeviceArray, KernelAddresses, address};
use super::params::*;
use super::plan::PairLossArguments;
use crate::error::{Error, Result};
use crate::loss::{Divergence, Kind, MAX_TERMS, Normalizer, Term};
use crate::pairs::Pairs;
use crate::results::PairOutputTensors;

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
    let kl_count = inputs.kl_logps.map_or(0, |array| array.len as u32);
    let inputs = inputs.try_map(array, array, |argument, number| address(argument, 4, number))?;
    let out: PairOutputTensors<KernelAddresses> = out.convert(&mut Check)?;
    let (divergence, alpha): (DpoDivergence, _) = match loss.divergence() {
        Divergence::ReverseKl => (DPO_REVERSE_KL, 0.0),
        Divergence::ForwardKl => (DPO_FORWARD_KL, 0.0),
        Divergence::JensenShannon => (DPO_JENSEN_SHANNON, 0.0),
        // Where it is the reverse KL, its formula would divide by 0.
        Divergence::Alpha(alpha) if alpha as f32 == 1.0 => (DPO_REVERSE_KL, 0.0),
        Divergence::Alpha(alpha) => (DPO_ALPHA_DIVERGENCE, finite("alpha", alpha)?),
    };
    let (normalizer_kind, normalizer) = match loss.normalizer() {
        Normalizer::Pairs => (DPO_NORMALIZER_NUMBER, count as f64),
        Normalizer::Number(number) => (DPO_NORMALIZER_NUMBER, number),
        Normalizer::Tokens => (DPO_NORMALIZER_TOKENS, 1.0),
    };
    let mut terms = [DpoLossTerm::default(); MAX_TERMS];
    for (kernel_term, term) in terms.iter_mut().zip(loss.terms()) {
        *kernel_term = self::kernel_term(term)?;
    }
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
        length_normalized: u32::from(loss.length_normalized()),
        divergence,
        normalizer_kind,
        kl_count,
        term_count: loss.terms().len() as u32,
        beta: single("beta", loss.beta())?,
        gamma: finite("gamma", loss.gamma())?,
        alpha,
        baseline: finite("baseline", loss.baseline().unwrap_or(0.0))?,
        normalizer: single("normalizer", normalizer)?,
        terms,
    })
}

fn kernel_term(term: &Term) -> Result<DpoLossTerm> {
    let (kind, parameters): (DpoLossKind, _) = match term.kind {
        Kind::Sigmoid => (DPO_LOSS_SIGMOID, [0.0; 2]),
        Kind::Hinge => (DPO_LOSS_HINGE, [0.0; 2]),
        Kind::Ipo => (DPO_LOSS_IPO, [0.0; 2]),
        Kind::ExoPair => (DPO_LOSS_EXO_PAIR, [0.0; 2]),
        Kind::NcaPair => (DPO_LOSS_NCA_PAIR, [0.0; 2]),
        Kind::Robust => (DPO_LOSS_ROBUST, [0.0; 2]),
        Kind::BcoPair => (DPO_LOSS_BCO_PAIR, [0.0; 2]),
        Kind::SppoHard => (DPO_LOSS_SPPO_HARD, [0.0; 2]),
        Kind::Aot => (DPO_LOSS_AOT, [0.0; 2]),
        Kind::AotUnpaired => (DPO_LOSS_AOT_UNPAIRED, [0.0; 2]),
        Kind::ApoZero => (DPO_LOSS_APO_ZERO, [0.0; 2]),
        Kind::ApoDown => (DPO_LOSS_APO_DOWN, [0.0; 2]),
        Kind::Discopop { tau } => (DPO_LOSS_DISCOPOP, [single("tau", tau)?, 0.0]),
        Kind::Sft => (DPO_LOSS_SFT, [0.0; 2]),
        Kind::Nll => (DPO_LOSS_NLL, [0.0; 2]),
        Kind::OddsRatio => (DPO_LOSS_ODDS_RATIO, [0.0; 2]),
        Kind::Kto { desirable, undesirable } => {
            (DPO_LOSS_KTO, [single("desirable", desirable)?, single("undesirable", undesirable)?])
        }
    };
    Ok(DpoLossTerm {
        kind,
        length_normalized: u32::from(term.length_normalized),
        weight: single("weight", term.weight)?,
        label_smoothing: term.label_smoothing as f32,
        parameters,
    })
}

const _: () = assert!(MAX_TERMS == DPO_LOSS_TERMS as usize);

/// The kernels compute in f32, where a positive number of the host may be 0 or infinite.
fn single(argument: &'static str, value: f64) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_finite() && narrow > 0.0 {
        Ok(narrow)
    } else {
        Err(Error::value(argument, "a number that f32 can hold", value))
    }
}

/// The same for a number that may be 0 or negative.
fn finite(argument: &'static str, value: f64) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_finite() {
        Ok(narrow)
    } else {
        Err(Error::value(argument, "a number that f32 can hold", value))
    }
}
