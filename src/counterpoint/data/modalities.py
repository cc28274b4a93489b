"""Columns of a table as modalities: which are asked for, and each of them read.

A column of images or videos is decoded into the cache as ever, one of sound is brought to one sampling rate and one
length and kept there too; texts, signals and numbers are read into memory. A cell that is empty is a modality that its
item lacks; one that cannot be decoded counts as empty, is listed as skipped, and too many of those are an error.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import arrays, clips, columns
from counterpoint.data import cache as keeping
from counterpoint.data.dataset import Dataset, Names, Rows
from counterpoint.data.labels import require
from counterpoint.data.multimodal import KINDS, Part, Texts, part_of
from counterpoint.data.packing import Found, write_rows
from counterpoint.data.tables import Table
from counterpoint.files import atomic

SECONDS = 10.0  # of sound that are kept at most
_VECTORS = "features"  # the name of the modality that features= makes


@dataclass(frozen=True)
class Spec:
    """A modality that is asked for: its kind, the columns that it is made of, and of videos the number of frames."""

    kind: str
    columns: tuple[str, ...]
    frames: int | None = None


def specs(
    image: str | None,
    text: str | None,
    audio: str | None,
    signal: str | None,
    features: Sequence[str] | None,
    modalities: Mapping[str, Any] | None,
) -> dict[str, Spec]:
    """The modalities that arguments of :func:`counterpoint.data.load` ask for, by name; none where data are of one.

    Raises:
        ValueError: a modality whose kind or columns are not told.
    """
    if text is None and audio is None and signal is None and not modalities:
        return {}
    named = {"image": image, "text": text, "audio": audio, "signal": signal}
    found = {kind: Spec(kind, (column,)) for kind, column in named.items() if column is not None}
    if features:
        found[_VECTORS] = Spec("vector", tuple(features))
    for name, value in (modalities or {}).items():
        if name in found:
            raise ValueError(f"modalities: {name!r} is given twice")
        found[name] = _spec(name, value)
    return found


def _spec(name: str, value: Any) -> Spec:
    if isinstance(value, str):
        kind, _, listed = value.partition(":")
        chosen = tuple(part.strip() for part in listed.split(",")) if listed else (name,)
    elif isinstance(value, Mapping) and {"kind"} <= set(value) <= {"kind", "column", "columns", "frames"}:
        kind, told = value["kind"], value.get("columns", value.get("column", name))
        chosen = (told,) if isinstance(told, str) else tuple(told)
    else:
        raise ValueError(
            f"modalities: expected a kind and columns for {name!r}, as vector:a,b or {{kind: image, column: photo}}, "
            f"got {value!r}"
        )
    if kind not in KINDS:
        raise ValueError(f"modalities: {name!r} is of kind {kind!r}; expected one of {', '.join(KINDS)}")
    if kind in ("image", "audio", "signal", "video") and len(chosen) > 1:
        raise ValueError(f"modalities: {name!r} takes one column of {kind}s, got {', '.join(chosen)}")
    frames = value.get("frames") if isinstance(value, Mapping) else None
    if frames is not None and (kind != "video" or not isinstance(frames, int) or frames < 1):
        raise ValueError(f"modalities: frames are for videos, and at least 1; {name!r}, of kind {kind!r}, has {frames}")
    return Spec(kind, chosen, frames)


def parts(
    tables: list[Table], wanted: Mapping[str, Spec], pack: Callable[[Found], Dataset], cache: Any, max_corrupt: float
) -> tuple[dict[str, Part], list[tuple[str, str]]]:
    """Each modality of the rows of the tables, and what could not be decoded, as (row, reason).

    Raises:
        ValueError: a column that is not there or holds something else, a modality that no row has, or more than
            ``max_corrupt`` of the images or recordings of one that cannot be decoded.
    """
    found: dict[str, Part] = {}
    skipped: list[tuple[str, str]] = []
    for name, spec in wanted.items():
        for column in spec.columns:
            require(column, tables[0].columns, f"modalities ({name})")
        if spec.kind == "image":
            part, bad = _images(tables, spec.columns[0], pack)
        elif spec.kind == "video":
            part, bad = _videos(tables, spec, pack, max_corrupt)
        elif spec.kind == "audio":
            part, bad = _sounds(tables, spec.columns[0], cache, max_corrupt)
        else:
            part, bad = _plain(tables, name, spec), []
        if not (part.at >= 0).any():
            raise ValueError(f"modalities: {name!r} is missing in all {len(part.at)} rows")
        found[name] = part
        skipped += [(f"row {row}, {name}", reason) for row, reason in bad]
    return found, skipped


def of_arrays(path: Path, wanted: Mapping[str, Spec]) -> dict[str, Part]:
    """Modalities whose columns are members of an ``.npz`` file."""
    members = arrays.members(path)
    found = {}
    for name, spec in wanted.items():
        if len(spec.columns) > 1:
            raise ValueError(f"modalities: {name!r} takes one array of {path.name}, got {', '.join(spec.columns)}")
        require(spec.columns[0], list(members), f"modalities ({name})")
        value = arrays.read_member(path, members[spec.columns[0]])
        found[name] = part_of(name, list(value) if value.dtype.kind == "U" else value, spec.kind)
    return found


def _images(tables: list[Table], column: str, pack: Callable[[Found], Dataset]) -> tuple[Part, list[tuple[int, str]]]:
    whole = columns.images(tables, columns.Columns(column, [], None, None))
    there = np.array([_filled(value) for table in tables for value in _values(table, column)], dtype=bool)
    if not there.any():
        return Part("image", Texts.of([]), np.full(len(there), -1)), []
    rows = np.flatnonzero(there)
    read = whole.read
    dataset = pack(
        replace(
            whole,
            ids=Names.of(map(str, rows)),
            read=lambda: compress(read(), there),
            fingerprint=f"{whole.fingerprint} {int(there.sum())}",
            root=None,
        )
    )
    at = np.full(len(there), -1, dtype=np.int64)
    at[[int(row) for row in dataset.ids]] = np.arange(len(dataset))
    return Part("image", dataset._rows, at), [(int(row), reason) for row, reason in dataset.skipped]


def _videos(
    tables: list[Table], spec: Spec, pack: Callable[[Found], Dataset], max_corrupt: float
) -> tuple[Part, list[tuple[int, str]]]:
    column = spec.columns[0]

    def cells() -> Iterator[tuple[Any, Path]]:
        for table in tables:
            for value in _values(table, column):
                yield (value if _filled(value) else None), table.base

    mark = f"{column} {spec.frames} {[table.fingerprint for table in tables]}"
    rows, at, skipped = clips.of_cells(cells, column, mark, pack, spec.frames)
    lost = [(row, reason) for row, reason in skipped if at[row] < 0]
    if len(lost) > max_corrupt * (len(lost) + int((at >= 0).sum())):
        told = "; ".join(f"row {row} ({reason})" for row, reason in lost[:3])
        raise ValueError(
            f"modalities: {len(lost)} of the videos in column {column!r} cannot be read, more than "
            f"max_corrupt={max_corrupt:g} allows: {told}. Remove or replace them, or raise max_corrupt."
        )
    return Part("video", Texts.of([]) if rows is None else rows, at), skipped


def _values(table: Table, column: str) -> Iterator[Any]:
    for block in table.blocks([column]):
        yield from block[column].tolist()


def _filled(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get("bytes") or value.get("path") or value.get("array") is not None)
    if value is None or (isinstance(value, float) and value != value):
        return False
    return len(value) > 0 if hasattr(value, "__len__") else True


def _plain(tables: list[Table], name: str, spec: Spec) -> Part:
    """Texts, signals and vectors, which are read into memory."""
    if spec.kind == "vector" and (len(spec.columns) > 1 or not _lists(tables[0], spec.columns[0])):
        numbers = np.concatenate([block for table in tables for block in columns.vectors(table, spec.columns)])
        return part_of(name, numbers, "vector")
    cells = [[value for table in tables for value in _values(table, column)] for column in spec.columns]
    if spec.kind == "text":
        texts = [_texts(row) for row in zip(*cells, strict=True)]
        several = any(len(row) > 1 for row in texts)
        return part_of(name, [row if several else row[0] if row else None for row in texts], "text")
    return part_of(name, [_array(value) for value in cells[0]], spec.kind)


def _lists(table: Table, column: str) -> bool:
    return any(isinstance(value, list | np.ndarray) for value in next(table.blocks([column]))[column])


def _texts(cells: Sequence[Any]) -> list[str]:
    """The texts of the cells of a row: strings, or lists of them."""
    found = []
    for cell in cells:
        for text in cell if isinstance(cell, list | tuple | np.ndarray) else [cell]:
            if text is None or (isinstance(text, float) and text != text):
                continue
            if not isinstance(text, str):
                text = str(text)  # a column of numbers that reads as words: 7
            if text.strip():
                found.append(text)
    return found


def _array(value: Any) -> Any:
    """A signal as an array, or ``None`` where the cell is empty; nested lists are channels."""
    if not _filled(value):
        return None
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = [np.asarray(row, dtype=np.float64) for row in value]
    return np.asarray(value, dtype=np.float32)


def _sounds(tables: list[Table], column: str, cache: Any, max_corrupt: float) -> tuple[Part, list[tuple[int, str]]]:
    """Recordings, decoded once into int16 of one rate and one length in the cache."""
    folder = keeping.entry(cache, tables[0].name, "audio", column, SECONDS, [table.fingerprint for table in tables])
    meta = keeping.read(folder)
    if meta is None:
        with keeping.making(folder) as meta:
            if not meta:
                meta.update(_decode(tables, column, folder, max_corrupt))
    at = np.load(folder / "at.npy", allow_pickle=False)
    if not (at >= 0).any():
        return Part("audio", Texts.of([]), at), []
    skipped = [(int(row), str(reason)) for row, reason in meta["skipped"]]
    return Part("audio", Rows.open(folder / "waves.npy", "wave"), at, int(meta["rate"])), skipped


def _decode(tables: list[Table], column: str, folder: Path, max_corrupt: float) -> dict[str, Any]:
    def cells() -> Iterator[tuple[int, Any]]:
        row = 0
        for table in tables:
            for value in _values(table, column):
                yield row, _source(value, table.base) if _filled(value) else None
                row += 1

    lengths: Counter[int] = Counter()
    rates: Counter[int] = Counter()
    skipped: list[tuple[int, str]] = []
    at: list[int] = []
    kept = 0
    for row, source in cells():
        at.append(-1)
        if source is None:
            continue
        try:
            samples, rate = read_sound(source)
        except (ValueError, OSError, EOFError, RuntimeError) as error:
            skipped.append((row, f"{type(error).__name__}: {error}"[:200]))
            continue
        at[-1] = kept
        kept += 1
        rates[rate] += 1
        lengths[round(min(SECONDS, len(samples) / rate) * 1000)] += 1
    if skipped and len(skipped) > max_corrupt * (kept + len(skipped)):
        told = "; ".join(f"row {row} ({reason})" for row, reason in skipped[:3])
        raise ValueError(
            f"modalities: {len(skipped)} of {kept + len(skipped)} recordings in column {column!r} cannot be read, more "
            f"than max_corrupt={max_corrupt:g} allows: {told}. Remove or replace them, or raise max_corrupt."
        )
    with atomic(folder / "at.npy") as file:
        np.save(file, np.array(at, dtype=np.int64), allow_pickle=False)
    if not kept:
        return {"rate": 0, "skipped": skipped}
    rate = rates.most_common(1)[0][0]
    length = max(1, round(max(lengths) * rate / 1000))

    def waves() -> Iterator[np.ndarray]:
        for row, source in cells():
            if at[row] >= 0:
                yield _fitted(*read_sound(source), rate, length)[None, None]

    with atomic(folder / "waves.npy") as file:
        write_rows(file, waves(), (1, length), np.dtype(np.int16))
    return {"rate": rate, "skipped": skipped}


def _source(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return os.path.join(base, value) if isinstance(value, str) else value


def read_sound(source: str | os.PathLike[str] | bytes) -> tuple[np.ndarray, int]:
    """Samples float32 (T,) in [-1, 1] and samples a second of a recording, channels averaged.

    Args:
        source: a file, or its bytes. WAV is read by SciPy; other formats need the package soundfile.

    Raises:
        ValueError: it holds no samples, or cannot be decoded.
        ImportError: it is no WAV file and soundfile is not installed.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if content[:4] == b"RIFF":
        from scipy.io import wavfile

        rate, samples = wavfile.read(io.BytesIO(content))
    else:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError("audio: only WAV is read without soundfile: pip install 'counterpoint[audio]'") from error
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    values = np.asarray(samples)
    if values.dtype.kind in "iu":
        middle = 128 if values.dtype == np.uint8 else 0
        values = (values.astype(np.float32) - middle) / float(128 if middle else -np.iinfo(values.dtype).min)
    values = values.astype(np.float32)
    values = values.mean(axis=1) if values.ndim == 2 else values
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("it holds no samples" if not len(values) else "it holds NaN or Inf")
    return values, int(rate)


def _fitted(samples: np.ndarray, own: int, rate: int, length: int) -> np.ndarray:
    """int16 (length,) at another rate; the middle of what is longer, zeros after what is shorter."""
    if own != rate:
        from math import gcd

        from scipy.signal import resample_poly

        both = gcd(own, rate)
        samples = resample_poly(samples, rate // both, own // both)
    start = max(0, (len(samples) - length) // 2)
    samples = samples[start : start + length]
    padded = np.zeros(length, dtype=np.float32)
    padded[: len(samples)] = samples
    return np.asarray(np.clip(np.rint(padded * 32767), -32768, 32767), dtype=np.int16)
