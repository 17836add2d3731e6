"""Fused kernels for Direct Preference Optimization, as PyTorch functions.

From logits, `[S, T, V]`, or from what goes into a model's last layer, to a loss over pairs of sequences and its gradient.
:func:`dpo_loss` and :func:`linear_dpo_loss` do all of it; :func:`token_logps`, :func:`sequence_logps` and
:func:`linear_token_logps` are log-probs with a fused backward, for losses of your own; :func:`pair_loss` is the loss alone.
`dpo_kernels.trl.DPOTrainer` switches TRL's trainer over.
"""

from ._ffi import cuda_is_built
from .functional import dpo_loss, pair_loss, sequence_logps, token_logps
from .linear import linear_dpo_loss, linear_token_logps
from .options import IGNORE_INDEX, LossOptions, RowOptions
from .results import DpoLoss, TokenLogps, TokenMetrics

__all__ = [
    "IGNORE_INDEX",
    "DpoLoss",
    "LossOptions",
    "RowOptions",
    "TokenLogps",
    "TokenMetrics",
    "cuda_is_built",
    "dpo_loss",
    "linear_dpo_loss",
    "linear_token_logps",
    "pair_loss",
    "sequence_logps",
    "token_logps",
]
__version__ = "0.1.0"
