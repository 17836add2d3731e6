//! `backward` in one launch.

use super::batch::{DeviceBatch, Inputs, gradient_address, kernel_batch, logits_address};
use super::launch::{Arguments, Launch, grid};
use super::steps::Plan;
use crate::coef::{check_threshold, check_token_weights};
use crate::cuda::address::{DeviceAddress, address, optional};
use crate::cuda::kernel::Kernel;
use crate::cuda::params::*;
use crate::cuda::properties::Device;
use crate::cuda::tuning::{RowPartition, RowPass};
use crate::error::Result;

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
    /// [`ld_alpha`](crate::Batch::ld_alpha), times the caller's own factors if there are any.
    pub token_coef: Option<DeviceAddress>,
    /// The gradient of the rows' entropies, if they have one.
    pub entropy: Option<EntropyBuffers>,
    /// One f32 that multiplies every coefficient: the upstream gradient, where the device knows it.
    pub upstream: Option<DeviceAddress>,
    /// The same where the host knows it; both multiply.
    pub upstream_scale: f32,
    /// Rows whose coefficients are no larger than this are zeros, and not read: [`Coef::threshold`](crate::Coef::threshold).
    pub threshold: f32,
    /// One u32, lowered to the first row whose gradient holds an infinity or a NaN. Set it to
    /// [`DPO_NO_TROUBLE`] before; any number of launches may share it, such as those
    /// between two steps of an optimizer.
    pub nonfinite_row: Option<DeviceAddress>,
    /// `[rows, vocab]` in the logits' type and stride: the logits buffer itself, or one apart from it.
    pub dlogits: DeviceAddress,
}

/// What [`EntropyCoef`](crate::EntropyCoef) has, on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyBuffers {
    /// `[rows]` f32: ∂L/∂H of each row.
    pub coef: DeviceAddress,
    /// `[rows]` f32, of `logps`: the rows' entropies H.
    pub entropy: DeviceAddress,
}

/// `backward` in one launch, or in one for each [window](super::RowWindow) of the rows.
///
/// # Errors
///
/// Those of [`Batch::validate_shape`]; [`Error::Value`] for a null or misaligned address, for a window without rows or beyond
/// the batch, for a threshold that is not
/// finite or below 0, and for a gradient buffer that overlaps the logits without being the same; [`Error::Missing`] for
/// `token_coef` where the batch has an [`ld_alpha`](crate::Batch::ld_alpha).
///
/// [`Batch::validate_shape`]: crate::Batch::validate_shape
/// [`Error::Value`]: crate::Error::Value
/// [`Error::Missing`]: crate::Error::Missing
pub fn backward(
    _device: &Device,
    batch: &DeviceBatch,
    inputs: &Inputs,
    buffers: &GradientBuffers,
) -> Result<Plan> {
    let (kernel_batch, window) = kernel_batch(batch, inputs)?;
    let partition = RowPartition::of(RowPass::Backward, inputs.dtype, batch.columns());
    check_token_weights(batch, buffers.token_coef.is_some())?;
    check_threshold(buffers.threshold.into())?;
    let params = DpoBackward {
        batch: kernel_batch,
        partition: partition.params,
        logits: logits_address(batch, inputs, window)?,
        dlogits: gradient_address(batch, inputs, window, "dlogits", buffers.dlogits)?,
        logsumexp: address("logsumexp", 4, buffers.logsumexp)?,
        logsumexp_residual: optional("logsumexp_residual", buffers.logsumexp_residual)?,
        coef: optional("coef", buffers.coef)?,
        token_coef: optional("token_coef", buffers.token_coef)?,
        entropy: buffers.entropy.map_or(Ok(0), |entropy| address("entropy", 4, entropy.entropy))?,
        entropy_coef: buffers.entropy.map_or(Ok(0), |entropy| address("entropy_coef", 4, entropy.coef))?,
        upstream: optional("upstream", buffers.upstream)?,
        nonfinite_row: optional("nonfinite_row", buffers.nonfinite_row)?,
        upstream_scale: buffers.upstream_scale,
        threshold: buffers.threshold,
    };
    Ok(Plan::of(Launch {
        kernel: Kernel::Backward {
            entropy: buffers.entropy.is_some(),
            softcap: batch.transform.softcap.is_some(),
            dtype: inputs.dtype,
        },
        grid: grid(&partition, window)?,
        cluster: 1,
        block: partition.threads,
        shared_bytes: 0,
        arguments: Arguments::Backward(params),
    }))
}
