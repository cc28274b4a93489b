"""Groups of items that a classifier may serve unequally, and whether the features are to blame: last-layer retraining.

Where a class comes mostly with one background, a classifier may read the background, and fail the few items of the
class on another. Its mean accuracy hides them; the *worst group's* does not. That leaves open whether the features lack
what is asked for or only the classifier disregards it. Deep Feature Reweighting answers by fitting a linear classifier
anew on held-out items of which every group gives equally many, so that the background tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterpoint.evaluation.embeddings import Embeddings
from counterpoint.evaluation.probes import FEW_LABELS_C, _fit, _labels_of, _model, _span, standardise


@dataclass(frozen=True)
class GroupScores:
    """How well each group is served.

    Attributes:
        accuracy: share of a group's items given the right label, by the group's number.
        count: items of a group that it was measured on.
        worst: the lowest of the accuracies.
        mean: accuracy over all items, whatever their group.
    """

    accuracy: dict[int, float]
    count: dict[int, int]
    worst: float
    mean: float


def group_accuracy(predictions: np.ndarray, test: Embeddings, groups: np.ndarray) -> GroupScores:
    """Accuracy of each group, of the worst one, and of all.

    Args:
        predictions: (N_test,) labels; of :func:`retrain_last_layer`, of :class:`Probe`, or of anything.
        test: (N_test, D) with labels; unlabelled items are left out.
        groups: integers (N_test,): the group of each item, mostly a number for each pair of class and background.

    Raises:
        ValueError: lengths that differ, groups that are no integers, or nothing labelled.
    """
    groups = _groups("groups", groups, test)
    predictions = np.asarray(predictions)
    if predictions.shape != (len(test),):
        raise ValueError(f"predictions: expected ({len(test)},), got {predictions.shape}.")
    if not test.labelled.any():
        raise ValueError("test: no item has a label.")
    right, groups = predictions[test.labelled] == test.known_labels, groups[test.labelled]
    names = np.unique(groups)
    accuracy = {int(name): float(right[groups == name].mean()) for name in names}
    count = {int(name): int((groups == name).sum()) for name in names}
    return GroupScores(accuracy, count, min(accuracy.values()), float(right.mean()))


def retrain_last_layer(
    held_out: Embeddings,
    groups: np.ndarray,
    test: Embeddings,
    *,
    draws: int = 20,
    seed: int = 0,
    c: float = FEW_LABELS_C,
) -> np.ndarray:
    """Labels by logistic regression on held-out items, equally many of each group: Deep Feature Reweighting (DFR).

    ``draws`` times, as many items as the smallest group has are drawn from each group and a classifier is fitted to
    them; the probabilities that they give are averaged (in the official code, their weights).

    Args:
        held_out: (N, D) with labels, of items that the encoder was *not* trained on; its mean and deviation standardise
            the features. The projection-head study takes the validation part.
        groups: integers (N,): the group of each item. Unlabelled items are left out.
        test: (N_test, D); its labels are not read.
        draws: 20, the number of retrainings in DFR's official code.
        seed: of the draws; the same items for the same groups, whatever the features.
        c: inverse strength of the penalty, as for :func:`few_label_probe`. The official code has an absolute penalty
            whose strength it chooses on half of the held-out items; this one is quadratic and fixed, as for all probes
            of few labels here, since the smallest group is often no more than that.

    Returns:
        int64 (N_test,), for :func:`group_accuracy`.

    Raises:
        ValueError: fewer than two classes, lengths or dimensions that differ, groups that are no integers, draws < 1,
            or smallest groups that leave a draw with one class.

    Reference: Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations, arXiv 2204.02937; by which
    Investigating the Benefits of Projection Head, arXiv 2403.11391, compares layers under spurious correlations.
    """
    labels = _labels_of(held_out)
    groups = _groups("groups", groups, held_out)[held_out.labelled]
    if draws < 1:
        raise ValueError(f"draws: expected at least 1, got {draws}.")
    x, x_test = standardise(held_out, held_out, test)
    x = x[held_out.labelled]
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    smallest = min(map(len, members))
    classes, total = held_out.classes, np.zeros((len(test), len(held_out.classes)))
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        chosen = np.concatenate([generator.permutation(items)[:smallest] for items in members])
        known = np.unique(labels[chosen])
        if len(known) < 2:
            raise ValueError(
                f"groups: the smallest has {smallest} items, and so many of each are all of class {known[0]}; give "
                "groups within which the class does not vary."
            )
        fitted, judged = _span(x[chosen], x_test)
        total[:, np.searchsorted(classes, known)] += _fit(_model(c), fitted, labels[chosen]).predict_proba(judged)
    found: np.ndarray = classes[total.argmax(1)]
    return found


def _groups(name: str, groups: np.ndarray, of: Embeddings) -> np.ndarray:
    groups = np.asarray(groups)
    if groups.shape != (len(of),) or groups.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected {len(of)} integers, got {groups.shape} {groups.dtype}.")
    return groups
