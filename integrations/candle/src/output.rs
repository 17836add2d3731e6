//! What a trainer gets from a batch of pairs.

use candle_core::{Result, Tensor};
use dpo_kernels::{ForwardTensors, PairMetrics, PairOutputTensors, Status, TokenMetricTensors};

use crate::tensors::{Pending, Tensors};

/// The loss of a batch of pairs, and what there is to know about it.
///
/// S is the number of sequences, N of pairs; every tensor is f32 and on the device of the logits.
///
/// [`loss`](Self::loss) and [`logps`](Self::logps) have a gradient by the logits, and keep them while they
/// are kept. No other tensor has one. Where the logits have one, a `backward()` that comes upon one of the
/// others is an error that names it, since the part of the gradient that came from there would be missing;
/// [`detach`](Tensor::detach) those that are to be constants of a loss, such as a weight made of the margins,
/// and those that go into a running mean, whose graph would grow with every step. A loss that is not among
/// [`ALL`](crate::ALL) is made of `logps`, or of [`sequence_logps`](crate::sequence_logps) and
/// [`token_logps`](crate::token_logps).
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
    /// `[S]`: sum of the scored token log-probs of each sequence, in nats; as
    /// [`sequence_logps`](crate::sequence_logps), with a fused gradient of its own.
    pub logps: Tensor,
    /// `[S]`: c_s = ∂loss/∂logp_s.
    pub coef: Tensor,
    /// Metrics of the tokens, as far as [the targets](crate::Targets::with_token_metrics) ask for them.
    pub token_metrics: TokenMetrics,
    metrics: Pending<PairMetrics<f32>>,
    status: Pending<Status>,
}

/// What one read of the logits tells of each token beside its log-prob: [`dpo_kernels::TokenMetrics`] as f32
/// tensors on the device of the logits.
///
/// What is of tokens, `[rows]`, has the labels' shape: an element for each row of logits, which is 0 where
/// the row is not scored. What was not asked for is `None`. None of it has a gradient, and where the logits
/// have one, a `backward()` that comes upon it is an error, as with [`DpoOutput`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dpo_kernels_candle::{LabelAlignment, MetricsLevel, Targets, token_metrics};
///
/// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
/// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
/// let logits = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
/// let metrics = token_metrics(&logits, &targets, MetricsLevel::All)?;
/// // Two of the three rows of a sequence predict a token; of eight equal logits, the first counts as the
/// // largest.
/// let mean = metrics.mean.expect("asked for").read()?;
/// assert_eq!((mean.scored, mean.accuracy), (4, 0.25));
/// assert_eq!(metrics.entropy.expect("asked for").dims(), [2, 3]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub type TokenMetrics = TokenMetricTensors<Tensors>;

impl DpoOutput {
    /// Of a scalar and all that `pair_loss` gives.
    pub(crate) fn new(loss: Tensor, out: ForwardTensors<Tensors>) -> Self {
        let ForwardTensors { logps, pairs } = out;
        let PairOutputTensors { pair_losses, chosen_rewards, rejected_rewards, margins, coef, metrics } =
            pairs;
        let wanted = "every loss asks for it";
        DpoOutput {
            loss,
            pair_losses: pair_losses.expect(wanted),
            chosen_rewards: chosen_rewards.expect(wanted),
            rejected_rewards: rejected_rewards.expect(wanted),
            margins: margins.expect(wanted),
            logps: logps.logps.expect(wanted),
            coef: coef.expect(wanted),
            token_metrics: logps.metrics.unwrap_or_default(),
            metrics: metrics.expect(wanted),
            status: logps.status.expect(wanted),
        }
    }

    /// Loss, and means of rewards, margin and accuracy. On a GPU this waits for the pass.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn metrics(&self) -> Result<PairMetrics<f32>> {
        self.metrics.read()
    }

    /// What the pass found in its data: labels out of range, non-finite rows, sequences without a scored
    /// token, each with the first place. [`Status::check`] makes it an error. On a GPU this waits for the
    /// pass.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn status(&self) -> Result<Status> {
        self.status.read()
    }
}
