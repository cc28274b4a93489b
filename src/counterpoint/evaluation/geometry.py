"""Geometry: the shape of an embedding, which needs no labels.

A contrastive loss pulls views of an item together (:func:`alignment`) and spreads the items over the sphere
(:func:`uniformity`): Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
Uniformity on the Hypersphere". Too much spreading tears classes apart, which :func:`tolerance` sees (Wang & Liu 2021,
"Understanding the Behaviour of Contrastive Loss"). Too little leaves dimensions unused: :func:`spectrum` shows them,
:func:`effective_rank` counts them, :func:`collapse` raises the alarm while training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.evaluation.embeddings import unit
from counterpoint.pairwise import log_mean_kernel, matched_distances


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2) -> Tensor:
    """Mean distance between two views of the same items: ``mean |x - y|^alpha`` of unit vectors. Lower is closer.

    Args:
        x: (N, D), normalised inside.
        y: (N, D): row i is another view of row i of ``x``.
        alpha: exponent; 2 as in the paper.

    Returns:
        Scalar of the dtype of ``x``, differentiable; between 0 and ``2 ** alpha``.

    Raises:
        ValueError: shapes that differ or are not (N, D), or an alpha that is not positive.
    """
    _check("x", x, least=1)
    if x.shape != y.shape:
        raise ValueError(f"x, y: expected two views of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    if not alpha > 0:
        raise ValueError(f"alpha: expected a positive number, got {alpha}.")
    return matched_distances(unit(x), unit(y), alpha=alpha).mean()


def uniformity(x: Tensor, *, t: float = 2, limit: int = 20_000, seed: int = 0, block: int | None = None) -> Tensor:
    """How evenly items cover the sphere: ``log mean exp(-t |x_i - x_j|^2)`` over pairs i < j. Lower is more even.

    Exact over all pairs, a tile at a time; tiles are recomputed in the backward pass, so that memory grows with N and
    not with its square.

    Args:
        x: (N, D), normalised inside.
        t: sharpness of the kernel; 2 as in the paper.
        limit: above so many rows, as many are drawn without replacement: 2e8 pairs fix the mean to four digits.
        seed: of that draw; unused up to ``limit`` rows.
        block: rows and columns of a tile; by default by shape.

    Returns:
        Scalar of the dtype of ``x``, differentiable; between ``-4 t`` and 0 (all rows equal).

    Raises:
        ValueError: fewer than two rows, a shape that is not (N, D), or a t that is not positive.
    """
    _check("x", x, least=2)
    if not t > 0:
        raise ValueError(f"t: expected a positive number, got {t}.")
    if len(x) > limit:
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:limit].to(x.device)]
    return log_mean_kernel(unit(x), t=t, tile=block).to(x.dtype)


def tolerance(x: Tensor, labels: Tensor, *, over: str = "same_class") -> Tensor:
    """Mean cosine over all pairs of different items of one class: how much a class may stay together.

    From the class sums ``s_c`` of unit vectors, ``sum_c (|s_c|^2 - sum |x_i|^2)``, without forming the pairs.

    Args:
        x: (N, D), normalised inside.
        labels: int64 (N,); items labelled -1 are left out.
        over: ``"same_class"`` divides by the pairs within classes; ``"all"`` is the paper's mean of
            ``cosine * [same class]`` over all pairs, which depends on how many classes there are.

    Returns:
        Scalar of the dtype of ``x``, differentiable; between -1 and 1.

    Raises:
        ValueError: shapes that do not fit, no class with two items, or an unknown ``over``.
    """
    if over not in ("same_class", "all"):
        raise ValueError(f"over: expected 'same_class' or 'all', got {over!r}.")
    _check("x", x, least=2)
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(x)},), one label a row, got {tuple(labels.shape)}.")
    x, labels = unit(x[labels >= 0]), labels[labels >= 0]
    classes, names, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    pairs = int((counts * (counts - 1)).sum())
    if pairs == 0:
        raise ValueError("labels: no class has two items, so that there is no pair to compare.")
    sums = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device).index_add(0, names, x)
    within: Tensor = sums.square().sum() - x.square().sum()
    return within / (pairs if over == "same_class" else len(x) * (len(x) - 1))


def spectrum(x: Tensor, *, center: bool = True) -> Tensor:
    """Singular values of the matrix of embeddings, falling.

    They are the roots of the eigenvalues of the smaller Gram matrix, in float64: at N = 10,000 and D = 256 ten times
    faster than a decomposition of the matrix, at the price of values below 1e-8 of the largest. Values that the
    rounding of the input's dtype alone could have made are returned as 0.

    Args:
        x: (N, D).
        center: subtract the mean row first, so that the values are the standard deviations along the principal axes,
            times ``sqrt(N)``.

    Returns:
        float64 (min(N, D),).

    Raises:
        ValueError: a shape that is not (N, D).
    """
    _check("x", x, least=1)
    rounding = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    x = x.detach().double()
    size = x.norm()
    x = x - x.mean(dim=0) if center else x
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return torch.where(values > rounding * size, values, 0)


def effective_rank(x: Tensor, *, center: bool = True) -> float:
    """How many dimensions the embedding uses: exp of the entropy of its singular values, scaled to sum to one.

    The definition of Roy & Vetterli 2007, "The effective rank". RankMe (Garrido et al. 2023) is the same of the matrix
    as it is: ``center=False``. The default leaves out the mean, which is a direction in which nothing varies.

    Args:
        x: (N, D).
        center: as in :func:`spectrum`.

    Returns:
        Between 1 and min(N, D); 0 where nothing varies at all.

    Raises:
        ValueError: a shape that is not (N, D).
    """
    return entropy_rank(spectrum(x, center=center))


def entropy_rank(values: Tensor) -> float:
    """:func:`effective_rank` from singular values (R,), none negative."""
    total = values.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


@dataclass(frozen=True)
class Collapse:
    """Whether an embedding has collapsed, and the two figures that say so.

    Attributes:
        kind: ``"complete"`` (all items in one place), ``"dimensional"`` (on a few axes) or ``"none"``.
        spread: standard deviation of the unit vectors along a dimension, averaged over the D dimensions, times
            ``sqrt(D)``: 1 for directions drawn evenly from the sphere, 0 for a single one.
        effective_rank: of the centred unit vectors.
        dimensions: min(D, N - 1), the most that the effective rank could be.
    """

    kind: str
    spread: float
    effective_rank: float
    dimensions: int

    def __bool__(self) -> bool:
        return self.kind != "none"


def scatter(x: Tensor, labels: Tensor) -> float:
    """Variance within classes over variance between them: the lower, the more compact and the further apart.

    ``sum_i |x_i - mean of its class|^2 / sum_i |mean of its class - mean of all|^2``. It depends neither on the scale
    nor on the place of the embeddings, and falls towards 0 as classes become points.

    Args:
        x: (N, D), any floating type; computed in float64, not normalised.
        labels: (N,) integers from 0.

    Returns:
        0 or above; NaN where all classes have the same mean or there is only one.

    Raises:
        ValueError: labels of another shape.
    """
    if labels.shape != x.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels: expected ({len(x)},) integers, got {tuple(labels.shape)} {labels.dtype}.")
    x = x.detach().double()
    classes = torch.unique(labels, return_inverse=True)[1].to(x.device)
    counts = torch.bincount(classes)
    means = x.new_zeros(len(counts), x.shape[1]).index_add(0, classes, x) / counts[:, None]
    within = (x - means[classes]).square().sum()
    between = (counts[:, None] * (means - x.mean(0)).square()).sum()
    if not float(between) > 1e-24 * float(x.square().sum()):
        return float("nan")
    return float(within / between)


def collapse(z: Tensor, *, spread_below: float = 0.1, rank_below: float = 0.05) -> Collapse:
    """The alarm while training: is ``z`` still an embedding?

    *Complete* collapse is judged as SimSiam does (Chen & He 2021, section 4.1): by the standard deviation of the unit
    vectors, which is ``1 / sqrt(D)`` for a healthy output and 0 for a constant one. The paper gives the two ends and no
    border; ours is a tenth, where the mean cosine between items reaches about 0.99. *Dimensional* collapse (Jing et al.
    2022, "Understanding Dimensional Collapse in Contrastive Self-supervised Learning") is judged by the effective rank:
    below a twentieth of the dimensions available, and below 2 in any case. Well-trained supervised embeddings of K
    classes may keep just K - 1 dimensions (Papyan et al. 2020), which is why the border is low.

    Args:
        z: (N, D), as many rows as are at hand (a batch will do); normalised inside.
        spread_below: complete collapse below this share of ``1 / sqrt(D)``.
        rank_below: dimensional collapse below this share of min(D, N - 1).

    Raises:
        ValueError: fewer than two rows, or a shape that is not (N, D).
    """
    _check("z", z, least=2)
    z = unit(z.detach().float())
    dimensions = min(z.shape[1], len(z) - 1)
    spread = float(z.double().std(dim=0, correction=0).mean() * z.shape[1] ** 0.5)
    rank = effective_rank(z)
    if spread < spread_below:
        kind = "complete"
    elif dimensions > 2 and rank < max(2.0, rank_below * dimensions):
        kind = "dimensional"
    else:
        kind = "none"
    return Collapse(kind, spread, rank, dimensions)


def _check(name: str, x: Tensor, *, least: int) -> None:
    if x.ndim != 2 or len(x) < least or x.shape[1] < 1:
        raise ValueError(f"{name}: expected shape (N, D) with N >= {least}, got {tuple(x.shape)}.")
