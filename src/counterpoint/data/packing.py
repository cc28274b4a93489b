"""Decode once, read for ever: images as one memory-mapped array in a cache folder.

Decoding a JPEG takes a hundred times as long as copying its pixels, and training reads every image hundreds of times.
So a source of images is decoded once, in parallel threads and in bounded memory, into one uint8 ``.npy`` file. The name
of the cache entry is a hash of what the source held (paths, sizes, times) and of the settings: a changed folder is
packed anew, and a packing that was killed half-way counts as none (:mod:`counterpoint.data.cache`).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from counterpoint.data import cache as keeping
from counterpoint.data.dataset import Dataset, Names, Rows
from counterpoint.data.images import Item, decode, look
from counterpoint.files import atomic

_CHUNK = 256  # images in memory at a time
_NATIVE = 64  # images that are all of one size up to this keep it; others are brought to it


@dataclass(frozen=True)
class Found:
    """A source of images that has been listed but not decoded.

    Attributes:
        name: short name.
        ids: ``N`` of them.
        read: starts an iterator over the ``N`` encoded images, in order.
        fingerprint: changes when the images do.
        labels, classes, given, targets: as in :class:`~counterpoint.data.Dataset`.
        root: the folder that ``ids`` are relative to, where they are files.
    """

    name: str
    ids: Names
    read: Callable[[], Iterator[Item]]
    fingerprint: str
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    given: np.ndarray | None = None
    root: str | None = None
    targets: np.ndarray | None = None

    def without_labels(self) -> Found:
        """The same images, whatever they are called."""
        return replace(self, labels=None, classes=None)

    def limited(self, limit: int | None) -> Found:
        """At most ``limit`` of them, drawn evenly with a fixed seed, in their order."""
        rows = draw(len(self.ids), limit)
        if rows is None:
            return self
        kept = np.zeros(len(self.ids), dtype=bool)
        kept[rows] = True
        read = self.read
        return replace(
            self,
            ids=self.ids.take(rows),
            read=lambda: compress(read(), kept),
            fingerprint=f"{self.fingerprint}/{limit}",
            labels=None if self.labels is None else self.labels[rows],
            given=None if self.given is None else self.given[rows],
            targets=None if self.targets is None else self.targets[rows],
        )


def draw(size: int, limit: int | None) -> np.ndarray | None:
    """Sorted positions of ``limit`` out of ``size`` items, or None where that is all of them.

    Raises:
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}.")
    if limit is None or limit >= size:
        return None
    return np.sort(np.random.default_rng(0).permutation(size)[:limit])


def pack(
    found: Found,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    max_corrupt: float = 0.01,
) -> Dataset:
    """Decode what was found, or find it decoded, and give it as a dataset.

    Raises:
        ValueError: more than ``max_corrupt`` of the images cannot be read.
        OSError: the cache cannot be written to, or its disk is full; nothing of the attempt is left there.
    """
    size = _size(image_size)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels}.")
    if not 0 <= max_corrupt <= 1:
        raise ValueError(f"max_corrupt: expected a fraction from 0 to 1, got {max_corrupt}.")
    folder = keeping.entry(cache, found.name, found.fingerprint, size, channels)
    meta = keeping.read(folder)
    if meta is None:
        with keeping.making(folder) as meta:
            if not meta:
                meta["skipped"] = _fill(folder, found, size, channels, max_corrupt)
    skipped = [(name, reason) for name, reason in meta["skipped"]]
    _check(found, skipped, max_corrupt)
    kept = np.load(folder / "kept.npy", allow_pickle=False) if skipped else slice(None)
    return Dataset(
        found.name,
        Rows.open(folder / "images.npy", "chw"),
        ids=Names.open(folder / "ids.npy"),
        labels=None if found.labels is None else found.labels[kept],
        classes=found.classes,
        given=None if found.given is None else found.given[kept],
        skipped=skipped,
        root=found.root,
        targets=None if found.targets is None else found.targets[kept],
    )


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not (1 <= height <= 4096 and 1 <= width <= 4096):
        raise ValueError(f"image_size: expected pixels from 1 to 4096, got {image_size}.")
    return height, width


def _fill(
    folder: Path, found: Found, size: tuple[int, int] | None, channels: int | None, max_corrupt: float
) -> list[tuple[str, str]]:
    """Decode everything into ``folder``; returns what could not be."""
    count = len(found.ids)
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _progress() as progress:
        warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; what matters is listed as skipped
        if size is None or channels is None:
            size, channels = _settle(progress(_in_parallel(pool, look, found.read()), "looking", count), size, channels)
        keeping.check_room(folder, count * channels * size[0] * size[1])
        work = partial(decode, size=size, channels=channels)
        kept = np.ones(count, dtype=bool)
        skipped: list[tuple[str, str]] = []

        def decoded() -> Iterator[np.ndarray]:
            for i, (pixels, reason) in enumerate(progress(_in_parallel(pool, work, found.read()), "decoding", count)):
                if pixels is not None:
                    yield pixels[None]
                    continue
                kept[i] = False
                skipped.append((found.ids[i], reason))
                if len(skipped) > max_corrupt * count:
                    _check(found, skipped, max_corrupt)

        with atomic(folder / "images.npy") as file:
            write_rows(file, decoded(), (channels, *size), np.dtype(np.uint8))
    rows = np.flatnonzero(kept)
    with atomic(folder / "kept.npy") as file:
        np.save(file, rows, allow_pickle=False)
    (found.ids if not skipped else found.ids.take(rows)).save(folder / "ids.npy")
    return skipped


def write_rows(file: IO[bytes], blocks: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Write blocks ``(n, *shape)`` one after the other as a ``.npy`` file, and return how many rows there were."""

    def header(rows: int) -> int:
        described = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, described)
        return file.tell()

    rows, start = 0, header(0)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=dtype).data)
        rows += len(block)
    # NumPy pads the header so that the first axis can grow in place
    if header(rows) != start:
        raise RuntimeError(f"the .npy header of {rows} rows is longer than that of none")
    return rows


def _in_parallel(
    pool: ThreadPoolExecutor, work: Callable[[Item], Any], items: Iterator[Item]
) -> Iterator[tuple[Any, str]]:
    """``(result, "")`` or ``(None, reason)`` for each item in order, a chunk of them in memory at a time."""

    def attempt(item: Item) -> tuple[Any, str]:
        try:
            return work(item), ""
        # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"[:200]

    while chunk := list(islice(items, _CHUNK)):
        yield from pool.map(attempt, chunk)


def _settle(
    looks: Iterable[tuple[Any, str]], size: tuple[int, int] | None, channels: int | None
) -> tuple[tuple[int, int], int]:
    """The size and the number of channels that suit all images."""
    seen: set[tuple[int, int]] = set()
    grey = True
    for result, _ in looks:
        if result is not None:
            if len(seen) < 2:
                seen.add(result[:2])
            grey &= result[2]
    if size is None:
        only = next(iter(seen)) if len(seen) == 1 else (_NATIVE, _NATIVE)
        size = only if max(only) <= _NATIVE else (_NATIVE, _NATIVE)
    return size, channels or (1 if grey and seen else 3)


def _check(found: Found, skipped: list[Any], max_corrupt: float) -> None:
    count = len(found.ids)
    if len(skipped) <= max_corrupt * count and len(skipped) < count:
        return
    listed = "; ".join(f"{name} ({reason})" for name, reason in skipped[:3])
    raise ValueError(
        f"source: at least {len(skipped)} of the {count} images of {found.name!r} cannot be read, more than "
        f"max_corrupt={max_corrupt:g} allows: {listed}{' ...' if len(skipped) > 3 else ''}. "
        "Remove or replace them, or raise max_corrupt (a fraction)."
    )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Iterator[Any], str, int], Iterable[Any]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield lambda items, description, total: bar.track(items, total=total, description=description)
