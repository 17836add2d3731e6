"""Schemas of operators from the fields of the named tuples that they take."""

from typing import Optional, Sequence, get_type_hints

import torch
from torch import Tensor

_TYPES = {
    Tensor: "Tensor",
    Optional[Tensor]: "Tensor?",
    str: "str",
    bool: "bool",
    int: "SymInt",
    Optional[int]: "SymInt?",
    Optional[float]: "float?",
    Optional[Sequence[float]]: "float[]?",
}


def fields(named_tuple):
    """The fields of a named tuple as parameters of a schema."""
    return ", ".join(f"{_TYPES[kind]} {name}" for name, kind in get_type_hints(named_tuple).items())


def tensors(count):
    """Results of a schema."""
    return f"({', '.join(['Tensor'] * count)})"


def operator(name, parameters, results, mutates=()):
    """The decorator of `dpo_kernels::name`."""
    schema = f"({', '.join(parameters)}) -> {results}"
    return torch.library.custom_op(f"dpo_kernels::{name}", mutates_args=mutates, schema=schema)


def refuse_double_backward(ctx, *gradients):
    """The autograd formula of a backward pass."""
    raise RuntimeError(
        "dpo_kernels: expected one backward pass, found a gradient of a gradient, such as create_graph=True asks for: the "
        "kernels have no second derivative"
    )
