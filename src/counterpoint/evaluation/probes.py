"""Probes: what a linear classifier can read off a frozen embedding.

The *linear probe* is multinomial logistic regression on features standardised with the training set's mean and standard
deviation. Its regularisation is chosen by accuracy on the validation set and nowhere else; the classifier is then the
one fitted on the training set (not refitted with the validation items, so that the choice still fits the classifier).
*Few-label probes* see k labels of each class, drawn several times; they keep one regularisation, fixed beforehand,
since a validation set would give away many more labels than the k in question (Oliver et al. 2018, "Realistic
Evaluation of Deep Semi-Supervised Learning Algorithms"). Their features are centred and divided by one number instead
of one per dimension: standardising blows the idle dimensions up to the size of the telling ones, and a handful of
labels cannot tell them apart (with 1 label per class on the principal components of digits .44 instead of .67). They
are thus indifferent to a rotation of the embedding.

The fit is scikit-learn's L-BFGS along the path of falling regularisation, each fit starting from the last. The penalty
acts on standardised features divided by ``sqrt(D)``: their rows have length about one whatever D is, so that a
regularisation means the same for embeddings of different width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from counterpoint.evaluation.embeddings import Embeddings

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# Inverse strengths, from strong to weak. Beyond 1e4 nothing changes: the fit stops at its tolerance.
GRID = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)
FEW_LABELS_C = 1e1
# The weaker the penalty the slower the fit; past the best one accuracy falls steadily, so the path ends after so many
# steps without a gain.
PATIENCE = 2


@dataclass(frozen=True)
class Probe:
    """A linear probe and how it was chosen.

    Attributes:
        predictions: int64 (N_test,): labels.
        c: the inverse strength of the penalty that was chosen.
        validation: accuracy on the validation set for each value tried; empty without labels there.
    """

    predictions: np.ndarray
    c: float
    validation: dict[float, float]


def linear_probe(train: Embeddings, val: Embeddings | None, test: Embeddings, *, grid: Sequence[float] = GRID) -> Probe:
    """Logistic regression on ``train``, its regularisation chosen on ``val``, its predictions for ``test``.

    Args:
        train: (N, D) with labels of at least two classes; unlabelled items only help to standardise.
        val: (N_val, D) with labels. Without any (or None), :data:`FEW_LABELS_C` is used.
        test: (N_test, D); its labels are not read.
        grid: inverse strengths C of the penalty ``|W|^2 / 2C`` against the summed cross-entropy. Of equally accurate
            ones the strongest penalty wins; after :data:`PATIENCE` values without a gain weaker ones are not tried.

    Raises:
        ValueError: fewer than two classes in ``train``, dimensions that differ, or a grid empty or not positive.
    """
    labels = _labels_of(train)
    if not grid or min(grid) <= 0:
        raise ValueError(f"grid: expected positive numbers, got {grid!r}.")
    if val is None or not val.labelled.any():
        x, x_test = standardise(train, train, test)
        x, x_test = _span(x[train.labelled], x_test)
        return Probe(_fit(_model(FEW_LABELS_C), x, labels).predict(x_test), FEW_LABELS_C, {})
    x, x_val, x_test = standardise(train, train, val, test)
    x, x_val, x_test = _span(x[train.labelled], x_val[val.labelled], x_test)
    y_val = val.known_labels
    model = _model(min(grid))
    best, chosen, since = -1.0, 0.0, 0
    predictions, validation = np.empty(0, np.int64), {}
    for c in sorted(map(float, grid)):
        _fit(model.set_params(C=c), x, labels)
        validation[c] = float((model.predict(x_val) == y_val).mean())
        since += 1
        if validation[c] > best:
            best, chosen, since, predictions = validation[c], c, 0, model.predict(x_test)
        if since == PATIENCE:
            break
    return Probe(predictions, chosen, validation)


def few_label_probe(
    train: Embeddings, test: Embeddings, shots: int, *, draws: int = 5, seed: int = 0, c: float = FEW_LABELS_C
) -> np.ndarray:
    """Logistic regression on ``shots`` labels of each class, for several draws of them.

    The draws depend on the labels of ``train``, ``shots`` and ``seed`` only: methods compared on the same split see the
    same items. Mean and length of the features are those of the whole training set, which needs no labels
    (:func:`rescale`).

    Args:
        train: (N, D) with labels of at least two classes.
        test: (N_test, D); its labels are not read.
        shots: labels per class; a class with fewer gives all it has.
        draws: how often.
        seed: of the draws.
        c: inverse strength of the penalty, fixed.

    Returns:
        int64 (draws, N_test): labels.

    Raises:
        ValueError: fewer than two classes in ``train``, dimensions that differ, or counts below one.
    """
    labels = _labels_of(train)
    if shots < 1 or draws < 1:
        raise ValueError(f"shots, draws: expected at least 1, got {shots} and {draws}.")
    x_train, x_test = rescale(train, train, test)
    x_train = x_train[train.labelled]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    predictions = np.empty((draws, len(test)), np.int64)
    for draw in range(draws):
        generator = np.random.default_rng([seed, shots, draw])
        chosen = np.concatenate([generator.permutation(items)[:shots] for items in members])
        x, judged = _span(x_train[chosen], x_test)
        predictions[draw] = _fit(_model(c), x, labels[chosen]).predict(judged)
    return predictions


def standardise(train: Embeddings, *sets: Embeddings) -> list[np.ndarray]:
    """Vectors of ``sets``, float32, with the mean and standard deviation of ``train``, divided by ``sqrt(D)``.

    A dimension that does not vary in ``train`` carries nothing and becomes 0.

    Raises:
        ValueError: dimensions that differ.
    """
    _check_width(train, sets)
    known = train.vectors.astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    varies = deviation > 1e-6 * np.abs(known).max(axis=0)  # what float32 cannot tell from a constant is none
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0) / known.shape[1] ** 0.5
    return [((other.vectors - mean) * scale).astype(np.float32) for other in sets]


def rescale(train: Embeddings, *sets: Embeddings) -> list[np.ndarray]:
    """Vectors of ``sets``, float32, minus the mean of ``train``, divided by the root mean square length around it.

    Raises:
        ValueError: dimensions that differ.
    """
    _check_width(train, sets)
    known = train.vectors.astype(np.float64)
    mean = known.mean(axis=0)
    length = np.square(known - mean).sum(axis=1).mean() ** 0.5
    scale = 1 / length if length > 1e-6 * np.abs(known).max() else 0.0  # below lies float32's rounding of a constant
    return [((other.vectors - mean) * scale).astype(np.float32) for other in sets]


def _check_width(train: Embeddings, sets: Sequence[Embeddings]) -> None:
    for other in sets:
        if other.vectors.shape[1] != train.vectors.shape[1]:
            raise ValueError(f"test: has {other.vectors.shape[1]} dimensions where train has {train.vectors.shape[1]}.")


def _span(x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Coordinates within the span of the rows of ``x``, where these are fewer than the dimensions.

    The weights of a classifier with an L2 penalty lie in the span of the rows that it is fitted on (Kimeldorf & Wahba
    1971), so that the classifier is the same and the fit many times smaller.
    """
    if len(x) >= x.shape[1]:
        return [x, *others]
    basis = np.linalg.qr(x.T)[0]
    return [x @ basis, *(other @ basis for other in others)]


def _model(c: float) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, tol=1e-5, max_iter=100, warm_start=True)


def _fit(model: LogisticRegression, x: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # 100 steps from the neighbouring solution leave the accuracy still; separable classes have no optimum to reach
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, labels)


def _labels_of(train: Embeddings) -> np.ndarray:
    if len(train.classes) < 2:
        raise ValueError(f"train: a probe needs labels of at least 2 classes, got {len(train.classes)}.")
    return train.known_labels
