"""The functions on logits and on log-probs.

Symbols: S sequences of T tokens, rows = S T (or all rows of packed sequences), V the vocabulary, N pairs. Rows are computed in
f32 from logits of f32, f16 or bf16, sums over a sequence in f64, and rounded once.
"""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor
from typing_extensions import Unpack

from . import ops
from ._batch import check_tensor, layout_of
from .options import Beta, DpoOptions, LossArguments, LossOptions, RowArguments, RowOptions, split_options
from .results import DpoLoss, TokenLogps, TokenMetrics

_METRICS = {None: "none", "entropy": "entropy", "all": "all"}


def metrics_wanted(token_metrics) -> str:
    if token_metrics not in _METRICS:
        raise ValueError(f"token_metrics: expected None, 'entropy' or 'all', found {token_metrics!r}")
    return _METRICS[token_metrics]


def token_metrics_of(outputs, metrics) -> Optional[TokenMetrics]:
    """The metrics among the outputs of the operator `logps`."""
    if metrics == "none":
        return None
    entropy, *rest = outputs[6:11]
    return TokenMetrics(entropy, *(rest if metrics == "all" else (None,) * 4))


def token_logps_of(outputs, metrics, check) -> TokenLogps:
    result = TokenLogps(
        token_logps=outputs[1],
        logps=outputs[0],
        scored=outputs[2],
        token_metrics=token_metrics_of(outputs, metrics),
        status=outputs[12],
    )
    return result.check() if check else result


def dpo_loss_of(pair_outputs, of_logps, status, token_metrics, check) -> DpoLoss:
    """The result of a loss. `of_logps` are [S] log-probs, log-probs of tokens and numbers of scored tokens; `status` is that of
    their pass, which finds other kinds of trouble than the pairs', if there was one."""
    logps, token_logps, scored = of_logps
    loss, pair_losses, chosen_rewards, rejected_rewards, margins, coef, metrics, pair_status = pair_outputs
    result = DpoLoss(
        loss=loss,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        margins=margins,
        accuracy=metrics[7],
        logps=logps.detach(),
        status=pair_status if status is None else torch.where(status == -1, pair_status, status),
        pair_losses=pair_losses,
        coef=coef,
        scored=scored,
        token_logps=None if token_logps is None else token_logps.detach(),
        token_metrics=token_metrics,
    )
    return result.check() if check else result


def _logps(logits, rows, metrics, wpo_weights, inplace_backward):
    arguments = (*rows, metrics, wpo_weights)
    # A traced graph decides by itself what may share memory.
    if not inplace_backward or torch.compiler.is_compiling() or not (logits.requires_grad and torch.is_grad_enabled()):
        return ops.logps(logits, *arguments)
    if logits.is_leaf or (logits._base is not None and logits._base.is_leaf):
        raise ValueError(
            "inplace_backward: expected logits that an operation made, found a leaf, or a view of one, whose gradient cannot take "
            "the place of its values"
        )
    return ops.LogpsInPlace.apply(logits, *arguments)


def token_logps(
    logits: Tensor,
    labels: Tensor,
    *,
    label_alignment: str,
    token_metrics: Optional[str] = None,
    pairs: str = "concatenated",
    inplace_backward: bool = False,
    check: bool = False,
    **options: Unpack[RowOptions],
) -> TokenLogps:
    """Log-probs of the labels, logp[r] = z[r, y_r] − logsumexp_v z[r, v], and their sums over sequences.

    Args:
        logits: [S, T, V] f32, f16 or bf16; with ``cu_seqlens``, [rows, V] or [1, rows, V]. Rows may be any number of elements
            apart, as those of ``padded[..., :V]`` are; tensors with other strides are copied.
        labels: i64 or i32 in the shape of the logits without V. Rows whose label is ``ignore_index`` are not scored, and not
            read.
        label_alignment: ``"next_token"`` where row t predicts labels[t + 1], as for Hugging Face's unshifted labels, or
            ``"aligned"`` where row r predicts labels[r]. There is no default: the wrong one gives numbers like any other.
        token_metrics: ``"entropy"``, ``"all"``, or None for none, from the same read of the logits.
        pairs: ``"concatenated"`` or ``"interleaved"``: which sequences are pairs, for ``ld_alpha`` alone.
        inplace_backward: Whether the gradient of the logits is written over them. An operation that needs the logits in a later
            backward fails then, as after any other in-place operation, and so does a second backward. Under ``torch.compile``,
            which decides by itself what shares memory, it changes nothing.
        check: Whether trouble in the data is raised at once, which waits for the device; see :meth:`TokenLogps.check`.
        options: :class:`~dpo_kernels.options.RowOptions`.

    Raises:
        ValueError: An argument has the wrong shape, device or value.
        TypeError: A tensor has the wrong type.
    """
    metrics = metrics_wanted(token_metrics)
    rows = RowArguments(label_alignment, **options)
    layout_of("logits", logits, labels, rows.cu_seqlens)
    outputs = _logps(logits, rows.rows(labels, pairs), metrics, False, inplace_backward)
    return token_logps_of(outputs, metrics, check)


def sequence_logps(
    logits: Tensor,
    labels: Tensor,
    *,
    label_alignment: str,
    pairs: str = "concatenated",
    inplace_backward: bool = False,
    check: bool = False,
    **options: Unpack[RowOptions],
) -> Tensor:
    """[S] f32: the sum of the scored log-probs of each sequence, differentiable. Arguments are those of :func:`token_logps`.

    A loss of your own is made of these: its derivative by each of them is the coefficient c_s = ∂loss/∂logp_s, which is all that
    the fused backward needs.
    """
    return token_logps(
        logits,
        labels,
        label_alignment=label_alignment,
        pairs=pairs,
        inplace_backward=inplace_backward,
        check=check,
        **options,
    ).logps


def pair_loss(
    logps: Tensor,
    ref_logps: Optional[Tensor] = None,
    *,
    loss: Union[str, Sequence[str]] = "sigmoid",
    beta: Beta = 0.1,
    scored: Optional[Tensor] = None,
    check: bool = False,
    **options: Unpack[LossOptions],
) -> DpoLoss:
    """A loss of log-probs, and its derivative by each of them.

    With log-ratios a = logp_w − ref_logp_w and b = logp_l − ref_logp_l and rewards u = βa and v = βb, ``"sigmoid"`` is DPO's
    −log σ(u − v) (arXiv:2305.18290). Names are those of TRL: sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair,
    sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop, sft and sigmoid_norm; beside them nll, odds_ratio, orpo, simpo, cpo,
    rpo and kto. The table in the README of dpo-kernels has their formulas and sources.

    Args:
        logps: [S] of any floating type; computed in f32. The derivative goes here alone.
        ref_logps: [S] under the reference, or None for a loss without one and with ``reference_free``.
        loss: A name, or several for their sum.
        beta: The temperature β; a tensor [N] has one for each pair, a list one for each loss of a sum. sft, nll and odds_ratio
            have none.
        scored: [S] numbers of scored tokens, which losses that are normalised by length divide by.
        check: Whether trouble in the data is raised at once, which waits for the device; see :meth:`DpoLoss.check`.
        options: :class:`~dpo_kernels.options.LossOptions`.

    Raises:
        ValueError: An argument has the wrong shape, device or value, or the loss has no use for it, or cannot do without it.
        TypeError: A tensor has the wrong type.
    """
    check_tensor("logps", logps, (torch.float32, torch.float64, torch.float16, torch.bfloat16))
    if logps.dim() != 1:
        raise ValueError(f"logps: expected shape [S], found {tuple(logps.shape)}")
    arguments = LossArguments(loss, beta, **options)
    arguments.check_constants(ref_logps)
    outputs = ops.pair_loss(logps, scored, *arguments.of_operator(ref_logps, arguments.sequence_log_weights))
    return dpo_loss_of(outputs, (logps, None, scored), None, None, check)


def dpo_loss(
    logits: Tensor,
    labels: Tensor,
    ref_logps: Optional[Tensor] = None,
    *,
    label_alignment: str,
    loss: Union[str, Sequence[str]] = "sigmoid",
    beta: Beta = 0.1,
    use_weighting: bool = False,
    token_metrics: Optional[str] = None,
    inplace_backward: bool = False,
    check: bool = False,
    **options: Unpack[DpoOptions],
) -> DpoLoss:
    """The loss of a batch of preferences from logits; its gradient is one read and one write of them.

    For ``"sigmoid"`` it is the mean over the pairs of −log σ(β(logp_w − ref_logp_w) − β(logp_l − ref_logp_l)), where logp_s is
    the sum of the scored log-probs of sequence s. The first half of the sequences is chosen, unless ``pairs`` says otherwise.

    Args:
        logits, labels, label_alignment, token_metrics, inplace_backward: As in :func:`token_logps`.
        ref_logps, loss, beta: As in :func:`pair_loss`.
        use_weighting: Whether pairs are weighted by e^w, w being the means of log-prob − log Σp² over the tokens of the two
            sequences, as TRL's ``use_weighting`` does. With ``wpo_weights`` the weight is at most 1, as in WPO's paper.
        check: Whether trouble in the data is raised at once, which waits for the device; see :meth:`DpoLoss.check`.
        options: :class:`~dpo_kernels.options.RowOptions` and :class:`~dpo_kernels.options.LossOptions`.

    Raises:
        ValueError: An argument has the wrong shape, device or value, or the loss has no use for it, or cannot do without it.
        TypeError: A tensor has the wrong type.
    """
    metrics = metrics_wanted(token_metrics)
    row_options, loss_options = split_options(options)
    rows, arguments = RowArguments(label_alignment, **row_options), LossArguments(loss, beta, **loss_options)
    layout_of("logits", logits, labels, rows.cu_seqlens)
    arguments.check_constants(ref_logps)
    own_weights = arguments.takes_own_weights(use_weighting)
    outputs = _logps(logits, rows.rows(labels, arguments.pairs), metrics, own_weights, inplace_backward)
    logps, _, scored = outputs[:3]
    log_weights = outputs[10] if own_weights else arguments.sequence_log_weights
    pair_outputs = ops.pair_loss(logps, scored, *arguments.of_operator(ref_logps, log_weights))
    return dpo_loss_of(pair_outputs, outputs[:3], outputs[12], token_metrics_of(outputs, metrics), check)
