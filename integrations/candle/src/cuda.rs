//! The operation on CUDA storage: launches on candle's own stream, and the host waits for nothing.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Error, Layout, Result, Shape, Storage, Tensor,
};
use dpo_kernels::batch::{MeanTokenMetrics, PairMetrics, Status};
use dpo_kernels::cuda::Kernels;
use dpo_kernels::cuda::params::{DpoMeanTokenMetrics, DpoPairMetrics, DpoStatus};
use dpo_kernels::cuda::plan::{
    self, DeviceAddress, DeviceArray, DeviceBatch, GradientBuffers, Inputs, Launch, LogpsBuffers,
    PairBuffers, TokenMetricsBuffers,
};
use dpo_kernels::{LabelType, PairLoss};

use crate::inputs::PairInputs;
use crate::output::{BatchMetrics, DpoOutput, Means, TokenMetrics};
use crate::rows::Rows;
use crate::targets::Targets;

/// Number of 4-byte elements of a struct that a kernel writes.
const fn words<T>() -> usize {
    size_of::<T>() / 4
}

/// Log-probs of the sequences, and metrics of the tokens where they are asked for.
pub(crate) fn logps(
    device: &CudaDevice,
    rows: &Rows,
    targets: &Targets,
) -> Result<(Tensor, Option<TokenMetrics>)> {
    let batch = device_batch(rows, targets)?;
    let batch = DeviceBatch { pairs: targets.pairs_of_logps(batch.pairs), ..batch };
    let logps = zeros(rows, batch.sequences.count(), DType::F32)?;
    let status = zeros(rows, words::<DpoStatus>(), DType::U32)?;
    let metrics = token_metrics(rows, targets)?;
    let out = LogpsBuffers {
        logps: address(&logps)?,
        metrics: token_metrics_buffers(&metrics)?,
        status: address(&status)?,
        ..LogpsBuffers::default()
    };
    forward(device, rows, targets, &batch, &out, None)?;
    Ok((logps, metrics))
}

pub(crate) fn dpo_loss(
    device: &CudaDevice,
    rows: &Rows,
    targets: &Targets,
    inputs: &PairInputs,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let batch = device_batch(rows, targets)?;
    let per_row = || zeros(rows, batch.rows(), DType::F32);
    let per_sequence = || zeros(rows, batch.sequences.count(), DType::F32);
    let per_pair = || zeros(rows, batch.pair_count(), DType::F32);
    let (logsumexp, logsumexp_residual) = (per_row()?, per_row()?);
    let (logps, coef) = (per_sequence()?, per_sequence()?);
    let (pair_losses, margins) = (per_pair()?, per_pair()?);
    let (chosen_rewards, rejected_rewards) = (per_pair()?, per_pair()?);
    let metrics = zeros(rows, words::<DpoPairMetrics>(), DType::F32)?;
    let status = zeros(rows, words::<DpoStatus>(), DType::U32)?;
    let token_metrics = token_metrics(rows, targets)?;
    let token_weights = (batch.ld_alpha != 1.0).then(per_row).transpose()?;

    let out = LogpsBuffers {
        logps: address(&logps)?,
        logsumexp: Some(address(&logsumexp)?),
        logsumexp_residual: Some(address(&logsumexp_residual)?),
        token_weights: optional(&token_weights)?,
        metrics: token_metrics_buffers(&token_metrics)?,
        status: address(&status)?,
        ..LogpsBuffers::default()
    };
    let pairs = PairBuffers {
        inputs: inputs.as_ref().try_map(|_, t| array(t), |_, t| array(t), |_, t| address(t))?,
        pair_losses: address(&pair_losses)?,
        chosen_rewards: address(&chosen_rewards)?,
        rejected_rewards: address(&rejected_rewards)?,
        margins: address(&margins)?,
        coef: address(&coef)?,
        metrics: address(&metrics)?,
    };
    forward(device, rows, targets, &batch, &out, Some((loss, &pairs)))?;

    let node = DpoLoss {
        targets: targets.clone(),
        batch,
        logsumexp,
        logsumexp_residual,
        token_weights,
        coef: coef.clone(),
        metrics: metrics.clone(),
    };
    Ok(DpoOutput {
        loss: rows.logits.apply_op1(node)?,
        pair_losses,
        chosen_rewards,
        rejected_rewards,
        margins,
        logps,
        coef,
        token_metrics,
        batch_metrics: BatchMetrics::Device { metrics, status },
    })
}

/// Tensors for the metrics of the tokens, where they are asked for.
fn token_metrics(rows: &Rows, targets: &Targets) -> Result<Option<TokenMetrics>> {
    if !targets.token_metrics {
        return Ok(None);
    }
    let of_tokens = || Tensor::zeros(targets.labels.shape(), DType::F32, rows.logits.device());
    Ok(Some(TokenMetrics {
        entropy: of_tokens()?,
        correct: of_tokens()?,
        mean_logit: of_tokens()?,
        sum_p2: of_tokens()?,
        sequence_log_weights: zeros(rows, targets.sequences(), DType::F32)?,
        means: Means::Device(zeros(rows, words::<DpoMeanTokenMetrics>(), DType::U32)?),
    }))
}

fn token_metrics_buffers(metrics: &Option<TokenMetrics>) -> Result<TokenMetricsBuffers> {
    let Some(metrics) = metrics else { return Ok(TokenMetricsBuffers::default()) };
    let Means::Device(means) = &metrics.means else { unreachable!("made for logits on a GPU") };
    Ok(TokenMetricsBuffers {
        entropy: Some(address(&metrics.entropy)?),
        correct: Some(address(&metrics.correct)?),
        mean_logit: Some(address(&metrics.mean_logit)?),
        sum_p2: Some(address(&metrics.sum_p2)?),
        sequence_log_weights: Some(address(&metrics.sequence_log_weights)?),
        means: Some(address(means)?),
    })
}

fn array(tensor: &Tensor) -> Result<DeviceArray> {
    Ok(DeviceArray { address: address(tensor)?, len: tensor.elem_count() })
}

fn optional(tensor: &Option<Tensor>) -> Result<Option<DeviceAddress>> {
    tensor.as_ref().map(address).transpose()
}

/// The loss as a node of candle's graph, as on the CPU; its forward pass has been queued.
struct DpoLoss {
    /// Keeps alive what `batch` points to.
    targets: Targets,
    batch: DeviceBatch,
    logsumexp: Tensor,
    logsumexp_residual: Tensor,
    token_weights: Option<Tensor>,
    coef: Tensor,
    /// The loss is the first of them.
    metrics: Tensor,
}

impl CustomOp1 for DpoLoss {
    fn name(&self) -> &'static str {
        "dpo-loss"
    }

    fn cpu_fwd(&self, _logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        unreachable!("made for logits on a GPU")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = logits.device.clone();
        let (metrics, _) = self.metrics.storage_and_layout();
        let metrics = cuda_storage(&metrics).as_cuda_slice::<f32>()?;
        let mut loss = device.alloc_zeros::<f32>(1)?;
        device.memcpy_dtod(&metrics.slice(..1), &mut loss)?;
        Ok((CudaStorage::wrap_cuda_slice(loss, device), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let (_, outer) = logits.dims().split_last().expect("logits have a vocabulary");
        let shape = [outer, &[self.batch.row_stride]].concat();
        // SAFETY: the kernel fills the vocabulary's columns, and the others are cut off below.
        let dlogits = unsafe { Tensor::empty(shape, logits.dtype(), logits.device())? };
        let buffers = GradientBuffers {
            logsumexp: address(&self.logsumexp)?,
            logsumexp_residual: Some(address(&self.logsumexp_residual)?),
            coef: Some(address(&self.coef)?),
            token_coef: optional(&self.token_weights)?,
            upstream: Some(address(upstream)?),
            upstream_scale: 1.0,
            threshold: 0.0,
            nonfinite_row: None,
            dlogits: address(&dlogits)?,
        };
        let inputs = inputs(logits, &self.targets)?;
        let plan = |device: &_| plan::backward(device, &self.batch, &inputs, &buffers);
        // SAFETY: all tensors are live and of the sizes that the batch asks for; dlogits is this call's own.
        unsafe { launch_on(logits.device().as_cuda_device()?, plan)? };
        dlogits.narrow(outer.len(), 0, self.batch.vocab).map(Some)
    }
}

/// Queues `logps`, and `pair_loss` where there is a loss.
fn forward(
    device: &CudaDevice,
    rows: &Rows,
    targets: &Targets,
    batch: &DeviceBatch,
    out: &LogpsBuffers,
    loss: Option<(&PairLoss, &PairBuffers)>,
) -> Result<()> {
    let workspace = plan::workspace_bytes(batch).map_err(Error::wrap)?;
    let workspace = zeros(rows, workspace.div_ceil(4), DType::U32)?;
    let (inputs, workspace) = (inputs(&rows.logits, targets)?, address(&workspace)?);
    let plan = |device: &_| plan::forward(device, batch, &inputs, out, loss, workspace);
    // SAFETY: all tensors are live and of the sizes that the batch asks for; those written are the caller's own.
    unsafe { launch_on(device, plan) }
}

/// The batch with the addresses of its index tensors.
fn device_batch(rows: &Rows, targets: &Targets) -> Result<DeviceBatch> {
    let batch = targets.batch(rows.vocab, rows.stride, array)?;
    batch.validate_shape().map_err(Error::wrap)?;
    Ok(batch)
}

fn inputs(logits: &Tensor, targets: &Targets) -> Result<Inputs> {
    Ok(Inputs {
        dtype: match logits.dtype() {
            DType::F16 => dpo_kernels::DType::F16,
            DType::BF16 => dpo_kernels::DType::BF16,
            _ => dpo_kernels::DType::F32,
        },
        logits: address(logits)?,
        label_type: if targets.labels.dtype() == DType::I32 { LabelType::I32 } else { LabelType::I64 },
        labels: address(&targets.labels)?,
    })
}

/// A vector beside the logits.
fn zeros(rows: &Rows, len: usize, dtype: DType) -> Result<Tensor> {
    Tensor::zeros(len, dtype, rows.logits.device())
}

/// Where the first element of a tensor is.
///
/// A device of candle's has one stream, on which tensors are made, used and freed in turn; so nothing needs to hold
/// the tensor back until a launch on that stream has run.
fn address(tensor: &Tensor) -> Result<DeviceAddress> {
    let (storage, layout) = tensor.storage_and_layout();
    let storage = cuda_storage(&storage);
    let stream = storage.device.cuda_stream();
    let base = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::F16 => storage.as_cuda_slice::<half::f16>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        DType::I32 => storage.as_cuda_slice::<i32>()?.device_ptr(&stream).0,
        DType::I64 => storage.as_cuda_slice::<i64>()?.device_ptr(&stream).0,
        other => return Err(Error::UnsupportedDTypeForOp(other, "dpo-loss")),
    };
    Ok(base + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

fn cuda_storage(storage: &Storage) -> &CudaStorage {
    match storage {
        Storage::Cuda(storage) => storage,
        _ => unreachable!("all tensors are on the device of the logits"),
    }
}

/// Launches what `plan` makes for the device of the kernels, on the stream of `device`.
///
/// # Safety
///
/// That of [`Kernels::launch`], for tensors of `device`.
unsafe fn launch_on(
    device: &CudaDevice,
    plan: impl FnOnce(&plan::Device) -> dpo_kernels::Result<Launch>,
) -> Result<()> {
    let kernels = kernels(device)?;
    let launch = plan(kernels.device()).map_err(Error::wrap)?;
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    // SAFETY: the context was made current above and the stream belongs to it; the rest is the caller's promise.
    unsafe { kernels.launch(&launch, stream.cu_stream()) }.map_err(Error::wrap)
}

/// The kernels in the context of `device`, loaded once and kept.
fn kernels(device: &CudaDevice) -> Result<Arc<Kernels>> {
    static LOADED: LazyLock<Mutex<HashMap<usize, Arc<Kernels>>>> = LazyLock::new(Mutex::default);
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The kernels keep their context alive, so its handle stays unique.
    let key = context.cu_ctx() as usize;
    if let Some(kernels) = loaded.get(&key) {
        return Ok(kernels.clone());
    }
    let kernels = Arc::new(Kernels::new(context).map_err(Error::wrap)?);
    loaded.insert(key, kernels.clone());
    Ok(kernels)
}

/// PairMetrics in the order of [`DpoPairMetrics`].
pub(crate) fn read_metrics(metrics: &Tensor) -> Result<PairMetrics<f32>> {
    let values: Vec<f32> = metrics.to_vec1()?;
    let [loss, chosen_reward, rejected_reward, margin, accuracy] =
        values.try_into().expect("five metrics of a batch");
    Ok(PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy })
}

/// Means in the order of [`DpoMeanTokenMetrics`], whose first word is a number and the others are floats.
pub(crate) fn read_means(means: &Tensor) -> Result<MeanTokenMetrics<f32>> {
    let words: [u32; 6] = means.to_vec1()?.try_into().expect("six words");
    let [scored, floats @ ..] = words;
    let [entropy, accuracy, mean_logit, logsumexp, sum_p2] = floats.map(f32::from_bits);
    Ok(MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 })
}

pub(crate) fn read_status(status: &Tensor) -> Result<Status> {
    let first = status.to_vec1()?.try_into().expect("one word for each kind of trouble");
    Ok(DpoStatus { first }.into())
}
