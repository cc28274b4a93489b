"""The test of composition in a run: does a test image go with its caption rather than with a rewrite of it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from counterpoint.data import MultimodalDataset, Splits
    from counterpoint.evaluation import CompositionalItem, Evaluation
    from counterpoint.evaluation.compositional import Compositional
    from counterpoint.findings import Finding

NAMES = ("compositional", "compositional_blind")
_ITEMS = 1000
_FOILS = 8  # of a caption: of each kind one, where it can be made
_SEED = 1  # one test for all runs, with other draws than the negatives of a training
_BATCH = 512
_WORDS = 3  # fewer have no order to speak of
_EXAMPLES = 16


def with_composition(
    evaluation: Evaluation, method: Any, dataset: MultimodalDataset, splits: Splits, metrics: list[str] | None = None
) -> tuple[Evaluation, list[Finding]]:
    """The scores of the test after those of the embeddings, and tables of what was asked.

    It needs a tower of images and one of texts. Where ``metrics`` does not ask for it, it is left out for captions of
    which fewer than half have three words. Foils are made by rules from the words of the training captions, the same
    for all runs on the same data.

    Args:
        evaluation: of the embeddings.
        method: with ``embed``.
        dataset: with images and texts.
        splits: training captions, and test items, of which up to 1,000 are asked about.
        metrics: names; ``None``: all.
    """
    from counterpoint.evaluation import Evaluation, compositional, known_metrics

    image, text = dataset.named("image"), dataset.named("text")
    wanted = {name for name in known_metrics(metrics) if name.partition(":")[0] in NAMES}
    if image is None or text is None or not wanted:
        return evaluation, []
    there = np.flatnonzero(dataset.present(image)[splits.test] & dataset.present(text)[splits.test])
    chosen = np.sort(np.random.default_rng(_SEED).permutation(there)[:_ITEMS])
    items = _items(dataset, splits, chosen, text, metrics is not None)
    if not items:
        if metrics is not None:
            evaluation.notes.append("compositional: left out, no test caption has a rewrite.")
        return evaluation, []
    images, captions, foils = _vectors(method, dataset, splits.test[chosen], image, text, items)
    rows, kinds = np.array([item.row for item in items]), [item.kind for item in items]
    found = compositional(images, captions, foils, rows, kinds)
    scores = {name: value for name, value in found.scores.items() if _named(name, wanted)}
    told = dataset[splits.test[chosen]][image] if dataset.shapes[image][0] in (1, 3) else None
    pictures = None if told is None else told.permute(0, 2, 3, 1).numpy()
    whole = Evaluation(evaluation.scores | scores, evaluation.items, evaluation.arrays, evaluation.notes)
    return whole, _tables(found, items, pictures)


def _named(name: str, wanted: set[str]) -> bool:
    return bool({name, name.partition(":")[0]} & wanted)


def _items(
    dataset: MultimodalDataset, splits: Splits, chosen: np.ndarray, text: str, asked: bool
) -> list[CompositionalItem]:
    from counterpoint.evaluation import compositional_items
    from counterpoint.mining import CaptionNegatives
    from counterpoint.mining.captions import KINDS, OTHER_KINDS
    from counterpoint.mining.words import split

    captions = dataset.subset(splits.test[chosen]).texts(text)
    if not asked and 2 * sum(len(split(caption)[0]) >= _WORDS for caption in captions) < len(captions):
        return []
    foils = CaptionNegatives(dataset.subset(splits.train).all_texts(text), _FOILS, KINDS + OTHER_KINDS, _SEED)
    items = compositional_items(captions, foils)
    return [item for item in items if item.kind != "fallback"]


def _vectors(
    method: Any, dataset: MultimodalDataset, indices: np.ndarray, image: str, text: str, items: list[CompositionalItem]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the images, and of the captions and foils of all questions; each text is embedded once."""
    import torch

    texts = {item.caption: 0 for item in items} | {item.foil: 0 for item in items}
    texts = {one: at for at, one in enumerate(texts)}
    told = list(texts)
    method.eval()
    with torch.inference_mode():
        words = [method.embed({text: told[at : at + _BATCH]})[text].float().cpu() for at in range(0, len(told), _BATCH)]
        pictures = []
        for at in range(0, len(indices), _BATCH):
            batch = dataset[indices[at : at + _BATCH]][image].to(method.device)
            pictures.append(method.embed({image: batch})[image].float().cpu())
    known = torch.cat(words).numpy()
    captions, foils = ([texts[getattr(item, of)] for item in items] for of in ("caption", "foil"))
    return torch.cat(pictures).numpy(), known[captions], known[foils]


def _tables(found: Compositional, items: Sequence[CompositionalItem], pictures: np.ndarray | None) -> list[Finding]:
    """How often each kind is right; and of each kind the questions that were answered worst."""
    from counterpoint.findings import Captions

    by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        by_kind[item.kind].append(at)
    counts, worst, seen = [], [], set()
    each = max(1, _EXAMPLES // len(by_kind))
    for kind, places in sorted(by_kind.items()):
        shares = (f"{answers[places].mean():.3f}" for answers in (found.right, found.blind))
        counts.append([_said(kind), f"{len(places):,}", *shares])
        shown = 0
        for at in sorted(places, key=lambda at: float(found.margins[at])):
            question = items[at].caption, items[at].foil
            if question not in seen and shown < each:
                seen.add(question)
                shown += 1
                worst.append(at)
    lines = [[_said(items[at].kind), items[at].caption, items[at].foil, f"{found.margins[at]:+.3f}"] for at in worst]
    return [
        Captions(
            "Captions against their rewrites",
            "Share of questions in which a test image scores higher with its caption than with a rewrite that is not "
            "true, by what was done to the caption; one half is chance. Last with the image of another item: what is "
            "told without seeing.",
            counts,
            ["rewrite", "questions", "right", "another image"],
        ),
        Captions(
            "Rewrites that were taken for the caption",
            "Of each kind the worst: the caption of a test item, the rewrite, and the cosine of the image with the "
            "caption minus that with the rewrite.",
            lines,
            ["rewrite", "caption", "rewritten", "difference"],
            None if pictures is None else pictures[[items[at].row for at in worst]],
        ),
    ]


def _said(kind: str) -> str:
    return kind.replace("_", " ")
