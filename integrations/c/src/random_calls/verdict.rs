//! What a call is to answer, by the f64 reference.

use dpo_kernels::{Coef, EntropyCoef, Error, HostBatch, Logit, Logps, PairLoss, Result, reference};

use super::call::logsumexp;
use super::description::{Description, Place, WideInputs};
use super::draw::METRICS;
use super::head_verdict::{self, HeadTruth};
use crate::calls::Stage;
use crate::cpu::with_logit;

/// What an accepted call is to give, beside what follows from its log-probs.
pub struct Truth {
    /// Of `logps`, `forward` and `factored`.
    pub logps: Option<Logps<f64>>,
    /// Of `pair_loss`, `forward` and `factored`.
    pub loss: Option<PairLoss>,
    /// dlogits of `backward`, the gradient of `factored`.
    pub gradient: Option<Vec<f64>>,
    /// Of a call behind a head, and then all.
    pub head: Option<HeadTruth>,
}

/// The truth, or why the call is to be refused.
pub fn verdict(description: &Description) -> Result<Truth> {
    let Description { stage, gradient, .. } = description;
    if stage.is_behind_head() {
        let head = Some(head_verdict::verdict(description)?);
        return Ok(Truth { logps: None, loss: None, gradient: None, head });
    }
    let batch = description.host_batch();
    let writes = matches!(stage, Stage::Factored | Stage::Backward);
    if writes && matches!(gradient.place, Place::Overlapping(_)) {
        return Err(refusal("gradient"));
    }
    let loss = stage.has_loss().then(|| description.loss.make()).transpose()?;
    if *stage == Stage::PairLoss {
        batch.validate()?;
        let scored = description.scored.as_deref();
        check_loss(description, &batch, &loss.expect("it has one"), &description.logps, scored)?;
        return Ok(Truth { logps: None, loss, gradient: None, head: None });
    }
    with_logit!(description.dtype, T => {
        let logits: Vec<T> = description.logits.iter().map(|&z| T::from_f32(z)).collect();
        if *stage == Stage::Backward {
            let gradient = backward(description, &batch, &logits)?;
            return Ok(Truth { logps: None, loss, gradient: Some(gradient), head: None });
        }
        let logps = description.with_labels(|labels| reference::logps(&batch, &logits, labels))?;
        if let Some(loss) = &loss {
            let rounded: Vec<f32> = logps.logps.iter().map(|&logp| logp as f32).collect();
            check_loss(description, &batch, loss, &rounded, Some(&logps.scored))?;
        }
        if *stage != Stage::Factored {
            return Ok(Truth { logps: Some(logps), loss, gradient: None, head: None });
        }
        if METRICS.iter().any(|name| description.wants(name)) {
            return Err(refusal("metrics"));
        }
        let gradient = description
            .with_labels(|labels| reference::factored_gradient(&batch, &logits, labels, &logps.logsumexp))?;
        Ok(Truth { logps: Some(logps), loss, gradient: Some(gradient), head: None })
    })
}

/// What the reference takes and the header's functions do not.
pub fn refusal(argument: &'static str) -> Error {
    Error::Value { argument, expected: "what the header says".into(), found: "another".into() }
}

fn check_loss(
    description: &Description,
    batch: &HostBatch<'_>,
    loss: &PairLoss,
    logps: &[f32],
    scored: Option<&[u32]>,
) -> Result<()> {
    let (logps, inputs) = (wide(logps), WideInputs::of(&description.inputs));
    reference::pair_loss(batch, &logps, scored, &inputs.inputs(), loss).map(drop)
}

fn backward<T: Logit + Into<f64>>(
    description: &Description,
    batch: &HostBatch<'_>,
    logits: &[T],
) -> Result<Vec<f64>> {
    let gradient = &description.gradient;
    let (values, residual) = logsumexp(description);
    let residual = if gradient.residual { residual } else { vec![0.0; residual.len()] };
    let logsumexp: Vec<f64> =
        wide(&values).iter().zip(wide(&residual)).map(|(value, rest)| value + rest).collect();
    let (coef, token_coef) = (gradient.coef.as_deref().map(wide), gradient.token_coef.as_deref().map(wide));
    let coef = Coef {
        sequences: coef.as_deref(),
        tokens: token_coef.as_deref(),
        threshold: gradient.threshold.unwrap_or(0.0).into(),
    };
    let upstream = description.upstream().into();
    let mut dlogits = description
        .with_labels(|labels| reference::backward(batch, logits, labels, &logsumexp, coef, upstream))?;
    if let Some([coef, entropy]) = &gradient.entropy {
        let (coef, entropy) = (wide(coef), wide(entropy));
        let entropy = EntropyCoef { coef: &coef, entropy: &entropy };
        let part = description.with_labels(|labels| {
            reference::entropy_gradient(batch, logits, labels, &logsumexp, entropy, upstream)
        })?;
        dlogits.iter_mut().zip(part).for_each(|(dlogit, part)| *dlogit += part);
    }
    Ok(dlogits)
}

/// The same numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}
