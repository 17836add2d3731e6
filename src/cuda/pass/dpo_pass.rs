//! A pass: its memory, its options, and views of what is there.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use crate::batch::{Batch, HostBatch};
use crate::coef::check_threshold;
use crate::cuda::device::{Kernels, driver};
use crate::cuda::device_buffers::{Allocate, DeviceBuffers};
use crate::cuda::params::{DPO_NO_TROUBLE, DpoBatchMetrics};
use crate::cuda::plan;
use crate::error::{Error, Result};
use crate::memory::Unallocated;
use crate::results::{ForwardTensors, MetricsLevel, TokenMetricTensors};

/// Forward and backward passes over batches of one shape.
///
/// Everything a pass needs is allocated by [`DpoPass::new`]; the passes themselves only launch. Results stay on the
/// device until [`read_metrics`](Self::read_metrics), [`read_logps`](Self::read_logps) or [`read_pairs`](Self::read_pairs)
/// fetches them, or are looked at there through views:
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use dpo_kernels::cuda::{DeviceLabels, DpoPass, Kernels, context};
/// use dpo_kernels::HostBatch;
///
/// let context = context(0)?;
/// let stream = context.default_stream();
/// let mut pass = DpoPass::new(&Arc::new(Kernels::new(&context)?), &stream, &HostBatch::padded(2, 1, 3))?;
/// let (logits, labels) = (stream.clone_htod(&[0.0f32; 6])?, stream.clone_htod(&[0i64, 2])?);
/// pass.logps(&logits, DeviceLabels::I64(&labels))?;
/// // A loss of one's own: its coefficients go where backward looks for them.
/// stream.memcpy_htod(&[-0.1f32, 0.1], &mut pass.coef_mut())?;
/// let mut dlogits = stream.alloc_zeros::<f32>(6)?;
/// pass.backward(&logits, DeviceLabels::I64(&labels), None, 1.0, &mut dlogits)?;
/// # Ok(())
/// # }
/// ```
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
    /// An index array is its place in `indices`.
    pub(super) batch: Batch<usize>,
    pub(super) indices: Vec<CudaSlice<i32>>,
    pub(super) out: ForwardTensors<DeviceBuffers>,
    pub(super) records: CudaSlice<DpoBatchMetrics>,
    pub(super) nonfinite_row: CudaSlice<u32>,
    pub(super) workspace: CudaSlice<u32>,
    pub(super) metrics: MetricsLevel,
    /// Whether `backward` multiplies by what is in `token_weights`.
    pub(super) token_coef: bool,
    pub(super) threshold: f32,
}

impl DpoPass {
    /// Checks the batch, copies its index arrays to the device and allocates outputs and workspace: about 20 bytes a
    /// row and 12 a sequence.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::validate`](crate::Batch::validate); [`Error::Value`] for a stream of another context than the
    /// kernels'; [`Error::Driver`].
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, batch: &HostBatch<'_>) -> Result<Self> {
        batch.validate()?;
        if stream.context().cu_ctx() != kernels.context() {
            let expected = "one of the context that the kernels were loaded into";
            return Err(Error::value("stream", expected, "one of another"));
        }
        let mut indices = Vec::new();
        let indexed = batch.try_map_indices(|array| {
            indices.push(driver("cuMemcpyHtoDAsync", stream.clone_htod(array))?);
            Ok(indices.len() - 1)
        })?;
        let mut allocate = Allocate { stream, extent: batch.extent() };
        let unallocated = ForwardTensors::<Unallocated<f32>>::default();
        Ok(DpoPass {
            kernels: kernels.clone(),
            stream: stream.clone(),
            out: unallocated.convert(&mut allocate)?,
            records: allocate.zeros(1)?,
            nonfinite_row: driver("cuMemcpyHtoDAsync", stream.clone_htod(&[DPO_NO_TROUBLE]))?,
            workspace: allocate.zeros(plan::workspace_bytes(batch)?.div_ceil(4))?,
            batch: indexed,
            indices,
            metrics: MetricsLevel::None,
            token_coef: batch.ld_alpha != 1.0,
            threshold: 0.0,
        })
    }

    /// Makes every forward pass compute token metrics too, for [`read_logps`](Self::read_logps) to fetch, and their mean,
    /// for [`read_metrics`](Self::read_metrics); allocates 16 bytes a row for them. At [`MetricsLevel::Entropy`], which
    /// costs less, only the entropies of the rows are computed; the others stay 0, and there is no mean.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_token_metrics(mut self, level: MetricsLevel) -> Result<Self> {
        let mut allocate = Allocate { stream: &self.stream, extent: self.host_batch_extent() };
        self.out.logps.metrics = match level {
            MetricsLevel::None => None,
            _ => Some(TokenMetricTensors::<Unallocated<f32>>::default().convert(&mut allocate)?),
        };
        self.metrics = level;
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

    /// `[S]` log-probs, on the device.
    pub fn device_logps(&self) -> CudaView<'_, f32> {
        self.out.logps.logps.as_view()
    }

    /// `[S]` coefficients c_s, on the device. Write your own here, and [`backward`](Self::backward) uses them.
    pub fn coef_mut(&mut self) -> CudaViewMut<'_, f32> {
        self.out.pairs.coef.as_view_mut()
    }

    /// `[rows]` factors of each token, on the device, where backward passes [use them](Self::with_token_coef). A forward
    /// pass leaves the batch's weights here (1, or [`ld_alpha`](crate::Batch::ld_alpha), and 0 where nothing is scored);
    /// multiply them by your own after it.
    pub fn token_coef_mut(&mut self) -> Option<CudaViewMut<'_, f32>> {
        self.token_coef.then(|| self.out.logps.token_weights.as_view_mut())
    }

    /// `[S]` means of log p_y − log Σ p², on the device, after [`with_token_metrics`](Self::with_token_metrics): the
    /// logarithms of WPO's weights.
    pub fn device_sequence_log_weights(&self) -> Option<CudaView<'_, f32>> {
        let metrics = self.out.logps.metrics.as_ref().filter(|_| self.metrics == MetricsLevel::All)?;
        Some(metrics.sequence_log_weights.as_view())
    }
}
