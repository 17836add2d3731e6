//! The operations: `dpo_loss`, and what a trainer asks of logits without a loss.

use candle_core::{Device, Result, Tensor};
use dpo_kernels::{LogpsTensors, MetricsLevel, PairLoss};

use crate::graph::{Differentiable, ForwardPass};
use crate::inputs::{PairInputs, checked};
use crate::logits::{Logits, unsupported};
use crate::output::{DpoOutput, TokenMetrics};
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// The DPO loss of a batch of pairs, differentiable by the logits.
///
/// `logits` is `[S, T, V]` for [padded](Targets::padded) targets and `[rows, V]` for
/// [packed](Targets::packed) ones. A view of the first V of more columns (a padded vocabulary) is read where
/// it lies; views that are strided otherwise are made contiguous first. `inputs` are the reference's
/// log-probs, `[S]` in f32 as [`sequence_logps`] gave them, and whatever else the loss can be given.
/// `ref_logps` are needed unless the loss is [without a reference](PairLoss::without_reference). No gradient
/// runs to any of `inputs`.
///
/// The scalar [`loss`](DpoOutput::loss) and the log-probs [`logps`](DpoOutput::logps) may stand in further
/// arithmetic, such as a factor or an auxiliary loss: their own upstream gradients go into a fused backward
/// pass each. Nothing else of the output has a gradient, and a `backward()` that comes upon it is an error.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use dpo_kernels_candle::{LabelAlignment, PairInputs, PairLoss, Targets, dpo_loss};
///
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
/// let ref_logps = Tensor::new(&[-4f32, -4.5], &Device::Cpu)?;
/// let logits = Var::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let inputs = PairInputs::reference(&ref_logps);
/// let output = dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?)?;
/// let gradients = output.loss.backward()?;
/// assert_eq!(gradients.get(&logits).unwrap().dims(), [2, 3, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// A candle error that names the argument if it has the wrong type, shape or device, or that carries a
/// [`dpo_kernels::Error`]; also for what the loss has no use for, or lacks. Values of `inputs` that are out
/// of their ranges are refused on the CPU; a GPU, which alone sees them, makes them NaN in the loss of their
/// pair. What is wrong with values of labels and logits is in [`DpoOutput::status`].
pub fn dpo_loss(
    logits: &Tensor,
    targets: &Targets,
    inputs: &PairInputs<'_>,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let logits = Logits::new(logits, targets)?;
    let inputs = checked(inputs, targets, &logits.tensor)?;
    let wanted = wanted(&logits, targets, selection::logps(targets.metrics));
    let (mut value, mut out) = match logits.tensor.device() {
        Device::Cpu => crate::cpu::dpo_loss(&logits, targets, &inputs, loss, &wanted),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::dpo_loss(device, &logits, targets, &inputs, loss, &wanted),
        other => Err(unsupported("logits", other)),
    }?;
    if logits.has_gradient() {
        let pass = ForwardPass::new(targets, &out.logps);
        let coef = out.pairs.coef.clone().expect("every loss asks for it");
        value = pass.node(&logits, Differentiable::Loss { coef }, value)?;
        let logps = out.logps.logps.expect("every pass asks for it");
        out.logps.logps = Some(pass.node(&logits, Differentiable::Logps, logps)?);
    }
    Ok(DpoOutput::new(value, out))
}

/// Log-probs of whole sequences, `[S]` in f32 and in nats, differentiable by the logits: the sum over the
/// scored tokens of each.
///
/// Shapes are those of [`dpo_loss`]; the pairs of `targets` are not looked at, but for
/// [`ld_alpha`](Targets::with_ld_alpha), under which the sums are weighted. A log-prob does not depend on the
/// other sequences in the call, so those of a frozen reference can be computed once and kept:
/// [`ref_cache`](crate::ref_cache) does, under [`Targets::sequence_keys`].
///
/// A loss of one's own is made of them in candle's operations. The gradient that candle finds for each
/// log-prob is the coefficient c_s of its sequence in the fused backward pass, which writes c_s (1\[v = y\] −
/// softmax(z)\[v\]) with one read of the logits; sequences of coefficient 0 are not read. Nothing is kept for
/// that pass where the logits have no gradient, so [`detach`](Tensor::detach) those of a reference whose
/// weights are variables.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use dpo_kernels_candle::{LabelAlignment, Targets, sequence_logps};
///
/// // Three answers to one prompt, the best first, and Plackett–Luce's probability of that order.
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 4], [-100, 0, -100]], &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let logits = Var::from_tensor(&Tensor::randn(0f32, 1.0, (3, 3, 8), &Device::Cpu)?)?;
/// let ref_logps = Tensor::new(&[-4.2f32, -4.1, -2.0], &Device::Cpu)?;
/// let rewards = ((sequence_logps(&logits, &targets)? - ref_logps)? * 0.1)?;
/// let loss = |best: usize| rewards.narrow(0, best, 3 - best)?.log_sum_exp(0)? - rewards.get(best)?;
/// let gradients = (loss(0)? + loss(1)?)?.backward()?;
/// assert_eq!(gradients.get(&logits).unwrap().dims(), [3, 3, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`dpo_loss`]. A bad label or a non-finite row makes the log-prob of its sequence non-finite.
pub fn sequence_logps(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let logps = selection::logps(MetricsLevel::None);
    differentiable(logits, targets, logps, Differentiable::Logps, |out| out.logps)
}

/// Log-probs of single tokens, of the labels' shape in f32 and in nats, differentiable by the logits: of the
/// label that each row of logits predicts, and 0 where the row is not scored.
///
/// Under [`LabelAlignment::NextToken`](crate::LabelAlignment::NextToken) the element of a label is thus the
/// one before it, where its row of logits is. They are what a loss over tokens is made of, as
/// [`sequence_logps`] are of one over sequences: the gradient that candle finds for each is the coefficient
/// of its row. That of a row that is not scored is not looked at. [`ld_alpha`](Targets::with_ld_alpha) weighs
/// the tokens of sums, and not these.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use dpo_kernels_candle::{LabelAlignment, Targets, token_logps};
///
/// // A policy gradient: each token has an advantage.
/// let labels = Tensor::new(&[[3i64, 1, 4], [2, 0, -100]], &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::Aligned)?;
/// let advantages = Tensor::new(&[[0.5f32, -1.0, 2.0], [0.25, 0.0, 0.0]], &Device::Cpu)?;
/// let logits = Var::from_tensor(&Tensor::randn(0f32, 1.0, (2, 3, 8), &Device::Cpu)?)?;
/// let loss = ((token_logps(&logits, &targets)? * advantages)?.sum_all()? / -5.0)?;
/// let gradient = loss.backward()?.remove(&logits).unwrap();
/// // Rows whose token has an advantage of 0 have no gradient.
/// let largest: Vec<f32> = gradient.get(1)?.abs()?.max(1)?.to_vec1()?;
/// assert!(largest[0] > 0.0 && largest[1..] == [0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`sequence_logps`]. The log-prob of a bad label is NaN, and so is that of a row with a NaN.
pub fn token_logps(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let token_logps = selection::token_logps();
    differentiable(logits, targets, token_logps, Differentiable::TokenLogps, |out| out.token_logps)
}

/// Metrics of every token up to `level`, without a loss and [without a gradient](TokenMetrics): what WPO, for
/// one, weighs sequences by before its loss is computed. Where they are only to be logged,
/// [`Targets::with_token_metrics`] has them from the loss's own read; what `targets` says of that is not
/// looked at here.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{
///     LabelAlignment, MetricsLevel, PairInputs, PairLoss, Targets, dpo_loss, token_metrics,
/// };
///
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let logits = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
/// // WPO: pairs that the policy would hardly write count less.
/// let metrics = token_metrics(&logits, &targets, MetricsLevel::All)?;
/// let weights = metrics.sequence_log_weights.as_ref();
/// let ref_logps = Tensor::new(&[-4.2f32, -4.1], &Device::Cpu)?;
/// let inputs = PairInputs { sequence_log_weights: weights, ..PairInputs::reference(&ref_logps) };
/// dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?.with_wpo_weights())?;
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`sequence_logps`].
pub fn token_metrics(logits: &Tensor, targets: &Targets, level: MetricsLevel) -> Result<TokenMetrics> {
    let (logits, targets) = (Logits::new(logits, targets)?, targets.without_loss());
    Ok(logps(&logits, &targets, &selection::logps(level))?.metrics.unwrap_or_default())
}

/// One of the results of `logps`, in candle's graph where the logits are.
fn differentiable(
    logits: &Tensor,
    targets: &Targets,
    selected: LogpsTensors<Selection>,
    result: Differentiable,
    values: impl Fn(LogpsTensors<Tensors>) -> Option<Tensor>,
) -> Result<Tensor> {
    let (logits, targets) = (Logits::new(logits, targets)?, targets.without_loss());
    let out = logps(&logits, &targets, &wanted(&logits, &targets, selected))?;
    let pass = logits.has_gradient().then(|| ForwardPass::new(&targets, &out));
    let values = values(out).expect("it was asked for");
    match pass {
        Some(pass) => pass.node(&logits, result, values),
        None => Ok(values),
    }
}

/// What is `selected`, and what `backward` will read if there can be one.
fn wanted(logits: &Logits, targets: &Targets, selected: LogpsTensors<Selection>) -> LogpsTensors<Selection> {
    if logits.has_gradient() { selection::with_backward(targets, selected) } else { selected }
}

fn logps(
    logits: &Logits,
    targets: &Targets,
    wanted: &LogpsTensors<Selection>,
) -> Result<LogpsTensors<Tensors>> {
    match logits.tensor.device() {
        Device::Cpu => crate::cpu::logps(logits, targets, wanted),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::logps(device, logits, targets, wanted),
        other => Err(unsupported("logits", other)),
    }
}
