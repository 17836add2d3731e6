"""The stages as custom operators of PyTorch, `torch.ops.dpo_kernels.*`, with fakes for tracing and autograd formulas.

Everything between the sums and the gradient of the logits is one number per sequence, the coefficient
c_s = ∂loss/∂logp_s: `pair_loss` makes it, autograd scales and adds it, and `logps_backward` takes it.

| operator | from | to | gradient |
|---|---|---|---|
| `logps` | logits, labels | log-probs of sequences and tokens, logsumexp, metrics of tokens, status | of both log-probs |
| `logps_backward` | logits, logsumexp, coefficients | ∂loss/∂logits | refused |
| `logps_backward_` | the same | the same, in the logits' own memory | none |
| `pair_loss` | log-probs, reference | loss, rewards, margins, coefficients, status | of the loss, by the log-probs |
| `pair_loss_backward` | coefficients, upstream gradient | their product | refused |
| `linear_logps` | hidden states, weight, labels | what `logps` gives | of both log-probs |
| `linear_logps_backward` | the same, logsumexp, coefficients | the gradients of hidden states, weight and bias | refused |
| `linear_dpo_loss` | hidden states, weight, labels, reference | what `logps` and `pair_loss` give, and all gradients | of the loss |
| `linear_dpo_loss_backward` | those gradients, upstream gradient | their products | refused |

They are the lowest layer: :mod:`dpo_kernels.functional` and :mod:`dpo_kernels.linear` have the functions for users.
"""

from .linear_dpo_loss import linear_dpo_loss, linear_dpo_loss_backward
from .linear_logps import linear_logps, linear_logps_backward
from .logps import LogpsInPlace, logps, logps_backward, logps_backward_
from .pair_loss import pair_loss, pair_loss_backward

__all__ = [
    "LogpsInPlace",
    "linear_dpo_loss",
    "linear_dpo_loss_backward",
    "linear_logps",
    "linear_logps_backward",
    "logps",
    "logps_backward",
    "logps_backward_",
    "pair_loss",
    "pair_loss_backward",
]
