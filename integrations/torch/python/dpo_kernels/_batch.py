"""Logits and labels, as tensors of PyTorch's usual shapes, in the C ABI's terms."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from . import _structs
from ._structs import dpo_batch, dpo_inputs, dpo_transform

DTYPES = {torch.float32: _structs.DPO_F32, torch.float16: _structs.DPO_F16, torch.bfloat16: _structs.DPO_BF16}
LABEL_TYPES = {torch.int32: _structs.DPO_LABELS_I32, torch.int64: _structs.DPO_LABELS_I64}
ALIGNMENTS = {"aligned": _structs.DPO_ALIGNED, "next_token": _structs.DPO_NEXT_TOKEN}
LAYOUTS = {
    "concatenated": _structs.DPO_PAIRS_CONCATENATED,
    "interleaved": _structs.DPO_PAIRS_INTERLEAVED,
    "none": _structs.DPO_PAIRS_NONE,
}


class Layout(NamedTuple):
    """How many sequences a batch has, and of how many rows (0 where they are packed)."""

    sequences: int
    sequence_len: int


def optional(value):
    """What a struct holds where a number is left out: its bit says that it is."""
    return 0 if value is None else value


def given(**bits):
    """The bits, each with the number that it stands for, of those that are there."""
    return sum(getattr(_structs, bit) for bit, value in bits.items() if value is not None)


def address(tensor: Optional[Tensor]):
    return None if tensor is None else tensor.data_ptr()


def as_indices(tensor: Optional[Tensor]) -> Optional[Tensor]:
    """As the header's int32_t; what does not fit stays out of every range instead of wrapping into one."""
    if tensor is None:
        return None
    if tensor.dtype == torch.int64:
        tensor = tensor.clamp(-(2**31), 2**31 - 1)
    return tensor.to(torch.int32).contiguous()


def as_counts(argument: str, tensor: Optional[Tensor]) -> Optional[Tensor]:
    """As the header's uint32_t, which has no numbers below 0. They are looked for on the CPU alone, since to ask waits."""
    if tensor is not None and tensor.device.type == "cpu" and bool((tensor < 0).any()):
        raise ValueError(f"{argument}: expected numbers of tokens, found {int(tensor.min())}")
    return as_indices(tensor)


def as_floats(tensor: Optional[Tensor]) -> Optional[Tensor]:
    """As the header's float."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def check_tensor(argument, tensor, dtypes=None):
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument}: expected a tensor, found {type(tensor).__name__}")
    if dtypes is not None and tensor.dtype not in dtypes:
        expected = ", ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{argument}: expected one of {expected}, found {tensor.dtype}")


def check_device(argument, tensor, device):
    if tensor is not None and tensor.device != device:
        raise ValueError(f"{argument}: expected a tensor on {device}, found one on {tensor.device}")


def check_constant(argument, tensor):
    """The gradient of a loss with respect to its constants would be lost without a word."""
    if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{argument}: expected a tensor without gradient, such as {argument}.detach(), found one that requires it"
        )


def check_shape(argument, tensor, shape):
    if tensor is not None and tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{argument}: expected shape {tuple(shape)}, found {tuple(tensor.shape)}")


def check_rows(argument, tensor, labels):
    """Of what a pass gave for each row: the kernels read as many numbers as there are rows."""
    if tensor is not None:
        check_tensor(argument, tensor)
        check_device(argument, tensor, labels.device)
        check_shape(argument, tensor, labels.shape)


def check_coefficients(layout, rows, logsumexp, logsumexp_residual, coef, token_coef):
    """Of what a backward pass reads beside its rows."""
    check_rows("logsumexp", logsumexp, rows.labels)
    check_rows("logsumexp_residual", logsumexp_residual, rows.labels)
    check_rows("token_coef", token_coef, rows.labels)
    if coef is not None:
        check_device("coef", coef, rows.labels.device)
        check_shape("coef", coef, (layout.sequences,))


def layout_of(rows_argument, features, labels, cu_seqlens) -> Layout:
    """Checks `features` (logits or hidden states) [S, T, ·], or packed [rows, ·] or [1, rows, ·], against their labels."""
    check_tensor(rows_argument, features, DTYPES)
    check_tensor("labels", labels, LABEL_TYPES)
    check_device("labels", labels, features.device)
    if features.dim() < 2:
        raise ValueError(f"{rows_argument}: expected 2 or 3 dimensions, found shape {tuple(features.shape)}")
    check_shape("labels", labels, features.shape[:-1])
    if cu_seqlens is None:
        if features.dim() != 3:
            raise ValueError(
                f"{rows_argument}: expected shape [S, T, V], or cu_seqlens, found shape {tuple(features.shape)}"
            )
        return Layout(labels.shape[0], labels.shape[1])
    check_tensor("cu_seqlens", cu_seqlens, LABEL_TYPES)
    check_device("cu_seqlens", cu_seqlens, features.device)
    if features.dim() == 3 and features.shape[0] != 1 or features.dim() > 3:
        shape = tuple(features.shape)
        raise ValueError(f"{rows_argument}: expected shape [rows, V] or [1, rows, V] beside cu_seqlens, found {shape}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens: expected shape [S + 1], found {tuple(cu_seqlens.shape)}")
    return Layout(cu_seqlens.shape[0] - 1, 0)


def as_rows(features: Tensor) -> Tensor:
    """[rows, V] with rows a constant number of elements apart: a view where the strides allow it, else a copy."""
    rows = features.flatten(0, -2)
    count, width = rows.shape
    dense = width <= 1 or rows.stride(1) == 1
    return rows if dense and (count <= 1 or rows.stride(0) >= width) else rows.contiguous()


class Rows(NamedTuple):
    """How the rows of a batch are read, as the operators take it."""

    labels: Tensor
    cu_seqlens: Optional[Tensor]
    label_alignment: str
    ld_pairs: str
    ld_alpha: Optional[float]
    ignore_index: int
    scale: Optional[float]
    softcap: Optional[float]
    valid_vocab: Optional[int]

    def prepared(self):
        """The same with tensors as the header has them, which the caller keeps until its call is over."""
        return self._replace(labels=self.labels.contiguous(), cu_seqlens=as_indices(self.cu_seqlens))

    def on_host(self):
        """The same with tensors in host memory, where a head has to know which rows are scored; waits for their device."""
        cu_seqlens = None if self.cu_seqlens is None else self.cu_seqlens.cpu()
        return self._replace(labels=self.labels.cpu(), cu_seqlens=cu_seqlens)

    def batch(self, layout: Layout, matrix: Tensor) -> dpo_batch:
        """The batch of the rows of a matrix of logits."""
        count, vocab = matrix.shape
        return self.batch_of(layout, count, vocab, matrix.stride(0) if count > 1 else vocab)

    def batch_of(self, layout: Layout, count: int, vocab: int, row_stride: Optional[int]) -> dpo_batch:
        """A batch, which points to the tensors of `prepared` rows."""
        if self.label_alignment not in ALIGNMENTS:
            raise ValueError(
                "label_alignment: expected 'next_token' (row t predicts labels[t + 1], as for Hugging Face's labels) or "
                f"'aligned' (row r predicts labels[r]), found {self.label_alignment!r}"
            )
        if self.ld_pairs not in LAYOUTS:
            raise ValueError(f"pairs: expected one of {', '.join(LAYOUTS)}, found {self.ld_pairs!r}")
        transform = dpo_transform(
            given=given(
                DPO_TRANSFORM_SCALE=self.scale,
                DPO_TRANSFORM_SOFTCAP=self.softcap,
                DPO_TRANSFORM_VALID_VOCAB=self.valid_vocab,
            ),
            scale=optional(self.scale),
            softcap=optional(self.softcap),
            valid_vocab=optional(self.valid_vocab),
        )
        return dpo_batch(
            vocab=vocab,
            sequences=layout.sequences,
            sequence_len=layout.sequence_len,
            cu_seqlens=address(self.cu_seqlens),
            rows=0 if self.cu_seqlens is None else count,
            pairs=LAYOUTS[self.ld_pairs],
            label_alignment=ALIGNMENTS[self.label_alignment],
            given=given(
                DPO_BATCH_ROW_STRIDE=row_stride,
                DPO_BATCH_IGNORE_INDEX=self.ignore_index,
                DPO_BATCH_LD_ALPHA=self.ld_alpha,
            ),
            ld_alpha=optional(self.ld_alpha),
            row_stride=optional(row_stride),
            ignore_index=self.ignore_index,
            transform=transform,
        )


def inputs_struct(matrix: Tensor, labels: Tensor) -> dpo_inputs:
    return dpo_inputs(
        dtype=DTYPES[matrix.dtype],
        label_type=LABEL_TYPES[labels.dtype],
        logits=matrix.data_ptr(),
        labels=labels.data_ptr(),
    )
