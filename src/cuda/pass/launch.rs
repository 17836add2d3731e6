//! The passes: each plans one launch and runs it.

use cudarc::driver::{CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceSlice};

use super::dpo_pass::DpoPass;
use super::inputs::{DeviceLabels, PairSlices, check_context, with_pair_inputs};
use crate::cuda::address::DeviceAddress;
use crate::cuda::device::driver;
use crate::cuda::plan::{
    self, DevicePairInputs, GradientBuffers, Inputs, PairLossArguments, Plan, Workspace,
};
use crate::dtype::Logit;
use crate::error::{Error, Result};
use crate::labels::LabelType;
use crate::loss::PairLoss;

impl DpoPass {
    /// `logps` alone: log-probs of `logits` `[rows, vocab]`, without a loss; the reference model's pass.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers of the wrong length, [`Error::Driver`].
    pub fn logps<'a, T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: impl Into<DeviceLabels<'a>>,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        let (logits, _guard) = logits.device_ptr(&self.stream);
        self.with_labels(labels.into(), |label_type, labels| {
            let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels, window: None };
            self.plan_forward(&inputs, None, None)
        })
    }

    /// `logps` and `pair_loss`: log-probs, then `loss` over the pairs, with all that `pair_loss` is given.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers of the wrong length; [`Error::Value`] for a batch without pairs, for an input that
    /// the loss has no use for, and for a buffer of another context; [`Error::Missing`] for an input that it needs;
    /// [`Error::Driver`].
    pub fn forward<'a, T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: impl Into<DeviceLabels<'a>>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        let (logits, _guard) = logits.device_ptr(&self.stream);
        self.launch_forward::<T>(logits, None, labels.into(), inputs, loss)
    }

    /// [`forward`](Self::forward), and the gradient without its coefficients, into a buffer apart from the logits; with
    /// one read and one write of the logits. [`cpu::factored`](crate::cpu::factored()) says what that is for;
    /// [`coef_mut`](Self::coef_mut) has the coefficients.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward); [`Error::Length`] that names `gradient`.
    pub fn factored<'a, T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: impl Into<DeviceLabels<'a>>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
        gradient: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        self.check_logits("gradient", gradient)?;
        let stream = self.stream.clone();
        let (from, _guard) = logits.device_ptr(&stream);
        let (to, _guard_mut) = gradient.device_ptr_mut(&stream);
        self.launch_forward::<T>(from, Some(to), labels.into(), inputs, loss)
    }

    /// [`factored`](Self::factored) over the logits themselves, which become the gradient.
    ///
    /// # Errors
    ///
    /// As [`factored`](Self::factored).
    pub fn factored_in_place<'a, T: Logit>(
        &mut self,
        logits: &mut impl DevicePtrMut<T>,
        labels: impl Into<DeviceLabels<'a>>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        let stream = self.stream.clone();
        let (address, _guard) = logits.device_ptr_mut(&stream);
        self.launch_forward::<T>(address, Some(address), labels.into(), inputs, loss)
    }

    fn launch_forward<T: Logit>(
        &self,
        logits: DeviceAddress,
        gradient: Option<DeviceAddress>,
        labels: DeviceLabels<'_>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        with_pair_inputs(&self.stream, inputs, |pair_inputs| {
            self.with_labels(labels, |label_type, labels| {
                let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels, window: None };
                self.plan_forward(&inputs, Some((loss, pair_inputs)), gradient)
            })
        })
    }

    /// Plans and runs the forward pass, or the factored one where there is a `gradient` to write.
    fn plan_forward(
        &self,
        inputs: &Inputs,
        loss: Option<(&PairLoss, DevicePairInputs)>,
        gradient: Option<DeviceAddress>,
    ) -> Result<()> {
        let (device, batch, out) = (self.kernels.device(), &self.batch, self.results.addresses());
        let loss = loss.map(|(loss, inputs)| PairLossArguments { loss, inputs, out: &out.pairs });
        let address = self.workspace.device_ptr(&self.stream).0;
        let (loss, workspace) = (loss.as_ref(), Workspace { address, capacity: Some(self.capacity) });
        self.run(&match gradient {
            None => plan::forward(device, batch, inputs, &out.logps, loss, workspace)?,
            Some(gradient) => plan::factored(device, batch, inputs, &out.logps, loss, gradient, workspace)?,
        })
    }

    /// `backward` into `dlogits`, a buffer apart from the logits: the gradient of the last [`forward`](Self::forward)'s
    /// loss, times `upstream` (a scalar on the device, or none) and `upstream_scale`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers of the wrong length; [`Error::Missing`] for a pass with coefficients of entropies whose
    /// token metrics were taken away; [`Error::Driver`].
    pub fn backward<'a, T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: impl Into<DeviceLabels<'a>>,
        upstream: Option<CudaView<'_, f32>>,
        upstream_scale: f32,
        dlogits: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        self.check_logits("dlogits", dlogits)?;
        let stream = self.stream.clone();
        let (from, _guard) = logits.device_ptr(&stream);
        let (to, _guard_mut) = dlogits.device_ptr_mut(&stream);
        self.launch_backward::<T>(from, to, labels.into(), upstream, upstream_scale)
    }

    /// `backward` over the logits themselves, which become the gradient; otherwise as [`backward`](Self::backward).
    ///
    /// # Errors
    ///
    /// As [`backward`](Self::backward).
    pub fn backward_in_place<'a, T: Logit>(
        &mut self,
        logits: &mut impl DevicePtrMut<T>,
        labels: impl Into<DeviceLabels<'a>>,
        upstream: Option<CudaView<'_, f32>>,
        upstream_scale: f32,
    ) -> Result<()> {
        self.check_logits("logits", logits)?;
        let stream = self.stream.clone();
        let (address, _guard) = logits.device_ptr_mut(&stream);
        self.launch_backward::<T>(address, address, labels.into(), upstream, upstream_scale)
    }

    fn launch_backward<T: Logit>(
        &mut self,
        logits: DeviceAddress,
        dlogits: DeviceAddress,
        labels: DeviceLabels<'_>,
        upstream: Option<CudaView<'_, f32>>,
        upstream_scale: f32,
    ) -> Result<()> {
        if let Some(upstream) = &upstream {
            Error::check_len("upstream", "[1]", 1, upstream.len())?;
            self.check_context("upstream", upstream.stream())?;
        }
        let guarded = upstream.as_ref().map(|view| view.device_ptr(&self.stream));
        let out = self.results.addresses();
        let buffers = GradientBuffers {
            logsumexp: out.logps.logsumexp.unwrap_or(0),
            logsumexp_residual: out.logps.logsumexp_residual,
            coef: out.pairs.coef,
            token_coef: out.logps.token_weights.filter(|_| self.uses_token_coef()),
            entropy: self.results.entropy_buffers()?,
            threshold: self.threshold,
            nonfinite_row: Some(self.results.nonfinite_row()),
            upstream: guarded.as_ref().map(|(address, _)| *address),
            upstream_scale,
            dlogits,
        };
        self.with_labels(labels, |label_type, labels| {
            let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels, window: None };
            self.run(&plan::backward(self.kernels.device(), &self.batch, &inputs, &buffers)?)
        })
    }

    /// Hands the labels' type and address to `f`, and keeps them for as long as it runs.
    fn with_labels(
        &self,
        labels: DeviceLabels<'_>,
        f: impl FnOnce(LabelType, DeviceAddress) -> Result<()>,
    ) -> Result<()> {
        let check = |found, stream| {
            Error::check_len("labels", "[rows]", self.batch.rows(), found)?;
            self.check_context("labels", stream)
        };
        match labels {
            DeviceLabels::I32(view) => {
                check(view.len(), view.stream())?;
                let (address, _guard) = view.device_ptr(&self.stream);
                f(LabelType::I32, address)
            }
            DeviceLabels::I64(view) => {
                check(view.len(), view.stream())?;
                let (address, _guard) = view.device_ptr(&self.stream);
                f(LabelType::I64, address)
            }
        }
    }

    fn run(&self, plan: &Plan) -> Result<()> {
        driver("cuCtxSetCurrent", self.stream.context().bind_to_thread())?;
        // SAFETY: the plan was made for buffers of this value, all of the sizes that the capacity asks for,
        // which the batch is within, and for slices whose lengths and context were checked; all are on this
        // stream, so a launch has them to itself.
        unsafe { self.kernels.run(plan, self.stream.cu_stream()) }
    }

    fn check_logits<T>(&self, argument: &'static str, slice: &impl DeviceSlice<T>) -> Result<()> {
        self.check_context(argument, slice.stream())?;
        self.batch.check_logits(argument, slice.len())
    }

    fn check_context(&self, argument: &'static str, stream: &CudaStream) -> Result<()> {
        check_context(&self.stream, argument, stream)
    }
}
