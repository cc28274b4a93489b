"""Items of several modalities: pairs of image and text, triples with sound, tables measured three ways.

A :class:`MultimodalDataset` is a :class:`~counterpoint.data.Dataset` whose batches hold one entry per modality, by its
name, and ``batch["present"]``, which says of each modality which items have it: any may be missing anywhere.
:func:`pair` makes one of arrays and lists in Python; :func:`counterpoint.data.load` of columns of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import arrays, clips
from counterpoint.data.clips import Clips
from counterpoint.data.dataset import Dataset, Indices, Names, Rows

KINDS = ("image", "text", "audio", "signal", "vector", "video")
PRESENT = "present"
RESERVED = (PRESENT, "index", "label", "target", "views", "group", "is_generated")
_SIGNALS = ("audio", "signal")
Caption: TypeAlias = "str | tuple[str, ...]"


class Texts:
    """Texts of N items in one block of UTF-8, of each item one or several.

    Args:
        names: all texts, item after item.
        ends: int64 (N,), where each item's end; ``None``: one text an item.
    """

    shape = ()

    def __init__(self, names: Names, ends: np.ndarray | None = None):
        self._names, self._ends = names, ends

    @classmethod
    def of(cls, values: Sequence[str | Sequence[str]]) -> Texts:
        """Pack texts; where any item has several, every item gives a tuple."""
        if all(isinstance(value, str) for value in values):
            return cls(Names.of(map(str, values)))
        each = [(value,) if isinstance(value, str) else tuple(value) for value in values]
        ends = np.cumsum([len(some) for some in each], dtype=np.int64)
        return cls(Names.of(text for some in each for text in some), ends)

    def __len__(self) -> int:
        return len(self._names) if self._ends is None else len(self._ends)

    def take(self, rows: np.ndarray) -> list[Caption]:
        """The texts of items ``rows`` (B,): strings, or tuples where items may have several."""
        if self._ends is None:
            return [self._names[int(row)] for row in rows]
        starts = np.concatenate([[0], self._ends[:-1]])
        return [tuple(self._names[int(starts[row]) : int(self._ends[row])]) for row in rows]


@dataclass(frozen=True)
class Part:
    """One modality of N items.

    Args:
        kind: one of :data:`KINDS`.
        rows: where the M <= N values lie.
        at: int64 (N,), which of them is an item's; -1: it has none.
        rate: samples a second, of audio.
    """

    kind: str
    rows: Rows | Clips | Texts
    at: np.ndarray
    rate: int | None = None

    def take(self, index: np.ndarray) -> tuple[Any, np.ndarray]:
        """Values of items (B,), zeros or empty text where they are missing, and bool (B,): which are there."""
        at = self.at[index]
        there = at >= 0
        if isinstance(self.rows, Texts):
            blank: Any = () if self.rows._ends is not None else ""
            found = self.rows.take(np.maximum(at, 0)) if len(self.rows) else [blank] * len(at)
            return [text if has else blank for text, has in zip(found, there, strict=True)], there
        values = self.rows.take(np.maximum(at, 0))
        if not there.all():
            values[~there] = 0
        return torch.from_numpy(values), there


class MultimodalDataset(Dataset):
    """Items that are given in several modalities, each of which any of them may lack.

    ``dataset[indices]`` holds, by the name of each modality, uint8 ``(B, C, H, W)`` of images, ``(B, T, C, H, W)`` of
    videos, float32 ``(B, F)`` of vectors, ``(B, C, T)`` of signals and audio, and for texts a list of B strings (of
    tuples of strings where items may have several); ``batch["present"]``, a dict of bool ``(B,)``; and index, label
    and target as of any dataset. What is missing is zero, or the empty text.

    Attributes:
        kinds: the kind of each modality, one of :data:`KINDS`.
        shapes: of one item in each; ``()`` for texts.
        rates: samples a second of each audio modality.
        modality: ``"multimodal"``; the rest is as of :class:`~counterpoint.data.Dataset`.

    Raises:
        ValueError: no modality, a name that batches use otherwise, lengths that differ, or a modality that no item has.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Part],
        *,
        ids: Sequence[str],
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        given: np.ndarray | None = None,
        skipped: list[tuple[str, str]] | None = None,
        targets: np.ndarray | None = None,
    ):
        if not parts:
            raise ValueError("modalities: none given")
        for key, part in parts.items():
            if key in RESERVED or not key.isidentifier() or hasattr(torch.nn.ModuleDict, key):
                raise ValueError(f"modalities: {key!r} cannot be a name; choose another, of letters, digits and _")
            if len(part.at) != len(ids):
                raise ValueError(f"modalities: {key!r} has {len(part.at)} items and there are {len(ids)}")
        self.name, self.modality, self.shape = name, "multimodal", ()
        self.labels, self.classes, self.targets = labels, classes, targets
        self.ids, self.given, self.skipped = ids, given, skipped or []
        self.parts = dict(parts)
        self.kinds = {key: part.kind for key, part in parts.items()}
        self.shapes = {key: tuple(part.rows.shape) for key, part in parts.items()}
        self.rates = {key: part.rate for key, part in parts.items() if part.rate is not None}
        self._root = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, indices: Indices) -> dict[str, Any]:
        index = self._positions(indices)
        batch: dict[str, Any] = {}
        present = {}
        for key, part in self.parts.items():
            batch[key], there = part.take(index)
            present[key] = torch.from_numpy(there)
        batch |= {PRESENT: present, "index": torch.from_numpy(index)}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[index])
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[index].astype(np.float32))
        return batch

    def present(self, key: str) -> np.ndarray:
        """Bool (N,): which items have the modality."""
        return np.asarray(self.parts[key].at >= 0)

    def texts(self, key: str) -> list[str]:
        """The first text of every item, the empty one where it has none; all N in memory."""
        part = self.parts[key]
        if part.kind != "text":
            raise ValueError(f"texts: {key!r} holds {part.kind}s, no texts")
        return [first_text(value) for value in part.take(np.arange(len(self)))[0]]

    def all_texts(self, key: str) -> list[str]:
        """Every text of every item that has any, item after item; all in memory."""
        part = self.parts[key]
        if part.kind != "text":
            raise ValueError(f"all_texts: {key!r} holds {part.kind}s, no texts")
        values, there = part.take(np.arange(len(self)))
        each = [value for value, has in zip(values, there, strict=True) if has]
        return [text for value in each for text in ((value,) if isinstance(value, str) else value)]

    def subset(self, indices: Indices) -> MultimodalDataset:
        index = self._positions(indices)
        return MultimodalDataset(
            self.name,
            {key: Part(part.kind, part.rows, part.at[index], part.rate) for key, part in self.parts.items()},
            ids=self.ids.take(index) if isinstance(self.ids, Names) else [self.ids[int(i)] for i in index],
            labels=None if self.labels is None else self.labels[index],
            classes=self.classes,
            given=None if self.given is None else self.given[index],
            skipped=self.skipped,
            targets=None if self.targets is None else self.targets[index],
        )

    def named(self, kind: str) -> str | None:
        """The first modality of a kind, or ``None``."""
        return next((key for key, value in self.kinds.items() if value == kind), None)

    def thumbnail(self, i: int) -> np.ndarray:
        key = self.named("image") or self.named("video")
        if key is None:
            raise ValueError(f"thumbnail: {self.name!r} has no images, only {', '.join(self.kinds.values())}.")
        item = self[int(i)][key][0]
        picture = (item if item.ndim == 3 else item[len(item) // 2]).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))

    def __repr__(self) -> str:
        told = []
        for key, part in self.parts.items():
            shape = "x".join(map(str, part.rows.shape))
            lacking = int((part.at < 0).sum())
            missing = f", {lacking:,} missing" if lacking else ""
            told.append(f"{key} ({part.kind}{f' of {shape}' if shape else ''}{missing})")
        labels = "no labels" if self.labels is None else f"{len(self.classes or [])} classes"
        return f"<MultimodalDataset {self.name}: {len(self):,} items, {', '.join(told)}, {labels}>"


def as_taken(kind: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The modality and the shape that an encoder of a modality takes: sound is a signal, a video is its pictures."""
    return {"audio": "signal", "video": "image"}.get(kind, kind), shape[1:] if kind == "video" else shape


def first_text(value: Caption) -> str:
    """A text itself, or the first of several; the empty text of none."""
    return value if isinstance(value, str) else (value[0] if value else "")


def pair(
    modalities: Mapping[str, Any],
    labels: Any = None,
    *,
    classes: Sequence[str] | None = None,
    targets: Any = None,
    given: Sequence[str] | np.ndarray | None = None,
    name: str = "pairs",
    kinds: Mapping[str, str] | None = None,
    rates: Mapping[str, int] | None = None,
) -> MultimodalDataset:
    """Put what belongs together item by item into one dataset.

    Args:
        modalities: by name, N values each: an array (N, F) of vectors, (N, H, W), (N, H, W, C) or (N, C, H, W) of
            images, (N, T) or (N, C, T) of signals, (N, T, H, W, C) or (N, T, C, H, W) of videos, which may also be a
            list of N arrays (T, ...), of which up to 16 frames are taken; a list of N strings, or of N lists of
            strings, for texts; a :class:`~counterpoint.data.Dataset` of N items. A list may hold ``None`` for an item
            that lacks it, and so may a row of NaN alone.
        labels: (N,) strings or integers, or none.
        classes: names of the labels, where these are numbers from 0.
        targets: (N,) numbers, NaN where missing.
        given: (N,) of train, val, test.
        name: short name for reports.
        kinds: what the values are where their shape leaves it open: a modality called audio or signal holds signals,
            another array is of vectors or images, and one (N, T, H, W) of videos has to be called so.
        rates: samples a second of audio modalities.

    Raises:
        ValueError: different numbers of items, values of no known kind, or one that every item lacks.
    """
    kinds, rates = dict(kinds or {}), dict(rates or {})
    for of, what in ((kinds, "kinds"), (rates, "rates")):
        for key in of:
            if key not in modalities:
                raise ValueError(f"{what}: there is no modality {key!r}; there are {', '.join(modalities)}")
    parts = {key: part_of(key, value, kinds.get(key), rates.get(key)) for key, value in modalities.items()}
    counts = {key: len(part.at) for key, part in parts.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"modalities: expected as many items in each, got {counts}; None stands for a missing one")
    count = next(iter(counts.values()), 0)
    numbers, found = (None, None) if labels is None else arrays.checked_labels(labels, count)
    if numbers is not None and classes is not None:
        if found and (not all(word.isdecimal() for word in found) or max(map(int, found)) >= len(classes)):
            raise ValueError(f"classes: {len(classes)} names for the labels {', '.join(found[:6])}")
        known = np.array([int(word) for word in found or []], dtype=np.int64)
        numbers = np.where(numbers >= 0, known[np.maximum(numbers, 0)], -1)
        found = [str(word) for word in classes]
    splits = None if given is None else np.asarray(given, dtype="U5")
    if splits is not None and (splits.shape != (count,) or not set(splits.tolist()) <= {"train", "val", "test"}):
        raise ValueError(f"given: expected ({count},) of 'train', 'val', 'test'")
    return MultimodalDataset(
        name,
        parts,
        ids=Names.of(map(str, range(count))),
        labels=numbers,
        classes=found,
        given=splits,
        targets=None if targets is None else arrays.checked_targets(targets, count),
    )


def part_of(key: str, value: Any, kind: str | None = None, rate: int | None = None) -> Part:
    """One modality from an array, a list or a dataset; see :func:`pair`."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kinds: expected one of {', '.join(KINDS)} for {key!r}, got {kind!r}")
    if isinstance(value, Dataset):
        if isinstance(value, MultimodalDataset):
            raise ValueError(f"modalities: {key!r} is a dataset of several modalities; give one of its columns")
        at = np.arange(len(value)) if value._at is None else value._at
        return Part(value.modality, value._rows, np.asarray(at, dtype=np.int64))
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if kind == "video" or (isinstance(value, np.ndarray) and value.ndim == 5):
        filled = [each for each in value if not _is_missing(each)]
        there = np.array([not _is_missing(each) for each in value], dtype=bool)
        _some(key, there)
        longest = None if isinstance(value, list | tuple) else max(map(len, filled))
        return Part("video", clips.of_arrays(key, filled, longest), _places(there))
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return _numeric(key, value, kind, rate)
    values = list(value)
    there = np.array([not _is_missing(each) for each in values], dtype=bool)
    _some(key, there)
    filled = [each for each, has in zip(values, there, strict=True) if has]
    if all(_is_text(each) for each in filled):
        if kind not in (None, "text"):
            raise ValueError(f"modalities: {key!r} holds texts, not {kind}s")
        return Part("text", Texts.of(filled), _places(there))
    shapes = {np.shape(each) for each in filled}
    if len(shapes) > 1:
        raise ValueError(f"modalities: the values of {key!r} differ in shape: {sorted(map(str, shapes))[:4]}")
    part = _numeric(key, np.stack([np.asarray(each) for each in filled]), kind, rate)
    return Part(part.kind, part.rows, np.where(there, part.at[np.cumsum(there) - 1], -1), rate)


def _numeric(key: str, array: np.ndarray, kind: str | None, rate: int | None) -> Part:
    kind = kind or (key if key in _SIGNALS else None)
    flat = array.reshape(len(array), -1)
    there = ~np.isnan(flat).all(axis=1) if array.dtype.kind == "f" else np.ones(len(array), dtype=bool)
    _some(key, there)
    kept = array if there.all() else array[there]
    try:
        if kind in _SIGNALS:
            return Part(str(kind), signal_rows(kept), _places(there), rate)
        rows = arrays.rows_of(kept)
    except ValueError as error:
        raise ValueError(f"modalities: {key!r}: {str(error).removeprefix('source: ')}") from error
    found = "image" if len(rows.shape) == 3 else "vector"
    if kind not in (None, found):
        raise ValueError(f"modalities: {key!r} holds {found}s by its shape {array.shape}, not {kind}s")
    return Part(found, rows, _places(there))


def signal_rows(array: np.ndarray) -> Rows:
    """Signals (N, T) or (N, C, T) as rows of (C, T).

    Raises:
        ValueError: another shape, or NaN and Inf.
    """
    array = array[:, None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"source: expected signals (N, T) or (N, C, T), got shape {array.shape}")
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1) if array.dtype.kind == "f" else np.zeros(1, bool)
    if bad.any():
        raise ValueError(arrays.not_finite(int(bad.sum()), len(array), int(bad.argmax())))
    return Rows(array, "signal")


def _places(there: np.ndarray) -> np.ndarray:
    """int64 (N,): the number of each item among those that are there, -1 for the others."""
    return np.where(there, np.cumsum(there) - 1, -1)


def _some(key: str, there: np.ndarray) -> None:
    if not there.any():
        raise ValueError(f"modalities: {key!r} is missing in all {len(there)} items")


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple) and (not value or all(isinstance(each, str) for each in value)):
        return not any(each.strip() for each in value)
    return isinstance(value, float) and value != value


def _is_text(value: Any) -> bool:
    several = isinstance(value, list | tuple | np.ndarray) and all(isinstance(each, str) for each in value)
    return isinstance(value, str) or several
