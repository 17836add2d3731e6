//! What any launch with a loss is told of it.

use crate::cuda::address::{DeviceAddress, DeviceArray, PairOutputBuffers};
use crate::loss::{PairLoss, PairTensors};

/// [`PairTensors`] in device memory: f32, lengths u32.
///
/// Only the kernels see the values. One that the host would refuse (β of 0, a NaN weight, ε out of its range) gives
/// NaN in its pair's loss and coefficients, or, of the normaliser, in all of them, and
/// [`Status::bad_pair_input`](crate::Status::bad_pair_input) names the pair.
pub type DevicePairInputs = PairTensors<DeviceArray, DeviceArray, DeviceAddress>;

/// A loss, what it reads besides log-probs, and where its results go.
#[derive(Debug)]
pub struct PairLossArguments<'a> {
    /// The loss.
    pub loss: &'a PairLoss,
    /// What there is besides log-probs.
    pub inputs: DevicePairInputs,
    /// Where `pair_loss` writes.
    pub out: &'a PairOutputBuffers,
}
