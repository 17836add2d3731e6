//! Preferences: the reference's log-probs, the loss of a batch of pairs, and the judgement on held-out ones.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use dpo_kernels::ref_cache::RefCache;
use dpo_kernels_candle::{
    DpoOutput, LmHead, PairInputs, PairLoss, PairMetrics, dpo_loss, linear_dpo_loss, linear_sequence_logps,
    sequence_logps,
};

use crate::batches::{PairTokens, collate_pairs};
use crate::model::Transformer;

/// Pairs per forward pass where no gradient is needed.
pub const EVAL_PAIRS: usize = 16;

/// What the loss starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Hidden states, of which the fused head makes logits a chunk at a time.
    Hidden,
    /// Logits, as a tensor of candle's.
    Logits,
}

/// A preference pair with what the reference makes of it.
pub struct ScoredPair {
    tokens: PairTokens,
    chosen_ref_logp: f32,
    rejected_ref_logp: f32,
}

/// How a policy does on held-out pairs.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// Loss, and means of rewards, margin and reward accuracy.
    pub metrics: PairMetrics<f32>,
    /// Share of pairs with logp_w > logp_l, whatever the reference.
    pub preference_accuracy: f32,
}

/// Log-probs of `pairs` under the reference model, `[N, 2]` with chosen first, once and for all; with a cache, once for
/// all runs.
pub fn ref_logps(
    reference: &Transformer,
    pairs: &[PairTokens],
    start: Start,
    mut cache: Option<&mut RefCache>,
    device: &Device,
) -> Result<Tensor> {
    let mut ref_logps = Vec::with_capacity(2 * pairs.len());
    for (i, pairs) in pairs.chunks(EVAL_PAIRS).enumerate() {
        let (tokens, targets) = collate_pairs(&pairs.iter().collect::<Vec<_>>(), device)?;
        let compute = || -> Result<Vec<f32>> {
            let logps = match start {
                Start::Hidden => {
                    let hidden = reference.hidden(&tokens)?;
                    linear_sequence_logps(&LmHead::new(&hidden, reference.head()), &targets)?
                }
                Start::Logits => sequence_logps(&reference.forward(&tokens)?, &targets)?,
            };
            Ok(logps.to_vec1()?)
        };
        let logps = match &mut cache {
            Some(cache) => cache
                .ref_logps(&targets.sequence_keys(&tokens)?, compute)
                .with_context(|| format!("reference, pairs from {}", i * EVAL_PAIRS))?,
            None => compute()?,
        };
        let (chosen, rejected) = logps.split_at(pairs.len());
        ref_logps.extend(chosen.iter().zip(rejected).flat_map(|(&chosen, &rejected)| [chosen, rejected]));
    }
    Ok(Tensor::from_vec(ref_logps, (pairs.len(), 2), &Device::Cpu)?)
}

/// Pairs with what [`ref_logps`] gave for them.
pub fn scored(pairs: Vec<PairTokens>, ref_logps: &Tensor) -> Result<Vec<ScoredPair>> {
    ensure!(
        ref_logps.dims() == [pairs.len(), 2],
        "expected two log-probs a pair, found {:?}",
        ref_logps.dims()
    );
    let ref_logps = ref_logps.to_vec2()?;
    Ok(pairs
        .into_iter()
        .zip(ref_logps)
        .map(|(tokens, ref_logps)| ScoredPair {
            tokens,
            chosen_ref_logp: ref_logps[0],
            rejected_ref_logp: ref_logps[1],
        })
        .collect())
}

/// The DPO loss of a batch of pairs, whose gradients run to the weights of the policy.
pub fn loss(
    policy: &Transformer,
    pairs: &[&ScoredPair],
    pair_loss: &PairLoss,
    start: Start,
    device: &Device,
) -> Result<DpoOutput> {
    output(policy, pairs, pair_loss, start, true, device)
}

fn output(
    policy: &Transformer,
    pairs: &[&ScoredPair],
    loss: &PairLoss,
    start: Start,
    with_gradients: bool,
    device: &Device,
) -> Result<DpoOutput> {
    let (tokens, targets) =
        collate_pairs(&pairs.iter().map(|pair| &pair.tokens).collect::<Vec<_>>(), device)?;
    let chosen = pairs.iter().map(|pair| pair.chosen_ref_logp);
    let ref_logps: Vec<f32> = chosen.chain(pairs.iter().map(|pair| pair.rejected_ref_logp)).collect();
    let ref_logps = Tensor::new(ref_logps, device)?;
    let inputs = match loss.is_reference_free() {
        true => PairInputs::default(),
        false => PairInputs::reference(&ref_logps),
    };
    Ok(match start {
        Start::Hidden => {
            let (hidden, head) = (policy.hidden(&tokens)?, policy.head());
            // The head makes its gradients together with the loss, unless nobody can ask for them.
            let (hidden, head) =
                if with_gradients { (hidden, head.clone()) } else { (hidden.detach(), head.detach()) };
            linear_dpo_loss(&LmHead::new(&hidden, &head), &targets, &inputs, loss)?
        }
        Start::Logits => dpo_loss(&policy.forward(&tokens)?, &targets, &inputs, loss)?,
    })
}

/// Judges `policy` by `pairs`.
///
/// They go through the model in the same batches as in [`ref_logps`], so that a policy that is the reference has
/// rewards of exactly 0: a matrix product may round otherwise in a batch of another shape.
pub fn evaluate(
    policy: &Transformer,
    pairs: &[ScoredPair],
    pair_loss: &PairLoss,
    start: Start,
    device: &Device,
) -> Result<Evaluation> {
    let mut sums = PairMetrics::<f64>::default();
    let mut preferred = 0;
    for pairs in pairs.chunks(EVAL_PAIRS) {
        let output = output(policy, &pairs.iter().collect::<Vec<_>>(), pair_loss, start, false, device)?;
        let PairMetrics { pairs: count, loss, chosen_reward, rejected_reward, margin, accuracy, .. } =
            output.metrics()?;
        let weight = f64::from(count);
        sums.pairs += count;
        sums.loss += weight * f64::from(loss);
        sums.chosen_reward += weight * f64::from(chosen_reward);
        sums.rejected_reward += weight * f64::from(rejected_reward);
        sums.margin += weight * f64::from(margin);
        sums.accuracy += weight * f64::from(accuracy);
        let logps: Vec<f32> = output.logps.to_vec1()?;
        let (chosen, rejected) = logps.split_at(pairs.len());
        preferred += chosen.iter().zip(rejected).filter(|(w, l)| w > l).count();
    }
    let mean = |sum: f64| (sum / f64::from(sums.pairs)) as f32;
    Ok(Evaluation {
        metrics: PairMetrics {
            pairs: sums.pairs,
            chosen: sums.pairs,
            rejected: sums.pairs,
            loss: mean(sums.loss),
            chosen_reward: mean(sums.chosen_reward),
            rejected_reward: mean(sums.rejected_reward),
            margin: mean(sums.margin),
            accuracy: mean(sums.accuracy),
        },
        preference_accuracy: preferred as f32 / pairs.len() as f32,
    })
}
