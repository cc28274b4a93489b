"""Arithmetic with texts: a picture, less one word and plus another, should lie near pictures that show the change.

SIMAT (Couairon et al., CVPR workshops 2022, arXiv 2112.03162) asks it of its own pictures: from a cat on the grass,
less "cat" and plus "dog", to a dog on the grass. Fahim et al. 2024 (arXiv 2405.18570) measure with it what closing the
gap between modalities is good for: a difference of texts moves a picture the right way only where both modalities use
the same directions. :func:`arithmetic` asks it of anybody's pictures whose captions differ in a word
(:func:`~counterpoint.mining.word_changes` finds them).

The picture nearest to one may differ from it by a word anyway. The blind score is what is found without the words: only
what is above it was said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluation.embeddings import unit_rows

_BLOCK = 1024
_NAMES = ("images", "before", "after")


@dataclass(frozen=True)
class Arithmetic:
    """Answers to the questions of a test.

    Attributes:
        scores: ``"arithmetic"``, the share of questions whose nearest image has the caption that was asked for,
            averaged over the images that are asked about; ``"arithmetic_blind"``, the same without adding any words.
        right: bool (M,), of each question.
        blind: the same without any words.
        nearest: int64 (M, K), the images found, nearest first.
        rows: int64 (M,), the image that each question is about.
    """

    scores: dict[str, float]
    right: np.ndarray
    blind: np.ndarray
    nearest: np.ndarray
    rows: np.ndarray

    def per_item(self, count: int) -> np.ndarray:
        """Share of right answers of each of ``count`` images, NaN where there is no question: float32 (count,)."""
        return _per_item(self.right, self.rows, count)


def arithmetic(
    images: Any,
    before: Any,
    after: Any,
    rows: Any,
    contents: Any,
    wanted: Any,
    *,
    scale: float = 1.0,
    count: int = 5,
) -> Arithmetic:
    """Score a test from embeddings.

    With unit vectors the question is ``x + scale (after - before)``, and the answer the image with the largest cosine
    to it; the image that is asked about is left out.

    Args:
        images: (N, D), raw.
        before, after: (M, D), raw: of the word that goes and the one that comes, of each question.
        rows: (M,) integers, the image of each question.
        contents: (N,) integers: equal numbers for images of equal captions.
        wanted: (M,) integers, the content that is asked for.
        scale: of the difference; 1, as in SIMAT for CLIP.
        count: K, images kept for each question.

    Raises:
        ValueError: naming the argument: no question, fewer than two images, shapes that do not match, values that are
            not finite, a row that is none.
    """
    x, first, second = (unit_rows(name, value) for name, value in zip(_NAMES, (images, before, after), strict=True))
    if len(x) < 2:
        raise ValueError(f"images: expected at least 2, one to ask about and one to find, got {len(x)}")
    if not len(first):
        raise ValueError("before: expected at least one question, got none: no two captions differ in a word")
    for name, value in (("before", first), ("after", second)):
        if value.shape != (len(first), x.shape[1]):
            raise ValueError(f"{name}: expected {(len(first), x.shape[1])}, got {value.shape}")
    rows = _whole("rows", rows, len(first))
    if rows.min() < 0 or rows.max() >= len(x):
        raise ValueError(f"rows: expected integers from 0 to {len(x) - 1}, got {rows.min()} to {rows.max()}")
    contents, wanted = _whole("contents", contents, len(x)), _whole("wanted", wanted, len(first))
    found = _nearest(x, x[rows] + scale * (second - first), rows, count)
    alone = _nearest(x, x[rows], rows, 1)
    right, blind = (contents[answers[:, 0]] == wanted for answers in (found, alone))
    scores = {
        name: float(np.nanmean(_per_item(answers, rows, len(x)), dtype=np.float64))
        for name, answers in (("arithmetic", right), ("arithmetic_blind", blind))
    }
    return Arithmetic(scores, right, blind, found, rows)


def _nearest(x: np.ndarray, queries: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(M, K) rows of ``x`` with the largest products, the question's own left out; of equal ones the first."""
    found = []
    for start in range(0, len(queries), _BLOCK):
        some = rows[start : start + _BLOCK]
        scores = queries[start : start + _BLOCK] @ x.T
        scores[np.arange(len(some)), some] = -np.inf
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, : min(count, len(x) - 1)])
    return np.concatenate(found)


def _per_item(answers: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    asked = np.bincount(rows, minlength=count)
    with np.errstate(invalid="ignore"):
        return (np.bincount(rows, answers, minlength=count) / asked).astype(np.float32)


def _whole(name: str, values: Any, count: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected {count} integers, got {array.shape} {array.dtype}")
    return array.astype(np.int64)
