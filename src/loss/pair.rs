//! The loss of one pair alone.

use super::inputs::PairInputs;
use super::pair_loss::PairLoss;
use super::pair_stage::PairStage;
use crate::batch::HostBatch;
use crate::error::Result;
use crate::memory::Extent;
use crate::results::PairOutputs;

/// What a loss knows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Sum of its token log-probs under the policy, in nats.
    pub logp: f64,
    /// The same under the reference, where there is one.
    pub ref_logp: Option<f64>,
    /// Tokens that length normalisation divides by; 0 counts as 1.
    pub length: u32,
}

/// What a loss makes of one pair, before the normaliser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairTerms {
    /// The pair's loss.
    pub loss: f64,
    /// r̂_w.
    pub chosen_reward: f64,
    /// r̂_l.
    pub rejected_reward: f64,
    /// ∂loss/∂logp_w.
    pub chosen_coef: f64,
    /// ∂loss/∂logp_l.
    pub rejected_coef: f64,
}

impl PairLoss {
    /// The loss of one pair alone and its derivatives, with k = 1: what `pair_loss` makes of a batch of one pair.
    ///
    /// # Errors
    ///
    /// Those of `pair_loss`: [`Error::Missing`](crate::Error::Missing) where a loss that compares with a reference has none,
    /// and for KTO without a [baseline](Self::with_baseline) or WPO's weights, which a pair alone does not have;
    /// [`Error::Value`](crate::Error::Value) for a reference that the loss must not have, and
    /// [`Error::Length`](crate::Error::Length) for one of one sequence only.
    ///
    /// # Examples
    ///
    /// ```
    /// use dpo_kernels::PairLoss;
    /// use dpo_kernels::loss::Sequence;
    ///
    /// let chosen = Sequence { logp: -10.0, ref_logp: Some(-14.0), length: 5 };
    /// let rejected = Sequence { logp: -12.0, ref_logp: Some(-10.0), length: 5 };
    /// let pair = PairLoss::hinge(0.125)?.pair(chosen, rejected)?;
    /// assert_eq!((pair.chosen_reward, pair.rejected_reward), (0.5, -0.25));
    /// assert_eq!(pair.loss, 1.0 - 0.75);
    /// assert_eq!((pair.chosen_coef, pair.rejected_coef), (-0.125, 0.125));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn pair(&self, chosen: Sequence, rejected: Sequence) -> Result<PairTerms> {
        let batch = HostBatch::for_pair_loss(2);
        let ref_logps: Vec<f64> = [chosen.ref_logp, rejected.ref_logp].into_iter().flatten().collect();
        let ref_logps = (!ref_logps.is_empty()).then_some(&ref_logps[..]);
        let inputs = PairInputs { ref_logps, normalizer: Some(1.0), ..PairInputs::NONE };
        self.check_host_inputs(&batch, &inputs, Some(2))?;
        let stage = PairStage {
            pairs: batch.pairs,
            logps: &[chosen.logp, rejected.logp],
            scored: Some(&[chosen.length, rejected.length]),
            inputs: &inputs,
            loss: self,
        };
        let mut out = PairOutputs::default();
        let extent = Extent { sequences: 2, rows: 2, pairs: 1 };
        stage.run(out.slices(&extent)?);
        Ok(PairTerms {
            loss: out.pair_losses[0],
            chosen_reward: out.chosen_rewards[0],
            rejected_reward: out.rejected_rewards[0],
            chosen_coef: out.coef[0],
            rejected_coef: out.coef[1],
        })
    }
}
