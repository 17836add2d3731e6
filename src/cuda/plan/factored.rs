//! `forward`, and the gradient without its coefficients, in one launch.

use super::batch::{DeviceBatch, Inputs, gradient_address, kernel_batch, logits_address};
use super::forward::{forward_params, metrics_level};
use super::launch::{Arguments, Launch, grid};
use super::loss_arguments::PairLossArguments;
use super::steps::Plan;
use super::workspace::Workspace;
use crate::cuda::address::{DeviceAddress, LogpsBuffers};
use crate::cuda::kernel::Kernel;
use crate::cuda::params::DpoFactored;
use crate::cuda::properties::Device;
use crate::cuda::tuning::FactoredPartition;
use crate::error::Result;

/// [`forward`], and the gradient without its coefficients, in one launch: the logits are read once, and written once.
///
/// ```text
/// gradient[r, v] = (1[v = y_r] − softmax(z′[r])[v]) · ∂z′/∂z        dlogits[r, v] = c · gradient[r, v],   c = coef[s] · upstream
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
/// Those of [`forward`]; [`Error::Value`] for a gradient buffer that overlaps the logits without being the same, and for
/// token metrics, which only the other passes know.
///
/// [`forward`]: super::forward()
/// [`Error::Value`]: crate::Error::Value
pub fn factored(
    device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    out: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
    gradient: DeviceAddress,
    workspace: impl Into<Workspace>,
) -> Result<Plan> {
    let (kernel_batch, window) = kernel_batch(batch, inputs)?;
    metrics_level(out).check_factored()?;
    let factored = FactoredPartition::of(device, inputs.dtype, batch.columns());
    let partition = &factored.rows;
    let logits = logits_address(batch, inputs, window)?;
    let gradient = gradient_address(batch, inputs, window, "gradient", gradient)?;
    let forward = forward_params(kernel_batch, batch, logits, out, loss, partition, workspace.into())?;
    Ok(Plan::of(Launch {
        kernel: Kernel::Factored { softcap: batch.transform.softcap.is_some(), dtype: inputs.dtype },
        grid: grid(partition, window)?,
        cluster: partition.params.blocks_per_row,
        block: partition.threads,
        shared_bytes: factored.shared_bytes(),
        arguments: Arguments::Factored(DpoFactored {
            forward,
            gradient,
            kept_vectors: factored.kept_vectors,
        }),
    }))
}
