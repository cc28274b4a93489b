"""How good generated items are: how far their distribution is from the real one, and whether they are copies."""

from __future__ import annotations

import numpy as np
import torch


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between the Gaussians that have the moments of two samples.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Dowson & Landau 1982), in the square of the features' unit.
    On features of one particular Inception network it is known as FID (Heusel et al. 2017); of other features it is
    comparable only with itself, and only at one number of items: with fewer of them it is larger.

    Args:
        a, b: features ``(N, D)`` and ``(M, D)``, at least two each.

    Raises:
        ValueError: too few, or of different width.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"a, b: expected features (N, D) and (M, D) of at least two items, got {a.shape} and {b.shape}"
        )
    apart = float(np.square(a.mean(0) - b.mean(0)).sum())
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr (C_a C_b)^(1/2) = sum of the singular values of C_a^(1/2) C_b^(1/2)
    overlap = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    return max(0.0, apart + float(np.trace(first) + np.trace(second) - 2 * overlap))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def nearest(queries: np.ndarray, gallery: np.ndarray, block: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Each query's nearest item of a gallery: root mean square difference of their values, and its position.

    Args:
        queries: ``(N, ...)``.
        gallery: ``(M, ...)``, M >= 1.
        block: queries at a time; memory is O(block M).
    """
    flat = torch.from_numpy(np.asarray(gallery, np.float32).reshape(len(gallery), -1))
    rows = torch.from_numpy(np.asarray(queries, np.float32).reshape(len(queries), -1))
    found = [torch.cdist(part, flat).min(1) for part in rows.split(block)]
    distances = torch.cat([one.values for one in found]) / flat.shape[1] ** 0.5
    return distances.numpy(), torch.cat([one.indices for one in found]).numpy()
