"""Two processes on this machine, gloo: the gradients that each has of half the batch are those of one process on all of it."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import dpo_kernels as dk

N, T, V, H = 4, 5, 11, 6


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = torch.nn.Embedding(V, H)
        self.lm_head = torch.nn.Linear(H, V)

    def forward(self, ids, labels, ref_logps, linear, **options):
        hidden = torch.tanh(self.embedding(ids))
        head, options = self.lm_head, {"label_alignment": "next_token", "beta": 0.4, **options}
        if linear:
            return dk.linear_dpo_loss(hidden, head.weight, labels, ref_logps, head.bias, **options).loss
        return dk.dpo_loss(head(hidden), labels, ref_logps, **options).loss


def batch():
    """[2N] sequences, of which the last pair has weight 0: it fills up the last batch of an epoch."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, V, (2 * N, T), generator=generator)
    labels[:, 0] = -100
    weight = torch.ones(N)
    weight[-1] = 0
    return labels, torch.randn(2 * N, generator=generator) - 8, weight


def gradients_of_rank(rank, port, linear, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    labels, ref_logps, weight = batch()
    pairs = torch.arange(N).chunk(2)[rank]
    mine = torch.cat([pairs, pairs + N])
    model = DistributedDataParallel(Model())
    # DDP means the gradients over the ranks; so each divides by the mean number of pairs that a rank has.
    count = weight[pairs].sum()
    dist.all_reduce(count)
    ids = labels.clamp(min=0)
    model(ids[mine], labels[mine], ref_logps[mine], linear, pair_weight=weight[pairs], normalizer=count / 2).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("linear", [False, True])
def test_two_processes_are_one(linear, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(gradients_of_rank, args=(port, linear, str(tmp_path)), nprocs=2)
    labels, ref_logps, weight = batch()
    model = Model()
    model(labels.clamp(min=0), labels, ref_logps, linear, pair_weight=weight).backward()
    wanted = [parameter.grad for parameter in model.parameters()]
    # The sum of two halves, each rounded, instead of one sum.
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, wanted, rtol=0, atol=16 * 2**-23 * largest)
    assert largest > 0.01
