"""Scores of a classifier: by hand, with items that have no label, and the scatter of its features."""

import numpy as np
import pytest
import torch

from counterpoint.evaluation import Embeddings, classification, evaluate, scatter


def test_by_hand():
    labels = np.array([0, 0, 1, 1, -1, 3])
    test = Embeddings(np.arange(12.0).reshape(6, 2), labels)
    found = classification(np.array([0, 1, 1, 1, 0, 0]), test, 4, np.array([0, 1, 1, -1]))
    assert found.scores["accuracy"] == pytest.approx(3 / 5)
    np.testing.assert_array_equal(found.items["accuracy"], np.float32([1, 0, 1, 1, np.nan, 0]))
    assert found.arrays["classifier_confusion"].tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(found.arrays["class_accuracy"], [0.5, 1, np.nan, 0])
    assert found.notes == ["accuracy: 1 of 3 test classes have no label in training, so their 1 items count as wrong."]
    nothing = classification(np.zeros(2), Embeddings(np.eye(2), np.array([-1, -1])), 4, np.array([0]))
    assert nothing.scores == {}
    with pytest.raises(ValueError, match=r"^predictions: expected \(6,\)"):
        classification(np.zeros(5), test, 4, labels)


def test_scatter_is_the_ratio_of_variances():
    x = torch.tensor([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert scatter(x, labels) == pytest.approx(4 * 1 / (4 * 25))
    assert scatter(x.double() * 1e-6 + 1, labels) == pytest.approx(0.04, rel=1e-6)
    assert scatter(x * 7 - 3, labels) == pytest.approx(scatter(x, labels), rel=1e-5)
    unequal = torch.tensor([[0.0], [0], [0], [4]])
    assert scatter(unequal, torch.tensor([5, 5, 5, 9])) == 0
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    y, k = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 4
    assert scatter(y @ rotation, k) == pytest.approx(scatter(y, k), rel=1e-4)
    total = (y - y.mean(0)).square().sum()
    within = sum((y[k == c] - y[k == c].mean(0)).square().sum() for c in range(4))
    assert scatter(y, k) == pytest.approx(float(within / (total - within)), rel=1e-4)


def test_scatter_without_an_answer():
    assert np.isnan(scatter(torch.randn(4, 2), torch.zeros(4).long()))
    assert np.isnan(scatter(torch.ones(4, 2), torch.arange(4) % 2))
    with pytest.raises(ValueError, match=r"^labels: expected \(4,\) integers"):
        scatter(torch.ones(4, 2), torch.zeros(3).long())


def test_they_are_not_evaluates_to_give():
    x = Embeddings(np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2)
    assert evaluate(x, None, x, metrics=["accuracy", "scatter"]).scores == {}
