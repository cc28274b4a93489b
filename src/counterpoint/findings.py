"""What a method found out, as figures in plain data: kept in the run's folder, drawn on its page.

A method returns them from :meth:`~counterpoint.methods.base.Method.findings`; ``Run.findings`` reads them back. They
are numbers and words, so that the page can draw them and a notebook can use them, and nothing in the file is executed.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from counterpoint.files import atomic


@dataclass(frozen=True)
class Heatmap:
    """A table of numbers shown by shades, such as how alike classes are.

    Args:
        title: heading of the figure.
        text: how to read it, a sentence or two.
        values: (R, C); NaN leaves a cell empty.
        rows: R names.
        columns: C names; the rows' by default.

    Raises:
        ValueError: as many names as there are rows or columns are not there.
    """

    kind: ClassVar[str] = "heatmap"
    title: str
    text: str
    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        values = _numbers("values", self.values, 2)
        columns = list(self.columns) or list(self.rows)
        if (len(self.rows), len(columns)) != values.shape:
            raise ValueError(f"rows, columns: {len(self.rows)} and {len(columns)} names for a table {values.shape}")
        _set(self, values=values, rows=list(map(str, self.rows)), columns=list(map(str, columns)))


@dataclass(frozen=True)
class Pictures:
    """Pictures in rows and columns, such as items beside their reconstructions.

    Args:
        title, text: as for :class:`Heatmap`.
        images: uint8 (R, C, H, W, channels), 1 or 3 channels.
        columns: names of the C columns; none by default.
        captions: R lists of C texts, under each picture; none by default.

    Raises:
        ValueError: another shape or type, or another number of names.
    """

    kind: ClassVar[str] = "pictures"
    title: str
    text: str
    images: np.ndarray
    columns: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise ValueError(f"images: expected uint8 (R, C, H, W, 1 or 3), got {images.dtype} {images.shape}")
        if self.columns and len(self.columns) != images.shape[1]:
            raise ValueError(f"columns: {len(self.columns)} names for {images.shape[1]} columns")
        captions = [list(map(str, row)) for row in self.captions]
        if captions and [len(row) for row in captions] != [images.shape[1]] * images.shape[0]:
            raise ValueError(f"captions: expected {images.shape[0]} rows of {images.shape[1]} texts")
        _set(self, images=images, columns=list(map(str, self.columns)), captions=captions)


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis, such as scores over the steps of a training.

    Args:
        title, text: as for :class:`Heatmap`.
        x: (N,).
        series: for each line its name and N values; NaN leaves a gap.
        x_label, y_label: of the axes.

    Raises:
        ValueError: a line of another length, or none.
    """

    kind: ClassVar[str] = "curves"
    title: str
    text: str
    x: np.ndarray
    series: Mapping[str, np.ndarray] = field(default_factory=dict)
    x_label: str = "step"
    y_label: str = "value"

    def __post_init__(self) -> None:
        x = _numbers("x", self.x, 1)
        series = {str(name): _numbers(f"series: {name}", values, 1) for name, values in self.series.items()}
        lengths = {name: len(values) for name, values in series.items()}
        if not series or set(lengths.values()) != {len(x)}:
            raise ValueError(f"series: expected lines of {len(x)} values, as x has, got {lengths}")
        _set(self, x=x, series=series)


@dataclass(frozen=True)
class Scatter:
    """Points of several groups in the plane, such as the two modalities of a space they share.

    Args:
        title, text: as for :class:`Heatmap`.
        groups: for each group its name and its points (N, 2); a point with NaN is left out.
        joined: row i of the first group and row i of each other are joined by a line, for the first so many rows.

    Raises:
        ValueError: no group, points of another shape, or more to be joined than a group has.
    """

    kind: ClassVar[str] = "scatter"
    title: str
    text: str
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    joined: int = 0

    def __post_init__(self) -> None:
        groups = {str(name): _numbers(f"groups: {name}", points, 2) for name, points in self.groups.items()}
        shapes = {name: points.shape for name, points in groups.items()}
        if not groups or any(columns != 2 for _, columns in shapes.values()):
            raise ValueError(f"groups: expected points (N, 2) for each, got {shapes}")
        if not 0 <= self.joined <= min(rows for rows, _ in shapes.values()):
            raise ValueError(f"joined: expected 0 to the number of points in the smallest group, got {self.joined}")
        _set(self, groups=groups)


@dataclass(frozen=True)
class Captions:
    """Texts side by side in rows, beside their pictures where there are any: captions, written and true.

    Args:
        title, text: as for :class:`Heatmap`.
        lines: R rows of C texts.
        columns: names of the C columns of texts.
        images: uint8 (R, H, W, channels), 1 or 3 channels; ``None`` for texts alone.

    Raises:
        ValueError: no row, a row of another length than ``columns``, pictures of another shape, type or number.
    """

    kind: ClassVar[str] = "captions"
    title: str
    text: str
    lines: Sequence[Sequence[str]]
    columns: Sequence[str]
    images: np.ndarray | None = None

    def __post_init__(self) -> None:
        lines = [list(map(str, line)) for line in self.lines]
        if not lines or {len(line) for line in lines} != {len(self.columns)}:
            lengths = sorted({len(line) for line in lines})
            raise ValueError(f"lines: expected rows of {len(self.columns)} texts, as there are columns, got {lengths}")
        _set(self, lines=lines, columns=list(map(str, self.columns)))
        if self.images is None:
            return
        images = np.asarray(self.images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise ValueError(f"images: expected uint8 (R, H, W, 1 or 3), got {images.dtype} {images.shape}")
        if len(images) != len(lines):
            raise ValueError(f"images: {len(images)} for {len(lines)} rows of texts")
        _set(self, images=images)


Finding: TypeAlias = Heatmap | Pictures | Curves | Scatter | Captions
_KINDS: dict[str, type[Finding]] = {kind.kind: kind for kind in (Heatmap, Pictures, Curves, Scatter, Captions)}
_LINES = {"curves": "series", "scatter": "groups"}  # a mapping from names to arrays
_FILE = "findings.npz"


def save(folder: str | os.PathLike[str], findings: Sequence[Finding]) -> None:
    """Write ``findings.npz`` into a folder, atomically; without any findings, remove an older one."""
    path = Path(folder) / _FILE
    if not findings:
        path.unlink(missing_ok=True)
        return
    arrays: dict[str, np.ndarray] = {}
    told = []
    for at, finding in enumerate(findings):
        words: dict[str, Any] = {"kind": finding.kind}
        for each in fields(finding):
            value = getattr(finding, each.name)
            if isinstance(value, np.ndarray):
                arrays[f"{at}/{each.name}"] = value
            elif isinstance(value, Mapping):
                words[each.name] = list(value)
                arrays |= {f"{at}/{each.name}/{n}": line for n, line in enumerate(value.values())}
            else:
                words[each.name] = value
        told.append(words)
    arrays["words"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with atomic(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(folder: str | os.PathLike[str]) -> list[Finding]:
    """What :func:`save` wrote; nothing where there is no such file.

    Raises:
        ValueError: a file that holds no findings.
    """
    path = Path(folder) / _FILE
    if not path.exists():
        return []
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return [_opened(at, words, arrays) for at, words in enumerate(json.loads(arrays["words"].tobytes()))]
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"findings: {path} cannot be read: {error}") from error


def _opened(at: int, words: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Finding:
    kind = _KINDS[words.pop("kind")]
    names = [each.name for each in fields(kind)]
    given: dict[str, Any] = {name: arrays[f"{at}/{name}"] for name in names if f"{at}/{name}" in arrays}
    if kind.kind in _LINES:
        of = _LINES[kind.kind]
        given[of] = {name: arrays[f"{at}/{of}/{n}"] for n, name in enumerate(words.pop(of))}
    return kind(**words, **given)


def _numbers(name: str, values: Any, ndim: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name}: expected numbers in {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}")
    return np.where(np.isfinite(array), array, math.nan)


def _set(finding: Finding, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(finding, name, value)
