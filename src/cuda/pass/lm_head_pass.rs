//! The head over cudarc's slices: its memory, its passes, and what they found.

use std::sync::Arc;

use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop,
};

use super::dpo_pass::check_stream;
use super::index_buffer::IndexBuffer;
use super::inputs::{PairSlices, check_context, with_pair_inputs};
use super::read::BatchMetrics;
use super::results::PassResults;
use crate::batch::HostBatch;
use crate::cuda::device::{Kernels, driver};
use crate::cuda::device_buffers::Allocate;
use crate::cuda::plan::{
    self, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, LmHeadMemory, LmHeadRows, LmHeadWorkspace,
    PairLossArguments, Plan,
};
use crate::cuda::products::Products;
use crate::dtype::Logit;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::lm_head::check_matrix;
use crate::loss::PairLoss;
use crate::memory::Extent;
use crate::results::{Logps, MetricsLevel, PairOutputs};
use crate::status::GradientStatus;

/// Hidden states and the head's weight in cudarc's slices: [`LmHead`](crate::LmHead) on the device.
#[derive(Debug)]
pub struct LmHeadSlices<'a, T> {
    /// X, `[rows, hidden_size]`. Those of rows that are not scored are not read.
    pub hidden: CudaView<'a, T>,
    /// W, `[vocab, hidden_size]`.
    pub weight: CudaView<'a, T>,
    /// b, `[vocab]`.
    pub bias: Option<CudaView<'a, T>>,
}

/// Where the gradients of a head go in cudarc's slices: [`LmHeadGradients`](crate::LmHeadGradients) on the device. What is `None`
/// is not wanted.
#[derive(Debug)]
pub struct LmHeadGradientSlices<'a, T> {
    /// dX, `[rows, hidden_size]`, overwritten.
    pub hidden: Option<CudaViewMut<'a, T>>,
    /// dW, `[vocab, hidden_size]`, to which the gradient is added.
    pub weight: Option<CudaViewMut<'a, f32>>,
    /// db, `[vocab]`, to which the gradient is added.
    pub bias: Option<CudaViewMut<'a, f32>>,
    /// The upstream gradient, `[1]`, where the device knows it.
    pub upstream: Option<CudaView<'a, f32>>,
    /// The same where the host knows it; both multiply.
    pub upstream_scale: f32,
}

impl<T> Default for LmHeadGradientSlices<'_, T> {
    /// None, and an upstream gradient of 1.
    fn default() -> Self {
        LmHeadGradientSlices { hidden: None, weight: None, bias: None, upstream: None, upstream_scale: 1.0 }
    }
}

/// Passes through a language model's head on the GPU: from hidden states to log-probs, loss and gradients, while logits exist a
/// chunk of rows at a time. What [`cpu::lm_head`](crate::cpu::lm_head) does in host memory.
///
/// Labels are given from host memory, where a data loader has them: the rows that are scored, which are all that is multiplied,
/// follow from them, and nothing waits for the device. Labels that are there alone have to be
/// [fetched](super::DeviceLabels::to_host). Everything else is on the device. The pass allocates its memory once, for batches within the
/// capacity of an [`LmHeadMemory`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use dpo_kernels::cuda::{
///     Capacity, Kernels, LmHeadGradientSlices, LmHeadMemory, LmHeadPass, LmHeadSlices, PairSlices, Products, context,
/// };
/// use dpo_kernels::half::bf16;
/// use dpo_kernels::{DType, HostBatch, LabelAlignment, PairLoss};
///
/// let context = context(0)?;
/// let stream = context.default_stream();
/// let (kernels, products) = (Arc::new(Kernels::new(&context)?), Arc::new(Products::new(&context)?));
///
/// // Two pairs of 512 tokens; a model of 896 dimensions with a vocabulary of 151936.
/// let (vocab, size) = (151_936, 896);
/// let batch = HostBatch::padded(4, 512, vocab, LabelAlignment::NextToken);
/// let labels = vec![7i64; 4 * 512];
/// let memory = LmHeadMemory::new(Capacity::of(&batch), DType::BF16, size);
/// let mut pass = LmHeadPass::new(&kernels, &products, &stream, memory, &batch, labels[..].into())?;
///
/// let (hidden, weight) = (stream.alloc_zeros::<bf16>(2048 * size)?, stream.alloc_zeros::<bf16>(vocab * size)?);
/// let head = LmHeadSlices { hidden: hidden.as_view(), weight: weight.as_view(), bias: None };
/// let ref_logps = stream.clone_htod(&[-700.0f32; 4])?;
/// let (mut dhidden, mut dweight) = (stream.alloc_zeros::<bf16>(2048 * size)?, stream.alloc_zeros(vocab * size)?);
/// let mut gradients = LmHeadGradientSlices {
///     hidden: Some(dhidden.as_view_mut()),
///     weight: Some(dweight.as_view_mut()),
///     ..LmHeadGradientSlices::default()
/// };
/// let inputs = PairSlices::reference(ref_logps.as_view());
/// pass.forward(&head, &inputs, &PairLoss::sigmoid(0.1)?, &mut gradients)?;
/// println!("loss {}", pass.read_metrics()?.pairs.loss);
/// pass.take_gradient_status()?.check()?;
/// # Ok(())
/// # }
/// ```
///
/// No GPU has run the products of this pass yet; everything else of it runs in the tests' interpreter.
#[derive(Debug)]
pub struct LmHeadPass {
    kernels: Arc<Kernels>,
    products: Arc<Products>,
    stream: Arc<CudaStream>,
    memory: LmHeadMemory,
    /// The scored rows of the batch, whose entries are in `indices`.
    rows: LmHeadRows,
    indices: IndexBuffer,
    /// Of the batch, which is within the memory's capacity.
    extent: Extent,
    vocab: usize,
    results: PassResults,
    workspace: CudaSlice<u8>,
}

impl LmHeadPass {
    /// A pass for batches of any shape within the memory's capacity, which counts all of their rows, `batch` being the first.
    ///
    /// Allocates [`LmHeadMemory::workspace_bytes`], and outputs as [`DpoPass`](super::DpoPass) does.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind) and of [`LmHeadMemory::workspace_bytes`]; [`Error::Value`] for a stream of another context than
    /// the kernels', and for products of another; [`Error::Driver`].
    pub fn new(
        kernels: &Arc<Kernels>,
        products: &Arc<Products>,
        stream: &Arc<CudaStream>,
        memory: LmHeadMemory,
        batch: &HostBatch<'_>,
        labels: Labels<'_>,
    ) -> Result<Self> {
        let rows = bound(&memory, batch, labels)?;
        let workspace_bytes = memory.workspace_bytes()?;
        check_stream(kernels, stream)?;
        kernels.check_products(products)?;
        let mut allocate = Allocate { stream, extent: memory.capacity.extent() };
        let mut indices = IndexBuffer::new(&allocate, LmHeadRows::most_entries(&memory.capacity))?;
        indices.load_rows(stream, &rows)?;
        Ok(LmHeadPass {
            kernels: kernels.clone(),
            products: products.clone(),
            stream: stream.clone(),
            results: PassResults::new(&mut allocate)?,
            workspace: allocate.zeros(workspace_bytes)?,
            memory,
            rows,
            indices,
            extent: batch.extent(),
            vocab: batch.vocab,
        })
    }

    /// Makes this the pass's batch from here on, with its labels. What says which rows are scored goes to the device by one small
    /// copy, in the order of the stream.
    ///
    /// # Errors
    ///
    /// Those of [`HostBatch::validate`] and of [`Capacity::check`](crate::cuda::Capacity::check); [`Error::Length`] that names
    /// `labels`; [`Error::Value`] that names `stream` where it is being captured; [`Error::Driver`]. The pass keeps the batch
    /// that it had then.
    pub fn bind(&mut self, batch: &HostBatch<'_>, labels: Labels<'_>) -> Result<()> {
        let rows = bound(&self.memory, batch, labels)?;
        self.indices.load_rows(&self.stream, &rows)?;
        (self.rows, self.extent, self.vocab) = (rows, batch.extent(), batch.vocab);
        Ok(())
    }

    /// As [`DpoPass::with_token_metrics`](super::DpoPass::with_token_metrics).
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_token_metrics(mut self, level: MetricsLevel) -> Result<Self> {
        let mut allocate = Allocate { stream: &self.stream, extent: self.memory.capacity.extent() };
        self.results.set_token_metrics(&mut allocate, level)?;
        Ok(self)
    }

    /// Makes [`backward`](Self::backward) add the gradient of the rows' entropies, as
    /// [`DpoPass::with_entropy_coef`](super::DpoPass::with_entropy_coef); of a pass with a loss they are no part.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_entropy_coef(mut self) -> Result<Self> {
        let mut allocate = Allocate { stream: &self.stream, extent: self.memory.capacity.extent() };
        self.results.set_entropy_coef(&mut allocate)?;
        Ok(self)
    }

    /// `[rows]` coefficients of the rows' entropies, ∂L/∂H, on the device, of passes
    /// [with them](Self::with_entropy_coef); 0 at first. See [`EntropyCoef`](crate::EntropyCoef).
    pub fn entropy_coef_mut(&mut self) -> Option<CudaViewMut<'_, f32>> {
        self.results.entropy_coef_mut(self.extent.rows)
    }

    /// `[rows]` entropies of the last pass, on the device, where passes compute them.
    pub fn device_entropy(&self) -> Option<CudaView<'_, f32>> {
        self.results.device_entropy(self.extent.rows)
    }

    /// `logps` alone: the reference model's pass, with one product for each chunk.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for hidden states of another type than the memory's, and for memory of another context; [`Error::Length`]
    /// that names `hidden`, `weight` or `bias`; [`Error::Cublas`] and [`Error::Driver`].
    pub fn logps<T: Logit>(&mut self, head: &LmHeadSlices<'_, T>) -> Result<()> {
        let out = self.results.addresses();
        self.with_head(head, &mut LmHeadGradientSlices::default(), |pass, head, gradients| {
            let (device, workspace) = (pass.kernels.device(), pass.workspace());
            let entries = pass.indices.address(&pass.stream);
            let logps = &out.logps;
            plan::lm_head(device, &pass.rows, entries, pass.vocab, head, logps, None, gradients, &workspace)
        })
    }

    /// Log-probs, the loss over the pairs, and the gradients that are asked for.
    ///
    /// # Errors
    ///
    /// Those of [`logps`](Self::logps) and of [`DpoPass::forward`](super::DpoPass::forward) for the loss; [`Error::Length`] that
    /// names a buffer of `gradients`.
    pub fn forward<T: Logit>(
        &mut self,
        head: &LmHeadSlices<'_, T>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
        gradients: &mut LmHeadGradientSlices<'_, T>,
    ) -> Result<()> {
        let out = self.results.addresses();
        with_pair_inputs(&self.stream, inputs, |inputs| {
            let loss = PairLossArguments { loss, inputs, out: &out.pairs };
            self.with_head(head, gradients, |pass, head, gradients| {
                let (device, workspace) = (pass.kernels.device(), pass.workspace());
                let entries = pass.indices.address(&pass.stream);
                let (logps, loss) = (&out.logps, Some(&loss));
                let rows = &pass.rows;
                plan::lm_head(device, rows, entries, pass.vocab, head, logps, loss, gradients, &workspace)
            })
        })
    }

    /// The gradients of the coefficients that [`coef_mut`](Self::coef_mut) shows, of log-probs that [`logps`](Self::logps) gave
    /// of the same hidden states, and of those that [`entropy_coef_mut`](Self::entropy_coef_mut) shows, of their entropies: for a loss
    /// of your own. The logits are made again.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward), save for the loss; [`Error::Missing`] for a pass with coefficients of entropies whose
    /// token metrics were taken away.
    pub fn backward<T: Logit>(
        &mut self,
        head: &LmHeadSlices<'_, T>,
        gradients: &mut LmHeadGradientSlices<'_, T>,
    ) -> Result<()> {
        let out = self.results.addresses();
        let inputs = DeviceLmHeadCoef {
            logsumexp: out.logps.logsumexp.unwrap_or(0),
            logsumexp_residual: out.logps.logsumexp_residual,
            coef: out.pairs.coef,
            token_coef: out.logps.token_weights.filter(|_| self.rows.weighs_tokens()),
            entropy: self.results.entropy_buffers()?,
            threshold: 0.0,
        };
        self.with_head(head, gradients, |pass, head, gradients| {
            let (device, workspace) = (pass.kernels.device(), pass.workspace());
            let entries = pass.indices.address(&pass.stream);
            let rows = &pass.rows;
            plan::lm_head_backward(device, rows, entries, pass.vocab, head, &inputs, gradients, &workspace)
        })
    }

    /// `[S]` log-probs, on the device.
    pub fn device_logps(&self) -> CudaView<'_, f32> {
        self.results.out.logps.logps.slice(..self.extent.sequences)
    }

    /// `[S]` coefficients c_s, on the device. Write your own here, and [`backward`](Self::backward) uses them.
    pub fn coef_mut(&mut self) -> CudaViewMut<'_, f32> {
        self.results.out.pairs.coef.slice_mut(..self.extent.sequences)
    }

    /// As [`DpoPass::read_metrics`](super::DpoPass::read_metrics).
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_metrics(&self) -> Result<BatchMetrics> {
        self.results.read_metrics()
    }

    /// As [`DpoPass::read_logps`](super::DpoPass::read_logps).
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_logps(&self) -> Result<Logps<f32>> {
        self.results.read_logps(self.extent)
    }

    /// As [`DpoPass::read_pairs`](super::DpoPass::read_pairs).
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_pairs(&self) -> Result<PairOutputs<f32>> {
        self.results.read_pairs(self.extent)
    }

    /// As [`DpoPass::take_gradient_status`](super::DpoPass::take_gradient_status).
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn take_gradient_status(&mut self) -> Result<GradientStatus> {
        self.results.take_gradient_status()
    }

    fn workspace(&self) -> LmHeadWorkspace {
        LmHeadWorkspace { address: self.workspace.device_ptr(&self.stream).0, memory: self.memory }
    }

    /// Checks the slices, plans with their addresses, and runs the plan while they are held.
    fn with_head<T: Logit>(
        &self,
        head: &LmHeadSlices<'_, T>,
        gradients: &mut LmHeadGradientSlices<'_, T>,
        plan: impl FnOnce(&Self, &DeviceLmHead, &DeviceLmHeadGradients) -> Result<Plan>,
    ) -> Result<()> {
        let (rows, vocab, size) = (self.extent.rows, self.vocab, self.memory.hidden_size);
        let (of_rows, of_vocab) = ("[rows, hidden_size]", "[vocab, hidden_size]");
        let context = |argument, given: &CudaStream| check_context(&self.stream, argument, given);
        context("hidden", head.hidden.stream())?;
        context("weight", head.weight.stream())?;
        check_matrix("hidden", of_rows, rows, size, head.hidden.len())?;
        check_matrix("weight", of_vocab, vocab, size, head.weight.len())?;
        if let Some(bias) = &head.bias {
            context("bias", bias.stream())?;
            Error::check_len("bias", "[vocab]", vocab, bias.len())?;
        }
        if let Some(dhidden) = &gradients.hidden {
            context("gradients.hidden", dhidden.stream())?;
            check_matrix("gradients.hidden", of_rows, rows, size, dhidden.len())?;
        }
        if let Some(dweight) = &gradients.weight {
            context("gradients.weight", dweight.stream())?;
            check_matrix("gradients.weight", of_vocab, vocab, size, dweight.len())?;
        }
        if let Some(dbias) = &gradients.bias {
            context("gradients.bias", dbias.stream())?;
            Error::check_len("gradients.bias", "[vocab]", vocab, dbias.len())?;
        }
        if let Some(upstream) = &gradients.upstream {
            context("gradients.upstream", upstream.stream())?;
            Error::check_len("gradients.upstream", "[1]", 1, upstream.len())?;
        }

        let stream = &self.stream;
        let mut guards: Vec<SyncOnDrop<'_>> = vec![];
        let on_device = DeviceLmHead {
            dtype: T::DTYPE,
            hidden_size: size,
            hidden: hold(&mut guards, head.hidden.device_ptr(stream)),
            weight: hold(&mut guards, head.weight.device_ptr(stream)),
            bias: head.bias.as_ref().map(|bias| hold(&mut guards, bias.device_ptr(stream))),
        };
        let to = DeviceLmHeadGradients {
            hidden: gradients.hidden.as_mut().map(|view| hold(&mut guards, view.device_ptr_mut(stream))),
            weight: gradients.weight.as_mut().map(|view| hold(&mut guards, view.device_ptr_mut(stream))),
            bias: gradients.bias.as_mut().map(|view| hold(&mut guards, view.device_ptr_mut(stream))),
            upstream: gradients.upstream.as_ref().map(|view| hold(&mut guards, view.device_ptr(stream))),
            upstream_scale: gradients.upstream_scale,
            nonfinite_row: Some(self.results.nonfinite_row()),
        };
        let plan = plan(self, &on_device, &to)?;
        driver("cuCtxSetCurrent", stream.context().bind_to_thread())?;
        // SAFETY: the plan was made for buffers of this value, all of the sizes that the memory's capacity asks for, which the
        // batch is within, and for slices whose lengths and context were checked, which are held until the steps are queued; the plan
        // has made sure that what is written overlaps nothing else; and all steps are on this stream, so that each has them to
        // itself.
        unsafe { self.kernels.run_with(&plan, &self.products, stream.cu_stream()) }
    }
}

/// A batch within the memory's capacity, as its scored rows.
fn bound(memory: &LmHeadMemory, batch: &HostBatch<'_>, labels: Labels<'_>) -> Result<LmHeadRows> {
    memory.capacity.check(batch)?;
    LmHeadRows::new(batch, labels)
}

/// The address, whose guard is kept with the others.
fn hold<'a>(guards: &mut Vec<SyncOnDrop<'a>>, (address, guard): (u64, SyncOnDrop<'a>)) -> u64 {
    guards.push(guard);
    address
}
