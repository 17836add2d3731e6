//! `pair_loss` as a launch of its own.

use super::launch::{Arguments, Launch};
use super::loss_arguments::PairLossArguments;
use super::steps::Plan;
use crate::batch::Batch;
use crate::cuda::address::{DeviceAddress, DeviceArray, address, optional};
use crate::cuda::kernel::Kernel;
use crate::cuda::lowering::kernel_loss;
use crate::cuda::params::{DPO_PAIR_LOSS_THREADS, DpoPairLossAlone};
use crate::error::Result;
use crate::pairs::Pairs;

/// `pair_loss` alone, on log-probs that are already there.
///
/// `scored`, `[S]` u32, is the numbers of scored rows from `logps`: what a length-normalised loss divides by unless it is given
/// lengths, and what is counted where tokens are. Of `status` only [`bad_pair`](crate::Status::bad_pair) and
/// [`bad_pair_input`](crate::Status::bad_pair_input) can be set.
///
/// # Errors
///
/// [`Error::Missing`] for a loss that needs them; otherwise as [`forward`].
///
/// [`Error::Missing`]: crate::Error::Missing
/// [`forward`]: super::forward()
pub fn pair_loss(
    pairs: &Pairs<DeviceArray>,
    sequences: usize,
    logps: DeviceAddress,
    scored: Option<DeviceAddress>,
    loss: &PairLossArguments<'_>,
    status: DeviceAddress,
) -> Result<Plan> {
    // One row a sequence: the shape checks of a batch, without its rows.
    let shape = Batch { pairs: *pairs, ..Batch::for_pair_loss(sequences) };
    shape.validate_shape()?;
    let params = DpoPairLossAlone {
        logps: address("logps", 4, logps)?,
        scored: optional("scored", scored)?,
        status: address("status", 4, status)?,
        loss: kernel_loss(pairs, sequences, loss, scored.map(|_| sequences))?,
        sequences: sequences as u32,
    };
    Ok(Plan::of(Launch {
        kernel: Kernel::PairLoss,
        grid: 1,
        cluster: 1,
        block: DPO_PAIR_LOSS_THREADS,
        shared_bytes: 0,
        arguments: Arguments::PairLoss(params),
    }))
}
