"""Figures and sentences about a numeric target."""

import re

import numpy as np
import pytest

from counterpoint.web import ComparisonData, LeaderboardRow, Prediction, RunData, comparison_page, run_page
from counterpoint.web.values import SHADES, errors_by_range, predictions, shade_edges, shade_of, value_map
from counterpoint.web.verdict import verdict

TRUE = np.array([0.0, 1, 2, 3, np.nan, 9])


def given(predicted=None):
    predicted = np.nan_to_num(TRUE) + 1 if predicted is None else predicted
    return Prediction(TRUE, predicted, np.array([0.0, 5, 10]), np.array([30, 2]))


def test_shades_follow_the_target_and_ignore_outliers():
    targets = np.append(np.linspace(0, 1, 200), [1e6, np.nan])
    edges = shade_edges(targets)
    shades = shade_of(targets, edges)
    assert shades[-1] == -1
    assert shades[-2] == SHADES - 1
    assert (np.diff(shades[:200]) >= 0).all()
    assert np.bincount(shades[:200]).min() > 15, "one outlier leaves the shades to the others"
    assert np.isfinite(shade_edges(np.full(3, np.nan))).all()
    assert (np.diff(shade_edges(np.full(3, 2.0))) > 0).all()


def test_a_map_names_shades_and_keeps_items():
    xy = np.random.default_rng(0).normal(size=(6, 2))
    figure = value_map(xy, TRUE, shade_edges(TRUE), np.arange(10, 16), "run")
    items = re.findall(r'class="dots (\w+)"[^>]*data-items="([\d ]+)"', figure)
    assert sorted(int(i) for _, some in items for i in some.split()) == list(range(10, 16))
    assert dict(items)["rest"] == "14"
    assert 'data-name="no target"' in figure


def test_predictions_leave_out_what_is_missing():
    figure = predictions(given(), "run")
    assert figure.count("h0") == 5
    assert "5 test items" in figure
    assert "mean absolute error 1.00" in figure


def test_errors_stand_in_their_range():
    figure = errors_by_range(given(np.array([1.0, 2, 3, 4, 0, 5])), "run")
    assert "0 to 5.00: 1.00 (30 in training)" in figure
    assert "5.00 to 10.0: 4.00 (2 in training)" in figure
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="bar c0"', figure)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.5)


def test_the_page_of_a_run():
    run = RunData("r", "supremix", targets=TRUE, prediction=given(), map=np.random.default_rng(0).normal(size=(6, 2)))
    page = run_page(run)
    assert "Predicted and true" in page
    assert "shaded by the target" in page
    empty = RunData("r", "supremix", prediction=Prediction(np.full(2, np.nan), np.zeros(2), np.arange(2.0), np.ones(1)))
    assert "Predicted and true" not in run_page(empty)


def rows():
    behind = {"difference": 2.0, "difference_low": 1.5, "difference_high": 2.5, "p": 0.001}
    return [LeaderboardRow("a", 3.0, 2.9, 3.1, seeds=[3, 3]), LeaderboardRow("b", 5.0, rank=2, seeds=[5, 5], **behind)]


def test_small_errors_win_in_words():
    said = verdict(rows(), "MAE", higher_is_better=False)
    assert said.startswith("a is best, with a MAE of 3.00")
    assert "b, is 2.00 behind the best, and that is real (95 % interval 1.50 to 2.50" in said
    tied = [LeaderboardRow("a", 3.0, seeds=[3, 3]), LeaderboardRow("b", 3.1, seeds=[3, 3])]
    assert "a has the lowest MAE" in verdict(tied, "MAE", higher_is_better=False)
    assert "a has the highest kNN" in verdict(tied, "kNN")
    page = comparison_page(ComparisonData("d", "mae", rows(), seconds={"a": 1.0, "b": 2.0}))
    assert "is 2.00 behind the best" in page
    assert "Down and to the left is better" in page
