"""The stage `pair_loss` as a custom operator: log-probs to loss, rewards, margins and coefficients."""

import torch

from .. import _ffi, _structs
from .._batch import address, as_counts, as_floats
from .._loss import Loss
from .schema import fields, operator, refuse_double_backward, tensors

OUTPUTS = 8


def pair_outputs(device, sequences, count):
    """Tensors for what `pair_loss` writes, in this order."""

    def floats(*shape):
        return torch.empty(shape, dtype=torch.float32, device=device)

    return (
        floats(count),  # pair_losses
        floats(count),  # chosen_rewards
        floats(count),  # rejected_rewards
        floats(count),  # margins
        floats(sequences),  # coef
        floats(8),  # metrics, of which the first three words are integers
    )


def pair_outputs_struct(outputs):
    losses, chosen_rewards, rejected_rewards, margins, coef, metrics = (output.data_ptr() for output in outputs)
    return _structs.dpo_pair_outputs(
        pair_losses=losses,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        margins=margins,
        coef=coef,
        metrics=metrics,
    )


def loss_of(outputs):
    """The loss of the batch, which the kernels write among the metrics, as a tensor of its own."""
    return outputs[5][3].clone()


def status_like(tensor):
    return torch.empty(6, dtype=torch.int32, device=tensor.device)


@operator("pair_loss", ["Tensor logps", "Tensor? scored", fields(Loss)], tensors(OUTPUTS))
def pair_loss(logps, scored, *loss_arguments):
    """loss [], pair_losses [N], chosen_rewards [N], rejected_rewards [N], margins [N], coef [S], metrics [8], status [6]."""
    sequences, loss = logps.shape[0], Loss(*loss_arguments)
    loss.check(sequences, logps.device, scored)
    loss = loss.prepared()
    floats, scored = as_floats(logps), as_counts("scored", scored)
    outputs, status = pair_outputs(logps.device, sequences, loss.count(sequences)), status_like(logps)
    batch = _structs.dpo_batch(sequences=sequences, **loss.pairs_of_batch())
    _ffi.run(
        "pair_loss",
        logps.device,
        batch,
        address(floats),
        address(loss.ref_logps),
        address(scored),
        loss.struct(),
        pair_outputs_struct(outputs),
        status.data_ptr(),
    )
    return loss_of(outputs), *outputs, status


@pair_loss.register_fake
def _(logps, scored, *loss_arguments):
    sequences, loss = logps.shape[0], Loss(*loss_arguments)
    loss.check(sequences, logps.device, scored)
    outputs = pair_outputs(logps.device, sequences, loss.count(sequences))
    return loss_of(outputs), *outputs, status_like(logps)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output[5])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _formula(ctx, dloss, *unused):
    logps, coef = ctx.saved_tensors
    dlogps = None if dloss is None else pair_loss_backward(logps, coef, dloss)
    return dlogps, *(None,) * (1 + len(Loss._fields))


pair_loss.register_autograd(_formula, setup_context=_save)


@operator("pair_loss_backward", ["Tensor logps", "Tensor coef", "Tensor dloss"], "Tensor")
def pair_loss_backward(logps, coef, dloss):
    """dloss coef in the type of `logps`; an operator, because its derivative by `logps` is not known and is to be refused."""
    return (coef * dloss).to(logps.dtype)


@pair_loss_backward.register_fake
def _(logps, coef, dloss):
    return torch.empty_like(coef, dtype=logps.dtype)


pair_loss_backward.register_autograd(refuse_double_backward)
