//! `logps` and `pair_loss` in one launch.

use super::batch::{DeviceBatch, Inputs, kernel_batch, logits_address};
use super::launch::{Arguments, Launch, grid};
use super::loss_arguments::PairLossArguments;
use super::steps::Plan;
use super::workspace::{Places, Workspace};
use crate::cuda::address::{
    Check, DeviceAddress, KernelAddresses, LogpsBuffers, TokenMetricBuffers, address,
};
use crate::cuda::kernel::Kernel;
use crate::cuda::lowering::kernel_loss;
use crate::cuda::params::*;
use crate::cuda::properties::Device;
use crate::cuda::tuning::{RowPartition, RowPass};
use crate::error::Result;
use crate::pairs::Pairs;
use crate::results::{LogpsTensors, MetricsLevel};

/// `logps` and `pair_loss` in one launch, or in one for each [window](super::RowWindow) of the rows; without `loss`, `logps`
/// alone.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`]; [`Error::Value`] for a null or misaligned address, for a window
/// without rows or beyond the batch, for a loss over a batch without pairs that it needs, and for a batch
/// beyond the workspace's [`Capacity`]; [`Error::Missing`] for what the loss needs of [`DevicePairInputs`].
///
/// [`Batch::validate_shape`]: crate::Batch::validate_shape
/// [`Error::Value`]: crate::Error::Value
/// [`Capacity`]: super::Capacity
/// [`DevicePairInputs`]: super::DevicePairInputs
/// [`Error::Missing`]: crate::Error::Missing
pub fn forward(
    device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    out: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
    workspace: impl Into<Workspace>,
) -> Result<Plan> {
    let (kernel_batch, window) = kernel_batch(batch, inputs)?;
    let partition = RowPartition::of(RowPass::Forward, inputs.dtype, batch.columns())
        .for_rows(window.rows() as u32, device);
    let logits = logits_address(batch, inputs, window)?;
    let params = forward_params(kernel_batch, batch, logits, out, loss, &partition, workspace.into())?;
    Ok(Plan::of(Launch {
        kernel: Kernel::Forward {
            metrics: metrics_level(out),
            softcap: batch.transform.softcap.is_some(),
            dtype: inputs.dtype,
        },
        grid: grid(&partition, window)?,
        cluster: 1,
        block: partition.threads,
        shared_bytes: 0,
        arguments: Arguments::Forward(params),
    }))
}

/// The least level that has all that is wanted.
pub(super) fn metrics_level(out: &LogpsBuffers) -> MetricsLevel {
    let level = |metrics: &TokenMetricBuffers| metrics.level(Option::is_some, Option::is_some);
    out.metrics.as_ref().map_or(MetricsLevel::None, level)
}

/// What the forward kernels, and the forward half of the factored ones, are told.
pub(super) fn forward_params(
    kernel_batch: DpoBatch,
    batch: &DeviceBatch,
    logits: DeviceAddress,
    out: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
    partition: &RowPartition,
    workspace: Workspace,
) -> Result<DpoForward> {
    let sequences = batch.sequences.count();
    let workspace = workspace.places(batch)?;
    // The kernel counts the scored rows itself.
    let loss = loss.map(|loss| kernel_loss(&batch.pairs, sequences, loss, Some(sequences)));
    let out: LogpsTensors<KernelAddresses> = out.convert(&mut Check)?;
    let (logsumexp, metrics) = token_metrics(&out, &workspace);
    Ok(DpoForward {
        batch: kernel_batch,
        partition: partition.params,
        logits,
        token_logps: or(out.token_logps, workspace.token_logps),
        logsumexp,
        logsumexp_residual: out.logsumexp_residual,
        logps: address("logps", 4, out.logps)?,
        scored: or(out.scored, workspace.scored),
        sequence_rows_done: workspace.sequence_rows_done,
        row_slices_done: workspace.row_slices_done,
        slice_sums: workspace.slice_sums,
        progress: workspace.progress,
        status: address("status", 4, out.status)?,
        token_weights: out.token_weights,
        metrics,
        loss: loss.transpose()?.unwrap_or_default(),
        ld_alpha: batch.ld_alpha,
        partner_layout: match batch.pairs {
            Pairs::Interleaved => DPO_PAIRS_INTERLEAVED,
            _ => DPO_PAIRS_CONCATENATED,
        },
    })
}

/// `given`, or another address where there is none.
fn or(given: DeviceAddress, otherwise: DeviceAddress) -> DeviceAddress {
    if given == 0 { otherwise } else { given }
}

/// Where logsumexp and token metrics go. What the kernel sums over sequences or the batch goes into the workspace where
/// the caller does not want it.
fn token_metrics(
    out: &LogpsTensors<KernelAddresses>,
    workspace: &Places,
) -> (DeviceAddress, DpoTokenMetrics) {
    let Some(wanted) = &out.metrics else { return (out.logsumexp, DpoTokenMetrics::default()) };
    let summed = wanted.mean != 0 || wanted.sequence_log_weights != 0;
    let in_workspace = |place: DeviceAddress| if summed { place } else { 0 };
    let [logsumexp, entropy, correct, mean_logit, sum_p2] = workspace.summed.map(in_workspace);
    let metrics = DpoTokenMetrics {
        entropy: or(wanted.entropy, entropy),
        correct: or(wanted.correct, correct),
        mean_logit: or(wanted.mean_logit, mean_logit),
        sum_p2: or(wanted.sum_p2, sum_p2),
        sums: in_workspace(workspace.token_sums).next_multiple_of(8),
        sequence_log_weights: wanted.sequence_log_weights,
        mean: wanted.mean,
    };
    (or(out.logsumexp, logsumexp), metrics)
}
