//! The convenience over cudarc: one batch shape on one stream, with outputs and workspace allocated once.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop, ValidAsZeroBits,
};

use super::device::{Kernels, driver};
use super::params::{DPO_NO_TROUBLE, DPO_TROUBLES, DpoMeanTokenMetrics, DpoPairMetrics, DpoStatus};
use super::plan::{
    self, DeviceAddress, DeviceArray, DeviceBatch, DevicePairInputs, GradientBuffers, Inputs, Launch,
    LogpsBuffers, PairBuffers, TokenMetricsBuffers,
};
use crate::batch::{
    HostBatch, LabelType, Logit, Logps, MeanTokenMetrics, PairMetrics, PairOutputs, Status, TokenMetrics,
};
use crate::error::{Error, Result};
use crate::gradient::{GradientStatus, check_threshold};
use crate::loss::{PairLoss, PairTensors};

/// Labels in device memory, one per row.
#[derive(Debug, Clone, Copy)]
pub enum DeviceLabels<'a> {
    /// 32-bit labels.
    I32(&'a CudaSlice<i32>),
    /// 64-bit labels.
    I64(&'a CudaSlice<i64>),
}

/// [`PairTensors`] in cudarc's slices; single numbers are `[1]`.
///
/// Only the kernels see the values: see [`DevicePairInputs`].
pub type PairSlices<'a> = PairTensors<&'a CudaSlice<f32>, &'a CudaSlice<u32>, &'a CudaSlice<f32>>;

/// Forward and backward passes over batches of one shape.
///
/// Everything a pass needs is allocated by [`DpoPass::new`]; the passes themselves only launch. Results stay on the
/// device until [`read_metrics`](Self::read_metrics), [`read_logps`](Self::read_logps) or [`read_pairs`](Self::read_pairs)
/// fetches them.
#[derive(Debug)]
pub struct DpoPass {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    batch: DeviceBatch,
    out: LogpsBuffers,
    pairs: PairBuffers,
    workspace: DeviceAddress,
    /// Whether `backward` multiplies by what is in `token_weights`.
    weighted: bool,
    threshold: f32,
    /// What the addresses above point into, by element type.
    floats: Floats,
    words: Words,
    batch_metrics: CudaSlice<DeviceBatchMetrics>,
    _indices: Vec<CudaSlice<i32>>,
}

#[derive(Debug)]
struct Floats {
    logps: CudaSlice<f32>,
    token_logps: CudaSlice<f32>,
    logsumexp: CudaSlice<f32>,
    logsumexp_residual: CudaSlice<f32>,
    pair_losses: CudaSlice<f32>,
    chosen_rewards: CudaSlice<f32>,
    rejected_rewards: CudaSlice<f32>,
    margins: CudaSlice<f32>,
    coef: CudaSlice<f32>,
    token_weights: CudaSlice<f32>,
    token_metrics: Option<TokenFloats>,
}

/// Token metrics, where they are asked for.
#[derive(Debug)]
struct TokenFloats {
    entropy: CudaSlice<f32>,
    correct: CudaSlice<f32>,
    mean_logit: CudaSlice<f32>,
    sum_p2: CudaSlice<f32>,
    sequence_log_weights: CudaSlice<f32>,
}

#[derive(Debug)]
struct Words {
    scored: CudaSlice<u32>,
    nonfinite_row: CudaSlice<u32>,
    workspace: CudaSlice<u32>,
}

/// All that a forward pass finds of the batch as a whole, side by side, so that one copy fetches it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DeviceBatchMetrics {
    status: DpoStatus,
    pairs: DpoPairMetrics,
    tokens: DpoMeanTokenMetrics,
}

// SAFETY: plain numbers, without padding: all are of 4 bytes.
unsafe impl DeviceRepr for DeviceBatchMetrics {}
// SAFETY: 0 is a value of each of them.
unsafe impl ValidAsZeroBits for DeviceBatchMetrics {}

/// What a forward pass found of the batch as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchMetrics {
    /// What is wrong with the data.
    pub status: Status,
    /// Loss and means over pairs, of the last pass with a loss.
    pub pairs: PairMetrics<f32>,
    /// Means over scored tokens, where the pass has [token metrics](DpoPass::with_token_metrics).
    pub tokens: Option<MeanTokenMetrics<f32>>,
}

impl DpoPass {
    /// Checks the batch, copies its index arrays to the device and allocates outputs and workspace: about 20 bytes a
    /// row and 12 a sequence.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::validate`](crate::Batch::validate), and [`Error::Driver`].
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, batch: &HostBatch<'_>) -> Result<Self> {
        batch.validate()?;
        let mut indices = Vec::new();
        let device_batch = batch.try_map_indices(|array| {
            let copy = driver("cuMemcpyHtoDAsync", stream.clone_htod(array))?;
            let address = copy.device_ptr(stream).0;
            indices.push(copy);
            Ok(DeviceArray { address, len: array.len() })
        })?;
        let (rows, sequences, pairs) = (batch.rows(), batch.sequences.count(), batch.pair_count());
        // An allocation of no bytes is an error to the driver; without pairs these stay unused.
        let floats = |len: usize| driver("cuMemAlloc", stream.alloc_zeros::<f32>(len.max(1)));
        let words = |len: usize| driver("cuMemAlloc", stream.alloc_zeros::<u32>(len));
        let floats = Floats {
            logps: floats(sequences)?,
            token_logps: floats(rows)?,
            logsumexp: floats(rows)?,
            logsumexp_residual: floats(rows)?,
            pair_losses: floats(pairs)?,
            chosen_rewards: floats(pairs)?,
            rejected_rewards: floats(pairs)?,
            margins: floats(pairs)?,
            coef: floats(sequences)?,
            token_weights: floats(rows)?,
            token_metrics: None,
        };
        let words = Words {
            scored: words(sequences)?,
            nonfinite_row: driver("cuMemcpyHtoDAsync", stream.clone_htod(&[DPO_NO_TROUBLE]))?,
            workspace: words(plan::workspace_bytes(&device_batch)?.div_ceil(4))?,
        };
        let batch_metrics = driver("cuMemAlloc", stream.alloc_zeros::<DeviceBatchMetrics>(1))?;
        // These buffers live on one stream, so cudarc's tracking between streams has nothing to do here.
        let float = |slice: &CudaSlice<f32>| slice.device_ptr(stream).0;
        let word = |slice: &CudaSlice<u32>| slice.device_ptr(stream).0;
        let figure = |offset: usize| batch_metrics.device_ptr(stream).0 + offset as DeviceAddress;
        Ok(DpoPass {
            kernels: kernels.clone(),
            stream: stream.clone(),
            batch: device_batch,
            out: LogpsBuffers {
                logps: float(&floats.logps),
                scored: Some(word(&words.scored)),
                token_logps: Some(float(&floats.token_logps)),
                logsumexp: Some(float(&floats.logsumexp)),
                logsumexp_residual: Some(float(&floats.logsumexp_residual)),
                token_weights: Some(float(&floats.token_weights)),
                metrics: TokenMetricsBuffers::default(),
                status: figure(mem::offset_of!(DeviceBatchMetrics, status)),
            },
            pairs: PairBuffers {
                inputs: DevicePairInputs::NONE,
                pair_losses: float(&floats.pair_losses),
                chosen_rewards: float(&floats.chosen_rewards),
                rejected_rewards: float(&floats.rejected_rewards),
                margins: float(&floats.margins),
                coef: float(&floats.coef),
                metrics: figure(mem::offset_of!(DeviceBatchMetrics, pairs)),
            },
            workspace: word(&words.workspace),
            weighted: batch.ld_alpha != 1.0,
            threshold: 0.0,
            floats,
            words,
            batch_metrics,
            _indices: indices,
        })
    }

    /// Makes every forward pass compute token metrics too, for [`read_logps`](Self::read_logps) to fetch, and their means,
    /// for [`read_metrics`](Self::read_metrics); allocates 16 bytes a row for them.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn with_token_metrics(mut self) -> Result<Self> {
        let floats = |len: usize| driver("cuMemAlloc", self.stream.alloc_zeros::<f32>(len));
        let (rows, sequences) = (self.batch.rows(), self.batch.sequences.count());
        let metrics = TokenFloats {
            entropy: floats(rows)?,
            correct: floats(rows)?,
            mean_logit: floats(rows)?,
            sum_p2: floats(rows)?,
            sequence_log_weights: floats(sequences)?,
        };
        let address = |slice: &CudaSlice<f32>| Some(slice.device_ptr(&self.stream).0);
        let means = self.batch_metrics.device_ptr(&self.stream).0
            + mem::offset_of!(DeviceBatchMetrics, tokens) as DeviceAddress;
        self.out.metrics = TokenMetricsBuffers {
            entropy: address(&metrics.entropy),
            correct: address(&metrics.correct),
            mean_logit: address(&metrics.mean_logit),
            sum_p2: address(&metrics.sum_p2),
            sequence_log_weights: address(&metrics.sequence_log_weights),
            means: Some(means),
        };
        self.floats.token_metrics = Some(metrics);
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

    /// `logps` alone: log-probs of `logits` `[rows, vocab]`, without a loss; the reference model's pass.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers too short, [`Error::Driver`].
    pub fn logps<T: Logit>(&mut self, logits: &impl DevicePtr<T>, labels: DeviceLabels<'_>) -> Result<()> {
        self.launch_forward(logits, labels, None)
    }

    /// `logps` and `pair_loss`: log-probs, then `loss` over the pairs, against `ref_logps` `[S]` or none.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers of the wrong length, [`Error::Value`] for a batch without pairs,
    /// [`Error::Driver`].
    pub fn forward<T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: DeviceLabels<'_>,
        ref_logps: Option<&CudaSlice<f32>>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.forward_with(logits, labels, &PairSlices { ref_logps, ..PairSlices::default() }, loss)
    }

    /// [`forward`](Self::forward) with everything that `pair_loss` can be given.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward); [`Error::Value`] for what the loss has no use for, and
    /// [`Error::Missing`] for what it needs.
    pub fn forward_with<T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: DeviceLabels<'_>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.with_inputs(inputs, |buffers| self.launch_forward(logits, labels, Some((loss, buffers))))
    }

    fn launch_forward<T: Logit>(
        &self,
        logits: &impl DevicePtr<T>,
        labels: DeviceLabels<'_>,
        loss: Option<(&PairLoss, &PairBuffers)>,
    ) -> Result<()> {
        self.check_logits("logits", logits.len())?;
        let (address, _guard) = logits.device_ptr(&self.stream);
        self.with_labels(labels, |label_type, labels| {
            let inputs = Inputs { dtype: T::DTYPE, logits: address, label_type, labels };
            self.launch(&plan::forward(
                self.kernels.device(),
                &self.batch,
                &inputs,
                &self.out,
                loss,
                self.workspace,
            )?)
        })
    }

    /// [`forward_with`](Self::forward_with), and the gradient without its coefficients, into a buffer apart from the logits; with
    /// one read and one write of the logits. [`cpu::factored`](crate::cpu::factored) says what that is for;
    /// [`device_coef`](Self::device_coef) has the coefficients.
    ///
    /// # Errors
    ///
    /// Those of [`forward_with`](Self::forward_with); [`Error::Length`] that names `gradient`.
    pub fn factored<T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: DeviceLabels<'_>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
        gradient: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        self.check_logits("logits", logits.len())?;
        self.check_logits("gradient", gradient.len())?;
        let stream = self.stream.clone();
        let (from, _guard) = logits.device_ptr(&stream);
        let (to, _guard_mut) = gradient.device_ptr_mut(&stream);
        self.launch_factored::<T>(from, to, labels, inputs, loss)
    }

    /// [`factored`](Self::factored) over the logits themselves, which become the gradient.
    ///
    /// # Errors
    ///
    /// As [`factored`](Self::factored).
    pub fn factored_in_place<T: Logit>(
        &mut self,
        logits: &mut impl DevicePtrMut<T>,
        labels: DeviceLabels<'_>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.check_logits("logits", logits.len())?;
        let stream = self.stream.clone();
        let (address, _guard) = logits.device_ptr_mut(&stream);
        self.launch_factored::<T>(address, address, labels, inputs, loss)
    }

    fn launch_factored<T: Logit>(
        &mut self,
        logits: DeviceAddress,
        gradient: DeviceAddress,
        labels: DeviceLabels<'_>,
        inputs: &PairSlices<'_>,
        loss: &PairLoss,
    ) -> Result<()> {
        self.with_inputs(inputs, |buffers| {
            self.with_labels(labels, |label_type, labels| {
                let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels };
                let (device, loss) = (self.kernels.device(), Some((loss, buffers)));
                self.launch(&plan::factored(
                    device,
                    &self.batch,
                    &inputs,
                    &self.out,
                    loss,
                    gradient,
                    self.workspace,
                )?)
            })
        })
    }

    /// Hands `pair_loss`'s buffers to `f`, with the addresses of `inputs`, and keeps those for as long as it runs.
    fn with_inputs<R>(
        &self,
        inputs: &PairSlices<'_>,
        f: impl FnOnce(&PairBuffers) -> Result<R>,
    ) -> Result<R> {
        fn hold<'a, T>(
            guards: &RefCell<Vec<SyncOnDrop<'a>>>,
            slice: &'a CudaSlice<T>,
            stream: &'a CudaStream,
        ) -> DeviceArray {
            let (address, guard) = slice.device_ptr(stream);
            guards.borrow_mut().push(guard);
            DeviceArray { address, len: slice.len() }
        }
        let (stream, guards) = (&self.stream, RefCell::default());
        let inputs = inputs.try_map(
            |_, floats| Ok(hold(&guards, floats, stream)),
            |_, counts| Ok(hold(&guards, counts, stream)),
            |argument, number| {
                Error::check_len(argument, "[1]", 1, number.len())?;
                Ok(hold(&guards, number, stream).address)
            },
        )?;
        f(&PairBuffers { inputs, ..self.pairs })
    }

    /// `backward` into `dlogits`, a buffer apart from the logits: the gradient of the last [`forward`](Self::forward)'s
    /// loss, times `upstream` (a scalar on the device, or none) and `upstream_scale`.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for buffers too short, [`Error::Driver`].
    pub fn backward<T: Logit>(
        &mut self,
        logits: &impl DevicePtr<T>,
        labels: DeviceLabels<'_>,
        upstream: Option<&CudaSlice<f32>>,
        upstream_scale: f32,
        dlogits: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        self.check_logits("logits", logits.len())?;
        self.check_logits("dlogits", dlogits.len())?;
        let stream = self.stream.clone();
        let (from, _guard) = logits.device_ptr(&stream);
        let (to, _guard_mut) = dlogits.device_ptr_mut(&stream);
        self.launch_backward::<T>(from, to, labels, upstream, upstream_scale)
    }

    /// `backward` over the logits themselves, which become the gradient; otherwise as [`backward`](Self::backward).
    ///
    /// # Errors
    ///
    /// As [`backward`](Self::backward).
    pub fn backward_in_place<T: Logit>(
        &mut self,
        logits: &mut impl DevicePtrMut<T>,
        labels: DeviceLabels<'_>,
        upstream: Option<&CudaSlice<f32>>,
        upstream_scale: f32,
    ) -> Result<()> {
        self.check_logits("logits", logits.len())?;
        let stream = self.stream.clone();
        let (address, _guard) = logits.device_ptr_mut(&stream);
        self.launch_backward::<T>(address, address, labels, upstream, upstream_scale)
    }

    fn launch_backward<T: Logit>(
        &mut self,
        logits: DeviceAddress,
        dlogits: DeviceAddress,
        labels: DeviceLabels<'_>,
        upstream: Option<&CudaSlice<f32>>,
        upstream_scale: f32,
    ) -> Result<()> {
        let guarded = upstream.map(|slice| slice.device_ptr(&self.stream));
        let buffers = GradientBuffers {
            logsumexp: self.floats.logsumexp.device_ptr(&self.stream).0,
            logsumexp_residual: self.out.logsumexp_residual,
            coef: Some(self.pairs.coef),
            token_coef: if self.weighted { self.out.token_weights } else { None },
            threshold: self.threshold,
            nonfinite_row: Some(self.words.nonfinite_row.device_ptr(&self.stream).0),
            upstream: guarded.as_ref().map(|(address, _)| *address),
            upstream_scale,
            dlogits,
        };
        self.with_labels(labels, |label_type, labels| {
            let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels };
            self.launch(&plan::backward(self.kernels.device(), &self.batch, &inputs, &buffers)?)
        })
    }

    /// Hands the labels' type and address to `f`, and keeps them for as long as it runs.
    fn with_labels<R>(
        &self,
        labels: DeviceLabels<'_>,
        f: impl FnOnce(LabelType, DeviceAddress) -> Result<R>,
    ) -> Result<R> {
        let check = |found| Error::check_len("labels", "[rows]", self.batch.rows(), found);
        match labels {
            DeviceLabels::I32(slice) => {
                check(slice.len())?;
                let (address, _guard) = slice.device_ptr(&self.stream);
                f(LabelType::I32, address)
            }
            DeviceLabels::I64(slice) => {
                check(slice.len())?;
                let (address, _guard) = slice.device_ptr(&self.stream);
                f(LabelType::I64, address)
            }
        }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        driver("cuCtxSetCurrent", self.stream.context().bind_to_thread())?;
        // SAFETY: the plan was made for buffers of this value, all of the sizes that the batch asks for, and for
        // slices whose lengths were checked; all are on this stream, so a launch has them to itself.
        unsafe { self.kernels.launch(launch, self.stream.cu_stream()) }
    }

    fn check_logits(&self, argument: &'static str, found: usize) -> Result<()> {
        let expected = self.batch.logits_len();
        if found >= expected {
            return Ok(());
        }
        let shape = "[rows, vocab] of rows row_stride apart, or more";
        Err(Error::Length { argument, shape, expected, found })
    }

    /// `[S]` log-probs, on the device.
    pub fn device_logps(&self) -> &CudaSlice<f32> {
        &self.floats.logps
    }

    /// `[S]` coefficients c_s, on the device. Write your own here, and [`backward`](Self::backward) uses them.
    pub fn device_coef(&mut self) -> &mut CudaSlice<f32> {
        &mut self.floats.coef
    }

    /// `[rows]` factors of each token, on the device. A forward pass leaves the batch's weights here (1, or
    /// [`ld_alpha`](crate::Batch::ld_alpha), and 0 where nothing is scored); multiply them by your own after it, and
    /// every [`backward`](Self::backward) from now on uses what it finds.
    pub fn device_token_coef(&mut self) -> &mut CudaSlice<f32> {
        self.weighted = true;
        &mut self.floats.token_weights
    }

    /// `[S]` means of log p_y − log Σ p², on the device, after [`with_token_metrics`](Self::with_token_metrics): the
    /// logarithms of WPO's weights.
    pub fn device_sequence_log_weights(&self) -> Option<&CudaSlice<f32>> {
        self.floats.token_metrics.as_ref().map(|metrics| &metrics.sequence_log_weights)
    }

    /// `[5]`: loss, chosen reward, rejected reward, margin and accuracy, on the device.
    pub fn device_metrics(&self) -> CudaView<'_, f32> {
        let count = mem::size_of::<DpoPairMetrics>() / 4;
        self.device_batch_metrics(mem::offset_of!(DeviceBatchMetrics, pairs) / 4, count)
    }

    /// `[5]`: mean entropy, accuracy, logit, logsumexp and Σp² of the scored tokens, on the device, after
    /// [`with_token_metrics`](Self::with_token_metrics).
    pub fn device_token_means(&self) -> Option<CudaView<'_, f32>> {
        let first =
            mem::offset_of!(DeviceBatchMetrics, tokens) + mem::offset_of!(DpoMeanTokenMetrics, entropy);
        self.floats.token_metrics.as_ref().map(|_| self.device_batch_metrics(first / 4, 5))
    }

    fn device_batch_metrics(&self, first: usize, count: usize) -> CudaView<'_, f32> {
        // SAFETY: all metrics are numbers of 4 bytes, and those from `first` on are f32.
        let words = unsafe { self.batch_metrics.transmute::<f32>(mem::size_of::<DeviceBatchMetrics>() / 4) };
        words.expect("as many bytes").slice(first..first + count)
    }

    /// Waits for the stream and fetches what the last forward pass found of the batch as a whole, by one small copy: all
    /// that a training loop looks at in every step.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_metrics(&self) -> Result<BatchMetrics> {
        let batch_metrics = self.read(&self.batch_metrics)?[0];
        Ok(BatchMetrics {
            status: batch_metrics.status.into(),
            pairs: batch_metrics.pairs.into(),
            tokens: self.floats.token_metrics.as_ref().map(|_| batch_metrics.tokens.into()),
        })
    }

    /// Waits for the stream and copies `logps`' results to the host.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_logps(&self) -> Result<Logps<f32>> {
        let batch_metrics = self.read_metrics()?;
        let metrics = match (&self.floats.token_metrics, batch_metrics.tokens) {
            (Some(from), Some(means)) => Some(self.read_token_metrics(from, means)?),
            _ => None,
        };
        Ok(Logps {
            logps: self.read(&self.floats.logps)?,
            scored: self.read(&self.words.scored)?,
            token_logps: self.read(&self.floats.token_logps)?,
            logsumexp: self.read(&self.floats.logsumexp)?,
            logsumexp_residual: self.read(&self.floats.logsumexp_residual)?,
            token_weights: self.read(&self.floats.token_weights)?,
            metrics,
            status: batch_metrics.status,
        })
    }

    /// Waits for the stream and copies `pair_loss`'s results to the host.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_pairs(&self) -> Result<PairOutputs<f32>> {
        let pairs = self.batch.pair_count();
        let per_pair = |slice| {
            let mut values = self.read(slice)?;
            values.truncate(pairs);
            Ok::<_, Error>(values)
        };
        Ok(PairOutputs {
            metrics: self.read_metrics()?.pairs,
            pair_losses: per_pair(&self.floats.pair_losses)?,
            chosen_rewards: per_pair(&self.floats.chosen_rewards)?,
            rejected_rewards: per_pair(&self.floats.rejected_rewards)?,
            margins: per_pair(&self.floats.margins)?,
            coef: self.read(&self.floats.coef)?,
        })
    }

    /// Waits for the stream and fetches what the last forward pass found in its data.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn read_status(&self) -> Result<Status> {
        Ok(self.read_metrics()?.status)
    }

    fn read_token_metrics(
        &self,
        from: &TokenFloats,
        means: MeanTokenMetrics<f32>,
    ) -> Result<TokenMetrics<f32>> {
        Ok(TokenMetrics {
            entropy: self.read(&from.entropy)?,
            correct: self.read(&from.correct)?,
            mean_logit: self.read(&from.mean_logit)?,
            sum_p2: self.read(&from.sum_p2)?,
            sequence_log_weights: self.read(&from.sequence_log_weights)?,
            means,
        })
    }

    /// Waits for the stream and fetches what the backward passes found since the last time that this was asked.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn take_gradient_status(&mut self) -> Result<GradientStatus> {
        let row = self.read(&self.words.nonfinite_row)?[0];
        driver(
            "cuMemcpyHtoDAsync",
            self.stream.memcpy_htod(&[DPO_NO_TROUBLE], &mut self.words.nonfinite_row),
        )?;
        Ok(GradientStatus { nonfinite_row: (row != DPO_NO_TROUBLE).then_some(row as usize) })
    }

    fn read<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>> {
        driver("cuMemcpyDtoHAsync", self.stream.clone_dtoh(slice))
    }
}

impl From<DpoStatus> for Status {
    /// From the kernels' word to the host's.
    fn from(status: DpoStatus) -> Self {
        let [bad_label, nonfinite_row, empty_sequence, bad_cu_seqlens, bad_pair]: [_; DPO_TROUBLES as usize] =
            status.first.map(|index| (index != DPO_NO_TROUBLE).then_some(index as usize));
        Status { bad_label, nonfinite_row, empty_sequence, bad_cu_seqlens, bad_pair }
    }
}

impl From<DpoPairMetrics> for PairMetrics<f32> {
    /// From the kernels' words to the host's.
    fn from(metrics: DpoPairMetrics) -> Self {
        let DpoPairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy } = metrics;
        PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy }
    }
}

impl From<DpoMeanTokenMetrics> for MeanTokenMetrics<f32> {
    /// From the kernels' words to the host's.
    fn from(means: DpoMeanTokenMetrics) -> Self {
        let DpoMeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = means;
        MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 }
    }
}
