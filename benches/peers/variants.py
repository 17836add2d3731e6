"""The contestants. Each takes the same logits [S, T, V] and labels [S, T] to the DPO loss and the logits' gradient."""

import functools

import torch
import torch.nn.functional as F

import dpo_kernels
import triton_peers

BETA = 0.1
IGNORE_INDEX = dpo_kernels.IGNORE_INDEX
# factored leaves the gradient without its coefficients, which a head's products take on: on the CPU it is no contestant.
OURS = {
    "cpu": ("dpo-kernels", "dpo-kernels in place"),
    "cuda": ("dpo-kernels", "dpo-kernels in place", "dpo-kernels factored"),
}


def eager(logits, labels):
    """As trainers write it: log_softmax over everything, then gather."""
    index = labels.clamp(min=0).unsqueeze(-1)
    tokens = logits.log_softmax(-1).gather(-1, index).squeeze(-1)
    return tokens.masked_fill(labels == IGNORE_INDEX, 0).sum(-1)


def selective(logits, labels):
    """What TRL documents of its selective_log_softmax: the same log-probs with less memory, sequence by sequence.

    In f32 the selected logit less a logsumexp; in 16 bits, where that is not stable, log_softmax of each sequence.
    """
    index = labels.clamp(min=0).unsqueeze(-1)
    if logits.dtype == torch.float32:
        normalizers = torch.stack([sequence.logsumexp(-1) for sequence in logits])
        tokens = logits.gather(-1, index).squeeze(-1) - normalizers
    else:
        tokens = torch.stack(
            [sequence.log_softmax(-1).gather(-1, i).squeeze(-1) for sequence, i in zip(logits, index)]
        )
    return tokens.masked_fill(labels == IGNORE_INDEX, 0).sum(-1)


def cross_entropy(logits, labels):
    """The loss that PyTorch has for it, with the ignored rows its own affair."""
    tokens = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return -tokens.view_as(labels).sum(-1)


def through_f32(logps, logits, labels):
    """Widened first; what follows sees f32."""
    return logps(logits.float(), labels)


@functools.cache
def peers(device, dtype, compiled):
    """Name -> function from logits and labels to sequence log-probs, for logits of `dtype`."""
    return gpu_peers(compiled) if device == "cuda" else cpu_peers(dtype, compiled)


def gpu_peers(compiled):
    """What people run on a GPU, on logits of 16 bits."""
    eager_f32 = functools.partial(through_f32, eager)
    found = {
        triton_peers.name("trl"): triton_peers.trl,
        triton_peers.name("liger-kernel"): triton_peers.liger,
        "cross_entropy direct": cross_entropy,
        "pytorch eager through f32": eager_f32,
    }
    return found | ({"pytorch eager through f32, compiled": torch.compile(eager_f32, dynamic=False)} if compiled else {})


def cpu_peers(dtype, compiled):
    """The ways that PyTorch has for it."""
    plain = {"pytorch eager": eager, "trl selective": selective, "cross_entropy": cross_entropy}
    if dtype != torch.float32:
        plain = {
            f"{name} {how}": function
            for name, logps in plain.items()
            for how, function in (("through f32", functools.partial(through_f32, logps)), ("direct", logps))
        }
    if not compiled:
        return plain
    compilable = {name: logps for name, logps in plain.items() if not name.startswith("cross_entropy")}
    return plain | {f"{name}, compiled": torch.compile(f, dynamic=False) for name, f in compilable.items()}


class Peer:
    """A function of PyTorch's, with autograd for the way back.

    A contestant runs prepare, forward, backward, release; of these the middle two are timed. forget() gives back what
    it keeps from run to run.
    """

    def __init__(self, logps, logits, labels, ref_logps):
        self.function, self.labels, self.ref_logps = logps, labels, ref_logps
        self.logits = logits.detach().requires_grad_()  # the same memory
        self.logps = self.loss = None

    def prepare(self):
        pass

    def release(self):
        self.logits.grad = self.logps = self.loss = None

    forget = release

    def forward(self):
        logps = self.function(self.logits, self.labels)
        chosen, rejected = (BETA * (logps.float() - self.ref_logps)).chunk(2)
        self.loss = -F.logsigmoid(chosen - rejected).mean()
        self.logps = logps.detach()

    def backward(self):
        self.loss.backward()

    def gradient(self):
        return self.logits.grad


class Overwriting(Peer):
    """A peer that leaves the gradient where the logits were. It has logits of its own, which are made anew before each run."""

    def __init__(self, logps, logits, labels, ref_logps):
        super().__init__(logps, logits.clone(), labels, ref_logps)
        self.original = logits

    def prepare(self):
        self.logits.detach().copy_(self.original)


class Ours:
    """dpo-kernels through its C ABI. A gradient buffer of its own is made once and used again call after call."""

    def __init__(self, library, logits, labels, ref_logps, in_place):
        self.kernels = dpo_kernels.Pass(library, logits, labels, BETA)
        self.original, self.ref_logps, self.in_place = logits, ref_logps, in_place
        self.logits = logits.clone() if in_place else logits
        self.dlogits = None

    def prepare(self):
        if self.in_place:
            self.dlogits = self.logits.copy_(self.original)
        elif self.dlogits is None:
            self.dlogits = torch.empty_like(self.logits)

    def release(self):
        pass

    def forget(self):
        self.dlogits = None

    def forward(self):
        self.kernels.forward(self.logits, self.ref_logps)

    def backward(self):
        self.kernels.backward(self.logits, self.dlogits)

    def gradient(self):
        self.kernels.check()
        return self.dlogits

    @property
    def logps(self):
        return self.kernels.logps


class Factored(Ours):
    """The loss and the gradient without its coefficients from one read of the logits."""

    def forward(self):
        self.kernels.factored(self.logits, self.ref_logps, self.dlogits)

    def backward(self):
        pass

    def gradient(self):
        """With the coefficients, of the first sequence."""
        return self.kernels.coef[0] * super().gradient()[:1].float()


def contestants(library, logits, labels, ref_logps, compiled):
    """Name -> contestant, on these tensors."""
    ours = {
        "dpo-kernels": Ours(library, logits, labels, ref_logps, in_place=False),
        "dpo-kernels in place": Ours(library, logits, labels, ref_logps, in_place=True),
        "dpo-kernels factored": Factored(library, logits, labels, ref_logps, in_place=False),
    }
    device = logits.device.type
    return {name: ours[name] for name in OURS[device]} | {
        name: (Overwriting if function is triton_peers.liger else Peer)(function, logits, labels, ref_logps)
        for name, function in peers(device, logits.dtype, compiled).items()
    }
