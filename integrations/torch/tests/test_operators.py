"""The operators as PyTorch has its own: opcheck, torch.compile, torch.export, checkpointing, autocast, versions."""

import copy
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import dpo_kernels as dk
from dpo_kernels import ops
from dpo_kernels.options import LossArguments, RowArguments

S, T, V, H = 4, 6, 13, 8
ALIGNMENT = {"label_alignment": "next_token"}


def tensors(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, V, (S, T), generator=generator)
    labels[:, :2] = -100
    return {
        "logits": torch.randn(S, T, V, generator=generator).to(dtype),
        "hidden": torch.randn(S, T, H, generator=generator).to(dtype),
        "weight": torch.randn(V, H, generator=generator).to(dtype),
        "labels": labels,
        "ref_logps": torch.randn(S, generator=generator) - 12,
    }


def rows(labels, **options):
    return RowArguments("next_token", **options).rows(labels, "concatenated")


def loss(ref_logps, **options):
    options = {"loss": "sigmoid", "beta": 0.3, **options}
    return LossArguments(options.pop("loss"), options.pop("beta"), **options).of_operator(ref_logps, None)


def backward_inputs(of_rows):
    generator = torch.Generator().manual_seed(5)
    coef, token_coef = torch.randn(S, generator=generator), torch.randn(S, T, generator=generator)
    t = tensors()
    outputs = ops.logps(t["logits"], *of_rows, "none", False)
    return outputs[3], outputs[4], coef, token_coef


def operator_calls(dtype=torch.float32):
    t = tensors(dtype)
    plain, many = rows(t["labels"]), rows(t["labels"], ld_alpha=0.5, logit_scale=0.5, softcap=4.0, valid_vocab=V)
    packed = rows(t["labels"].view(-1), cu_seqlens=torch.arange(0, S * T + 1, T))
    logits, hidden, weight = (t[name].requires_grad_() for name in ("logits", "hidden", "weight"))
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    logps = torch.randn(S, requires_grad=True)
    mixture = loss(t["ref_logps"], loss=["sigmoid", "sft"], loss_weights=[0.5, 1.0], gamma=torch.zeros(S // 2))
    gradients = [torch.randn(S, T, H).to(dtype), torch.randn(V, H), torch.randn(V)]
    return {
        "logps": (ops.logps, (logits, *plain, "none", False)),
        "logps with all": (ops.logps, (logits, *many, "all", False)),
        "logps of packed": (ops.logps, (logits.detach().view(-1, V).requires_grad_(), *packed, "entropy", True)),
        "logps of strided": (
            ops.logps,
            (torch.randn(S, T, V + 3).to(dtype)[..., :V].requires_grad_(), *plain, "none", False),
        ),
        "logps_backward": (ops.logps_backward, (logits.detach(), *backward_inputs(plain), *plain)),
        "logps_backward of strided": (
            ops.logps_backward,
            (torch.randn(S, T, V + 3).to(dtype)[..., :V], *backward_inputs(plain), *plain),
        ),
        "logps_backward_": (ops.logps_backward_, (logits.detach().clone(), *backward_inputs(plain), *plain)),
        "pair_loss": (ops.pair_loss, (logps, None, *loss(t["ref_logps"]))),
        "pair_loss of a mixture": (ops.pair_loss, (logps, torch.full((S,), 3, dtype=torch.int32), *mixture)),
        "pair_loss_backward": (ops.pair_loss_backward, (logps.detach(), torch.randn(S), torch.tensor(2.0))),
        "linear_logps": (ops.linear_logps, (hidden, weight, bias, *many, "all", False)),
        "linear_logps_backward": (
            ops.linear_logps_backward,
            (hidden.detach(), weight.detach(), None, *backward_inputs(plain), True, True, False, *plain),
        ),
        "linear_dpo_loss": (
            ops.linear_dpo_loss,
            (hidden, weight, bias, *plain, "entropy", True, True, True, *loss(t["ref_logps"])),
        ),
        "linear_dpo_loss without gradients": (
            ops.linear_dpo_loss,
            (hidden.detach(), weight.detach(), None, *plain, "none", False, False, False, *loss(t["ref_logps"])),
        ),
        "linear_dpo_loss_backward": (
            ops.linear_dpo_loss_backward,
            (hidden.detach(), weight.detach(), *gradients, torch.tensor(2.0)),
        ),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", operator_calls())
def test_opcheck(name, dtype):
    operator, arguments = operator_calls(dtype)[name]
    torch.library.opcheck(operator, arguments)


def test_all_operators_are_checked():
    checked = {operator for operator, _ in operator_calls().values()}
    assert checked == {getattr(ops, name) for name in ops.__all__ if name != "LogpsInPlace"}


class Model(torch.nn.Module):
    """Embedding, one layer, head: the smallest language model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = torch.nn.Embedding(V, H)
        self.layer = torch.nn.Linear(H, H)
        self.lm_head = torch.nn.Linear(H, V)

    def hidden(self, ids):
        return torch.tanh(self.layer(self.embedding(ids)))

    def forward(self, ids):
        return self.lm_head(self.hidden(ids))


def from_logits(model, ids, labels, ref_logps, **options):
    return dk.dpo_loss(model(ids), labels, ref_logps, **ALIGNMENT, **options)


def from_hidden(model, ids, labels, ref_logps, **options):
    head = model.lm_head
    return dk.linear_dpo_loss(model.hidden(ids), head.weight, labels, ref_logps, head.bias, **ALIGNMENT, **options)


def own_loss(model, ids, labels, ref_logps, **options):
    logps = dk.sequence_logps(model(ids), labels, **ALIGNMENT)
    chosen, rejected = (logps - ref_logps).chunk(2)
    return dk.DpoLoss(F.softplus(0.3 * (rejected - chosen)).mean(), *(None,) * (len(dk.DpoLoss._fields) - 1))


FUNCTIONS = (from_logits, from_hidden, own_loss)


def gradients(model, function):
    model.zero_grad()
    value = function(model)
    value.backward()
    return value.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def model_inputs():
    t = tensors()
    return t["labels"].clamp(min=0), t["labels"], t["ref_logps"]


def same(found, wanted):
    """The same kernels on the same numbers, between products that may be fused in another order."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compile_of_a_whole_model_gives_the_same_numbers(function):
    model, inputs = Model(), model_inputs()
    wanted = gradients(model, lambda m: function(m, *inputs).loss)
    torch._dynamo.reset()
    compiled = torch.compile(lambda m, *inputs: function(m, *inputs).loss, fullgraph=True)
    same(gradients(model, lambda m: compiled(m, *inputs)), wanted)


def test_compile_of_many_options_and_in_place():
    model, (ids, labels, ref_logps) = Model(), model_inputs()

    def value(m, ids, labels, ref_logps, inplace_backward):
        result = dk.dpo_loss(
            m(ids), labels, ref_logps, **ALIGNMENT, loss=["sigmoid", "sft"], loss_weights=[0.7, 0.3], beta=0.2,
            ld_alpha=0.5, token_metrics="all", pair_weight=torch.ones(S // 2), use_weighting=True,
            inplace_backward=inplace_backward,
        )  # fmt: skip
        return result.loss + 0 * result.token_metrics.entropy.sum()

    wanted = gradients(model, lambda m: value(m, ids, labels, ref_logps, True))
    torch._dynamo.reset()
    compiled = torch.compile(value, fullgraph=True)
    same(gradients(model, lambda m: compiled(m, ids, labels, ref_logps, True)), wanted)


def test_compile_with_shapes_that_change():
    model, (ids, labels, ref_logps) = Model(), model_inputs()
    torch._dynamo.reset()
    compiled = torch.compile(lambda m, *inputs: from_logits(m, *inputs).loss, fullgraph=True, dynamic=True)
    for length in (T, T - 1, T - 2):
        inputs = (ids[:, :length].contiguous(), labels[:, :length].contiguous(), ref_logps)
        wanted = gradients(model, lambda m: from_logits(m, *inputs).loss)
        same(gradients(model, lambda m: compiled(m, *inputs)), wanted)


@pytest.mark.parametrize("function", [from_logits, from_hidden])
def test_export_of_the_forward(function):
    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def forward(self, ids, labels, ref_logps):
            result = function(self.model, ids, labels, ref_logps, token_metrics="entropy")
            return result.loss, result.margins

    module, inputs = Loss(), model_inputs()
    with torch.no_grad():
        exported = torch.export.export(module, inputs).module()
        same(exported(*inputs), module(*inputs))


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient_checkpointing(function, use_reentrant):
    model, inputs = Model(), model_inputs()
    wanted = gradients(model, lambda m: function(m, *inputs).loss)
    # A reentrant checkpoint differentiates where an input does.
    anchor = torch.zeros((), requires_grad=True)

    def value(m):
        body = lambda anchor, *inputs: function(m, *inputs).loss + 0 * anchor  # noqa: E731
        return checkpoint(body, anchor, *inputs, use_reentrant=use_reentrant)

    assert_equal(gradients(model, value), wanted)


def assert_equal(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast(function):
    """As for a model that is cast by hand: products in bf16, the loss in f32."""
    model, inputs = Model(), model_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        value, of_autocast = gradients(model, lambda m: function(m, *inputs).loss)
    assert value.dtype == torch.float32 and all(gradient.dtype == torch.float32 for gradient in of_autocast)
    wanted, exact = gradients(model, lambda m: function(m, *inputs).loss)
    # Factors of a product have 8 bits in bf16; a hidden state goes through two of them.
    torch.testing.assert_close(value, wanted, rtol=4 * 2**-8, atol=4 * 2**-8)
    largest = max(float(gradient.abs().max()) for gradient in exact)
    torch.testing.assert_close(of_autocast, exact, rtol=0, atol=16 * 2**-8 * largest)


def test_autocast_computes_the_product_of_the_head_in_its_type():
    t = tensors()
    result = {}
    with torch.autocast("cpu", torch.bfloat16):
        result["autocast"] = dk.linear_dpo_loss(t["hidden"], t["weight"], t["labels"], t["ref_logps"], **ALIGNMENT)
    halves = t["hidden"].bfloat16(), t["weight"].bfloat16()
    result["by hand"] = dk.linear_dpo_loss(*halves, t["labels"], t["ref_logps"], **ALIGNMENT)
    assert_equal(result["autocast"].loss, result["by hand"].loss)


def test_deepcopies_and_threads_share_nothing():
    """Workspaces belong to threads: calls at the same time give what calls one after the other do."""
    from concurrent.futures import ThreadPoolExecutor

    inputs = model_inputs()
    models = [copy.deepcopy(Model()) for _ in range(4)]
    wanted = [gradients(model, lambda m: from_hidden(m, *inputs).loss) for model in models]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda model: gradients(model, lambda m: from_hidden(m, *inputs).loss), models))
    assert_equal(found, wanted)


# In-place gradients.


def test_the_gradient_in_place_has_the_same_bits_and_the_memory_of_the_logits():
    t = tensors()
    found = {}
    for inplace_backward in (False, True):
        leaf = t["logits"].clone().requires_grad_()
        logits = leaf * 1
        seen = []
        logits.register_hook(lambda gradient, seen=seen: seen.append(gradient.data_ptr()))
        result = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=inplace_backward)
        result.loss.backward()
        found[inplace_backward] = leaf.grad
        assert (seen == [logits.data_ptr()]) == inplace_backward
    assert_equal(found[True], found[False])


def test_who_needs_the_logits_later_is_told():
    t = tensors()
    leaf = t["logits"].clone().requires_grad_()
    logits = leaf * 1
    other = logits.square().sum()
    result = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=True)
    version = logits._version
    result.loss.backward(retain_graph=True)
    assert logits._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.loss.backward()


def test_logits_that_changed_after_the_forward_are_refused():
    t = tensors()
    for inplace_backward in (False, True):
        logits = t["logits"].clone().requires_grad_() * 1
        result = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=inplace_backward)
        with torch.no_grad():
            logits.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.loss.backward()


def test_a_leaf_and_odd_strides_cannot_take_their_gradient_in_place():
    t = tensors()
    with pytest.raises(ValueError, match="inplace_backward: expected logits that an operation made, found a leaf"):
        dk.dpo_loss(t["logits"].requires_grad_(), t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=True)
    logits = (torch.randn(S, V, T, requires_grad=True) * 1).transpose(1, 2)
    result = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=True)
    with pytest.raises(ValueError, match="inplace_backward: expected logits whose rows"):
        result.loss.backward()


def test_the_forward_leaves_the_logits_as_they_are():
    t = tensors()
    logits = t["logits"].clone()
    dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=True)
    assert_equal(logits, t["logits"])


# Upstream gradients.


def test_results_without_an_upstream_gradient():
    """Autograd sends None for those; a loss that is not used at all has no gradient."""
    t = tensors()
    logits = t["logits"].requires_grad_()
    result = dk.token_logps(logits, t["labels"], **ALIGNMENT)
    (by_sums,) = torch.autograd.grad(result.logps.sum(), logits)
    result = dk.token_logps(logits, t["labels"], **ALIGNMENT)
    (by_tokens,) = torch.autograd.grad(result.token_logps.sum(), logits)
    assert_equal(by_sums, by_tokens)
    loss = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT)
    assert loss.loss.requires_grad
    others = [value for name, value in loss._asdict().items() if name != "loss" and value is not None]
    assert not any(value.requires_grad for value in others)
    assert torch.autograd.grad(result.scored.sum() + logits.sum() * 0, logits)[0].eq(0).all()


@pytest.mark.parametrize("function", [from_logits, from_hidden])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_upstream_gradients_scale(function, dtype):
    model, inputs = Model().to(dtype), model_inputs()
    _, once = gradients(model, lambda m: function(m, *inputs).loss)
    _, scaled = gradients(model, lambda m: function(m, *inputs).loss * 1024)
    # A gradient scaler's factor: what f16 would have lost below its least number is there.
    for one, many in zip(once, scaled):
        torch.testing.assert_close(many.float() / 1024, one.float(), rtol=2**-9, atol=2**-14)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_second_derivative_is_refused_in_words(function):
    model, inputs = Model(), model_inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="expected one backward pass, found a gradient of a gradient"):
            first = torch.autograd.grad(function(model, *inputs).loss, list(model.parameters()), create_graph=True)
            sum(gradient.square().sum() for gradient in first).backward()


def test_a_second_derivative_of_a_pair_loss_and_in_place_is_refused():
    logps = torch.randn(S, requires_grad=True)
    (first,) = torch.autograd.grad(dk.pair_loss(logps, torch.zeros(S)).loss, logps, create_graph=True)
    with pytest.raises(RuntimeError, match="gradient of a gradient"):
        first.sum().backward()
    t = tensors()
    logits = t["logits"].requires_grad_() * 1
    result = dk.dpo_loss(logits, t["labels"], t["ref_logps"], **ALIGNMENT, inplace_backward=True)
    with pytest.raises(RuntimeError, match="gradient of a gradient"):
        torch.autograd.grad(result.loss, logits, create_graph=True)


def test_no_grad_makes_no_graph():
    t = tensors()
    with torch.no_grad():
        result = dk.linear_dpo_loss(t["hidden"].requires_grad_(), t["weight"], t["labels"], t["ref_logps"], **ALIGNMENT)
    assert not result.loss.requires_grad


# Strides.


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: F.pad(x, (0, 5))[..., :V],
        lambda x: F.pad(x, (2, 3))[..., 2:-3],
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: F.pad(x, (0, 0, 0, 1))[:, :-1],
    ],
    ids=["dense", "padded vocabulary", "misaligned", "time first", "vocabulary first", "one position cut off"],
)
def test_strides_change_no_bit(view):
    t = tensors()
    wanted = t["logits"].clone().requires_grad_()
    dk.dpo_loss(wanted, t["labels"], t["ref_logps"], **ALIGNMENT).loss.backward()
    leaf = t["logits"].clone().requires_grad_()
    dk.dpo_loss(view(leaf), t["labels"], t["ref_logps"], **ALIGNMENT).loss.backward()
    assert_equal(leaf.grad, wanted.grad)
    labels = torch.cat([t["labels"], t["labels"]], dim=1)[:, ::2]
    leaf = t["logits"].clone().requires_grad_()
    by_strided = dk.token_logps(leaf, labels, **ALIGNMENT).token_logps
    by_dense = dk.token_logps(leaf, labels.contiguous(), **ALIGNMENT).token_logps
    assert_equal(by_strided, by_dense)


def test_rows_are_read_where_they_are():
    """A padded vocabulary is not copied: its gradient has the strides of the logits."""
    t = tensors()
    logits = F.pad(t["logits"], (0, 5))[..., :V]
    of_rows = rows(t["labels"])
    found = ops.logps_backward(logits, *backward_inputs(of_rows), *of_rows)
    assert found.stride() == logits.stride()
