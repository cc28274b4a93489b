import math

import pytest
import torch

from counterpoint.views.features import beta, extrapolate, mix


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
