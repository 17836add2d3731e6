//! Results in candle's graph: a node leads from the logits to each result that has a gradient, which is the
//! fused `backward`.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor,
};
use dpo_kernels::LogpsTensors;

use crate::checks;
use crate::logits::{Logits, unsupported};
use crate::targets::Targets;
use crate::tensors::Tensors;

/// What `backward` reads of the forward pass whatever its coefficients are.
#[derive(Clone)]
pub(crate) struct ForwardPass {
    pub(crate) targets: Targets,
    /// `[rows]`.
    pub(crate) logsumexp: Tensor,
    /// `[rows]`.
    pub(crate) logsumexp_residual: Tensor,
    /// `[rows]`, where the targets have an `ld_alpha`.
    token_weights: Option<Tensor>,
}

/// The coefficients that `backward` takes, contiguous and on the device of the logits. What is `None` is 1.
#[derive(Default)]
pub(crate) struct Coefficients {
    /// `[S]`.
    pub(crate) sequences: Option<Tensor>,
    /// `[rows]`.
    pub(crate) tokens: Option<Tensor>,
    /// Scalar.
    pub(crate) upstream: Option<Tensor>,
}

/// A result that has a gradient by the logits, or by what the head makes them of.
pub(crate) enum Differentiable {
    /// The loss, whose derivatives by the log-probs of the sequences are `coef`.
    Loss { coef: Tensor },
    /// The log-probs of the sequences.
    Logps,
    /// The log-probs of the tokens.
    TokenLogps,
}

impl ForwardPass {
    /// Of results that were [asked for with `backward` in mind](crate::selection::with_backward).
    pub(crate) fn new(targets: &Targets, out: &LogpsTensors<Tensors>) -> Self {
        let wanted = "every pass with a backward asks for it";
        ForwardPass {
            targets: targets.clone(),
            logsumexp: out.logsumexp.clone().expect(wanted),
            logsumexp_residual: out.logsumexp_residual.clone().expect(wanted),
            token_weights: out.token_weights.clone(),
        }
    }

    /// What `backward` multiplies by, for the upstream gradient of a `result`.
    pub(crate) fn coefficients(&self, result: &Differentiable, upstream: &Tensor) -> Result<Coefficients> {
        let upstream = Some(upstream.contiguous()?);
        let tokens = self.token_weights.clone();
        Ok(match result {
            Differentiable::Loss { coef } => Coefficients { sequences: Some(coef.clone()), tokens, upstream },
            Differentiable::Logps => Coefficients { sequences: upstream, tokens, ..Coefficients::default() },
            // Weights belong to the sums over tokens, of which this is none.
            Differentiable::TokenLogps => Coefficients { tokens: upstream, ..Coefficients::default() },
        })
    }

    /// `values`, the `result` of this pass over `logits`, as a node of candle's graph.
    pub(crate) fn node(&self, logits: &Logits, result: Differentiable, values: Tensor) -> Result<Tensor> {
        logits.tensor.apply_op1(Node { pass: self.clone(), result, values })
    }
}

/// What a node gives whose values have been computed.
pub(crate) fn values_on_cpu(values: &Tensor) -> Result<(CpuStorage, Shape)> {
    let (storage, layout) = values.storage_and_layout();
    match &*storage {
        Storage::Cpu(values) => Ok((values.clone(), layout.shape().clone())),
        _ => Err(Error::msg("expected results in the memory of the operation's device")),
    }
}

/// The same on a GPU.
pub(crate) fn values_on_cuda(values: &Tensor) -> Result<(CudaStorage, Shape)> {
    let (storage, layout) = values.storage_and_layout();
    match &*storage {
        Storage::Cuda(values) => Ok((values.try_clone(layout)?, layout.shape().clone())),
        _ => Err(Error::msg("expected results in the memory of the operation's device")),
    }
}

/// A result as a node of candle's graph. The forward pass has been made: the node carries its values, and
/// what the backward pass needs of the others.
struct Node {
    pass: ForwardPass,
    result: Differentiable,
    values: Tensor,
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        match self.result {
            Differentiable::Loss { .. } => "dpo-loss",
            Differentiable::Logps => "sequence-logps",
            Differentiable::TokenLogps => "token-logps",
        }
    }

    fn cpu_fwd(&self, _logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        values_on_cpu(&self.values)
    }

    fn cuda_fwd(&self, _logits: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        values_on_cuda(&self.values)
    }

    fn bwd(&self, logits: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        checks::dtype("upstream gradient", upstream, &[DType::F32])?;
        checks::shape("upstream gradient", upstream, self.values.dims())?;
        let coefficients = self.pass.coefficients(&self.result, upstream)?;
        let logits = Logits::new(logits, &self.pass.targets)?;
        match logits.tensor.device() {
            Device::Cpu => crate::cpu::backward(&logits, &self.pass, &coefficients),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => crate::cuda::backward(device, &logits, &self.pass, &coefficients),
            other => Err(unsupported("logits", other)),
        }
        .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use dpo_kernels::{LabelAlignment, MetricsLevel};

    use super::*;
    use crate::selection;

    fn node(result: Differentiable) -> (Logits, Node) {
        let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu).unwrap();
        let targets = Targets::padded(&labels, LabelAlignment::NextToken).unwrap();
        let logits = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((2, 3, 4)).unwrap();
        let logits = Logits::new(&logits.sin().unwrap(), &targets).unwrap();
        let wanted = match result {
            Differentiable::TokenLogps => selection::token_logps(),
            _ => selection::logps(MetricsLevel::None),
        };
        let wanted = selection::with_backward(&targets, wanted);
        let out = crate::cpu::logps(&logits, &targets, &wanted).unwrap();
        let pass = ForwardPass::new(&targets, &out);
        (logits, Node { pass, result, values: out.token_logps.or(out.logps).unwrap() })
    }

    fn gradient(result: Differentiable, upstream: &Tensor) -> Result<Vec<f32>> {
        let (logits, node) = node(result);
        let gradient = node.bwd(&logits.tensor, &node.values, upstream)?.expect("a gradient");
        gradient.flatten_all()?.to_vec1()
    }

    #[test]
    fn upstream_gradients_of_any_layout() {
        let table = Tensor::new(&[[0.5f32, 2.0], [-1.0, 0.25], [3.0, -0.75]], &Device::Cpu).unwrap();
        for strided in [
            table.narrow(1, 1, 1).unwrap().squeeze(1).unwrap().narrow(0, 1, 2).unwrap(),
            Tensor::new(2f32, &Device::Cpu).unwrap().broadcast_as(2).unwrap(),
        ] {
            assert!(!strided.is_contiguous());
            let dense = strided.force_contiguous().unwrap();
            let [found, expected] =
                [strided, dense].map(|upstream| gradient(Differentiable::Logps, &upstream).unwrap());
            assert_eq!(found, expected);
            assert!(found.iter().any(|&x| x != 0.0));
        }
        let transposed = table.t().unwrap();
        let dense = transposed.force_contiguous().unwrap();
        let [found, expected] =
            [transposed, dense].map(|upstream| gradient(Differentiable::TokenLogps, &upstream).unwrap());
        assert_eq!(found, expected);
    }

    #[test]
    fn upstream_gradients_that_do_not_fit() {
        let refused = |upstream: Tensor| gradient(Differentiable::Logps, &upstream).unwrap_err().to_string();
        let zeros = |len, dtype| Tensor::zeros(len, dtype, &Device::Cpu).unwrap();
        assert!(refused(zeros(2, DType::F64)).starts_with("upstream gradient"));
        assert!(refused(zeros(3, DType::F32)).starts_with("upstream gradient"));
    }
}
