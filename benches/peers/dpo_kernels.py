"""dpo-kernels from Python: its C ABI (integrations/c/include/dpo_kernels.h, which documents all of it) by ctypes.

Works on the memory of PyTorch's tensors as it is, on the CPU and on a GPU, in buffers that are made once: what is timed is the
library. For training there is the package in integrations/torch.
"""

import ctypes
import importlib.util
from ctypes import c_char_p, c_size_t, c_void_p
from pathlib import Path

import torch


def _generated():
    """The structs that integrations/torch has of the header; in the GPU's bundle they lie beside this file."""
    here = Path(__file__).resolve().parent
    folders = here, here.parents[1] / "integrations" / "torch" / "python" / "dpo_kernels"
    [path] = [path for folder in folders if (path := folder / "_structs.py").exists()]
    specification = importlib.util.spec_from_file_location("_structs", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


c = _generated()
IGNORE_INDEX = c.DPO_IGNORE_INDEX
DTYPES = {torch.float32: c.DPO_F32, torch.float16: c.DPO_F16, torch.bfloat16: c.DPO_BF16}


class Library:
    """The shared library; a call that fails raises what it said."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.dpo_last_error.restype = c_char_p
        version = self.library.dpo_version()
        if version != c.DPO_VERSION:
            raise RuntimeError(f"{path}: expected version {c.DPO_VERSION} of dpo-kernels, found {version}")

    def call(self, name, *arguments):
        if getattr(self.library, name)(*arguments) != 0:
            raise RuntimeError(f"{name}: {self.library.dpo_last_error().decode()}")


class Results:
    """What any forward pass over batches with `labels` [S, T] (i64, aligned), chosen sequences first, reads and writes.

    All buffers are made here. `logps` [S] and the words of `metrics` (pairs, chosen and rejected as u32, then loss, chosen
    reward, rejected reward, margin and accuracy) are what a forward pass leaves.
    """

    def __init__(self, library, labels, vocab, beta):
        sequences, length = labels.shape
        self.library, self.labels = library, labels.contiguous()
        self.batch = c.dpo_batch(vocab=vocab, sequences=sequences, sequence_len=length, label_alignment=c.DPO_ALIGNED)
        self.loss = c.dpo_loss(beta=beta)

        def floats(*shape):
            return torch.zeros(shape, dtype=torch.float32, device=labels.device)

        self.logps, self.coef, self.metrics = floats(sequences), floats(sequences), floats(8)
        self.logsumexp, self.residual = floats(2, sequences * length)
        self.pairs = floats(4, sequences // 2)
        self.status = torch.zeros(6, dtype=torch.int32, device=labels.device)
        self.out = c.dpo_logps(
            logps=self.logps.data_ptr(), logsumexp=self.logsumexp.data_ptr(),
            logsumexp_residual=self.residual.data_ptr(), status=self.status.data_ptr(),
        )  # fmt: skip
        losses, chosen, rejected, margins = (row.data_ptr() for row in self.pairs)
        self.pair_outputs = c.dpo_pair_outputs(
            pair_losses=losses, chosen_rewards=chosen, rejected_rewards=rejected, margins=margins,
            coef=self.coef.data_ptr(), metrics=self.metrics.data_ptr(),
        )  # fmt: skip

    def check(self):
        """Raises if the last forward pass met bad data."""
        troubles = [trouble & c.DPO_NO_TROUBLE for trouble in self.status.tolist()]
        if any(trouble != c.DPO_NO_TROUBLE for trouble in troubles):
            raise RuntimeError(f"bad data: {troubles}")


class HeadPass(Results):
    """Behind the model's head, on the CPU: hidden states [S, T, H] and a weight [V, H] to the loss and its gradients.

    The workspace is kept from call to call, until it is forgotten.
    """

    def __init__(self, library, weight, labels, beta):
        super().__init__(library, labels, len(weight), beta)
        self.weight, self.workspace = weight, c_void_p()

    def forget(self):
        """Gives the workspace's memory back."""
        self.library.library.dpo_cpu_lm_head_workspace_free(self.workspace)
        self.workspace = c_void_p()

    __del__ = forget

    def forward(self, hidden, ref_logps, dhidden, dweight):
        """The loss, the gradient of `hidden` into `dhidden`, and where `dweight` [V, H] is one of f32 that of the weight added."""
        if not self.workspace:
            self.library.call("dpo_cpu_lm_head_workspace_create", ctypes.byref(self.workspace))
        head = c.dpo_lm_head(
            dtype=DTYPES[hidden.dtype], label_type=c.DPO_LABELS_I64, hidden_size=hidden.shape[-1], hidden=hidden.data_ptr(),
            weight=self.weight.data_ptr(), labels=self.labels.data_ptr(),
        )  # fmt: skip
        gradients = c.dpo_lm_head_gradients(
            hidden=dhidden.data_ptr(), weight=None if dweight is None else dweight.data_ptr()
        )
        structs = (self.batch, head, self.loss, self.out, self.pair_outputs, gradients)
        batch, head, loss, out, pair_outputs, gradients = map(ctypes.byref, structs)
        self.library.call(
            "dpo_cpu_lm_head_forward", batch, head, c_void_p(ref_logps.data_ptr()), loss, out, pair_outputs, gradients,
            self.workspace,
        )  # fmt: skip


class Pass(Results):
    """Forward and backward over batches like `logits` [S, T, V] and their labels."""

    def __init__(self, library, logits, labels, beta):
        sequences, length, vocab = logits.shape
        super().__init__(library, labels, vocab, beta)
        self.cuda = logits.is_cuda
        self.workspace = self.kernels = None
        if self.cuda:
            size = c_size_t()
            self.workspace = c.dpo_workspace(sequences=sequences, rows=sequences * length, vocab=vocab)
            library.call("dpo_cuda_workspace_size", ctypes.byref(self.workspace), ctypes.byref(size))
            self.workspace_memory = torch.zeros(size.value, dtype=torch.uint8, device=logits.device)
            self.workspace.memory = self.workspace_memory.data_ptr()
            self.kernels = c_void_p()
            library.call("dpo_cuda_load", ctypes.byref(self.kernels))

    def __del__(self):
        if self.kernels:
            torch.cuda.synchronize()
            self.library.library.dpo_cuda_free(self.kernels)

    def _inputs(self, logits):
        return c.dpo_inputs(
            dtype=DTYPES[logits.dtype], label_type=c.DPO_LABELS_I64, logits=logits.data_ptr(), labels=self.labels.data_ptr()
        )

    def _call(self, stage, *arguments, workspace=()):
        arguments = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments]
        if self.cuda:
            stream = c_void_p(torch.cuda.current_stream().cuda_stream)
            self.library.call(f"dpo_cuda_{stage}", self.kernels, *arguments, *workspace, stream)
        else:
            self.library.call(f"dpo_cpu_{stage}", *arguments)

    def forward(self, logits, ref_logps):
        """logps and pair_loss; `ref_logps` is [S] in f32."""
        workspace = [ctypes.byref(self.workspace)] if self.cuda else []
        self._call(
            "forward", self.batch, self._inputs(logits), c_void_p(ref_logps.data_ptr()), self.loss, self.out,
            self.pair_outputs, workspace=workspace,
        )  # fmt: skip

    def entropies(self, logits):
        """logps, and the entropy of each row [S * T]."""
        entropy = torch.zeros_like(self.logsumexp)
        metrics = c.dpo_token_metrics(entropy=entropy.data_ptr())
        out = c.dpo_logps(
            logps=self.logps.data_ptr(), logsumexp=self.logsumexp.data_ptr(),
            logsumexp_residual=self.residual.data_ptr(), metrics=ctypes.addressof(metrics), status=self.status.data_ptr(),
        )  # fmt: skip
        workspace = [ctypes.byref(self.workspace)] if self.cuda else []
        self._call("logps", self.batch, self._inputs(logits), out, workspace=workspace)
        return entropy

    def factored(self, logits, ref_logps, gradient):
        """forward, and the gradient without its coefficients, in place where `gradient` is `logits`."""
        workspace = [ctypes.byref(self.workspace)] if self.cuda else []
        self._call(
            "factored", self.batch, self._inputs(logits), c_void_p(ref_logps.data_ptr()), self.loss, self.out,
            self.pair_outputs, c_void_p(gradient.data_ptr()), workspace=workspace,
        )  # fmt: skip

    def backward(self, logits, dlogits):
        """backward, in place where `dlogits` is `logits`."""
        gradient = c.dpo_gradient(
            logsumexp=self.logsumexp.data_ptr(), logsumexp_residual=self.residual.data_ptr(),
            coef=self.coef.data_ptr(), dlogits=dlogits.data_ptr(),
        )  # fmt: skip
        self._call("backward", self.batch, self._inputs(logits), gradient)
