"""The hard contrastive loss over a memory bank: what is contrasted, how the bank moves, that it trains."""

import pytest
import torch
from torch.nn.functional import normalize

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.hard_contrastive_bank import HardContrastiveBank
from counterpoint.objectives import HardContrastive, InfoNCE

IMAGE, ITEMS = (1, 8, 8), 20
INDEX = torch.tensor([11, 3, 17, 0])


def make(**options):
    torch.manual_seed(0)
    return HardContrastiveBank(build("mlp", IMAGE, widths=(8, 6)), **{"items": ITEMS, "dim": 4, **options}).double()


def view(seed=0):
    return torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(seed)).double()


def test_an_image_is_told_from_all_others_that_are_remembered():
    """The softmax over all training items, each against its own row; items that are not trained on have no part."""
    method = make(fraction=1.0, temperature=0.2)
    train = torch.tensor([0, 3, 5, 11, 12, 17])
    method.prepare(None, train.numpy())
    z, bank, terms = method.project(view()), method.memory.clone(), []
    for i, item in enumerate(INDEX):
        others = bank[train[train != item]]
        terms.append(InfoNCE(0.2)(z[i : i + 1].double(), bank[item][None], others))
    loss = method.loss([view()], {"index": INDEX})
    torch.testing.assert_close(loss.double(), torch.stack(terms).mean(), rtol=1e-6, atol=1e-7)


def test_views_are_anchors_of_equal_standing():
    found = make().loss([view(), view(1)], {"index": INDEX})
    alone = [make().loss([view(seed)], {"index": INDEX}) for seed in (0, 1)]
    torch.testing.assert_close(found, torch.stack(alone).mean())


def test_the_bank_moves_a_share_of_the_way_and_only_where_it_was_seen():
    method = make(momentum=0.75)
    before = method.memory.clone()
    z = torch.stack([normalize(method.project(view(seed)).float(), dim=1) for seed in (0, 1)]).mean(0)
    method.loss([view(), view(1)], {"index": INDEX}).backward()
    expected = normalize(0.75 * before[INDEX] + 0.25 * z.detach(), dim=1)
    torch.testing.assert_close(method.memory[INDEX], expected, rtol=1e-6, atol=1e-7)
    rest = torch.ones(ITEMS, dtype=torch.bool)
    rest[INDEX] = False
    assert torch.equal(method.memory[rest], before[rest])
    torch.testing.assert_close(method.memory.norm(dim=1), torch.ones(ITEMS).double())
    assert next(method.encoder.parameters()).grad.abs().max() > 0


def test_options_reach_the_loss():
    losses = [
        make(**options).loss([view()], {"index": INDEX}).item()
        for options in ({}, {"count": 5}, {"fraction": 1.0}, {"temperature": 0.1})
    ]
    assert len(set(losses)) == 4
    assert isinstance(make().objective, HardContrastive)
    assert "memory" in make().state_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(momentum=1.0), "momentum: expected"),
        (lambda: make(items=0), "items: expected"),
        (lambda: make().loss([view()], {}), r"index: this method needs batch\['index'\]"),
        (lambda: make().loss([view()], {"index": INDEX + 9}), "index: expected 0 to 19"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.paper(18, "trains")
def test_learns_from_real_images(tmp_path):
    scores = {}
    for name in ("untrained", "hard_contrastive_bank"):
        run = cp.fit(
            "digits", name, out=str(tmp_path / name), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
            progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3,
        )  # fmt: skip
        scores[name] = run.evaluation.scores["probe_5"]
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.metrics[-1]["collapse"] is None
    assert scores["hard_contrastive_bank"] > scores["untrained"] + 0.05
