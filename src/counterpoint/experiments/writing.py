"""Scores of what a method writes about test items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from counterpoint.data import MultimodalDataset
    from counterpoint.evaluation import Evaluation

_ITEMS = 1000  # beam search takes a few milliseconds an item
_BATCH = 256


def with_captions(
    evaluation: Evaluation,
    method: Any,
    dataset: MultimodalDataset,
    indices: np.ndarray,
    seed: int,
    metrics: list[str] | None = None,
) -> Evaluation:
    """The scores of captions before those of the embeddings.

    Args:
        evaluation: of the embeddings.
        method: its ``write(batch)`` gives captions of a batch's items, or ``None``; ``written`` is the name of the
            modality of texts that they stand beside. With ``token_predictions(images, texts)`` and ``image`` it also
            tells how well it foresees the items' own captions.
        dataset: with one text an item or several, all of which count as right.
        indices: positions of the test items, of which up to 1,000 are written about, drawn at random.
        seed: of this draw.
        metrics: names; ``None``: all.
    """
    from lightning.fabric.utilities.apply_func import move_data_to_device

    from counterpoint.evaluation import OF_CAPTIONS, Evaluation, captioning, known_metrics, token_accuracy

    wanted = known_metrics(metrics) & set(OF_CAPTIONS)
    there = np.logical_and.reduce([dataset.present(name)[indices] for name in method.names])
    places = np.flatnonzero(there)
    chosen = np.sort(np.random.default_rng(seed).permutation(places)[:_ITEMS])
    if not wanted or not len(chosen):
        return evaluation
    captions: list[str] = []
    references: list[Any] = []
    foreseen: list[np.ndarray] = []
    method.eval()
    for start in range(0, len(chosen), _BATCH):
        batch = move_data_to_device(dataset[indices[chosen[start : start + _BATCH]]], method.device)
        written = method.write(batch)
        if written is None:
            return evaluation
        captions += written
        references += [text if isinstance(text, str) else list(text) for text in batch[method.written]]
        if "caption_tokens" in wanted and hasattr(method, "token_predictions"):
            said, right = method.token_predictions(batch[method.image], batch[method.written])
            foreseen.append(token_accuracy(said.cpu(), right.cpu(), method.objective.caption.pad))
    found = captioning(captions, references)
    if foreseen:
        found.items["caption_tokens"] = np.concatenate(foreseen)
        found.scores["caption_tokens"] = float(np.nanmean(found.items["caption_tokens"]))
    if len(chosen) < len(places):
        found.notes.append(f"captions: written of {len(chosen):,} of {len(places):,} test items, drawn at random.")
    scores = {name: found.scores[name] for name in OF_CAPTIONS if name in found.scores and name in wanted}
    items = {name: _spread(found.items[name], chosen, len(indices)) for name in scores if name in found.items}
    return Evaluation(
        scores | evaluation.scores, items | evaluation.items, evaluation.arrays, evaluation.notes + found.notes
    )


def with_answers(
    evaluation: Evaluation,
    method: Any,
    dataset: MultimodalDataset,
    indices: np.ndarray,
    metrics: list[str] | None = None,
) -> Evaluation:
    """The score of answers to the questions of test items before those of the embeddings.

    Args:
        evaluation: of the embeddings.
        method: its ``answer_scores(batch)`` says what the answers that it gives are worth, NaN where nobody knows; or
            ``None``.
        dataset, indices: the test items are ``dataset[indices]``.
        metrics: names; ``None``: all.
    """
    from counterpoint.evaluation import Evaluation, known_metrics

    found: list[np.ndarray] = []
    for start in range(0, len(indices), _BATCH) if "vqa" in known_metrics(metrics) else ():
        each = method.answer_scores(dataset[indices[start : start + _BATCH]])
        if each is None:
            return evaluation
        found.append(np.asarray(each, np.float32))
    worth = np.concatenate(found) if found else np.zeros(0, np.float32)
    if np.isnan(worth).all():
        return evaluation
    scores, items = {"vqa": float(np.nanmean(worth, dtype=np.float64))}, {"vqa": worth}
    return Evaluation(
        scores | evaluation.scores, items | evaluation.items, evaluation.arrays, evaluation.notes
    )  # fmt: skip


def _spread(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Values of some items as those of all (N,), NaN elsewhere."""
    whole = np.full(count, np.nan, np.float32)
    whole[places] = values
    return whole
