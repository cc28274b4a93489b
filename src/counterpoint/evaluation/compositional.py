"""Compositional accuracy: does an image go with its caption rather than with a rewrite that has the same words?

The tests of the literature, ARO and SugarCrepe, ask that of their own pictures; :func:`compositional_items` asks it of
anybody's: each caption is paired with *foils*, rewrites of it that are not true, and the model is right where the image
scores higher with the caption than with the foil. A model that reads a caption as a bag of words is at chance, a half,
where words changed places.

A foil may also be worse for a reason that has nothing to do with the picture, such as its grammar. The blind score is
that of the same test with the picture of another item: only what is above it, too, can have been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluation.embeddings import unit_rows

# of the kinds of rewrites, what a score is called
GROUPS = {
    "reorder": "order",
    "swap_nouns": "swap",
    "swap_adjectives": "swap",
    "replace_adjectives": "replace",
    "replace_nouns": "replace",
    "replace_relations": "relation",
    "add_nouns": "add",
    "add_adjectives": "add",
}


@dataclass(frozen=True)
class CompositionalItem:
    """A question: which of two texts belongs to an image?

    Attributes:
        row: of the image.
        caption: the true text.
        foil: the other one.
        kind: how the foil was made.
    """

    row: int
    caption: str
    foil: str
    kind: str


def compositional_items(
    captions: Sequence[str | Sequence[str] | None], foils: Callable[[str], Iterable[tuple[str, str]]]
) -> list[CompositionalItem]:
    """The test of a data set: every foil of every caption.

    Args:
        captions: of each image, in the order of the images; of several the first; ``None`` or an empty text: left out.
        foils: caption -> (text, kind) of each foil, such as :class:`~counterpoint.mining.CaptionNegatives`. To be fair
            to methods that train with foils, take those of captions that are not trained on.
    """
    items = []
    for row, texts in enumerate(captions):
        caption = texts if isinstance(texts, str) or texts is None else next(iter(texts), None)
        if caption:
            items += [CompositionalItem(row, caption, text, kind) for text, kind in foils(caption)]
    return items


@dataclass(frozen=True)
class Compositional:
    """Answers to the questions of a test.

    Attributes:
        scores: ``"compositional"``, the mean of the groups that there are; each group, ``"compositional:swap"``,
            ``":replace"``, ``":add"``, ``":order"``, ``":relation"``; and ``"compositional_blind"``, the mean of the
            groups with the image of another item, where there is another. From 0 to 1; one half is chance.
        right: float32 (M,), 1 where the caption scored higher, 0 where the foil did, 1/2 where both did alike.
        blind: the same with the image of the next item.
        margins: float32 (M,), cosine with the caption minus that with the foil.
        rows, kinds: of the questions, (M,).
    """

    scores: dict[str, float]
    right: np.ndarray
    blind: np.ndarray
    margins: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray

    def per_item(self, count: int) -> np.ndarray:
        """Mean answer of each of ``count`` images, NaN where there is no question: float32 (count,)."""
        asked = np.bincount(self.rows, minlength=count)
        with np.errstate(invalid="ignore"):
            return (np.bincount(self.rows, self.right, minlength=count) / asked).astype(np.float32)


def compositional(images: Any, captions: Any, foils: Any, rows: Any, kinds: Sequence[str]) -> Compositional:
    """Score a test from embeddings.

    Args:
        images: (N, D), raw.
        captions, foils: (M, D), raw: of the two texts of each question.
        rows: (M,) integers, the image of each question.
        kinds: M names: those of :data:`GROUPS`, or any other, which is then a group of its own.

    Raises:
        ValueError: naming the argument: no question, shapes that do not match, values that are not finite, a row that
            is none.

    Relations: the scores of SugarCrepe (its groups replace, swap, add) and of ARO (relation, attribute, order) are the
    same accuracies on their own pictures. Equal scores, for which they give nothing, count one half here.
    """
    images, captions, foils = (unit_rows(name, x) for name, x in zip(_NAMES, (images, captions, foils), strict=True))
    rows, names = np.asarray(rows), np.asarray(kinds, dtype=object)
    if not len(captions):
        raise ValueError("captions: expected at least one question, got none: no caption has a foil")
    for name, x in (("captions", captions), ("foils", foils)):
        if x.shape != (len(captions), images.shape[1]):
            raise ValueError(f"{name}: expected {(len(captions), images.shape[1])}, got {x.shape}")
    if rows.shape != (len(captions),) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(images):
        raise ValueError(f"rows: expected {len(captions)} integers from 0 to {len(images) - 1}")
    if names.shape != rows.shape:
        raise ValueError(f"kinds: expected {len(captions)} names, got {names.shape}")
    margins = _margins(images[rows], captions, foils)
    right, scores = _right(margins), {}
    for name, value in _grouped(right, names).items():
        scores[f"compositional:{name}"] = value
    scores = {"compositional": float(np.mean(list(scores.values()))), **scores}
    asked = np.unique(rows)
    other = np.roll(asked, -1)[np.searchsorted(asked, rows)]  # the next image that is asked about
    blind = np.full(len(right), np.nan, np.float32)
    if len(asked) > 1:
        blind = _right(_margins(images[other], captions, foils))
        scores["compositional_blind"] = float(np.mean(list(_grouped(blind, names).values())))
    return Compositional(scores, right, blind, margins.astype(np.float32), rows, names)


_NAMES = ("images", "captions", "foils")


def _margins(images: np.ndarray, captions: np.ndarray, foils: np.ndarray) -> np.ndarray:
    margins: np.ndarray = (images * captions).sum(1) - (images * foils).sum(1)
    return margins


def _right(margins: np.ndarray) -> np.ndarray:
    """What differs by no more than the rounding of the encoder's float32 is alike."""
    tie = np.abs(margins) < 1e-6
    return np.where(tie, 0.5, margins > 0).astype(np.float32)


def _grouped(right: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    groups = np.asarray([GROUPS.get(kind, kind) for kind in kinds], dtype=object)
    return {str(name): float(right[groups == name].mean()) for name in sorted(set(groups))}
