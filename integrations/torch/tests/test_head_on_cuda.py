"""How the package calls the head on a GPU, without one: the calls are answered by their twins on the CPU, which read the same structs.

What is left to a GPU is the library's own part: test_cuda.py.
"""

import contextlib
import ctypes
import types

import pytest
import torch

import dpo_kernels as dk
from dpo_kernels import _ffi, _structs
from dpo_kernels.ops.linear_logps import Head

S, T, V, H = 6, 9, 37, 16
BYTES = 1 << 12


class Calls:
    """Answers for the functions of a GPU, and the workspaces that they were given."""

    def __init__(self, real):
        self.real, self.workspaces, self.stages, self.copies = real, [], [], []

    def copy(self, tensor):
        """As a copy from a GPU is, elsewhere."""
        self.copies.append(tensor.clone())
        return self.copies[-1]

    def __call__(self, name, *arguments):
        if not name.startswith("dpo_cuda_"):
            return self.real(name, *arguments)
        if name == "dpo_cuda_lm_head_workspace_size":
            arguments[1]._obj.value = BYTES
            return None
        stage = name.removeprefix("dpo_cuda_lm_head_")
        kernels, products, *shared, workspace, stream = arguments
        batch, head = shared[:2]
        # What the host has to know is read where it was copied to, and nothing else is.
        of_host = {batch.cu_seqlens, batch.chosen, batch.rejected, batch.desirable, head.labels} - {None}
        assert of_host == {tensor.data_ptr() for tensor in self.copies}
        self.copies.clear()
        assert (kernels, products, stream) == ("kernels", "products", 7)
        # The memory is there, and zeroed.
        assert not any((ctypes.c_char * BYTES).from_address(workspace.memory).raw)
        self.stages.append(stage)
        self.workspaces.append(workspace)
        if dk.cuda_is_built():
            self.check(stage, shared, workspace)
        return self.real(f"dpo_cpu_lm_head_{stage}", *shared, None)

    def check(self, stage, shared, workspace):
        """The library itself accepts the arguments, as far as it can tell without a GPU."""
        batch, head, *rest = shared
        loss, gradients = (rest[1], rest[-1]) if stage == "forward" else (None, None)
        plan = _structs.dpo_lm_head_plan()
        self.real("dpo_cuda_lm_head_plan", batch, head, loss, gradients, workspace, ctypes.byref(plan))


@pytest.fixture
def calls(monkeypatch):
    calls = Calls(_ffi.call)
    monkeypatch.setattr(_ffi, "call", calls)
    monkeypatch.setattr(_ffi, "_kernels", lambda _: "kernels")
    monkeypatch.setattr(_ffi, "_products", lambda _: "products")
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=7))
    return calls


def tensors(dtype):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(S, T, H, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator).to(dtype).requires_grad_()
    # A bias that begins off the boundaries of memory.
    bias = torch.randn(V + 1, generator=generator).to(dtype)[1:].requires_grad_()
    labels = torch.randint(0, V - 2, (S, T), generator=generator)
    labels[:, :2] = -100
    ref_logps = -20 * torch.rand(S, generator=generator)
    return hidden, weight, bias, labels, ref_logps


CASES = {
    "sigmoid": dict(loss="sigmoid"),
    "indexed": dict(loss="ipo", chosen=torch.tensor([0, 2, 4, 1]), rejected=torch.tensor([1, 3, 5, 3])),
    "unpaired": dict(loss="kto", desirable=torch.tensor([1, 0, 1, 0, 0, 1]), kl_logps=torch.full((4,), -9.0), kl_ref_logps=torch.full((4,), -8.0)),
    "options": dict(loss=["sigmoid", "bco_pair"], loss_weights=[1.0, 0.5], ld_alpha=0.5, logit_scale=0.7, valid_vocab=V - 2),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", CASES)
def test_calls_are_those_of_the_cpu(name, dtype, calls, monkeypatch):
    def results():
        hidden, weight, bias, labels, ref_logps = tensors(dtype)
        leaves = (hidden, weight, bias)
        options = {"label_alignment": "next_token", "token_metrics": "all", **CASES[name]}
        result = dk.linear_dpo_loss(hidden, weight, labels, ref_logps, bias, **options)
        gradients = torch.autograd.grad(result.loss, leaves)
        rows = {key: value for key, value in options.items() if key in ("label_alignment", "ld_alpha", "logit_scale", "valid_vocab")}
        token_logps = dk.linear_token_logps(hidden, weight, labels, bias, **rows).token_logps
        of_tokens = torch.autograd.grad(token_logps.square().sum(), leaves)
        return [result.loss, result.logps, result.margins, *gradients, token_logps, *of_tokens]

    expected = results()
    assert not calls.stages
    monkeypatch.setattr(Head, "run", Head.run_on_cuda)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.copy(tensor))
    found = results()
    assert calls.stages[0] == "forward" and calls.stages[-2:] == ["logps", "backward"]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    for workspace in calls.workspaces:
        assert (workspace.sequences, workspace.rows, workspace.hidden_size, workspace.given) == (S, S * T, H, 0)
        assert workspace.vocab == V and workspace.pairs == S


def test_packed_rows(calls, monkeypatch):
    hidden, weight, _, labels, ref_logps = tensors(torch.float32)
    cu_seqlens = torch.arange(0, S * T + 1, T)
    packed = hidden.detach().reshape(S * T, H)
    flat = labels.reshape(S * T)
    options = {"label_alignment": "next_token", "cu_seqlens": cu_seqlens}
    expected = dk.linear_dpo_loss(packed, weight, flat, ref_logps, **options).loss
    monkeypatch.setattr(Head, "run", Head.run_on_cuda)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.copy(tensor))
    assert torch.equal(dk.linear_dpo_loss(packed, weight, flat, ref_logps, **options).loss, expected)
    assert calls.stages == ["forward"]
