"""How far f32 may be from f64, from the arithmetic.

The kernels round a row's logsumexp and log-prob to f32, sums of rows once more, and compute a pair's loss and coefficients from
these. So a log-prob is off by δ = 2⁻²³ Σ_r (|z_r| + |logsumexp_r| + 1); a loss by δ times its derivatives and a few roundings of its
own; a coefficient by δ times its second derivatives; and a gradient by that and the rounding to its type.
"""

import torch

F32 = 2.0**-23
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# The least that a type can tell from 0, below which rounding is absolute.
SUBNORMAL = {torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}


def of_logps(logits, valid_vocab=None):
    """δ of any sequence of [S, T, V] logits, after their scale and soft cap."""
    size = logits.double()[..., :valid_vocab].abs()
    return F32 * float((2 * size.amax(-1) + torch.tensor(float(logits.shape[-1])).log() + 1).sum(-1).max())


def of_loss(function, logps, delta):
    """Of a loss and of its coefficients, where `function` is the loss in f64 at `logps` and each is known up to δ."""
    logps = logps.detach().double().requires_grad_()
    loss = function(logps)
    (coef,) = torch.autograd.grad(loss, logps, create_graph=True)
    second = [torch.autograd.grad(c, logps, retain_graph=True, allow_unused=True)[0] for c in coef if c.requires_grad]
    change = max((float(row.abs().sum()) for row in second if row is not None), default=0.0)
    largest = float(coef.detach().abs().max())
    # A loss is a sum of a few terms as large as itself; 8 roundings are more than any of them takes.
    return (
        delta * float(coef.detach().abs().sum()) + 8 * F32 * (1 + abs(float(loss.detach()))),
        delta * change + 8 * F32 * (largest + 2.0**-10),
    )


def of_gradient(dtype, expected, of_coef, largest_coef):
    """Of ∂loss/∂logits: the coefficient's own, that of the probability beside it, and the rounding to `dtype`."""
    return of_coef + 64 * F32 * largest_coef + ROUNDING[dtype] * expected.abs() * 1.01 + SUBNORMAL[dtype]
