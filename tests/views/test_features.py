import math

import pytest
import torch

from counterpoint.views.features import beta, extrapolate, mix, mixup_embeddings


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)


def test_ends_and_middle(points):
    a, b = points
    assert torch.equal(mix(a, b, 1.0), a)
    assert torch.equal(mix(a, b, 0.0), b)
    torch.testing.assert_close(mix(a, b, 0.25), b + (a - b) / 4)


def test_a_weight_for_each_point_or_entry(points):
    a, b = points
    weight = torch.linspace(0, 1, 5, dtype=a.dtype)
    torch.testing.assert_close(mix(a, b, weight[:, None])[3], mix(a[3], b[3], 0.75))
    entries = torch.rand(5, 8, dtype=a.dtype)
    torch.testing.assert_close(mix(a, b, entries)[2, 4], entries[2, 4] * a[2, 4] + (1 - entries[2, 4]) * b[2, 4])


def test_extrapolation_goes_away_by_its_share_of_the_distance(points):
    a, b = points
    assert torch.equal(extrapolate(a, b, 0.0), a)
    further = extrapolate(a, b, 0.3)
    torch.testing.assert_close((further - b).norm(dim=1), 1.3 * (a - b).norm(dim=1))
    torch.testing.assert_close((further - a).norm(dim=1), 0.3 * (a - b).norm(dim=1))


def test_extrapolated_pairs_have_the_score_of_the_closed_form(points):
    a, b = torch.nn.functional.normalize(points, dim=-1)
    lam = 1.4
    score = (a * b).sum(1)
    found = (mix(a, b, lam) * mix(b, a, lam)).sum(1)
    torch.testing.assert_close(found, score + 2 * lam * (1 - lam) * (1 - score))


def test_gradients_reach_both(points):
    a, b = (x.clone().requires_grad_() for x in points)
    mix(a, b, 0.8).sum().backward()
    torch.testing.assert_close(a.grad, torch.full_like(a, 0.8))
    torch.testing.assert_close(b.grad, torch.full_like(b, 0.2))


def test_ambiguous_and_infinite_weights_are_refused(points):
    a, b = points
    with pytest.raises(ValueError, match="weight"):
        mix(a, b, torch.rand(5))
    with pytest.raises(ValueError, match="weight"):
        mix(a, b, math.nan)


def test_beta_draws_have_the_moments(points):
    torch.manual_seed(0)
    drawn = beta((20000,), 2.0, 8.0, points)
    assert drawn.dtype == points.dtype
    assert drawn.mean() == pytest.approx(0.2, abs=0.01)
    assert drawn.var() == pytest.approx(0.2 * 0.8 / 11, rel=0.1)
    assert beta((), 1.0, 1.0, points).shape == ()
    torch.manual_seed(0)
    assert torch.equal(beta((20000,), 2.0, 8.0, points), drawn)
    with pytest.raises(ValueError, match="a, b"):
        beta((3,), 0.0, 1.0, points)


def test_mixup_of_embeddings_keeps_its_draws():
    torch.manual_seed(0)
    x = torch.randn(2000, 3, requires_grad=True)
    before = x.detach().clone()
    mixed, perm, lam = mixup_embeddings(x, concentration=0.15, select_prob=0.5)
    assert torch.equal(x, before)
    assert perm.sort()[0].tolist() == list(range(2000))
    torch.testing.assert_close(mixed, lam[:, None] * x + (1 - lam[:, None]) * x[perm])
    assert ((lam >= 0) & (lam <= 1)).all()
    whole = (lam == 1).float().mean()
    assert 0.45 < whole < 0.75  # the half that is not selected, and what Beta(0.15, 0.15) rounds to 1
    near = (torch.minimum(lam, 1 - lam) < 0.01).float().mean()
    assert near > 0.7  # a U
    assert (torch.autograd.grad(mixed.sum(), x)[0] > 0).all()
    assert (mixup_embeddings(x, select_prob=0).mixed == x).all()
    again = mixup_embeddings(x, perm=perm, lam=lam)
    assert torch.equal(again.mixed, mixed)
    assert torch.isfinite(mixup_embeddings(torch.ones(1000, 2), 1e-3, 1.0).mixed).all()


def test_mixup_of_one_row_is_that_row():
    x = torch.randn(1, 3)
    torch.testing.assert_close(mixup_embeddings(x, select_prob=1).mixed, x)


def test_what_mixup_of_embeddings_refuses():
    x = torch.randn(4, 3)
    for given, options, name in (
        (x[0], {}, "x"),
        (x.long(), {}, "x"),
        (x, {"select_prob": 1.5}, "select_prob"),
        (x, {"perm": torch.arange(3)}, "perm"),
        (x, {"lam": torch.ones(5)}, "lam"),
        (x, {"concentration": 0}, "concentration"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            mixup_embeddings(given, **options)
