"""The contestants from hidden states. Each takes the same hidden states [S, T, H], weight [V, H] and labels [S, T] to the DPO
loss and the gradients of hidden states and, unless it is frozen, of the weight."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F

import dpo_kernels

BETA = 0.1
IGNORE_INDEX = dpo_kernels.IGNORE_INDEX
OURS = "dpo-kernels"
# What TRL's add_fused_lm_head hands on: columns of a tile, and no metrics beside the log-probs.
TRL_COLUMNS = 32768
NO_METRICS = ()


@functools.cache
def trl_function():
    """ChunkedLogProbFunction, of the one file of TRL's that has it; the package around it wants transformers, datasets and more.

    It asks transformers whether there is Triton, and the trainers' utilities for the weight's shards, of which there are none.
    """
    [package] = importlib.util.find_spec("trl").submodule_search_locations
    stands_in = {
        "transformers.utils": {"is_triton_available": lambda: importlib.util.find_spec("triton") is not None},
        "trl_heads.trainer.utils": {"maybe_gather_lm_head_ctx": lambda *_: contextlib.nullcontext()},
    }
    for name, contents in stands_in.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        vars(sys.modules[name]).update(contents)
    path = Path(package) / "kernels" / "chunked_logprob.py"
    spec = importlib.util.spec_from_file_location("trl_heads.kernels.chunked_logprob", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ChunkedLogProbFunction


def trl(hidden, weight, labels):
    """The loss and sequence log-probs as TRL's trainer takes them: without Triton, of all positions, ignored or not."""
    targets = labels.clamp(min=0).flatten()
    tokens, *_ = trl_function().apply(
        hidden.flatten(0, 1), weight, None, targets, 1.0, TRL_COLUMNS, None, 1.0, NO_METRICS
    )
    return of_tokens(tokens, labels)


def eager(hidden, weight, labels):
    """All logits at once, as a model makes them, and their log_softmax in f32."""
    tokens = (hidden @ weight.t()).float().log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1))
    return of_tokens(tokens, labels)


def of_tokens(tokens, labels):
    logps = tokens.view_as(labels).masked_fill(labels == IGNORE_INDEX, 0).sum(-1)
    chosen, rejected = logps.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean(), logps


@functools.cache
def liger_loss(compiled):
    """Liger's loss without a reference model, which would be one more product: all contestants' reference is 0."""
    from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOLoss

    return LigerFusedLinearDPOLoss(ignore_index=IGNORE_INDEX, beta=BETA, compiled=compiled, use_ref_model=False)


def liger(compiled, hidden, weight, labels):
    """The loss and sequence log-probs, a pair at a time; the gradients are made on the way there."""
    loss, (chosen, rejected, *_) = liger_loss(compiled)(weight, hidden, labels)
    return loss, torch.cat([chosen, rejected])


@functools.cache
def peers(compiled):
    """Name -> function from hidden states, weight and labels to the loss and the sequences' log-probs."""
    trl_name, liger_name = (f"{package} {importlib.metadata.version(package)}" for package in ("trl", "liger-kernel"))
    plain = {"pytorch eager": eager, trl_name: trl, liger_name: functools.partial(liger, False)}
    if not compiled:
        return plain
    return plain | {
        "pytorch eager, compiled": torch.compile(eager, dynamic=False),
        f"{trl_name}, compiled": torch.compile(trl, dynamic=False),
        f"{liger_name}, compiled": functools.partial(liger, True),
    }


class Peer:
    """A function of PyTorch's, with autograd for the way back; see variants.Peer."""

    def __init__(self, function, hidden, weight, labels, frozen):
        # Tensors of its own over the same memory: Liger marks the labels as of a dynamic shape, which would compile the others anew.
        self.function, self.labels = function, labels.detach()
        self.hidden = hidden.detach().requires_grad_()
        self.weight = weight.detach().requires_grad_(not frozen)
        self.logps = self.loss = None

    def prepare(self):
        pass

    def release(self):
        self.hidden.grad = self.weight.grad = self.logps = self.loss = None

    forget = release

    def forward(self):
        self.loss, logps = self.function(self.hidden, self.weight, self.labels)
        self.logps = logps.detach()

    def backward(self):
        self.loss.backward()

    def gradients(self):
        return self.hidden.grad, self.weight.grad


class Ours:
    """dpo-kernels through its C ABI: the gradients come with the loss, into buffers that are made once.

    Zeroing that of the weight, to which it adds, is part of the pass.
    """

    def __init__(self, library, hidden, weight, labels, frozen):
        self.kernels = dpo_kernels.HeadPass(library, weight, labels, BETA)
        self.hidden, self.frozen, self.no_reference = hidden, frozen, torch.zeros(len(labels))
        self.dhidden = self.dweight = None

    def prepare(self):
        if self.dhidden is None:
            self.dhidden = torch.empty_like(self.hidden)
            self.dweight = None if self.frozen else torch.empty_like(self.kernels.weight, dtype=torch.float32)

    def release(self):
        pass

    def forget(self):
        self.dhidden = self.dweight = None
        self.kernels.forget()

    def forward(self):
        if self.dweight is not None:
            self.dweight.zero_()
        self.kernels.forward(self.hidden, self.no_reference, self.dhidden, self.dweight)

    def backward(self):
        pass

    def gradients(self):
        self.kernels.check()
        return self.dhidden, self.dweight

    @property
    def logps(self):
        return self.kernels.logps


def contestants(library, hidden, weight, labels, frozen, compiled):
    """Name -> contestant, on these tensors."""
    tensors = (hidden, weight, labels, frozen)
    return {OURS: Ours(library, *tensors)} | {
        name: Peer(function, *tensors) for name, function in peers(compiled).items()
    }
