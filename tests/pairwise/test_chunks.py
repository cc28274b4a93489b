"""A batch embedded in chunks: the gradient of the whole batch, in the memory of a chunk."""

import os
import subprocess
import sys

import pytest
import torch
from tests.processes import in_processes
from torch import nn

from counterpoint.objectives import NTXent
from counterpoint.pairwise import log_partitions
from counterpoint.pairwise.chunks import embed_in_chunks

ITEMS = 11


def network(*middle):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), *middle, nn.Linear(16, 5)).double()


def views(count=2):
    return torch.randn(count, ITEMS, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    return loss.detach(), *torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("chunk", [1, 4, ITEMS, 100])
def test_value_and_gradient_are_those_of_the_whole_batch(chunk):
    net, x = network(), views()
    whole = gradients(NTXent()(*map(net, x)), net)
    chunked = gradients(NTXent()(*(embed_in_chunks(net, view, chunk) for view in x)), net)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-14)


def test_inputs_get_their_gradient():
    net = network()
    whole, chunked = (views().requires_grad_() for _ in range(2))
    NTXent()(*map(net, whole)).backward()
    NTXent()(*(embed_in_chunks(net, view, 3) for view in chunked)).backward()
    torch.testing.assert_close(chunked.grad, whole.grad, rtol=1e-12, atol=1e-14)


def test_dropout_is_the_same_the_second_time():
    net, x = network(nn.Dropout(0.5)), views(1)[0]
    torch.manual_seed(3)
    kept = torch.cat([net(part) for part in x.split(4)])  # one graph of the same chunks
    drawn = torch.rand(2)
    torch.manual_seed(3)
    chunked = embed_in_chunks(net, x, 4)
    assert torch.equal(torch.rand(2), drawn)
    expected = gradients(kept.square().sum(), net)
    found = gradients(chunked.square().sum(), net)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_the_second_pass_leaves_the_random_state_alone():
    net, x = network(nn.Dropout(0.5)), views(1)[0]
    chunked = embed_in_chunks(net, x, 4).sum()
    state = torch.get_rng_state()
    chunked.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_is_the_same_the_second_time():
    net, x = network(nn.Dropout(0.5)).float(), views(1)[0].float()
    found = []
    for embed in (lambda: torch.cat([net(part) for part in x.split(4)]), lambda: embed_in_chunks(net, x, 4)):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            z = embed()
        assert z.dtype == torch.bfloat16
        found.append(gradients(z.float().square().sum(), net))
    torch.testing.assert_close(*found, rtol=0.01, atol=0.01)
    assert all(float(gradient.abs().max()) > 0 for gradient in found[1][1:])


def test_two_modalities_with_an_encoder_each_and_a_learned_scale():
    class Tokens(nn.Module):
        """The mean embedding of the tokens that count, as of a text."""

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 5, dtype=torch.float64)

        def forward(self, tokens):
            mask = tokens["mask"][..., None]
            return (self.table(tokens["ids"]) * mask).sum(1) / mask.sum(1)

    image, text, log_scale = network(), Tokens(), nn.Linear(1, 1, bias=False, dtype=torch.float64)
    ids = torch.randint(20, (ITEMS, 7), generator=torch.Generator().manual_seed(2))
    inputs = {"ids": ids, "mask": ids % 7 > 0}

    def loss(z, t):
        scale = log_scale.weight.exp().squeeze()
        by_image, by_text = log_partitions(z, t, scale=scale)
        return ((by_image + by_text) / 2 - scale * (z * t).sum(1)).mean()

    whole = gradients(loss(image(views()[0]), text(inputs)), image, text, log_scale)
    parts = embed_in_chunks(image, views()[0], 4), embed_in_chunks(text, inputs, 3)
    torch.testing.assert_close(gradients(loss(*parts), image, text, log_scale), whole, rtol=1e-12, atol=1e-14)


def test_nothing_is_computed_twice_that_need_not_be():
    lengths, net, x = [], network(), views(1)[0]

    def counted(part):
        lengths.append(len(part))
        return net(part)

    embed_in_chunks(counted, x, ITEMS).sum().backward()
    assert lengths == [11]
    lengths.clear()
    with torch.no_grad():
        embed_in_chunks(counted, x, 4)
    assert lengths == [4, 4, 3]
    embed_in_chunks(counted, x, 4).sum().backward()
    assert sorted(lengths[3:]) == [3, 3, 4, 4, 4, 4]


def test_batch_norm_sees_a_chunk_unless_it_is_evaluated():
    net, x = network(nn.BatchNorm1d(16)), views(1)[0]
    assert not torch.allclose(embed_in_chunks(net, x, 4), net(x))
    net.eval()
    torch.testing.assert_close(embed_in_chunks(net, x, 4), net(x))


@pytest.mark.parametrize(
    ("name", "encode", "inputs", "chunk"),
    [
        ("chunk", network(), views(1)[0], 0),
        ("inputs", network(), views(1)[0][:0], 4),
        ("inputs", network(), {}, 4),
        ("inputs", lambda x: x["a"], {"a": torch.ones(3), "b": torch.ones(2)}, 4),
        ("encode", torch.sum, views(1)[0], 4),
        ("encode", lambda x: x[:2], views(1)[0], 4),
        ("encode", lambda x: x[:2], views(1)[0], 100),
    ],
)
def test_what_it_refuses(name, encode, inputs, chunk):
    with pytest.raises(ValueError, match=f"^{name}: "):
        embed_in_chunks(encode, inputs, chunk)


MEMORY = """
import sys, torch
from pathlib import Path
from torch import nn
from counterpoint.pairwise.chunks import embed_in_chunks
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(8, 2048), nn.GELU(), nn.Tanh(), nn.Linear(2048, 8))
def step(items):
    z1, z2 = (embed_in_chunks(net, torch.randn(items, 8), int(sys.argv[1])) for _ in range(2))
    (z1 - z2).square().mean().backward()
def peak():  # ru_maxrss would begin with that of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
step(128)
before = peak()
step(4096)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("chunk", "least", "most"), [(64, 0, 20), (4096, 100, 300)])
def test_memory_is_that_of_a_chunk(chunk, least, most):
    command = [sys.executable, "-c", MEMORY, str(chunk)]
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # or the heap's fragments would count
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=exact)
    assert least <= float(done.stdout) < most  # MiB; activations of 64 items are 2, those of two views 128


class Step(nn.Module):
    def __init__(self, chunk):
        super().__init__()
        self.net, self.chunk = network(), chunk

    def forward(self, x):
        return NTXent()(*(embed_in_chunks(self.net, view, self.chunk) for view in x))


def work(rank, expected):
    mine = slice(0, 7) if rank == 0 else slice(7, ITEMS)
    step = nn.parallel.DistributedDataParallel(Step(chunk=2))  # 4 chunks here, 2 there
    loss = step(views()[:, mine])
    loss.backward()
    found = loss.detach(), *(p.grad for p in step.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_two_processes_with_chunks_of_their_own(tmp_path):
    whole = Step(chunk=100)
    in_processes(work, tmp_path, 2, gradients(whole(views()), whole))
