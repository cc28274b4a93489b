"""Contrast within groups: the authors' losses on batches of one group, for every anchor of a mixed batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import GroupInfoNCE, GroupNTXent, NTXent

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "14-mcl.npz")
LOSSES = {"ntxent": GroupNTXent, "clip": GroupInfoNCE}
each = pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)


def golden(name):
    return torch.from_numpy(GOLDEN[f"a_{name}"])


def pair(items=9, dim=5, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(items, dim, generator=made, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.paper(14, "parity")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_golden_figures(name, dtype):
    z1, z2 = (golden(z).to(dtype).requires_grad_() for z in ("z1", "z2"))
    loss = LOSSES[name](float(golden("temperature")))(z1, z2, golden("batch_labels"))
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-5}
    torch.testing.assert_close(loss.double(), golden(f"masked_{name}"), **close)
    loss.backward()
    for z, which in ((z1, "z1"), (z2, "z2")):
        torch.testing.assert_close(z.grad.double(), golden(f"masked_{name}_grad_{which}"), **close)


@each
def test_each_anchor_has_its_term_of_a_batch_of_its_group_alone(kind):
    """The two forms of the paper: a mask on a mixed batch, and a batch drawn from one group."""
    z1, z2 = pair()
    groups, loss = torch.tensor([7, -3, 7, 7, 2, -3, 2, 7, 2]), kind(0.3, reduction="none")
    terms = loss(z1, z2, groups).view(-1, len(z1))
    for group in groups.unique():
        mine = groups == group
        torch.testing.assert_close(terms[:, mine], loss(z1[mine], z2[mine]).view(-1, int(mine.sum())))
    grads = torch.autograd.grad(terms.sum(), (z1, z2))
    apart = sum(loss(z1[groups == g], z2[groups == g]).sum() for g in groups.unique())
    torch.testing.assert_close(grads, torch.autograd.grad(apart, (z1, z2)))


@each
def test_one_group_is_the_ordinary_loss(kind):
    z1, z2 = pair()
    for groups in (torch.zeros(9, dtype=torch.int64), torch.full((9,), 5), None):
        loss = kind(0.2)(z1, z2, groups)
        if kind is GroupNTXent:
            torch.testing.assert_close(loss, NTXent(0.2)(z1, z2))
        else:
            scores, right = normalize(z1, dim=1) @ normalize(z2, dim=1).T / 0.2, torch.arange(9)
            both = [torch.nn.functional.cross_entropy(s, right) for s in (scores, scores.T)]
            torch.testing.assert_close(loss, sum(both) / 2)


@each
@pytest.mark.parametrize("alone", [[3], [0, 4, 8], range(9)])
def test_alone_in_a_group_costs_nothing_and_moves_nothing(kind, alone):
    z1, z2 = pair()
    groups = torch.zeros(9, dtype=torch.int64)
    groups[list(alone)] = torch.arange(1, len(alone) + 1)
    terms = kind(0.01, reduction="none")(z1, z2, groups).view(-1, 9)
    assert (terms[:, list(alone)] == 0).all()
    torch.testing.assert_close(kind(0.01)(z1, z2, groups), terms.mean())  # they count in the mean
    terms.sum().backward()
    for z in (z1, z2):
        assert (z.grad[list(alone)] == 0).all()
        assert torch.isfinite(z.grad).all()


@each
def test_gradients_equal_finite_differences(kind):
    groups = torch.tensor([0, 1, 0, 0, 5, 1])
    assert torch.autograd.gradcheck(lambda a, b: kind(0.5)(a, b, groups), pair(6, 3))


def test_a_learned_scale():
    z1, z2 = pair()
    groups = torch.arange(9) % 2
    logit = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = GroupInfoNCE()
    torch.testing.assert_close(loss(z1, z2, groups, logit.exp()), GroupInfoNCE(float((-logit).exp()))(z1, z2, groups))
    assert torch.autograd.gradcheck(lambda a, s: loss(a, z2.detach(), groups, s.exp()), (z1, logit))


@each
@pytest.mark.parametrize(
    "groups",
    [torch.zeros(8).long(), torch.zeros(9), torch.zeros(9, 1).long(), torch.zeros(9, dtype=torch.complex64), [0] * 9],
)
def test_groups_that_are_none(kind, groups):
    with pytest.raises(ValueError, match=r"^groups: expected \(9,\) integers, got"):
        kind()(*pair(), groups)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match=r"^scale: expected a finite number above 0"):
        GroupInfoNCE()(*pair(), None, torch.tensor(scale))


@each
def test_one_item_has_nothing_to_be_told_from(kind):
    with pytest.raises(ValueError, match=r"^(z1|x): expected at least 2 rows"):
        kind()(*pair(1), torch.tensor([0]))
