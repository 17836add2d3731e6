"""A loss's name and numbers in the C ABI's terms."""

import ctypes

from . import _structs
from ._batch import address, given, optional
from ._structs import dpo_loss, dpo_loss_term, dpo_pair_inputs

DIVERGENCES = {
    "reverse_kl": _structs.DPO_REVERSE_KL,
    "forward_kl": _structs.DPO_FORWARD_KL,
    "js_divergence": _structs.DPO_JENSEN_SHANNON,
    "alpha_divergence": _structs.DPO_ALPHA_DIVERGENCE,
}
NORMALIZERS = {"pairs": _structs.DPO_BY_PAIRS, "tokens": _structs.DPO_BY_TOKENS}

# The parameters that are a loss's own, in the order of the table of losses.
PARAMETERS = {
    "discopop": ("discopop_tau",),
    "cpo": ("cpo_alpha",),
    "rpo": ("rpo_alpha",),
    "kto": ("desirable_weight", "undesirable_weight"),
}


def _terms(names, weights, betas, parameters):
    for argument, values in (("loss_weights", weights), ("beta", betas)):
        if values is not None and len(values) != len(names):
            raise ValueError(f"{argument}: expected {len(names)} numbers, one for each loss, found {len(values)}")
    used = set()
    terms = (dpo_loss_term * len(names))()
    for i, (term, name) in enumerate(zip(terms, names)):
        own = PARAMETERS.get(name, ())
        used.update(own)
        values = [parameters.get(argument) for argument in own] + [None] * (2 - len(own))
        weight = None if weights is None else weights[i]
        beta = None if betas is None else betas[i]
        term.name = name.encode()
        term.weight, term.beta = optional(weight), optional(beta)
        term.parameters[:] = [optional(value) for value in values]
        term.given = given(
            DPO_TERM_WEIGHT=weight, DPO_TERM_BETA=beta, DPO_TERM_PARAMETER_0=values[0], DPO_TERM_PARAMETER_1=values[1]
        )
    for argument, value in parameters.items():
        if value is not None and argument not in used:
            takers = [name for name, own in PARAMETERS.items() if argument in own]
            raise ValueError(f"{argument}: expected a loss that reads it, {takers[0]}, found {'+'.join(names)}")
    return terms


def loss_struct(
    names, *, loss_weights, beta, betas, parameters, f_divergence_type, f_alpha_divergence_coef, label_smoothing, gamma,
    baseline, reference_free, length_normalized, wpo_weights, normalized_by, normalizer, pair_inputs,
):  # fmt: skip
    """A dpo_loss with its terms and per-pair tensors, which it keeps alive."""
    if f_divergence_type not in DIVERGENCES:
        raise ValueError(f"f_divergence_type: expected one of {', '.join(DIVERGENCES)}, found {f_divergence_type!r}")
    if normalized_by not in NORMALIZERS:
        raise ValueError(f"normalizer: expected a number or one of {', '.join(NORMALIZERS)}, found {normalized_by!r}")
    terms = _terms(names, loss_weights, betas, parameters)
    struct = dpo_loss(
        beta=optional(beta),
        terms=ctypes.addressof(terms),
        term_count=len(terms),
        divergence=DIVERGENCES[f_divergence_type],
        normalized_by=NORMALIZERS[normalized_by],
        length_normalized=length_normalized,
        wpo_weights=wpo_weights,
        reference_free=reference_free,
        given=given(
            DPO_LOSS_LABEL_SMOOTHING=label_smoothing, DPO_LOSS_GAMMA=gamma, DPO_LOSS_BASELINE=baseline, DPO_LOSS_ALPHA=f_alpha_divergence_coef,
            DPO_LOSS_NORMALIZER=normalizer,
        ),
        label_smoothing=optional(label_smoothing),
        gamma=optional(gamma),
        baseline=optional(baseline),
        alpha=optional(f_alpha_divergence_coef),
        normalizer=optional(normalizer),
        inputs=ctypes.addressof(pair_inputs),
    )  # fmt: skip
    struct.kept = (terms, pair_inputs)
    return struct


def pair_inputs_struct(**tensors):
    """A dpo_pair_inputs of the tensors that are there: contiguous, of the header's types, alive until the call is over."""
    kl_logps = tensors["kl_logps"]
    struct = dpo_pair_inputs(
        **{name: address(tensor) for name, tensor in tensors.items()},
        kl_count=0 if kl_logps is None else kl_logps.numel(),
    )
    struct.kept = tensors
    return struct
