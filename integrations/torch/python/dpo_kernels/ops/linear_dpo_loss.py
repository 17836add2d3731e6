"""The whole pass behind the model's head as one custom operator, which makes the gradients while it has the logits."""

import torch

from .._batch import Rows, address, layout_of
from .._loss import Loss
from .linear_logps import (
    HEAD,
    Head,
    gradients_like,
    gradients_struct,
    linear_logps_backward,
    where_wanted,
)
from .logps import OUTPUTS as LOGPS_OUTPUTS
from .logps import logps_outputs, logps_struct
from .pair_loss import loss_of, pair_outputs, pair_outputs_struct
from .schema import fields, operator, refuse_double_backward, tensors

_OF_PASS = ["str metrics", "bool of_hidden", "bool of_weight", "bool of_bias"]
_PARAMETERS = len(HEAD) + len(Rows._fields) + len(_OF_PASS) + len(Loss._fields)
_PAIR_OUTPUTS = 7


def _split(arguments):
    """The rows, metrics, gradients that are wanted, and the loss."""
    rows, rest = Rows(*arguments[: len(Rows._fields)]), arguments[len(Rows._fields) :]
    return rows, rest[0], rest[1:4], Loss(*rest[4:])


@operator("linear_dpo_loss", [*HEAD, fields(Rows), *_OF_PASS, fields(Loss)], tensors(_PAIR_OUTPUTS + LOGPS_OUTPUTS + 3))
def linear_dpo_loss(hidden, weight, bias, *arguments):
    """loss [], pair_losses, chosen_rewards, rejected_rewards, margins, coef, metrics; what `logps` gives, with one status of
    both; and dX, dW and db for an upstream gradient of 1, of no elements where they are not wanted."""
    rows, metrics, wanted, loss = _split(arguments)
    rows = rows.prepared()
    head = Head(hidden, weight, bias, rows)
    sequences = head.layout.sequences
    loss.check(sequences, hidden.device, None)
    loss = loss.prepared()
    outputs = logps_outputs(rows.labels, sequences, metrics, False)
    of_pairs = pair_outputs(hidden.device, sequences, loss.count(sequences))
    gradients = gradients_like(hidden, weight, wanted)
    on_host = loss.on_host()
    head.run(
        "forward",
        head.batch(on_host.pairs_of_batch()),
        address(loss.ref_logps),
        loss.struct(),
        logps_struct(outputs),
        pair_outputs_struct(of_pairs),
        gradients_struct(gradients),
    )
    return loss_of(of_pairs), *of_pairs, *outputs, *gradients


@linear_dpo_loss.register_fake
def _(hidden, weight, bias, *arguments):
    rows, metrics, wanted, loss = _split(arguments)
    sequences = layout_of("hidden", hidden, rows.labels, rows.cu_seqlens).sequences
    loss.check(sequences, hidden.device, None)
    of_pairs = pair_outputs(hidden.device, sequences, loss.count(sequences))
    outputs = logps_outputs(rows.labels, sequences, metrics, False)
    return loss_of(of_pairs), *of_pairs, *outputs, *gradients_like(hidden, weight, wanted)


def _save(ctx, inputs, output):
    hidden, weight, bias, *arguments = inputs
    rows, _, ctx.made, _ = _split(arguments)
    ctx.rows = rows._replace(labels=None, cu_seqlens=None)
    of_logps = output[_PAIR_OUTPUTS : _PAIR_OUTPUTS + LOGPS_OUTPUTS]
    ctx.save_for_backward(
        hidden,
        weight,
        bias,
        rows.labels,
        rows.cu_seqlens,
        of_logps[3],
        of_logps[4],
        of_logps[5],
        output[5],
        *output[-3:],
    )
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _formula(ctx, dloss, *unused):
    if dloss is None:
        return (None,) * _PARAMETERS
    wanted = tuple(ctx.needs_input_grad[:3])
    hidden, weight, bias, labels, cu_seqlens, logsumexp, residual, token_weights, coef, *made = ctx.saved_tensors
    if all(is_made or not is_wanted for is_made, is_wanted in zip(ctx.made, wanted)):
        gradients = linear_dpo_loss_backward(hidden, weight, *made, dloss)
    else:
        rows = ctx.rows._replace(labels=labels, cu_seqlens=cu_seqlens)
        token_coef = None if rows.ld_alpha is None else token_weights
        gradients = linear_logps_backward(
            hidden, weight, bias, logsumexp, residual, coef * dloss, token_coef, *wanted, *rows
        )
    return *where_wanted(wanted, gradients), *(None,) * (_PARAMETERS - 3)


linear_dpo_loss.register_autograd(_formula, setup_context=_save)


@operator(
    "linear_dpo_loss_backward",
    ["Tensor hidden", "Tensor weight", "Tensor dhidden", "Tensor dweight", "Tensor dbias", "Tensor dloss"],
    tensors(3),
)
def linear_dpo_loss_backward(hidden, weight, dhidden, dweight, dbias, dloss):
    """dloss times the gradients, in the type of the hidden states; an operator, because its derivative by them is not known."""
    return tuple((gradient * dloss).to(hidden.dtype) for gradient in (dhidden, dweight, dbias))


@linear_dpo_loss_backward.register_fake
def _(hidden, weight, dhidden, dweight, dbias, dloss):
    return tuple(torch.empty_like(gradient, dtype=hidden.dtype) for gradient in (dhidden, dweight, dbias))


linear_dpo_loss_backward.register_autograd(refuse_double_backward)
