"""Pairs that differ in a detail: counts by hand, and what has no answer."""

import numpy as np
import pytest
from scipy.stats import binomtest

from counterpoint.evaluation import pair_accuracy


def unit(*angles):
    return np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1)


def test_a_pair_counts_where_both_statements_pick_their_own():
    images = np.stack([unit(0, 90), unit(0, 90), unit(0, 90), unit(0, 90)])
    statements = np.stack([unit(10, 80), unit(10, 20), unit(80, 70), unit(80, 10)])
    found = pair_accuracy(images, statements, ["a", "a", "b", "b"])
    assert found.right.tolist() == [True, False, False, False]
    assert found.scores == {"pairs": 0.25, "statements": 0.5, "pairs:a": 0.5, "pairs:b": 0.0}
    c = np.cos(np.radians([10, 80]))
    np.testing.assert_allclose(found.margins[0], [c[0] - c[1]] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.margins[3], [c[1] - c[0]] * 2, rtol=1e-6)
    span = binomtest(1, 4).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((span.low, span.high))


def test_it_is_the_argmax_of_the_softmax_over_images():
    rng = np.random.default_rng(0)
    images, statements = rng.normal(size=(2, 200, 2, 5))
    found = pair_accuracy(images, statements)
    x, t = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (images, statements))
    for scale in (1.0, 100.0):
        scores = scale * np.einsum("psd,pid->psi", t, x)
        chances = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
        np.testing.assert_array_equal((chances.argmax(2) == [0, 1]).all(1), found.right)
    assert found.scores["pairs"] == pytest.approx(0.25, abs=0.1)  # guessing
    assert found.scores["statements"] == pytest.approx(0.5, abs=0.1)


def test_changes_that_must_not_matter():
    rng = np.random.default_rng(1)
    images, statements = rng.normal(size=(2, 50, 2, 4))
    found = pair_accuracy(images, statements)
    scaled = pair_accuracy(images * rng.uniform(1, 9, (50, 2, 1)), statements * 7)
    np.testing.assert_allclose(scaled.margins, found.margins, rtol=1e-5, atol=1e-6)
    swapped = pair_accuracy(images[:, ::-1], statements[:, ::-1])
    np.testing.assert_array_equal(swapped.right, found.right)


def test_images_that_are_alike_are_never_told_apart():
    images = np.ones((3, 2, 4))
    found = pair_accuracy(images, np.random.default_rng(0).normal(size=(3, 2, 4)))
    assert found.scores == {"pairs": 0.0, "statements": 0.0}
    assert found.high > 0.4  # three pairs say little
    assert pair_accuracy(np.zeros((1, 2, 4)), np.zeros((1, 2, 4))).scores["pairs"] == 0


def test_what_has_no_answer():
    good = np.ones((3, 2, 4))
    for name, arguments in (
        ("images", (np.ones((3, 4)), good)), ("images", (np.ones((0, 2, 4)), np.ones((0, 2, 4)))),
        ("images", (np.ones((3, 3, 4)), good)), ("statements", (good, np.ones((3, 2, 5)))),
        ("statements", (good, good * np.nan)), ("categories", (good, good, ["a"])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: "):
            pair_accuracy(*arguments)
