"""Embeddings on disk: a Parquet file with a row per item, read and written a block of rows at a time.

Columns: ``id`` (string), ``path`` (string, null where items are not files), ``label`` (string, null where there is
none), ``vector`` (fixed-size list of float32). What made them is JSON in the schema's metadata, so that a reader can
tell whether they still belong to an encoder and to the data.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from counterpoint.files import atomic, claim_folder, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"counterpoint"
GROUP_ROWS = 2048  # rows of a row group, about: what is in memory at a time


@dataclass(frozen=True)
class Item:
    """What is known of a row besides its vector."""

    row: int
    id: str
    path: str | None = None
    label: str | None = None


class Store:
    """The embeddings of a Parquet file. Opening it reads its footer; the rest is read when asked for.

    Args:
        path: as written by :func:`counterpoint.embed`, or any Parquet file with a column ``id`` of strings and a column
            ``vector`` of fixed-size lists of float32.

    Attributes:
        about: what the writer recorded: encoder, data, dimension, normalized, ...; empty for a foreign file.
        dimension: D of the vectors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not Parquet, is damaged, or lacks those columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"embeddings: there is no file {self.path}. Make it with counterpoint embed.")
        try:
            with pq.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self.about: dict[str, Any] = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"embeddings: {self.path} cannot be read as Parquet: {error}") from error
        kinds: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))
        vector: Any = kinds.get("vector")
        if "id" not in kinds or not pa.types.is_fixed_size_list(vector) or vector.value_type != pa.float32():
            raise ValueError(
                f"embeddings: {self.path} needs a column id and a column vector of fixed-size lists of float32; it has "
                + ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            )
        self.dimension: int = vector.list_size
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._known: list[str] = [name for name in ("id", "path", "label") if name in kinds]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[np.ndarray]:
        """All vectors in order, as float32 ``(n, D)`` blocks of one row group each.

        Raises:
            ValueError: a row without a vector, or a damaged file.
        """
        for group in range(len(self._starts) - 1):
            yield self._vectors(group)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors (n, D) of some rows."""
        rows = self._checked(rows)
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        for group, at in self._by_group(rows):
            out[at] = self._vectors(group)[rows[at] - self._starts[group]]
        return out

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Id, path and label of some rows; reads only those columns, and only the row groups that hold the rows."""
        rows = self._checked(rows)
        found: dict[int, Item] = {}
        for group, at in self._by_group(rows):
            table = self._read(group, self._known).take((rows[at] - self._starts[group]).tolist())
            for row, known in zip(rows[at].tolist(), table.to_pylist(), strict=True):
                found[row] = Item(row, str(known["id"]), known.get("path"), known.get("label"))
        return [found[row] for row in rows.tolist()]

    def find(self, id: str) -> int | None:
        """The first row with that id, or None."""
        import pyarrow.compute as pc

        for group in range(len(self._starts) - 1):
            at: int = pc.index(self._read(group, ["id"])["id"].cast("string"), id).as_py()
            if at >= 0:
                return int(self._starts[group] + at)
        return None

    @cached_property
    def made_from(self) -> str | None:
        """A digest that changes when the encoder or the data do, or None for a foreign file."""
        return self.about.get("made_from")

    def _vectors(self, group: int) -> np.ndarray:
        column = self._read(group, ["vector"])["vector"].combine_chunks()
        if column.null_count or column.flatten().null_count:
            raise ValueError(f"embeddings: {self.path} has rows without a vector in row group {group}.")
        values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dimension)
        return values

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                return file.read_row_group(group, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"embeddings: {self.path} is damaged in row group {group}: {error}") from error

    def _by_group(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each row group that holds some of ``rows``, and which of them it holds."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups):
            yield int(group), np.flatnonzero(groups == group)

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows: {rows.min()}..{rows.max()} leave the {len(self)} rows of {self.path}.")
        return rows


def write(
    out: Path,
    blocks: Iterable[tuple[Sequence[Item], np.ndarray]],
    dimension: int,
    about: dict[str, Any],
) -> None:
    """Write blocks of rows as a Parquet file that appears when it is whole; each block is one row group.

    Args:
        out: destination; its folder is made if missing.
        blocks: ``n`` items and their vectors ``(n, D)`` float32.
        dimension: D.
        about: what to record in the schema's metadata.

    Raises:
        FolderInUse: another process is writing this file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    fields = [("id", text), ("path", text), ("label", text), ("vector", pa.list_(pa.float32(), dimension))]
    schema = pa.schema(fields, metadata={_KEY: json.dumps(about)})
    # float32 noise neither compresses nor repeats; names do
    coding = {"id": "zstd", "path": "zstd", "label": "zstd", "vector.list.element": "none"}
    with _becoming(out) as file, pq.ParquetWriter(file, schema, compression=coding, use_dictionary=["label"]) as writer:
        for items, vectors in blocks:
            columns = [pa.array([getattr(item, name) for item in items], text) for name in ("id", "path", "label")]
            flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, dimension))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(items))


@contextmanager
def _becoming(out: Path) -> Iterator[IO[bytes]]:
    """Open what will replace ``out``, in a folder beside it that keeps a second writer out.

    A killed writer leaves that folder behind, under a name that says so; the next one clears it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with claim_folder(out.with_name(f".{out.name}.writing")) as folder:
        try:
            for left in folder.glob(".*.part"):
                left.unlink()
            with atomic(folder / out.name) as file:
                yield file
            os.replace(folder / out.name, out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
