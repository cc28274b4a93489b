"""Pairs that differ in a detail: does each of two statements pick its own of two images? (MMVP's pair accuracy.)

Two images that a model takes for alike, and a sentence on each that is true of it alone. Guessing one sentence is right
half the time; a pair counts only where both are, which guessing reaches in one of four. So the score shows whether a
model has a feature at all, where accuracies over many different images let it live by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluation.embeddings import unit_rows
from counterpoint.evaluation.significance import share_interval


@dataclass(frozen=True)
class PairAccuracy:
    """Answers to a test of pairs.

    Attributes:
        scores: ``"pairs"``, the share of the P pairs in which both statements pick their own image (chance 1/4);
            ``"statements"``, that of single statements (chance 1/2); ``"pairs:NAME"`` of each category.
        low, high: of ``"pairs"``, the 95 % interval over pairs, Wilson's.
        margins: float32 (P, 2): the cosine of each statement with its own image minus that with the other.
        categories: of the pairs, (P,); ``None`` where there are none.
    """

    scores: dict[str, float]
    low: float
    high: float
    margins: np.ndarray
    categories: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """Bool (P,): which pairs count."""
        found: np.ndarray = np.all(self.margins > 0, axis=1)
        return found


def pair_accuracy(images: Any, statements: Any, categories: Sequence[Any] | None = None) -> PairAccuracy:
    """Score P pairs of images with a statement on each, from embeddings.

    For each statement a softmax over the two images, of any scale: it picks the one of the larger cosine. A statement
    that both images fit alike picks none.

    Args:
        images: (P, 2, D), raw.
        statements: (P, 2, D), raw; statement k of a pair is on its image k.
        categories: P names, such as the attribute in which the images of a pair differ.

    Raises:
        ValueError: naming the argument: shapes that do not match, no pair, values that are not finite.

    Reference: the MMVP-VLM benchmark (Tong et al., CVPR 2024, arXiv 2401.06209: 9 categories of 15 pairs), with which
    MCL (arXiv 2402.11816) shows that later stages see what the first does not.

    Relations: :func:`~counterpoint.evaluation.compositional` has one image and two texts.
    """
    x, t = np.asarray(images), np.asarray(statements)
    for name, values in (("images", x), ("statements", t)):
        if values.ndim != 3 or values.shape[1] != 2 or not len(values):
            raise ValueError(f"{name}: expected (pairs, 2, D), got {values.shape}")
    if x.shape != t.shape:
        raise ValueError(f"statements: expected {x.shape}, as the images, got {t.shape}")
    first, second = (
        unit_rows(n, v.reshape(-1, v.shape[2])).reshape(v.shape) for n, v in (("images", x), ("statements", t))
    )
    cosines = np.einsum("psd,pid->psi", second, first)
    margins = np.stack([cosines[:, k, k] - cosines[:, k, 1 - k] for k in (0, 1)], 1)
    margins[np.abs(margins) < 1e-6] = 0  # the rounding of an encoder's float32
    right: np.ndarray = np.all(margins > 0, axis=1)
    scores = {"pairs": float(right.mean()), "statements": float((margins > 0).mean())}
    names = None
    if categories is not None:
        names = np.asarray([str(name) for name in categories], dtype=object)
        if names.shape != right.shape:
            raise ValueError(f"categories: expected {len(right)} names, got {len(names)}")
        scores |= {f"pairs:{name}": float(right[names == name].mean()) for name in sorted(set(names))}
    return PairAccuracy(scores, *share_interval(right), margins.astype(np.float32), names)
