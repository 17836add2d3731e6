"""The package on a GPU, held to itself on the CPU: by unittest, so that a machine with PyTorch and no pytest runs it too.

python -m unittest test_cuda
"""

import os
import unittest

import torch

import dpo_kernels as dk

S, T, V, H = 6, 33, 1003, 64
LOSSES = ("sigmoid", "ipo", "robust", "apo_down", "aot", "sft", "discopop", "nca_pair")


def batch(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(S, T, V, generator=generator)).to(dtype)
    labels = torch.randint(0, V, (S, T), generator=generator)
    labels[:, :5] = -100
    ref_logps = -7.0 * (T - 5) + torch.randn(S, generator=generator)
    return logits, labels, ref_logps


def of_device(device, dtype, function=dk.dpo_loss, **options):
    logits, labels, ref_logps = (tensor.to(device) for tensor in batch(dtype))
    logits.requires_grad_()
    ref_logps = None if options.get("loss") == "sft" else ref_logps
    result = function(logits * 1, labels, ref_logps, label_alignment="next_token", **options)
    result.loss.backward()
    return result, logits.grad


# Where a GPU is said to be there, its absence is a failure.
READY = "DPO_REQUIRE_GPU" in os.environ or (torch.cuda.is_available() and dk.cuda_is_built())


@unittest.skipUnless(READY, "needs a GPU and a wheel with the CUDA kernels")
class Cuda(unittest.TestCase):
    def held(self, found, wanted, dtype):
        """Sums in f32 in other orders, log-probs of −7 a token; the gradient rounded once to its type."""
        result, gradient = found
        expected, expected_gradient = wanted
        delta = 2.0**-22 * 20 * T
        torch.testing.assert_close(result.logps.cpu(), expected.logps, rtol=0, atol=delta)
        torch.testing.assert_close(result.loss.cpu(), expected.loss, rtol=delta, atol=delta)
        largest = float(expected.coef.abs().max())
        rounding = {torch.float32: 2.0**-22, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
        torch.testing.assert_close(
            gradient.cpu(), expected_gradient, rtol=rounding, atol=4 * delta * largest + 2.0**-24
        )

    def test_every_loss_and_type(self):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for loss in LOSSES:
                with self.subTest(dtype=dtype, loss=loss):
                    self.held(of_device("cuda", dtype, loss=loss), of_device("cpu", dtype, loss=loss), dtype)

    def test_options(self):
        options = {"ld_alpha": 0.5, "use_weighting": True, "logit_scale": 0.7, "softcap": 5.0, "valid_vocab": V - 2}
        logits, labels, _ = batch(torch.float32)
        self.assertTrue(bool((labels < V - 2).all()))
        self.held(
            of_device("cuda", torch.float32, **options), of_device("cpu", torch.float32, **options), torch.float32
        )

    def test_in_place_has_the_same_bits(self):
        _, apart = of_device("cuda", torch.bfloat16)
        _, in_place = of_device("cuda", torch.bfloat16, inplace_backward=True)
        self.assertTrue(torch.equal(apart, in_place))

    def test_a_stream_of_its_own(self):
        wanted = of_device("cuda", torch.float32)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = of_device("cuda", torch.float32)
        stream.synchronize()
        self.assertTrue(torch.equal(found[1], wanted[1]))

    def test_a_captured_graph_replays_on_other_logits(self):
        logits, labels, ref_logps = (tensor.cuda() for tensor in batch(torch.float32))
        other = logits.flip(0).contiguous()
        wanted = dk.dpo_loss(other, labels, ref_logps, label_alignment="next_token").loss
        graph, static = torch.cuda.CUDAGraph(), logits.clone()
        with torch.cuda.graph(graph):
            loss = dk.dpo_loss(static, labels, ref_logps, label_alignment="next_token").loss
        static.copy_(other)
        graph.replay()
        self.assertTrue(torch.equal(loss, wanted))

    def test_the_head(self):
        generator = torch.Generator().manual_seed(1)
        hidden, weight = torch.randn(S, T, H, generator=generator), torch.randn(V, H, generator=generator) / 8
        _, labels, ref_logps = batch(torch.float32)
        found = []
        for device, fused_on_cuda in (("cpu", False), ("cuda", False), ("cuda", True)):
            tensors = [tensor.to(device).requires_grad_() for tensor in (hidden, weight)]
            options = {"label_alignment": "next_token", "fused_on_cuda": fused_on_cuda}
            result = dk.linear_dpo_loss(*tensors, labels.to(device), ref_logps.to(device), **options)
            result.loss.backward()
            token_logps = dk.linear_token_logps(*tensors, labels.to(device), **options).token_logps
            gradients = torch.autograd.grad(token_logps.square().sum(), tensors)
            of_pass = [result.loss, *(tensor.grad for tensor in tensors), token_logps, *gradients]
            found.append([tensor.detach().cpu() for tensor in of_pass])
        for on_cuda in found[1:]:
            torch.testing.assert_close(on_cuda, found[0], rtol=1e-3, atol=1e-4)

    def test_trouble_in_the_data(self):
        logits, labels, ref_logps = (tensor.cuda() for tensor in batch(torch.float32))
        labels[1, 9] = V
        result = dk.dpo_loss(logits, labels, ref_logps, label_alignment="next_token")
        with self.assertRaisesRegex(ValueError, "bad data"):
            result.check()


if __name__ == "__main__":
    unittest.main()
