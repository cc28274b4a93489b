"""All measures of an embedding in one call, and their results on disk.

:func:`evaluate` gives every score that the data allow: with labels, what a classifier, a search and a clustering
make of the embedding; with targets, what regressions do; always, its geometry. Nothing is chosen on the test set. What
could not be measured is left out, and :attr:`Evaluation.notes` says why.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from counterpoint.evaluation import geometry, regression
from counterpoint.evaluation.clustering import clustering
from counterpoint.evaluation.embeddings import Embeddings
from counterpoint.evaluation.metrics import DESCRIPTIONS, OF_A_CLASSIFIER, OF_CAPTIONS, OF_MODALITIES, known_metrics
from counterpoint.evaluation.neighbours import knn, retrieval, top_k
from counterpoint.evaluation.probes import few_label_probe, linear_probe
from counterpoint.files import atomic, write_json

SHOTS = (1, 5, 10)
_OF_RIDGE = {"mae", "rmse", "r2", "pearson", "gm_error", "mae_many", "mae_medium", "mae_few"}


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        scores: a finite number for each name of :data:`DESCRIPTIONS` that could be measured.
        items: float32 (N_test,) where the score is their mean: NaN for test items that could not be judged (no label;
            for retrieval, the only one of their class; for a target, none). Significance is computed from them.
        arrays: ``spectrum`` float64 (min(N_test, D),); with labels ``predictions`` and ``probe_predictions``, int64
            (N_test,), and ``confusion`` int64 (K, K) of kNN: rows are true, columns predicted ``classes`` int64 (K,);
            with targets ``targets`` and ``target_predictions`` (N_test,), and ``target_edges`` (K + 1,) and
            ``target_counts`` (K,) of the training targets' bins.
        notes: sentences on what was left out, and what to beware of.
    """

    scores: dict[str, float] = field(default_factory=dict)
    items: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``evaluation.npz`` and then ``evaluation.json`` into ``folder`` (made if missing), each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"items/{name}": values for name, values in self.items.items()}
        arrays |= {f"arrays/{name}": values for name, values in self.arrays.items()}
        with atomic(folder / "evaluation.npz") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        write_json(folder / "evaluation.json", {"scores": self.scores, "notes": self.notes})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no evaluation in the folder.
            ValueError: files that are not an evaluation.
        """
        folder = Path(folder)
        for name in ("evaluation.json", "evaluation.npz"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"folder: {folder} holds no {name}; was the run finished and evaluated?")
        try:
            told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            scores, notes = dict(told["scores"]), list(told["notes"])
            parts: dict[str, dict[str, np.ndarray]] = {"items": {}, "arrays": {}}
            with np.load(io.BytesIO((folder / "evaluation.npz").read_bytes()), allow_pickle=False) as archive:
                for key in archive.files:
                    kind, _, name = key.partition("/")
                    parts[kind][name] = archive[key]
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"folder: the evaluation in {folder} cannot be read ({error}); evaluate again.") from error
        return cls(scores, parts["items"], parts["arrays"], notes)


def evaluate(
    train: Embeddings,
    val: Embeddings | None,
    test: Embeddings,
    *,
    seed: int = 0,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
    metrics: Iterable[str] | None = None,
) -> Evaluation:
    """Measure an embedding.

    Args:
        train: (N, D): the neighbours of kNN, the training set of the probes.
        val: (N_val, D): chooses the regularisation of the linear probe. None: it keeps a fixed one.
        test: (N_test, D): everything is reported on it.
        seed: of k-means, of the draws of few labels, of the sample for uniformity.
        pairs: embeddings (N_views, D) of two augmented views of the same items, for alignment and view recall.
        metrics: names from :data:`DESCRIPTIONS`; None: all that can be measured. Those :data:`OF_A_CLASSIFIER` are not
            measured here.

    Raises:
        ValueError: an unknown metric, dimensions that differ, or views that are not pairs.
    """
    wanted = known_metrics(metrics) - {*OF_A_CLASSIFIER, *OF_CAPTIONS, *OF_MODALITIES}
    widths = [part.vectors.shape[1] for part in (train, val, test) if part is not None]
    if len(set(widths)) > 1:
        raise ValueError(f"train, val, test: expected one dimension D, got {widths}.")
    result = Evaluation()
    for names, measure in _plan(train, val, test, seed, result):
        if wanted & names:
            measure()
    _geometry(test, seed, wanted, result)
    if pairs is None:
        missing = sorted(wanted & {"alignment", "view_recall@1"}) if metrics is not None else []
        result.notes.extend(f"{name}: left out, it needs two views of the items (pairs)." for name in missing)
    else:
        _views(pairs, result)
    return Evaluation(
        {name: result.scores[name] for name in DESCRIPTIONS if name in wanted and name in result.scores},
        {name: result.items[name] for name in DESCRIPTIONS if name in wanted and name in result.items},
        result.arrays,
        result.notes,
    )


def _plan(
    train: Embeddings, val: Embeddings | None, test: Embeddings, seed: int, result: Evaluation
) -> list[tuple[set[str], Callable[[], None]]]:
    """The measurements with labels and targets that the data allow, and a note on each that they do not."""
    measured = _regressions(train, val, test, seed, result)
    ranked = {*(f"recall@{k}" for k in (1, 5, 10)), "map"}
    if not len(train.classes) and not len(test.classes):
        if not measured:
            result.notes.append("No labels: only the geometry is measured.")
        return measured
    plan = measured
    if not len(test.classes):
        result.notes.append("No test item has a label: kNN, probes, retrieval and clustering are left out.")
        return plan
    _note_unlabelled(train, test, result)
    if len(train.classes) < 2:
        result.notes.append(f"{_few(train)} in the training set: kNN and probes are left out.")
    else:
        plan.append(({"knn"}, partial(_knn, train, test, result)))
        plan.append(({"probe"}, partial(_probe, train, val, test, result)))
        plan.extend(({f"probe_{k}"}, partial(_few_label_probe, train, test, k, seed, result)) for k in SHOTS)
    if len(test.classes) < 2:
        result.notes.append(f"{_few(test)} in the test set: retrieval and clustering are left out.")
    else:
        plan.append((ranked, partial(_retrieval, test, result)))
        plan.append(({"nmi", "ari", "cluster_accuracy"}, lambda: result.scores.update(clustering(test, seed=seed))))
    plan.append(({"tolerance"}, partial(_tolerance, test, result)))
    return plan


def _regressions(
    train: Embeddings, val: Embeddings | None, test: Embeddings, seed: int, result: Evaluation
) -> list[tuple[set[str], Callable[[], None]]]:
    """The measurements with targets."""
    if train.targets is None and test.targets is None:
        return []
    if len(train.known_targets) < 2 or not test.measured.any():
        part = "test" if len(train.known_targets) > 1 else "training"
        result.notes.append(f"Too few targets in the {part} set: regressions are left out.")
        return []
    for name, items in (("training", train), ("test", test)):
        if missing := int((~items.measured).sum()):
            result.notes.append(f"{missing} of {len(items)} {name} items have no target and do not count for it.")
    plan: list[tuple[set[str], Callable[[], None]]] = [
        (_OF_RIDGE, partial(_ridge, train, val, test, result)),
        *(({f"mae_{k}"}, partial(_few_target_ridge, train, test, k, seed, result)) for k in regression.SHOTS),
        ({"knn_mae"}, lambda: _record_error("knn_mae", regression.knn_regression(train, test), test, result)),
    ]
    if len(test.known_targets) > 2:
        plan.append(({"spearman"}, partial(_order, test, seed, result)))
    return plan


def _record_error(name: str, predicted: np.ndarray, test: Embeddings, result: Evaluation) -> None:
    """Keep the absolute errors (N_test,) of predictions (N_test,) or (draws, N_test), and their mean."""
    assert test.targets is not None
    errors = np.abs(np.atleast_2d(predicted) - test.targets).mean(axis=0)
    result.items[name] = errors.astype(np.float32)
    result.scores[name] = float(errors[test.measured].mean())


def _ridge(train: Embeddings, val: Embeddings | None, test: Embeddings, result: Evaluation) -> None:
    found, known, truth = regression.ridge(train, val, test), test.measured, test.known_targets
    _record_error("mae", found.predictions, test, result)
    wrong = found.predictions[known] - truth
    result.scores["rmse"] = float(np.sqrt(np.square(wrong).mean()))
    spread = float(np.square(truth - truth.mean()).sum())
    fit = {"pearson": regression.correlation(found.predictions[known], truth)}
    fit["r2"] = 1 - float(np.square(wrong).sum()) / spread if spread > 0 else float("nan")
    for name, value in fit.items():
        if np.isfinite(value):
            result.scores[name] = value
        else:
            result.notes.append(f"{name}: left out, the test targets or their predictions do not vary.")
    tiny = 1e-6 * float(np.ptp(train.known_targets))  # an error of 0 would make any mean 0
    result.scores["gm_error"] = float(np.exp(np.log(np.maximum(np.abs(wrong), tiny)).mean())) if tiny else 0.0
    assert test.targets is not None
    bins = regression.target_bins(train.known_targets)
    for name, errors in regression.by_group(np.abs(found.predictions - test.targets), test.targets, bins).items():
        result.items[f"mae_{name}"] = errors.astype(np.float32)
        result.scores[f"mae_{name}"] = float(np.nanmean(errors))
    result.arrays.update(targets=test.targets, target_predictions=found.predictions)
    result.arrays.update(target_edges=bins.edges, target_counts=bins.counts)
    if not found.validation:
        penalty = f"{found.penalty:g}"
        result.notes.append(f"mae: no validation targets to choose the penalty by; it is fixed at {penalty}.")


def _few_target_ridge(train: Embeddings, test: Embeddings, shots: int, seed: int, result: Evaluation) -> None:
    there = len(train.known_targets)
    if there < shots:
        result.notes.append(f"mae_{shots}: left out, the training set has only {there} targets.")
        return
    _record_error(f"mae_{shots}", regression.few_target_ridge(train, test, shots, seed=seed), test, result)


def _order(test: Embeddings, seed: int, result: Evaluation) -> None:
    value = regression.order_agreement(test, seed=seed)
    if np.isfinite(value):
        result.scores["spearman"] = value
    else:
        result.notes.append("spearman: left out, all test targets, or all embeddings, are equally far apart.")


def _few(part: Embeddings) -> str:
    return "Only one class" if len(part.classes) else "No label"


def _note_unlabelled(train: Embeddings, test: Embeddings, result: Evaluation) -> None:
    for name, part in (("training", train), ("test", test)):
        missing = int((~part.labelled).sum())
        if missing:
            result.notes.append(f"{missing} of {len(part)} {name} items have no label and count only for the geometry.")
    unseen = np.setdiff1d(test.classes, train.classes)
    if len(unseen) and len(train.classes):
        count = int(np.isin(test.known_labels, unseen).sum())
        result.notes.append(
            f"{len(unseen)} of {len(test.classes)} test classes do not occur in the training set: "
            f"kNN and probes are wrong on their {count} items."
        )


def _record(name: str, correct: np.ndarray, test: Embeddings, result: Evaluation) -> None:
    """Keep ``correct`` (N_test,) where a label is known, and its mean."""
    result.items[name] = np.where(test.labelled, correct, np.nan).astype(np.float32)
    result.scores[name] = float(np.mean(correct[test.labelled], dtype=np.float64))


def _knn(train: Embeddings, test: Embeddings, result: Evaluation) -> None:
    predicted = knn(train, test)
    _record("knn", predicted == test.labels, test, result)
    classes = np.union1d(train.classes, test.classes)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    known = test.labelled
    truth = np.searchsorted(classes, test.known_labels)
    np.add.at(confusion, (truth, np.searchsorted(classes, predicted[known])), 1)
    result.arrays.update(predictions=predicted, confusion=confusion, classes=classes)


def _probe(train: Embeddings, val: Embeddings | None, test: Embeddings, result: Evaluation) -> None:
    probe = linear_probe(train, val, test)
    _record("probe", probe.predictions == test.labels, test, result)
    result.arrays["probe_predictions"] = probe.predictions
    if not probe.validation:
        result.notes.append(f"probe: no validation labels to choose the regularisation by; C is fixed at {probe.c:g}.")


def _few_label_probe(train: Embeddings, test: Embeddings, shots: int, seed: int, result: Evaluation) -> None:
    predictions = few_label_probe(train, test, shots, seed=seed)
    _record(f"probe_{shots}", (predictions == test.labels).mean(axis=0), test, result)
    smallest = int(np.unique(train.known_labels, return_counts=True)[1].min())
    if smallest < shots:
        result.notes.append(f"probe_{shots}: the smallest training class has {smallest}, and gives all it has.")


def _retrieval(test: Embeddings, result: Evaluation) -> None:
    for name, values in retrieval(test).items():
        if np.isnan(values).all():
            result.notes.append(f"{name}: left out, no class has two test items.")
            continue
        result.items[name] = values
        result.scores[name] = float(np.nanmean(values, dtype=np.float64))


def _tolerance(test: Embeddings, result: Evaluation) -> None:
    if np.unique(test.known_labels, return_counts=True)[1].max() < 2:
        result.notes.append("tolerance: left out, no class has two test items.")
        return
    vectors, labels = torch.from_numpy(test.vectors[test.labelled]), torch.from_numpy(test.known_labels)
    result.scores["tolerance"] = float(geometry.tolerance(vectors, labels))


def _geometry(test: Embeddings, seed: int, wanted: set[str], result: Evaluation) -> None:
    vectors = torch.from_numpy(test.vectors)
    if "uniformity" in wanted:
        result.scores["uniformity"] = float(geometry.uniformity(vectors, seed=seed))
    if "effective_rank" in wanted:
        values = geometry.spectrum(vectors)
        result.arrays["spectrum"] = values.numpy()
        result.scores["effective_rank"] = geometry.entropy_rank(values)
    verdict = geometry.collapse(vectors)
    if verdict:
        result.notes.append(
            f"{verdict.kind.capitalize()} collapse: the unit vectors' spread is {verdict.spread:.3f} of the sphere's, "
            f"their effective rank {verdict.effective_rank:.1f} of {verdict.dimensions}."
        )


def _views(pairs: tuple[np.ndarray, np.ndarray], result: Evaluation) -> None:
    first, second = (Embeddings(view).vectors for view in pairs)
    if first.shape != second.shape:
        raise ValueError(f"pairs: expected two views of the same items, got shapes {first.shape} and {second.shape}.")
    result.scores["alignment"] = float(geometry.alignment(torch.from_numpy(first), torch.from_numpy(second)))
    nearest = top_k(first, second, 1)[1][:, 0].numpy()
    correct = (nearest == np.arange(len(nearest))).astype(np.float32)
    result.items["view_recall@1"] = correct
    result.scores["view_recall@1"] = float(correct.mean(dtype=np.float64))
