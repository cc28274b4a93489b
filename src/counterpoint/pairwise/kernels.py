"""How close and how spread: distances of matched rows, and the mean Gaussian kernel of all the others.

The two ends of a contrastive loss (Wang & Isola, ICML 2020, arXiv 2005.10242), on unit vectors. For these
``|x - y|^2 = 2 - 2 <x, y>``, so that the mean kernel over all pairs is a log partition of scores and needs no matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoint.pairwise.partition import log_partition


def matched_distances(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> Tensor:
    """``|x_i - y_i|^alpha`` (N,) of matched rows (N, D); its gradient at equal rows is 0 for every alpha > 0."""
    squared = (x - y).square().sum(1)
    if alpha == 2:
        return squared
    # the root's slope is infinite at 0, where equal rows lie
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).pow(alpha / 2), 0)


def log_mean_kernel(x: Tensor, y: Tensor | None = None, *, t: float = 2.0, tile: int | None = None) -> Tensor:
    """``log mean_{i != j} exp(-t |x_i - y_j|^2)``: the log of a mean, over N (N - 1) pairs.

    Args:
        x: (N, D), N >= 2, unit vectors; rows of zeros, which :func:`~counterpoint.objectives.inputs.normalize` leaves
            as they are, keep their true distances. The gradient takes lengths as constant: normalising drops what it
            would say of them.
        y: (N, D), row i matched with row i of ``x`` and left out; ``None``: ``x`` itself, each pair once or twice.
        t: sharpness.
        tile: rows and columns of a tile, as for :func:`~counterpoint.pairwise.log_partition`.

    Returns:
        A scalar between ``-4 t`` and 0, which it has where all rows are one; float32, float64 for float64.
    """
    other = x if y is None else y
    # the pair's score is t (2 <x, y> - |x|^2 - |y|^2), and lengths are 1 but where a row is zero
    short, other_short = ((z.detach().square().sum(1) < 0.5).to(torch.float64) for z in (x, other))
    if bool(short.any()) or bool(other_short.any()):
        rows = log_partition(x, other, scale=2 * t, exclude="self", log_weights=t * other_short) + t * short.to(x)
    else:
        rows = log_partition(x, y, scale=2 * t, exclude="self")
    value = rows.logsumexp(0) - (2 * t + math.log(len(x) * (len(x) - 1)))
    return value - value.detach().clamp(min=0)  # rounding alone is above 0; the slope stays
