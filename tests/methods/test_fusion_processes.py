"""Methods of several modalities on two processes, each with a part of a batch with gaps, against one with all of it."""

import torch
import torch.distributed as dist
from tests.processes import in_processes

from counterpoint.encoders import MultimodalEncoder, build
from counterpoint.methods.multimodal.fusion import Fusion
from counterpoint.methods.multimodal.m3col import M3CoL
from counterpoint.methods.multimodal.symile import Symile
from counterpoint.pairwise import synchronize_batchnorm

ITEMS, SHARDS = 9, (slice(0, 5), slice(5, 9))
METHODS = {
    "symile": lambda towers: Symile(towers, dim=4),
    "symile, all": lambda towers: Symile(towers, dim=4, negatives="all", missing="drop"),
    "fusion": lambda towers: Fusion(towers, dim=4, width=6, classes=3, unimodal=True),
    "m3col": lambda towers: M3CoL(towers, dim=4, width=6, classes=3, switch=0.0),
}


def method_of(name):
    torch.manual_seed(0)
    towers = MultimodalEncoder({key: build("mlp", (5,), widths=(8,)) for key in "abc"})
    return METHODS[name](towers).double().train()


def batch_of(rows):
    """Each process has other numbers of what is there, and of labels."""
    made = torch.Generator().manual_seed(1)
    batch = {key: torch.randn(ITEMS, 5, generator=made, dtype=torch.float64)[rows] for key in "abc"}
    there = {key: torch.ones(ITEMS, dtype=torch.bool) for key in "abc"}
    there["b"][1] = False
    there["c"][[0, 6, 7]] = False
    labels = torch.tensor([0, 1, -1, 2, 1, 0, -1, 2, -1])
    return {**batch, "present": {key: has[rows] for key, has in there.items()}, "label": labels[rows]}


def step(method, rows, seed):
    torch.manual_seed(seed)
    batch = batch_of(rows)
    method.told = {}
    loss = method.loss([batch], batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    means = {"means": method.means.values} if isinstance(method, Fusion) else {}
    return {"loss": loss.detach(), **method.told, **means}, gradients


def work(rank, expected):
    for name, (values, gradients) in expected.items():
        method = synchronize_batchnorm(method_of(name))
        found, own = step(method, SHARDS[rank], seed=5 + rank)  # the first process draws for all
        torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
        for key, whole in gradients.items():
            mine = own.get(key, torch.zeros_like(whole))
            dist.all_reduce(mine)
            torch.testing.assert_close(
                mine / 2, whole, rtol=1e-4, atol=1e-6, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}"
            )


def test_two_processes_are_one_batch(tmp_path):
    expected = {name: step(method_of(name), slice(None), seed=5) for name in METHODS}
    assert all(len(values) > 3 for values, _ in expected.values())  # parts of the loss are told
    in_processes(work, tmp_path, 2, expected)
