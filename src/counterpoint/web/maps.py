"""Positions in the plane and neighbours in the space, for figures.

A map is for looking at, never for measuring: the scores come from the embeddings themselves. Its randomness is fixed
by the seed, so that a page written twice looks the same.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from counterpoint.web.content import Array

NEIGHBOUR_LIMIT = 5000


def embedding_map(
    vectors: Array, seed: int = 0, max_points: int = 3000, labels: Array | None = None
) -> tuple[Array, Array]:
    """Lay embeddings out in the plane with UMAP.

    Fewer than ten points, one or two dimensions, or constant vectors are shown by their two principal components
    instead. Non-finite values are taken as zero.

    Args:
        vectors: (N, D).
        seed: of the sample and of UMAP; the same seed gives the same map.
        max_points: above it a sample is drawn, stratified by ``labels`` where they are given.
        labels: (N,) for the stratification.

    Returns:
        ``index`` (M,) int64, sorted, the items shown; ``xy`` (M, 2) float32, finite, within [0, 1] on both axes.

    Raises:
        ValueError: ``vectors`` is not (N, D).

    Reference: McInnes, Healy, Melville, "UMAP: Uniform Manifold Approximation and Projection", 2018.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors: got shape {vectors.shape}, expected (N, D).")
    index = _sample(len(vectors), max_points, labels, np.random.default_rng(seed))
    chosen = np.nan_to_num(vectors[index], nan=0.0, posinf=0.0, neginf=0.0)
    distinct = len(np.unique(chosen, axis=0)) if len(chosen) else 0
    if distinct < 10 or chosen.shape[1] <= 2:
        xy = _principal(chosen)
    else:
        xy = _umap(chosen, seed)
        if not np.isfinite(xy).all():
            xy = _principal(chosen)
    return index, _unit_square(xy)


def _sample(count: int, most: int, labels: Array | None, random: np.random.Generator) -> Array:
    """A sorted sample without replacement; with labels, each keeps its share (to within one item)."""
    if count <= most:
        return np.arange(count)
    order = random.permutation(count)
    if labels is not None:
        # by label, at random inside each label; then every (count / most)-th
        order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
        order = order[np.linspace(0, count - 1, most).round().astype(int)]
    chosen: Array = np.sort(order[:most])
    return chosen


def _principal(vectors: Array) -> Array:
    """(N, 2) principal components, zero where there are fewer."""
    xy = np.zeros((len(vectors), 2), np.float32)
    if vectors.size:
        centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        width = min(2, len(s))
        xy[:, :width] = u[:, :width] * s[:width]
    return xy


def _umap(vectors: Array, seed: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        neighbours = min(15, len(vectors) - 1)
        initial: Any = "spectral" if len(vectors) > 50 else "random"
        model = umap.UMAP(n_neighbors=neighbours, metric="cosine", init=initial, random_state=seed, n_jobs=1)
        return np.asarray(model.fit_transform(_without_zeros(vectors)), np.float32)


def _without_zeros(vectors: Array) -> Array:
    """Zero vectors have no direction; a constant one instead keeps the cosine defined."""
    zero = ~vectors.any(axis=1, keepdims=True)
    return np.where(zero, np.float32(1e-6), vectors)


def _unit_square(xy: Array) -> Array:
    """Shift and scale to [0, 1], both axes by the same factor."""
    if not len(xy):
        return xy.astype(np.float32)
    low, high = xy.min(0), xy.max(0)
    span = float((high - low).max()) or 1.0
    inside: Array = ((xy - (low + high) / 2) / span + 0.5).astype(np.float32)
    return inside


def neighbour_grid(
    vectors: Array, labels: Array | None = None, queries: int = 12, k: int = 8, seed: int = 0
) -> tuple[Array, Array, Array | None]:
    """Queries for the figure of nearest neighbours, and their neighbours by cosine similarity among all other items.

    With labels the queries are spread evenly over the classes. The same seed, count and labels give the same queries
    whatever the vectors, so that the grids of two methods can be read side by side.

    Args:
        vectors: (N, D), N at most 5,000: all pairs are compared. Larger sets belong to ``counterpoint.evaluation``.
        labels: (N,) int, ``-1`` where unknown.
        queries: how many, at most N.
        k: neighbours each, at most N - 1.
        seed: of the choice of queries.

    Returns:
        ``queries`` (Q,), ``indices`` (Q, k), ``same`` (Q, k) bool or ``None`` without labels.

    Raises:
        ValueError: ``vectors`` is not (N, D) with 2 <= N <= 5000.
    """
    vectors = np.nan_to_num(np.asarray(vectors, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if vectors.ndim != 2 or not 2 <= len(vectors) <= NEIGHBOUR_LIMIT:
        raise ValueError(
            f"vectors: got shape {vectors.shape}, expected (N, D) with N from 2 to {NEIGHBOUR_LIMIT}. "
            "Pass neighbours found by counterpoint.evaluation for more."
        )
    chosen = _queries(len(vectors), None if labels is None else np.asarray(labels), queries, seed)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit[chosen] @ unit.T
    similarity[np.arange(len(chosen)), chosen] = -np.inf
    indices = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(vectors) - 1)]
    if labels is None:
        return chosen, indices, None
    labels = np.asarray(labels)
    return chosen, indices, labels[indices] == labels[chosen][:, None]


def _queries(count: int, labels: Array | None, queries: int, seed: int) -> Array:
    """Labelled items in turns over the classes, at random inside each; sorted by class."""
    random = np.random.default_rng(seed)
    if labels is None or not (labels >= 0).any():
        return np.sort(random.permutation(count)[:queries])
    order = random.permutation(np.flatnonzero(labels >= 0))
    turn = np.zeros(len(order), int)
    for label in np.unique(labels[order]):
        of_label = labels[order] == label
        turn[of_label] = np.arange(of_label.sum())
    shuffled = random.permutation(int(labels.max()) + 1)  # which classes come first where there are more than queries
    chosen = order[np.lexsort((shuffled[labels[order]], turn))][:queries]
    return chosen[np.argsort(labels[chosen], kind="stable")]
