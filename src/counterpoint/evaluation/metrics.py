"""The scores there are: what each is called, what it means, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DESCRIPTIONS = {
    "accuracy": "Share of test items that the classifier trained with the encoder gives the right class.",
    "vqa": "What the answers to test questions are worth: 1 where three people gave the answer, less where fewer did.",
    "scatter": "Variance of the features within classes over that between them: low is compact and far apart.",
    "knn": "Share of test items whose 20 nearest training items vote for the right class.",
    "probe": "Accuracy of a linear classifier trained on the frozen embeddings with all training labels.",
    "probe_1": "Accuracy of a linear classifier trained with 1 label per class, averaged over 5 draws of labels.",
    "probe_5": "Accuracy of a linear classifier trained with 5 labels per class, averaged over 5 draws of labels.",
    "probe_10": "Accuracy of a linear classifier trained with 10 labels per class, averaged over 5 draws of labels.",
    "recall@1": "Share of test items whose nearest other test item is of the same class.",
    "recall@5": "Share of test items with an item of the same class among the 5 nearest other test items.",
    "recall@10": "Share of test items with an item of the same class among the 10 nearest other test items.",
    "map": "Mean average precision: how far items of the same class stand at the front of the whole ranking.",
    "nmi": "Normalised mutual information of k-means clusters and classes: 0 unrelated, 1 the same.",
    "ari": "Adjusted Rand index of k-means clusters and classes: 0 as by chance, 1 the same.",
    "cluster_accuracy": "Share of test items in the right k-means cluster, clusters named after classes as suits best.",
    "mae": "Mean absolute error of a ridge regression on the frozen embeddings with all training targets.",
    "rmse": "Root mean squared error of the same regression.",
    "r2": "Share of the target's variance that the same regression explains: 1 all, 0 no better than the mean.",
    "pearson": "Correlation of the same regression's predictions with the targets.",
    "gm_error": "Geometric mean of the same regression's absolute errors, which a few large ones move little.",
    "mae_many": "Mean absolute error on test items whose range of targets is common in training.",
    "mae_medium": "Mean absolute error on test items whose range of targets is neither common nor rare in training.",
    "mae_few": "Mean absolute error on test items whose range of targets is rare in training.",
    "mae_10": "Mean absolute error of a ridge regression with 10 training targets, averaged over 5 draws of them.",
    "mae_50": "Mean absolute error of a ridge regression with 50 training targets, averaged over 5 draws of them.",
    "knn_mae": "Mean absolute error of the mean target of the 20 nearest training items.",
    "spearman": "Rank correlation of target distance and embedding distance over pairs of test items: 1 same order.",
    "view_recall@1": "Share of test items of which one view's nearest other view is that of the same item.",
    "pair_recall@1": "Share of test items in one modality whose nearest in another is their own, over all directions.",
    "pair_recall@5": "Share of them with their own among the 5 nearest.",
    "pair_recall@10": "Share of them with their own among the 10 nearest.",
    "zero_shot": "Share of test items whose nearest class is right, classes being given by sentences alone.",
    "transfer": "Share of test items of one modality nearest to their class's mean training vector in another.",
    "completion": "Share of test items of which one modality is the best guess from all others, over all modalities.",
    "gap_distance": "Distance between the mean unit vectors of two modalities: 0 in the same place, 2 opposite.",
    "gap_separability": "How well a linear classifier tells two modalities apart: 0.5 not at all, 1 without a mistake.",
    "pair_cosine": "Mean cosine between two modalities of the same item.",
    "caption_exact": "Share of test items of which the caption that was written is, word by word, one of their own.",
    "caption_tokens": "Share of the tokens of a test item's own caption that are foreseen, those before them shown.",
    "bleu_1": "How many of the written words are in the items' own captions, times a penalty for short ones.",
    "bleu_4": "How many of the written sequences of one to four words are in the items' own captions, so too.",
    "cider": "CIDEr-D: how alike written captions are to the items' own, rare words counting more: 0 to 10.",
    "compositional": "Share of rewritten captions that a test image scores below its own; the mean over what was done.",
    "compositional_blind": "The same with the image of another item: what is told by texts alone; near 0.5 is good.",
    "arithmetic": "Share of test images that, less a word and plus another, find an image with the caption so changed.",
    "arithmetic_blind": "The same without adding words: what the nearest other image happens to show.",
    "alignment": "Mean squared distance between two views of an item on the unit sphere: 0 identical, 2 unrelated.",
    "uniformity": "How evenly the items cover the unit sphere: 0 all in one place, the lower the more even.",
    "tolerance": "Mean cosine between items of the same class: 1 a class is a point, 0 it is spread out.",
    "effective_rank": "How many dimensions the embedding uses, out of those it has.",
}
"""A line of plain English for each score."""

OF_MODALITIES = (
    *("pair_recall@1", "pair_recall@5", "pair_recall@10", "zero_shot", "transfer", "completion"),
    *("compositional", "compositional_blind", "arithmetic", "arithmetic_blind"),
    *("gap_distance", "gap_separability", "pair_cosine"),
)
"""Scores that :func:`evaluate` does not give: those between modalities, of :func:`evaluate_modalities`."""

OF_CAPTIONS = ("caption_exact", "caption_tokens", "bleu_1", "bleu_4", "cider")
"""Scores that :func:`evaluate` does not give: those of what a method writes, of :func:`captioning`."""

OF_A_CLASSIFIER = ("accuracy", "vqa", "scatter")
"""Scores that :func:`evaluate` does not give: those of a classifier that was trained with the encoder."""

_ERRORS = ("mae", "rmse", "gm_error", "mae_many", "mae_medium", "mae_few", "mae_10", "mae_50", "knn_mae")
_GAPS = ("gap_distance", "gap_separability", "compositional_blind", "arithmetic_blind")
_LOWER = ("scatter", "alignment", "uniformity", *_GAPS, *_ERRORS)
HIGHER_IS_BETTER = {name: name not in _LOWER for name in DESCRIPTIONS}
"""Whether a higher score is better. Read geometry together: a collapsed embedding has a perfect alignment."""


def description(name: str) -> str:
    """A line of plain English for a score, also for one of a single modality (``knn:image``) or between two."""
    base, _, where = name.partition(":")
    told = DESCRIPTIONS.get(base, "")
    return f"{told} {_where(base, where)}" if told and where else told


def _where(base: str, where: str) -> str:
    first, _, second = where.partition(">")
    if second:
        return f"From {first} into {second}."
    if base in ("completion", "compositional"):
        return f"Here {first}."
    together = " and ".join(first.split("+"))
    return f"Of {together} together." if "+" in first else f"Of {first} alone."


def higher_is_better(name: str) -> bool:
    """Whether a higher score is better; ``KeyError`` for what is no score."""
    return HIGHER_IS_BETTER[name.partition(":")[0]]


def known_metrics(metrics: Iterable[str] | None) -> set[str]:
    """The names asked for, all of them by default; ``ValueError`` for one that is no score.

    A name may say of which modality, or from which into which: ``knn:image``, ``pair_recall@1:image>text``.
    """
    wanted = set(DESCRIPTIONS) if metrics is None else set([metrics] if isinstance(metrics, str) else metrics)
    for name in sorted(name for name in wanted if name.partition(":")[0] not in DESCRIPTIONS):
        near = difflib.get_close_matches(name, DESCRIPTIONS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(DESCRIPTIONS)}."
        raise ValueError(f"metrics: no metric is called {name!r}; {hint}")
    return wanted
