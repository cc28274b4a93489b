"""Statistics of scores; the official ones are golden figures in ``tests/views/test_feature_transformation.py``."""

import math

import pytest
import torch

from counterpoint.objectives import ScoreStatistics, score_statistics


def test_they_are_what_they_are_called():
    positive, negative = torch.tensor([0.5, -0.5]), torch.tensor([[0.1, 0.2, 0.3], [-0.9, 0.0, 0.9]])
    found = score_statistics(positive, negative, 0.5)
    torch.testing.assert_close(found.negative_mean, torch.tensor([0.2, 0.0]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.negative_variance, torch.tensor([0.01, 0.81]).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.exp_negative, (negative.double() / 0.5).exp().mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.exp_positive, (positive.double() / 0.5).exp(), rtol=1e-6, atol=0)
    assert found.first.tolist() == [1, 0]
    assert found.means()["first"] == 0.5
    assert tuple(found.means()) == ScoreStatistics._fields


def test_equal_scores_are_not_first():
    assert score_statistics(torch.ones(2), torch.ones(2, 3)).first.tolist() == [0, 0]


def test_one_negative_has_no_spread_and_no_temperature_no_exponentials():
    found = score_statistics(torch.zeros(3), torch.ones(3, 1))
    assert found.negative_variance.tolist() == [0, 0, 0]
    assert all(math.isnan(x) for x in (*found.exp_positive, *found.exp_negative))


def test_low_temperatures_do_not_overflow():
    found = score_statistics(torch.tensor([3.0]), torch.full((1, 4), 3.0), 1e-3)
    assert all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize(("positive", "negative"), [((2,), (3, 4)), ((2, 1), (2, 4)), ((2,), (2, 0)), ((0,), (0, 3))])
def test_shapes(positive, negative):
    with pytest.raises(ValueError, match=r"^positive, negative: expected"):
        score_statistics(torch.zeros(positive), torch.zeros(negative))


def test_temperature():
    with pytest.raises(ValueError, match=r"^temperature: "):
        score_statistics(torch.zeros(2), torch.zeros(2, 3), 0.0)
