"""Hard pairs of a batch: golden figures, who is chosen, batches that lack one side, what is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.mining import generate_hard_pairs, hardest_pairs, random_negatives

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "57-core-tuning.npz")
parity = pytest.mark.paper(57, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def batch(items=12, dim=5, classes=3, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(items, dim, generator=made), torch.arange(items) % classes


@parity
@pytest.mark.parametrize("compat", ["paper", "official"])
def test_golden_pairs(compat):
    found = generate_hard_pairs(
        golden("features"), golden("labels"), int(GOLDEN["num_classes"]), compat=compat,
        lam_pos=golden("lam_pos"), lam_neg=golden("lam_neg_raw"), order=golden("order"),
    )  # fmt: skip
    torch.testing.assert_close(found.features, golden(f"{compat}_mixed_features"), **close)
    torch.testing.assert_close(found.targets, golden(f"{compat}_mixed_labels"), **close)


@parity
def test_golden_choice():
    far, near = hardest_pairs(golden("features"), golden("labels"))
    assert far.tolist() == GOLDEN["paper_hard_pos_index"].tolist()
    assert near.tolist() == GOLDEN["paper_hard_neg_index"].tolist()


@parity
def test_golden_cross_entropy_of_the_mixed_rows():
    x = golden("features").requires_grad_()
    found = generate_hard_pairs(
        x, golden("labels"), 3, lam_pos=golden("lam_pos"), lam_neg=golden("lam_neg_raw"), order=golden("order")
    )
    loss = torch.nn.functional.cross_entropy(found.features @ golden("classifier_weight").T, found.targets)
    torch.testing.assert_close(loss, golden("ce_paper"), **close)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], golden("ce_grad_features"), **close)


def test_the_farthest_of_the_class_and_the_nearest_of_the_others():
    """Among directions on the plane, of either sign and any length, also in many blocks."""
    angles = torch.tensor([0.0, 10, 60, 20, 90, 170])
    x = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], 1) * torch.tensor(
        [[1], [9], [3], [0.1], [5], [2]]
    )
    far, near = hardest_pairs(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert far.tolist() == [2, 2, 0, 5, 5, 3]
    assert near.tolist() == [3, 3, 4, 1, 2, 2]


def test_blocks_do_not_matter(monkeypatch):
    x, labels = batch(50)
    whole = hardest_pairs(x, labels)
    monkeypatch.setattr("counterpoint.mining.hard_pairs._SCORES", 350)
    assert all(torch.equal(a, b) for a, b in zip(hardest_pairs(x, labels), whole, strict=True))


@pytest.mark.parametrize("compat", ["paper", "official"])
def test_batches_that_lack_one_side(compat):
    """One class has no negatives, and a lone item no positive: the anchor stands in, under its own pure label."""
    x, _ = batch(4)
    _, near = hardest_pairs(x, torch.zeros(4, dtype=torch.long), compat)
    assert near.tolist() == [0, 1, 2, 3]
    found = generate_hard_pairs(x, torch.ones(4, dtype=torch.long), 2, compat=compat)
    torch.testing.assert_close(found.targets, torch.tensor([[0.0, 1]]).repeat(12, 1))
    if compat == "paper":
        torch.testing.assert_close(found.features[4:8], x)  # no random item of another class either
        assert hardest_pairs(x, torch.arange(4))[0].tolist() == [0, 1, 2, 3]
    one = generate_hard_pairs(x[:1], torch.zeros(1, dtype=torch.long), 2, compat=compat)
    torch.testing.assert_close(one.features, x[:1].repeat(3, 1))
    torch.testing.assert_close(one.targets, torch.tensor([[1.0, 0]]).repeat(3, 1))


def test_partners_are_of_other_classes_and_uniform():
    labels = torch.tensor([2, 0, 2, 5, 0, 2])
    torch.manual_seed(0)
    drawn = torch.stack([random_negatives(labels) for _ in range(3000)])
    assert bool((labels[drawn] != labels).all())
    for i in range(len(labels)):
        counts = torch.bincount(drawn[:, i], minlength=6)[labels != labels[i]]
        assert (counts / 3000 - 1 / len(counts)).abs().max() < 0.04


def test_negatives_stay_near_their_partner():
    """A share of 0.8 at least; what the shares are is what the labels say, and features follow them."""
    x, labels = batch(30)
    torch.manual_seed(0)
    found = generate_hard_pairs(x, labels, 3)
    own = found.targets[30:60][torch.arange(30), labels]
    assert own.max() <= 0.2 + 1e-6
    assert (own > 0.01).any()  # alpha = 1 leaves a fifth of the draws above it
    positives = found.targets[60:][torch.arange(30), labels]
    assert positives.min() < 0.2  # a hard positive can be mostly the negative
    assert positives.max() > 0.8
    torch.testing.assert_close(found.targets.sum(1), torch.ones(90))
    exact = generate_hard_pairs(x, labels, 3, lam_neg=torch.ones(30), order=torch.arange(30).roll(1))
    torch.testing.assert_close(exact.features[30:60], x.roll(1, 0))


def test_gradients_reach_all_parents_unless_originals_are_detached():
    x, labels = batch(6)
    given = {"lam_pos": torch.full((6,), 0.5), "lam_neg": torch.ones(6), "order": torch.arange(6).roll(1)}
    far, near = hardest_pairs(x, labels)
    for detach in (False, True):
        leaf = x.clone().requires_grad_()
        generate_hard_pairs(leaf, labels, 3, detach_originals=detach, **given).features.sum().backward()
        ones = torch.ones(6)
        expected = (0 if detach else 1) + 1 + torch.zeros(6).index_add(0, far, ones / 2).index_add(0, near, ones / 2)
        torch.testing.assert_close(leaf.grad, expected[:, None].expand(6, 5))


def test_types():
    x, labels = batch()
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        found = generate_hard_pairs(x.to(dtype), labels, 3)
        assert found.features.dtype == found.targets.dtype == expected
    assert torch.isfinite(generate_hard_pairs(x * 0, labels, 3).features).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(4)}, "features: expected"),
        ({"features": torch.zeros(4, 2).long()}, "features: expected"),
        ({"features": torch.zeros(0, 2), "labels": torch.zeros(0).long()}, "features: expected"),
        ({"labels": torch.zeros(3).long()}, "labels: expected \\(4,\\)"),
        ({"labels": torch.zeros(4)}, "labels: expected \\(4,\\) integers"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "labels: expected no unlabelled"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "labels: expected integers below 2"),
        ({"alpha": 0.0}, "a, b: expected"),
        ({"neg_min_lambda": 1.5}, "neg_min_lambda: expected"),
        ({"lam_pos": torch.zeros(3)}, "lam_pos: expected \\(4,\\)"),
        ({"lam_neg": torch.full((4,), 1.5)}, "lam_neg: expected"),
        ({"lam_neg": torch.full((4,), float("nan"))}, "lam_neg: expected"),
        ({"order": torch.zeros(4)}, "order: expected \\(4,\\) integers"),
        ({"compat": "released"}, "compat: expected one of paper, official"),
    ],
)
def test_what_has_no_answer(changes, message):
    given = {"features": torch.ones(4, 2), "labels": torch.tensor([0, 1, 1, 0]), "classes": 2, **changes}
    with pytest.raises(ValueError, match=f"^{message}"):
        generate_hard_pairs(**given)
