"""Arithmetic with pictures and words in a run: a picture, less one word and plus another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from counterpoint.data import MultimodalDataset
    from counterpoint.evaluation import Evaluation, SharedSpace
    from counterpoint.evaluation.arithmetic import Arithmetic
    from counterpoint.findings import Finding
    from counterpoint.mining import Change

NAMES = ("arithmetic", "arithmetic_blind")
_IMAGES = 2000
_LEAST = 20  # fewer images to ask about say nothing
_SEED = 1  # one test for all runs
_BATCH = 512
_EXAMPLES, _SHOWN = 6, 4
_LONGEST = 40


def with_arithmetic(
    evaluation: Evaluation,
    method: Any,
    dataset: MultimodalDataset,
    indices: np.ndarray,
    test: SharedSpace,
    metrics: list[str] | None = None,
) -> tuple[Evaluation, list[Finding]]:
    """The scores of the test after those of the embeddings, and pictures of what was found.

    It needs a tower of images and one of texts, and test captions that differ in a word. Where ``metrics`` does not ask
    for it, it is left out for fewer than 20 images to ask about.

    Args:
        evaluation: of the embeddings.
        method: with ``embed``.
        dataset: with images and texts.
        indices: of the test items, of which up to 2,000 are looked at.
        test: their embeddings.
        metrics: names; ``None``: all.
    """
    from counterpoint.evaluation import Evaluation, arithmetic, known_metrics
    from counterpoint.mining import word_changes
    from counterpoint.mining.words import split

    image, text = dataset.named("image"), dataset.named("text")
    wanted = known_metrics(metrics) & set(NAMES)
    if image is None or text is None or not wanted or not {image, text} <= test.vectors.keys():
        return evaluation, []
    there = np.flatnonzero(test.present[image] & test.present[text])
    some = np.sort(np.random.default_rng(_SEED).permutation(there)[:_IMAGES])
    captions = dataset.subset(indices[some]).texts(text)
    changes = word_changes(captions, seed=_SEED)
    asked = len({change.row for change in changes})
    if not asked or (metrics is None and asked < _LEAST):
        if metrics is not None:
            evaluation.notes.append("arithmetic: left out, no two test captions differ in a single word.")
        return evaluation, []
    said = [" ".join(split(caption)[0]).lower() for caption in captions]
    contents = np.unique(said, return_inverse=True)[1].reshape(-1)
    before, after = _vectors(method, text, changes)
    rows, targets = (np.array([getattr(change, of) for change in changes]) for of in ("row", "wanted"))
    found = arithmetic(test.vectors[image][some], before, after, rows, contents, contents[targets], count=_SHOWN)
    scores = {name: value for name, value in found.scores.items() if name in wanted}
    items = dict(evaluation.items)
    if "arithmetic" in scores:
        items["arithmetic"] = np.full(len(indices), np.nan, np.float32)
        items["arithmetic"][some] = found.per_item(len(some))
    whole = Evaluation(evaluation.scores | scores, items, evaluation.arrays, evaluation.notes)
    return whole, _pictures(found, changes, captions, dataset, indices[some], image)


def _vectors(method: Any, text: str, changes: Sequence[Change]) -> tuple[np.ndarray, np.ndarray]:
    """Of the words of all changes; each word is embedded once."""
    import torch

    words = list(dict.fromkeys(word for change in changes for word in (change.before, change.after)))
    place = {word: at for at, word in enumerate(words)}
    method.eval()
    with torch.inference_mode():
        parts = [words[at : at + _BATCH] for at in range(0, len(words), _BATCH)]
        known = torch.cat([method.embed({text: part})[text].float().cpu() for part in parts]).numpy()
    return known[[place[change.before] for change in changes]], known[[place[change.after] for change in changes]]


def _pictures(
    found: Arithmetic,
    changes: Sequence[Change],
    captions: Sequence[str],
    dataset: MultimodalDataset,
    indices: np.ndarray,
    image: str,
) -> list[Finding]:
    """A few questions of different pictures and words, evenly spread, and what is nearest."""
    from counterpoint.findings import Pictures

    if dataset.shapes[image][0] not in (1, 3):
        return []
    seen: dict[tuple[str, str], int] = {}
    for at, change in enumerate(changes):
        seen.setdefault((change.before, change.after), at)
    several = np.array(list(seen.values()))
    several = several[np.unique(np.linspace(0, len(several) - 1, min(_EXAMPLES, len(several))).round().astype(int))]
    rows = np.concatenate([found.rows[several][:, None], found.nearest[several]], 1)
    flat = dataset[indices[rows.reshape(-1)]][image].permute(0, 2, 3, 1).numpy()
    shown = flat.reshape(*rows.shape, *flat.shape[1:])
    told = []
    for at, row in zip(several, rows, strict=True):
        change = changes[at]
        told.append(
            [f"{change.before} → {change.after}: {_short(captions[row[0]])}", *(_short(captions[k]) for k in row[1:])]
        )
    about = (
        "Left, a test picture with its caption, of which one word is to become another: its vector, less that of the "
        f"word and plus that of the other. Then what is nearest to that among {len(captions)} test pictures, itself "
        f"left out. Averaged over pictures, {found.scores['arithmetic']:.1%} of {len(changes):,} such questions find a "
        f"picture with the caption asked for, {found.scores['arithmetic_blind']:.1%} without adding any words."
    )
    columns = ["picture", *(str(at) for at in range(1, rows.shape[1]))]
    return [Pictures("Pictures by arithmetic", about, shown, columns, told)]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
