//! From shapes and addresses to launches: kernel, grid, block, argument struct. Pure; nothing here touches a device,
//! and no arithmetic about grids is anywhere else.
//!
//! The addresses are the caller's word: a plan checks that they are there, aligned and consistent, not what they
//! point to.

use std::mem::size_of;

use super::lowering::lower_loss;
use super::params::*;
use super::tuning::{FactoredPartition, Kernel, RowPartition, most_slices};
use crate::batch::{Batch, DType, IndexArray, LabelAlignment, LabelType, Pairs, Sequences};
use crate::error::{Error, Result};
use crate::gradient::{check_threshold, check_token_weights};
use crate::loss::{PairInputLens, PairLoss, PairTensors};

/// What plans depend on besides shapes: the device, and what the kernels loaded there can do.
///
/// [`Kernels::device`](super::Kernels::device) knows it; a plan for a device that is not there takes its data sheet's
/// figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Compute capability, (major, minor).
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, static and dynamic together, when it opts in; in bytes.
    pub shared_bytes_per_block: u32,
    /// Size of the L2 cache in bytes.
    pub l2_bytes: u32,
    /// Blocks that a cluster may have: [`MAX_CLUSTER`] where device and kernel images know clusters, otherwise 1.
    pub cluster_blocks: u32,
}

/// Blocks in a cluster that every device with clusters allows.
pub const MAX_CLUSTER: u32 = 8;

/// An address in device memory (`CUdeviceptr`).
pub type DeviceAddress = u64;

/// An array in device memory, of 4-byte elements: indices are i32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceArray {
    /// Where it starts.
    pub address: DeviceAddress,
    /// Number of elements.
    pub len: usize,
}

impl IndexArray for DeviceArray {
    fn count(&self) -> usize {
        self.len
    }
}

/// A batch whose index arrays are in device memory.
///
/// Their entries are checked by the kernels, and trouble is reported in the status.
pub type DeviceBatch = Batch<DeviceArray>;

/// What `logps` and `backward` read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// Element type of the logits.
    pub dtype: DType,
    /// `[rows, vocab]`, aligned to the element type.
    pub logits: DeviceAddress,
    /// Element type of the labels.
    pub label_type: LabelType,
    /// `[rows]`, aligned to the element type.
    pub labels: DeviceAddress,
}

/// Where `logps` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogpsBuffers {
    /// `[S]` f32.
    pub logps: DeviceAddress,
    /// `[S]` u32: numbers of scored rows.
    pub scored: Option<DeviceAddress>,
    /// `[rows]` f32.
    pub token_logps: Option<DeviceAddress>,
    /// `[rows]` f32; needed by `backward`.
    pub logsumexp: Option<DeviceAddress>,
    /// `[rows]` f32; makes `backward` exact where |logsumexp| is large.
    pub logsumexp_residual: Option<DeviceAddress>,
    /// `[rows]` f32: what each token counts in its sequence's sum; needed by `backward` where the batch has an
    /// [`ld_alpha`](Batch::ld_alpha).
    pub token_weights: Option<DeviceAddress>,
    /// Metrics of each token.
    pub metrics: TokenMetricsBuffers,
    /// One [`DpoStatus`].
    pub status: DeviceAddress,
}

/// [`PairTensors`] in device memory: f32, lengths u32.
///
/// Only the kernels see the values. One that the host would refuse (β of 0, a NaN weight, ε out of its range) gives
/// NaN in its pair's loss and coefficients, or, of the normaliser, in all of them.
pub type DevicePairInputs = PairTensors<DeviceArray, DeviceArray, DeviceAddress>;

/// Where [`TokenMetrics`](crate::TokenMetrics) go: what is left out costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenMetricsBuffers {
    /// `[rows]` f32.
    pub entropy: Option<DeviceAddress>,
    /// `[rows]` f32: 1 or 0.
    pub correct: Option<DeviceAddress>,
    /// `[rows]` f32.
    pub mean_logit: Option<DeviceAddress>,
    /// `[rows]` f32.
    pub sum_p2: Option<DeviceAddress>,
    /// `[S]` f32.
    pub sequence_log_weights: Option<DeviceAddress>,
    /// One [`DpoMeanTokenMetrics`].
    pub means: Option<DeviceAddress>,
}

/// What `pair_loss` reads besides log-probs, and where it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairBuffers {
    /// What there is.
    pub inputs: DevicePairInputs,
    /// `[N]` f32.
    pub pair_losses: DeviceAddress,
    /// `[N]` f32.
    pub chosen_rewards: DeviceAddress,
    /// `[N]` f32.
    pub rejected_rewards: DeviceAddress,
    /// `[N]` f32.
    pub margins: DeviceAddress,
    /// `[S]` f32.
    pub coef: DeviceAddress,
    /// One [`DpoPairMetrics`]; the loss is its first field.
    pub metrics: DeviceAddress,
}

/// What `backward` reads besides logits and labels, and where it writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientBuffers {
    /// `[rows]` f32, of `logps`.
    pub logsumexp: DeviceAddress,
    /// `[rows]` f32, of `logps`.
    pub logsumexp_residual: Option<DeviceAddress>,
    /// `[S]` f32: ∂loss/∂logp of each sequence; `None` is 1.
    pub coef: Option<DeviceAddress>,
    /// `[rows]` f32: a factor of each token; `None` is 1. `logps`' token weights where the batch has an
    /// [`ld_alpha`](Batch::ld_alpha), times the caller's own factors if there are any.
    pub token_coef: Option<DeviceAddress>,
    /// One f32 that multiplies every coefficient: the upstream gradient, where the device knows it.
    pub upstream: Option<DeviceAddress>,
    /// The same where the host knows it; both multiply.
    pub upstream_scale: f32,
    /// Rows whose coefficient is no larger than this are zeros, and not read: [`Coef::threshold`](crate::Coef::threshold).
    pub threshold: f32,
    /// One u32, lowered to the first row whose gradient holds an infinity or a NaN. Set it to
    /// [`DPO_NO_TROUBLE`] before; any number of launches may share it, such as those
    /// between two steps of an optimizer.
    pub nonfinite_row: Option<DeviceAddress>,
    /// `[rows, vocab]` in the logits' type and stride: the logits buffer itself, or one apart from it.
    pub dlogits: DeviceAddress,
}

/// The argument struct of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arguments {
    /// `logps` and `pair_loss`.
    Forward(DpoForward),
    /// `pair_loss` alone.
    PairLoss(DpoPairLossAlone),
    /// `backward`.
    Backward(DpoBackward),
    /// `logps` and `pair_loss` and the gradient without its coefficients.
    Factored(DpoFactored),
}

impl Arguments {
    /// The struct's bytes, as the kernel's one parameter.
    pub fn as_bytes(&self) -> &[u8] {
        fn bytes<T>(value: &T) -> &[u8] {
            // SAFETY: the argument structs are plain C structs; padding, if any, is at worst copied.
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
        }
        match self {
            Arguments::Forward(params) => bytes(params),
            Arguments::PairLoss(params) => bytes(params),
            Arguments::Backward(params) => bytes(params),
            Arguments::Factored(params) => bytes(params),
        }
    }
}

/// One kernel launch. Grids, clusters and blocks are one-dimensional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch {
    /// Image that holds the kernel.
    pub unit: &'static str,
    /// Entry point.
    pub kernel: &'static str,
    /// Blocks, a multiple of `cluster`.
    pub grid: u32,
    /// Blocks of a cluster; 1 without clusters.
    pub cluster: u32,
    /// Threads per block, a multiple of 32.
    pub block: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's one parameter.
    pub arguments: Arguments,
}

/// Every (unit, entry point), in the order in which they are loaded.
pub const KERNELS: [(&str, &str); 16] = [
    ("forward", "dpo_forward_f32"),
    ("forward", "dpo_forward_f16"),
    ("forward", "dpo_forward_bf16"),
    ("forward", "dpo_forward_figured_f32"),
    ("forward", "dpo_forward_figured_f16"),
    ("forward", "dpo_forward_figured_bf16"),
    ("pair_loss", "dpo_pair_loss"),
    ("backward", "dpo_backward_f32"),
    ("backward", "dpo_backward_f16"),
    ("backward", "dpo_backward_bf16"),
    ("backward", "dpo_backward_transformed_f32"),
    ("backward", "dpo_backward_transformed_f16"),
    ("backward", "dpo_backward_transformed_bf16"),
    ("factored", "dpo_factored_f32"),
    ("factored", "dpo_factored_f16"),
    ("factored", "dpo_factored_bf16"),
];

/// Blocks of a grid at most.
const MAX_GRID: u32 = i32::MAX as u32;

/// Threads of the single block of `pair_loss` alone.
pub const PAIR_LOSS_THREADS: u32 = 512;

/// The workspace of a forward launch: completion counters first, then what the caller did not ask for but the kernel
/// needs to pass on between blocks.
struct Workspace {
    sequence_rows_done: u64,
    row_slices_done: u64,
    token_logps: u64,
    scored: u64,
    /// Metrics of rows that are summed: logsumexp and those of [`TokenMetricsBuffers`], `[rows]` each.
    summed: [u64; 5],
    slice_sums: u64,
    /// Its elements are aligned to 8, to which the workspace need not be.
    token_sums: u64,
    bytes: u64,
}

impl Workspace {
    fn of<A: IndexArray>(batch: &Batch<A>) -> Self {
        let (rows, sequences) = (batch.rows() as u64, batch.sequences.count() as u64);
        let sequence_rows_done = size_of::<DpoProgress>() as u64;
        let row_slices_done = sequence_rows_done + 4 * sequences;
        let token_logps = row_slices_done + 4 * rows;
        let scored = token_logps + 4 * rows;
        let summed = [0, 1, 2, 3, 4].map(|metric| scored + 4 * sequences + 4 * rows * metric);
        let slice_sums = summed[4] + 4 * rows;
        // Rows of one slice leave nothing there.
        let sums = match u64::from(most_slices(batch.columns())) {
            1 => 0,
            slices => rows * slices,
        };
        let token_sums = slice_sums + size_of::<DpoSliceSum>() as u64 * sums;
        let bytes = token_sums + 4 + size_of::<DpoTokenMetricSums>() as u64 * sequences;
        Workspace {
            sequence_rows_done,
            row_slices_done,
            token_logps,
            scored,
            summed,
            slice_sums,
            token_sums,
            bytes,
        }
    }
}

/// Bytes of workspace that [`forward`] needs, aligned to 4: enough on any device and for any dtype.
///
/// Zero it once, after allocation; every launch leaves it ready for the next, so a captured graph replays.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`].
pub fn workspace_bytes<A: IndexArray>(batch: &Batch<A>) -> Result<usize> {
    batch.validate_shape()?;
    Ok(Workspace::of(batch).bytes as usize)
}

/// `logps` and `pair_loss` in one launch; without `loss`, `logps` alone.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`]; [`Error::Value`] for a null or misaligned address, and for a loss over a batch
/// without pairs that it needs; [`Error::Missing`] for what it needs of [`DevicePairInputs`].
pub fn forward(
    device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    out: &LogpsBuffers,
    loss: Option<(&PairLoss, &PairBuffers)>,
    workspace: DeviceAddress,
) -> Result<Launch> {
    let kernel_batch = kernel_batch(batch, inputs)?;
    let partition = RowPartition::of(Kernel::Forward, device.capability, inputs.dtype, batch.columns());
    let params = forward_params(kernel_batch, batch, inputs, out, loss, &partition, workspace)?;
    let metrics = !batch.transform.is_identity() || out.metrics != TokenMetricsBuffers::default();
    Ok(Launch {
        unit: "forward",
        kernel: match (inputs.dtype, metrics) {
            (DType::F32, false) => "dpo_forward_f32",
            (DType::F16, false) => "dpo_forward_f16",
            (DType::BF16, false) => "dpo_forward_bf16",
            (DType::F32, true) => "dpo_forward_figured_f32",
            (DType::F16, true) => "dpo_forward_figured_f16",
            (DType::BF16, true) => "dpo_forward_figured_bf16",
        },
        grid: grid(&partition, params.batch.rows)?,
        cluster: 1,
        block: partition.threads,
        shared_bytes: 0,
        arguments: Arguments::Forward(params),
    })
}

/// [`forward`], and the gradient without its coefficients, in one launch: the logits are read once, and written once.
///
/// ```text
/// gradient[r, v] = 1[v = y_r] − softmax(z[r])[v]        dlogits[r, v] = c · gradient[r, v],   c = coef[s] · upstream
/// ```
///
/// `gradient` is `[rows, vocab]` in the logits' type and stride: the logits buffer itself, or one apart from it. Rows
/// that are not scored become 0, rows that `logps` cannot score NaN. [`cpu::factored`](crate::cpu::factored) says what
/// it is for.
///
/// A row is cut otherwise than by [`forward`], so log-probs may differ from its in the last bits. Where bits matter
/// (a cached reference that is to equal the policy at step 0), take both from the same pass.
///
/// # Errors
///
/// Those of [`forward`]; [`Error::Value`] for a gradient buffer that overlaps the logits without being the same, for a
/// batch with a [`transform`](crate::Batch::transform) and for token metrics, which only the other passes know.
pub fn factored(
    device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    out: &LogpsBuffers,
    loss: Option<(&PairLoss, &PairBuffers)>,
    gradient: DeviceAddress,
    workspace: DeviceAddress,
) -> Result<Launch> {
    let kernel_batch = kernel_batch(batch, inputs)?;
    batch.check_factored(out.metrics != TokenMetricsBuffers::default())?;
    let factored = FactoredPartition::of(device, inputs.dtype, batch.vocab);
    let partition = &factored.rows;
    let forward = forward_params(kernel_batch, batch, inputs, out, loss, partition, workspace)?;
    let gradient = address("gradient", inputs.dtype.size(), gradient)?;
    batch.check_gradient("gradient", inputs.dtype, forward.logits, gradient)?;
    Ok(Launch {
        unit: "factored",
        kernel: match inputs.dtype {
            DType::F32 => "dpo_factored_f32",
            DType::F16 => "dpo_factored_f16",
            DType::BF16 => "dpo_factored_bf16",
        },
        grid: grid(partition, forward.batch.rows)?,
        cluster: partition.params.blocks_per_row,
        block: partition.threads,
        shared_bytes: factored.shared_bytes(),
        arguments: Arguments::Factored(DpoFactored {
            forward,
            gradient,
            kept_vectors: factored.kept_vectors,
        }),
    })
}

/// `pair_loss` alone, on log-probs that are already there.
///
/// `scored`, `[S]` u32, is the numbers of scored rows from `logps`: what a length-normalised loss divides by unless it is given
/// lengths, and what is counted where tokens are.
///
/// # Errors
///
/// [`Error::Missing`] for a loss that needs them; otherwise as [`forward`].
pub fn pair_loss(
    pairs: &Pairs<DeviceArray>,
    sequences: usize,
    logps: DeviceAddress,
    scored: Option<DeviceAddress>,
    loss: &PairLoss,
    buffers: &PairBuffers,
    status: DeviceAddress,
) -> Result<Launch> {
    // One row a sequence: the shape checks of a batch, without its rows.
    let shape = Batch { pairs: *pairs, ..Batch::padded(sequences, 1, 1) };
    shape.validate_shape()?;
    loss.check_inputs(pairs, sequences, &input_lens(buffers), scored.map(|_| sequences))?;
    let params = DpoPairLossAlone {
        logps: address("logps", 4, logps)?,
        scored: optional("scored", scored)?.unwrap_or(0),
        status: address("status", 4, status)?,
        loss: kernel_loss(pairs, sequences, loss, buffers)?,
        sequences: sequences as u32,
    };
    Ok(Launch {
        unit: "pair_loss",
        kernel: "dpo_pair_loss",
        grid: 1,
        cluster: 1,
        block: PAIR_LOSS_THREADS,
        shared_bytes: 0,
        arguments: Arguments::PairLoss(params),
    })
}

/// `backward` in one launch.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`]; [`Error::Value`] for a null or misaligned address, for a threshold that is not
/// finite or below 0, and for a gradient buffer that overlaps the logits without being the same; [`Error::Missing`] for
/// `token_coef` where the batch has an [`ld_alpha`](Batch::ld_alpha).
pub fn backward(
    device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    buffers: &GradientBuffers,
) -> Result<Launch> {
    let kernel_batch = kernel_batch(batch, inputs)?;
    let partition = RowPartition::of(Kernel::Backward, device.capability, inputs.dtype, batch.columns());
    let logits = address("logits", inputs.dtype.size(), inputs.logits)?;
    let dlogits = address("dlogits", inputs.dtype.size(), buffers.dlogits)?;
    batch.check_gradient("dlogits", inputs.dtype, logits, dlogits)?;
    check_token_weights(batch, buffers.token_coef.is_some())?;
    check_threshold(buffers.threshold.into())?;
    let params = DpoBackward {
        batch: kernel_batch,
        partition: partition.params,
        logits,
        dlogits,
        logsumexp: address("logsumexp", 4, buffers.logsumexp)?,
        logsumexp_residual: optional("logsumexp_residual", buffers.logsumexp_residual)?.unwrap_or(0),
        coef: optional("coef", buffers.coef)?.unwrap_or(0),
        token_coef: optional("token_coef", buffers.token_coef)?.unwrap_or(0),
        upstream: optional("upstream", buffers.upstream)?.unwrap_or(0),
        nonfinite_row: optional("nonfinite_row", buffers.nonfinite_row)?.unwrap_or(0),
        upstream_scale: buffers.upstream_scale,
        threshold: buffers.threshold,
    };
    Ok(Launch {
        unit: "backward",
        kernel: match (inputs.dtype, batch.transform.is_identity()) {
            (DType::F32, true) => "dpo_backward_f32",
            (DType::F16, true) => "dpo_backward_f16",
            (DType::BF16, true) => "dpo_backward_bf16",
            (DType::F32, false) => "dpo_backward_transformed_f32",
            (DType::F16, false) => "dpo_backward_transformed_f16",
            (DType::BF16, false) => "dpo_backward_transformed_bf16",
        },
        grid: grid(&partition, kernel_batch.rows)?,
        cluster: 1,
        block: partition.threads,
        shared_bytes: 0,
        arguments: Arguments::Backward(params),
    })
}

/// What `logps` and `pair_loss` are told.
fn forward_params(
    kernel_batch: DpoBatch,
    batch: &DeviceBatch,
    inputs: &Inputs,
    out: &LogpsBuffers,
    loss: Option<(&PairLoss, &PairBuffers)>,
    partition: &RowPartition,
    workspace: DeviceAddress,
) -> Result<DpoForward> {
    let sequences = batch.sequences.count();
    let offsets = Workspace::of(batch);
    let workspace = address("workspace", 4, workspace)?;
    let kernel_loss = match loss {
        Some((loss, buffers)) => {
            // The kernel counts the scored rows itself.
            loss.check_inputs(&batch.pairs, sequences, &input_lens(buffers), Some(sequences))?;
            kernel_loss(&batch.pairs, sequences, loss, buffers)?
        }
        None => DpoPairLoss::default(),
    };
    let (logsumexp, metrics) = token_metrics(out, workspace, &offsets)?;
    Ok(DpoForward {
        batch: kernel_batch,
        partition: partition.params,
        logits: address("logits", inputs.dtype.size(), inputs.logits)?,
        token_logps: optional("token_logps", out.token_logps)?.unwrap_or(workspace + offsets.token_logps),
        logsumexp,
        logsumexp_residual: optional("logsumexp_residual", out.logsumexp_residual)?.unwrap_or(0),
        logps: address("logps", 4, out.logps)?,
        scored: optional("scored", out.scored)?.unwrap_or(workspace + offsets.scored),
        sequence_rows_done: workspace + offsets.sequence_rows_done,
        row_slices_done: workspace + offsets.row_slices_done,
        slice_sums: workspace + offsets.slice_sums,
        progress: workspace,
        status: address("status", 4, out.status)?,
        token_weights: optional("token_weights", out.token_weights)?.unwrap_or(0),
        metrics,
        loss: kernel_loss,
        ld_alpha: batch.ld_alpha,
        partner_layout: match batch.pairs {
            Pairs::Interleaved => DPO_PAIRS_INTERLEAVED,
            _ => DPO_PAIRS_CONCATENATED,
        },
    })
}

/// Blocks for a number of rows.
fn grid(partition: &RowPartition, rows: u32) -> Result<u32> {
    let blocks = partition.blocks(rows);
    u32::try_from(blocks).ok().filter(|&blocks| blocks <= MAX_GRID).ok_or_else(|| {
        let expected = format!("rows that fill at most {MAX_GRID} blocks");
        Error::value("rows", expected, format!("{rows} rows in {blocks} blocks"))
    })
}

/// Where logsumexp and token metrics go: where they are summed, into the workspace at least.
fn token_metrics(
    out: &LogpsBuffers,
    workspace: DeviceAddress,
    offsets: &Workspace,
) -> Result<(DeviceAddress, DpoTokenMetrics)> {
    let asked = &out.metrics;
    let sums = asked.means.is_some() || asked.sequence_log_weights.is_some();
    let place = |argument, given| Ok::<_, Error>(optional(argument, given)?.unwrap_or(0));
    let [logsumexp, entropy, correct, mean_logit, sum_p2] =
        offsets.summed.map(|offset| if sums { workspace + offset } else { 0 });
    let row = |argument, given, otherwise| Ok::<_, Error>(optional(argument, given)?.unwrap_or(otherwise));
    let metrics = DpoTokenMetrics {
        entropy: row("entropy", asked.entropy, entropy)?,
        correct: row("correct", asked.correct, correct)?,
        mean_logit: row("mean_logit", asked.mean_logit, mean_logit)?,
        sum_p2: row("sum_p2", asked.sum_p2, sum_p2)?,
        sums: if sums { (workspace + offsets.token_sums).next_multiple_of(8) } else { 0 },
        sequence_log_weights: place("sequence_log_weights", asked.sequence_log_weights)?,
        means: place("means", asked.means)?,
    };
    Ok((row("logsumexp", out.logsumexp, logsumexp)?, metrics))
}

/// A checked batch in the kernels' terms. Counts fit: `validate_shape` bounds them by 2³¹.
fn kernel_batch(batch: &DeviceBatch, inputs: &Inputs) -> Result<DpoBatch> {
    batch.validate_shape()?;
    let label_bytes = match inputs.label_type {
        LabelType::I32 => 4,
        LabelType::I64 => 8,
    };
    let (cu_seqlens, sequence_len) = match batch.sequences {
        Sequences::Padded { len, .. } => (0, len as u32),
        Sequences::Packed { cu_seqlens, .. } => (address("cu_seqlens", 4, cu_seqlens.address)?, 0),
    };
    Ok(DpoBatch {
        labels: address("labels", label_bytes, inputs.labels)?,
        cu_seqlens,
        row_stride: batch.row_stride as i64,
        ignore_index: batch.ignore_index,
        rows: batch.rows() as u32,
        vocab: batch.vocab as u32,
        columns: batch.columns() as u32,
        sequences: batch.sequences.count() as u32,
        sequence_len,
        label_bytes: label_bytes as u32,
        next_token: u32::from(batch.label_alignment == LabelAlignment::NextToken),
        scale: batch.transform.scale,
        softcap: batch.transform.softcap.unwrap_or(0.0),
        softcap_power: batch.transform.softcap.map_or(0.0, |cap| {
            let power = 2.0 * std::f64::consts::LOG2_E * f64::from(batch.transform.scale) / f64::from(cap);
            power as f32
        }),
    })
}

fn input_lens(buffers: &PairBuffers) -> PairInputLens {
    buffers.inputs.map(|floats| floats.len, |counts| counts.len, |_| ())
}

fn kernel_loss(
    pairs: &Pairs<DeviceArray>,
    sequences: usize,
    loss: &PairLoss,
    buffers: &PairBuffers,
) -> Result<DpoPairLoss> {
    let count = pairs.count(sequences);
    let (pair_layout, chosen, rejected): (DpoPairLayout, _, _) = match pairs {
        Pairs::None | Pairs::Concatenated => (DPO_PAIRS_CONCATENATED, 0, 0),
        Pairs::Interleaved => (DPO_PAIRS_INTERLEAVED, 0, 0),
        Pairs::Indexed { chosen, rejected } => (
            DPO_PAIRS_INDEXED,
            address("chosen", 4, chosen.address)?,
            address("rejected", 4, rejected.address)?,
        ),
        Pairs::Unpaired { desirable } => (DPO_PAIRS_UNPAIRED, address("desirable", 4, desirable.address)?, 0),
    };
    let array = |argument, array: DeviceArray| address(argument, 4, array.address);
    let inputs = buffers.inputs.try_map(array, array, |argument, number| address(argument, 4, number))?;
    Ok(DpoPairLoss {
        ref_logps: inputs.ref_logps.unwrap_or(0),
        chosen,
        rejected,
        lengths: inputs.lengths.unwrap_or(0),
        betas: inputs.beta.unwrap_or(0),
        gammas: inputs.gamma.unwrap_or(0),
        weights: inputs.weight.unwrap_or(0),
        label_smoothings: inputs.label_smoothing.unwrap_or(0),
        sequence_log_weights: inputs.sequence_log_weights.unwrap_or(0),
        kl_logps: inputs.kl_logps.unwrap_or(0),
        kl_ref_logps: inputs.kl_ref_logps.unwrap_or(0),
        device_normalizer: inputs.normalizer.unwrap_or(0),
        chosen_tokens: inputs.chosen_tokens.unwrap_or(0),
        pair_losses: address("pair_losses", 4, buffers.pair_losses)?,
        chosen_rewards: address("chosen_rewards", 4, buffers.chosen_rewards)?,
        rejected_rewards: address("rejected_rewards", 4, buffers.rejected_rewards)?,
        margins: address("margins", 4, buffers.margins)?,
        coef: address("coef", 4, buffers.coef)?,
        metrics: address("metrics", 4, buffers.metrics)?,
        pairs: count as u32,
        pair_layout,
        kl_count: buffers.inputs.kl_logps.map_or(0, |array| array.len as u32),
        ..lower_loss(loss, count)?
    })
}

fn address(argument: &'static str, alignment: usize, address: DeviceAddress) -> Result<DeviceAddress> {
    if address != 0 && address.is_multiple_of(alignment as u64) {
        Ok(address)
    } else {
        let expected = format!("a device address aligned to {alignment} bytes");
        Err(Error::value(argument, expected, format!("{address:#x}")))
    }
}

/// Optional buffers all hold 4-byte elements.
fn optional(argument: &'static str, given: Option<DeviceAddress>) -> Result<Option<DeviceAddress>> {
    given.map(|given| address(argument, 4, given)).transpose()
}
