"""Every function and every loss against autograd of plain PyTorch in f64."""

import pytest
import reference
import tolerance
import torch
from torch.nn import functional as F

import dpo_kernels as dk

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
S, T, V, H = 6, 9, 37, 16
BETA = 0.3


def batch(dtype, seed=0):
    """Logits, next-token labels of which prompts and paddings are ignored, and a reference."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(S, T, V, generator=generator)).to(dtype)
    labels = torch.randint(0, V, (S, T), generator=generator)
    for s in range(S):
        labels[s, : 1 + s % 3] = -100
        labels[s, T - s % 2 :] = -100
    ref_logps = -3.5 * (labels[:, 1:] != -100).sum(1) + 2 * torch.randn(S, generator=generator)
    return logits, labels, ref_logps


def arguments_of(name, ref_logps):
    own, of_reference = reference.LOSSES[name]
    ref_logps = None if name in reference.WITHOUT_REFERENCE else ref_logps
    return ref_logps, dict(own, loss=name, beta=BETA), dict(of_reference, beta=BETA)


def loss_of(name, scored, ref_logps, of_reference):
    """The reference's mean over the pairs, as a function of [S] log-probs."""
    return lambda logps: reference.pair_losses(name, logps, ref_logps, scored.sum(1), **of_reference).mean()


def held(found, expected, bound, what):
    error = (found.double() - expected).abs()
    assert (error <= bound).all(), f"{what}: off by {float(error.max())}, at most {float(torch.as_tensor(bound).max())}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", reference.LOSSES)
def test_dpo_loss(name, dtype):
    logits, labels, ref_logps = batch(dtype)
    ref_logps, own, of_reference = arguments_of(name, ref_logps)
    logits.requires_grad_()
    result = dk.dpo_loss(logits, labels, ref_logps, label_alignment="next_token", check=True, **own)
    result.loss.backward()

    exact = logits.detach().double().requires_grad_()
    tokens, scored = reference.token_logps(exact, labels, "next_token")
    logps = tokens.sum(1)
    function = loss_of(name, scored, ref_logps, of_reference)
    expected = function(logps)
    expected.backward()

    delta = tolerance.of_logps(logits.detach())
    of_loss, of_coef = tolerance.of_loss(function, logps, delta)
    held(result.logps, logps, delta, "logps")
    held(result.loss, expected, of_loss, "loss")
    largest = float(result.coef.abs().max())
    held(logits.grad, exact.grad, tolerance.of_gradient(dtype, exact.grad, of_coef, largest), "gradient")
    assert logits.grad.dtype == dtype and (logits.grad[:, -1] == 0).all()


@pytest.mark.parametrize("name", reference.LOSSES)
def test_pair_loss(name):
    logits, labels, ref_logps = batch(torch.float32)
    ref_logps, own, of_reference = arguments_of(name, ref_logps)
    tokens, scored = reference.token_logps(logits, labels, "next_token")
    logps = tokens.sum(1).float().requires_grad_()
    counts = scored.sum(1)
    result = dk.pair_loss(logps, ref_logps, scored=counts, check=True, **own)
    (result.loss * 3).backward()
    exact = logps.detach().double().requires_grad_()
    function = loss_of(name, scored, ref_logps, of_reference)
    (3 * function(exact)).backward()
    of_loss, of_coef = tolerance.of_loss(function, exact, 0.0)
    held(result.loss, function(exact), of_loss, "loss")
    held(logps.grad, exact.grad, 3 * of_coef, "coefficients")
    assert torch.equal(logps.grad, 3 * result.coef)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", reference.LOSSES)
def test_linear_dpo_loss(name, dtype):
    _, labels, ref_logps = batch(dtype)
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(S, T, H, generator=generator).to(dtype).requires_grad_()
    weight = (0.5 * torch.randn(V, H, generator=generator)).to(dtype).requires_grad_()
    bias = torch.randn(V, generator=generator).to(dtype).requires_grad_()
    ref_logps, own, of_reference = arguments_of(name, ref_logps)
    result = dk.linear_dpo_loss(
        hidden, weight, labels, ref_logps, bias, label_alignment="next_token", check=True, **own
    )
    upstream = 1.5
    (upstream * result.loss).backward()

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    logits = F.linear(*exact)
    tokens, scored = reference.token_logps(logits, labels, "next_token")
    function = loss_of(name, scored, ref_logps, of_reference)
    expected = function(tokens.sum(1))
    (upstream * expected).backward()

    # A logit is a sum of H products in f32, each off by a rounding of what it is a part of.
    of_logit = H * tolerance.F32 * float((hidden.detach().abs().double() @ weight.detach().abs().double().T).max())
    delta = tolerance.of_logps(logits.detach()) + 2 * T * of_logit
    of_loss, of_coef = tolerance.of_loss(function, tokens.sum(1), delta)
    held(result.loss, expected, of_loss, "loss")
    largest = float(result.coef.abs().max())
    of_row = upstream * (of_coef + (2 * of_logit + 64 * tolerance.F32) * largest)
    # Each gradient is a product with rows of G, whose entries' sizes add up to 2 at most, and rounded to its type twice.
    scored_rows = int(scored.sum())
    for found, wanted, size in (
        (hidden.grad, exact[0].grad, 2 * float(exact[1].detach().abs().max())),
        (weight.grad, exact[1].grad, scored_rows * float(exact[0].detach().abs().max())),
        (bias.grad, exact[2].grad, scored_rows),
    ):
        rounding = 3 * tolerance.ROUNDING[dtype] * wanted.abs() + 2 * tolerance.SUBNORMAL[dtype]
        of_sum = V * tolerance.F32 * largest * upstream * size
        held(found, wanted, of_row * size + of_sum + rounding, "gradient")
        assert found.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upstream", ["logps", "token_logps", "both"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("ld_alpha", [None, 0.4])
def test_token_logps(dtype, upstream, linear, ld_alpha):
    """Gradients through sums, through tokens and through both at once, whose upstream gradients have strides of all kinds."""
    logits, labels, _ = batch(dtype)
    generator = torch.Generator().manual_seed(3)
    of_tokens = torch.randn(T, S, generator=generator).T
    of_sums = torch.randn(1, generator=generator).expand(S)
    inputs = (logits.requires_grad_(),)
    if linear:
        inputs = (
            torch.randn(S, T, H, generator=generator).to(dtype).requires_grad_(),
            (0.5 * torch.randn(V, H, generator=generator)).to(dtype).requires_grad_(),
        )
    function = dk.linear_token_logps if linear else dk.token_logps
    result = function(*inputs, labels, label_alignment="next_token", ld_alpha=ld_alpha, check=True)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact_logits = F.linear(*exact) if linear else exact[0]
    tokens, scored = reference.token_logps(exact_logits, labels, "next_token")
    weights = scored.double() if ld_alpha is None else reference.ld_weights(scored, ld_alpha)
    outputs = {
        "logps": (result.logps, (tokens * weights).sum(1), of_sums),
        "token_logps": (result.token_logps, tokens, of_tokens),
    }
    chosen = outputs.values() if upstream == "both" else [outputs[upstream]]
    torch.autograd.backward([found for found, _, _ in chosen], [gradient for _, _, gradient in chosen])
    torch.autograd.backward([wanted for _, wanted, _ in chosen], [gradient.double() for _, _, gradient in chosen])

    largest = float(of_tokens.abs().max() + of_sums.abs().max())
    of_logit = (
        H * tolerance.F32 * float((inputs[0].detach().abs().double() @ inputs[1].detach().abs().double().T).max())
        if linear
        else 0.0
    )
    delta = tolerance.of_logps(exact_logits.detach()) + 2 * T * of_logit
    held(result.logps, (tokens * weights).sum(1), delta, "logps")
    held(result.token_logps, tokens, delta, "token_logps")
    sizes = [1.0]
    if linear:
        sizes = [2 * float(exact[1].detach().abs().max()), int(scored.sum()) * float(exact[0].detach().abs().max())]
    for tensor, wanted, size in zip(inputs, exact, sizes):
        bound = largest * size * ((64 + V) * tolerance.F32 + 2 * of_logit)
        rounding = 3 * tolerance.ROUNDING[dtype] * wanted.grad.abs() + 2 * tolerance.SUBNORMAL[dtype]
        held(tensor.grad, wanted.grad, bound + rounding, "gradient")


@pytest.mark.parametrize("linear", [False, True])
def test_a_frozen_part_costs_nothing_and_changes_nothing(linear):
    """Which gradients are asked for does not change those that are."""
    _, labels, ref_logps = batch(torch.float32)
    generator = torch.Generator().manual_seed(7)
    values = [
        torch.randn(S, T, H, generator=generator),
        torch.randn(V, H, generator=generator),
        torch.randn(V, generator=generator),
    ]
    found = {}
    for trained in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
        hidden, weight, bias = (value.clone().requires_grad_(t) for value, t in zip(values, trained))
        if linear:
            result = dk.linear_dpo_loss(
                hidden, weight, labels, ref_logps, bias, label_alignment="next_token", beta=BETA
            )
        else:
            tokens = dk.linear_token_logps(hidden, weight, labels, bias, label_alignment="next_token")
            result = dk.pair_loss(tokens.logps, ref_logps, beta=BETA)
        result.loss.backward()
        found[trained] = [tensor.grad for tensor in (hidden, weight, bias)]
    everything = found.pop((True, True, True))
    for trained, gradients in found.items():
        for is_trained, alone, together in zip(trained, gradients, everything):
            assert (alone is not None) == is_trained
            if is_trained:
                torch.testing.assert_close(alone, together, rtol=16 * tolerance.F32, atol=16 * tolerance.F32)


OPTIONS = {
    "forward_kl": ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    "js_divergence": ({"f_divergence_type": "js_divergence"}, {"divergence": "js_divergence"}),
    "alpha_divergence": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        {"divergence": "alpha_divergence", "alpha": 0.5},
    ),
    "label smoothing": ({"label_smoothing": 0.1}, {"eps": 0.1}),
    "gamma": ({"gamma": 0.7}, {"gamma": 0.7}),
    "a gamma for each pair": ({"gamma": torch.tensor([0.1, 0.2, 0.3])}, {"gamma": torch.tensor([0.1, 0.2, 0.3])}),
    "a beta for each pair": ({"beta": torch.tensor([0.1, 0.2, 0.4])}, {"beta": torch.tensor([0.1, 0.2, 0.4]).double()}),
    "a smoothing for each pair": (
        {"label_smoothing": torch.tensor([0.0, 0.1, 0.2])},
        {"eps": torch.tensor([0.0, 0.1, 0.2]).double()},
    ),
}


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_a_loss(option, linear):
    own, of_reference = OPTIONS[option]
    compare_losses(linear, own, lambda logps, ref, lengths: reference.pair_losses(
        "sigmoid", logps, ref, lengths, **{"beta": BETA, **of_reference}).mean())  # fmt: skip


@pytest.mark.parametrize("linear", [False, True])
def test_mixtures(linear):
    own = {"loss": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}

    def expected(logps, ref_logps, lengths):
        losses = [reference.pair_losses(name, logps, ref_logps, lengths, beta=BETA).mean() for name in own["loss"]]
        return sum(weight * loss for weight, loss in zip(own["loss_weights"], losses))

    compare_losses(linear, own, expected)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("normalizer", [5.0, torch.tensor(5.0), torch.tensor([5.0])])
def test_normalizers(linear, normalizer):
    compare_losses(linear, {"normalizer": normalizer}, lambda logps, ref, lengths: reference.pair_losses(
        "sigmoid", logps, ref, lengths, beta=BETA).sum() / 5)  # fmt: skip


@pytest.mark.parametrize("linear", [False, True])
def test_weights_of_pairs_and_tokens_as_a_normalizer(linear):
    weight = torch.tensor([1.0, 0.5, 2.0])

    def expected(logps, ref_logps, lengths):
        return (weight * reference.pair_losses("sigmoid", logps, ref_logps, lengths, beta=BETA)).sum() / lengths.sum()

    compare_losses(linear, {"pair_weight": weight, "normalizer": "tokens"}, expected)


@pytest.mark.parametrize("linear", [False, True])
def test_use_weighting(linear):
    """TRL's weights: e to the means of log-prob − log Σp², without gradient."""

    _, labels, ref_logps = batch(torch.float32)
    inputs, exact_logits = inputs_of(linear)
    function = dk.linear_dpo_loss if linear else dk.dpo_loss
    result = function(*inputs, labels, ref_logps, label_alignment="next_token", beta=BETA, use_weighting=True)
    tokens, scored = reference.token_logps(exact_logits, labels, "next_token")
    probabilities = exact_logits.softmax(-1)
    means = ((tokens - probabilities.square().sum(-1).log()) * scored).sum(1) / scored.sum(1)
    weights = (means[: S // 2] + means[S // 2 :]).exp()
    losses = reference.pair_losses("sigmoid", tokens.sum(1), ref_logps, scored.sum(1), beta=BETA)
    delta = tolerance.of_logps(exact_logits) * 4
    wanted = (weights * losses).mean()
    held(result.loss, wanted, delta * float(weights.max()) * (1 + float(losses.max())), "loss")


def inputs_of(linear):
    generator = torch.Generator().manual_seed(11)
    if not linear:
        logits = batch(torch.float32)[0]
        return (logits.clone().requires_grad_(),), logits.double()
    hidden, weight = torch.randn(S, T, H, generator=generator), 0.5 * torch.randn(V, H, generator=generator)
    return (hidden.requires_grad_(), weight.requires_grad_()), F.linear(hidden.double(), weight.double()).detach()


def compare_losses(linear, own, expected):
    """A loss of `own` arguments against one of [S] log-probs, reference log-probs and lengths, with all gradients."""
    _, labels, ref_logps = batch(torch.float32)
    inputs, exact_logits = inputs_of(linear)
    function = dk.linear_dpo_loss if linear else dk.dpo_loss
    result = function(*inputs, labels, ref_logps, label_alignment="next_token", check=True, **{"beta": BETA, **own})
    result.loss.backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    tokens, scored = reference.token_logps(F.linear(*exact) if linear else exact[0], labels, "next_token")

    def of_logps(logps):
        return expected(logps, ref_logps, scored.sum(1))

    wanted = of_logps(tokens.sum(1))
    wanted.backward()
    of_logit = (
        H * tolerance.F32 * float((inputs[0].detach().abs().double() @ inputs[1].detach().abs().double().T).max())
        if linear
        else 0.0
    )
    delta = tolerance.of_logps(exact_logits) + 2 * T * of_logit
    of_loss, of_coef = tolerance.of_loss(of_logps, tokens.sum(1), delta)
    held(result.loss, wanted, of_loss, "loss")
    largest = float(result.coef.abs().max())
    sizes = (
        [2 * float(exact[1].detach().abs().max()), int(scored.sum()) * float(exact[0].detach().abs().max())]
        if linear
        else [1.0]
    )
    for tensor, exact_tensor, size in zip(inputs, exact, sizes):
        bound = size * (of_coef + ((64 + V) * tolerance.F32 + 2 * of_logit) * largest)
        held(tensor.grad, exact_tensor.grad, bound + 2 * tolerance.F32 * exact_tensor.grad.abs(), "gradient")


@pytest.mark.parametrize("linear", [False, True])
def test_transforms_of_the_logits(linear):
    """Scale, soft cap and a padded vocabulary, with their gradients."""
    _, labels, ref_logps = batch(torch.float32)
    labels = labels.clamp(max=V - 4)
    inputs, _ = inputs_of(linear)
    function = dk.linear_dpo_loss if linear else dk.dpo_loss
    transform = {"logit_scale": 0.8, "softcap": 3.0, "valid_vocab": V - 3}
    result = function(*inputs, labels, ref_logps, label_alignment="next_token", beta=BETA, check=True, **transform)
    result.loss.backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    logits = F.linear(*exact) if linear else exact[0]
    tokens, scored = reference.token_logps(logits, labels, "next_token", scale=0.8, softcap=3.0, valid_vocab=V - 3)
    function = loss_of("sigmoid", scored, ref_logps, {"beta": BETA})
    wanted = function(tokens.sum(1))
    wanted.backward()
    of_loss, of_coef = tolerance.of_loss(function, tokens.sum(1), 2 * tolerance.of_logps(logits.detach()))
    held(result.loss, wanted, 8 * of_loss, "loss")
    for tensor, exact_tensor, size in zip(inputs, exact, (2 * H, S * T) if linear else (1,)):
        largest = float(result.coef.abs().max())
        held(tensor.grad, exact_tensor.grad, size * (8 * of_coef + 256 * tolerance.F32 * largest), "gradient")
    of_padding = inputs[1].grad[V - 3 :] if linear else inputs[0].grad[..., V - 3 :]
    assert (of_padding == 0).all()


@pytest.mark.parametrize("shape", ["[rows, V]", "[1, rows, V]"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
def test_packed_sequences_are_the_padded_ones(shape, linear, index_type):
    _, labels, ref_logps = batch(torch.float32)
    (first, *rest), _ = inputs_of(linear)
    lengths = torch.tensor([T - s % 2 for s in range(S)])
    function = dk.linear_dpo_loss if linear else dk.dpo_loss
    padded = function(first, *rest, labels, ref_logps, label_alignment="next_token", beta=BETA, ld_alpha=0.5)
    padded.loss.backward()
    of_padded = [tensor.grad.clone() for tensor in (first, *rest)]

    keep = torch.arange(T)[None, :] < lengths[:, None]
    packed, packed_labels = first.detach()[keep], labels[keep]
    if shape == "[1, rows, V]":
        packed, packed_labels = packed[None], packed_labels[None]
    packed.requires_grad_()
    for tensor in rest:
        tensor.grad = None
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(index_type)
    found = function(
        packed,
        *rest,
        packed_labels,
        ref_logps,
        label_alignment="next_token",
        beta=BETA,
        cu_seqlens=cu_seqlens,
        ld_alpha=0.5,
    )
    found.loss.backward()
    assert torch.equal(found.logps, padded.logps) and torch.equal(found.loss, padded.loss)
    assert torch.equal(packed.grad.view(-1, packed.shape[-1]), of_padded[0][keep])
    for tensor, wanted in zip(rest, of_padded[1:]):
        torch.testing.assert_close(tensor.grad, wanted, rtol=0, atol=1e-6)

    both = dk.token_logps if not linear else dk.linear_token_logps
    result = both(packed, *rest, packed_labels, label_alignment="next_token", cu_seqlens=cu_seqlens)
    packed.grad = None
    (result.token_logps.sum() + 2 * result.logps.sum()).backward()
    together = packed.grad
    packed.grad = None
    result = both(packed, *rest, packed_labels, label_alignment="next_token", cu_seqlens=cu_seqlens)
    (3 * result.logps.sum()).backward()
    torch.testing.assert_close(together, packed.grad, rtol=16 * tolerance.F32, atol=16 * tolerance.F32)


def test_layouts_of_pairs_are_permutations_of_one_another():
    logits, labels, ref_logps = batch(torch.float32)
    n = S // 2
    order = torch.stack([torch.arange(n), torch.arange(n) + n], dim=1).flatten()
    concatenated = dk.dpo_loss(logits, labels, ref_logps, label_alignment="next_token")
    interleaved = dk.dpo_loss(
        logits[order], labels[order], ref_logps[order], label_alignment="next_token", pairs="interleaved"
    )
    indexed = dk.dpo_loss(
        logits[order], labels[order], ref_logps[order], label_alignment="next_token",
        chosen=torch.arange(0, S, 2), rejected=torch.arange(1, S, 2),
    )  # fmt: skip
    for found in (interleaved, indexed):
        assert torch.equal(found.loss, concatenated.loss)
        assert torch.equal(found.margins, concatenated.margins)
        assert torch.equal(found.coef, concatenated.coef[order])
    of_rewards = concatenated.chosen_rewards - concatenated.rejected_rewards
    torch.testing.assert_close(concatenated.margins, of_rewards, rtol=2 * tolerance.F32, atol=2 * tolerance.F32)
    assert float(concatenated.accuracy) == float((concatenated.margins > 0).float().mean())


@pytest.mark.parametrize("linear", [False, True])
def test_kto_of_unpaired_sequences(linear):
    _, labels, ref_logps = batch(torch.float32)
    inputs, exact_logits = inputs_of(linear)
    desirable = torch.tensor([1, 0, 1, 1, 0, 1])
    kl_logps, kl_ref_logps = torch.tensor([-10.0, -12.0, -9.5]), torch.tensor([-11.0, -12.5, -9.0])
    function = dk.linear_dpo_loss if linear else dk.dpo_loss
    result = function(
        *inputs, labels, ref_logps, label_alignment="next_token", loss="kto", beta=BETA, desirable=desirable,
        kl_logps=kl_logps, kl_ref_logps=kl_ref_logps, desirable_weight=1.2,
    )  # fmt: skip
    tokens, scored = reference.token_logps(exact_logits, labels, "next_token")
    rewards = BETA * (tokens.sum(1) - ref_logps)
    baseline = BETA * (kl_logps - kl_ref_logps).mean().clamp(min=0).double()
    losses = torch.where(desirable == 1, 1.2 * torch.sigmoid(baseline - rewards), torch.sigmoid(rewards - baseline))
    held(result.pair_losses, losses, BETA * 4 * tolerance.of_logps(exact_logits) + 8 * tolerance.F32, "losses")
    held(result.loss, losses.mean(), BETA * 4 * tolerance.of_logps(exact_logits) + 8 * tolerance.F32, "loss")


def test_token_metrics():
    logits, labels, _ = batch(torch.float32)
    result = dk.token_logps(logits, labels, label_alignment="next_token", token_metrics="all", check=True)
    tokens, scored = reference.token_logps(logits, labels, "next_token")
    exact, metrics = logits.double(), result.token_metrics
    entropy = -(exact.softmax(-1) * exact.log_softmax(-1)).sum(-1) * scored
    held(metrics.entropy, entropy, 64 * tolerance.F32, "entropy")
    held(metrics.mean_logit, exact.mean(-1) * scored, 64 * tolerance.F32, "mean_logit")
    held(metrics.sum_p2, exact.softmax(-1).square().sum(-1) * scored, 64 * tolerance.F32, "sum_p2")
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(metrics.correct.bool(), (exact.argmax(-1) == shifted) & scored)
    assert torch.equal(result.scored, scored.sum(1).int())
    alone = dk.token_logps(logits, labels, label_alignment="next_token", token_metrics="entropy").token_metrics
    assert torch.equal(alone.entropy, metrics.entropy) and alone.sum_p2 is None
    assert not any(tensor.requires_grad for tensor in metrics)


def test_aligned_labels_and_another_ignore_index():
    logits, labels, _ = batch(torch.float32)
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    next_token = dk.token_logps(logits, labels, label_alignment="next_token")
    aligned = dk.token_logps(logits, shifted, label_alignment="aligned")
    other = dk.token_logps(
        logits, shifted.masked_fill(shifted == -100, 5000).int(), label_alignment="aligned", ignore_index=5000
    )
    assert torch.equal(next_token.token_logps, aligned.token_logps)
    assert torch.equal(next_token.token_logps, other.token_logps)
    assert torch.equal(next_token.logps, dk.sequence_logps(logits, labels, label_alignment="next_token"))
