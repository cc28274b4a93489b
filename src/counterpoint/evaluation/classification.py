"""What a trained classifier is worth: how often it is right, on which classes, and how compact it made them."""

from __future__ import annotations

import numpy as np
import torch

from counterpoint.evaluation import geometry
from counterpoint.evaluation.embeddings import Embeddings
from counterpoint.evaluation.evaluate import Evaluation


def classification(predictions: np.ndarray, test: Embeddings, classes: int, taught: np.ndarray) -> Evaluation:
    """Score a classifier's predictions.

    Args:
        predictions: int64 (N_test,) from 0 to ``classes - 1``.
        test: (N_test, D) the features that were classified, with their labels.
        classes: C.
        taught: int64, labels of the items that the classifier was trained on; -1 is none.

    Returns:
        Scores ``accuracy`` and ``scatter``, ``items["accuracy"]``, and the arrays ``classifier_predictions`` (N_test,),
        ``classifier_confusion`` int64 (C, C), true classes by row, and ``class_accuracy`` float64 (C,), NaN for a class
        without test items. Nothing where no test item has a label.

    Raises:
        ValueError: predictions of another number than items.
    """
    predictions = np.asarray(predictions, np.int64)
    if predictions.shape != (len(test),):
        raise ValueError(f"predictions: expected ({len(test)},), one for each test item, got {predictions.shape}.")
    result, known = Evaluation(), test.labelled
    if not known.any():
        return result
    truth, correct = test.known_labels, predictions == test.labels
    result.scores["accuracy"] = float(correct[known].mean(dtype=np.float64))
    result.items["accuracy"] = np.where(known, correct, np.nan).astype(np.float32)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, predictions[known]), 1)
    counts = confusion.sum(axis=1)
    shares = np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)
    result.arrays.update(
        classifier_predictions=predictions, classifier_confusion=confusion, class_accuracy=shares.astype(np.float64)
    )
    ratio = geometry.scatter(torch.from_numpy(test.vectors[known]), torch.from_numpy(truth))
    if np.isfinite(ratio):
        result.scores["scatter"] = ratio
    untaught = np.setdiff1d(truth, taught)
    if len(untaught):
        result.notes.append(
            f"accuracy: {len(untaught)} of {len(test.classes)} test classes have no label in training, "
            f"so their {int(np.isin(truth, untaught).sum())} items count as wrong."
        )
    return result
