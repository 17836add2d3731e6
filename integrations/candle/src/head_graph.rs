//! Results of a pass through the head in candle's graph: nodes that lead to hidden states, weight and bias.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};
use dpo_kernels::LogpsTensors;

use crate::checks;
use crate::graph::{Differentiable, ForwardPass, values_on_cpu, values_on_cuda};
use crate::lm_head::CheckedHead;
use crate::targets::Targets;
use crate::tensors::Tensors;

/// The gradients of hidden states, weight and bias, where they are wanted: those of the last two in f32.
pub(crate) type HeadGradients = [Option<Tensor>; 3];

/// A pass through the head, whose results become nodes of candle's graph.
#[derive(Clone)]
pub(crate) struct HeadNode {
    head: CheckedHead,
    pass: ForwardPass,
}

impl HeadNode {
    /// Of results that were [asked for with `backward` in mind](crate::selection::with_backward).
    pub(crate) fn new(head: &CheckedHead, targets: &Targets, out: &LogpsTensors<Tensors>) -> Self {
        HeadNode { head: head.clone(), pass: ForwardPass::new(targets, out) }
    }

    /// `values`, a result of this pass, as a node of candle's graph. Where the pass has left the result's `gradients`, they
    /// need no more than the upstream factor; otherwise logits are made again.
    pub(crate) fn apply(
        &self,
        result: Differentiable,
        gradients: Option<HeadGradients>,
        values: Tensor,
    ) -> Result<Tensor> {
        let CheckedHead { hidden, weight, bias, budget_bytes } = &self.head;
        // The node has the tensors from candle when it runs: to keep them, with their graph, in it would be a circle.
        let op = Node { pass: self.pass.clone(), result, gradients, values, budget_bytes: *budget_bytes };
        match bias {
            Some(bias) => hidden.apply_op3(weight, bias, op),
            None => hidden.apply_op2(weight, op),
        }
    }
}

struct Node {
    pass: ForwardPass,
    result: Differentiable,
    gradients: Option<HeadGradients>,
    values: Tensor,
    budget_bytes: Option<usize>,
}

impl Node {
    fn name(&self) -> &'static str {
        match self.result {
            Differentiable::Loss { .. } => "linear-dpo-loss",
            Differentiable::Logps => "linear-sequence-logps",
            Differentiable::TokenLogps => "linear-token-logps",
        }
    }

    fn backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<HeadGradients> {
        checks::dtype("upstream gradient", upstream, &[DType::F32])?;
        checks::shape("upstream gradient", upstream, self.values.dims())?;
        let dtype = hidden.dtype();
        let of_dtype = |gradients: HeadGradients| -> Result<HeadGradients> {
            let [hidden, weight, bias] = gradients;
            let converted = |gradient: Option<Tensor>| gradient.map(|g| g.to_dtype(dtype)).transpose();
            Ok([converted(hidden)?, converted(weight)?, converted(bias)?])
        };
        if let Some(gradients) = &self.gradients {
            // In f32, and without asking the device what the factor is.
            let times = |gradient: &Option<Tensor>| -> Result<Option<Tensor>> {
                let times = |gradient: &Tensor| gradient.to_dtype(DType::F32)?.broadcast_mul(upstream);
                gradient.as_ref().map(times).transpose()
            };
            let [hidden, weight, bias] = gradients;
            return of_dtype([times(hidden)?, times(weight)?, times(bias)?]);
        }
        let head = CheckedHead {
            hidden: hidden.clone(),
            weight: weight.clone(),
            bias: bias.cloned(),
            budget_bytes: self.budget_bytes,
        };
        let coefficients = self.pass.coefficients(&self.result, upstream)?;
        of_dtype(head.backward(&self.pass, &coefficients)?)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        self.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        values_on_cpu(&self.values)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        values_on_cuda(&self.values)
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [hidden, weight, _] = self.backward(hidden, weight, None, upstream)?;
        Ok((hidden, weight))
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        self.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        values_on_cpu(&self.values)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        values_on_cuda(&self.values)
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [hidden, weight, bias] = self.backward(hidden, weight, Some(bias), upstream)?;
        Ok((hidden, weight, bias))
    }
}
