"""`logps` and its backward behind the model's head, as custom operators on hidden states."""

import ctypes
import threading

import torch

from .. import _ffi, _structs
from .._batch import (
    DTYPES,
    LABEL_TYPES,
    Rows,
    address,
    as_floats,
    check_coefficients,
    check_device,
    check_shape,
    layout_of,
)
from .logps import OUTPUTS, logps_outputs, logps_struct, row_coefficients
from .schema import fields, operator, refuse_double_backward, tensors

HEAD = ["Tensor hidden", "Tensor weight", "Tensor? bias"]
_PARAMETERS = len(HEAD) + len(Rows._fields) + 2


class _Workspace:
    """Memory for a chunk of logits, which grows to what calls need and is kept."""

    def __init__(self):
        self.handle = ctypes.c_void_p()
        _ffi.call("dpo_cpu_lm_head_workspace_create", ctypes.byref(self.handle))

    # At the end of the process the module may be gone before its workspaces.
    def __del__(self, free=_ffi.library.dpo_cpu_lm_head_workspace_free):
        if self.handle:
            free(self.handle)


class _Workspaces(threading.local):
    """One for each thread, since a workspace serves one call at a time."""

    def __init__(self):
        self.own = _Workspace()


_workspaces = _Workspaces()


class Head:
    """Hidden states, weight and bias, checked against each other and dense, and their rows in host memory."""

    def __init__(self, hidden, weight, bias, rows):
        self.layout = layout_of("hidden", hidden, rows.labels, rows.cu_seqlens)
        if hidden.device.type not in ("cpu", "cuda"):
            raise ValueError(f"hidden: expected a tensor on the CPU or on a CUDA device, found one on {hidden.device}")
        if weight.dim() != 2:
            raise ValueError(f"weight: expected shape [V, {hidden.shape[-1]}], found {tuple(weight.shape)}")
        check_shape("weight", weight, (weight.shape[0], hidden.shape[-1]))
        check_shape("bias", bias, weight.shape[:1])
        for argument, tensor in (("weight", weight), ("bias", bias)):
            check_device(argument, tensor, hidden.device)
            if tensor is not None and tensor.dtype != hidden.dtype:
                raise TypeError(f"{argument}: expected {hidden.dtype}, the type of hidden, found {tensor.dtype}")
        self.hidden, self.weight = hidden.contiguous(), weight.contiguous()
        # A GPU reads a bias from a 16-byte boundary, which a part of another tensor may not have.
        self.bias = bias if bias is None else bias.clone() if bias.data_ptr() % 16 else bias.contiguous()
        self.rows = rows.on_host()

    def struct(self):
        return _structs.dpo_lm_head(
            dtype=DTYPES[self.hidden.dtype],
            label_type=LABEL_TYPES[self.rows.labels.dtype],
            hidden_size=self.hidden.shape[-1],
            hidden=self.hidden.data_ptr(),
            weight=self.weight.data_ptr(),
            bias=address(self.bias),
            labels=self.rows.labels.data_ptr(),
        )

    def batch(self, pairs=None):
        """The batch, with the fields that say how its sequences form pairs."""
        batch = self.rows.batch_of(self.layout, self.rows.labels.numel(), self.weight.shape[0], None)
        for name, value in (pairs or {}).items():
            setattr(batch, name, value)
        return batch

    def run(self, stage, batch, *arguments):
        """A function of the head: on the CPU with this thread's workspace, on a GPU with one of PyTorch's memory."""
        if self.hidden.device.type == "cpu":
            _ffi.call(f"dpo_cpu_lm_head_{stage}", batch, self.struct(), *arguments, _workspaces.own.handle)
        else:
            self.run_on_cuda(stage, batch, *arguments)

    def run_on_cuda(self, stage, batch, *arguments):
        workspace = _structs.dpo_cuda_lm_head_workspace(
            sequences=self.layout.sequences,
            rows=self.rows.labels.numel(),
            pairs=max(self.layout.sequences, batch.pair_count),
            vocab=self.weight.shape[0],
            hidden_size=self.hidden.shape[-1],
            dtype=DTYPES[self.hidden.dtype],
        )
        arguments = (batch, self.struct(), *arguments)
        _ffi.run_head_on_cuda(stage, self.hidden.device, *arguments, workspace=workspace)


@operator("linear_logps", [*HEAD, fields(Rows), "str metrics", "bool wpo_weights"], tensors(OUTPUTS))
def linear_logps(hidden, weight, bias, *arguments):
    """What `logps` gives of hidden Wᵀ + b, of which a chunk of rows exists at a time."""
    *row_arguments, metrics, wpo_weights = arguments
    rows = Rows(*row_arguments).prepared()
    head = Head(hidden, weight, bias, rows)
    outputs = logps_outputs(rows.labels, head.layout.sequences, metrics, wpo_weights)
    head.run("logps", head.batch(), logps_struct(outputs))
    return outputs


@linear_logps.register_fake
def _(hidden, weight, bias, *arguments):
    *row_arguments, metrics, wpo_weights = arguments
    rows = Rows(*row_arguments)
    layout = layout_of("hidden", hidden, rows.labels, rows.cu_seqlens)
    return logps_outputs(rows.labels, layout.sequences, metrics, wpo_weights)


def _save(ctx, inputs, output):
    hidden, weight, bias, *row_arguments = inputs[: len(HEAD) + len(Rows._fields)]
    rows = Rows(*row_arguments)
    ctx.rows = rows._replace(labels=None, cu_seqlens=None)
    ctx.save_for_backward(hidden, weight, bias, rows.labels, rows.cu_seqlens, output[3], output[4], output[5])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def where_wanted(wanted, gradients):
    """The gradients that autograd asks for: an operator gives an empty tensor for each of the others."""
    return tuple(gradient if is_wanted else None for is_wanted, gradient in zip(wanted, gradients))


def _formula(ctx, dlogps, dtoken_logps, *unused):
    if dlogps is None and dtoken_logps is None:
        return (None,) * _PARAMETERS
    hidden, weight, bias, labels, cu_seqlens, logsumexp, residual, token_weights = ctx.saved_tensors
    rows = ctx.rows._replace(labels=labels, cu_seqlens=cu_seqlens)
    coefficients = row_coefficients(rows, token_weights, dlogps, dtoken_logps)
    wanted = tuple(ctx.needs_input_grad[:3])
    gradients = linear_logps_backward(hidden, weight, bias, logsumexp, residual, *coefficients, *wanted, *rows)
    return *where_wanted(wanted, gradients), *(None,) * (_PARAMETERS - 3)


linear_logps.register_autograd(_formula, setup_context=_save)


def gradients_like(hidden, weight, wanted):
    """Memory for dX in the type of the hidden states, which is overwritten, and for dW and db in f32, which are added to."""
    of_hidden, of_weight, of_bias = wanted
    empty = torch.empty(0, dtype=hidden.dtype, device=hidden.device)
    return (
        torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) if of_hidden else empty,
        torch.zeros(weight.shape if of_weight else (0,), dtype=torch.float32, device=hidden.device),
        torch.zeros(weight.shape[:1] if of_bias else (0,), dtype=torch.float32, device=hidden.device),
    )


def gradients_struct(gradients):
    hidden, weight, bias = (gradient.data_ptr() if gradient.numel() else None for gradient in gradients)
    return _structs.dpo_lm_head_gradients(hidden=hidden, weight=weight, bias=bias)


@operator(
    "linear_logps_backward",
    [
        *HEAD,
        "Tensor logsumexp",
        "Tensor logsumexp_residual",
        "Tensor? coef",
        "Tensor? token_coef",
        "bool of_hidden",
        "bool of_weight",
        "bool of_bias",
        fields(Rows),
    ],
    tensors(3),
)
def linear_logps_backward(
    hidden, weight, bias, logsumexp, residual, coef, token_coef, of_hidden, of_weight, of_bias, *row_arguments
):
    """dX, dW and db in the type of the hidden states; of no elements where they are not wanted."""
    rows = Rows(*row_arguments).prepared()
    head = Head(hidden, weight, bias, rows)
    check_coefficients(head.layout, rows, logsumexp, residual, coef, token_coef)
    logsumexp, residual, coef, token_coef = (as_floats(each) for each in (logsumexp, residual, coef, token_coef))
    gradients = gradients_like(hidden, weight, (of_hidden, of_weight, of_bias))
    inputs = _structs.dpo_lm_head_backward_inputs(
        logsumexp=logsumexp.data_ptr(),
        logsumexp_residual=residual.data_ptr(),
        coef=address(coef),
        token_coef=address(token_coef),
    )
    head.run("backward", head.batch(), inputs, gradients_struct(gradients))
    return tuple(gradient.to(hidden.dtype) for gradient in gradients)


@linear_logps_backward.register_fake
def _(hidden, weight, bias, logsumexp, residual, coef, token_coef, *rest):
    return tuple(gradient.to(hidden.dtype) for gradient in gradients_like(hidden, weight, rest[:3]))


linear_logps_backward.register_autograd(refuse_double_backward)
