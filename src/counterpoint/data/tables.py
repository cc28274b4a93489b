"""Tables: CSV, TSV, JSON lines and Parquet files, read in blocks of rows.

A :class:`Table` lists its columns and gives blocks of the columns asked for; that is all that
:mod:`counterpoint.data.columns` needs to make a dataset of them, and Hugging Face datasets become tables too.
"""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from counterpoint.data import cache as keeping
from counterpoint.data.folders import SPLIT_NAMES

if TYPE_CHECKING:
    import pandas as pd

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_BLOCK = 8192  # rows of numbers or paths at a time
_HEAVY_BLOCK = 256  # rows that may hold images


Blocks: TypeAlias = "Callable[[Sequence[str]], Iterator[pd.DataFrame]]"
_Read: TypeAlias = "tuple[list[str], Blocks, dict[str, list[str]]]"


@dataclass(frozen=True)
class Table:
    """A table that is read in blocks.

    Attributes:
        name: short name.
        columns: their names.
        blocks: starts an iterator over data frames that hold the columns asked for.
        fingerprint: changes when the table does.
        size: bytes on disk.
        base: what relative image paths are relative to.
        classes: names of the classes of the columns that have some.
        given: the split that all its rows belong to.
    """

    name: str
    columns: list[str]
    blocks: Blocks
    fingerprint: str
    size: int
    base: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    given: str | None = None

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return [value for block in self.blocks([name]) for value in block[name].tolist()]


def open_table(path: Path, given: str | None = None) -> Table:
    """Open a table file.

    Raises:
        ValueError: it cannot be read, has no header, no rows, or two columns of one name.
    """
    try:
        columns, blocks, classes = _READERS[path.suffix.lower()](path)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and not type(error).__name__.startswith("Arrow"):
            raise
        raise _unreadable(path, error) from error
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"source: {path} has more than one column named {', '.join(map(repr, twice))}. Rename them.")
    size, base = path.stat().st_size, path.absolute().parent

    def named(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        try:
            yield from blocks(wanted)
        except (ValueError, OSError) as error:
            raise _unreadable(path, error) from error

    return Table(path.stem, columns, named, keeping.mark(path), size, base, classes, given)


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"source: {path} cannot be read as a table: {error}")


def _csv(path: Path, separator: str = ",") -> _Read:
    with open(path, newline="", encoding="utf-8-sig") as file:
        columns = next(csv.reader(file, delimiter=separator), [])
    if not columns:
        raise ValueError("it is empty; the first line must name the columns")
    if all(is_number(name) for name in columns):
        raise ValueError(f"its first line must name the columns, but holds the numbers {', '.join(columns[:4])}")

    def blocks(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        import pandas as pd

        # all columns, since pandas overlooks a row of too many fields when told which columns to use; and as text,
        # since a type guessed block by block would make one label 1 here and "1" there
        options = {"dtype": str, "keep_default_na": False, "index_col": False, "encoding": "utf-8-sig"}
        with pd.read_csv(path, sep=separator, chunksize=_BLOCK, **options) as reader:
            while True:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error", pd.errors.ParserWarning)
                        block = next(reader, None)
                except pd.errors.ParserWarning as error:
                    raise ValueError(f"the rows have more fields than the header's {len(columns)}") from error
                if block is None:
                    return
                yield block[list(wanted)]

    return columns, blocks, {}


def split_of(path: Path) -> str | None:
    """The split that a file's name begins with: ``train.csv``, ``test-00000-of-00002.parquet``."""
    return SPLIT_NAMES.get(re.split(r"[^a-z]", path.stem.lower())[0])


def is_number(text: str) -> bool:
    """Whether a text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _jsonl(path: Path) -> _Read:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one column named {', '.join(map(repr, twice))}")
        return dict(found)

    def rows() -> Iterator[dict[str, Any]]:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        row = json.loads(line, object_pairs_hook=pairs)
                    except ValueError as error:
                        raise ValueError(f"line {number}: {error}") from error
                    if not isinstance(row, dict):
                        raise ValueError(f"line {number}: expected an object {{...}}")
                    yield row

    def blocks(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        import pandas as pd

        lines = rows()
        while chunk := list(islice(lines, _BLOCK)):
            data = {name: pd.Series([row.get(name) for row in chunk], dtype=object) for name in wanted}
            yield pd.DataFrame(data)

    columns: dict[str, None] = {}
    for row in islice(rows(), _BLOCK):  # a column may be missing from the first line
        columns.update(dict.fromkeys(row))
    if not columns:
        raise ValueError("it is empty")
    return list(columns), blocks, {}


def _parquet(path: Path) -> _Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow

    def blocks(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        # the buffer size makes Arrow read a column of images page by page, not a row group at once
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            heavy = any(not pa.types.is_primitive(schema.field(name).type) for name in wanted)
            rows = _HEAVY_BLOCK if heavy else _BLOCK
            for batch in file.iter_batches(rows, columns=list(wanted)):
                yield batch.to_pandas()

    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = {name: kind["names"] for name, kind in described.items() if isinstance(kind, dict) and kind.get("names")}
    return list(schema.names), blocks, classes


_READERS: dict[str, Callable[[Path], _Read]] = {
    ".csv": _csv,
    ".tsv": partial(_csv, separator="\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
