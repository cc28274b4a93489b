"""What every source becomes: rows that are read a batch at a time.

A :class:`Dataset` holds no data. It knows where its rows lie (an array in memory or a memory-mapped ``.npy`` file) and
answers ``dataset[indices]`` with exactly those rows, so a million images cost the memory of one batch. What there is
one of per item is kept in flat arrays: labels as int64, names as one block of UTF-8 (:class:`Names`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

Batch: TypeAlias = dict[str, Tensor]
Indices: TypeAlias = "Sequence[int] | np.ndarray | Tensor | slice | int"
SPLITS = ("train", "val", "test")


class Names(Sequence[str]):
    """Strings in one block of UTF-8: a tenth of the memory of a list of Python strings, and quick to send to a worker.

    Args:
        block: uint8 array, all names one after the other.
        ends: int64 ``(N,)``, where each of them ends.
        path: the ``.npy`` file that ``block`` is mapped from, with ``ends`` in ``<stem>-ends.npy`` beside it.
    """

    def __init__(self, block: np.ndarray, ends: np.ndarray, path: Path | None = None):
        self._block, self._ends, self._path = block, ends, path

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack an iterable of strings."""
        block, ends = bytearray(), []
        for name in names:
            block += os.fsencode(name)
            ends.append(len(block))
        return cls(np.frombuffer(bytes(block), dtype=np.uint8), np.asarray(ends, dtype=np.int64))

    @classmethod
    def open(cls, path: Path) -> Names:
        """Map the names that :meth:`save` wrote."""
        return cls(_mapped(path), _mapped(path.with_name(f"{path.stem}-ends.npy")), path)

    def save(self, path: Path) -> None:
        """Write two ``.npy`` files, ``path`` and its ``-ends`` neighbour."""
        from counterpoint.files import atomic

        for target, array in ((path, self._block), (path.with_name(f"{path.stem}-ends.npy"), self._ends)):
            with atomic(target) as file:
                np.save(file, array, allow_pickle=False)

    def take(self, indices: np.ndarray) -> Names:
        """The names at ``indices``, as names."""
        return Names.of(self[int(i)] for i in indices)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        start = int(self._ends[i - 1]) if i else 0
        return os.fsdecode(self._block[start : int(self._ends[i])].tobytes())

    def __reduce__(self) -> Any:
        return (Names.open, (self._path,)) if self._path else (Names, (self._block, self._ends))


class Rows:
    """Rows of an array, in memory or mapped from a ``.npy`` file, given out as a batch wants them.

    Args:
        array: ``(N, ...)``; float images are taken to lie in [0, 1].
        layout: what the array holds: ``"vector"`` (N, F), ``"hw"`` (N, H, W), ``"hwc"`` or ``"chw"``, ``"signal"``
            (N, C, T), or ``"wave"``, sound (N, C, T) as int16.
        path: the file that ``array`` is mapped from; a copy in another process then opens the file again.
    """

    def __init__(self, array: np.ndarray, layout: str, path: Path | None = None):
        self._array, self._layout, self._path = np.asarray(array), layout, path

    @classmethod
    def open(cls, path: Path, layout: str) -> Rows:
        """Map a ``.npy`` file."""
        return cls(_mapped(path), layout, path)

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: ``(C, H, W)``, ``(C, T)`` or ``(F,)``."""
        shape = self._array.shape[1:]
        if self._layout == "hw":
            return (1, *shape)
        return (shape[2], *shape[:2]) if self._layout == "hwc" else tuple(shape)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows ``(B,)`` as a fresh contiguous uint8 ``(B, C, H, W)``, float32 ``(B, C, T)`` or ``(B, F)`` array."""
        first, count = (int(rows[0]), len(rows)) if len(rows) else (0, 0)
        if count and rows[-1] - first == count - 1 and np.all(np.diff(rows) == 1):
            taken = np.array(self._array[first : first + count])
        else:
            taken = np.take(self._array, rows, axis=0)
        if self._layout in ("vector", "signal"):
            return np.ascontiguousarray(taken, dtype=np.float32)
        if self._layout == "wave":
            return np.asarray(taken.astype(np.float32) / 32768)
        if taken.dtype.kind == "f":
            taken = np.rint(taken * taken.dtype.type(255))
        elif taken.dtype.kind == "b":
            taken = taken.astype(np.uint8) * np.uint8(255)
        if self._layout == "hw":
            taken = taken[:, None]
        elif self._layout == "hwc":
            taken = taken.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(taken, dtype=np.uint8)

    def __reduce__(self) -> Any:
        return (Rows.open, (self._path, self._layout)) if self._path else (Rows, (self._array, self._layout))


def _mapped(path: Path) -> np.ndarray:
    """Map a ``.npy`` file for reading; an array of objects is refused, never unpickled."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class Dataset:
    """A lazy, batched reader of images or vectors.

    ``dataset[indices]`` returns a *batch*: a dict with ``batch[dataset.modality]`` (uint8 ``(B, C, H, W)`` for images,
    float32 ``(B, F)`` for vectors), ``batch["index"]`` int64 ``(B,)`` (positions in this dataset) and, where there are
    labels, ``batch["label"]`` int64 ``(B,)``; where there are targets, ``batch["target"]`` float32 ``(B,)``. It is made
    by :func:`counterpoint.data.load`.

    Attributes:
        name: short name for reports.
        modality: ``"image"`` or ``"vector"``.
        shape: of one item, ``(C, H, W)`` or ``(F,)``.
        labels: int64 ``(N,)``, ``-1`` where an item has none; ``None`` where no item has one.
        classes: the name of each label, or ``None``.
        targets: float64 ``(N,)``, a quantity in its own unit, NaN where an item has none; ``None`` without a target.
        ids: path (relative to the source) or row of each item.
        given: ``(N,)`` of ``"train"``, ``"val"``, ``"test"`` where the source comes split, or ``None``.
        skipped: ``(id, reason)`` of what could not be read.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        *,
        ids: Sequence[str],
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        given: np.ndarray | None = None,
        skipped: list[tuple[str, str]] | None = None,
        root: str | None = None,
        at: np.ndarray | None = None,
        targets: np.ndarray | None = None,
    ):
        self.name = name
        self.modality = "image" if len(rows.shape) == 3 else "vector"
        self.shape = rows.shape
        self.labels, self.classes, self.targets = labels, classes, targets
        self.ids, self.given = ids, given
        self.skipped = skipped or []
        self._rows, self._at, self._root = rows, at, root

    def __len__(self) -> int:
        return len(self._rows) if self._at is None else len(self._at)

    def __getitem__(self, indices: Indices) -> Batch:
        """Read the items at ``indices``, ``(B,)``: integers, a boolean mask ``(N,)``, a slice, or one integer (B=1).

        Raises:
            IndexError: an index outside the dataset, or indices that are not integers.
        """
        index = self._positions(indices)
        rows = index if self._at is None else self._at[index]
        batch = {self.modality: torch.from_numpy(self._rows.take(rows)), "index": torch.from_numpy(index)}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[index])
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[index].astype(np.float32))
        return batch

    def _positions(self, indices: Indices) -> np.ndarray:
        if isinstance(indices, slice):
            return np.arange(*indices.indices(len(self)), dtype=np.int64)
        index = np.atleast_1d(np.asarray(indices))
        if index.dtype == bool and len(index) == len(self):
            return np.flatnonzero(index).astype(np.int64)
        if index.size == 0:
            return np.zeros(0, dtype=np.int64)
        if index.dtype.kind not in "iu" or index.ndim != 1:
            raise IndexError(f"indices: expected integers of shape (B,), got {index.dtype} of shape {index.shape}.")
        if index.min() < -len(self) or index.max() >= len(self):
            raise IndexError(f"indices: {index.min()}..{index.max()} leave the {len(self)} items of {self.name!r}.")
        return np.where(index < 0, index + len(self), index).astype(np.int64)

    def subset(self, indices: Indices) -> Dataset:
        """The items at ``indices`` as a dataset of their own, with its own positions; no data is copied."""
        index = self._positions(indices)
        return Dataset(
            self.name,
            self._rows,
            ids=self.ids.take(index) if isinstance(self.ids, Names) else [self.ids[int(i)] for i in index],
            labels=None if self.labels is None else self.labels[index],
            classes=self.classes,
            given=None if self.given is None else self.given[index],
            skipped=self.skipped,
            root=self._root,
            at=index if self._at is None else self._at[index],
            targets=None if self.targets is None else self.targets[index],
        )

    def path(self, i: int) -> Path | None:
        """The file of item ``i``, where items are files."""
        return None if self._root is None else Path(self._root, self.ids[i])

    def thumbnail(self, i: int) -> np.ndarray:
        """Item ``i`` as a uint8 ``(H, W, 3)`` picture, ready for PIL or a figure.

        Raises:
            ValueError: the items are not images.
        """
        if self.modality != "image":
            raise ValueError(f"thumbnail: the items of {self.name!r} are vectors {self.shape}, not images.")
        picture = self[int(i)]["image"][0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))

    def __repr__(self) -> str:
        kind = "x".join(map(str, self.shape))
        labels = "no labels" if self.labels is None else f"{len(self.classes or [])} classes"
        if self.targets is not None:
            span = f"targets from {np.nanmin(self.targets):g} to {np.nanmax(self.targets):g}"
            labels = span if self.labels is None else f"{labels}, {span}"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"<Dataset {self.name}: {len(self):,} {self.modality}s of {kind}, {labels}{skipped}>"
