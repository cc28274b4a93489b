"""Classification without training: the class whose vector, of sentences that name it, is nearest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterpoint.evaluation.embeddings import UNLABELLED, unit_rows

_TOP = 5


@dataclass(frozen=True)
class ZeroShot:
    """How well classes are told by their names.

    Attributes:
        scores: ``accuracy``, the share of items whose nearest class is theirs; ``per_class``, the mean of the classes'
            own accuracies, as papers have it for sets of unequal classes; of more than five classes ``top5``, the share
            of items with theirs among the five nearest. From 0 to 1.
        right: float32 (N,), 1 where the nearest class is an item's own, else 0; NaN without a label.
    """

    scores: dict[str, float]
    right: np.ndarray


def class_ranks(vectors: np.ndarray, labels: np.ndarray, names: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """int64 (N,): how many wrong classes are as near to an item as its own, or nearer; K where it has none of them.

    Args:
        vectors: (N, D), of length 1.
        labels: (N,).
        names: (K,), the label of each class.
        classes: (K, D), of any length.
    """
    lengths = np.linalg.norm(classes, axis=1, keepdims=True)
    scores = vectors @ (classes / np.where(lengths > 0, lengths, 1)).T
    right = names[None] == labels[:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((scores >= best) & ~right).sum(axis=1))


def zero_shot_scores(vectors: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> ZeroShot:
    """Score items against the vectors of classes.

    Args:
        vectors: (N, D), raw.
        labels: (N,) integers below K, -1 for none.
        classes: (K, D), raw: of each class, such as the mean over sentences that name it.

    Raises:
        ValueError: naming the argument: shapes that do not match, values that are not finite, fewer than two classes, a
            label that is no class, or no item with a label.

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Equal
    scores, for which it gives nothing, count as wrong here.
    """
    vectors, classes = unit_rows("vectors", vectors), unit_rows("classes", classes)
    labels = np.asarray(labels)
    if len(classes) < 2 or classes.shape[1] != vectors.shape[1]:
        raise ValueError(f"classes: expected (K, {vectors.shape[1]}) with K >= 2, got {classes.shape}")
    if labels.shape != (len(vectors),) or labels.dtype.kind not in "iu" or labels.max(initial=0) >= len(classes):
        raise ValueError(f"labels: expected {len(vectors)} integers below {len(classes)}, -1 for none")
    known = labels != UNLABELLED
    if not known.any():
        raise ValueError("labels: expected at least one, and no item has any")
    ranks = class_ranks(vectors, labels, np.arange(len(classes)), classes)
    right = np.where(known, ranks < 1, np.nan).astype(np.float32)
    each = [right[labels == name].mean() for name in np.unique(labels[known])]
    scores = {"accuracy": float(right[known].mean()), "per_class": float(np.mean(each))}
    if len(classes) > _TOP:
        scores["top5"] = float((ranks[known] < _TOP).mean())
    return ZeroShot(scores, right)
