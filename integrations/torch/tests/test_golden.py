"""The golden vectors of an independent implementation, tests/golden of the repository, through the package."""

import json
import pathlib

import pytest
import tolerance
import torch
from safetensors.torch import load_file

import dpo_kernels as dk

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "tests" / "golden"
CASES = json.loads((FOLDER / "manifest.json").read_text())["cases"]


def chosen(case):
    """Cases whose logits are stored and finite: the generated ones are the Rust suite's, which makes them."""
    return case["layout"] != "unshifted" and case["logits"] == "stored" and case["finite"]


@pytest.mark.parametrize("case", [case for case in CASES if chosen(case)], ids=lambda case: case["name"])
def test_golden(case):
    tensors = load_file(FOLDER / case["file"])
    logits, labels = tensors["logits"].requires_grad_(), tensors["targets"]
    completion_len = tensors["completion_len"]
    ref_logps = None if case["ref"] == "zero" else tensors["ref_logps"].float()
    names = case["loss_type"]
    options = {
        "loss": names,
        "beta": case["beta"],
        "lengths": completion_len.int(),
        "loss_weights": case["loss_weights"],
    }
    if not set(names) & {"ipo", "sigmoid_norm"}:
        del options["lengths"]
    if case["f_divergence_type"] != "reverse_kl":
        options["f_divergence_type"] = case["f_divergence_type"]
    if case["f_divergence_type"] == "alpha_divergence":
        options["f_alpha_divergence_coef"] = case["f_alpha_divergence_coef"]
    # Where a loss takes label smoothing, 0 is a number like any other.
    if case["label_smoothing"] or set(names) & {"robust", "exo_pair", "aot", "aot_unpaired"}:
        options["label_smoothing"] = case["label_smoothing"]
    if "discopop" in names:
        options["discopop_tau"] = case["discopop_tau"]
    if case["ld_alpha"] is not None:
        options["ld_alpha"] = case["ld_alpha"]
    if ref_logps is None:
        ref_logps = torch.zeros(labels.shape[0])
    if set(names) == {"sft"}:
        ref_logps = None
    result = dk.dpo_loss(
        logits, labels, ref_logps, label_alignment="aligned", use_weighting=case["use_weighting"], **options
    )
    result.loss.backward()

    scored = labels != -100
    sizes = tensors["lse"].abs() + logits.detach().double().masked_fill(~scored[..., None], 0).abs().amax(-1) + 1
    delta = 2 * tolerance.F32 * float((sizes * scored).sum(1).max())
    assert ((result.logps.double() - tensors["logps"]).abs() <= delta).all()
    # The oracle's coefficients, at log-probs as far off as ours may be: a loss is smooth at the scale of β δ.
    scale = case["beta"] * delta
    expected = float(case["loss"])
    dlogps, dlogits = tensors["dlogps"], tensors["dlogits"]
    largest = float(dlogps.abs().max()) + case["beta"] / case["pairs"]
    assert (
        abs(float(result.loss.detach()) - expected)
        <= 4 * delta * float(dlogps.abs().sum()) + 64 * tolerance.F32 * (1 + abs(expected)) + scale**2
    )
    bound = largest * (8 * scale + 8 * delta / max(1, int(completion_len.min())) + 256 * tolerance.F32)
    rounding = tolerance.ROUNDING[logits.dtype] * dlogits.abs() * 1.01 + tolerance.SUBNORMAL[logits.dtype]
    assert ((logits.grad.double() - dlogits).abs() <= bound + rounding).all()
    assert (logits.grad[~scored] == 0).all()


def test_the_cases_are_there():
    assert sum(chosen(case) for case in CASES) > 150
