"""TRL's and Liger's Triton kernels, as their wheels have them."""

import functools
import importlib.metadata
import importlib.util
from pathlib import Path

IGNORE_INDEX = -100


def name(package):
    """The package with its version."""
    return f"{package} {importlib.metadata.version(package)}, triton"


@functools.cache
def trl_kernels():
    """The one file of TRL's that has them; the package around it wants transformers, datasets and more."""
    [package] = importlib.util.find_spec("trl").submodule_search_locations
    spec = importlib.util.spec_from_file_location("trl_kernels", Path(package) / "kernels" / "logprob_entropy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trl(logits, labels):
    """Sequence log-probs as TRL's trainers take them on a GPU; the entropy comes with them."""
    scored = labels != IGNORE_INDEX
    selective = trl_kernels().selective_log_softmax_and_entropy
    tokens, _entropy = selective(logits, labels.clamp(min=0), 1.0, scored)
    return tokens.sum(-1)


def liger(logits, labels):
    """Sequence log-probs by Liger's cross-entropy, which leaves the logits' gradient in their place on the way."""
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    losses, *_ = LigerCrossEntropyFunction.apply(
        logits.flatten(0, 1), labels.flatten(), None, IGNORE_INDEX, 0.0, 0.0, "none"
    )
    return -losses.view_as(labels).sum(-1)
