//! How a loss depends on the numbers of its pair: a function of the margin, of the rewards, of log-probs, and the chain
//! rule from there to its derivatives by the two log-probs.

use super::divergence::Divergence;
use super::math::ValueSlope;
use super::parameter::MAX_PARAMETERS;

/// What a loss reads of one sequence of a pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// logp, in nats.
    pub logp: f64,
    /// logp − ref_logp.
    pub log_ratio: f64,
    /// n, at least 1.
    pub length: f64,
    /// Whether the length is 0; n is 1 then, too.
    pub is_empty: bool,
    /// β, or β/n where the loss is length-normalised.
    pub scale: f64,
    /// The reward that [`FunctionOf::SortedRewards`] compares with this sequence's.
    pub sorted_partner: f64,
}

impl Side {
    fn reward(&self) -> f64 {
        self.scale * self.log_ratio
    }

    fn mean_logp(&self) -> f64 {
        self.logp / self.length
    }
}

/// What a loss reads of one pair. Either side may be missing where the loss [is sided](super::Kind::is_sided).
#[derive(Debug, Clone, Copy)]
pub(super) struct PairNumbers {
    pub chosen: Option<Side>,
    pub rejected: Option<Side>,
    pub beta: f64,
    /// γ.
    pub gamma: f64,
    /// ε.
    pub label_smoothing: f64,
    /// The loss's own, in the order of its row.
    pub parameters: [f64; MAX_PARAMETERS],
    pub divergence: Divergence,
    /// KTO's z₀, in nats.
    pub baseline: f64,
    /// The normaliser over the batch's number of scored chosen tokens; 0 where there is none.
    pub per_token: f64,
    /// The reference margin that [`FunctionOf::SortedMargins`] compares with this pair's policy margin.
    pub sorted_partner: f64,
}

/// The loss of one pair and its derivatives by two numbers, one of each side.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slopes {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
}

/// What a loss is a function of, and the function with its derivatives.
#[derive(Debug, Clone, Copy)]
pub(super) enum FunctionOf {
    /// Of the margin z = β(f′(a) − f′(b)) − γ.
    Margin(fn(z: f64, &PairNumbers) -> ValueSlope),
    /// Of the rewards u and v, a sum of a function of each.
    Sides { chosen: fn(u: f64, &PairNumbers) -> ValueSlope, rejected: fn(v: f64, &PairNumbers) -> ValueSlope },
    /// Of the rewards u and v together.
    Rewards(fn(u: f64, v: f64) -> Slopes),
    /// Of the k-th smallest policy margin less the k-th smallest reference margin.
    SortedMargins(fn(d: f64, &PairNumbers) -> ValueSlope),
    /// Of the k-th smallest chosen reward less the k-th smallest rejected reward.
    SortedRewards(fn(d: f64, &PairNumbers) -> ValueSlope),
    /// Of the chosen's mean log-prob of a token, logp_w/n_w.
    MeanLogp(fn(x: f64) -> ValueSlope),
    /// Of both mean log-probs of a token, logp_w/n_w and logp_l/n_l.
    MeanLogps(fn(x: f64, y: f64) -> Slopes),
    /// Of the chosen's share of the batch's mean log-prob of a token, logp_w/Σ n_w; such that the shares of all pairs
    /// add up to it when they are divided by the normaliser.
    BatchMeanLogp(fn(x: f64) -> ValueSlope),
}

impl FunctionOf {
    /// The loss of a pair and its derivatives by the log-probs.
    pub(super) fn slopes(self, pair: &PairNumbers) -> Slopes {
        match self {
            FunctionOf::Margin(f) => pair.of_both(|w, l| {
                let difference = pair.divergence.difference((w.scale, w.log_ratio), (l.scale, l.log_ratio));
                let z = f(difference - pair.gamma, pair);
                let by_logp =
                    |side: Side, slope: f64| pair.divergence.times_slope(side.scale * slope, side.log_ratio);
                Slopes { loss: z.value, chosen: by_logp(w, z.slope), rejected: by_logp(l, -z.slope) }
            }),
            FunctionOf::Sides { chosen, rejected } => {
                let slopes_w = pair.of_chosen(|w| {
                    let u = chosen(w.reward(), pair);
                    ValueSlope { value: u.value, slope: w.scale * u.slope }
                });
                let of_l = pair.rejected.map_or(Slopes::default(), |l| {
                    let v = rejected(l.reward(), pair);
                    Slopes { loss: v.value, chosen: 0.0, rejected: l.scale * v.slope }
                });
                Slopes { loss: slopes_w.loss + of_l.loss, chosen: slopes_w.chosen, rejected: of_l.rejected }
            }
            FunctionOf::Rewards(f) => pair.of_both(|w, l| {
                let of_rewards = f(w.reward(), l.reward());
                Slopes {
                    loss: of_rewards.loss,
                    chosen: w.scale * of_rewards.chosen,
                    rejected: l.scale * of_rewards.rejected,
                }
            }),
            FunctionOf::SortedMargins(f) => pair.of_both(|w, l| {
                let d = f(w.scale * w.logp - l.scale * l.logp - pair.sorted_partner, pair);
                Slopes { loss: d.value, chosen: w.scale * d.slope, rejected: -l.scale * d.slope }
            }),
            // A pair has the loss at the rank of its chosen; its rejected has a rank, and a slope, of its own.
            FunctionOf::SortedRewards(f) => pair.of_both(|w, l| {
                let at_w = f(w.reward() - w.sorted_partner, pair);
                let at_l = f(l.sorted_partner - l.reward(), pair);
                Slopes { loss: at_w.value, chosen: w.scale * at_w.slope, rejected: -l.scale * at_l.slope }
            }),
            FunctionOf::MeanLogp(f) => pair.of_chosen(|w| {
                let x = f(w.mean_logp());
                ValueSlope { value: x.value, slope: x.slope / w.length }
            }),
            // A sequence of length 0 has no mean log-prob to compare: such a pair is left out.
            FunctionOf::MeanLogps(_) if pair.has_empty_side() => Slopes::default(),
            FunctionOf::MeanLogps(f) => pair.of_both(|w, l| {
                let of_means = f(w.mean_logp(), l.mean_logp());
                Slopes {
                    loss: of_means.loss,
                    chosen: of_means.chosen / w.length,
                    rejected: of_means.rejected / l.length,
                }
            }),
            FunctionOf::BatchMeanLogp(f) => pair.of_chosen(|w| {
                let x = f(w.logp * pair.per_token);
                ValueSlope { value: x.value, slope: x.slope * pair.per_token }
            }),
        }
    }
}

impl PairNumbers {
    fn has_empty_side(&self) -> bool {
        [self.chosen, self.rejected].into_iter().flatten().any(|side| side.is_empty)
    }

    fn of_both(&self, f: impl Fn(Side, Side) -> Slopes) -> Slopes {
        match (self.chosen, self.rejected) {
            (Some(w), Some(l)) => f(w, l),
            // `PairLoss::check_inputs` refuses sequences without pairs for a loss that is not sided.
            _ => Slopes::default(),
        }
    }

    fn of_chosen(&self, f: impl Fn(Side) -> ValueSlope) -> Slopes {
        self.chosen.map_or(Slopes::default(), |w| {
            let of_w = f(w);
            Slopes { loss: of_w.value, chosen: of_w.slope, rejected: 0.0 }
        })
    }
}
