"""The functions from hidden states: the model's last layer, the loss and all gradients, without a tensor of logits.

On the CPU logits exist a chunk of rows at a time (512 MiB at most), and rows that are not scored are not multiplied. On a GPU that is
so with ``fused_on_cuda``, which no GPU has run yet; without it logits are made by PyTorch's product, and their gradient takes their
place.
"""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from . import functional, ops
from ._batch import check_tensor
from .functional import dpo_loss_of, metrics_wanted, token_logps_of, token_metrics_of
from .options import Beta, DpoOptions, LossArguments, RowArguments, RowOptions, split_options
from .results import DpoLoss, TokenLogps


def _cast(hidden, weight, bias):
    """As autocast has the factors of a product."""
    check_tensor("hidden", hidden)
    check_tensor("weight", weight)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return hidden, weight, bias


def _is_fused(hidden, fused_on_cuda):
    return hidden.device.type == "cpu" or fused_on_cuda


def linear_token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Optional[Tensor] = None,
    *,
    label_alignment: str,
    token_metrics: Optional[str] = None,
    pairs: str = "concatenated",
    check: bool = False,
    fused_on_cuda: bool = False,
    **options: Unpack[RowOptions],
) -> TokenLogps:
    """:func:`token_logps` of the logits hidden Wᵀ + b, differentiable by hidden states, weight and bias.

    The backward makes the logits again, a chunk at a time.

    Args:
        hidden: [S, T, H] f32, f16 or bf16, what goes into the model's last layer; [rows, H] or [1, rows, H] with ``cu_seqlens``.
        weight: [V, H] of the same type, as ``torch.nn.Linear`` has it. Under autocast all are cast as for a product of PyTorch's.
        labels, label_alignment, token_metrics, pairs, check, options: As in :func:`token_logps`.
        bias: [V], or None for none.
        fused_on_cuda: For tensors on a GPU: whether logits are to exist a chunk of rows at a time there, too, with products by cuBLASLt.
            Labels and indices then come to the host, which waits for them, so that no CUDA graph can be captured of it, neither by
            hand nor by torch.compile's "reduce-overhead". No GPU has run it yet, so that it is not the default.
    """
    hidden, weight, bias = _cast(hidden, weight, bias)
    if not _is_fused(hidden, fused_on_cuda):
        return functional.token_logps(
            F.linear(hidden, weight, bias),
            labels,
            label_alignment=label_alignment,
            token_metrics=token_metrics,
            pairs=pairs,
            inplace_backward=True,
            check=check,
            **options,
        )
    metrics = metrics_wanted(token_metrics)
    rows = RowArguments(label_alignment, **options).rows(labels, pairs)
    return token_logps_of(ops.linear_logps(hidden, weight, bias, *rows, metrics, False), metrics, check)


def linear_dpo_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ref_logps: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    *,
    label_alignment: str,
    loss: Union[str, Sequence[str]] = "sigmoid",
    beta: Beta = 0.1,
    use_weighting: bool = False,
    token_metrics: Optional[str] = None,
    check: bool = False,
    fused_on_cuda: bool = False,
    **options: Unpack[DpoOptions],
) -> DpoLoss:
    """:func:`dpo_loss` of the logits hidden Wᵀ + b, whose gradients are made while a chunk of the logits is there.

    A head that is trained is three products of the logits' size, and a frozen one (``weight.requires_grad`` is False, as under
    LoRA) two, whatever the loss; four where a pair is larger than a chunk, where the loss sorts the pairs, or in f16, whose
    gradients need their upstream factor before they are rounded. Without gradients it is one. ``use_weighting`` is one more.

    Args:
        hidden, weight, bias: As in :func:`linear_token_logps`.
        labels, ref_logps, label_alignment, loss, beta, use_weighting, token_metrics, check, options: As in :func:`dpo_loss`.
        fused_on_cuda: As in :func:`linear_token_logps`.
    """
    hidden, weight, bias = _cast(hidden, weight, bias)
    if not _is_fused(hidden, fused_on_cuda):
        return functional.dpo_loss(
            F.linear(hidden, weight, bias),
            labels,
            ref_logps,
            label_alignment=label_alignment,
            loss=loss,
            beta=beta,
            use_weighting=use_weighting,
            token_metrics=token_metrics,
            inplace_backward=True,
            check=check,
            **options,
        )
    metrics = metrics_wanted(token_metrics)
    row_options, loss_options = split_options(options)
    arguments = LossArguments(loss, beta, **loss_options)
    rows = RowArguments(label_alignment, **row_options).rows(labels, arguments.pairs)
    arguments.check_constants(ref_logps)
    log_weights = arguments.sequence_log_weights
    if arguments.takes_own_weights(use_weighting):
        with torch.no_grad():
            log_weights = ops.linear_logps(hidden, weight, bias, *rows, "none", True)[10]
    # A gradient of f16 is rounded after its upstream factor, which a gradient scaler makes large for that reason.
    in_forward = torch.is_grad_enabled() and hidden.dtype != torch.float16
    wanted = [in_forward and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    outputs = ops.linear_dpo_loss(
        hidden, weight, bias, *rows, metrics, *wanted, *arguments.of_operator(ref_logps, log_weights)
    )
    of_pairs, of_logps = outputs[:7], outputs[7:20]
    token_metrics = token_metrics_of(of_logps, metrics)
    return dpo_loss_of((*of_pairs, of_logps[12]), of_logps[:3], None, token_metrics, check)
