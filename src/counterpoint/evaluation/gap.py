"""The modality gap: how far apart two modalities lie in the space they share.

Contrastively trained towers leave their outputs in two clusters (Liang et al., NeurIPS 2022, arXiv 2203.02053); Fahim
et al. 2024 (arXiv 2405.18570) find the same without any second modality and call it the contrastive gap. Four numbers
and a spectrum say how large it is; none of them says by itself how good the space is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation.embeddings import unit
from counterpoint.evaluation.geometry import entropy_rank, spectrum
from counterpoint.pairwise import matched_distances


@dataclass(frozen=True)
class ModalityGap:
    """What :func:`modality_gap` found.

    Attributes:
        centroid_distance: between the means of the two modalities' unit vectors; 0 to 2.
        linear_separability: share of held-out vectors whose modality a logistic regression tells: 1 is a total gap, 0.5
            none.
        mean_pair_cosine: of matched pairs; -1 to 1.
        mean_pair_distance: of matched pairs; 0 to 2.
        effective_rank: of each modality and of ``"both"`` together, centred: dimensions that are used.
        explained: float64 (min(N, D),) of each and of ``"both"``: share of the variance along each principal axis, the
            largest first; all 0 where nothing varies.
    """

    centroid_distance: float
    linear_separability: float
    mean_pair_cosine: float
    mean_pair_distance: float
    effective_rank: Mapping[str, float]
    explained: Mapping[str, np.ndarray]

    def scores(self) -> dict[str, float]:
        """The four numbers, by name."""
        names = ("centroid_distance", "linear_separability", "mean_pair_cosine", "mean_pair_distance")
        return {name: getattr(self, name) for name in names}


def modality_gap(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    names: tuple[str, str] = ("x", "y"),
    seed: int = 0,
    limit: int = 5000,
) -> ModalityGap:
    """Measures of the gap between two modalities on held-out pairs, of unit vectors.

    Args:
        x: (N, D), normalised inside.
        y: (N, D): row i is the other modality of the item of row i of ``x``.
        names: of the two, for what is told of each.
        seed: of the split and of the draw of pairs for the linear separability.
        limit: it takes at most so many pairs; 5,000, the size of the authors' validation set.

    Linear separability is scikit-learn's logistic regression as it comes, on unit vectors, as in the authors' code:
    fitted on four fifths of the pairs, scored on both members of the others. Its penalty is not tuned, so that clusters
    that touch count as mixed.

    Raises:
        ValueError: shapes that differ or are not (N, D) with N >= 2, or values that are not finite.
    """
    x, y = (_vectors(name, value) for name, value in (("x", x), ("y", y)))
    if x.shape != y.shape:
        raise ValueError(f"x, y: expected matched rows of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    spectra = {name: spectrum(values) for name, values in zip((*names, "both"), (x, y, torch.cat([x, y])), strict=True)}
    return ModalityGap(
        centroid_distance=float((x.mean(0) - y.mean(0)).norm()),
        linear_separability=linear_separability(x, y, seed=seed, limit=limit),
        mean_pair_cosine=float((x * y).sum(1).mean()),
        mean_pair_distance=float(matched_distances(x, y, alpha=1).mean()),
        effective_rank={name: entropy_rank(values) for name, values in spectra.items()},
        explained={name: _shares(values) for name, values in spectra.items()},
    )


def linear_separability(x: Tensor, y: Tensor, *, seed: int = 0, limit: int = 5000) -> float:
    """Share of held-out rows (N, D) whose side a logistic regression tells; see :func:`modality_gap`."""
    from sklearn.linear_model import LogisticRegression

    order = np.random.default_rng(seed).permutation(len(x))[:limit]
    cut = math.floor(0.8 * len(order))
    sides = [z.detach().cpu().double().numpy() for z in (x, y)]

    def both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([side[rows] for side in sides]), np.repeat([0, 1], len(rows))

    model = LogisticRegression(max_iter=1000).fit(*both(order[:cut]))
    return float(model.score(*both(order[cut:])))


def _vectors(name: str, value: Tensor | np.ndarray) -> Tensor:
    x = torch.as_tensor(value).detach()
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1 or not x.is_floating_point():
        raise ValueError(f"{name}: expected floating point (N, D) with N >= 2, got {tuple(x.shape)} {x.dtype}.")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are NaN or infinite.")
    return unit(x.double())


def _shares(values: Tensor) -> np.ndarray:
    variances = values.square()
    total = variances.sum()
    shares: np.ndarray = (variances / total if total > 0 else variances).cpu().numpy()
    return shares
