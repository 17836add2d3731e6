"""The C library that the package carries: loading it, and its errors as Python's."""

import ctypes
import functools
import os
import pathlib

import torch

from . import _structs
from ._structs import DPO_NO_TROUBLE, dpo_status

PATH = pathlib.Path(__file__).with_name("libdpo_kernels_c.so")

# What a caller can mend in the arguments is a ValueError; the rest lies in the machine, the build or the library.
_VALUE_ERRORS = {
    _structs.DPO_ERROR_VALUE,
    _structs.DPO_ERROR_INDEX,
    _structs.DPO_ERROR_MISSING,
    _structs.DPO_ERROR_DATA,
}


def load(path):
    """The library at `path`, with the signatures of the header; ImportError where it is not this package's."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, parameters) in _structs.FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, parameters
    except (OSError, AttributeError) as error:
        raise ImportError(f"{path}: expected the C library of dpo-kernels, found none that loads ({error})") from error
    if (version := library.dpo_version()) != _structs.DPO_VERSION:
        raise ImportError(f"{path}: expected version {_structs.DPO_VERSION} of dpo-kernels, found {version}")
    _probe(library, path)
    return library


def _probe(library, path):
    """A loss of one pair whose value is known: a library whose structs have other sizes or fields does not get it right.

    Of log-probs, because a pass over logits starts the library's threads, and the process may be about to be forked.
    """
    floats = (ctypes.c_float * 8)()
    at = [ctypes.addressof(floats) + 4 * i for i in range(8)]
    status, metrics = dpo_status(), _structs.dpo_pair_metrics()
    batch = _structs.dpo_batch(sequences=2)
    loss = _structs.dpo_loss(beta=1.0, reference_free=1)
    pair_outputs = _structs.dpo_pair_outputs(
        pair_losses=at[2], chosen_rewards=at[3], rejected_rewards=at[4], margins=at[5], coef=at[6],
        metrics=ctypes.addressof(metrics),
    )  # fmt: skip
    result = library.dpo_cpu_pair_loss(batch, at[0], None, None, loss, pair_outputs, ctypes.addressof(status))
    found = (result, round(floats[2], 4), round(floats[6], 4))
    if found != (0, 0.6931, -0.5):
        said = library.dpo_last_error().decode()
        raise ImportError(f"{path}: expected the C library of dpo-kernels, found one that answers {found} {said}")


library = load(PATH)


# Functions of the header that spread over the library's threads, which start at the first of them.
_THREADED = {
    f"dpo_cpu_{stage}"
    for stage in ("logps", "forward", "factored", "backward", "lm_head_logps", "lm_head_forward", "lm_head_backward")
}
# The process that has the threads, once they have started.
_process = None


def _refuse_a_fork():
    """A fork has no threads of its parent's, and would wait for them for ever."""
    global _process
    if _process not in (None, os.getpid()):
        raise RuntimeError(
            "process: expected the one that dpo_kernels first computed in, or one made by 'spawn', found a fork of it, to which "
            "threads do not pass"
        )
    _process = os.getpid()


def call(name, *arguments):
    """Calls a function of the header; what it says of a failure is raised."""
    if name in _THREADED:
        _refuse_a_fork()
    result = getattr(library, name)(*arguments)
    if result != _structs.DPO_OK:
        message = library.dpo_last_error().decode()
        raise ValueError(message) if result in _VALUE_ERRORS else RuntimeError(message)


@functools.cache
def cuda_is_built():
    """Whether the library carries the CUDA kernels, which it does where NVRTC was there when the wheel was built.

    Says nothing about whether this machine has a GPU: `torch.cuda.is_available()` does.
    """
    workspace = _structs.dpo_workspace(sequences=1, rows=1, vocab=1)
    result = library.dpo_cuda_workspace_size(workspace, ctypes.byref(ctypes.c_size_t()))
    return result != _structs.DPO_ERROR_UNSUPPORTED


@functools.cache
def _kernels(device):
    """The kernels in the primary context of a device, loaded once and kept as long as the process."""
    handle = ctypes.c_void_p()
    call("dpo_cuda_load", ctypes.byref(handle))
    return handle


@functools.cache
def _products(device):
    """What multiplies matrices in the primary context of a device, kept as the kernels are."""
    handle = ctypes.c_void_p()
    call("dpo_cuda_products_create", ctypes.byref(handle))
    return handle


def run_head_on_cuda(stage, device, *arguments, workspace):
    """Runs a stage behind the model's head on the current stream of a CUDA device, in a `workspace` whose memory is made anew."""
    with torch.cuda.device(device):
        size = ctypes.c_size_t()
        call("dpo_cuda_lm_head_workspace_size", workspace, ctypes.byref(size))
        memory = torch.zeros(size.value, dtype=torch.uint8, device=device)
        workspace.memory = memory.data_ptr()
        stream = torch.cuda.current_stream(device).cuda_stream
        handles = _kernels(device.index), _products(device.index)
        call(f"dpo_cuda_lm_head_{stage}", *handles, *arguments, workspace, stream)


def run(stage, device, *arguments, workspace=None):
    """Runs a stage of the header where the tensors are: on the CPU, or on the current stream of a CUDA device.

    `workspace` is (sequences, rows, vocab) for the stages that need one. It is made anew for every launch, from PyTorch's
    allocator and zeroed on the stream, so that launches on several streams and captured graphs never share one.
    """
    if device.type == "cpu":
        return call(f"dpo_cpu_{stage}", *arguments)
    if device.type != "cuda":
        raise ValueError(f"device: expected tensors on the CPU or on a CUDA device, found {device}")
    with torch.cuda.device(device):
        if workspace is not None:
            sequences, rows, vocab = workspace
            struct = _structs.dpo_workspace(sequences=sequences, rows=rows, vocab=vocab)
            size = ctypes.c_size_t()
            call("dpo_cuda_workspace_size", struct, ctypes.byref(size))
            memory = torch.zeros(size.value, dtype=torch.uint8, device=device)
            struct.memory = memory.data_ptr()
            arguments = (*arguments, struct)
        stream = torch.cuda.current_stream(device).cuda_stream
        call(f"dpo_cuda_{stage}", _kernels(device.index), *arguments, stream)


def check_status(status):
    """ValueError for a status, the first places of trouble as int32 [6], that is not clean. Waits for its device."""
    words = [word & DPO_NO_TROUBLE for word in status.tolist()]
    call("dpo_status_check", ctypes.byref(dpo_status(*words)))
