"""Generated items beside real ones: data inflation (Wang, Zhang & Wang, ICLR 2024, arXiv 2403.12448).

A generator trained on the same data supplies as many more items as one likes. They help a method that learns without
labels if the real ones keep enough weight, which they do by being drawn more often; where an epoch draws each of ``n``
real items ``N`` times and each of ``M`` generated ones once, the share of real items is ``beta = N n / (N n + M)``.

Nothing is copied: an item drawn ten times is one row whose position occurs ten times in :attr:`InflatedDataset.order`,
and generated images are read from where they lie.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from counterpoint.data.dataset import Batch, Dataset, Indices
from counterpoint.data.sources import load

REPEATS = 10  # of the authors' main results: 50,000 images ten times beside a million generated ones
NOTE = "generated.json"  # what a folder of generated items says of itself


class InflatedDataset(Dataset):
    """Real items, then generated ones, as one data set; how often each is drawn is a matter of :attr:`order`.

    ``dataset[indices]`` is a batch as of any data set, with one key more: ``batch["is_generated"]`` bool (B,).
    Positions ``0 .. n-1`` are the real items, the same that they have in ``real``, and ``n .. n+M-1`` the generated
    ones. So an item has one ``batch["index"]`` however often it is drawn, and state per item is state per image.
    Generated items have the label -1 and, where the real ones have targets, the target NaN.

    Args:
        real: ``n`` items; ``None`` is none at all.
        generated: ``M`` items of the same modality and shape (:func:`open_generated` brings them to it); ``None`` is
            none at all. Their labels, if they have some, are not looked at.
        real_repeats: N, how often a real item is drawn while each generated one is drawn once. 10, the paper's; 1 is
            what it calls vanilla inflation. Without generated items it has no say: the data are then the real ones.
        train: positions in ``real`` that may be drawn; all by default. The others can be read and are never drawn.

    Attributes:
        beta: share of real items among those drawn, ``N n / (N n + M)`` with the n of ``train``.
        is_generated: bool ``(n + M,)``.
        order: int64 ``(N n + M,)``: the positions that an epoch draws, the real ones N times over, then the generated
            ones: what a sampler shuffles. :class:`~counterpoint.data.EpochSampler` keeps repetitions apart, so that an
            image hardly meets itself in a batch, where it would be its own negative. (The official code shuffles
            without regard to that; on 50,000 images it makes no difference, on 500 it does.)

    Raises:
        ValueError: no item at all, items that differ in modality or shape, or ``real_repeats`` below 1.
    """

    def __init__(
        self,
        real: Dataset | None,
        generated: Dataset | None,
        real_repeats: int = REPEATS,
        train: np.ndarray | None = None,
    ):
        if isinstance(real_repeats, bool) or not isinstance(real_repeats, int | np.integer) or real_repeats < 1:
            raise ValueError(f"real_repeats: expected a whole number of at least 1, got {real_repeats!r}.")
        self.n_real, self.n_generated = (0 if part is None else len(part) for part in (real, generated))
        first = real if real is not None and len(real) else generated
        if first is None or not self.n_real + self.n_generated:
            raise ValueError("real, generated: both are empty, and so there is nothing to learn from.")
        if self.n_real and self.n_generated:
            assert real is not None
            assert generated is not None
            _check_alike(real, generated)
        self._parts = real, generated
        self.name, self.modality, self.shape = first.name, first.modality, first.shape
        self.labels = None
        if real is not None and real.labels is not None:
            self.labels = np.append(real.labels, np.full(self.n_generated, -1, np.int64))
        self.targets = None
        if real is not None and real.targets is not None:
            self.targets = np.append(real.targets, np.full(self.n_generated, np.nan))
        self.classes = None if real is None else real.classes
        self.ids = _Joined([part.ids for part in self._parts if part is not None])
        self.given = None
        self.skipped = [pair for part in self._parts if part is not None for pair in part.skipped]
        self.is_generated = np.arange(len(self)) >= self.n_real
        self.real_repeats = int(real_repeats) if self.n_generated else 1
        self.train = np.arange(self.n_real) if train is None else np.asarray(train, dtype=np.int64)
        if len(self.train) and not 0 <= self.train.min() <= self.train.max() < self.n_real:
            raise ValueError(f"train: expected positions of the {self.n_real} real items, 0 to {self.n_real - 1}.")

    @property
    def beta(self) -> float:
        """Share of real items among those drawn."""
        real = self.real_repeats * len(self.train)
        return real / (real + self.n_generated)

    @property
    def order(self) -> np.ndarray:
        """Positions that an epoch draws, ``(N n + M,)``."""
        return np.append(np.tile(self.train, self.real_repeats), np.flatnonzero(self.is_generated))

    def __len__(self) -> int:
        return self.n_real + self.n_generated

    def __getitem__(self, indices: Indices) -> Batch:
        """Read the items at ``indices``, as :class:`Dataset` does."""
        index = self._positions(indices)
        fake = self.is_generated[index]
        real, generated = self._parts
        if not fake.any() and real is not None:
            rows = real[index][self.modality]
        elif fake.all() and generated is not None:
            rows = generated[index - self.n_real][self.modality]
        else:
            assert real is not None
            assert generated is not None
            rows = torch.empty(len(index), *self.shape, dtype=torch.uint8 if self.modality == "image" else None)
            rows[torch.from_numpy(~fake)] = real[index[~fake]][self.modality]
            rows[torch.from_numpy(fake)] = generated[index[fake] - self.n_real][self.modality]
        batch = {self.modality: rows, "index": torch.from_numpy(index), "is_generated": torch.from_numpy(fake)}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[index])
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[index].astype(np.float32))
        return batch

    def subset(self, indices: Indices) -> Dataset:
        """Items at ``indices``, where all are real or all generated."""
        index = self._positions(indices)
        fake = self.is_generated[index]
        if fake.any() != fake.all():
            raise ValueError("indices: a part of an inflated data set is either of real or of generated items.")
        part = self._parts[int(fake.any())]
        assert part is not None
        return part.subset(index - self.n_real * int(fake.any()))

    def path(self, i: int) -> Path | None:
        """The file of item ``i``, where items are files."""
        part = self._parts[int(self.is_generated[i])]
        return None if part is None else part.path(i - self.n_real * int(self.is_generated[i]))


def _check_alike(real: Dataset, generated: Dataset) -> None:
    if (generated.modality, generated.shape) != (real.modality, real.shape):
        raise ValueError(
            f"generated: its items are {generated.modality}s of {tuple(generated.shape)} and the real ones "
            f"{real.modality}s of {tuple(real.shape)}; open_generated brings images to the size of the real ones."
        )


def open_generated(
    source: Any,
    real: Dataset,
    *,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Open generated items as :func:`~counterpoint.data.load` opens any, in the form of the real ones.

    Images of another size are resized and cut by the reader that ``image_size`` uses, colours become grey where the
    real images are grey, and grey ones get three equal channels where they are not. Channels are taken in the order
    red, green, blue (the authors' reader leaves its pictures in OpenCV's order, blue first, beside real ones that are
    not). Labels that come along are left aside.

    Args:
        source: a folder that ``counterpoint generate`` wrote; whatever :func:`~counterpoint.data.load` takes; or a
            Dataset.
        real: what they stand beside.
        limit: take at most so many, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        cache: where decoded images are kept.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: too many cannot be read; vectors beside images, or of another width.
    """
    if isinstance(source, Dataset):
        found = load(source, limit=limit)
    else:
        wanted: dict[str, Any] = {}
        if real.modality == "image":
            wanted = {"image_size": (real.shape[1], real.shape[2]), "channels": real.shape[0]}
        place = items_of(source)
        labels = "none" if isinstance(place, str | os.PathLike) else None
        try:
            found = load(place, labels=labels, limit=limit, max_corrupt=max_corrupt, cache=cache, **wanted)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"generated: {error}") from error
    _check_alike(real, found)
    return found


def items_of(source: Any) -> Any:
    """Where the items of a folder that ``counterpoint generate`` wrote lie; any other source as it is.

    Raises:
        ValueError: the folder holds a generator that has not finished.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    folder = Path(source).expanduser()
    if (folder / NOTE).exists():
        return folder / json.loads((folder / NOTE).read_text("utf-8"))["items"]
    if (folder / "generator").is_dir():
        raise ValueError(f"generated: {folder} is not finished; go on with counterpoint generate and --resume true")
    return source


class _Joined(Sequence[str]):
    """Names one after the other, without copying any."""

    def __init__(self, parts: Sequence[Sequence[str]]):
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        for part in self._parts:
            if at < len(part):
                return part[at]
            at -= len(part)
        raise IndexError(index)
