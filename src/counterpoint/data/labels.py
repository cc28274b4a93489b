"""From whatever a source calls its classes to int64 labels and their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

NO_LABELS = "none"  # what to give as ``labels`` to leave them aside


def require(name: str, columns: Sequence[str], argument: str) -> None:
    """Raise ValueError with the nearest names unless there is a column ``name``."""
    if name not in columns:
        near = difflib.get_close_matches(name, columns, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"{argument}: there is no column {name!r}. {hint}The columns are: {', '.join(columns)}.")


def encode(values: Iterable[Any], argument: str = "labels") -> tuple[np.ndarray | None, list[str] | None]:
    """Number the classes in their natural order, 0 to K-1.

    Args:
        values: ``N`` strings, integers (whole floats and booleans count as such), or missing values: ``None``, NaN,
            the empty string, and ``-1`` among integers.
        argument: the name to use in errors.

    Returns:
        ``(labels, classes)``: int64 ``(N,)`` with -1 for a missing one, and the name of each class; ``(None, None)``
        where every value is missing.

    Raises:
        ValueError: strings and numbers mixed, fractional numbers, or values that are neither.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub" and values.ndim == 1:
        numbers = values.astype(np.int64)
        return _number(numbers, numbers != -1)
    items = [_plain(value) for value in values]  # one by one: NumPy would make ["a", 1] into ["a", "1"]
    present = np.array([item is not None for item in items], dtype=bool)
    kinds = {type(item).__name__ for item in items if item is not None}
    if (len(kinds) > 1 and kinds != {"float", "int"}) or kinds - {"str", "int", "float"}:
        examples = ", ".join(repr(next(i for i in items if type(i).__name__ == kind)) for kind in sorted(kinds))
        raise ValueError(
            f"{argument}: one kind of label is expected, strings or integers, but {' and '.join(sorted(kinds))} were "
            f"found (for example {examples}). Make them all strings or all integers."
        )
    if "float" in kinds:
        example = next(item for item in items if isinstance(item, float))
        raise ValueError(
            f"{argument}: classes are expected, got the number {example!r}. Labels are strings or integers; "
            "for a continuous quantity give target= in place of labels=, or bin it first."
        )
    if kinds == {"int"}:
        numbers = np.array([-1 if item is None else item for item in items], dtype=np.int64)
        return _number(numbers, present & (numbers != -1))
    return _number(np.array([item or "" for item in items], dtype=np.str_), present)


def _number(values: np.ndarray, present: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
    if not present.any():
        return None, None
    classes, numbers = np.unique(values[present], return_inverse=True)
    labels = np.full(len(values), -1, dtype=np.int64)
    labels[present] = numbers
    return labels, [str(name) for name in classes]


def _plain(value: Any) -> Any:
    """A missing value as None, a whole number as int, bytes as str."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or (isinstance(value, str | float) and (value == "" or value != value)):
        return None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, str) else value
