"""The stages as custom operators of PyTorch, `torch.ops.dpo_kernels.*`, with fakes for tracing and autograd formulas.

Everything between the sums and the gradient of the logits is one number per sequence, the coefficient
c_s = ∂loss/∂logp_s: `pair_loss` makes it, autograd scales and adds it, and `logps_backward` takes it.

| operator | from | to | gradient |
|---|---|---|---|
| `logps` | logits, labels | log-probs of sequences and tokens, logsumexp, metrics of tokens, status | of both log-probs |
| `logps_backward` | logits, logsumexp, coefficients | ∂loss/∂logits | none: a second derivative is refused |
| `logps_backward_` | the same | the same, in the logits' own memory | none |
| `pair_loss` | log-probs, reference | loss, rewards, margins, coefficients, status | of the loss, by the log-probs |

They are the lowest layer: :mod:`dpo_kernels.functional` has the functions for users.
"""

import ctypes
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import _ffi, _structs
from ._batch import address, as_rows, batch_struct, check_device, inputs_struct, layout_of
from ._loss import loss_struct, pair_inputs_struct

_DOUBLE_BACKWARD = (
    "dpo_kernels: expected one backward pass, found a gradient of a gradient: the kernels have no second derivative "
    "(create_graph=True)"
)
# What `logps` computes of token metrics, each a more costly read than the one before it.
METRICS = ("none", "entropy", "all")


def _refuse_double_backward(ctx, *gradients):
    raise RuntimeError(_DOUBLE_BACKWARD)


def _indices(tensor: Optional[Tensor]) -> Optional[Tensor]:
    return None if tensor is None else tensor.to(torch.int32).contiguous()


def _floats(tensor: Optional[Tensor]) -> Optional[Tensor]:
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def _logps_outputs(logits, labels, sequences, metrics, wpo_weights):
    """Tensors for what `logps` writes; of no elements where it was not asked for."""

    def floats(*shape, wanted=True):
        return torch.empty(shape if wanted else (0,), dtype=torch.float32, device=logits.device)

    def integers(*shape):
        return torch.empty(shape, dtype=torch.int32, device=logits.device)

    shape, everything = labels.shape, metrics == "all"
    return (
        floats(sequences),
        floats(*shape),
        integers(sequences),
        floats(*shape),
        floats(*shape),
        floats(*shape),
        floats(*shape, wanted=metrics != "none"),
        floats(*shape, wanted=everything),
        floats(*shape, wanted=everything),
        floats(*shape, wanted=everything),
        floats(sequences, wanted=everything or wpo_weights),
        floats(6, wanted=everything),
        integers(6),
    )


@torch.library.custom_op("dpo_kernels::logps", mutates_args=())
def logps(
    logits: Tensor,
    labels: Tensor,
    cu_seqlens: Optional[Tensor],
    label_alignment: str,
    pairs: str,
    ld_alpha: Optional[float],
    ignore_index: int,
    scale: Optional[float],
    softcap: Optional[float],
    valid_vocab: Optional[int],
    metrics: str,
    wpo_weights: bool,
) -> Tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:
    """logps [S], token_logps, scored [S], logsumexp, its residual, token_weights, entropy, correct, mean_logit, sum_p2,
    sequence_log_weights [S], their means [6] and status [6]; those of tokens in the labels' shape."""
    layout = layout_of("logits", logits, labels, cu_seqlens)
    if metrics not in METRICS:
        raise ValueError(f"token_metrics: expected one of {', '.join(METRICS)}, found {metrics!r}")
    rows, labels, cu_seqlens = as_rows(logits), labels.contiguous(), _indices(cu_seqlens)
    batch = batch_struct(
        rows, layout, cu_seqlens, label_alignment=label_alignment, pairs=pairs, ld_alpha=ld_alpha,
        ignore_index=ignore_index, scale=scale, softcap=softcap, valid_vocab=valid_vocab,
    )  # fmt: skip
    outputs = _logps_outputs(logits, labels, layout.sequences, metrics, wpo_weights)
    at = [output.data_ptr() if output.numel() else None for output in outputs]
    token_metrics = _structs.dpo_token_metrics(
        entropy=at[6], correct=at[7], mean_logit=at[8], sum_p2=at[9], sequence_log_weights=at[10], mean=at[11]
    )
    out = _structs.dpo_logps(
        logps=at[0], token_logps=at[1], scored=at[2], logsumexp=at[3], logsumexp_residual=at[4], token_weights=at[5],
        metrics=ctypes.addressof(token_metrics) if metrics != "none" or wpo_weights else None, status=at[12],
    )  # fmt: skip
    workspace = (layout.sequences, rows.shape[0], rows.shape[1])
    _ffi.run("logps", logits.device, batch, inputs_struct(rows, labels), out, workspace=workspace)
    return outputs


@logps.register_fake
def _(
    logits, labels, cu_seqlens, label_alignment, pairs, ld_alpha, ignore_index, scale, softcap, valid_vocab, metrics,
    wpo_weights,
):  # fmt: skip
    layout = layout_of("logits", logits, labels, cu_seqlens)
    return _logps_outputs(logits, labels, layout.sequences, metrics, wpo_weights)


def _save_logps(ctx, inputs, output):
    logits, labels, cu_seqlens, *options = inputs
    ctx.options = options[:7]
    _, _, _, logsumexp, residual, token_weights, *_ = output
    ctx.save_for_backward(logits, labels, cu_seqlens, logsumexp, residual, token_weights)
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def row_coefficients(labels, cu_seqlens, token_weights, ld_alpha, dlogps, dtoken_logps):
    """`coef` [S] and `token_coef` of a backward pass, either of them None for 1, from the gradients of both log-probs.

    A token's log-prob counts token_weights times in its sequence's, and once by itself.
    """
    if dtoken_logps is None:
        return dlogps, token_weights if ld_alpha is not None else None
    if dlogps is None:
        return None, dtoken_logps
    if cu_seqlens is None:
        of_rows = dlogps[:, None].expand(labels.shape)
    else:
        of_rows = torch.repeat_interleave(dlogps, cu_seqlens.diff(), output_size=labels.numel()).view(labels.shape)
    # A sequence's coefficient has no part in rows of weight 0, even where it is infinite or NaN.
    weighted = torch.where(token_weights == 0, 0.0, of_rows * token_weights)
    return None, weighted + dtoken_logps


def _logps_formula(ctx, dlogps, dtoken_logps, *unused):
    if dlogps is None and dtoken_logps is None:
        return (None,) * 12
    logits, labels, cu_seqlens, logsumexp, residual, token_weights = ctx.saved_tensors
    coef, token_coef = row_coefficients(labels, cu_seqlens, token_weights, ctx.options[2], dlogps, dtoken_logps)
    dlogits = logps_backward(logits, labels, cu_seqlens, logsumexp, residual, coef, token_coef, *ctx.options)
    return dlogits, *(None,) * 11


logps.register_autograd(_logps_formula, setup_context=_save_logps)


def _backward(logits, rows, dlogits, labels, cu_seqlens, logsumexp, residual, coef, token_coef, options):
    layout = layout_of("logits", logits, labels, cu_seqlens)
    label_alignment, pairs, ld_alpha, ignore_index, scale, softcap, valid_vocab = options
    labels, cu_seqlens, coef, token_coef = labels.contiguous(), _indices(cu_seqlens), _floats(coef), _floats(token_coef)
    batch = batch_struct(
        rows, layout, cu_seqlens, label_alignment=label_alignment, pairs=pairs, ld_alpha=ld_alpha,
        ignore_index=ignore_index, scale=scale, softcap=softcap, valid_vocab=valid_vocab,
    )  # fmt: skip
    gradient = _structs.dpo_gradient(
        logsumexp=logsumexp.data_ptr(), logsumexp_residual=residual.data_ptr(), coef=address(coef),
        token_coef=address(token_coef), dlogits=dlogits.data_ptr(),
    )  # fmt: skip
    _ffi.run("backward", logits.device, batch, inputs_struct(rows, labels), gradient)


def _like_rows(logits):
    """Memory for a gradient, with the row stride of the logits, which the kernels share between the two."""
    rows = as_rows(logits)
    return rows, torch.empty_strided(rows.shape, rows.stride(), dtype=rows.dtype, device=rows.device)


@torch.library.custom_op("dpo_kernels::logps_backward", mutates_args=())
def logps_backward(
    logits: Tensor,
    labels: Tensor,
    cu_seqlens: Optional[Tensor],
    logsumexp: Tensor,
    logsumexp_residual: Tensor,
    coef: Optional[Tensor],
    token_coef: Optional[Tensor],
    label_alignment: str,
    pairs: str,
    ld_alpha: Optional[float],
    ignore_index: int,
    scale: Optional[float],
    softcap: Optional[float],
    valid_vocab: Optional[int],
) -> Tensor:
    """∂loss/∂logits = coef[s] token_coef[r] (1[v = y_r] − softmax(z_r)[v]) in the logits' shape and dtype."""
    rows, dlogits = _like_rows(logits)
    options = (label_alignment, pairs, ld_alpha, ignore_index, scale, softcap, valid_vocab)
    _backward(
        logits, rows, dlogits, labels, cu_seqlens, logsumexp, logsumexp_residual, coef, token_coef, options
    )
    return dlogits.view(logits.shape)


@logps_backward.register_fake
def _(logits, *unused):
    return _like_rows(logits)[1].view(logits.shape)


logps_backward.register_autograd(_refuse_double_backward)


@torch.library.custom_op("dpo_kernels::logps_backward_", mutates_args=("logits",))
def logps_backward_(
    logits: Tensor,
    labels: Tensor,
    cu_seqlens: Optional[Tensor],
    logsumexp: Tensor,
    logsumexp_residual: Tensor,
    coef: Optional[Tensor],
    token_coef: Optional[Tensor],
    label_alignment: str,
    pairs: str,
    ld_alpha: Optional[float],
    ignore_index: int,
    scale: Optional[float],
    softcap: Optional[float],
    valid_vocab: Optional[int],
) -> None:
    """`logps_backward` in the memory of the logits, whose version it raises."""
    rows = as_rows(logits)
    if rows.data_ptr() != logits.data_ptr():
        raise ValueError(
            "logits: expected rows a constant number of elements apart, for a gradient in place, "
            f"found strides {logits.stride()}"
        )
    options = (label_alignment, pairs, ld_alpha, ignore_index, scale, softcap, valid_vocab)
    _backward(
        logits, rows, rows, labels, cu_seqlens, logsumexp, logsumexp_residual, coef, token_coef, options
    )


@logps_backward_.register_fake
def _(logits, *unused):
    return None


class LogpsInPlace(torch.autograd.Function):
    """`logps` whose gradient overwrites the logits. Whoever else needs them in a later backward is told so by PyTorch's
    own check of versions."""

    @staticmethod
    def forward(ctx, logits, *arguments):
        output = logps(logits, *arguments)
        _save_logps(ctx, (logits, *arguments), output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dlogps, dtoken_logps, *unused):
        if dlogps is None and dtoken_logps is None:
            return (None,) * 12
        logits, labels, cu_seqlens, logsumexp, residual, token_weights = ctx.saved_tensors
        coef, token_coef = row_coefficients(labels, cu_seqlens, token_weights, ctx.options[2], dlogps, dtoken_logps)
        dlogits = logits.detach()
        logps_backward_(dlogits, labels, cu_seqlens, logsumexp, residual, coef, token_coef, *ctx.options)
        return dlogits, *(None,) * 11


def _pair_count(logps, pairs, chosen):
    return logps.shape[0] if pairs == "unpaired" else chosen.shape[0] if pairs == "indexed" else logps.shape[0] // 2


def _pair_outputs(logps, pairs, chosen):
    def floats(*shape):
        return torch.empty(shape, dtype=torch.float32, device=logps.device)

    count = _pair_count(logps, pairs, chosen)
    status = torch.empty(6, dtype=torch.int32, device=logps.device)
    return floats(count), floats(count), floats(count), floats(count), floats(logps.shape[0]), floats(8), status


_PAIRS = {
    "concatenated": _structs.DPO_PAIRS_CONCATENATED,
    "interleaved": _structs.DPO_PAIRS_INTERLEAVED,
    "indexed": _structs.DPO_PAIRS_INDEXED,
    "unpaired": _structs.DPO_PAIRS_UNPAIRED,
}


def _check_pairs(
    logps, ref_logps, scored, chosen, rejected, desirable, lengths, beta, gamma, weight, label_smoothing, log_weights,
    kl_logps, kl_ref_logps, normalizer, chosen_tokens, pairs,
):  # fmt: skip
    """Devices and shapes of the tensors, whose memory the kernels read by the batch's shape."""
    if pairs not in _PAIRS:
        raise ValueError(f"pairs: expected one of {', '.join(_PAIRS)}, found {pairs!r}")
    for argument, tensor, needed in (("chosen", chosen, "indexed"), ("rejected", rejected, "indexed"), ("desirable", desirable, "unpaired")):  # fmt: skip
        if (tensor is not None) != (pairs == needed):
            raise ValueError(f"{argument}: expected it where pairs is {needed!r} and there alone, found pairs {pairs!r}")
    sequences, count = logps.shape, (_pair_count(logps, pairs, chosen),)
    one = ((), (1,))
    for argument, tensor, shapes in (
        ("ref_logps", ref_logps, (sequences,)),
        ("scored", scored, (sequences,)),
        ("chosen", chosen, (count,)),
        ("rejected", rejected, (count,)),
        ("desirable", desirable, (sequences,)),
        ("lengths", lengths, (sequences,)),
        ("beta", beta, (count,)),
        ("gamma", gamma, (count,)),
        ("weight", weight, (count,)),
        ("label_smoothing", label_smoothing, (count,)),
        ("sequence_log_weights", log_weights, (sequences,)),
        ("kl_ref_logps", kl_ref_logps, () if kl_logps is None else (kl_logps.shape,)),
        ("normalizer", normalizer, one),
        ("chosen_tokens", chosen_tokens, one),
    ):
        check_device(argument, tensor, logps.device)
        if tensor is not None and tuple(tensor.shape) not in [tuple(shape) for shape in shapes]:
            expected = " or ".join(str(tuple(shape)) for shape in shapes) or "none without kl_logps"
            raise ValueError(f"{argument}: expected shape {expected}, found {tuple(tensor.shape)}")
    check_device("kl_logps", kl_logps, logps.device)


@torch.library.custom_op("dpo_kernels::pair_loss", mutates_args=())
def pair_loss(
    logps: Tensor,
    ref_logps: Optional[Tensor],
    scored: Optional[Tensor],
    chosen: Optional[Tensor],
    rejected: Optional[Tensor],
    desirable: Optional[Tensor],
    lengths: Optional[Tensor],
    pair_beta: Optional[Tensor],
    pair_gamma: Optional[Tensor],
    pair_weight: Optional[Tensor],
    pair_label_smoothing: Optional[Tensor],
    sequence_log_weights: Optional[Tensor],
    kl_logps: Optional[Tensor],
    kl_ref_logps: Optional[Tensor],
    normalizer_tensor: Optional[Tensor],
    chosen_tokens: Optional[Tensor],
    pairs: str,
    loss: str,
    loss_weights: Optional[Sequence[float]],
    beta: Optional[float],
    betas: Optional[Sequence[float]],
    discopop_tau: Optional[float],
    cpo_alpha: Optional[float],
    rpo_alpha: Optional[float],
    desirable_weight: Optional[float],
    undesirable_weight: Optional[float],
    f_divergence_type: str,
    f_alpha_divergence_coef: Optional[float],
    label_smoothing: Optional[float],
    gamma: Optional[float],
    baseline: Optional[float],
    reference_free: bool,
    length_normalized: bool,
    wpo_weights: bool,
    normalized_by: str,
    normalizer: Optional[float],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss [], pair_losses [N], chosen_rewards [N], rejected_rewards [N], margins [N], coef [S], metrics [8], status [6].

    `loss` has the losses' names with + between them. Of `metrics` the first three words are integers.
    """
    _check_pairs(
        logps, ref_logps, scored, chosen, rejected, desirable, lengths, pair_beta, pair_gamma, pair_weight,
        pair_label_smoothing, sequence_log_weights, kl_logps, kl_ref_logps, normalizer_tensor, chosen_tokens, pairs,
    )  # fmt: skip
    count = _pair_count(logps, pairs, chosen)
    logps, ref_logps, scored = _floats(logps), _floats(ref_logps), _indices(scored)
    chosen, rejected, desirable = _indices(chosen), _indices(rejected), _indices(desirable)
    batch = _structs.dpo_batch(
        sequences=logps.shape[0], pairs=_PAIRS[pairs], pair_count=count if pairs == "indexed" else 0,
        chosen=address(chosen), rejected=address(rejected), desirable=address(desirable),
    )  # fmt: skip
    pair_inputs = pair_inputs_struct(
        lengths=_indices(lengths), beta=_floats(pair_beta), gamma=_floats(pair_gamma), weight=_floats(pair_weight),
        label_smoothing=_floats(pair_label_smoothing), sequence_log_weights=_floats(sequence_log_weights),
        kl_logps=_floats(kl_logps), kl_ref_logps=_floats(kl_ref_logps), normalizer=_floats(normalizer_tensor),
        chosen_tokens=_floats(chosen_tokens),
    )  # fmt: skip
    parameters = {
        "discopop_tau": discopop_tau,
        "cpo_alpha": cpo_alpha,
        "rpo_alpha": rpo_alpha,
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
    }
    struct = loss_struct(
        loss.split("+"), loss_weights=loss_weights, beta=beta, betas=betas, parameters=parameters,
        f_divergence_type=f_divergence_type, f_alpha_divergence_coef=f_alpha_divergence_coef,
        label_smoothing=label_smoothing, gamma=gamma, baseline=baseline, reference_free=reference_free,
        length_normalized=length_normalized, wpo_weights=wpo_weights, normalized_by=normalized_by,
        normalizer=normalizer, pair_inputs=pair_inputs,
    )  # fmt: skip
    outputs = _pair_outputs(logps, pairs, chosen)
    losses, chosen_rewards, rejected_rewards, margins, coef, metrics, status = (o.data_ptr() for o in outputs)
    out = _structs.dpo_pair_outputs(
        pair_losses=losses, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margins=margins,
        coef=coef, metrics=metrics,
    )  # fmt: skip
    _ffi.run("pair_loss", logps.device, batch, address(logps), address(ref_logps), address(scored), struct, out, status)
    return outputs[5][3].clone(), *outputs


@pair_loss.register_fake
def _(logps, ref_logps, scored, chosen, *rest):
    pairs = rest[12]
    _check_pairs(logps, ref_logps, scored, chosen, *rest[:13])
    outputs = _pair_outputs(logps, pairs, chosen)
    return torch.empty((), dtype=torch.float32, device=logps.device), *outputs


def _save_pair_loss(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output[5])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _pair_loss_formula(ctx, dloss, *unused):
    logps, coef = ctx.saved_tensors
    return None if dloss is None else pair_loss_backward(logps, coef, dloss), *(None,) * 35


pair_loss.register_autograd(_pair_loss_formula, setup_context=_save_pair_loss)


@torch.library.custom_op("dpo_kernels::pair_loss_backward", mutates_args=())
def pair_loss_backward(logps: Tensor, coef: Tensor, dloss: Tensor) -> Tensor:
    """dloss coef in the type of `logps`; an operator of its own because its derivative by `logps` is not known."""
    return (coef * dloss).to(logps.dtype)


@pair_loss_backward.register_fake
def _(logps, coef, dloss):
    return torch.empty_like(coef, dtype=logps.dtype)


pair_loss_backward.register_autograd(_refuse_double_backward)
