"""Documents with pictures between their sentences, from a table or from Python.

A document is a string in which ``<visual>`` stands for each of its pictures, as in
:mod:`counterpoint.encoders.interleaved`. A table (JSON lines or Parquet) holds documents in one of three layouts:

* ``text``, a string with ``<visual>`` in it, and ``images``, the list of its pictures, in order. A text without any
  ``<visual>`` has its pictures in front: one picture and a caption make a pair;
* ``texts`` and ``images``, two lists of one length of which at each place one holds something and the other nothing, as
  in OBELICS;
* ``text_list``, sentences, and ``image_info``, pictures with ``image_name`` and ``matched_text_index``, as in MMC4.
  Where there is a ``similarity_matrix`` (pictures x sentences), pictures are put to sentences by the best assignment.

Pictures are paths relative to the table, bytes, or ``{"bytes", "path"}``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.data import arrays, columns
from counterpoint.data import cache as keeping
from counterpoint.data.dataset import Dataset, Indices, Names, Rows
from counterpoint.data.images import Item
from counterpoint.data.multimodal import MultimodalDataset, Part, Texts
from counterpoint.data.packing import Found
from counterpoint.data.tables import Table
from counterpoint.encoders.interleaved import VISUAL, interleave
from counterpoint.mining import match

PICTURES = 3  # of a document at most, CosMo's
LAYOUTS = (("text", "images"), ("texts", "images"), ("text_list", "image_info"))


class InterleavedDataset(MultimodalDataset):
    """Documents, each a text with up to T pictures in it; pairs of one picture and its caption are among them.

    To all that know pairs alone it is one: ``batch["image"]`` is a document's first picture and ``batch["text"]`` its
    text without ``<visual>``. Further, for those that read documents: ``batch["document"]``, B strings with
    ``<visual>``; ``batch["pictures"]``, uint8 (B, T, C, H, W), zeros where a document has fewer; ``batch["shown"]``,
    bool (B, T); ``batch["pair"]``, bool (B,), which of them are a picture and its caption and nothing else.

    Args:
        name: short name for reports.
        documents: N strings with ``<visual>`` in them.
        rows: where the pictures lie.
        at: int64 (N, T), which of them are a document's, in order; -1: it has no more.
        about: labels, classes, given, ids and skipped, as of :class:`MultimodalDataset`.
    """

    def __init__(self, name: str, documents: Sequence[str], rows: Rows, at: np.ndarray, **about: Any):
        self.documents = documents if isinstance(documents, Names) else Names.of(documents)
        self.at, self._pictures = at, rows
        plain = [" ".join(text.replace(VISUAL, " ").split()) for text in self.documents]
        there = np.array([bool(text) for text in plain], dtype=bool)
        texts = Part("text", Texts.of([text for text in plain if text]), np.where(there, np.cumsum(there) - 1, -1))
        about.setdefault("ids", Names.of(map(str, range(len(plain)))))
        super().__init__(name, {"image": Part("image", rows, at[:, 0]), "text": texts}, **about)

    def __getitem__(self, indices: Indices) -> dict[str, Any]:
        batch = super().__getitem__(indices)
        index = batch["index"].numpy()
        at = self.at[index]
        shown = at >= 0
        pictures = self._pictures.take(np.maximum(at, 0).ravel())
        pictures[~shown.ravel()] = 0
        documents = [self.documents[int(i)] for i in index]
        return batch | {
            "document": documents,
            "pictures": torch.from_numpy(pictures).unflatten(0, at.shape),
            "shown": torch.from_numpy(shown),
            "pair": torch.from_numpy(_pairs(documents, shown)),
        }

    @property
    def pairs(self) -> np.ndarray:
        """Bool (N,), which of the documents are a picture and its caption and nothing else."""
        return _pairs(list(self.documents), self.at >= 0)

    def subset(self, indices: Indices) -> InterleavedDataset:
        index = self._positions(indices)
        part = super().subset(indices)
        about = {name: getattr(part, name) for name in ("labels", "classes", "given", "ids", "skipped", "targets")}
        documents = [self.documents[int(i)] for i in index]
        return InterleavedDataset(self.name, documents, self._pictures, self.at[index], **about)

    def __repr__(self) -> str:
        pictures = int((self.at >= 0).sum())
        return f"<InterleavedDataset {self.name}: {len(self):,} documents, {pictures:,} pictures>"


def _pairs(documents: Sequence[str], shown: np.ndarray) -> np.ndarray:
    alone = [text.count(VISUAL) == 1 and text.startswith(VISUAL) for text in documents]
    found: np.ndarray = np.array(alone, dtype=bool) & shown[:, 0]
    return found


def documents(
    texts: Sequence[str],
    pictures: Sequence[Sequence[Any]],
    labels: Any = None,
    *,
    given: Sequence[str] | np.ndarray | None = None,
    name: str = "documents",
    images: int = PICTURES,
) -> InterleavedDataset:
    """Documents from Python.

    Args:
        texts: N strings with ``<visual>`` where each picture stands; one without it has its pictures in front.
        pictures: for each document its pictures, arrays (H, W), (H, W, C) or (C, H, W) of one shape.
        labels, given: as for :func:`~counterpoint.data.pair`.
        name: short name for reports.
        images: pictures of a document that are kept at most, its first ones.

    Raises:
        ValueError: another number of pictures than of ``<visual>``, pictures of different shapes, none at all.
    """
    if len(texts) != len(pictures):
        raise ValueError(f"pictures: expected {len(texts)} lists as there are texts, got {len(pictures)}")
    written = [
        _marked(text, len(each), f"texts: number {n}")
        for n, (text, each) in enumerate(zip(texts, pictures, strict=True))
    ]
    flat = [np.asarray(picture) for each in pictures for picture in each]
    shapes = sorted({str(picture.shape) for picture in flat})
    if len(shapes) != 1:
        raise ValueError(f"pictures: expected some, of one shape, got {', '.join(shapes[:4]) or 'none'}")
    rows = arrays.rows_of(np.stack(flat))
    if len(rows.shape) != 3:
        raise ValueError(f"pictures: expected arrays (H, W), (H, W, C) or (C, H, W), got {shapes[0]}")
    numbers, classes = (None, None) if labels is None else arrays.checked_labels(labels, len(written))
    splits = None if given is None else np.asarray(given, dtype="U5")
    at = _places([len(each) for each in pictures], np.arange(len(flat)), images)
    return InterleavedDataset(name, written, rows, at, labels=numbers, classes=classes, given=splits)


def layout_of(names: Sequence[str]) -> tuple[str, str] | None:
    """The columns of texts and of pictures where a table with these columns holds documents, or ``None``."""
    return next((layout for layout in LAYOUTS if set(layout) <= set(names)), None)


def from_tables(
    tables: list[Table],
    pack: Callable[[Found], Dataset],
    labels: str | None = None,
    target: str | None = None,
    images: int = PICTURES,
) -> InterleavedDataset:
    """Documents of tables in one of the layouts above; pictures are decoded into the cache.

    Raises:
        ValueError: a row that does not hold what its layout says, with its number; too many pictures that cannot be
            read; no pictures at all.
    """
    layout = layout_of(tables[0].columns)
    assert layout is not None
    written, counts = [], []
    for number, row in enumerate(_rows(tables, layout)):
        text, cells = _laid_out(row, layout, f"source: row {number} of {tables[0].name!r}")
        written.append(text)
        counts.append(len(cells))
    if not sum(counts):
        raise ValueError(f"source: the documents of {tables[0].name!r} have no pictures")
    base = tables[0].base

    def read() -> Iterator[Item]:
        for row in _rows(tables, layout):
            for cell in _laid_out(row, layout, "")[1]:
                yield _item(cell, base)

    packed = pack(
        Found(
            tables[0].name,
            Names.of(f"{row}/{slot}" for row, count in enumerate(counts) for slot in range(count)),
            read,
            _fingerprint(tables, layout, read),
        )
    )
    where = {name: place for place, name in enumerate(packed.ids)}
    found = np.array(
        [where.get(f"{row}/{slot}", -1) for row, count in enumerate(counts) for slot in range(count)], dtype=np.int64
    )
    starts = np.cumsum([0, *counts])
    there = [found[a:b] >= 0 for a, b in pairwise(starts)]
    chosen = columns.about(tables, labels, target)
    classes = columns.labels_of(tables, chosen)
    sizes = [sum(len(block) for block in table.blocks(table.columns[:1])) for table in tables]
    return InterleavedDataset(
        tables[0].name,
        [_without(text, kept) for text, kept in zip(written, there, strict=True)],
        packed._rows,
        _places([int(kept.sum()) for kept in there], found[found >= 0], images),
        labels=classes[0],
        classes=classes[1],
        given=columns.given_of(tables, chosen, sizes),
        targets=columns.targets_of(tables, chosen),
        skipped=[(f"document {name.replace('/', ', picture ')}", reason) for name, reason in packed.skipped],
    )


def _rows(tables: list[Table], layout: tuple[str, str]) -> Iterator[Mapping[str, Any]]:
    more = [name for name in ("similarity_matrix",) if name in tables[0].columns]
    for table in tables:
        for block in table.blocks([*layout, *more]):
            yield from block.to_dict("records")


def _laid_out(row: Mapping[str, Any], layout: tuple[str, str], where: str) -> tuple[str, list[Any]]:
    """The document of a row, with ``<visual>`` in it, and its pictures in that order."""
    texts, pictures = (row[name] for name in layout)
    pictures = [] if pictures is None else list(pictures)
    if layout[0] == "text":
        cells = [cell for cell in pictures if cell is not None]
        return _marked("" if texts is None else str(texts), len(cells), where), cells
    sentences = [] if texts is None else list(texts)
    if layout[0] == "texts":
        if len(sentences) != len(pictures):
            raise ValueError(f"{where} has {len(sentences)} texts and {len(pictures)} images: expected lists alike")
        parts = [
            VISUAL if cell is not None else str(text or "").replace(VISUAL, " ").strip()
            for text, cell in zip(sentences, pictures, strict=True)
        ]
        return " ".join(part for part in parts if part), [cell for cell in pictures if cell is not None]
    at = _matched(row.get("similarity_matrix"), pictures, len(sentences), where)
    text, order = interleave([str(sentence) for sentence in sentences], at)
    cells = [pictures[picture] for picture in order]
    return text, [cell.get("image") or cell.get("path") or cell.get("image_name") for cell in cells]


def _matched(similar: Any, pictures: Sequence[Mapping[str, Any]], sentences: int, where: str) -> list[int]:
    if similar is None or not len(similar):
        return [int(picture.get("matched_text_index", -1)) for picture in pictures]
    scores = torch.tensor([list(row) for row in similar], dtype=torch.float64)
    if scores.shape != (len(pictures), sentences):
        raise ValueError(
            f"{where} has a similarity_matrix {tuple(scores.shape)}: expected ({len(pictures)}, {sentences})"
        )
    return match(scores, least=0.0).tolist()


def _marked(text: str, pictures: int, where: str) -> str:
    """A text with as many ``<visual>`` as pictures; one without any has them in front."""
    marks = text.count(VISUAL)
    if marks == 0 and pictures:
        return " ".join([VISUAL] * pictures + [text.strip()]).strip()
    if marks != pictures:
        raise ValueError(f"{where} has {marks} times {VISUAL} and {pictures} pictures")
    return text


def _without(text: str, kept: np.ndarray) -> str:
    """A document without the marks of the pictures that could not be read."""
    if kept.all():
        return text
    lead, *chunks = text.split(VISUAL)
    return lead + "".join((VISUAL if has else " ") + chunk for has, chunk in zip(kept, chunks, strict=True))


def _places(counts: Sequence[int], rows: np.ndarray, images: int) -> np.ndarray:
    """(N, T): the rows of the first pictures of each document, -1 behind them."""
    if images < 1:
        raise ValueError(f"images: expected at least 1, got {images}")
    at = np.full((len(counts), max(1, min(images, max(counts, default=0)))), -1, dtype=np.int64)
    start = 0
    for row, count in enumerate(counts):
        some = min(count, at.shape[1])
        at[row, :some] = rows[start : start + some]
        start += count
    return at


def _item(cell: Any, base: os.PathLike[str]) -> Item:
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    return os.path.join(base, cell) if isinstance(cell, str) and cell else cell or None


def _fingerprint(tables: list[Table], layout: tuple[str, str], read: Callable[[], Iterator[Item]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        digest.update(f"{table.fingerprint}\n".encode("utf-8", "surrogateescape"))
    for item in read():
        if isinstance(item, str):
            digest.update(f"{keeping.mark(Path(item))}\n".encode("utf-8", "surrogateescape"))
    return f"{' '.join(layout)} {digest.hexdigest()}"
