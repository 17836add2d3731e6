//! What a trainer gets from a batch of pairs.

use candle_core::{Result, Tensor};
use dpo_kernels::batch::{MeanTokenMetrics, PairMetrics, Status};

/// The loss of a batch of pairs, and what there is to know about it.
///
/// S is the number of sequences, N of pairs; everything is f32 and on the device of the logits. Only
/// [`loss`](Self::loss) carries a gradient.
#[derive(Debug, Clone)]
pub struct DpoOutput {
    /// Scalar: Σ `pair_losses` ÷ normaliser. Its `backward()` is the fused gradient.
    pub loss: Tensor,
    /// `[N]`: loss of each pair, before the normaliser.
    pub pair_losses: Tensor,
    /// `[N]`: r̂_w = β(logp_w − ref_logp_w).
    pub chosen_rewards: Tensor,
    /// `[N]`: r̂_l = β(logp_l − ref_logp_l).
    pub rejected_rewards: Tensor,
    /// `[N]`: u = r̂_w − r̂_l.
    pub margins: Tensor,
    /// `[S]`: sum of the scored token log-probs of each sequence, in nats.
    pub logps: Tensor,
    /// `[S]`: c_s = ∂loss/∂logp_s.
    pub coef: Tensor,
    /// Metrics of every token, where [the targets](crate::Targets::with_token_metrics) ask for them.
    pub token_metrics: Option<TokenMetrics>,
    pub(crate) batch_metrics: BatchMetrics,
}

/// What one read of the logits tells of each token beside its log-prob: [`dpo_kernels::TokenMetrics`] as f32 tensors on
/// the device of the logits. Those of tokens have the labels' shape, a place for each row of logits, and are 0 in rows
/// that are not scored.
#[derive(Debug, Clone)]
pub struct TokenMetrics {
    /// H = −Σ p log p, in nats.
    pub entropy: Tensor,
    /// 1 where the label is the most probable token, else 0.
    pub correct: Tensor,
    /// Mean of the [transformed](crate::Targets::with_transform) logits.
    pub mean_logit: Tensor,
    /// Σ p².
    pub sum_p2: Tensor,
    /// `[S]`: mean over the scored tokens of log p_y − log Σ p²: the logarithm of WPO's weight, as
    /// [`PairInputs`](crate::PairInputs) takes it.
    pub sequence_log_weights: Tensor,
    pub(crate) means: Means,
}

/// Means over the batch, where the pass left them.
#[derive(Debug, Clone)]
pub(crate) enum Means {
    Host(MeanTokenMetrics<f32>),
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

impl TokenMetrics {
    /// Means over all scored tokens, with their number. On a GPU this waits for the pass.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn means(&self) -> Result<MeanTokenMetrics<f32>> {
        match &self.means {
            Means::Host(means) => Ok(*means),
            #[cfg(feature = "cuda")]
            Means::Device(means) => crate::cuda::read_means(means),
        }
    }
}

/// Metrics and status, where the pass left them.
#[derive(Debug, Clone)]
pub(crate) enum BatchMetrics {
    Host {
        metrics: PairMetrics<f32>,
        status: Status,
    },
    #[cfg(feature = "cuda")]
    Device {
        metrics: Tensor,
        status: Tensor,
    },
}

impl DpoOutput {
    /// Loss, and means of rewards, margin and accuracy. On a GPU this waits for the pass.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn metrics(&self) -> Result<PairMetrics<f32>> {
        match &self.batch_metrics {
            BatchMetrics::Host { metrics, .. } => Ok(*metrics),
            #[cfg(feature = "cuda")]
            BatchMetrics::Device { metrics, .. } => crate::cuda::read_metrics(metrics),
        }
    }

    /// What the pass found in its data: labels out of range, non-finite rows, sequences without a scored token,
    /// each with the first place. [`Status::check`] makes it an error. On a GPU this waits for the pass.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn status(&self) -> Result<Status> {
        match &self.batch_metrics {
            BatchMetrics::Host { status, .. } => Ok(*status),
            #[cfg(feature = "cuda")]
            BatchMetrics::Device { status, .. } => crate::cuda::read_status(status),
        }
    }
}
