"""A vector index over stored embeddings: FAISS (Douze et al. 2024), filled a block of rows at a time."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.files import atomic, write_json
from counterpoint.search.embedding import unit
from counterpoint.search.store import Item, Store

_FORMAT = 1
_PER_CELL = 39  # rows a cell needs to be learned from: faiss' min_points_per_centroid
_TRAIN_PER_CELL = 64  # rows a cell is learned from; the guidelines ask for 30 to 256


class Index:
    """An index of embeddings by cosine similarity. Made by :func:`build_index` or :meth:`load`.

    Attributes:
        kind: exact, ivf or hnsw.
        options: with which it was built.
        store: the embeddings, from which ids and vectors are looked up when asked for.
    """

    def __init__(self, native: Any, store: Store, kind: str, options: dict[str, Any]) -> None:
        self._native, self.store, self.kind, self.options = native, store, kind, options

    def __len__(self) -> int:
        return int(self._native.ntotal)

    def __repr__(self) -> str:
        return f"<Index {self.kind}: {len(self):,} vectors of {self.store.dimension}>"

    def search(self, vectors: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar rows of each query, best first.

        Args:
            vectors: queries (Q, D), or one (D,), of any length; a NumPy array or a torch tensor on the CPU.
            k: how many; at most as many as there are rows.

        Returns:
            cosine similarities (Q, k) float32 and rows (Q, k) int64. Where an ``ivf`` index found fewer than ``k`` in
            the cells it looked into, the rest is -1 with similarity -inf.

        Raises:
            ValueError: queries of another dimension, or with NaN or Inf; k below 1.
        """
        queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.store.dimension:
            raise ValueError(f"vectors: expected (Q, {self.store.dimension}), got {tuple(np.shape(vectors))}.")
        if not np.isfinite(queries).all():
            raise ValueError("vectors: they hold NaN or Inf.")
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}.")
        scores, rows = self._native.search(unit(queries), min(k, len(self)))
        scores[rows < 0] = -np.inf
        return scores, rows

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Id, path and label of rows, read from the embeddings' file."""
        return self.store.items(rows)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``index.faiss`` and then ``index.json`` into ``folder`` (made if missing), each atomically."""
        import faiss

        writer: Any = faiss.PyCallbackIOWriter  # type: ignore[attr-defined]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "index.faiss") as file:
            faiss.write_index(self._native, writer(file.write))
        about = {
            "format": _FORMAT,
            "kind": self.kind,
            "options": self.options,
            "rows": len(self),
            "digest": _digest(folder / "index.faiss"),
            "embeddings": os.path.relpath(self.store.path, folder),
            "made_from": self.store.made_from,
        }
        write_json(folder / "index.json", about)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embeddings: str | os.PathLike[str] | None = None) -> Index:
        """Open a saved index.

        Args:
            folder: as given to :meth:`save`.
            embeddings: where the Parquet file lies now; default where it lay, relative to ``folder``.

        Raises:
            FileNotFoundError: no index there, or no embeddings.
            ValueError: the index is damaged, or the embeddings have been made anew since.
        """
        import faiss

        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(f"index: no index in {folder}: expected index.json and index.faiss")
        try:
            about = json.loads((folder / "index.json").read_text("utf-8"))
            if about["format"] > _FORMAT:
                raise ValueError(f"written by a newer version of counterpoint (format {about['format']} > {_FORMAT})")
            if _digest(folder / "index.faiss") != about["digest"]:
                raise ValueError("index.faiss is not the file that index.json describes")
            native = faiss.read_index(str(folder / "index.faiss"))
            place = folder / about["embeddings"] if embeddings is None else Path(embeddings)
            kind, options, made_from = str(about["kind"]), dict(about["options"]), about["made_from"]
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise ValueError(f"index: the index in {folder} cannot be opened: {error}") from error
        store = Store(place)
        if (native.ntotal, native.d, made_from) != (len(store), store.dimension, store.made_from):
            raise ValueError(f"index: {folder} was built from other embeddings than {place} holds now. Build it anew.")
        return cls(native, store, kind, options)


def build_index(embeddings: str | os.PathLike[str] | Store, kind: str = "exact", **options: Any) -> Index:
    """Index the embeddings of a Parquet file by cosine similarity.

    Besides the index itself, which holds every vector in memory, one block of rows is in memory at a time.

    Args:
        embeddings: as written by :func:`counterpoint.embed`.
        kind: ``"exact"`` compares with every row. ``"ivf"`` learns ``nlist`` cells and looks into the ``nprobe``
            nearest to the query. ``"hnsw"`` walks a graph in which every row has ``M`` neighbours (Malkov and Yashunin
            2016); several threads build it, so that two builds may differ in a few edges.
        options: of ``ivf``: ``nlist``, by default 4 sqrt(N), the low end of what the FAISS guidelines advise below a
            million rows, but no more than leaves 39 rows a cell; ``nprobe``, by default an eighth of the cells;
            ``seed`` of the cells. Of ``hnsw``: ``M``, 32; ``ef_construction``, 80; ``ef_search``, 64: a search looks
            at so many candidates.

    Raises:
        FileNotFoundError: there are no such embeddings.
        ValueError: an unknown kind or option, or an option out of range; embeddings without rows or with NaN or Inf.

    Reference: https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index
    """
    store = embeddings if isinstance(embeddings, Store) else Store(embeddings)
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    known = list(inspect.signature(_KINDS[kind]).parameters)[1:]
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"options: {kind} takes no {name!r}, only {', '.join(known) or 'none'}")
        if not isinstance(value, int) or value < (0 if name == "seed" else 1):
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    if not len(store):
        raise ValueError(f"embeddings: {store.path} has no rows.")
    native = _KINDS[kind](store, **options)
    for start, block in _numbered(store):
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(f"embeddings: {store.path} holds NaN or Inf, first in row {row}.")
        native.add(unit(block))
    return Index(native, store, kind, options)


def _numbered(store: Store) -> Any:
    start = 0
    for block in store.blocks():
        yield start, block
        start += len(block)


def _exact(store: Store) -> Any:
    import faiss

    return faiss.IndexFlatIP(store.dimension)


def _ivf(store: Store, nlist: int | None = None, nprobe: int | None = None, seed: int = 0) -> Any:
    import faiss

    rows, d = len(store), store.dimension
    if nlist is None:
        nlist = max(1, min(int(4 * math.sqrt(rows)), rows // _PER_CELL))
    if nlist > rows:
        raise ValueError(f"nlist: {nlist} cells cannot be learned from {rows} rows.")
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, nlist, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(nlist, max(1, nlist // 8) if nprobe is None else nprobe)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1  # fewer than the rule asks for is the user's choice
    wanted = np.random.default_rng(seed).permutation(rows)[: _TRAIN_PER_CELL * nlist]
    index.train(unit(store.vectors(np.sort(wanted))))
    return index


def _hnsw(store: Store, M: int = 32, ef_construction: int = 80, ef_search: int = 64) -> Any:
    import faiss

    index = faiss.IndexHNSWFlat(store.dimension, M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = ef_construction, ef_search
    return index


_KINDS: dict[str, Callable[..., Any]] = {"exact": _exact, "ivf": _ivf, "hnsw": _hnsw}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
