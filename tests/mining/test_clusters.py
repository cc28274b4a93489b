import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.mining import clusters
from counterpoint.mining.clusters import spherical_kmeans


def groups(sizes=(20, 30, 50), dim=8, seed=0):
    """Unit vectors around as many directions, and which is around which."""
    made = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    directions = normalize(torch.randn(len(sizes), dim, generator=made), dim=1)
    return normalize(directions[labels] + 0.05 * torch.randn(len(labels), dim, generator=made), dim=1), labels


def generator(seed):
    return torch.Generator().manual_seed(seed)


def literal(x, k, iterations, seed):
    """The algorithm with a loop over the clusters."""
    centroids = x[torch.randperm(len(x), generator=generator(seed))[:k]].clone()
    for _ in range(iterations):
        chosen = (x @ centroids.T).argmax(1)
        for c in range(k):
            if (chosen == c).any():
                centroids[c] = x[chosen == c].mean(0) / x[chosen == c].mean(0).norm()
    return centroids, (x @ centroids.T).argmax(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_loop_form(k, seed):
    x, _ = groups()
    centroids, chosen = spherical_kmeans(x.double(), k, 10, generator(seed))
    expected, theirs = literal(x.double(), k, 10, seed)
    torch.testing.assert_close(centroids, expected)
    assert torch.equal(chosen, theirs)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(k, dtype=torch.float64))


def test_groups_are_found():
    x, labels = groups()
    found = [spherical_kmeans(x, 3, 10, generator(seed))[1] for seed in range(8)]
    right = [all(len(each[labels == g].unique()) == 1 for g in range(3)) and len(each.unique()) == 3 for each in found]
    assert any(right)  # a start with two vectors of a group may end elsewhere


def test_iterations_do_not_make_it_worse():
    x, _ = groups((10,) * 6)
    fits = []
    for iterations in range(6):
        centroids, chosen = spherical_kmeans(x, 5, iterations, generator(0))
        fits.append((x * centroids[chosen]).sum().item())
    assert fits == sorted(fits)
    assert fits[0] < fits[-1]


def test_a_centroid_nobody_chose_stays_where_it_was():
    x = torch.eye(3)[[0, 0, 0, 1]]
    centroids, chosen = spherical_kmeans(x, 4, 3, generator(0))
    assert torch.isfinite(centroids).all()
    torch.testing.assert_close(centroids[chosen], x)
    torch.testing.assert_close(centroids.sum(0), x.sum(0))  # the copies of the first kept their place


def test_in_blocks(monkeypatch):
    x, _ = groups()
    whole = spherical_kmeans(x, 7, 4, generator(0))
    monkeypatch.setattr(clusters, "_BLOCK", 7 * 13)
    for ours, theirs in zip(spherical_kmeans(x, 7, 4, generator(0)), whole, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [0, 101])
def test_too_many(k):
    with pytest.raises(ValueError, match=r"^k: expected 1 to 100, the number of vectors"):
        spherical_kmeans(groups()[0], k)
