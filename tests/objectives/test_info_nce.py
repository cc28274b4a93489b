"""The bank, negatives of a query's own, and lengths as they are."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives import InfoNCE


def points(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


Q, K, BANK, OWN = points(5, 8), points(5, 8).flip(0), points(12, 8), points(5, 3, 8)


def plain(q, k, bank, own, temperature):
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ bank.T, (own @ q[:, :, None])[:, :, 0]], 1) / temperature
    return cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


@pytest.mark.parametrize("unit", [True, False])
def test_own_negatives_join_the_sum_of_their_query_alone(unit):
    q = Q.clone().requires_grad_()
    found = InfoNCE(0.3, normalize=unit)(q, K, BANK, OWN)
    grad = torch.autograd.grad(found, q)[0]
    given = [normalize(x, dim=-1) if unit else x for x in (q, K, BANK, OWN)]
    expected = plain(*given, 0.3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, q)[0])


def test_own_negatives_that_all_queries_share_are_a_longer_bank():
    shared = points(4, 8)
    own = shared.expand(5, 4, 8)
    torch.testing.assert_close(InfoNCE(0.2)(Q, K, BANK, own), InfoNCE(0.2)(Q, K, torch.cat([BANK, shared])))


def test_lengths_count_only_without_normalisation():
    torch.testing.assert_close(InfoNCE(0.2)(2 * Q, K, BANK), InfoNCE(0.2)(Q, K, 3 * BANK))
    raw = InfoNCE(0.2, normalize=False)
    assert not torch.isclose(raw(2 * Q, K, BANK), raw(Q, K, BANK))


@pytest.mark.parametrize("own", [OWN[:4], OWN[:, :, :7], OWN[0], OWN[:, :0], OWN * torch.inf])
def test_own_negatives_of_another_shape_or_not_finite_are_named(own):
    with pytest.raises(ValueError, match="own"):
        InfoNCE(0.2)(Q, K, BANK, own)


def test_own_negatives_may_be_given_by_their_scores():
    q = Q.clone().requires_grad_()
    scores = (normalize(OWN, dim=-1) @ normalize(q, dim=1)[:, :, None])[:, :, 0]
    one, other = (InfoNCE(0.3)(q, K, BANK, own) for own in (OWN, scores))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.autograd.grad(one, q)[0], torch.autograd.grad(other, q)[0])
    with pytest.raises(ValueError, match=r"^own: expected \(5, S, 8\) or \(5, S\)"):
        InfoNCE(0.3)(Q, K, BANK, scores[:4])


def test_negatives_of_a_querys_number_do_not_count():
    mine, theirs = torch.tensor([0, 1, 2, -2, 0]), torch.arange(12) % 3
    terms = InfoNCE(0.3, reduction="none")(Q, K, BANK, exclude=mine, exclude_negatives=theirs)
    for i, number in enumerate(mine):
        expected = InfoNCE(0.3)(Q[i : i + 1], K[i : i + 1], BANK[theirs != number])
        torch.testing.assert_close(terms[i], expected)
