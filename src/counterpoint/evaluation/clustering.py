"""Clustering: do the classes show without anyone naming them?

The test embeddings, as unit vectors, are grouped by k-means into as many clusters as there are classes; the grouping is
compared with the classes by normalised mutual information (0 independent, 1 equal), the adjusted Rand index (0 expected
of chance, 1 equal) and the accuracy under the best one-to-one naming of the clusters (Kuhn 1955).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from counterpoint.evaluation.embeddings import Embeddings, unit


def cluster(embeddings: Embeddings, clusters: int, *, seed: int = 0, restarts: int = 10) -> np.ndarray:
    """K-means on unit vectors (spherical up to the centres' length), the best of ``restarts`` k-means++ starts.

    Args:
        embeddings: (N, D); labels are not read.
        clusters: K, at most N.
        seed: of the starts.
        restarts: how many; 10 was scikit-learn's default.

    Returns:
        int64 (N,): a cluster from 0 to K - 1 for each item. Fewer where fewer vectors differ.

    Raises:
        ValueError: K out of range.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if not 1 <= clusters <= len(embeddings):
        raise ValueError(f"clusters: expected 1 to {len(embeddings)} (the number of items), got {clusters}.")
    vectors = unit(torch.from_numpy(embeddings.vectors)).numpy()
    with warnings.catch_warnings():
        # "fewer distinct points than clusters": an answer about a collapsed embedding, not an accident
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(vectors)
    return np.asarray(found, np.int64)


def cluster_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Share of items in the right cluster under the one-to-one naming of clusters by classes that suits best.

    Args:
        labels: integers (N,).
        clusters: integers (N,).

    Raises:
        ValueError: lengths that differ, or nothing to compare.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    if np.shape(labels) != np.shape(clusters) or np.ndim(labels) != 1 or not len(labels):
        shapes = f"{np.shape(labels)} and {np.shape(clusters)}"
        raise ValueError(f"labels, clusters: expected equal shapes (N,), got {shapes}.")
    table = contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def clustering(embeddings: Embeddings, *, seed: int = 0) -> dict[str, float]:
    """Scores ``nmi``, ``ari`` and ``cluster_accuracy`` of k-means with K = number of classes, on the labelled items.

    Raises:
        ValueError: fewer than two classes.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if len(embeddings.classes) < 2:
        raise ValueError(f"embeddings: clustering is scored against at least 2 classes, got {len(embeddings.classes)}.")
    labels = embeddings.known_labels
    found = cluster(Embeddings(embeddings.vectors[embeddings.labelled]), len(embeddings.classes), seed=seed)
    return {
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "ari": float(adjusted_rand_score(labels, found)),
        "cluster_accuracy": cluster_accuracy(labels, found),
    }
