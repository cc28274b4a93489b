"""Mixtures of hard negatives: golden figures, the ways to have them, what is drawn, and who may not be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.mining import Mixtures, draw_mixtures
from counterpoint.objectives import InfoNCE

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "33-mochi.npz")
parity = pytest.mark.paper(33, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


Q, BANK = made(5, 6), made(40, 6, seed=1)


def golden(case):
    """Queries, keys, bank, what was drawn, and the rest by name."""
    own = {name[2:]: torch.from_numpy(np.asarray(GOLDEN[name])) for name in GOLDEN.files if name.startswith(case)}
    hardest = own["hard_index_sorted"]
    first, second, third = (
        torch.searchsorted(hardest, own[name]) for name in ("pair_index_a", "pair_index_b", "query_mix_index")
    )
    return own, Mixtures(hardest, first, second, own["alpha"], third, own["beta"])


@parity
@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("way", ["points", "scores"])
def test_golden_loss_and_gradient(case, way):
    own, drawn = golden(case)
    q = own["q_raw"].requires_grad_()
    objective = InfoNCE(float(own["temperature"]))
    loss = objective(q, own["k_raw"], own["queue"], getattr(drawn, way)(q, own["queue"]))
    torch.testing.assert_close(loss, own["loss"], **close)
    torch.testing.assert_close(torch.autograd.grad(loss, q)[0], own["grad_q_raw"], **close)
    q, k, bank = (own[name].detach().float() for name in ("q_raw", "k_raw", "queue"))
    assert objective(q, k, bank, getattr(drawn, way)(q, bank)).item() == pytest.approx(loss.item(), rel=1e-5)


@parity
@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_points_and_hardest(case):
    own, drawn = golden(case)
    expected = torch.cat([own["synthetic_pairs"], own["synthetic_query"]], 1)
    torch.testing.assert_close(drawn.points(own["q_raw"], own["queue"]), expected, **close)
    n_hard = int(own["n_hard"])
    found = draw_mixtures(own["q_raw"], own["queue"], n_hard, 2000, 500)
    assert torch.equal(found.hardest.sort(1).values, own["hard_index_sorted"])
    cosines = normalize(own["q_raw"]) @ normalize(own["queue"]).T
    torch.testing.assert_close(found.cosines, cosines.gather(1, found.hardest))
    for which in (found.first, found.second, found.third):  # all of the hardest, and nothing else
        assert all(set(row.tolist()) == set(range(n_hard)) for row in which)


def test_scores_are_those_of_the_points_and_have_their_gradient():
    q, k = Q.clone().requires_grad_(), made(5, 6, seed=2)
    drawn = draw_mixtures(q, BANK, 10, 7, 3)
    points, scores = drawn.points(q, BANK), drawn.scores(q, BANK)
    assert points.shape == (5, 10, 6)
    assert not points.requires_grad
    torch.testing.assert_close(points.norm(dim=2), torch.ones(5, 10, dtype=torch.float64))
    expected = (points @ normalize(q)[:, :, None])[:, :, 0]
    torch.testing.assert_close(scores, expected)
    weights = made(5, 10, seed=3)
    gradients = [torch.autograd.grad((x * weights).sum(), q, retain_graph=True)[0] for x in (scores, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(InfoNCE(0.2)(q, k, BANK, scores), InfoNCE(0.2)(q, k, BANK, points))
    unknown = replace(drawn, cosines=None).scores(q, BANK)
    torch.testing.assert_close(unknown, expected)
    torch.testing.assert_close(torch.autograd.grad((unknown * weights).sum(), q)[0], gradients[1])


def test_the_gradient_equals_finite_differences_where_the_mixtures_are_held():
    """Moving the left query alone: the points, made of the old one, stay."""
    drawn = draw_mixtures(Q, BANK, 10, 4, 3)
    points, q = drawn.points(Q, BANK), Q.clone().requires_grad_()
    gradient = torch.autograd.grad(drawn.scores(q, BANK).sum(), q)[0]
    assert torch.autograd.gradcheck(lambda x: (points * normalize(x)[:, None]).sum(), (q,))
    torch.testing.assert_close(gradient, torch.autograd.grad((points * normalize(q)[:, None]).sum(), q)[0])


def test_many_mixtures_are_made_in_parts():
    """More numbers than are made at a time, also where one query alone has more."""
    q, bank = made(3, 64, dtype=torch.float32), made(50, 64, seed=1, dtype=torch.float32)
    drawn = draw_mixtures(q, bank, 40, 10_000, 5)
    expected = (drawn.points(q, bank) @ normalize(q)[:, :, None])[:, :, 0]
    torch.testing.assert_close(drawn.scores(q, bank), expected)


def test_a_mixture_with_the_query_is_harder_than_its_key():
    drawn = draw_mixtures(Q, BANK, 20, 0, 500)
    parents = (normalize(BANK)[drawn.hardest.gather(1, drawn.third)] @ normalize(Q)[:, :, None])[:, :, 0]
    assert (drawn.beta > 0).all()
    assert (drawn.beta < 0.5).all()
    assert (drawn.scores(Q, BANK) > parents).all()


def test_ends_of_the_mixture():
    """All of one parent and nothing of the other is that parent."""
    drawn = draw_mixtures(Q, BANK, 10, 7, 3, beta_max=0.0)
    cosines = normalize(Q) @ normalize(BANK).T
    parents = [cosines.gather(1, drawn.hardest.gather(1, at)) for at in (drawn.first, drawn.second, drawn.third)]
    for share, parent in ((1.0, parents[0]), (0.0, parents[1])):
        found = replace(drawn, alpha=torch.full_like(drawn.alpha, share)).scores(Q, BANK)
        torch.testing.assert_close(found, torch.cat([parent, parents[2]], 1))


def test_pairs_lie_between_and_shares_are_even():
    drawn = draw_mixtures(made(1, 6), BANK, 20, 20_000, 20_000)
    assert drawn.alpha.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.beta.mean().item() == pytest.approx(0.25, abs=0.01)
    counts = torch.bincount(drawn.first.flatten(), minlength=20)
    assert counts.min() > 850  # 1000 expected: uniform, not in favour of the hardest
    assert (drawn.first != drawn.second).float().mean().item() == pytest.approx(0.95, abs=0.01)


def test_equal_scores_are_any_of_them():
    bank = torch.cat([BANK[:1].expand(6, 6), -BANK[:1].expand(6, 6)])
    drawn = draw_mixtures(BANK[:1], bank, 4, 50, 10)
    assert drawn.hardest.max() < 6
    torch.testing.assert_close(drawn.scores(BANK[:1], bank), torch.ones(1, 60, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_antipodal_keys_cancel_without_harm(dtype):
    bank = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=dtype)
    q = torch.tensor([[1.0, 2.0, -1.0], [1.0, 0, 0]], dtype=dtype).requires_grad_()
    zeros, half = torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 1), 0.5, dtype=dtype)
    drawn = Mixtures(torch.tensor([[0, 1], [0, 1]]), zeros, zeros + 1, half, zeros + 1, half)
    scores = drawn.scores(q, bank)
    assert drawn.points(q, bank)[:, 0].norm() == 0
    assert scores[0, 0] == 0
    assert scores.abs().max() <= 1 + 1e-6
    loss = InfoNCE(0.01)(q, q.detach().flip(0), bank, scores)
    assert torch.isfinite(torch.autograd.grad(loss, q)[0]).all()


def test_zero_rows_and_lengths():
    bank = torch.cat([torch.zeros(1, 6, dtype=torch.float64), BANK * 1e12])
    drawn = draw_mixtures(Q, bank, 41, 30, 30)
    assert torch.isfinite(drawn.scores(Q, bank)).all()
    torch.testing.assert_close(drawn.scores(Q * 1e-9, bank), drawn.scores(Q, bank))
    expected = (drawn.points(Q, bank) @ normalize(Q)[:, :, None])[:, :, 0]
    torch.testing.assert_close(drawn.scores(Q, bank), expected)


def test_own_class_is_left_out():
    classes, of_bank = torch.tensor([0, 1, 2, 0, -2]), torch.arange(40) % 3
    drawn = draw_mixtures(Q, BANK, 40, 100, 50, exclude=classes, exclude_negatives=of_bank)
    assert drawn.hardest.shape == (5, 26)  # the fewest that any query has left
    assert (of_bank[drawn.hardest] != classes[:, None]).all()
    assert max(which.max() for which in (drawn.first, drawn.second, drawn.third)) == 25
    with pytest.raises(ValueError, match=r"^exclude: a query has no key left"):
        draw_mixtures(Q, BANK, 4, 4, 4, exclude=classes, exclude_negatives=torch.ones(40).long())
    with pytest.raises(ValueError, match=r"^exclude_negatives: "):
        draw_mixtures(Q, BANK, 4, 4, 4, exclude=classes)


def test_draws_repeat_by_generator_and_by_seed():
    def drawn(seed):
        return draw_mixtures(Q, BANK, 9, 8, 7, generator=torch.Generator().manual_seed(seed))

    torch.manual_seed(3)
    first = draw_mixtures(Q, BANK, 9, 8, 7)
    torch.manual_seed(3)
    for one, other in ((drawn(1), drawn(1)), (first, draw_mixtures(Q, BANK, 9, 8, 7))):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
    assert not torch.equal(drawn(1).alpha, drawn(2).alpha)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"queries": Q[0]}, "queries"),
        ({"queries": Q / 0}, "queries"),
        ({"queries": Q.long()}, "queries"),
        ({"negatives": BANK[:, :5]}, "negatives"),
        ({"negatives": BANK[:0]}, "negatives"),
        ({"negatives": BANK * torch.nan}, "negatives"),
        ({"n_hard": 41}, "n_hard"),
        ({"n_hard": 0}, "n_hard"),
        ({"n_pair": -1}, "n_pair"),
        ({"n_query": -1}, "n_query"),
        ({"beta_max": 0.6}, "beta_max"),
        ({"beta_max": float("nan")}, "beta_max"),
    ],
)
def test_what_cannot_be_mixed_is_named(change, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        draw_mixtures(**{"queries": Q, "negatives": BANK, "n_hard": 8, **change})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_are_computed_in_float32(dtype):
    q, bank = Q.to(dtype), BANK.to(dtype)
    drawn = draw_mixtures(q, bank, 9, 8, 7)
    with torch.autocast("cpu", torch.bfloat16):
        scores = drawn.scores(q, bank)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, drawn.scores(q.float(), bank.float()))
