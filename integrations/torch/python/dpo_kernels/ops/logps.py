"""The stage `logps` and its backward as custom operators, on logits."""

import ctypes

import torch

from .. import _ffi, _structs
from .._batch import Rows, address, as_floats, as_rows, check_coefficients, inputs_struct, layout_of
from .schema import fields, operator, refuse_double_backward, tensors

# What `logps` computes of token metrics.
METRICS = ("none", "entropy", "all")
OUTPUTS = 13
PARAMETERS = 1 + len(Rows._fields) + 2


def logps_outputs(labels, sequences, metrics, wpo_weights):
    """Tensors for what `logps` writes, in this order; of no elements where it was not asked for."""
    if metrics not in METRICS:
        raise ValueError(f"token_metrics: expected one of {', '.join(METRICS)}, found {metrics!r}")

    def floats(*shape, wanted=True):
        return torch.empty(shape if wanted else (0,), dtype=torch.float32, device=labels.device)

    def integers(*shape):
        return torch.empty(shape, dtype=torch.int32, device=labels.device)

    shape, everything = labels.shape, metrics == "all"
    return (
        floats(sequences),  # logps
        floats(*shape),  # token_logps
        integers(sequences),  # scored
        floats(*shape),  # logsumexp
        floats(*shape),  # logsumexp_residual
        floats(*shape),  # token_weights
        floats(*shape, wanted=metrics != "none"),  # entropy
        floats(*shape, wanted=everything),  # correct
        floats(*shape, wanted=everything),  # mean_logit
        floats(*shape, wanted=everything),  # sum_p2
        floats(sequences, wanted=everything or wpo_weights),  # sequence_log_weights
        floats(6, wanted=everything),  # their means
        integers(6),  # status
    )


def logps_struct(outputs):
    """A dpo_logps of the tensors, which keeps the struct that it points to."""
    at = [output.data_ptr() if output.numel() else None for output in outputs]
    token_metrics = _structs.dpo_token_metrics(
        entropy=at[6], correct=at[7], mean_logit=at[8], sum_p2=at[9], sequence_log_weights=at[10], mean=at[11]
    )
    struct = _structs.dpo_logps(
        logps=at[0],
        token_logps=at[1],
        scored=at[2],
        logsumexp=at[3],
        logsumexp_residual=at[4],
        token_weights=at[5],
        metrics=ctypes.addressof(token_metrics) if any(at[6:12]) else None,
        status=at[12],
    )
    struct.kept = token_metrics
    return struct


@operator("logps", ["Tensor logits", fields(Rows), "str metrics", "bool wpo_weights"], tensors(OUTPUTS))
def logps(logits, *arguments):
    """logps [S], token_logps, scored [S], logsumexp, its residual, token_weights, entropy, correct, mean_logit, sum_p2,
    sequence_log_weights [S], their means [6] and status [6]; those of tokens in the labels' shape."""
    *row_arguments, metrics, wpo_weights = arguments
    rows, matrix = Rows(*row_arguments).prepared(), as_rows(logits)
    layout = layout_of("logits", logits, rows.labels, rows.cu_seqlens)
    outputs = logps_outputs(rows.labels, layout.sequences, metrics, wpo_weights)
    workspace = (layout.sequences, *matrix.shape)
    batch, inputs = rows.batch(layout, matrix), inputs_struct(matrix, rows.labels)
    _ffi.run("logps", logits.device, batch, inputs, logps_struct(outputs), workspace=workspace)
    return outputs


@logps.register_fake
def _(logits, *arguments):
    *row_arguments, metrics, wpo_weights = arguments
    rows = Rows(*row_arguments)
    layout = layout_of("logits", logits, rows.labels, rows.cu_seqlens)
    return logps_outputs(rows.labels, layout.sequences, metrics, wpo_weights)


def row_coefficients(rows, token_weights, dlogps, dtoken_logps):
    """`coef` [S] and `token_coef` of a backward pass, either of them None for 1, from the gradients of both log-probs.

    A token's log-prob counts token_weights times in its sequence's, and once by itself.
    """
    if dtoken_logps is None:
        return dlogps, None if rows.ld_alpha is None else token_weights
    if dlogps is None:
        return None, dtoken_logps
    labels = rows.labels
    if rows.cu_seqlens is None:
        of_rows = dlogps[:, None].expand(labels.shape)
    else:
        of_rows = torch.repeat_interleave(dlogps, rows.cu_seqlens.diff(), output_size=labels.numel()).view(labels.shape)
    # A token of weight 0 has no part in its sequence, not even in a coefficient that is infinite or NaN.
    return None, dtoken_logps + torch.where(token_weights == 0, 0.0, of_rows * token_weights)


def _save(ctx, inputs, output):
    logits, *row_arguments = inputs[: 1 + len(Rows._fields)]
    rows = Rows(*row_arguments)
    ctx.rows = rows._replace(labels=None, cu_seqlens=None)
    ctx.save_for_backward(logits, rows.labels, rows.cu_seqlens, output[3], output[4], output[5])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def _arguments_of_backward(ctx, dlogps, dtoken_logps):
    logits, labels, cu_seqlens, logsumexp, residual, token_weights = ctx.saved_tensors
    rows = ctx.rows._replace(labels=labels, cu_seqlens=cu_seqlens)
    return logits, (logsumexp, residual, *row_coefficients(rows, token_weights, dlogps, dtoken_logps), *rows)


def _formula(ctx, dlogps, dtoken_logps, *unused):
    if dlogps is None and dtoken_logps is None:
        return (None,) * PARAMETERS
    logits, arguments = _arguments_of_backward(ctx, dlogps, dtoken_logps)
    return logps_backward(logits, *arguments), *(None,) * (PARAMETERS - 1)


logps.register_autograd(_formula, setup_context=_save)


def _backward(logits, matrix, dlogits, logsumexp, residual, coef, token_coef, rows):
    rows = rows.prepared()
    layout = layout_of("logits", logits, rows.labels, rows.cu_seqlens)
    check_coefficients(layout, rows, logsumexp, residual, coef, token_coef)
    logsumexp, residual, coef, token_coef = (as_floats(each) for each in (logsumexp, residual, coef, token_coef))
    gradient = _structs.dpo_gradient(
        logsumexp=logsumexp.data_ptr(),
        logsumexp_residual=residual.data_ptr(),
        coef=address(coef),
        token_coef=address(token_coef),
        dlogits=dlogits.data_ptr(),
    )
    _ffi.run("backward", logits.device, rows.batch(layout, matrix), inputs_struct(matrix, rows.labels), gradient)


def _like_rows(logits):
    """The rows of the logits, and memory for their gradient with the same row stride, which the kernels ask for."""
    matrix = as_rows(logits)
    return matrix, torch.empty_strided(matrix.shape, matrix.stride(), dtype=matrix.dtype, device=matrix.device)


_BACKWARD = ["Tensor logsumexp", "Tensor logsumexp_residual", "Tensor? coef", "Tensor? token_coef", fields(Rows)]


@operator("logps_backward", ["Tensor logits", *_BACKWARD], "Tensor")
def logps_backward(logits, logsumexp, logsumexp_residual, coef, token_coef, *row_arguments):
    """∂loss/∂logits = coef[s] token_coef[r] (1[v = y_r] − softmax(z_r)[v]) in the logits' shape and type."""
    matrix, dlogits = _like_rows(logits)
    _backward(logits, matrix, dlogits, logsumexp, logsumexp_residual, coef, token_coef, Rows(*row_arguments))
    return dlogits.view(logits.shape)


@logps_backward.register_fake
def _(logits, *unused):
    return _like_rows(logits)[1].view(logits.shape)


logps_backward.register_autograd(refuse_double_backward)


@operator("logps_backward_", ["Tensor(a0!) logits", *_BACKWARD], "()", mutates=("logits",))
def logps_backward_(logits, logsumexp, logsumexp_residual, coef, token_coef, *row_arguments):
    """`logps_backward` in the memory of the logits, whose version PyTorch raises."""
    matrix = as_rows(logits)
    if matrix.data_ptr() != logits.data_ptr():
        raise ValueError(
            "inplace_backward: expected logits whose rows are a constant number of elements apart, found strides "
            f"{tuple(logits.stride())}"
        )
    _backward(logits, matrix, matrix, logsumexp, logsumexp_residual, coef, token_coef, Rows(*row_arguments))


@logps_backward_.register_fake
def _(logits, *unused):
    return None


class LogpsInPlace(torch.autograd.Function):
    """`logps` whose gradient overwrites the logits. Whoever else needs them in a later backward is told so by PyTorch's own
    check of versions."""

    @staticmethod
    def forward(ctx, logits, *arguments):
        output = logps(logits, *arguments)
        _save(ctx, (logits, *arguments), output)
        return output

    @staticmethod
    def backward(ctx, dlogps, dtoken_logps, *unused):
        if torch.is_grad_enabled():
            refuse_double_backward(ctx)
        if dlogps is None and dtoken_logps is None:
            return (None,) * PARAMETERS
        logits, arguments = _arguments_of_backward(ctx, dlogps, dtoken_logps)
        dlogits = logits.detach()
        logps_backward_(dlogits, *arguments)
        return dlogits, *(None,) * (PARAMETERS - 1)
