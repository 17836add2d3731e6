//! Results that have no gradient, of logits that have one.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Tensor, Var,
};

/// Makes tensors for results that have no gradient. Where the logits have one, a `backward()` that comes upon
/// such a tensor is an error: without it, all that a loss has from there would be missing from the gradient,
/// and nothing said.
pub(crate) struct NoGradient<'a> {
    device: &'a Device,
    /// candle's `backward()` follows what leads to a variable, so the tensors hang on this one, which is
    /// nobody's. On the logits they would keep those, and the graph of the model, for as long as somebody
    /// keeps a margin to log it.
    variable: Option<Var>,
}

impl<'a> NoGradient<'a> {
    /// For results of what is on `device` and, it may be, has a gradient.
    pub(crate) fn new(device: &'a Device, has_gradient: bool) -> Result<Self> {
        let variable = has_gradient.then(|| Var::zeros((), DType::F32, device)).transpose()?;
        Ok(NoGradient { device, variable })
    }

    /// Zeros in f32 for the result that is called `name`, whose storage the pass fills.
    pub(crate) fn zeros(&self, name: &'static str, shape: Shape) -> Result<Tensor> {
        match &self.variable {
            Some(variable) => variable.apply_op1(Refusal { name, shape }),
            None => Tensor::zeros(shape, DType::F32, self.device),
        }
    }
}

/// Zeros whose backward pass is an error.
struct Refusal {
    name: &'static str,
    shape: Shape,
}

impl Refusal {
    fn zeros<S>(&self, beside: &S) -> Result<(S, Shape)>
    where
        S: BackendStorage<Device: BackendDevice<Storage = S>>,
    {
        Ok((beside.device().zeros_impl(&self.shape, DType::F32)?, self.shape.clone()))
    }
}

impl CustomOp1 for Refusal {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, variable: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.zeros(variable)
    }

    fn cuda_fwd(&self, variable: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.zeros(variable)
    }

    fn bwd(&self, _variable: &Tensor, _result: &Tensor, _upstream: &Tensor) -> Result<Option<Tensor>> {
        Err(Error::msg(format!(
            "{}: expected detach() before backward(), for a result that has no gradient; DpoOutput's loss and \
             logps, sequence_logps, token_logps and their linear_ twins have one",
            self.name
        )))
    }
}
