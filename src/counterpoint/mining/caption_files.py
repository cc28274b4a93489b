"""Captions and rewrites of them that are not true, as a language model or anybody has written them into a file."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path


def read_negatives(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Captions and their negatives from a file that a language model, or anybody, has written.

    Args:
        path: ``.jsonl``, a line ``{"caption": "...", "negatives": ["...", ...]}`` for each caption, or ``.csv`` with
            the columns ``caption`` and ``negative``, a row for each negative. A caption may come several times.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, a line that is no such object, or a missing column, with its line.
    """
    path = Path(path)
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise ValueError(f"path: expected a file ending in .jsonl or .csv, got {path.name}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _json_lines(path, file) if path.suffix.lower() == ".jsonl" else _csv_rows(path, file)
        for caption, negatives in rows:
            found[caption] += negatives
    return dict(found)


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            caption, negatives = row["caption"], row["negatives"]
        except (json.JSONDecodeError, KeyError, TypeError):
            caption = negatives = None
        if (
            not isinstance(caption, str)
            or not isinstance(negatives, list)
            or not all(isinstance(n, str) for n in negatives)
        ):
            expected = '{"caption": "...", "negatives": ["...", ...]}'
            raise ValueError(f"path: {path}, line {number}: expected {expected}, got {line.strip()[:80]}")
        yield caption, negatives


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    table = csv.DictReader(lines)
    missing = {"caption", "negative"} - set(table.fieldnames or ())
    if missing:
        raise ValueError(f"path: {path}: expected the columns caption and negative, and there is no {min(missing)}")
    for row in table:
        if not row["caption"] or not row["negative"]:
            raise ValueError(
                f"path: {path}, line {table.line_num}: expected a caption and a negative, and one is empty"
            )
        yield row["caption"], [row["negative"]]
