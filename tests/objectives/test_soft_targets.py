"""The generic block: cross entropy of scores against graded positives, with the matrix and without it."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from counterpoint.objectives import soft_target_contrastive, soft_target_terms, softmax_means, target_means
from counterpoint.pairwise import log_partition, log_partitions


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_each_term_is_the_cross_entropy_with_normalised_weights():
    scores, weights = made(5, 7), made(5, 7, seed=1).abs()
    targets = weights / weights.sum(1, keepdim=True)
    written = [
        -sum(t * (s - torch.logsumexp(row, 0)) for t, s in zip(target, row, strict=True))
        for target, row in zip(targets, scores, strict=True)
    ]
    expected = torch.stack(written)
    torch.testing.assert_close(soft_target_contrastive(scores, weights, reduction="none"), expected)
    torch.testing.assert_close(soft_target_contrastive(scores, weights), expected.mean())
    torch.testing.assert_close(soft_target_contrastive(scores, weights, reduction="sum"), expected.sum())
    torch.testing.assert_close(soft_target_contrastive(scores, weights), cross_entropy(scores, targets))


def test_weights_as_they_are():
    """Columns of a row-stochastic matrix need not sum to 1: the other direction of mixed targets."""
    scores, weights = made(4, 4), torch.tensor([[0.7, 0.3, 0, 0], [0, 1, 0, 0], [0.4, 0, 0.6, 0], [0, 0, 0.9, 0.1]])
    plain = soft_target_contrastive(scores.T, weights.T, normalize=False)
    torch.testing.assert_close(plain, -(weights.T * torch.log_softmax(scores.T, 1)).sum() / 4)
    assert not torch.isclose(plain, soft_target_contrastive(scores.T, weights.T))


def test_identity_is_cross_entropy_with_the_own_item():
    scores = made(6, 6)
    torch.testing.assert_close(soft_target_contrastive(scores, torch.eye(6)), cross_entropy(scores, torch.arange(6)))


def test_anchors_without_a_positive_are_left_out():
    scores, weights = made(4, 3), torch.tensor([[1.0, 0, 2], [0, 0, 0], [1, 1, 1], [0, 0, 0]])
    terms = soft_target_contrastive(scores, weights, reduction="none")
    assert (terms[[1, 3]] == 0).all()
    torch.testing.assert_close(soft_target_contrastive(scores, weights), terms[[0, 2]].mean())
    with pytest.raises(ValueError, match="weights: expected a positive somewhere"):
        soft_target_contrastive(scores, weights * 0)
    with pytest.raises(ValueError, match="weights: 2 of 4 anchors have no positive"):
        target_means(weights, made(3, 2))


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_the_size_of_weights_does_not_matter(size):
    scores, weights = made(4, 5), made(4, 5, seed=1).abs()
    expected = soft_target_contrastive(scores, weights)
    torch.testing.assert_close(soft_target_contrastive(scores, weights * size), expected)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rows", [6, 700])
def test_the_form_without_a_matrix_is_the_same(rows, normalize):
    queries, keys = made(rows, 4).requires_grad_(), made(rows, 4, seed=1).requires_grad_()
    weights, scale = made(rows, rows, seed=2).abs(), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    forward, reverse = log_partitions(queries, keys, scale=scale)
    mass = None if normalize else weights.sum(1)
    means = target_means(weights, keys, normalize=normalize)
    found = soft_target_terms(forward, queries, means, scale=scale, mass=mass)
    scores = queries @ keys.T * scale
    expected = soft_target_contrastive(scores, weights, normalize=normalize, reduction="none")
    torch.testing.assert_close(found, expected)
    others = None if normalize else weights.sum(0)
    back = soft_target_terms(
        reverse, keys, target_means(weights.T, queries, normalize=normalize), scale=scale, mass=others
    )
    torch.testing.assert_close(
        back, soft_target_contrastive(scores.T, weights.T, normalize=normalize, reduction="none")
    )
    inputs = (queries, keys, scale)
    torch.testing.assert_close(
        torch.autograd.grad(found.mean(), inputs, retain_graph=True),
        torch.autograd.grad(expected.mean(), inputs, retain_graph=True),
    )


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("rows", [5, 600])
def test_targets_that_are_a_softmax(rows, width):
    features, keys = made(rows, width).requires_grad_(), made(rows, 5, seed=1).requires_grad_()
    found, expected = softmax_means(features, keys, scale=2.5), torch.softmax(features @ features.T * 2.5, 1) @ keys
    torch.testing.assert_close(found, expected)
    weight = made(rows, 5, seed=2)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), (features, keys)),
        torch.autograd.grad((expected * weight).sum(), (features, keys)),
        rtol=1e-6,
        atol=1e-9,
    )
    queries = made(rows, 5, seed=3)
    terms = soft_target_terms(log_partition(queries, keys), queries, found)
    weights = torch.softmax(features @ features.T * 2.5, 1)
    torch.testing.assert_close(terms, soft_target_contrastive(queries @ keys.T, weights, reduction="none"))


def test_uniform_targets_against_uniform_scores():
    assert soft_target_contrastive(torch.zeros(3, 9), torch.ones(3, 9)).item() == pytest.approx(math.log(9))


def test_gradients_equal_finite_differences():
    scores, weights = made(3, 4).requires_grad_(), (made(3, 4, seed=1).abs() + 0.1).requires_grad_()
    for normalize in (True, False):
        assert torch.autograd.gradcheck(
            lambda s, w, n=normalize: soft_target_contrastive(s, w, normalize=n), (scores, weights)
        )


def test_refusals():
    scores, weights = made(3, 4), made(3, 4, seed=1).abs()
    for call, told in [
        (lambda: soft_target_contrastive(scores[0], weights), r"scores: expected \(rows, D\)"),
        (lambda: soft_target_contrastive(scores / 0, weights), "scores: .* NaN or infinite"),
        (lambda: soft_target_contrastive(scores, weights.T), r"weights: expected \(3, 4\)"),
        (lambda: soft_target_contrastive(scores, -weights), "weights: expected numbers of at least 0"),
        (lambda: soft_target_contrastive(scores, weights * torch.nan), "weights: .* NaN or infinite"),
        (lambda: soft_target_contrastive(scores, weights.long()), "weights: expected a floating-point"),
        (lambda: soft_target_contrastive(scores, weights, reduction="avg"), "reduction: expected"),
        (lambda: target_means(weights, made(3, 2)), r"weights: expected \(3, 3\)"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
