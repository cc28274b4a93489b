"""Numbers read off a frozen embedding: ridge regression, neighbours, and whether distances follow the target's.

All errors are in the target's own unit. *Ridge* is linear regression with an L2 penalty on features standardised with
the training set's mean and deviation; the penalty is chosen by mean absolute error on the validation set and nowhere
else. With few targets it keeps one penalty, fixed beforehand, and features are only centred and rescaled, for the
reasons given in :mod:`counterpoint.evaluation.probes`. *Neighbours* predict the mean of their targets. *Order* asks for
no predictor: the rank correlation of distances of targets and of embeddings over pairs of test items, which
representations for regression are to have (Wu et al. 2023; Zha et al. 2023, "Rank-N-Contrast").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from counterpoint.evaluation.embeddings import Embeddings, unit
from counterpoint.evaluation.neighbours import top_k
from counterpoint.evaluation.probes import rescale, standardise

PENALTIES = tuple(10.0**power for power in range(-7, 2))
FEW_PENALTY = 1e-2
SHOTS = (10, 50)
PAIRED_ITEMS = 1000  # half a million pairs: a rank correlation to three digits
_DISTINCT = 32
_BINS = 20
_LEAST = 5  # test items that a mean over a group of bins is worth


@dataclass(frozen=True)
class Ridge:
    """A ridge regression and how it was chosen.

    Attributes:
        predictions: float64 (N_test,).
        penalty: that was chosen, as a share of the features' whole variance.
        validation: mean absolute error on the validation set for each penalty tried; empty without targets there.
    """

    predictions: np.ndarray
    penalty: float
    validation: dict[float, float]


def ridge(
    train: Embeddings, val: Embeddings | None, test: Embeddings, *, penalties: Sequence[float] = PENALTIES
) -> Ridge:
    """Linear regression on ``train``, its penalty chosen on ``val``, its predictions for ``test``.

    With N training items, centred targets ``y`` and features ``x`` with a mean square length of 1, whatever D is,
    it minimises ``|y - x w|^2 / N + penalty |w|^2``, for all penalties from one decomposition.

    Args:
        train: (N, D) with at least two targets; items without one only help to standardise.
        val: (N_val, D). Without any target there (or None) the penalty is :data:`FEW_PENALTY`.
        test: (N_test, D); its targets are not read.
        penalties: to choose from; of equally good ones the strongest wins.

    Raises:
        ValueError: fewer than two targets, dimensions that differ, penalties that are not positive.
    """
    y = _targets_of(train)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties: expected positive numbers, got {penalties!r}.")
    if val is None or not val.measured.any():
        x, x_test = standardise(train, train, test)
        return Ridge(_path(x[train.measured], y, [x_test], [FEW_PENALTY])[0][0], FEW_PENALTY, {})
    x, x_val, x_test = standardise(train, train, val, test)
    tried = sorted(map(float, penalties), reverse=True)
    found_val, found = _path(x[train.measured], y, [x_val[val.measured], x_test], tried)
    errors = np.abs(found_val - val.known_targets).mean(axis=1)
    best = int(errors.argmin())
    return Ridge(found[best], tried[best], dict(zip(tried, errors.tolist(), strict=True)))


def few_target_ridge(
    train: Embeddings,
    test: Embeddings,
    shots: int,
    *,
    draws: int = 5,
    seed: int = 0,
    penalty: float = FEW_PENALTY,
) -> np.ndarray:
    """Ridge regression on ``shots`` targets, for several draws of them.

    The draws depend on which training items have a target, on ``shots`` and on ``seed`` only: methods compared on the
    same split see the same items.

    Args:
        train: (N, D) with at least two targets.
        test: (N_test, D); its targets are not read.
        shots: targets that are seen; all there are where there are fewer.
        draws: how often.
        seed: of the draws.
        penalty: fixed.

    Returns:
        float64 (draws, N_test).

    Raises:
        ValueError: fewer than two targets, dimensions that differ, shots below 2 or no draw.
    """
    y = _targets_of(train)
    if shots < 2 or draws < 1:
        raise ValueError(f"shots, draws: expected at least 2 and 1, got {shots} and {draws}.")
    x, x_test = rescale(train, train, test)
    x = x[train.measured]
    predictions = np.empty((draws, len(test)))
    for draw in range(draws):
        chosen = np.random.default_rng([seed, shots, draw]).permutation(len(y))[:shots]
        predictions[draw] = _path(x[chosen], y[chosen], [x_test], [penalty])[0][0]
    return predictions


def knn_regression(train: Embeddings, test: Embeddings, *, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    """Mean target of the ``k`` nearest training items by cosine, weighted as in :func:`~counterpoint.evaluation.knn`.

    Args:
        train: (N, D) with a target at least; items without one are left out.
        test: (N_test, D); its targets are not read.
        k: neighbours, at most all there are.
        temperature: divides the cosine before the exponential that weights.

    Returns:
        float64 (N_test,).

    Raises:
        ValueError: no target, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}.")
    if not train.measured.any():
        raise ValueError("train: neighbours need targets, and no item has one.")
    keys, y = train.vectors[train.measured], torch.from_numpy(train.known_targets)
    values, indices = top_k(test.vectors, keys, min(k, len(keys)))
    weights = ((values - values[:, :1]) / temperature).exp().double()
    found: np.ndarray = ((weights * y[indices]).sum(1) / weights.sum(1)).numpy()
    return found


def order_agreement(items: Embeddings, *, limit: int = PAIRED_ITEMS, seed: int = 0) -> float:
    """Spearman's rank correlation of target distance and cosine distance, over all pairs of items with a target.

    Args:
        items: (N, D).
        limit: above so many items, as many are drawn.
        seed: of that draw.

    Returns:
        Between -1 and 1; 1 where the farther of two pairs in target is always the farther in the embedding. NaN where
        all distances of a kind are equal.

    Raises:
        ValueError: fewer than three items with a target, which is less than two pairs that could differ.
    """
    from scipy.stats import rankdata

    chosen = np.flatnonzero(items.measured)
    if len(chosen) < 3:
        raise ValueError(f"items: expected at least 3 with a target, got {len(chosen)}.")
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:limit])
    assert items.targets is not None
    z, y = unit(torch.from_numpy(items.vectors[chosen]).double()), items.targets[chosen]
    upper = np.triu_indices(len(chosen), 1)
    # rounded, so that distances that are equal but for rounding share a rank
    apart = np.round(1 - (z @ z.T).numpy()[upper], 7)
    ranks = [rankdata(values) for values in (np.abs(y[:, None] - y)[upper], apart)]
    return correlation(*ranks)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays (N,); NaN where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else float("nan")


@dataclass(frozen=True)
class Bins:
    """How the training targets are spread.

    Attributes:
        edges: float64 (K + 1,), ascending; a target belongs to the bin whose lower edge is the last not above it.
        counts: int64 (K,): training items in each.
    """

    edges: np.ndarray
    counts: np.ndarray

    def group(self, targets: np.ndarray) -> np.ndarray:
        """``"many"``, ``"medium"`` or ``"few"`` for each target: how full its bin is, compared with an even filling.

        *Few* is below a sixth of it, *many* above five sixths; outside all bins are few. Deep imbalanced regression
        (Yang et al. 2021) counts 20 and 100 training items a bin, which for its AgeDB are just about these shares; as
        shares they mean the same for data of any size. These figures are ours.
        """
        at = np.searchsorted(self.edges, targets, side="right") - 1
        at = np.where(targets == self.edges[-1], len(self.counts) - 1, at)
        inside = (at >= 0) & (at < len(self.counts))
        share = np.where(inside, self.counts[np.where(inside, at, 0)], 0) * len(self.counts) / self.counts.sum()
        return np.where(share < 1 / 6, "few", np.where(share > 5 / 6, "many", "medium"))


def target_bins(targets: np.ndarray) -> Bins:
    """Bins of training targets: their values where there are at most 32, else 20 of one width."""
    values = np.unique(targets)
    if len(values) <= _DISTINCT:
        middles = (values[1:] + values[:-1]) / 2
        edges = np.concatenate([[values[0]], middles, [values[-1]]])
    else:
        edges = np.linspace(values[0], values[-1], _BINS + 1)
    at = np.clip(np.searchsorted(edges, targets, side="right") - 1, 0, len(edges) - 2)
    return Bins(edges, np.bincount(at, minlength=len(edges) - 1))


def by_group(errors: np.ndarray, targets: np.ndarray, bins: Bins) -> dict[str, np.ndarray]:
    """Errors (N,) by how well their bin is filled: ``{"many": ..., "medium": ..., "few": ...}``, NaN elsewhere.

    Empty where bins are evenly filled: unless both a full and a sparse bin were tested on at least five items.
    """
    groups = bins.group(targets)
    found = {name: np.where(groups == name, errors, np.nan) for name in ("many", "medium", "few")}
    found = {name: values for name, values in found.items() if (~np.isnan(values)).sum() >= _LEAST}
    return found if {"many", "few"} <= set(found) else {}


def _targets_of(train: Embeddings) -> np.ndarray:
    if len(train.known_targets) < 2:
        raise ValueError(f"train: expected at least 2 items with a target, got {len(train.known_targets)}.")
    return train.known_targets


def _path(x: np.ndarray, y: np.ndarray, asked: Sequence[np.ndarray], penalties: Sequence[float]) -> list[np.ndarray]:
    """Predictions (penalties, N) for each set that is asked for."""
    x = x.astype(np.float64)
    centre, level = x.mean(axis=0), y.mean()
    u, s, v = np.linalg.svd(x - centre, full_matrices=False)
    rotated = u.T @ (y - level)
    shrunk = np.stack([s / (s**2 + penalty * len(y)) * rotated for penalty in penalties])
    return [level + shrunk @ (v @ (other.astype(np.float64) - centre).T) for other in asked]
