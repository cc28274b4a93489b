"""Methods of several modalities in two processes against one with the whole batch, and where one process lacks pairs.

The views are given, so that nothing is drawn. Gradients are averaged as DistributedDataParallel does.
"""

import torch
import torch.distributed as dist
from tests.processes import in_processes

from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, Tokenizer, build, build_text_encoder
from counterpoint.methods import Recipe, get
from counterpoint.pairwise import synchronize_batchnorm

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = [f"{a} left of {b}" for a, b in zip(WORDS[:8], WORDS[2:], strict=True)]
SHARDS = (slice(0, 5), slice(5, 8))
SMALL = {"companion_dim": 6, "companion_hidden": 8}
REWRITES = {"kinds": ["swap_nouns", "replace_nouns"], "count": 2}
OPTIONS = {
    "clip": {},
    "mcl_clip": {"items": 8, "clusters": 2},
    "clip_rocket": {},
    "siamlip": {**SMALL, "separate_companion": True},
    "byolip": SMALL,
    "barlip": SMALL,
    "swalip": SMALL,
    "slip": {},
    "cuaxu": {"temperature": 0.1},
    "cwcl": {"head": "mlp"},
    "negclip": REWRITES,
    "degla": {**REWRITES, "w_distill": 0.1},
}
MISSING = {
    "nothing": {},
    "some": {"photo": (1, 6), "caption": (3,)},
    "all but one of a process": {"photo": (5, 6)},
}
ALL_OF_ONE = {"caption": (5, 6, 7)}


def make(name):
    torch.manual_seed(0)
    text = {"tokenizer": Tokenizer.train(CAPTIONS), "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    made = {"photo": build("mlp", (1, 4, 4), widths=[9]), "caption": build_text_encoder("transformer", **text)}
    method = get(name)(MultimodalEncoder(made), None, Recipe(), dim=5, **OPTIONS[name]).double()
    if name == "mcl_clip":  # the second stage, in which a batch holds two groups
        method.clusters_of[0] = torch.arange(8) % 3 // 2
        method.keep()
    method.prepare(pair({"photo": torch.zeros(8, 4, 4).numpy(), "caption": CAPTIONS}), torch.arange(8).numpy())
    return method.train()


def batch(missing, mine=slice(0, 8)):
    images = torch.randn(3, 8, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    captions = [CAPTIONS, CAPTIONS[1:] + CAPTIONS[:1], CAPTIONS[::-1]]
    present = {name: torch.ones(8, dtype=torch.bool) for name in ("photo", "caption")}
    for name, rows in missing.items():
        present[name][list(rows)] = False
    views = [{"photo": x[mine], "caption": texts[mine]} for x, texts in zip(images, captions, strict=True)]
    return views, {"present": {name: there[mine] for name, there in present.items()}, "index": torch.arange(8)[mine]}


def step(method, missing, mine=slice(0, 8)):
    """Loss, and the gradient of every parameter that has one."""
    views, told = batch(missing, mine)
    loss = method.loss(views if type(method).n_views is None else views[:1], told)
    wanted = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    zeros = [torch.zeros_like(p) if g is None else g for g, p in zip(found, wanted.values(), strict=True)]
    return loss.detach(), dict(zip(wanted, zeros, strict=True))


def work(rank, expected):
    for (name, case), (wanted, gradients) in expected.items():
        loss, found = step(synchronize_batchnorm(make(name)), MISSING[case], SHARDS[rank])
        torch.testing.assert_close(loss, wanted, msg=lambda m, n=name, c=case: f"{n}, {c}: {m}")
        for key, gradient in found.items():
            dist.all_reduce(gradient)
            told = f"{name}, {case}, {key}"
            torch.testing.assert_close(
                gradient / 2, gradients[key], rtol=1e-6, atol=1e-9, msg=lambda m, t=told: f"{t}: {m}"
            )
    for name in OPTIONS:  # nobody waits for a collective operation that another leaves out
        loss, _ = step(synchronize_batchnorm(make(name)), ALL_OF_ONE, SHARDS[rank])
        both = [torch.zeros_like(loss) for _ in SHARDS]
        dist.all_gather(both, loss)
        torch.testing.assert_close(*both, msg=lambda m, n=name: f"{n}: {m}")
        assert (float(loss) > 0) == (name == "slip")  # whose companion needs no captions


def test_processes_together_equal_one_with_the_whole_batch(tmp_path):
    expected = {(name, case): step(make(name), missing) for name in OPTIONS for case, missing in MISSING.items()}
    in_processes(work, tmp_path, 2, expected)
