"""The arguments that the functions share: how rows are read, and what the loss is."""

from typing import Optional, Sequence, Union

from torch import Tensor
from typing_extensions import TypedDict, Unpack

from ._batch import Rows, check_constant, check_tensor
from ._loss import Loss

IGNORE_INDEX = -100


class RowOptions(TypedDict, total=False):
    """How rows of logits are read, and labels beside them."""

    #: [S + 1] i32 or i64: sequence s is rows cu_seqlens[s] to cu_seqlens[s + 1] of a packed batch, whose labels are [rows] or
    #: [1, rows].
    cu_seqlens: Optional[Tensor]
    #: LD-DPO (arXiv:2409.06411): the weight, from 0 to 1, of the scored tokens of a sequence beyond as many as the other of its
    #: pair has.
    ld_alpha: Optional[float]
    #: Label of rows that are not scored; −100 unless told otherwise.
    ignore_index: int
    #: Factor of the logits, 1/temperature.
    logit_scale: Optional[float]
    #: The soft cap C: z becomes C tanh(z/C), after the scale.
    softcap: Optional[float]
    #: Columns from here on are padding of the vocabulary, without part in the softmax.
    valid_vocab: Optional[int]


class LossOptions(TypedDict, total=False):
    """What a loss is, besides its name and β. N pairs, S sequences."""

    #: Factors of the losses of a sum, 1 each unless told otherwise.
    loss_weights: Optional[Sequence[float]]
    #: Probability that a preference is flipped, for sigmoid, sigmoid_norm, simpo, cpo, rpo, robust, exo_pair, aot and
    #: aot_unpaired, all of them in a sum; a tensor [N] has one for each pair.
    label_smoothing: Union[float, Tensor, None]
    #: Target margin; a tensor [N] has one for each pair.
    gamma: Union[float, Tensor, None]
    #: "reverse_kl", "forward_kl", "js_divergence" or "alpha_divergence": what log-ratios are valued by.
    f_divergence_type: str
    #: The α of "alpha_divergence".
    f_alpha_divergence_coef: Optional[float]
    #: τ of discopop.
    discopop_tau: Optional[float]
    #: Weight of nll in cpo.
    cpo_alpha: Optional[float]
    #: Weight of nll in rpo.
    rpo_alpha: Optional[float]
    #: λ_D of kto.
    desirable_weight: Optional[float]
    #: λ_U of kto.
    undesirable_weight: Optional[float]
    #: z₀ of kto, in nats; without it, it is estimated from kl_logps and kl_ref_logps.
    baseline: Optional[float]
    #: Whether the loss is taken over log-probs where it is over log-ratios.
    reference_free: bool
    #: Whether log-ratios are divided by numbers of scored tokens.
    length_normalized: bool
    #: Whether pairs weigh min(1, e^w) as WPO has it (arXiv:2406.11827), w being the sum of the sequence_log_weights of the two.
    wpo_weights: bool
    #: What the sum of the pair losses is divided by: "pairs" (the default), "tokens", a number, or a tensor of one number, such
    #: as the pairs of all batches of an optimizer step. Not of sft, in a sum neither: that is divided by chosen_tokens.
    normalizer: Union[float, Tensor, str, None]
    #: "concatenated", the first half of the sequences being chosen, or "interleaved".
    pairs: str
    #: [N] indices of the chosen sequences, instead of `pairs`.
    chosen: Optional[Tensor]
    #: [N] indices of the rejected sequences.
    rejected: Optional[Tensor]
    #: [S], 0 for an undesirable one: sequences are judged one by one, without pairs.
    desirable: Optional[Tensor]
    #: [N] factors of the pair losses; a pair of weight 0 is not part of the batch.
    pair_weight: Optional[Tensor]
    #: [S]: what a loss divides by where that is not the number of scored tokens.
    lengths: Optional[Tensor]
    #: [S]: logarithms of weights, without gradient. A pair's weight is e to the sum of its two.
    sequence_log_weights: Optional[Tensor]
    #: [K] log-probs of mismatched completions, for the baseline of kto.
    kl_logps: Optional[Tensor]
    #: [K], the same under the reference.
    kl_ref_logps: Optional[Tensor]
    #: One number: what sft divides by, instead of this batch's number of scored chosen tokens.
    chosen_tokens: Optional[Tensor]


class DpoOptions(RowOptions, LossOptions, total=False):
    """Both."""


# Options that are tensors whenever they are there.
_TENSORS = (
    "chosen",
    "rejected",
    "desirable",
    "pair_weight",
    "lengths",
    "sequence_log_weights",
    "kl_logps",
    "kl_ref_logps",
    "chosen_tokens",
)

Beta = Union[float, Tensor, Sequence[float]]


class RowArguments:
    """:class:`RowOptions` as the operators take them."""

    def __init__(self, label_alignment: str, **options: Unpack[RowOptions]):
        unknown = options.keys() - RowOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"{sorted(unknown)[0]}: expected an argument of this function, found another name")
        for argument in ("ld_alpha", "logit_scale", "softcap"):
            if isinstance(options.get(argument), Tensor):
                check_constant(argument, options[argument])
        self.cu_seqlens = options.get("cu_seqlens")
        self.ld_alpha = options.get("ld_alpha")
        self.numbers = (
            options.get("ignore_index", IGNORE_INDEX),
            options.get("logit_scale"),
            options.get("softcap"),
            options.get("valid_vocab"),
        )
        self.label_alignment = label_alignment

    def rows(self, labels, pairs) -> Rows:
        """What the operators take. Of the pairs, only LD-DPO's weights know where there are no losses."""
        pairs = pairs if self.ld_alpha is not None else "none"
        return Rows(labels, self.cu_seqlens, self.label_alignment, pairs, self.ld_alpha, *self.numbers)


class LossArguments:
    """A loss's name, β and :class:`LossOptions` as the operator `pair_loss` takes them."""

    def __init__(self, loss: Union[str, Sequence[str]], beta: Beta, **options: Unpack[LossOptions]):
        unknown = options.keys() - LossOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"{sorted(unknown)[0]}: expected an argument of this function, found another name")
        names = [loss] if isinstance(loss, str) else list(loss)
        if not names:
            raise ValueError("loss: expected the name of a loss, or several, found none")
        self.loss = "+".join(names)
        weights = options.get("loss_weights")
        self.loss_weights = None if weights is None else [float(value) for value in weights]
        self.beta, self.betas, self.pair_beta = None, None, None
        if isinstance(beta, Tensor):
            if "orpo" in names:
                raise ValueError("beta: expected a number, which is orpo's factor, found a tensor")
            self.beta, self.pair_beta = 1.0, beta
        elif isinstance(beta, (list, tuple)):
            for value in beta:
                if isinstance(value, Tensor):
                    check_constant("beta", value)
            self.betas = [float(value) for value in beta]
        else:
            self.beta = float(beta)
        self.label_smoothing, self.pair_label_smoothing = _number_or_tensor(options.get("label_smoothing"))
        self.gamma, self.pair_gamma = _number_or_tensor(options.get("gamma"))
        normalizer = options.get("normalizer")
        self.normalized_by = normalizer if isinstance(normalizer, str) else "pairs"
        self.normalizer, self.normalizer_tensor = _number_or_tensor(None if isinstance(normalizer, str) else normalizer)
        self.options = options
        self.sequence_log_weights = options.get("sequence_log_weights")
        self.pairs = self._pairs(options)

    @staticmethod
    def _pairs(options):
        pairs = options.get("pairs", "concatenated")
        indexed = options.get("chosen") is not None or options.get("rejected") is not None
        unpaired = options.get("desirable") is not None
        if indexed and (options.get("chosen") is None or options.get("rejected") is None or unpaired):
            raise ValueError(
                "chosen: expected chosen and rejected, or desirable alone, found another two of them, or one"
            )
        if pairs not in ("concatenated", "interleaved"):
            raise ValueError(f"pairs: expected 'concatenated' or 'interleaved', found {pairs!r}")
        return "indexed" if indexed else "unpaired" if unpaired else pairs

    def takes_own_weights(self, use_weighting):
        """Whether pairs are weighted by what the pass itself finds of its tokens."""
        if use_weighting and self.sequence_log_weights is not None:
            raise ValueError("sequence_log_weights: expected none beside use_weighting, found a tensor")
        return use_weighting or (self.options.get("wpo_weights", False) and self.sequence_log_weights is None)

    def check_constants(self, ref_logps):
        """Refuses tensors whose gradient would be lost."""
        tensors = {"ref_logps": ref_logps, "beta": self.pair_beta, "gamma": self.pair_gamma}
        tensors |= {"label_smoothing": self.pair_label_smoothing, "normalizer": self.normalizer_tensor}
        for name in _TENSORS:
            tensors[name] = self.options.get(name)
        for argument, number in self.options.items():
            for value in number if isinstance(number, (list, tuple)) else [number]:
                if isinstance(value, Tensor):
                    check_constant(argument, value)
        for argument, tensor in tensors.items():
            if tensor is not None:
                check_tensor(argument, tensor)
                check_constant(argument, tensor)

    def of_operator(self, ref_logps, sequence_log_weights) -> Loss:
        """What the operators take."""
        option = self.options.get
        return Loss(
            ref_logps=ref_logps,
            chosen=option("chosen"),
            rejected=option("rejected"),
            desirable=option("desirable"),
            lengths=option("lengths"),
            pair_beta=self.pair_beta,
            pair_gamma=self.pair_gamma,
            pair_weight=option("pair_weight"),
            pair_label_smoothing=self.pair_label_smoothing,
            sequence_log_weights=sequence_log_weights,
            kl_logps=option("kl_logps"),
            kl_ref_logps=option("kl_ref_logps"),
            normalizer_tensor=self.normalizer_tensor,
            chosen_tokens=option("chosen_tokens"),
            pairs=self.pairs,
            names=self.loss,
            loss_weights=self.loss_weights,
            beta=self.beta,
            betas=self.betas,
            discopop_tau=option("discopop_tau"),
            cpo_alpha=option("cpo_alpha"),
            rpo_alpha=option("rpo_alpha"),
            desirable_weight=option("desirable_weight"),
            undesirable_weight=option("undesirable_weight"),
            f_divergence_type=option("f_divergence_type", "reverse_kl"),
            f_alpha_divergence_coef=option("f_alpha_divergence_coef"),
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            baseline=option("baseline"),
            reference_free=option("reference_free", False),
            length_normalized=option("length_normalized", False),
            wpo_weights=option("wpo_weights", False),
            normalized_by=self.normalized_by,
            normalizer=self.normalizer,
        )


def _number_or_tensor(value):
    """A number for all pairs, or a tensor with one for each."""
    return (None, value) if isinstance(value, Tensor) else (None if value is None else float(value), None)


def split_options(options):
    """The options of rows and those of the loss, of a function that takes both."""
    rows = {name: value for name, value in options.items() if name in RowOptions.__annotations__}
    loss = {name: value for name, value in options.items() if name not in rows}
    return rows, loss
