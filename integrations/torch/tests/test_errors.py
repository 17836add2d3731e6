"""What is refused, in which words and as which of Python's exceptions."""

import pytest
import torch

import dpo_kernels as dk

S, T, V, H = 4, 3, 7, 5
LABELS = torch.ones(S, T, dtype=torch.int64)
LOGITS = torch.zeros(S, T, V)
REF = torch.full((S,), -6.0)
META = torch.device("meta")


def loss(logits=LOGITS, labels=LABELS, ref_logps=REF, label_alignment="next_token", **options):
    return dk.dpo_loss(logits, labels, ref_logps, label_alignment=label_alignment, **options)


def linear(hidden=torch.zeros(S, T, H), weight=torch.zeros(V, H), labels=LABELS, ref_logps=REF, bias=None, **options):
    return dk.linear_dpo_loss(hidden, weight, labels, ref_logps, bias, label_alignment="next_token", **options)


def backward(logsumexp, coef):
    rows = (LABELS, None, "next_token", "none", None, -100, None, None, None)
    return torch.ops.dpo_kernels.logps_backward(LOGITS, logsumexp, torch.zeros(S, T), coef, None, *rows)


# The call, the exception, and the words that name the argument, what was expected and what came.
REFUSED = {
    "no alignment": (lambda: dk.dpo_loss(LOGITS, LABELS, REF), TypeError, "label_alignment"),
    "an unknown alignment": (
        lambda: loss(label_alignment="shifted"), ValueError, "label_alignment: expected 'next_token'.*found 'shifted'",
    ),
    "an array": (lambda: loss(LOGITS.numpy()), TypeError, "logits: expected a tensor, found ndarray"),
    "f64": (lambda: loss(LOGITS.double()), TypeError, "logits: expected one of torch.float32.*found torch.float64"),
    "labels of bytes": (lambda: loss(labels=LABELS.byte()), TypeError, "labels: expected one of.*found torch.uint8"),
    "labels of another shape": (
        lambda: loss(labels=LABELS[:, :2]), ValueError, r"labels: expected shape \(4, 3\), found \(4, 2\)",
    ),
    "two dimensions": (
        lambda: loss(LOGITS.view(-1, V), LABELS.view(-1)), ValueError, r"logits: expected shape \[S, T, V\], or cu_seqlens",
    ),
    "labels elsewhere": (lambda: loss(labels=LABELS.to(META)), ValueError, "labels: expected a tensor on cpu, found one on meta"),
    "a reference elsewhere": (lambda: loss(ref_logps=REF.to(META)), ValueError, "ref_logps: expected a tensor on cpu"),
    "a short reference": (lambda: loss(ref_logps=REF[:3]), ValueError, r"ref_logps: expected shape \(4,\), found \(3,\)"),
    "no reference": (lambda: loss(ref_logps=None), ValueError, "ref_logps: required when"),
    "a reference too many": (lambda: loss(loss="simpo"), ValueError, "ref_logps"),
    "a reference with a gradient": (
        lambda: loss(ref_logps=REF.clone().requires_grad_()), ValueError, "ref_logps: expected a tensor without gradient",
    ),
    "an odd number of sequences": (lambda: loss(LOGITS[:3], LABELS[:3], REF[:3]), ValueError, "sequences"),
    "no sequences": (lambda: loss(LOGITS[:0], LABELS[:0], REF[:0]), ValueError, "sequences"),
    "an unknown loss": (lambda: loss(loss="dopo"), ValueError, "dopo"),
    "no loss": (lambda: loss(loss=[]), ValueError, "loss: expected the name of a loss"),
    "weights of other losses": (
        lambda: loss(loss=["sigmoid", "sft"], loss_weights=[1.0]), ValueError, "loss_weights: expected 2 numbers.*found 1",
    ),
    "a negative weight": (lambda: loss(loss_weights=[-1.0]), ValueError, "weight"),
    "a view of a leaf in place": (
        lambda: loss(torch.zeros(S, T, V + 2, requires_grad=True)[..., :V], inplace_backward=True),
        ValueError, "inplace_backward: expected logits that an operation made, found a leaf, or a view of one",
    ),
    "a learnable scale": (
        lambda: loss(logit_scale=torch.tensor(2.0, requires_grad=True)), ValueError, "logit_scale: expected a tensor without",
    ),
    "a learnable beta in a list": (
        lambda: loss(loss=["sigmoid", "hinge"], beta=[0.1, torch.tensor(0.1, requires_grad=True)]),
        ValueError, "beta: expected a tensor without gradient",
    ),
    "a learnable weight of a loss": (
        lambda: loss(loss_weights=[torch.tensor(1.0, requires_grad=True)]), ValueError, "loss_weights: expected a tensor without",
    ),
    "betas of orpo": (
        lambda: loss(ref_logps=None, loss="orpo", beta=torch.ones(S // 2)), ValueError, "beta: expected a number",
    ),
    "betas of a sum with orpo": (
        lambda: loss(loss=["sigmoid", "orpo"], beta=torch.ones(S // 2)), ValueError, "beta: expected a number",
    ),
    "a length below 0": (
        lambda: loss(loss="ipo", lengths=torch.tensor([3, 2, -1, 4])), ValueError, "lengths: expected numbers of tokens, found -1",
    ),
    "a number of scored tokens below 0": (
        lambda: dk.pair_loss(REF, REF, loss="ipo", scored=torch.tensor([3, 2, -5, 4])),
        ValueError, "scored: expected numbers of tokens, found -5",
    ),
    "a normalizer of sft": (
        lambda: loss(ref_logps=None, loss="sft", normalizer=3.0), ValueError, "normalizer: expected none, for a loss that is divided by",
    ),
    "a normalizer of sft by name": (
        lambda: loss(ref_logps=None, loss="sft", normalizer="tokens"), ValueError, "normalizer: expected none, for a loss",
    ),
    "masks for indices": (
        lambda: loss(chosen=torch.tensor([True, False]), rejected=torch.tensor([False, True])),
        TypeError, "chosen: expected integers, found torch.bool",
    ),
    "beta of 0": (lambda: loss(beta=0.0), ValueError, "beta: expected.*found 0"),
    "beta that is not a number": (lambda: loss(beta=float("nan")), ValueError, "beta: expected.*found NaN"),
    "a parameter of another loss": (lambda: loss(discopop_tau=0.1), ValueError, "discopop_tau: expected discopop among"),
    "a divergence without its number": (lambda: loss(f_divergence_type="alpha_divergence"), ValueError, "alpha"),
    "a number without its divergence": (lambda: loss(f_alpha_divergence_coef=0.5), ValueError, "alpha"),
    "an unknown divergence": (lambda: loss(f_divergence_type="kl"), ValueError, "f_divergence_type: expected one of.*'kl'"),
    "smoothing out of range": (lambda: loss(label_smoothing=0.7), ValueError, "label_smoothing: expected.*found 0.7"),
    "smoothing of a loss without": (lambda: loss(loss="hinge", label_smoothing=0.1), ValueError, "label_smoothing"),
    "an unknown option": (lambda: loss(temperature=1.0), TypeError, "temperature"),
    "an option of rows elsewhere": (lambda: dk.pair_loss(REF, REF, softcap=1.0), TypeError, "softcap"),
    "an unknown normalizer": (lambda: loss(normalizer="rows"), ValueError, "normalizer: expected a number or one of.*'rows'"),
    "two normalizers": (lambda: loss(normalizer=torch.ones(2)), ValueError, r"normalizer: expected shape \(\) or \(1,\)"),
    "chosen alone": (lambda: loss(chosen=torch.tensor([0])), ValueError, "chosen: expected chosen and rejected"),
    "an index out of range": (
        lambda: loss(chosen=torch.tensor([0]), rejected=torch.tensor([4])), ValueError, r"rejected\[0\]: expected.*found 4",
    ),
    "pairs of another kind": (lambda: loss(pairs="random"), ValueError, "pairs: expected 'concatenated'.*'random'"),
    "weights of other pairs": (lambda: loss(pair_weight=torch.ones(3)), ValueError, r"pair_weight: expected shape \(2,\)"),
    "mismatched completions": (
        lambda: loss(loss="kto", kl_logps=torch.zeros(2), kl_ref_logps=torch.zeros(3)), ValueError, "kl_ref_logps: expected shape",
    ),
    "ld_alpha above 1": (lambda: loss(ld_alpha=1.5), ValueError, "ld_alpha: expected.*found 1.5"),
    "a scale of 0": (lambda: loss(logit_scale=0.0), ValueError, "scale: expected.*found 0"),
    "a vocabulary larger than there is": (lambda: loss(valid_vocab=V + 1), ValueError, "valid_vocab: expected.*found 8"),
    "unknown metrics": (lambda: loss(token_metrics="some"), ValueError, "token_metrics: expected.*'some'"),
    "weights and weighting": (
        lambda: loss(use_weighting=True, sequence_log_weights=REF), ValueError, "sequence_log_weights: expected none",
    ),
    "cu_seqlens of padded logits": (
        lambda: loss(cu_seqlens=torch.tensor([0, 3, 6])), ValueError, r"logits: expected shape \[rows, V\] or \[1, rows, V\]",
    ),
    "cu_seqlens out of order": (
        lambda: loss(LOGITS.view(-1, V), LABELS.view(-1), REF, cu_seqlens=torch.tensor([0, 3, 2, 9, 12])),
        ValueError, r"cu_seqlens\[2\]: expected.*found 2",
    ),
    "cu_seqlens of floats": (
        lambda: loss(LOGITS.view(-1, V), LABELS.view(-1), cu_seqlens=torch.ones(5)), TypeError, "cu_seqlens: expected one of",
    ),
    "an index that would wrap": (
        lambda: loss(chosen=torch.tensor([2**32]), rejected=torch.tensor([1])), ValueError, r"chosen\[0\]: expected",
    ),
    "lengths of floats": (lambda: loss(lengths=torch.ones(S)), TypeError, "lengths: expected integers, found torch.float32"),
    "weights of integers": (
        lambda: loss(pair_weight=torch.ones(2).long()), TypeError, "pair_weight: expected floating-point numbers",
    ),
    "coefficients of other sequences": (
        lambda: backward(torch.zeros(S, T), torch.zeros(S + 1)), ValueError, r"coef: expected shape \(4,\), found \(5,\)",
    ),
    "a short logsumexp": (
        lambda: backward(torch.zeros(S, T - 1), torch.zeros(S)), ValueError, r"logsumexp: expected shape \(4, 3\)",
    ),
    "log-probs of two dimensions": (lambda: dk.pair_loss(REF[None], REF), ValueError, r"logps: expected shape \[S\]"),
    "log-probs of integers": (lambda: dk.pair_loss(REF.long(), REF), TypeError, "logps: expected one of"),
    "a weight of another width": (
        lambda: linear(weight=torch.zeros(V, H + 1)), ValueError, r"weight: expected shape \(7, 5\), found \(7, 6\)",
    ),
    "a weight of another type": (
        lambda: linear(weight=torch.zeros(V, H).half()), TypeError, "weight: expected torch.float32, the type of hidden",
    ),
    "a bias of another length": (lambda: linear(bias=torch.zeros(V + 1)), ValueError, r"bias: expected shape \(7,\)"),
    "a weight of one dimension": (lambda: linear(weight=torch.zeros(H)), ValueError, r"weight: expected shape \[V, 5\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, exception, words = REFUSED[name]
    with pytest.raises(exception, match=words):
        call()


def test_trouble_in_the_data_is_raised_where_it_is_asked_for():
    labels = LABELS.clone()
    labels[1, 2] = V
    result = loss(labels=labels)
    assert result.loss.isnan()
    with pytest.raises(ValueError, match="bad data: .*row 4"):
        result.check()
    with pytest.raises(ValueError, match="bad data"):
        loss(labels=labels, check=True)
    with pytest.raises(ValueError, match="bad data"):
        dk.token_logps(LOGITS, labels, label_alignment="next_token", check=True)
    with pytest.raises(ValueError, match="bad data"):
        linear(labels=labels, check=True)
    assert loss(check=True).loss.isfinite()


def test_nan_stays_nan():
    logits = LOGITS.clone()
    logits[0, 1, 2] = float("nan")
    logits.requires_grad_()
    result = loss(logits)
    result.loss.backward()
    assert result.loss.isnan() and logits.grad[0, 1].isnan().all() and result.chosen_rewards[1].isfinite()
    with pytest.raises(ValueError, match="bad data"):
        result.check()
    with pytest.raises(ValueError, match="bad data"):
        loss(ref_logps=torch.tensor([0.0, float("inf"), 0, 0]), check=True)


def test_an_empty_sequence_is_said():
    labels = LABELS.clone()
    labels[2] = -100
    result = loss(labels=labels)
    assert result.loss.isfinite() and result.scored.tolist() == [2, 2, 0, 2]
    with pytest.raises(ValueError, match="bad data: .*sequence 2"):
        result.check()
