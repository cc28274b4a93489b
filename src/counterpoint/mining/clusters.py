"""Clusters of unit vectors (Dhillon and Modha 2001), as DeepCluster-v2 finds them (Caron et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 2**22  # scores at a time, so that no (N, K) matrix is made


@torch.no_grad()
def spherical_kmeans(
    vectors: Tensor, k: int, iterations: int = 10, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """K-means by cosine: centroids are unit vectors, and each vector goes to the one with the largest product.

    It starts from ``k`` of the vectors. A centroid that no vector chose stays where it was.

    Args:
        vectors: (N, D), taken as unit vectors.
        k: K, at most N.
        iterations: 10, the official code's.
        generator: of the start, on the processor; torch's global one by default.

    Returns:
        centroids (K, D), and the centroid of each vector, int64 (N,), after the last iteration. Memory O((N + K) D).

    Raises:
        ValueError: K out of range.
    """
    if not 1 <= k <= len(vectors):
        raise ValueError(f"k: expected 1 to {len(vectors)}, the number of vectors, got {k}")
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:k].to(vectors.device)]
    for _ in range(iterations):
        chosen = _nearest(vectors, centroids)
        sums = torch.zeros_like(centroids).index_add(0, chosen, vectors)
        used = torch.bincount(chosen, minlength=k) > 0
        centroids = torch.where(used[:, None], normalize(sums, dim=1), centroids)
    return centroids, _nearest(vectors, centroids)


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    rows = max(1, _BLOCK // len(centroids))
    return torch.cat([(part @ centroids.T).argmax(1) for part in vectors.split(rows)])
