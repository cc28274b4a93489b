"""From one word to a dataset: ``load`` looks at what the word names and hands it to the reader of that kind."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import arrays, builtin, columns, folders, hub, interleaved, modalities, tables, targets
from counterpoint.data import cache as keeping
from counterpoint.data.dataset import Dataset, Names, Rows
from counterpoint.data.labels import NO_LABELS
from counterpoint.data.multimodal import MultimodalDataset
from counterpoint.data.packing import Found, draw, pack, write_rows
from counterpoint.files import atomic

_IN_MEMORY = 64 << 20  # bytes on disk up to which a table of numbers or an .npz is simply read
_WAYS = (
    "a built-in name (" + ", ".join(builtin.names()) + "), a folder of images, a table "
    f"({' '.join(tables.TABLE_ENDINGS)}), an array (.npy .npz), a saved Hugging Face dataset, or hub:owner/name"
)


@dataclass(frozen=True)
class _Asked:
    """The settings of :func:`load`, on their way to the readers."""

    labels: str | None
    image: str | None
    features: Sequence[str] | None
    image_size: int | tuple[int, int] | None
    channels: int | None
    cache: str | os.PathLike[str] | None
    max_corrupt: float
    limit: int | None
    target: str | None = None
    parts: Mapping[str, modalities.Spec] = field(default_factory=dict)

    def pack(self, found: Found) -> Dataset:
        return pack(
            found.limited(self.limit),
            image_size=self.image_size,
            channels=self.channels,
            cache=self.cache,
            max_corrupt=self.max_corrupt,
        )

    def part(self, dataset: Dataset) -> Dataset:
        rows = draw(len(dataset), self.limit)
        return dataset if rows is None else dataset.subset(rows)

    @property
    def of_labels(self) -> bool:
        """Whether the target is the labels as numbers, in a source that has no columns to name.

        Raises:
            ValueError: another target is asked for.
        """
        if self.target not in (None, targets.OF_LABELS):
            raise ValueError(
                f"target: {self.target!r} names a column of a table, and this source has none. "
                f"Give {targets.OF_LABELS!r} to take its labels as numbers."
            )
        return self.target is not None


def load(
    source: Any,
    *,
    labels: str | None = None,
    image: str | None = None,
    features: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    root: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    max_corrupt: float = 0.01,
    download: bool = False,
    limit: int | None = None,
    target: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    signal: str | None = None,
    modalities: Mapping[str, Any] | None = None,
) -> Dataset:
    """Open the user's data.

    Args:
        source: ``"digits"``; ``"diabetes"``, which has a target; ``"cifar10"`` or ``"cifar10:/path"``; a folder of
            images or of tables; a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` table; a ``.npy`` or ``.npz`` array;
            a dataset saved by Hugging Face's ``save_to_disk``; documents with pictures in them, see
            :mod:`counterpoint.data.interleaved`; ``"hub:owner/name"``; a NumPy array, a torch tensor or
            an ``(X, y)`` pair, whose y are labels, or a target where they are fractions; a Dataset.
        labels: column (or ``.npz`` key) of the labels; by default one named label, labels, class, target or y, and in a
            folder of images the first sub-folder. ``"none"`` leaves labels aside.
        image: column (or key) of images: paths, bytes, or ``{"bytes", "path"}``.
        features: columns of numbers, which make a vector dataset; by default all numeric ones.
        image_size: pixels, one number or ``(H, W)``: the shorter side is resized and the centre cut out. By default the
            images' own size where all have one and it is at most 64, else 64.
        channels: 1 or 3; by default 1 where all images are grey.
        root: where a built-in dataset lies, where it is not found by itself.
        cache: where decoded images are kept; by default ``$XDG_CACHE_HOME/counterpoint`` or ``~/.cache/counterpoint``.
        max_corrupt: fraction of images that may be unreadable. They are skipped and listed in ``dataset.skipped``.
        download: allow a download; its size is stated first.
        limit: take at most so many items, drawn evenly over the source with a fixed seed.
        target: column (or ``.npz`` key) of a quantity to predict: one number an item, or none. It is no feature, and
            no label unless ``labels`` names it too. Where there are no columns, ``"label"`` takes the labels as
            numbers: digits, folders named by age, the y of a pair. In a folder of images with one table beside them, a
            column of that table.
        text, audio, signal: columns of a table (or ``.npz`` keys) with texts, recordings (WAV; other formats by
            soundfile) or lists of numbers. Any of them makes a :class:`~counterpoint.data.MultimodalDataset`, together
            with ``image`` (by default the column of images that there is) and ``features``, each a modality under the
            name of its argument.
        modalities: more of them, or several of one kind: ``{"left": "image:left_photo", "mrna": "vector:g1,g2"}``; a
            list of numbers in one column makes a vector too, several columns of text several texts an item. Videos are
            named here: ``{"clip": "video:path"}`` or ``{"clip": {"kind": "video", "column": "path", "frames": 8}}``;
            a cell is a list of pictures, a folder of them, or an animation (GIF, WebP). Without ``frames``, they are
            as many as the longest has, up to 16.

    Raises:
        FileNotFoundError: nothing has that name; the message suggests the nearest and lists the ways.
        ValueError: the source cannot be used as asked; the message names the argument and what to do.
        ImportError: a package is needed that is not installed; the message names it.
    """
    wanted = _specs(image, text, audio, signal, features, modalities)
    asked = _Asked(labels, image, features, image_size, channels, cache, max_corrupt, limit, target, wanted)
    if wanted and not isinstance(source, str | os.PathLike) and not isinstance(source, MultimodalDataset):
        raise ValueError("text, audio, signal, modalities: they name columns of a table; from Python, use data.pair.")
    if isinstance(source, Dataset):
        return asked.part(_with_target(source, asked))
    if isinstance(source, np.ndarray | Tensor | tuple):
        values, y = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
        return _from_array(_numbers(values), _plain(y), "array", asked)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"source: expected {_WAYS}, a NumPy array or a torch tensor, got {type(source).__name__}.")
    word = os.fspath(source)
    if word == "digits":
        return _from_array(*builtin.digits(), "digits", asked)
    if word == "diabetes":
        chosen = replace(asked, target=asked.target or targets.OF_LABELS, labels=NO_LABELS)
        return _from_array(*builtin.diabetes(), "diabetes", chosen)
    if word == "cifar10" or word.startswith("cifar10:"):
        place = builtin.cifar10(word.partition(":")[2] or root)
        if place is None:
            dataset = _from_opened(hub.open_hub(builtin.cifar10_on_hub(download), download), asked)
        else:
            dataset = _from_path(place, asked)
        dataset.name = "cifar10"
        return dataset
    if word.startswith("hub:"):
        return _from_opened(hub.open_hub(word.removeprefix("hub:"), download), asked)
    path = Path(word).expanduser()
    if not path.exists():
        raise FileNotFoundError(_unknown(word))
    return _from_path(path, asked)


def _from_path(path: Path, asked: _Asked) -> Dataset:
    ending = path.suffix.lower()
    if path.is_dir():
        return _from_opened(_open_folder(path, asked.target), asked)
    if ending in tables.TABLE_ENDINGS:
        return _from_opened([tables.open_table(path)], asked)
    if asked.parts and ending == ".npy":
        raise ValueError("text, audio, signal, modalities: they name columns, but source is one array.")
    if ending == ".npy":
        array = arrays.map_file(path)
        return _from_array(array, None, path.stem, asked, file=path.absolute(), mark=keeping.mark(path))
    if ending == ".npz":
        return _from_npz(path, asked)
    raise ValueError(f"source: {path} is a file of a kind that is not read here. Give {_WAYS}.")


def _open_folder(path: Path, target: str | None = None) -> list[tables.Table] | Found:
    """What a folder holds: a saved Hugging Face dataset, tables, or images; a target is looked for in a lone table."""
    if hub.is_saved(path):
        return hub.open_saved(path)
    if not any(path.iterdir()):
        raise FileNotFoundError(f"source: the folder {path} is empty.")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in tables.TABLE_ENDINGS and not p.name.startswith("."))
    splits = [tables.split_of(file) for file in files]
    if files and "train" in splits and None not in splits:
        return [tables.open_table(file, given) for file, given in zip(files, splits, strict=True)]
    if target not in (None, targets.OF_LABELS) and len(files) == 1:
        return [tables.open_table(files[0])]
    try:
        return folders.find(path)
    except FileNotFoundError:
        if len(files) == 1:
            return [tables.open_table(files[0])]
        raise


def _from_opened(opened: list[tables.Table] | Found, asked: _Asked) -> Dataset:
    if asked.parts:
        return _from_columns(opened, asked)
    if isinstance(opened, Found):
        if asked.image or asked.features or asked.labels not in (None, NO_LABELS):
            raise ValueError("labels, image, features: they name columns of a table, but source is a folder of images.")
        if asked.of_labels:
            opened = replace(opened, targets=targets.of_labels(opened.labels, opened.classes))
        return asked.pack(opened.without_labels() if asked.labels else opened)
    if not asked.image and not asked.features and interleaved.layout_of(opened[0].columns):
        return asked.part(interleaved.from_tables(opened, replace(asked, limit=None).pack, asked.labels, asked.target))
    chosen = columns.choose(opened, asked.labels, asked.image, asked.features, asked.target)
    if chosen.image:
        return asked.pack(columns.images(opened, chosen))
    return _from_numbers(opened, chosen, asked)


def _from_numbers(opened: list[tables.Table], chosen: columns.Columns, asked: _Asked) -> Dataset:
    """A dataset of vectors: small ones in memory, large ones streamed into the cache and mapped."""
    name = opened[0].name if len(opened) == 1 else opened[0].base.name
    counts = [0] * len(opened)

    def blocks(dtype: type) -> Iterator[np.ndarray]:
        for which, table in enumerate(opened):
            for block in columns.vectors(table, chosen.features):
                counts[which] += len(block)
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, which is refused
                    yield block.astype(dtype)

    if sum(table.size for table in opened) <= _IN_MEMORY:
        rows = arrays.rows_of(np.concatenate(list(blocks(np.float64))))
    else:
        folder = keeping.entry(asked.cache, name, [table.fingerprint for table in opened], chosen.features)
        meta = keeping.read(folder)
        if meta is None:
            with keeping.making(folder) as meta:
                if not meta:
                    width = next(blocks(np.float64)).shape[1]
                    counts[:] = [0] * len(opened)
                    with atomic(folder / "vectors.npy") as file:
                        write_rows(file, blocks(np.float32), (width,), np.dtype(np.float32))
                    arrays.rows_of(arrays.map_file(folder / "vectors.npy"))
                    meta["counts"] = counts
        counts[:] = meta["counts"]
        rows = Rows.open(folder / "vectors.npy", "vector")
    labels, classes = columns.labels_of(opened, chosen)
    given, aims = columns.given_of(opened, chosen, counts), columns.targets_of(opened, chosen)
    ids = _numbered(len(rows))
    return asked.part(Dataset(name, rows, ids=ids, labels=labels, classes=classes, given=given, targets=aims))


def _from_columns(opened: list[tables.Table] | Found, asked: _Asked) -> Dataset:
    """A dataset of several modalities from the columns of tables."""
    if isinstance(opened, Found):
        raise ValueError("text, audio, signal, modalities: they name columns, but source is a folder of images.")
    parts = dict(asked.parts)
    head = next((block for table in opened for block in table.blocks(table.columns) if len(block)), None)
    if head is None:
        raise ValueError(f"source: the table {opened[0].name!r} has no rows.")
    used = {column for spec in parts.values() for column in spec.columns}
    if "image" not in parts and all(spec.kind != "image" for spec in parts.values()):
        column = columns.image_column(head)
        if column is not None and column not in used:
            parts = {"image": modalities.Spec("image", (column,)), **parts}
    pack = replace(asked, limit=None).pack
    found, skipped = modalities.parts(opened, parts, pack, asked.cache, asked.max_corrupt)
    chosen = columns.about(opened, asked.labels, asked.target)
    labels, classes = columns.labels_of(opened, chosen)
    count = len(next(iter(found.values())).at)
    counts = [sum(len(block) for block in table.blocks(table.columns[:1])) for table in opened]
    dataset = MultimodalDataset(
        opened[0].name if len(opened) == 1 else opened[0].base.name,
        found,
        ids=_numbered(count),
        labels=labels,
        classes=classes,
        given=columns.given_of(opened, chosen, counts),
        skipped=skipped,
        targets=columns.targets_of(opened, chosen),
    )
    return asked.part(dataset)


def _from_npz(path: Path, asked: _Asked) -> Dataset:
    members = arrays.members(path)
    if asked.parts:
        parts = modalities.of_arrays(path, asked.parts)
        label = arrays.label_key(list(members), asked.labels, asked.target)
        y = arrays.read_member(path, members[label]) if label else None
        count = len(next(iter(parts.values())).at)
        labels, classes = (None, None) if y is None else arrays.checked_labels(y, count)
        aim = arrays.read_member(path, members[asked.target]) if asked.target else None
        aims = None if aim is None else arrays.checked_targets(aim, count)
        whole = MultimodalDataset(path.stem, parts, ids=_numbered(count), labels=labels, classes=classes, targets=aims)
        return asked.part(whole)
    key, label = arrays.choose(list(members), path, asked.image, asked.labels, asked.target)
    values = arrays.read_member(path, members[label]) if label else None
    aims = arrays.read_member(path, members[asked.target]) if asked.target else None
    mark = f"{keeping.mark(path)} {key}"
    if path.stat().st_size <= _IN_MEMORY:
        array, file = arrays.read_member(path, members[key]), None
    else:
        folder = keeping.entry(asked.cache, path.stem, mark)
        if keeping.read(folder) is None:
            with keeping.making(folder) as meta:
                if not meta:
                    with atomic(folder / "array.npy") as out:
                        out.writelines(arrays.stream_member(path, members[key]))
        file = folder / "array.npy"
        array = arrays.map_file(file)
    return _from_array(array, values, path.stem, asked, file=file, mark=mark, aims=aims)


def _from_array(
    array: np.ndarray,
    y: Any,
    name: str,
    asked: _Asked,
    *,
    file: Path | None = None,
    mark: str | None = None,
    aims: Any = None,
) -> Dataset:
    """A dataset of an array: ``y`` are labels or, by what they are or what is asked, a target; ``aims`` a target."""
    rows = arrays.rows_of(array, file)
    goal: np.ndarray | None = None
    if aims is not None:
        goal = arrays.checked_targets(aims, len(rows), f"target ({asked.target!r})")
    elif asked.of_labels or (mark is None and asked.labels is None and targets.fractional(y)):
        goal = targets.of_labels(None, None) if y is None else arrays.checked_targets(y, len(rows))
    if asked.labels == NO_LABELS or (goal is not None and aims is None and targets.fractional(y)):
        y = None
    labels, classes = (None, None) if y is None else arrays.checked_labels(y, len(rows))
    size = (asked.image_size, asked.image_size) if isinstance(asked.image_size, int) else asked.image_size
    if len(rows.shape) == 1 or (asked.channels in (None, rows.shape[0]) and size in (None, rows.shape[1:])):
        return asked.part(Dataset(name, rows, ids=_numbered(len(rows)), labels=labels, classes=classes, targets=goal))
    found = Found(
        name,
        _numbered(len(rows)),
        lambda: arrays.pictures(rows),
        mark or arrays.digest(array),
        labels=labels,
        classes=classes,
        targets=goal,
    )
    size = size or (rows.shape[1], rows.shape[2])
    return replace(asked, image_size=size, channels=asked.channels or rows.shape[0]).pack(found)


def _with_target(dataset: Dataset, asked: _Asked) -> Dataset:
    """A dataset whose labels are wanted as numbers; any other target it must have brought along."""
    if asked.target is None or dataset.targets is not None:
        return dataset
    if asked.of_labels:
        dataset = dataset.subset(slice(None))
        dataset.targets = targets.of_labels(dataset.labels, dataset.classes)
    return dataset


_specs = modalities.specs  # under a name that an argument does not hide


def _plain(values: Any) -> Any:
    return _numbers(values) if isinstance(values, Tensor) else values


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        array: np.ndarray = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return array
    return np.array(values, copy=None)


def _numbered(count: int) -> Names:
    return Names.of(map(str, range(count)))


def _unknown(word: str) -> str:
    path = Path(word)
    there = map(str, path.parent.iterdir()) if path.parent.is_dir() else ()
    near = difflib.get_close_matches(word, [*builtin.names(), *there], cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"source: there is no {word!r}. {hint}Give {_WAYS}."
