//! What a pass found, on the host and as views on the device.

use std::mem::{offset_of, size_of};

use cudarc::driver::CudaView;

use super::dpo_pass::DpoPass;
use crate::cuda::params::{DpoBatchMetrics, DpoMeanTokenMetrics, DpoPairMetrics};
use crate::error::Result;
use crate::metrics::{MeanTokenMetrics, PairMetrics};
use crate::results::{Logps, MetricsLevel, PairOutputs};
use crate::status::{GradientStatus, Status};

/// What a forward pass found of the batch as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchMetrics {
    /// What is wrong with the data.
    pub status: Status,
    /// Loss and means over pairs, of the last pass with a loss.
    pub pairs: PairMetrics<f32>,
    /// Means over scored tokens, where the pass has [all token metrics](DpoPass::with_token_metrics).
    pub tokens: Option<MeanTokenMetrics<f32>>,
}

impl DpoPass {
    /// `[5]`: loss, chosen reward, rejected reward, margin and accuracy, on the device.
    pub fn device_pair_metrics(&self) -> CudaView<'_, f32> {
        let first = offset_of!(DpoBatchMetrics, pairs) + offset_of!(DpoPairMetrics, loss);
        let count = (size_of::<DpoPairMetrics>() - offset_of!(DpoPairMetrics, loss)) / 4;
        self.results.device_records(first / 4, count)
    }

    /// `[5]`: mean entropy, accuracy, logit, logsumexp and Σp² of the scored tokens, on the device, after
    /// [`with_token_metrics`](Self::with_token_metrics).
    pub fn device_mean_token_metrics(&self) -> Option<CudaView<'_, f32>> {
        let first = offset_of!(DpoBatchMetrics, tokens) + offset_of!(DpoMeanTokenMetrics, entropy);
        (self.results.metrics == MetricsLevel::All).then(|| self.results.device_records(first / 4, 5))
    }

    /// Waits for the stream and fetches what the last forward pass found of the batch as a whole, by one small copy: all
    /// that a training loop looks at in every step.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver), also for faults of earlier work on the stream.
    pub fn read_metrics(&self) -> Result<BatchMetrics> {
        self.results.read_metrics()
    }

    /// Waits for the stream and copies what `logps` gave of the batch to the host.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver), also for faults of earlier work on the stream.
    pub fn read_logps(&self) -> Result<Logps<f32>> {
        self.results.read_logps(self.batch.extent())
    }

    /// Waits for the stream and copies what `pair_loss` gave of the batch to the host.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver), also for faults of earlier work on the stream.
    pub fn read_pairs(&self) -> Result<PairOutputs<f32>> {
        self.results.read_pairs(self.batch.extent())
    }

    /// Waits for the stream and fetches what the last forward pass found in its data.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver), also for faults of earlier work on the stream.
    pub fn read_status(&self) -> Result<Status> {
        Ok(self.read_metrics()?.status)
    }

    /// Waits for the stream and fetches what the backward passes found since the last time that this was
    /// asked. They may have been over several batches: the row is the first of its own batch then, and which
    /// one that was is not said.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver), also for faults of earlier work on the stream.
    pub fn take_gradient_status(&mut self) -> Result<GradientStatus> {
        self.results.take_gradient_status()
    }
}
