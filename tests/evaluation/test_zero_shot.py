"""Classes by their names: ranks, the three scores, and what is refused."""

import numpy as np
import pytest

from counterpoint.evaluation import class_ranks, zero_shot_scores

CLASSES = np.eye(6) * np.arange(1, 7)[:, None]  # of any length


def near(*order):
    """A vector whose cosines with the classes fall in this order."""
    x = np.zeros(6)
    x[list(order)] = np.arange(6, 6 - len(order), -1)
    return x


def test_scores():
    vectors = np.stack([near(0, 1, 2, 3, 4, 5), near(1, 0, 2, 3, 4, 5), near(1, 2, 3, 4, 5, 0), near(1, 0, 2, 3, 4, 5)])
    found = zero_shot_scores(vectors * np.array([[1], [9], [0.1], [2]]), np.array([0, 0, 0, 1]), CLASSES)
    assert found.right.tolist() == [1, 0, 0, 1]
    assert found.scores["accuracy"] == 0.5
    assert found.scores["per_class"] == pytest.approx((1 / 3 + 1) / 2)  # classes count alike
    assert found.scores["top5"] == 0.75
    assert "top5" not in zero_shot_scores(vectors[:, :5], np.zeros(4, int), CLASSES[:5, :5]).scores


def test_items_without_a_label_do_not_count_and_ties_are_wrong():
    vectors = np.stack([near(0, 1), near(3, 0), np.array([1, 1, 0, 0, 0, 0])])
    found = zero_shot_scores(vectors, np.array([0, -1, 0]), CLASSES)
    np.testing.assert_array_equal(found.right, np.array([1, np.nan, 0], np.float32))
    assert found.scores["accuracy"] == 0.5


def test_ranks():
    unit = np.eye(6)
    assert class_ranks(unit[:2], np.array([0, 7]), np.arange(6), CLASSES).tolist() == [0, 6]  # 7 is none of them
    assert class_ranks(unit[:1], np.array([5]), np.array([5, 6]), CLASSES[:2]).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", np.ones((1, 6))),
        ("classes", np.ones((3, 5))),
        ("labels", np.array([0, 6])),
        ("labels", np.array([-1, -1])),
        ("labels", np.array([0.0, 1.0])),
        ("vectors", np.full((2, 6), np.nan)),
    ],
)
def test_bad_input(name, value):
    given = {"vectors": np.ones((2, 6)), "labels": np.array([0, 1]), "classes": CLASSES, name: value}
    with pytest.raises(ValueError, match=rf"^{name}"):
        zero_shot_scores(**given)
