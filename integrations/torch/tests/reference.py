"""Losses in plain PyTorch, f64 and autograd: what the package is held to. Formulas are those of the README's table."""

import math

import torch
from torch.nn import functional as F


def token_logps(logits, labels, label_alignment, ignore_index=-100, scale=1.0, softcap=None, valid_vocab=None):
    """Log-probs in the labels' shape, 0 where they are not scored, and where they are scored; [S, T, V] logits."""
    logits = logits.double()[..., :valid_vocab] * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if label_alignment == "next_token":
        last = torch.full_like(labels[:, :1], ignore_index)
        labels = torch.cat([labels[:, 1:], last], dim=1)
    scored = labels != ignore_index
    picked = logits.log_softmax(-1).gather(-1, labels.masked_fill(~scored, 0).unsqueeze(-1)).squeeze(-1)
    return picked.masked_fill(~scored, 0.0), scored


def ld_weights(scored, alpha):
    """What each token counts in its sequence's sum under LD-DPO, the first half of the sequences being chosen."""
    chosen, rejected = scored.sum(1).chunk(2)
    shared = torch.minimum(chosen, rejected).repeat(2)
    position = scored.long().cumsum(1)
    return torch.where(position <= shared[:, None], 1.0, alpha) * scored


def score(x, divergence, alpha):
    if divergence == "forward_kl":
        return 1 - torch.exp(-x)
    if divergence == "js_divergence":
        return math.log(2) + F.logsigmoid(x)
    if divergence == "alpha_divergence":
        return x if alpha == 1 else (torch.exp(((alpha - 1) * x).clamp(max=80)) - 1) / (alpha - 1)
    return x


def pair_losses(name, logps, ref_logps, lengths, *, beta, eps=0.0, gamma=0.0, divergence="reverse_kl", alpha=None,
                tau=0.05, own_alpha=1.0, desirable_weight=1.0, undesirable_weight=1.0, baseline=0.0):  # fmt: skip
    """[N] losses of concatenated pairs."""
    w, l = logps.chunk(2)
    n_w, n_l = lengths.double().clamp(min=1).chunk(2)
    zero = torch.zeros_like(logps) if ref_logps is None else ref_logps.double()
    r_w, r_l = zero.chunk(2)
    a, b = w - r_w, l - r_l
    s_w, s_l = score(a, divergence, alpha), score(b, divergence, alpha)
    u, v = beta * a, beta * b
    z = beta * (s_w - s_l) - gamma
    nll = -w / n_w
    if name == "sigmoid":
        return -(1 - eps) * F.logsigmoid(z) - eps * F.logsigmoid(-z)
    if name == "hinge":
        return torch.relu(1 - z)
    if name == "ipo":
        return (s_w / n_w - s_l / n_l - 1 / (2 * beta)) ** 2
    if name == "exo_pair":
        of_chosen = torch.sigmoid(z) * (F.logsigmoid(z) - math.log1p(-eps))
        return of_chosen + torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(eps))
    if name == "robust":
        return (-(1 - eps) * F.logsigmoid(z) + eps * F.logsigmoid(-z)) / (1 - 2 * eps)
    if name == "discopop":
        m = torch.sigmoid(z / tau)
        return -F.logsigmoid(z) * (1 - m) + torch.exp(-z) * m
    if name == "nca_pair":
        return -F.logsigmoid(u) - 0.5 * F.logsigmoid(-u) - 0.5 * F.logsigmoid(-v)
    if name == "bco_pair":
        return -F.logsigmoid(u) - F.logsigmoid(-v)
    if name == "sppo_hard":
        return (a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2
    if name == "apo_zero":
        return 1 - torch.sigmoid(u) + torch.sigmoid(v)
    if name == "apo_down":
        return torch.sigmoid(u) + 1 - torch.sigmoid(u - v)
    if name == "kto":
        of_chosen = desirable_weight * torch.sigmoid(beta * baseline - u)
        return of_chosen + undesirable_weight * torch.sigmoid(v - beta * baseline)
    if name in ("aot", "aot_unpaired"):
        first, second = (w - l, r_w - r_l) if name == "aot" else (a, b)
        d = beta * (first.sort().values - second.sort().values)
        return -(1 - eps) * F.logsigmoid(d) - eps * F.logsigmoid(-d)
    if name == "sft":
        return (-w.sum() / lengths.chunk(2)[0].sum()).expand_as(w)
    if name == "nll":
        return nll
    if name == "odds_ratio":

        def log_odds(mean):
            return mean - torch.log1p(-torch.exp(mean))

        return -F.logsigmoid(log_odds(w / n_w) - log_odds(l / n_l))
    if name == "sigmoid_norm":
        return -F.logsigmoid(beta * (s_w / n_w - s_l / n_l))
    if name == "simpo":
        return -F.logsigmoid(beta * (w / n_w - l / n_l) - gamma)
    if name == "cpo":
        return -F.logsigmoid(beta * (w - l)) + own_alpha * nll
    if name == "rpo":
        return -F.logsigmoid(z) + own_alpha * nll
    if name == "orpo":
        return nll + beta * pair_losses("odds_ratio", logps, None, lengths, beta=1.0)
    raise KeyError(name)


# Losses whose log-probs are compared with no reference.
WITHOUT_REFERENCE = ("sft", "nll", "odds_ratio", "simpo", "cpo", "orpo")
# TRL's losses and the others, each with what is special about it: of the package and of the reference.
LOSSES = {
    "sigmoid": ({}, {}),
    "hinge": ({}, {}),
    "ipo": ({}, {}),
    "exo_pair": ({"label_smoothing": 0.1}, {"eps": 0.1}),
    "robust": ({"label_smoothing": 0.2}, {"eps": 0.2}),
    "discopop": ({"discopop_tau": 0.5}, {"tau": 0.5}),
    "nca_pair": ({}, {}),
    "bco_pair": ({}, {}),
    "sppo_hard": ({}, {}),
    "apo_zero": ({}, {}),
    "apo_down": ({}, {}),
    "aot": ({"label_smoothing": 0.1}, {"eps": 0.1}),
    "aot_unpaired": ({}, {}),
    "sft": ({}, {}),
    "sigmoid_norm": ({}, {}),
    "nll": ({}, {}),
    "odds_ratio": ({}, {}),
    "simpo": ({"gamma": 0.5}, {"gamma": 0.5}),
    "cpo": ({"cpo_alpha": 0.5}, {"own_alpha": 0.5}),
    "rpo": ({"rpo_alpha": 0.25}, {"own_alpha": 0.25}),
    "orpo": ({}, {}),
    "kto": (
        {"baseline": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5},
        {"baseline": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5},
    ),
}
