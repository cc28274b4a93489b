"""What is evaluated: vectors, and what is known about the items they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNLABELLED = -1


@dataclass(frozen=True)
class Embeddings:
    """N embedded items.

    Attributes:
        vectors: float32 (N, D), finite; other floating types, integers and tensors are converted.
        labels: int64 (N,), :data:`UNLABELLED` (-1) where an item has none; None where there are none at all.
        ids: N names of the items (paths, rows); None where they have none.
        targets: float64 (N,), a quantity that belongs to each item, NaN where it is missing; None without a target.

    Raises:
        ValueError: fewer than two items, no dimension, NaN or Inf in the vectors, labels below -1 or fractional,
            infinite targets, or lengths that differ.
    """

    vectors: np.ndarray
    labels: np.ndarray | None = None
    ids: Sequence[str] | None = None
    targets: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", _vectors(self.vectors))
        if self.labels is not None:
            object.__setattr__(self, "labels", _labels(self.labels, len(self.vectors)))
        if self.ids is not None and len(self.ids) != len(self.vectors):
            raise ValueError(f"ids: {len(self.ids)} names for {len(self.vectors)} vectors; give one for each.")
        if self.targets is not None:
            object.__setattr__(self, "targets", _targets(self.targets, len(self.vectors)))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def labelled(self) -> np.ndarray:
        """Bool (N,): which items have a label."""
        return np.zeros(len(self), bool) if self.labels is None else self.labels != UNLABELLED

    @property
    def known_labels(self) -> np.ndarray:
        """Int64 (M,): the labels of the M labelled items, in order."""
        return np.empty(0, np.int64) if self.labels is None else self.labels[self.labelled]

    @property
    def measured(self) -> np.ndarray:
        """Bool (N,): which items have a target."""
        return np.zeros(len(self), bool) if self.targets is None else ~np.isnan(self.targets)

    @property
    def known_targets(self) -> np.ndarray:
        """Float64 (M,): the targets of the M items that have one, in order."""
        return np.empty(0) if self.targets is None else self.targets[self.measured]

    @property
    def classes(self) -> np.ndarray:
        """Int64 (K,): the labels that occur, ascending, without :data:`UNLABELLED`."""
        return np.unique(self.known_labels)


def _vectors(value: np.ndarray) -> np.ndarray:
    vectors = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if vectors.ndim != 2 or vectors.shape[0] < 2 or vectors.shape[1] < 1:
        raise ValueError(f"vectors: expected shape (N, D) with N >= 2 and D >= 1, got {vectors.shape}.")
    if vectors.dtype.kind not in "fiu":
        raise ValueError(f"vectors: expected real numbers, got {vectors.dtype}.")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, and is reported below
        vectors = np.ascontiguousarray(vectors, np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"vectors: {bad.sum()} of {len(vectors)} rows hold NaN or Inf (in float32), first row {bad.argmax()}. "
            "Training diverged, or the input holds them: look at the loss and at the data."
        )
    return vectors


def _labels(value: np.ndarray, count: int) -> np.ndarray:
    given = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if given.shape != (count,):
        raise ValueError(f"labels: expected shape ({count},), one label a vector, got {given.shape}.")
    if given.dtype.kind not in "fiub" or not np.array_equal(given, labels := given.astype(np.int64)):
        raise ValueError(f"labels: expected whole numbers, got {given.dtype}; number the classes 0, 1, 2, ...")
    if labels.min() < UNLABELLED:
        raise ValueError(f"labels: the smallest is {labels.min()}; classes count from 0, -1 marks an unlabelled item.")
    return labels


def _targets(value: np.ndarray, count: int) -> np.ndarray:
    given = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if given.shape != (count,) or given.dtype.kind not in "fiub":
        raise ValueError(f"targets: expected ({count},) numbers, one a vector, got {given.shape} {given.dtype}.")
    if np.isinf(targets := given.astype(np.float64)).any():
        raise ValueError("targets: expected finite numbers, and NaN where one is missing, got infinite ones.")
    return targets


def unit(x: Tensor) -> Tensor:
    """The rows of ``x`` (N, D) scaled to Euclidean length one; a row of zeros stays zero.

    Rows are first divided by their largest magnitude, so that neither 1e-30 nor 1e30 is lost when squared.
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    return torch.nn.functional.normalize(x, dim=-1)


def unit_rows(name: str, x: Any) -> np.ndarray:
    """Float64 (N, D): the rows of an argument, checked, at length one; a row of zeros stays zero.

    Raises:
        ValueError: naming the argument, another shape or values that are not finite.
    """
    array = np.ascontiguousarray(x, dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name}: expected (rows, D), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite")
    return np.asarray(unit(torch.from_numpy(array)))
