"""TRL's DPO trainer with the fused head: `from dpo_kernels.trl import DPOTrainer` in the place of `from trl import DPOTrainer`.

Arguments, logs, checkpoints and everything around the loss are TRL's own. What is not: log-probs come from hidden states by
:func:`dpo_kernels.linear_token_logps`, and the loss of a step with all its gradients by :func:`dpo_kernels.linear_dpo_loss`. What
these cannot do goes TRL's way, after one warning that says why. Written for TRL 1.16.
"""

import contextlib
import functools
import types
import warnings
from dataclasses import dataclass
from typing import Any, Optional

import torch
import trl.trainer.dpo_trainer as trl_trainer
from torch import Tensor
from trl import DPOTrainer as TrlDPOTrainer
from trl.trainer.utils import FusedCausalLMOutput
from trl.trainer.utils import add_fused_lm_head as trl_add_fused_lm_head

from .linear import linear_dpo_loss, linear_token_logps

# Losses of TRL that read label smoothing, and those that divide by the length of a completion.
_WITH_LABEL_SMOOTHING = {"exo_pair", "robust", "aot", "aot_unpaired"}
_WITH_LENGTHS = {"ipo", "sigmoid_norm"}


@functools.cache
def _warn_once(reason):
    warnings.warn(f"dpo_kernels: {reason}: this goes TRL's way", stacklevel=2)


def transform_of(config) -> dict[str, Optional[float]]:
    """What a model does to its logits before the softmax, by the names that model configs have for it.

    Cohere has ``logit_scale``, Falcon-H1 ``lm_head_multiplier``; Granite and MiniCPM3 divide by ``logits_scaling``, by which HyperCLOVA
    X multiplies. Gemma 2 has ``final_logit_softcapping``.
    """
    scale = next(
        (
            value
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (value := getattr(config, name, None)) is not None
        ),
        None,
    )
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    return {"logit_scale": scale, "softcap": getattr(config, "final_logit_softcapping", None)}


def _unsupported_head(lm_head, transform) -> Optional[str]:
    """Why a model's head goes TRL's way, or None."""
    kind = type(lm_head.weight)
    if kind not in (Tensor, torch.nn.Parameter):
        return f"the head's weight is a {kind.__name__}, as where it is sharded or quantized"
    if hasattr(lm_head.weight, "ds_id"):
        return "the head's weight is sharded by DeepSpeed"
    if lm_head.weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the head's weight is of {lm_head.weight.dtype}"
    scale = transform["logit_scale"]
    if scale is not None and scale <= 0:
        return f"the model's logits are scaled by {scale}"
    return None


def add_fused_lm_head(model, outputs: tuple[str, ...] = ("log_probs",), fused_on_cuda: bool = False) -> None:
    """As TRL's function of this name: ``model(..., labels=labels, fused_lm_head=True)`` gives log-probs instead of logits.

    With ``dpo_loss``, the arguments of :func:`linear_dpo_loss` after the labels, it gives the loss too, as ``dpo_loss``.
    ``fused_on_cuda`` is that function's.
    """
    trl_add_fused_lm_head(model, outputs=outputs)
    trl_forward = model.forward
    transform = transform_of(model.config.get_text_config())

    # `generate` validates the arguments that it passes on against the model's own signature.
    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, labels=None, dpo_loss=None, **kwargs):
        if not fused_lm_head:
            if labels is not None:
                kwargs["labels"] = labels
            return trl_forward(*args, **kwargs)
        reason = _unsupported_head(self.get_output_embeddings(), transform)
        if reason is None and (kwargs.get("shift_labels") is not None or kwargs.get("output_router_logits")):
            reason = "shifted labels or router logits are asked for"
        if reason is not None:
            _warn_once(reason)
            return trl_forward(*args, fused_lm_head=True, labels=labels, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        options = {"fused_on_cuda": fused_on_cuda, **transform}
        return _outputs_of(self.get_output_embeddings(), hidden, labels, outputs, options, dpo_loss)

    model.forward = types.MethodType(forward, model)


@dataclass
class DpoCausalLMOutput(FusedCausalLMOutput):
    """TRL's output with the loss of a step, from which its gradients go, beside per-token fields without any."""

    dpo_loss: Optional[Tensor] = None


def _outputs_of(lm_head, hidden, labels, wanted, options, dpo_loss) -> DpoCausalLMOutput:
    hidden, labels = hidden.to(lm_head.weight.device), labels.to(lm_head.weight.device)
    metrics = {("log_probs",): None, ("log_probs", "entropy"): "entropy"}.get(tuple(wanted), "all")
    options = {"label_alignment": "next_token", "token_metrics": metrics, **options}
    loss = None
    if dpo_loss is None:
        result = linear_token_logps(hidden, lm_head.weight, labels, lm_head.bias, **options)
        token_logps = result.token_logps
    else:
        result = linear_dpo_loss(hidden, lm_head.weight, labels, bias=lm_head.bias, **options, **dpo_loss)
        token_logps, loss = result.token_logps, result.loss
    # A row's log-prob is that of the next label, and the last row has none.
    mask = labels[:, 1:] != -100
    fields: dict[str, Any] = {"log_probs": token_logps[:, :-1], "label_mask": mask}
    if result.token_metrics is not None:
        fields["entropy"] = result.token_metrics.entropy[:, :-1]
    if metrics == "all":
        fields["mean_logits"] = result.token_metrics.mean_logit[:, :-1]
        fields["is_top1"] = result.token_metrics.correct[:, :-1].bool()
        fields["log_sum_sq_probs"] = result.token_metrics.sum_p2[:, :-1].masked_fill(~mask, 1.0).log()
    return DpoCausalLMOutput(dpo_loss=loss, **fields)


@contextlib.contextmanager
def _head_of_this_package(fused_on_cuda):
    """TRL's trainer gives its models a head where it builds them, before it wraps them and before it uses them."""
    own = trl_trainer.add_fused_lm_head
    trl_trainer.add_fused_lm_head = functools.partial(add_fused_lm_head, fused_on_cuda=fused_on_cuda)
    try:
        yield
    finally:
        trl_trainer.add_fused_lm_head = own


class DPOTrainer(TrlDPOTrainer):
    """TRL's :class:`trl.DPOTrainer` with the fused head: the same arguments, the same log, less time and memory.

    A head that is trained is three products a step, and a frozen one, as under LoRA, two; the reference is one.

    On a GPU the logits are made as a whole, by PyTorch's product, unless ``fused_on_cuda`` is set on the class before a trainer is
    made: :func:`linear_token_logps` says why.
    """

    fused_on_cuda: bool = False

    def __init__(self, *args, **kwargs):
        with _head_of_this_package(self.fused_on_cuda):
            super().__init__(*args, **kwargs)

    def _compute_loss(self, model, inputs, return_outputs):
        reason = self._unsupported_loss()
        if reason is not None:
            _warn_once(reason)
            return super()._compute_loss(model, inputs, return_outputs)

        inputs = dict(inputs)
        if not self.precompute_ref_logps:
            reference = self.model if self.ref_model is None else self.ref_model
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = self.compute_ref_log_probs(reference, inputs)
        own = {}

        def policy(**model_kwargs):
            """The model as TRL calls it, whose log-probs are constants to TRL's loss."""
            if model_kwargs.get("fused_lm_head"):
                outputs = model(**model_kwargs, dpo_loss=self._arguments_of_loss(inputs))
                # A head that goes TRL's way leaves the loss to TRL.
                own["loss"] = getattr(outputs, "dpo_loss", None)
                return outputs
            return model(**model_kwargs)

        # TRL's own method makes the metrics, with its own loss among them, of log-probs without gradient.
        precomputed, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            result = super()._compute_loss(policy, inputs, return_outputs)
        finally:
            self.precompute_ref_logps = precomputed
        if own["loss"] is None:
            return result
        return (own["loss"], result[1]) if return_outputs else own["loss"]

    def _unsupported_loss(self) -> Optional[str]:
        """Why a step goes TRL's way, or None."""
        names = set(self.loss_types)
        if self.aux_loss_enabled:
            return "the model has an auxiliary loss"
        if getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False):
            return "PEFT puts virtual tokens before the sequences"
        if min(self.loss_weights) <= 0:
            return f"a loss has the weight {min(self.loss_weights)}"
        if len(self.loss_types) > 4 or len(names) < len(self.loss_types):
            return f"there are more than four losses, or one of them twice: {self.loss_types}"
        unsmoothed = sorted(names & {"sigmoid", "sigmoid_norm"})
        if names & _WITH_LABEL_SMOOTHING and unsmoothed and self.label_smoothing != 0:
            return f"label_smoothing is meant for some losses of the sum and not for {unsmoothed[0]}"
        if "sft" in names and self.ld_alpha is not None:
            return "sft counts all tokens once and ld_alpha does not"
        if "sft" in names and (self.use_weighting or self.f_divergence_type != "reverse_kl"):
            return "sft is neither weighted nor a divergence"
        return None

    def _arguments_of_loss(self, inputs) -> dict[str, Any]:
        """TRL's configuration as arguments of :func:`linear_dpo_loss`."""
        names = set(self.loss_types)
        ref_logps = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        arguments = {
            "ref_logps": None if names == {"sft"} else ref_logps,
            "loss": self.loss_types,
            "loss_weights": self.loss_weights,
            "beta": self.beta,
            "ld_alpha": self.ld_alpha,
            "use_weighting": self.use_weighting,
        }
        if names & _WITH_LABEL_SMOOTHING:
            arguments["label_smoothing"] = self.label_smoothing
        if names & _WITH_LENGTHS:
            arguments["lengths"] = inputs["completion_mask"].sum(dim=1)
        if "discopop" in names:
            arguments["discopop_tau"] = self.args.discopop_tau
        if self.f_divergence_type != "reverse_kl":
            arguments["f_divergence_type"] = str(getattr(self.f_divergence_type, "value", self.f_divergence_type))
        if self.f_divergence_type == "alpha_divergence":
            arguments["f_alpha_divergence_coef"] = self.f_alpha_divergence_coef
        return arguments
