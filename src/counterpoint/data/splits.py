"""Who is trained on, who chooses, who is measured.

A split the source comes with is respected. Otherwise one is made: stratified where labels allow, seeded, and recorded
with the run, so that every method of a comparison meets the same three parts and a test item is never seen before the
end. :func:`few` picks the handful of labels that a few-label probe may see.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from counterpoint.data.dataset import SPLITS, Dataset
from counterpoint.data.targets import quantile_bins
from counterpoint.files import atomic

_STRATA = 10


@dataclass(frozen=True)
class Splits:
    """Three disjoint int64 arrays of positions in a dataset, each sorted."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``path`` (``.npz``), atomically."""
        with atomic(path) as file:
            np.savez(file, train=self.train, val=self.val, test=self.test)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Splits:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file does not hold the three integer arrays.
        """
        with np.load(path, allow_pickle=False) as file:
            if set(SPLITS) - set(file.files) or any(file[name].dtype.kind != "i" for name in SPLITS):
                raise ValueError(f"path: {os.fspath(path)} holds no train, val and test indices.")
            return cls(*(file[name].astype(np.int64) for name in SPLITS))


def split(dataset: Dataset, seed: int = 0, val: float = 0.15, test: float = 0.2) -> Splits:
    """Divide a dataset into train, val and test.

    Where the source comes split (``dataset.given``) that is kept; a part it lacks is drawn from its training part.
    Otherwise ``val`` and ``test`` are drawn: in proportion within each class where there are labels (a class of two
    gives one to test, a class of one stays in train), at random where there are none or where the classes are too
    small to give both parts anything. Where there is a target and no labels, the classes are ten quantiles of it, fewer
    in small data. An item without a label in a labelled dataset, or without a target in one that has targets alone,
    always trains: nothing could be measured on it.

    Args:
        dataset: the items.
        seed: of the draw; the same seed gives the same split.
        val: fraction for choosing settings, of what it is drawn from.
        test: fraction for measuring, of what it is drawn from.

    Raises:
        ValueError: fractions outside [0, 1) or summing to 1 or more, or too few items to fill the parts asked for.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"val, test: expected fractions in [0, 1) that leave some for training, got {val} and {test}.")
    size, labels = len(dataset), _strata(dataset, val, test)
    part = np.zeros(size, dtype=np.int8)
    if dataset.given is not None:
        part[dataset.given == "val"], part[dataset.given == "test"] = 1, 2
        if labels is not None:
            part[labels < 0] = 0
    free = np.flatnonzero(part == 0 if labels is None else (part == 0) & (labels >= 0))
    fractions = [0.0 if (part == number).any() else wanted for number, wanted in ((1, val), (2, test))]
    if any(fractions):
        drawn = _draw(free, labels, fractions, np.random.default_rng(seed))
        for number, chosen in zip((1, 2), drawn, strict=True):
            part[chosen] = number
    result = Splits(*(np.flatnonzero(part == number).astype(np.int64) for number in range(3)))
    for name, wanted in (("train", 1.0), ("val", val), ("test", test)):
        if wanted and not len(getattr(result, name)):
            of = (
                "items" if labels is None else "labelled items" if dataset.labels is not None else "items with a target"
            )
            raise ValueError(
                f"dataset: {dataset.name!r} has too few {of} ({len(free)} to draw from) to make a {name} part. "
                f"Give more, or ask for less than val={val}, test={test}."
            )
    return result


def _strata(dataset: Dataset, val: float, test: float) -> np.ndarray | None:
    """Labels, or bins of the target of which each gives at least one item to every part; -1 where there is neither."""
    if dataset.labels is not None or dataset.targets is None:
        return dataset.labels
    known = int((~np.isnan(dataset.targets)).sum())
    least = min((part for part in (val, test) if part), default=1.0)
    return quantile_bins(dataset.targets, max(1, min(_STRATA, int(known * least))))


def _draw(
    free: np.ndarray, labels: np.ndarray | None, fractions: list[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Positions for val and for test out of ``free``, stratified if that fills both."""
    if labels is not None:
        drawn = _stratified(free, labels[free], fractions, rng)
        if all(len(chosen) or not wanted for chosen, wanted in zip(drawn, fractions, strict=True)):
            return drawn
    order = rng.permutation(free)
    sizes = [max(1, round(wanted * len(free))) if wanted else 0 for wanted in fractions]
    if sum(sizes) >= len(free):
        return [free[:0], free[:0]]
    return [order[: sizes[0]], order[sizes[0] : sum(sizes)]]


def _stratified(
    free: np.ndarray, labels: np.ndarray, fractions: list[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Each class gives its share; what rounding withholds from one class is asked of the next."""
    val: list[np.ndarray] = []
    test: list[np.ndarray] = []
    owed = [0.0, 0.0]
    for label in np.unique(labels):
        members = rng.permutation(free[labels == label])
        room = len(members) - 1  # one stays in train
        counts = [0, 0]
        for which in (1, 0):  # test first: a class of two gives its one to test
            owed[which] += fractions[which] * len(members)
            least = 1 if fractions[which] else 0
            counts[which] = min(max(round(owed[which]), least), room)
            room -= counts[which]
            owed[which] -= counts[which]
        val.append(members[: counts[0]])
        test.append(members[counts[0] : counts[0] + counts[1]])
    return [np.concatenate([free[:0], *val]), np.concatenate([free[:0], *test])]


def few(labels: np.ndarray, per_class: int, seed: int = 0) -> np.ndarray:
    """Pick ``per_class`` labelled items of every class, fewer where a class has fewer.

    With one seed the picks are nested: those for 1 per class are among those for 5.

    Args:
        labels: int64 ``(N,)``; -1 means no label.
        per_class: how many of each class.
        seed: of the draw.

    Returns:
        Sorted int64 positions in ``labels``.

    Raises:
        ValueError: ``per_class`` below 1, or no label at all.
    """
    labels = np.asarray(labels)
    if per_class < 1:
        raise ValueError(f"per_class: expected at least 1, got {per_class}.")
    if not (labels >= 0).any():
        raise ValueError(f"labels: none of the {len(labels)} items has a label.")
    order = np.random.default_rng(seed).permutation(len(labels))
    picks = [order[labels[order] == label][:per_class] for label in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(picks)).astype(np.int64)
