"""A loss's name and numbers in the C ABI's terms."""

import ctypes
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from . import _structs
from ._batch import address, as_counts, as_floats, as_indices, check_device, given, optional
from ._structs import dpo_loss, dpo_loss_term, dpo_pair_inputs

DIVERGENCES = {
    "reverse_kl": _structs.DPO_REVERSE_KL,
    "forward_kl": _structs.DPO_FORWARD_KL,
    "js_divergence": _structs.DPO_JENSEN_SHANNON,
    "alpha_divergence": _structs.DPO_ALPHA_DIVERGENCE,
}
NORMALIZERS = {"pairs": _structs.DPO_BY_PAIRS, "tokens": _structs.DPO_BY_TOKENS}
PAIRS = {
    "concatenated": _structs.DPO_PAIRS_CONCATENATED,
    "interleaved": _structs.DPO_PAIRS_INTERLEAVED,
    "indexed": _structs.DPO_PAIRS_INDEXED,
    "unpaired": _structs.DPO_PAIRS_UNPAIRED,
}

# The parameters that are a loss's own, in the order of the table of losses.
PARAMETERS = {
    "discopop": ("discopop_tau",),
    "cpo": ("cpo_alpha",),
    "rpo": ("rpo_alpha",),
    "kto": ("desirable_weight", "undesirable_weight"),
}

_INDICES = ("chosen", "rejected", "desirable")
_FLOATS = (
    "ref_logps",
    "pair_beta",
    "pair_gamma",
    "pair_weight",
    "pair_label_smoothing",
    "sequence_log_weights",
    "kl_logps",
    "kl_ref_logps",
    "normalizer_tensor",
    "chosen_tokens",
)


class Loss(NamedTuple):
    """A loss and what it reads besides log-probs, as the operators take it; names with + between them."""

    ref_logps: Optional[Tensor]
    chosen: Optional[Tensor]
    rejected: Optional[Tensor]
    desirable: Optional[Tensor]
    lengths: Optional[Tensor]
    pair_beta: Optional[Tensor]
    pair_gamma: Optional[Tensor]
    pair_weight: Optional[Tensor]
    pair_label_smoothing: Optional[Tensor]
    sequence_log_weights: Optional[Tensor]
    kl_logps: Optional[Tensor]
    kl_ref_logps: Optional[Tensor]
    normalizer_tensor: Optional[Tensor]
    chosen_tokens: Optional[Tensor]
    pairs: str
    names: str
    loss_weights: Optional[Sequence[float]]
    beta: Optional[float]
    betas: Optional[Sequence[float]]
    discopop_tau: Optional[float]
    cpo_alpha: Optional[float]
    rpo_alpha: Optional[float]
    desirable_weight: Optional[float]
    undesirable_weight: Optional[float]
    f_divergence_type: str
    f_alpha_divergence_coef: Optional[float]
    label_smoothing: Optional[float]
    gamma: Optional[float]
    baseline: Optional[float]
    reference_free: bool
    length_normalized: bool
    wpo_weights: bool
    normalized_by: str
    normalizer: Optional[float]

    def count(self, sequences):
        """N."""
        if self.pairs == "indexed":
            return self.chosen.shape[0]
        return sequences if self.pairs == "unpaired" else sequences // 2

    def check(self, sequences, device, scored):
        """Devices and shapes of the tensors, whose memory the kernels read by the batch's shape."""
        if self.pairs not in PAIRS:
            raise ValueError(f"pairs: expected one of {', '.join(PAIRS)}, found {self.pairs!r}")
        for argument, needed in (("chosen", "indexed"), ("rejected", "indexed"), ("desirable", "unpaired")):
            if (getattr(self, argument) is not None) != (self.pairs == needed):
                raise ValueError(
                    f"{argument}: expected where pairs is {needed!r} and there alone, found {self.pairs!r}"
                )
        of_sequences, of_pairs = ((sequences,),), ((self.count(sequences),),)
        number = ((), (1,))
        for argument, tensor, shapes in (
            ("ref_logps", self.ref_logps, of_sequences),
            ("scored", scored, of_sequences),
            ("chosen", self.chosen, of_pairs),
            ("rejected", self.rejected, of_pairs),
            ("desirable", self.desirable, of_sequences),
            ("lengths", self.lengths, of_sequences),
            ("beta", self.pair_beta, of_pairs),
            ("gamma", self.pair_gamma, of_pairs),
            ("pair_weight", self.pair_weight, of_pairs),
            ("label_smoothing", self.pair_label_smoothing, of_pairs),
            ("sequence_log_weights", self.sequence_log_weights, of_sequences),
            ("kl_logps", self.kl_logps, () if self.kl_logps is None else ((self.kl_logps.numel(),),)),
            ("kl_ref_logps", self.kl_ref_logps, () if self.kl_logps is None else (tuple(self.kl_logps.shape),)),
            ("normalizer", self.normalizer_tensor, number),
            ("chosen_tokens", self.chosen_tokens, number),
        ):
            check_device(argument, tensor, device)
            is_index = argument in (*_INDICES, "lengths", "scored")
            is_mask = tensor is not None and tensor.dtype == torch.bool and argument != "desirable"
            if tensor is not None and (tensor.is_floating_point() == is_index or is_mask):
                expected = "integers" if is_index else "floating-point numbers"
                raise TypeError(f"{argument}: expected {expected}, found {tensor.dtype}")
            if tensor is not None and tuple(tensor.shape) not in shapes:
                expected = " or ".join(str(shape) for shape in shapes) or "none without kl_logps"
                raise ValueError(f"{argument}: expected shape {expected}, found {tuple(tensor.shape)}")

    def prepared(self):
        """The same with tensors as the header has them, which the caller keeps until its call is over."""
        return self._replace(
            **{name: as_indices(getattr(self, name)) for name in _INDICES},
            lengths=as_counts("lengths", self.lengths),
            **{name: as_floats(getattr(self, name)) for name in _FLOATS},
        )

    def on_host(self):
        """The same with its indices in host memory, where a head has to know which sequences form pairs."""
        indices = {name: getattr(self, name) for name in _INDICES}
        return self._replace(**{name: index.cpu() for name, index in indices.items() if index is not None})

    def pairs_of_batch(self):
        """The fields of a dpo_batch that say how sequences form pairs."""
        return {
            "pairs": PAIRS[self.pairs],
            "pair_count": self.chosen.shape[0] if self.pairs == "indexed" else 0,
            "chosen": address(self.chosen),
            "rejected": address(self.rejected),
            "desirable": address(self.desirable),
        }

    def struct(self) -> dpo_loss:
        """A dpo_loss, which points to the tensors of a `prepared` loss and keeps its terms."""
        if self.f_divergence_type not in DIVERGENCES:
            expected = ", ".join(DIVERGENCES)
            raise ValueError(f"f_divergence_type: expected one of {expected}, found {self.f_divergence_type!r}")
        if self.normalized_by not in NORMALIZERS:
            expected = ", ".join(NORMALIZERS)
            raise ValueError(f"normalizer: expected a number or one of {expected}, found {self.normalized_by!r}")
        terms = self._terms()
        pair_inputs = dpo_pair_inputs(
            lengths=address(self.lengths),
            beta=address(self.pair_beta),
            gamma=address(self.pair_gamma),
            weight=address(self.pair_weight),
            label_smoothing=address(self.pair_label_smoothing),
            sequence_log_weights=address(self.sequence_log_weights),
            kl_logps=address(self.kl_logps),
            kl_ref_logps=address(self.kl_ref_logps),
            kl_count=0 if self.kl_logps is None else self.kl_logps.numel(),
            normalizer=address(self.normalizer_tensor),
            chosen_tokens=address(self.chosen_tokens),
        )
        struct = dpo_loss(
            beta=optional(self.beta),
            terms=ctypes.addressof(terms),
            term_count=len(terms),
            divergence=DIVERGENCES[self.f_divergence_type],
            normalized_by=NORMALIZERS[self.normalized_by],
            length_normalized=self.length_normalized,
            wpo_weights=self.wpo_weights,
            reference_free=self.reference_free,
            given=given(
                DPO_LOSS_LABEL_SMOOTHING=self.label_smoothing,
                DPO_LOSS_GAMMA=self.gamma,
                DPO_LOSS_BASELINE=self.baseline,
                DPO_LOSS_ALPHA=self.f_alpha_divergence_coef,
                DPO_LOSS_NORMALIZER=self.normalizer,
            ),
            label_smoothing=optional(self.label_smoothing),
            gamma=optional(self.gamma),
            baseline=optional(self.baseline),
            alpha=optional(self.f_alpha_divergence_coef),
            normalizer=optional(self.normalizer),
            inputs=ctypes.addressof(pair_inputs),
        )
        struct.kept = (terms, pair_inputs)
        return struct

    def _terms(self):
        names = self.names.split("+")
        for argument, values in (("loss_weights", self.loss_weights), ("beta", self.betas)):
            if values is not None and len(values) != len(names):
                raise ValueError(f"{argument}: expected {len(names)} numbers, one for each loss, found {len(values)}")
        terms = (dpo_loss_term * len(names))()
        for i, (term, name) in enumerate(zip(terms, names)):
            own = [getattr(self, parameter) for parameter in PARAMETERS.get(name, ())]
            first, second = own + [None] * (2 - len(own))
            weight = None if self.loss_weights is None else self.loss_weights[i]
            beta = None if self.betas is None else self.betas[i]
            term.name, term.weight, term.beta = name.encode(), optional(weight), optional(beta)
            term.parameters[:] = [optional(first), optional(second)]
            term.given = given(
                DPO_TERM_WEIGHT=weight,
                DPO_TERM_BETA=beta,
                DPO_TERM_PARAMETER_0=first,
                DPO_TERM_PARAMETER_1=second,
            )
        for taker, parameters in PARAMETERS.items():
            for parameter in parameters:
                if getattr(self, parameter) is not None and taker not in names:
                    raise ValueError(f"{parameter}: expected {taker} among the losses, found {self.names}")
        return terms
