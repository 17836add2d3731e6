"""What the functions give back: named tuples of tensors, all on the device of the logits."""

from typing import NamedTuple, Optional

from torch import Tensor

from . import _ffi


class TokenMetrics(NamedTuple):
    """Metrics of tokens, from the same read of the logits as their log-probs; without gradient, f32, in the labels' shape.

    0 in rows that are not scored. What was not asked for is None.
    """

    #: Entropy of the softmax, in nats.
    entropy: Tensor
    #: 1 where the label has the largest logit of its row, the first of equals; else 0.
    correct: Optional[Tensor]
    #: Mean of the logits, scaled and capped.
    mean_logit: Optional[Tensor]
    #: Sum of the squares of the probabilities.
    sum_p2: Optional[Tensor]
    #: [S]: mean over the scored tokens of log-prob − log sum_p2, the logarithm of WPO's weight.
    sequence_log_weights: Optional[Tensor]


class TokenLogps(NamedTuple):
    """Log-probs of the labels, with what a pass found in its data."""

    #: Log-probs in the labels' shape, f32; 0 in rows that are not scored. Row t of a sequence is the one that predicts, so that
    #: with ``label_alignment="next_token"`` it has the log-prob of labels[t + 1]. Differentiable.
    token_logps: Tensor
    #: [S] f32: their sums over each sequence, by LD-DPO's weights where ``ld_alpha`` is given. Differentiable.
    logps: Tensor
    #: [S] i32: numbers of scored rows.
    scored: Tensor
    #: Metrics of tokens, or None where they were not asked for.
    token_metrics: Optional[TokenMetrics]
    #: [6] i32: for each kind of trouble its first place, or −1. :meth:`check` says it in words.
    status: Tensor

    def check(self):
        """Raises ValueError where a label is out of range, a log-prob is not finite or a sequence has nothing to score.

        Copies six numbers from the device, and so waits for it.
        """
        _ffi.check_status(self.status)
        return self


class DpoLoss(NamedTuple):
    """A loss and what belongs to it. Only ``loss`` has a gradient."""

    #: [] f32: the sum of the pair losses, divided by the normalizer.
    loss: Tensor
    #: [N] f32: β(logp − ref_logp) of each chosen sequence.
    chosen_rewards: Tensor
    #: [N] f32: β(logp − ref_logp) of each rejected sequence.
    rejected_rewards: Tensor
    #: [N] f32: chosen reward − rejected reward.
    margins: Tensor
    #: [] f32: share of the pairs whose chosen reward is above the rejected one.
    accuracy: Tensor
    #: [S] f32: sums of the log-probs of each sequence, detached.
    logps: Tensor
    #: [6] i32: for each kind of trouble its first place, or −1. :meth:`check` says it in words.
    status: Tensor
    #: [N] f32: loss of each pair, before the normalizer.
    pair_losses: Tensor
    #: [S] f32: the coefficients c_s = ∂loss/∂logp_s.
    coef: Tensor
    #: [S] i32: numbers of scored rows; None where only log-probs were given.
    scored: Optional[Tensor]
    #: Log-probs in the labels' shape, detached, 0 in rows that are not scored; None where only log-probs were given.
    token_logps: Optional[Tensor]
    #: Metrics of tokens, or None where they were not asked for.
    token_metrics: Optional[TokenMetrics]

    def check(self):
        """Raises ValueError for bad labels, log-probs that are not finite, sequences with nothing to score, and pairs whose
        reference log-probs or other inputs are not finite.

        Copies six numbers from the device, and so waits for it.
        """
        _ffi.check_status(self.status)
        return self
