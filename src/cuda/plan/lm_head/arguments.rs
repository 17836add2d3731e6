//! What a pass through the head reads and writes in device memory.

use super::memory::LmHeadWorkspace;
use super::rows::LmHeadRows;
use crate::cuda::address::{DeviceAddress, address, optional};
use crate::cuda::plan::backward::EntropyBuffers;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::lm_head::{Region, WantedGradients, check_apart, check_hidden_size};

/// [`LmHead`](crate::LmHead) in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLmHead {
    /// Element type of hidden states, weight and bias.
    pub dtype: DType,
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// X, `[rows, hidden_size]`, aligned to the element type. Those of rows that are not scored are not read.
    pub hidden: DeviceAddress,
    /// W, `[vocab, hidden_size]`, aligned to the element type; products are fastest where rows begin on 16-byte boundaries.
    pub weight: DeviceAddress,
    /// b, `[vocab]`, aligned to 16.
    pub bias: Option<DeviceAddress>,
}

/// [`LmHeadGradients`](crate::LmHeadGradients) in device memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceLmHeadGradients {
    /// dX, `[rows, hidden_size]` of the hidden states' type, overwritten; exactly 0 in rows that are not scored, or whose
    /// coefficient is 0.
    pub hidden: Option<DeviceAddress>,
    /// dW, `[vocab, hidden_size]` f32, to which the gradient is added.
    pub weight: Option<DeviceAddress>,
    /// db, `[vocab]` f32, to which the gradient is added.
    pub bias: Option<DeviceAddress>,
    /// One f32 that multiplies every coefficient: the upstream gradient, where the device knows it.
    pub upstream: Option<DeviceAddress>,
    /// The same where the host knows it; both multiply.
    pub upstream_scale: f32,
    /// One u32, lowered to the first row whose coefficient, logsumexp or dX is not finite. Set it to
    /// [`DPO_NO_TROUBLE`](crate::cuda::params::DPO_NO_TROUBLE) before; any number of passes may share it.
    pub nonfinite_row: Option<DeviceAddress>,
}

impl Default for DeviceLmHeadGradients {
    /// None, and an upstream gradient of 1.
    fn default() -> Self {
        DeviceLmHeadGradients {
            hidden: None,
            weight: None,
            bias: None,
            upstream: None,
            upstream_scale: 1.0,
            nonfinite_row: None,
        }
    }
}

impl DeviceLmHeadGradients {
    /// Which of them are wanted.
    pub fn wanted(&self) -> WantedGradients {
        WantedGradients {
            hidden: self.hidden.is_some(),
            weight: self.weight.is_some(),
            bias: self.bias.is_some(),
        }
    }
}

/// What [`lm_head_backward`](super::lm_head_backward) reads beside the head: the results of a pass that gave log-probs, and
/// coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceLmHeadCoef {
    /// `[rows]` f32, of [`lm_head`](super::lm_head()).
    pub logsumexp: DeviceAddress,
    /// `[rows]` f32, of the same.
    pub logsumexp_residual: Option<DeviceAddress>,
    /// `[S]` f32: ∂loss/∂logp of each sequence; `None` is 1.
    pub coef: Option<DeviceAddress>,
    /// `[rows]` f32: a factor of each token, as [`GradientBuffers::token_coef`](super::super::GradientBuffers::token_coef).
    pub token_coef: Option<DeviceAddress>,
    /// The gradient of the rows' entropies, if they have one: of `[rows]`, those of rows that are not scored are not read.
    pub entropy: Option<EntropyBuffers>,
    /// Rows whose coefficients are no larger than this have no gradient: [`Coef::threshold`](crate::Coef::threshold).
    pub threshold: f32,
}

/// Checks the addresses and sizes of a head, of its gradients and of the workspace, and that none of them overlaps what is written
/// of the others.
pub(super) fn check(
    rows: &LmHeadRows,
    entries: DeviceAddress,
    vocab: usize,
    head: &DeviceLmHead,
    gradients: &DeviceLmHeadGradients,
    workspace: &LmHeadWorkspace,
) -> Result<()> {
    let DeviceLmHead { dtype, hidden_size, .. } = *head;
    check_hidden_size(hidden_size)?;
    workspace.memory.check_head(dtype, hidden_size)?;
    let matrix = |rows: usize, element: usize| {
        let bytes = rows.checked_mul(hidden_size).and_then(|elements| elements.checked_mul(element));
        bytes.filter(|&bytes| bytes <= i64::MAX as usize).ok_or_else(|| {
            Error::value("hidden_size", "matrices of at most 2^63 bytes", format!("{rows} x {hidden_size}"))
        })
    };
    let places = workspace.places()?;
    let mut regions = vec![
        Region {
            argument: "workspace",
            start: workspace.address,
            bytes: (places.end - workspace.address) as usize,
            written: true,
        },
        Region {
            argument: "entries",
            start: address("entries", 4, entries)?,
            bytes: size_of_val(rows.entries()),
            written: false,
        },
        Region {
            argument: "hidden",
            start: address("hidden", dtype.size(), head.hidden)?,
            bytes: matrix(rows.all(), dtype.size())?,
            written: false,
        },
        Region {
            argument: "weight",
            start: address("weight", dtype.size(), head.weight)?,
            bytes: matrix(vocab, dtype.size())?,
            written: false,
        },
    ];
    let mut add = |argument, alignment, at: Option<DeviceAddress>, bytes, written| {
        if let Some(at) = at {
            regions.push(Region { argument, start: address(argument, alignment, at)?, bytes, written });
        }
        Ok(())
    };
    add("bias", 16, head.bias, vocab * dtype.size(), false)?;
    add("gradients.hidden", dtype.size(), gradients.hidden, matrix(rows.all(), dtype.size())?, true)?;
    add("gradients.weight", 4, gradients.weight, matrix(vocab, size_of::<f32>())?, true)?;
    add("gradients.bias", 4, gradients.bias, vocab * size_of::<f32>(), true)?;
    optional("gradients.upstream", gradients.upstream)?;
    optional("gradients.nonfinite_row", gradients.nonfinite_row)?;
    check_apart(&regions)
}
