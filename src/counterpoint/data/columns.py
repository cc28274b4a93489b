"""What the columns of a table mean: images, numbers, labels, a target, the split.

A column of images (paths, bytes, or Hugging Face's ``{"bytes", "path"}``) makes an image dataset, numeric columns a
vector dataset. What is not named is found by name and by the first rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from counterpoint.data import cache as keeping
from counterpoint.data import labels as naming
from counterpoint.data import targets as measuring
from counterpoint.data.dataset import Names
from counterpoint.data.folders import SPLIT_NAMES
from counterpoint.data.images import ENDINGS, Item
from counterpoint.data.labels import NO_LABELS, require
from counterpoint.data.packing import Found
from counterpoint.data.tables import Table, is_number

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "path", "file", "filename", "file_name", "image_path")
_LOOK = 1000  # rows that decide whether a column is numeric
_MISSING = ("", "nan", "NaN", "NA", "null")
NOT_FEATURES = ("id", "index", "Unnamed: 0", "split")


@dataclass(frozen=True)
class Columns:
    """Which columns of some tables mean what."""

    image: str | None
    features: list[str]
    labels: str | None
    split: str | None
    target: str | None = None


def choose(
    tables: list[Table],
    labels: str | None,
    image: str | None,
    features: Sequence[str] | None,
    target: str | None = None,
) -> Columns:
    """Decide which columns hold what, from what was asked for, or from their names and first rows.

    Raises:
        ValueError: a column that is not there (with the nearest names), no rows, or nothing to learn from.
    """
    columns = tables[0].columns
    for other in tables[1:]:
        if set(other.columns) != set(columns):
            raise ValueError(
                f"source: the tables differ in their columns: {tables[0].name!r} has {columns}, "
                f"{other.name!r} has {other.columns}."
            )
    if target is not None:
        require(target, columns, "target")
    label = _label_column(tables[0], labels, target)
    for name in [*([image] if image else []), *(features or [])]:
        require(name, columns, "image" if name == image else "features")
        if name == target:
            raise ValueError(f"target: {target!r} is among the features too; what is to be predicted cannot be given.")
    if image and features:
        raise ValueError("image, features: give one of them; a dataset holds images or vectors.")
    head = next((block for table in tables for block in table.blocks(columns) if len(block)), None)
    if head is None:
        raise ValueError(f"source: the table {tables[0].name!r} has no rows.")
    split = "split" if "split" in columns and all(table.given is None for table in tables) else None
    if features:
        return Columns(None, list(features), label, split, target)
    image = image or image_column(head)
    if image:
        return Columns(image, [], label, split, target)
    rest = [name for name in columns if name not in (label, target, *NOT_FEATURES)]
    numeric = [name for name in rest if _numeric(head[name].head(_LOOK))]
    lists = [name for name in rest if isinstance(head[name].iloc[0], list | np.ndarray)]
    if not numeric and len(lists) != 1:
        raise ValueError(
            f"source: the table {tables[0].name!r} has no column of images and no numeric one among {columns}. "
            "Name it with image= (paths or bytes) or features= (numbers)."
        )
    return Columns(None, numeric or lists, label, split, target)


def _label_column(table: Table, labels: str | None, target: str | None) -> str | None:
    if labels is not None and labels in table.columns:
        return labels
    if labels == NO_LABELS:
        return None
    if labels is not None:
        require(labels, table.columns, "labels")
    named = [name for name in table.columns if name.lower() in LABEL_COLUMNS]
    return next((name for name in [*named, *table.classes] if name != target), None)


def about(tables: list[Table], labels: str | None, target: str | None) -> Columns:
    """Labels, target and split alone, of tables whose other columns are named one by one."""
    columns = tables[0].columns
    if target is not None:
        require(target, columns, "target")
    split = "split" if "split" in columns and all(table.given is None for table in tables) else None
    return Columns(None, [], _label_column(tables[0], labels, target), split, target)


def image_column(head: pd.DataFrame) -> str | None:
    """The column of images, by its name and its first cell; ``None`` where there is none."""
    for name in sorted(head.columns, key=lambda name: name.lower() not in IMAGE_COLUMNS):
        cell = head[name].iloc[0]
        if isinstance(cell, bytes) or (isinstance(cell, dict) and {"bytes", "path"} <= set(cell)):
            return str(name)
        if isinstance(cell, str) and os.path.splitext(cell)[1].lower() in ENDINGS:
            return str(name)
    return None


def _numeric(column: pd.Series) -> bool:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return True
    if not column.map(np.isscalar).all():
        return False
    filled = column[column.notna() & (column != "")]
    return len(filled) > 0 and bool(pd.to_numeric(filled, errors="coerce").notna().all())


def labels_of(tables: list[Table], columns: Columns) -> tuple[np.ndarray | None, list[str] | None]:
    """The labels of all rows and the names of the classes."""
    if columns.labels is None:
        return None, None
    values = [value for table in tables for value in table.column(columns.labels)]
    classes = tables[0].classes.get(columns.labels)
    if classes is None:
        if all(isinstance(value, str) for value in values) and all(is_number(v) for v in set(values) if v):
            values = [float(value) if value else None for value in values]
        return naming.encode(values, f"labels (column {columns.labels!r})")
    labels = np.array([-1 if value is None or value != value else int(value) for value in values], dtype=np.int64)
    if labels.max() >= len(classes):
        raise ValueError(f"labels: column {columns.labels!r} holds {labels.max()}, but names {len(classes)} classes.")
    return (None, None) if (labels < 0).all() else (np.maximum(labels, -1), classes)


def targets_of(tables: list[Table], columns: Columns) -> np.ndarray | None:
    """The target of all rows."""
    if columns.target is None:
        return None
    values = [value for table in tables for value in table.column(columns.target)]
    return measuring.numbers(values, f"target (column {columns.target!r})")


def given_of(tables: list[Table], columns: Columns, counts: Sequence[int]) -> np.ndarray | None:
    """The split of each row, from the tables it lies in or from a column named ``split``."""
    if columns.split:
        values = [str(value).lower() for table in tables for value in table.column(columns.split)]
        if set(values) <= set(SPLIT_NAMES):
            return np.array([SPLIT_NAMES[value] for value in values])
        return None
    parts = [table.given for table in tables]
    return None if None in parts else np.repeat(np.array(parts, dtype="U5"), counts)


def images(tables: list[Table], columns: Columns) -> Found:
    """The images of a column, listed."""
    name = columns.image or ""
    first = next(value for table in tables for block in table.blocks([name]) for value in block[name].head(1))
    ids: list[str] = []
    counts: list[int] = []
    digest, paths = hashlib.blake2b(digest_size=16), isinstance(first, str)
    for table in tables:
        before = len(ids)
        if paths:
            ids += [value if isinstance(value, str) else "" for value in table.column(name)]
        else:
            other = next(column for column in [*table.columns, name] if column != name or len(table.columns) == 1)
            rows = sum(len(block) for block in table.blocks([other]))
            ids += [f"{table.given}/{i}" if table.given else str(i) for i in range(rows)]
            digest.update(table.fingerprint.encode())
        counts.append(len(ids) - before)
    base = tables[0].base
    for path in ids if paths else ():
        digest.update(f"{keeping.mark(base / path)}\n".encode("utf-8", "surrogateescape"))
    labels, classes = labels_of(tables, columns)
    return Found(
        tables[0].name if len(tables) == 1 else base.name,
        Names.of(ids),
        partial(_cells, tables, name),
        f"{base} {name} {digest.hexdigest()}",
        labels=labels,
        classes=classes,
        given=given_of(tables, columns, counts),
        root=str(base) if paths else None,
        targets=targets_of(tables, columns),
    )


def _cells(tables: list[Table], name: str) -> Iterator[Item]:
    """The images of a column in order: bytes or the path of a file."""
    for table in tables:
        for block in table.blocks([name]):
            for value in block[name]:
                if isinstance(value, dict):
                    value = value.get("bytes") or value.get("path")
                yield os.path.join(table.base, value) if isinstance(value, str) and value else value or None


def vectors(table: Table, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Blocks ``(n, F)`` float64 of the columns ``names``, which hold numbers or lists of numbers of one length.

    Raises:
        ValueError: a value that is not a number, with its column and row.
    """
    import pandas as pd

    done = 0
    for block in table.blocks(names):
        parts = []
        for name in names:
            column = block[name]
            if len(column) and isinstance(column.iloc[0], list | np.ndarray):
                lengths = {len(value) if isinstance(value, list | np.ndarray) else 0 for value in column}
                if len(lengths) > 1:
                    raise ValueError(f"features: the lists in column {name!r} differ in length: {sorted(lengths)[:4]}.")
                parts.append(np.stack([np.asarray(value, dtype=np.float64) for value in column]))
                continue
            numbers = pd.to_numeric(column, errors="coerce")
            bad = numbers.isna()
            if bad.any() and (bad := bad & column.notna() & ~column.isin(_MISSING)).any():
                row = int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"features: column {name!r} holds {column.iloc[row]!r} in row {done + row}, which is not a number. "
                    "Name the numeric columns with features=."
                )
            parts.append(numbers.to_numpy(dtype=np.float64)[:, None])
        done += len(block)
        yield np.concatenate(parts, axis=1)
