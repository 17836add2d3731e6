"""dpo-kernels from Python: its C ABI (integrations/c/include/dpo_kernels.h, which documents all of it) by ctypes.

Works on the memory of PyTorch's tensors as it is, on the CPU and on a GPU.
"""

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p

import torch

VERSION = 100  # DPO_VERSION
IGNORE_INDEX = -100  # DPO_IGNORE_INDEX, the default of a batch
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LABELS_I64 = 1
ALIGNED = 1  # DPO_ALIGNED: row r predicts labels[r]; Hugging Face's unshifted labels are DPO_NEXT_TOKEN, 2
NO_TROUBLE = 0xFFFFFFFF


class Struct(ctypes.Structure):
    """A struct that starts with its own size, by which the library refuses one that it does not know."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class Transform(ctypes.Structure):
    _fields_ = [("given", c_uint32), ("scale", c_float), ("softcap", c_float), ("valid_vocab", c_size_t)]


class Batch(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("vocab", c_size_t), ("sequences", c_size_t), ("sequence_len", c_size_t),
        ("cu_seqlens", c_void_p), ("rows", c_size_t), ("pairs", c_uint32), ("label_alignment", c_uint32),
        ("pair_count", c_size_t), ("chosen", c_void_p), ("rejected", c_void_p), ("desirable", c_void_p),
        ("given", c_uint32), ("ld_alpha", c_float), ("row_stride", c_size_t), ("ignore_index", c_int64),
        ("transform", Transform),
    ]  # fmt: skip


class Inputs(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("dtype", c_uint32), ("label_type", c_uint32), ("logits", c_void_p),
        ("labels", c_void_p),
    ]  # fmt: skip


class Workspace(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("sequences", c_size_t), ("rows", c_size_t), ("vocab", c_size_t), ("memory", c_void_p),
    ]  # fmt: skip


class Loss(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("beta", c_double), ("terms", c_void_p), ("term_count", c_size_t),
        ("divergence", c_uint32), ("normalized_by", c_uint32), ("length_normalized", c_int32),
        ("wpo_weights", c_int32), ("reference_free", c_int32), ("given", c_uint32),
        ("label_smoothing", c_double), ("gamma", c_double), ("baseline", c_double), ("alpha", c_double),
        ("normalizer", c_double), ("inputs", c_void_p),
    ]  # fmt: skip


class Logps(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("logps", c_void_p), ("scored", c_void_p), ("token_logps", c_void_p),
        ("logsumexp", c_void_p), ("logsumexp_residual", c_void_p), ("token_weights", c_void_p), ("metrics", c_void_p),
        ("status", c_void_p),
    ]  # fmt: skip


class TokenMetrics(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("entropy", c_void_p), ("correct", c_void_p), ("mean_logit", c_void_p),
        ("sum_p2", c_void_p), ("sequence_log_weights", c_void_p), ("mean", c_void_p),
    ]  # fmt: skip


class PairOutputs(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("pair_losses", c_void_p), ("chosen_rewards", c_void_p),
        ("rejected_rewards", c_void_p), ("margins", c_void_p), ("coef", c_void_p), ("metrics", c_void_p),
    ]  # fmt: skip


class Gradient(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("logsumexp", c_void_p), ("logsumexp_residual", c_void_p), ("coef", c_void_p),
        ("token_coef", c_void_p), ("entropy_coef", c_void_p), ("entropy", c_void_p), ("upstream", c_void_p), ("given", c_uint32), ("upstream_scale", c_float),
        ("threshold", c_float), ("nonfinite_row", c_void_p), ("dlogits", c_void_p),
    ]  # fmt: skip


class LmHead(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("dtype", c_uint32), ("label_type", c_uint32), ("hidden_size", c_size_t),
        ("hidden", c_void_p), ("weight", c_void_p), ("bias", c_void_p), ("labels", c_void_p), ("given", c_uint32),
        ("budget_bytes", c_size_t),
    ]  # fmt: skip


class LmHeadGradients(Struct):
    _fields_ = [
        ("struct_size", c_size_t), ("upstream", c_void_p), ("given", c_uint32), ("upstream_scale", c_float),
        ("hidden", c_void_p), ("weight", c_void_p), ("bias", c_void_p), ("nonfinite_row", c_void_p),
    ]  # fmt: skip


class Library:
    """The shared library; a call that fails raises what it said."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.dpo_last_error.restype = c_char_p
        version = self.library.dpo_version()
        if version != VERSION:
            raise RuntimeError(f"{path}: expected version {VERSION} of dpo-kernels, found {version}")

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
        self.batch = Batch(vocab=vocab, sequences=sequences, sequence_len=length, label_alignment=ALIGNED)
        self.loss = Loss(beta=beta)

        def floats(*shape):
            return torch.zeros(shape, dtype=torch.float32, device=labels.device)

        self.logps, self.coef, self.metrics = floats(sequences), floats(sequences), floats(8)
        self.logsumexp, self.residual = floats(2, sequences * length)
        self.pairs = floats(4, sequences // 2)
        self.status = torch.zeros(6, dtype=torch.int32, device=labels.device)
        self.out = Logps(
            logps=self.logps.data_ptr(), logsumexp=self.logsumexp.data_ptr(),
            logsumexp_residual=self.residual.data_ptr(), status=self.status.data_ptr(),
        )  # fmt: skip
        losses, chosen, rejected, margins = (row.data_ptr() for row in self.pairs)
        self.pair_outputs = PairOutputs(
            pair_losses=losses, chosen_rewards=chosen, rejected_rewards=rejected, margins=margins,
            coef=self.coef.data_ptr(), metrics=self.metrics.data_ptr(),
        )  # fmt: skip

    def check(self):
        """Raises if the last forward pass met bad data."""
        troubles = [trouble & NO_TROUBLE for trouble in self.status.tolist()]
        if any(trouble != NO_TROUBLE for trouble in troubles):
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
        head = LmHead(
            dtype=DTYPES[hidden.dtype], label_type=LABELS_I64, hidden_size=hidden.shape[-1], hidden=hidden.data_ptr(),
            weight=self.weight.data_ptr(), labels=self.labels.data_ptr(),
        )  # fmt: skip
        gradients = LmHeadGradients(
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
            self.workspace = Workspace(sequences=sequences, rows=sequences * length, vocab=vocab)
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
        return Inputs(
            dtype=DTYPES[logits.dtype], label_type=LABELS_I64, logits=logits.data_ptr(), labels=self.labels.data_ptr()
        )

    def _call(self, stage, *arguments, workspace=()):
        arguments = [ctypes.byref(a) if isinstance(a, Struct) else a for a in arguments]
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
        metrics = TokenMetrics(entropy=entropy.data_ptr())
        out = Logps(
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
        gradient = Gradient(
            logsumexp=self.logsumexp.data_ptr(), logsumexp_residual=self.residual.data_ptr(),
            coef=self.coef.data_ptr(), dlogits=dlogits.data_ptr(),
        )  # fmt: skip
        self._call("backward", self.batch, self._inputs(logits), gradient)
