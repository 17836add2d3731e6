//! The language model's head: from hidden states to the loss without a tensor of logits.

use candle_core::{DType, Device, Result, Tensor};
use dpo_kernels::{ForwardTensors, LogpsTensors, MetricsLevel, PairLoss};

use crate::checks;
use crate::graph::{Coefficients, Differentiable, ForwardPass};
use crate::head_graph::{HeadGradients, HeadNode};
use crate::inputs::{CheckedInputs, PairInputs, checked};
use crate::logits::unsupported;
use crate::output::DpoOutput;
use crate::selection::{self, Selection};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// The last layer of a language model and what goes into it: logits are X Wᵀ + b, and are never there as a whole.
#[derive(Debug, Clone, Copy)]
pub struct LmHead<'a> {
    hidden: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    budget_bytes: Option<usize>,
}

impl<'a> LmHead<'a> {
    /// Hidden states X, `[S, T, H]` for [padded](Targets::padded) targets and `[rows, H]` for [packed](Targets::packed) ones,
    /// and the weight W, `[V, H]`, as `candle_nn::Linear` has it; of one type, f32, f16 or bf16.
    pub fn new(hidden: &'a Tensor, weight: &'a Tensor) -> Self {
        LmHead { hidden, weight, bias: None, budget_bytes: None }
    }

    /// With a bias b, `[V]`, of the same type.
    #[must_use]
    pub fn with_bias(self, bias: &'a Tensor) -> Self {
        LmHead { bias: Some(bias), ..self }
    }

    /// With chunks of at most so many bytes of logits and of what goes with them, rather than 512 MiB; on a GPU, 512 MiB of logits.
    #[must_use]
    pub fn with_budget(self, budget_bytes: usize) -> Self {
        LmHead { budget_bytes: Some(budget_bytes), ..self }
    }

    /// Checked against `targets`, and contiguous.
    fn checked(&self, targets: &Targets) -> Result<CheckedHead> {
        let LmHead { hidden, weight, bias, budget_bytes } = *self;
        checks::dtype("hidden (f32, f16 or bf16)", hidden, &[DType::F32, DType::F16, DType::BF16])?;
        if !targets.labels.device().is_cpu() {
            checks::same_device("hidden", hidden, &targets.labels)?;
        }
        checks::rank("hidden", hidden, targets.labels.rank() + 1)?;
        let hidden_size = hidden.dims()[hidden.rank() - 1];
        checks::shape("hidden", hidden, &[targets.labels.dims(), &[hidden_size]].concat())?;
        checks::rank("weight", weight, 2)?;
        let vocab = weight.dims()[0];
        checks::shape("weight", weight, &[vocab, hidden_size])?;
        for (name, tensor) in [("weight", Some(weight)), ("bias", bias)] {
            let Some(tensor) = tensor else { continue };
            checks::dtype(name, tensor, &[hidden.dtype()])?;
            checks::same_device(name, tensor, hidden)?;
        }
        if let Some(bias) = bias {
            checks::shape("bias", bias, &[vocab])?;
        }
        Ok(CheckedHead {
            hidden: hidden.contiguous()?,
            weight: weight.contiguous()?,
            // A GPU reads it from a 16-byte boundary, which a part of another tensor may not have.
            bias: bias.map(Tensor::force_contiguous).transpose()?,
            budget_bytes,
        })
    }
}

/// An [`LmHead`] whose tensors go with each other and with their targets, and are contiguous.
#[derive(Debug, Clone)]
pub(crate) struct CheckedHead {
    pub(crate) hidden: Tensor,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    /// `None` is the backend's default.
    pub(crate) budget_bytes: Option<usize>,
}

impl CheckedHead {
    /// V.
    pub(crate) fn vocab(&self) -> usize {
        self.weight.dims()[0]
    }

    /// H.
    pub(crate) fn hidden_size(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Whether there is a variable in candle's graph that a gradient may run to.
    pub(crate) fn has_gradient(&self) -> bool {
        let tracked = |tensor: &Tensor| tensor.track_op();
        tracked(&self.hidden) || tracked(&self.weight) || self.bias.as_ref().is_some_and(tracked)
    }
}

/// What a pass with a loss gives.
pub(crate) struct HeadLoss {
    pub(crate) loss: Tensor,
    pub(crate) out: ForwardTensors<Tensors>,
    /// With an upstream gradient of 1, where that is as good as any: not in f16, which rounds small numbers away.
    pub(crate) gradients: Option<HeadGradients>,
}

impl CheckedHead {
    /// `logps`: what is wanted of it.
    fn logps(&self, targets: &Targets, wanted: &LogpsTensors<Selection>) -> Result<LogpsTensors<Tensors>> {
        match self.hidden.device() {
            Device::Cpu => crate::cpu::head_logps(self, targets, wanted),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => crate::cuda::head_logps(device, self, targets, wanted),
            other => Err(unsupported("hidden", other)),
        }
    }

    /// The loss, all results, and gradients where they lead to a variable.
    fn dpo_loss(
        &self,
        targets: &Targets,
        inputs: &CheckedInputs,
        loss: &PairLoss,
        wanted: &LogpsTensors<Selection>,
    ) -> Result<HeadLoss> {
        match self.hidden.device() {
            Device::Cpu => crate::cpu::head_dpo_loss(self, targets, inputs, loss, wanted),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => crate::cuda::head_dpo_loss(device, self, targets, inputs, loss, wanted),
            other => Err(unsupported("hidden", other)),
        }
    }

    /// The gradients of a pass, from logits that are made again.
    pub(crate) fn backward(&self, pass: &ForwardPass, coef: &Coefficients) -> Result<HeadGradients> {
        match self.hidden.device() {
            Device::Cpu => crate::cpu::head_backward(self, pass, coef),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => crate::cuda::head_backward(device, self, pass, coef),
            other => Err(unsupported("hidden", other)),
        }
    }
}

/// [`dpo_loss`](crate::dpo_loss) from hidden states, differentiable by them, by the weight and by the bias: those of the three
/// that lead to a variable.
///
/// Logits exist as a chunk of rows at a time, in f32 on the CPU and in the hidden states' type on a GPU, and rows that are not scored are not multiplied. The gradients are made
/// together with the loss, while the chunk's logits are there; so a head that is trained costs three products, and a frozen one,
/// whose weight is [detached](Tensor::detach) or no variable, two. (Where a pair is larger than a
/// [chunk](LmHead::with_budget), or the loss compares pairs with each other, logits are made twice; and in f16, whose gradients
/// need their upstream factor before they are rounded, once more in `backward()`.) A call without variables makes no gradient.
///
/// [`DpoOutput::logps`] is differentiable too, from logits that `backward()` makes again.
///
/// On a GPU the host has to know which rows are scored. Give it [`Targets`] on the CPU, where a data loader has them, and it
/// waits for nothing; labels on the GPU are fetched, which waits for all that is queued there. (No GPU has run this yet.)
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use dpo_kernels_candle::{LabelAlignment, LmHead, PairInputs, PairLoss, Targets, linear_dpo_loss};
///
/// let device = Device::Cpu;
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &device)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// // What the model makes of the tokens before its last layer, and that layer.
/// let hidden = Var::from_tensor(&Tensor::randn(0f32, 1.0, (2, 3, 4), &device)?)?;
/// let weight = Var::from_tensor(&Tensor::randn(0f32, 1.0, (8, 4), &device)?)?;
/// let ref_logps = Tensor::new(&[-4f32, -4.5], &device)?;
///
/// let head = LmHead::new(&hidden, &weight);
/// let inputs = PairInputs::reference(&ref_logps);
/// let output = linear_dpo_loss(&head, &targets, &inputs, &PairLoss::sigmoid(0.1)?)?;
/// let gradients = output.loss.backward()?;
/// assert_eq!(gradients.get(&hidden).unwrap().dims(), [2, 3, 4]);
/// assert_eq!(gradients.get(&weight).unwrap().dims(), [8, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`dpo_loss`](crate::dpo_loss), for `hidden`, `weight` and `bias` instead of logits; for a chunk that has no room for one
/// row; and on a GPU, where cuBLASLt is not found.
pub fn linear_dpo_loss(
    head: &LmHead<'_>,
    targets: &Targets,
    inputs: &PairInputs<'_>,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let head = head.checked(targets)?;
    let inputs = checked(inputs, targets, &head.hidden)?;
    let wanted = selection::logps(targets.metrics);
    let has_gradient = head.has_gradient();
    let wanted = if has_gradient { selection::with_backward(targets, wanted) } else { wanted };
    let pass = head.dpo_loss(targets, &inputs, loss, &wanted)?;
    let (mut value, mut out) = (pass.loss, pass.out);
    if has_gradient {
        let node = HeadNode::new(&head, targets, &out.logps);
        let coef = out.pairs.coef.clone().expect("every loss asks for it");
        value = node.apply(Differentiable::Loss { coef }, pass.gradients, value)?;
        let logps = out.logps.logps.expect("every pass asks for it");
        out.logps.logps = Some(node.apply(Differentiable::Logps, None, logps)?);
    }
    Ok(DpoOutput::new(value, out))
}

/// [`sequence_logps`](crate::sequence_logps) from hidden states, differentiable by them, by the weight and by the bias.
///
/// For the reference, and for a loss of one's own, whose `backward()` makes the logits again.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use dpo_kernels_candle::{LabelAlignment, LmHead, Targets, linear_sequence_logps};
///
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let hidden = Tensor::randn(0f32, 1.0, (2, 3, 4), &Device::Cpu)?;
/// let weight = Tensor::zeros((8, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let logps: Vec<f32> = linear_sequence_logps(&LmHead::new(&hidden, &weight), &targets)?.to_vec1()?;
/// assert!(logps.iter().all(|logp| (logp + 2.0 * 8f32.ln()).abs() < 1e-5));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// As [`linear_dpo_loss`].
pub fn linear_sequence_logps(head: &LmHead<'_>, targets: &Targets) -> Result<Tensor> {
    logps(head, targets, Differentiable::Logps)
}

/// [`token_logps`](crate::token_logps) from hidden states, differentiable by them, by the weight and by the bias.
///
/// # Errors
///
/// As [`linear_dpo_loss`].
pub fn linear_token_logps(head: &LmHead<'_>, targets: &Targets) -> Result<Tensor> {
    logps(head, targets, Differentiable::TokenLogps)
}

fn logps(head: &LmHead<'_>, targets: &Targets, result: Differentiable) -> Result<Tensor> {
    let (head, targets) = (head.checked(targets)?, targets.without_loss());
    let wanted = match result {
        Differentiable::TokenLogps => selection::token_logps(),
        _ => selection::logps(MetricsLevel::None),
    };
    let has_gradient = head.has_gradient();
    let wanted = if has_gradient { selection::with_backward(&targets, wanted) } else { wanted };
    let out = head.logps(&targets, &wanted)?;
    let node = has_gradient.then(|| HeadNode::new(&head, &targets, &out));
    let values = match result {
        Differentiable::TokenLogps => out.token_logps,
        _ => out.logps,
    };
    let values = values.expect("it was asked for");
    match node {
        Some(node) => node.apply(result, None, values),
        None => Ok(values),
    }
}
