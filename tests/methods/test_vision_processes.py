"""Methods with queues, teachers, gates and mixtures: two processes with half a batch each against one with all of it.

Where the draws are one for the step, both processes are seeded alike, as one process is. Draws for each item are put
in their place; hard pairs of fine-tuning, which a process looks for in its own half, are looked for in the halves by
the single process too.
"""

from contextlib import ExitStack
from unittest.mock import patch

import torch
import torch.distributed as dist
from tests.processes import in_processes

from counterpoint.encoders import build
from counterpoint.methods import get
from counterpoint.mining import Mixtures, generate_hard_pairs
from counterpoint.pairwise import nearest, synchronize_batchnorm

IMAGE, ITEMS, STEPS, WORLD = (1, 8, 8), 8, 3, 2
MOCO = {"queue_size": 20, "dim": 4}
GATED = {"classes": 3, "gate_embed": 8, "gate_hidden": 8, "dim": 12}
METHODS = {
    "moco": MOCO,
    "mochi": {**MOCO, "n_hard": 5, "n_pair": 6, "n_query": 3},
    "mochi, oracle": {**MOCO, "n_hard": 5, "n_pair": 6, "n_query": 3, "oracle": True},
    "feature_transformation": MOCO,
    "hallucinator_moco": MOCO,
    "hallucinator_simclr": {"dim": 4},
    "hallucinator_simsiam": {"dim": 4},
    "hydra": {**GATED, "same_class": 0.5, "gamma": 0.1},
    "simlap": {**GATED, "learnable_scale": True},
    "supremix": {"dim": 4},
    "core_tuning": {"classes": 3, "eta": 1.0},
}


def draw(queries, negatives, n_hard, n_pair, n_query, *, exclude=None, exclude_negatives=None):
    """MoCHi's mixtures, the same for each query: the draws of the method are another for each."""
    cosines, hardest = nearest(queries.detach(), negatives, n_hard, exclude=exclude, exclude_keys=exclude_negatives)
    first, alpha = torch.arange(n_pair) % n_hard, torch.linspace(0.1, 0.9, n_pair)
    third, beta = torch.arange(n_query) % n_hard, torch.linspace(0.1, 0.4, n_query)
    drawn = (one.expand(len(queries), -1) for one in (first, first.flip(0), alpha, third, beta))
    return Mixtures(hardest, *drawn, cosines)


def pairs(features, labels, classes, **options):
    """Hard pairs of each process's half, whose rows are those of two views."""
    shares = 1 if dist.is_initialized() else WORLD
    items = torch.arange(len(labels)).view(2, shares, -1).transpose(0, 1).reshape(shares, -1)
    made = []
    for mine in items:
        share, order = torch.linspace(0.2, 1.0, len(mine)), torch.arange(len(mine)).flip(0)
        some = features[mine], labels[mine]
        made.append(generate_hard_pairs(*some, classes, lam_pos=share, lam_neg=share, order=order, **options))
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


def trained(name, mine):
    """Losses of a few steps, and all that is left after them."""
    torch.manual_seed(0)
    method = get(name.split(",")[0])(build("convnet", IMAGE, widths=(4, 8)), **METHODS[name]).train()
    if hasattr(method, "targets") and name in ("hydra", "simlap"):
        method.targets = lambda labels: (labels + torch.arange(len(labels)) % 2) % 3
    if dist.is_initialized():
        synchronize_batchnorm(method)
    learned = [weight for weight in method.parameters() if weight.requires_grad]
    made, losses = torch.Generator().manual_seed(1), []
    for step in range(STEPS):
        views = [torch.rand(ITEMS, *IMAGE, generator=made)[mine] for _ in range(2)]
        label = torch.arange(ITEMS) % 3
        target = torch.arange(ITEMS).float() % 5
        torch.manual_seed(step)
        loss = method.loss(views, {"label": label[mine], "target": target[mine]})
        method.zero_grad()
        loss.backward()
        value = loss.detach()
        with torch.no_grad():
            for weight in learned:
                if dist.is_initialized():
                    dist.all_reduce(weight.grad)
                    weight.grad /= WORLD
                weight -= 0.05 * weight.grad
            if dist.is_initialized():
                dist.all_reduce(value)
                value /= WORLD
        method.after_step()
        losses.append(value)
    left = {
        key: x for key, x in method.state_dict().items() if key != "similarities"
    }  # of the own half; only looked at
    return losses, left


def fixed():
    stack = ExitStack()
    stack.enter_context(patch("counterpoint.methods.vision.mochi.draw_mixtures", draw))
    stack.enter_context(patch("counterpoint.methods.finetuning.core_tuning.generate_hard_pairs", pairs))
    return stack


def work(rank, expected):
    half = ITEMS // WORLD
    with fixed():
        for name, (losses, left) in expected.items():
            found, mine = trained(name, slice(rank * half, (rank + 1) * half))
            torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
            for key, value in left.items():
                torch.testing.assert_close(
                    mine[key], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}"
                )
                both = [torch.empty_like(mine[key]) for _ in range(WORLD)]
                dist.all_gather(both, mine[key])
                assert torch.equal(*both), f"{name}: the processes have different {key}"


def test_two_processes_with_half_a_batch_each_do_what_one_does(tmp_path):
    with fixed():
        expected = {name: trained(name, slice(None)) for name in METHODS}
    for name, (losses, left) in expected.items():
        assert losses[0] != losses[-1], name
        if "queue.rows" in left:
            assert int(left["queue.position"]) == STEPS * ITEMS % MOCO["queue_size"], name  # each key once
    in_processes(work, tmp_path, WORLD, expected)
