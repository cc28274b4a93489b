"""From whatever a source calls a quantity to float64 targets: one number an item, NaN where it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

OF_LABELS = "label"  # what to give as ``target`` where there are no columns to name: the labels read as numbers
_MISSING = ("", "nan", "na", "null", "none", "n/a")
_TOO_FINE = 1e-6  # a spread below this share of the values is lost in the float32 of a batch


def numbers(values: Iterable[Any], argument: str = "target") -> np.ndarray:
    """Targets from the values of a column.

    Args:
        values: ``N`` numbers, texts that read as numbers, or missing values: ``None``, NaN, and texts such as ``"NA"``.
        argument: the name to use in errors.

    Returns:
        float64 ``(N,)``, NaN where a value is missing.

    Raises:
        ValueError: a value that is no number (with its row) or not finite, none at all, all of them equal, or so close
            together for their size that float32 loses the difference.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and values.ndim == 1:
        found = values.astype(np.float64)
    else:
        found = np.array([_number(value, row, argument) for row, value in enumerate(values)], dtype=np.float64)
    return _checked(found, argument)


def of_labels(labels: np.ndarray | None, classes: Sequence[str] | None) -> np.ndarray:
    """The names of the classes as numbers: digits, or folders of photographs that are named by age.

    Args:
        labels: int64 ``(N,)``, -1 for a missing one.
        classes: the name of each label.

    Raises:
        ValueError: there are no labels, or a class whose name is no number.
    """
    if labels is None or classes is None:
        raise ValueError(f"target: {OF_LABELS!r} takes the labels as numbers, and the data have none.")
    values = np.array([_number(name, None, "target") for name in classes])
    return _checked(np.where(labels >= 0, values[labels], np.nan), "target")


def fractional(values: Any) -> bool:
    """Whether an array that came with the data holds a quantity and not classes: floats, not all of them whole."""
    if isinstance(values, list | tuple):
        if not all(isinstance(value, float | int | np.number) or value is None for value in values):
            return False
        values = [np.nan if value is None else value for value in values]
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return False
    known = array[np.isfinite(array)]
    return bool((known != np.rint(known)).any())


def quantile_bins(targets: np.ndarray, bins: int) -> np.ndarray:
    """Number of the quantile bin of each target, int64 ``(N,)``, -1 where it is missing; equal targets share a bin."""
    known = ~np.isnan(targets)
    found: np.ndarray = np.full(len(targets), -1, dtype=np.int64)
    edges = np.quantile(targets[known], np.linspace(0, 1, bins + 1)[1:-1]) if known.any() else np.empty(0)
    found[known] = np.searchsorted(np.unique(edges), targets[known], side="right")
    return found


def _number(value: Any, row: int | None, argument: str) -> float:
    if value is None:
        return np.nan
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        where = "" if row is None else f" in row {row}"
        raise ValueError(
            f"{argument}: {value!r}{where} is not a number. A target is one number an item; for classes give labels."
        ) from error


def _checked(found: np.ndarray, argument: str) -> np.ndarray:
    known = found[~np.isnan(found)]
    if not len(known):
        raise ValueError(f"{argument}: none of the {len(found)} items has a value.")
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(found.astype(np.float32)) & ~np.isnan(found)
    if bad.any():
        raise ValueError(
            f"{argument}: {int(bad.sum())} of {len(found)} values are infinite or beyond float32, the first in row "
            f"{int(bad.argmax())}. Repair them, or leave them empty."
        )
    low, high = float(known.min()), float(known.max())
    if low == high:
        raise ValueError(f"{argument}: every value is {low:g}, so that there is nothing to predict.")
    if high - low <= _TOO_FINE * max(abs(low), abs(high)):
        raise ValueError(
            f"{argument}: the values lie between {low!r} and {high!r}, too close for float32 to tell apart. Subtract "
            "what they have in common."
        )
    return found
