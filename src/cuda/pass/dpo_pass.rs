//! A pass: its memory, its options, and views of what is there.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::index_buffer::IndexBuffer;
use super::results::PassResults;
use crate::batch::HostBatch;
use crate::coef::check_threshold;
use crate::cuda::device::Kernels;
use crate::cuda::device_buffers::Allocate;
use crate::cuda::plan::{Capacity, DeviceBatch};
use crate::error::{Error, Result};
use crate::results::MetricsLevel;

/// Forward and backward passes over batches, of one shape or of any within a [`Capacity`].
///
/// A pass always has a batch. Everything it needs is allocated when it is made, and the passes themselves
/// only launch. Results stay on the device until [`read_metrics`](Self::read_metrics),
/// [`read_logps`](Self::read_logps) or [`read_pairs`](Self::read_pairs) fetches them, or are looked at there
/// through views, which have the batch's lengths:
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use dpo_kernels::cuda::{DpoPass, Kernels, context};
/// use dpo_kernels::{HostBatch, LabelAlignment};
///
/// let context = context(0)?;
/// let stream = context.default_stream();
/// let batch = HostBatch::padded(2, 1, 3, LabelAlignment::Aligned);
/// let mut pass = DpoPass::new(&Arc::new(Kernels::new(&context)?), &stream, &batch)?;
/// let (logits, labels) = (stream.clone_htod(&[0.0f32; 6])?, stream.clone_htod(&[0i64, 2])?);
/// pass.logps(&logits, &labels)?;
/// // A loss of one's own: its coefficients go where backward looks for them.
/// stream.memcpy_htod(&[-0.1f32, 0.1], &mut pass.coef_mut())?;
/// let mut dlogits = stream.alloc_zeros::<f32>(6)?;
/// pass.backward(&logits, &labels, None, 1.0, &mut dlogits)?;
/// # Ok(())
/// # }
/// ```
///
/// Where shapes change from step to step, as those of packed sequences do, a pass is made once
/// [with a capacity](Self::with_capacity), and each batch [bound](Self::bind) to it:
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use dpo_kernels::cuda::{Capacity, DpoPass, Kernels, PairSlices, context};
/// use dpo_kernels::{HostBatch, LabelAlignment, PairLoss};
///
/// let context = context(0)?;
/// let stream = context.default_stream();
/// let kernels = Arc::new(Kernels::new(&context)?);
/// let loss = PairLoss::sigmoid(0.1)?.without_reference();
/// // A pair a batch, over a vocabulary of 3; the batches have 5 rows and 7.
/// let batches = [(&[0, 2, 5], 5), (&[0, 4, 7], 7)]
///     .map(|(cu_seqlens, rows)| HostBatch::packed(&cu_seqlens[..], rows, 3, LabelAlignment::Aligned));
/// let capacity = Capacity::of(&batches[0]).max(Capacity::of(&batches[1]));
/// let mut pass = DpoPass::with_capacity(&kernels, &stream, capacity, &batches[0])?;
/// // Room for the most rows, of which a batch takes as many as it has.
/// let (mut logits, labels) = (stream.alloc_zeros::<f32>(7 * 3)?, stream.alloc_zeros::<i64>(7)?);
/// for batch in &batches {
///     pass.bind(batch)?;
///     let (mut logits, labels) = (logits.slice_mut(..batch.rows() * 3), labels.slice(..batch.rows()));
///     pass.forward(&logits, &labels, &PairSlices::NONE, &loss)?;
///     pass.backward_in_place(&mut logits, &labels, None, 1.0)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// The pass orders what it does on its own stream. Work on another stream that reads a view, or writes to
/// one, and the pass's launches wait for each other only if they are told to.
///
/// The pass keeps the memory that its launches write. What it hands out are views, which cannot be exchanged for other
/// memory:
///
/// ```compile_fail
/// # fn exchange(pass: &mut dpo_kernels::cuda::DpoPass, other: cudarc::driver::CudaSlice<f32>) {
/// *pass.coef_mut() = other;
/// # }
/// ```
///
/// ```compile_fail
/// # fn exchange(pass: &mut dpo_kernels::cuda::DpoPass, other: &mut cudarc::driver::CudaSlice<f32>) {
/// std::mem::swap(&mut pass.coef_mut(), other);
/// # }
/// ```
#[derive(Debug)]
pub struct DpoPass {
    pub(super) kernels: Arc<Kernels>,
    pub(super) stream: Arc<CudaStream>,
    /// What all memory below is allocated for. `batch` is within it.
    pub(super) capacity: Capacity,
    /// Its index arrays are in `indices`.
    pub(super) batch: DeviceBatch,
    pub(super) indices: IndexBuffer,
    pub(super) results: PassResults,
    pub(super) workspace: CudaSlice<u32>,
    /// Whether `backward` multiplies by what is in `token_weights`, whatever the batch.
    pub(super) token_coef: bool,
    pub(super) threshold: f32,
}

impl DpoPass {
    /// A pass for batches of one shape: [`with_capacity`](Self::with_capacity) of what this batch takes.
    /// Another batch may be [bound](Self::bind) later, if it takes no more.
    ///
    /// # Errors
    ///
    /// Those of [`with_capacity`](Self::with_capacity).
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, batch: &HostBatch<'_>) -> Result<Self> {
        batch.validate_shape()?;
        DpoPass::with_capacity(kernels, stream, Capacity::of(batch), batch)
    }

    /// A pass for batches of any shape within a capacity, `batch` being the first.
    ///
    /// Allocates outputs, workspace and memory for index arrays, once: about 44 bytes a row, 72 a sequence
    /// and 24 a pair, and for a vocabulary whose rows are read in slices, 24 more for each slice of a row.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::validate`](crate::Batch::validate) and of [`Capacity::check`]; [`Error::Value`] for
    /// a stream of another context than the kernels'; [`Error::Driver`].
    pub fn with_capacity(
        kernels: &Arc<Kernels>,
        stream: &Arc<CudaStream>,
        capacity: Capacity,
        batch: &HostBatch<'_>,
    ) -> Result<Self> {
        capacity.check(batch)?;
        batch.validate()?;
        check_stream(kernels, stream)?;
        let mut allocate = Allocate { stream, extent: capacity.extent() };
        let mut indices = IndexBuffer::new(&allocate, capacity.index_entries())?;
        Ok(DpoPass {
            kernels: kernels.clone(),
            stream: stream.clone(),
            results: PassResults::new(&mut allocate)?,
            workspace: allocate.zeros(capacity.workspace_bytes()?.div_ceil(4))?,
            capacity,
            batch: indices.load(stream, batch)?,
            indices,
            token_coef: false,
            threshold: 0.0,
        })
    }

    /// Makes this the pass's batch from here on: of any shape, layout of pairs, transform and alignment of
    /// labels within the [capacity](Self::capacity).
    ///
    /// Allocates nothing. The index arrays (cu_seqlens, chosen, rejected, desirable) go to the device by one
    /// small copy, in the order of the stream: launches before still see the batch before. The options of the
    /// pass stay as they are. The results of the last batch do not outlive it: launch before you look at any,
    /// or call [`backward`](Self::backward).
    ///
    /// A batch with as many sequences, rows and pairs in the same layout, and the same vocabulary, stride and
    /// further description, is launched with the same arguments and addresses. A captured graph of launches
    /// over one thus replays with the index arrays of the other; `bind` is called between replays, not in the
    /// graph. A graph of another shape stays as good as it was, for a replay after a batch of its shape is
    /// bound again.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::validate`](crate::Batch::validate) and of [`Capacity::check`], which name what there
    /// is too much of and both numbers; [`Error::Value`] that names `stream` where it is being captured and
    /// there is something to copy; [`Error::Driver`]. The pass keeps the batch that it had then.
    pub fn bind(&mut self, batch: &HostBatch<'_>) -> Result<()> {
        self.capacity.check(batch)?;
        self.batch = self.indices.load(&self.stream, batch)?;
        Ok(())
    }

    /// What batches may be [bound](Self::bind).
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Makes every forward pass compute token metrics too, for [`read_logps`](Self::read_logps) to fetch, and
    /// their mean, for [`read_metrics`](Self::read_metrics); allocates 16 bytes a row of the capacity for
    /// them. At [`MetricsLevel::Entropy`], which costs less, only the entropies of the rows are computed; the
    /// others stay 0, and there is no mean.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_token_metrics(mut self, level: MetricsLevel) -> Result<Self> {
        let mut allocate = Allocate { stream: &self.stream, extent: self.capacity.extent() };
        self.results.set_token_metrics(&mut allocate, level)?;
        Ok(self)
    }

    /// Makes every backward pass write rows with coefficients up to `threshold` as zeros, without reading them; see
    /// [`Coef::threshold`](crate::Coef::threshold). It is 0 at first.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless it is finite and not below 0.
    pub fn with_threshold(mut self, threshold: f32) -> Result<Self> {
        check_threshold(threshold.into())?;
        self.threshold = threshold;
        Ok(self)
    }

    /// Makes every backward pass multiply by the factors of tokens that [`token_coef_mut`](Self::token_coef_mut) shows.
    /// A pass over a batch with an [`ld_alpha`](crate::Batch::ld_alpha) always does.
    #[must_use]
    pub fn with_token_coef(mut self) -> Self {
        self.token_coef = true;
        self
    }

    /// Makes every backward pass add the gradient of the rows' entropies, with the coefficients that
    /// [`entropy_coef_mut`](Self::entropy_coef_mut) shows; allocates 4 bytes a row of the capacity for them, and has forward
    /// passes compute entropies, if they do not yet.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_entropy_coef(mut self) -> Result<Self> {
        let mut allocate = Allocate { stream: &self.stream, extent: self.capacity.extent() };
        self.results.set_entropy_coef(&mut allocate)?;
        Ok(self)
    }

    /// `[rows]` coefficients of the rows' entropies, ∂L/∂H, on the device, of passes
    /// [with them](Self::with_entropy_coef); 0 at first. See [`EntropyCoef`](crate::EntropyCoef).
    pub fn entropy_coef_mut(&mut self) -> Option<CudaViewMut<'_, f32>> {
        self.results.entropy_coef_mut(self.batch.rows())
    }

    /// `[rows]` entropies of the last forward pass, on the device, where passes compute them.
    pub fn device_entropy(&self) -> Option<CudaView<'_, f32>> {
        self.results.device_entropy(self.batch.rows())
    }

    /// `[S]` log-probs, on the device.
    pub fn device_logps(&self) -> CudaView<'_, f32> {
        self.results.out.logps.logps.slice(..self.batch.sequences.count())
    }

    /// `[S]` coefficients c_s, on the device. Write your own here, and [`backward`](Self::backward) uses them.
    pub fn coef_mut(&mut self) -> CudaViewMut<'_, f32> {
        self.results.out.pairs.coef.slice_mut(..self.batch.sequences.count())
    }

    /// `[rows]` factors of each token, on the device, where backward passes [use them](Self::with_token_coef). A forward
    /// pass leaves the batch's weights here (1, or [`ld_alpha`](crate::Batch::ld_alpha), and 0 where nothing is scored);
    /// multiply them by your own after it.
    pub fn token_coef_mut(&mut self) -> Option<CudaViewMut<'_, f32>> {
        self.uses_token_coef().then(|| self.results.out.logps.token_weights.slice_mut(..self.batch.rows()))
    }

    /// `[S]` means of log p_y − log Σ p², on the device, after [`with_token_metrics`](Self::with_token_metrics): the
    /// logarithms of WPO's weights.
    pub fn device_sequence_log_weights(&self) -> Option<CudaView<'_, f32>> {
        let metrics =
            self.results.out.logps.metrics.as_ref().filter(|_| self.results.metrics == MetricsLevel::All)?;
        Some(metrics.sequence_log_weights.slice(..self.batch.sequences.count()))
    }

    /// Whether `backward` multiplies by what is in `token_weights`, for this batch.
    pub(super) fn uses_token_coef(&self) -> bool {
        self.token_coef || self.batch.ld_alpha != 1.0
    }
}

/// A pass's launches are on a stream of the kernels' own context.
pub(super) fn check_stream(kernels: &Kernels, stream: &CudaStream) -> Result<()> {
    if stream.context().cu_ctx() == kernels.context() {
        return Ok(());
    }
    let expected = "one of the context that the kernels were loaded into";
    Err(Error::value("stream", expected, "one of another"))
}
