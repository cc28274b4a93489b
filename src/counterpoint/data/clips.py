"""Clips: items that are several pictures in a row, as a list of them, a folder of frames, or an animation.

What Pillow reads as an animation (GIF, WebP, APNG, TIFF of several pages) is one; a film (MP4, WebM) has to be cut into
frames first, for which no package is a part of this one. Every clip becomes T frames, spread evenly over it; one of
fewer repeats some, so that a batch is one array. Pictures are decoded into the cache as those of any image column, each
once.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import arrays
from counterpoint.data import cache as keeping
from counterpoint.data.dataset import Dataset, Names, Rows
from counterpoint.data.images import ENDINGS, Frame, Item, frames
from counterpoint.data.packing import Found

FRAMES = 16  # of a clip, as CoCa takes them of a video for retrieval (arXiv 2205.01917)
_FILMS = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"))


class Clips:
    """N clips of T frames each, whose pictures lie among those of ``rows``.

    Args:
        rows: pictures (C, H, W).
        at: int64 (N, T), which of them the frames of a clip are.
    """

    def __init__(self, rows: Rows, at: np.ndarray) -> None:
        self._rows, self._at = rows, at

    def __len__(self) -> int:
        return len(self._at)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one clip, (T, C, H, W)."""
        return (self._at.shape[1], *self._rows.shape)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Clips (B,) as a fresh uint8 (B, T, C, H, W) array."""
        found = self._rows.take(self._at[rows].reshape(-1))
        return found.reshape(len(rows), *self.shape)


def spread(count: int, frames: int) -> np.ndarray:
    """int64 (frames,): positions spread evenly over ``count`` of them, the middles of as many equal stretches."""
    return ((np.arange(frames) + 0.5) * count / frames).astype(np.int64)


def of_arrays(key: str, values: Sequence[Any], frames: int | None = None) -> Clips:
    """Clips of arrays (T, H, W), (T, H, W, C) or (T, C, H, W) of pictures, of any T.

    Args:
        key: for errors.
        values: N of them.
        frames: T of what comes out; by default that of the longest, up to :data:`FRAMES`.

    Raises:
        ValueError: values that are no pictures, or of several sizes.
    """
    clips = [np.asarray(value) for value in values]
    if any(clip.ndim not in (3, 4) or not len(clip) for clip in clips) or len({clip.shape[1:] for clip in clips}) > 1:
        told = sorted({str(clip.shape) for clip in clips})[:4]
        raise ValueError(
            f"modalities: expected clips (T, H, W), (T, H, W, C) or (T, C, H, W) of one size for {key!r}, got "
            f"{', '.join(told)}"
        )
    counts = [len(clip) for clip in clips]
    chosen = _chosen(counts, frames)
    kept = [clip[np.unique(at)] for clip, at in zip(clips, chosen, strict=True)]
    return Clips(arrays.rows_of(np.concatenate(kept)), _places(chosen))


def of_cells(
    cells: Callable[[], Iterator[tuple[Any, Path]]],
    name: str,
    fingerprint: str,
    pack: Callable[[Found], Dataset],
    frames: int | None,
) -> tuple[Clips | None, np.ndarray, list[tuple[int, str]]]:
    """Clips of the cells of a column; see :func:`pictures` for what a cell may hold.

    Args:
        cells: starts an iterator over each cell, ``None`` where it is empty, and the folder that its paths are relative
            to.
        name: of the column.
        fingerprint: changes when the table does.
        pack: decodes what was found.
        frames: T; by default that of the longest clip, up to :data:`FRAMES`.

    Returns:
        the clips, ``None`` without any; int64 (N,), which of them an item's is, -1 for none; and (row, reason) of those
        that cannot be read.
    """
    counts: list[int] = []
    skipped: list[tuple[int, str]] = []
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for row, (cell, base) in enumerate(cells()):
        counts.append(0)
        if cell is None:
            continue
        try:
            found = pictures(cell, base)
            counts[-1] = len(found)
            for path in dict.fromkeys(_path(item) for item in found):
                digest.update(f"{keeping.mark(Path(path)) if path else ''}\n".encode("utf-8", "surrogateescape"))
        except (ValueError, OSError, SyntaxError) as error:
            counts[-1] = 0
            skipped.append((row, f"{type(error).__name__}: {error}"[:200]))
    whole = np.flatnonzero(counts)
    if not len(whole):
        return None, np.full(len(counts), -1, dtype=np.int64), skipped
    chosen = _chosen([counts[row] for row in whole], frames)
    wanted = dict(zip(whole.tolist(), chosen, strict=True))

    def read() -> Iterator[Item]:
        for row, (cell, base) in enumerate(cells()):
            if row in wanted:
                found = pictures(cell, base)
                yield from (found[at] for at in np.unique(wanted[row]))

    names = [f"row {row}, frame {at}" for row, some in wanted.items() for at in np.unique(some)]
    dataset = pack(Found(name, Names.of(names), read, f"clips {name} {digest.hexdigest()}"))
    return _kept(chosen, names, dataset, whole, len(counts), skipped)


def _kept(
    chosen: list[np.ndarray],
    names: list[str],
    dataset: Dataset,
    whole: np.ndarray,
    count: int,
    skipped: list[tuple[int, str]],
) -> tuple[Clips | None, np.ndarray, list[tuple[int, str]]]:
    """The clips with what could be decoded: for a frame that could not, its nearest neighbour."""
    there = {name: at for at, name in enumerate(dataset.ids)}
    number = np.array([there.get(name, -1) for name in names], dtype=np.int64)
    places = _places(chosen)
    clips: list[np.ndarray] = []
    at = np.full(count, -1, dtype=np.int64)
    for row, place in zip(whole, places, strict=True):
        kept = np.unique(place[number[place] >= 0])
        if not len(kept):
            skipped.append((int(row), "none of its frames can be read"))
            continue
        at[row] = len(clips)
        clips.append(number[kept[np.abs(kept[None] - place[:, None]).argmin(1)]])
    rows = {int(re.findall(r"\d+", name)[0]) for name, _ in dataset.skipped} - {row for row, _ in skipped}
    skipped += [(row, "a frame cannot be read; its neighbour stands in its place") for row in sorted(rows)]
    return Clips(dataset._rows, np.stack(clips)) if clips else None, at, skipped


def _chosen(counts: Sequence[int], frames: int | None) -> list[np.ndarray]:
    """The frames (T,) that are taken of clips of so many."""
    length = min(FRAMES, max(counts)) if frames is None else frames
    return [spread(count, length) for count in counts]


def _places(chosen: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (N, T): where frames lie when those that are taken stand one after the other, each once."""
    found, start = [], 0
    for at in chosen:
        kept, place = np.unique(at, return_inverse=True)
        found.append(start + place.reshape(-1))
        start += len(kept)
    return np.stack(found)


def pictures(cell: Any, base: Path) -> list[Item]:
    """The pictures that a cell of a table stands for, none of them decoded.

    Args:
        cell: a list of pictures, each a path, bytes, or ``{"bytes", "path"}``; or one of these by itself, which is then
            an animation, or the path of a folder of pictures, whose names say their order, 2 before 10.
        base: what paths are relative to.

    Raises:
        ValueError: a list or a folder without a picture, or a film.
        OSError: a path where there is nothing, or a file that Pillow cannot open.
    """
    if isinstance(cell, list | tuple | np.ndarray):
        found = [_source(each, base) for each in cell]
        if not found:
            raise ValueError("no frame in the list")
        return found
    source = _source(cell, base)
    if isinstance(source, str) and os.path.isdir(source):
        listed = sorted((file for file in os.listdir(source) if file[:1] != "."), key=_natural)
        within: list[Item] = [os.path.join(source, file) for file in listed if Path(file).suffix.lower() in ENDINGS]
        if not within:
            raise ValueError(f"no picture in the folder {os.path.basename(source)}")
        return within
    if isinstance(source, str) and Path(source).suffix.lower() in _FILMS:
        raise ValueError(
            f"{os.path.basename(source)} is a film, which Pillow does not read; cut it into a folder of pictures, or "
            "make a GIF or WebP of it"
        )
    return [Frame(source, at) for at in range(frames(source))]


def _source(value: Any, base: Path) -> Any:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return os.path.join(base, value)
    return value or None


def _path(item: Item) -> str | None:
    source = item.source if isinstance(item, Frame) else item
    return source if isinstance(source, str) else None


def _natural(name: str) -> list[Any]:
    """A key by which numbers within names count as numbers."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", name.lower())]
