"""A question and its answers, as :func:`~counterpoint.search.search` gives them and the page shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hit:
    """An answer: its rank from 1, its cosine similarity to the query, and what it is."""

    rank: int
    score: float
    row: int
    id: str
    path: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Query:
    """A question: its vector (D,), and for the page what it is called and its picture (H, W, 3) if it has one."""

    vector: np.ndarray
    name: str
    row: int | None = None
    label: str | None = None
    picture: np.ndarray | None = None
