"""What the scores and figures mean, in a sentence each, and which way each score improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A score's short title, meaning, and whether more is better (``None``: neither)."""

    title: str
    meaning: str
    higher_is_better: bool | None = True


METRICS: dict[str, Metric] = {
    "loss": Metric("Loss", "What is minimised, or a part of it with its weight.", False),
    "accuracy": Metric(
        "Accuracy", "Share of test items that the classifier trained with the encoder gives the right class."
    ),
    "vqa": Metric(
        "VQA accuracy",
        "What the answers to test questions are worth: 1 where three people gave the same answer, a third less for "
        "each that is lacking.",
    ),
    "scatter": Metric(
        "Scatter",
        "Variance of the features within classes over that between them; low where classes are compact and far apart.",
        False,
    ),
    "knn": Metric(
        "kNN accuracy",
        "Share of test items whose class is guessed right from their nearest neighbours among the training "
        "embeddings. Nothing is trained on top, so it measures the embedding itself.",
    ),
    "probe": Metric("Linear probe", "Test accuracy of a linear classifier trained on the frozen embeddings."),
    "probe_1": Metric("Probe, 1 label", "The linear probe with one label per class."),
    "probe_5": Metric("Probe, 5 labels", "The linear probe with five labels per class."),
    "probe_10": Metric("Probe, 10 labels", "The linear probe with ten labels per class."),
    "recall@1": Metric("Recall@1", "Share of queries whose nearest other test item is of the same class."),
    "recall@5": Metric("Recall@5", "Share of queries with an item of the same class among the five nearest."),
    "recall@10": Metric("Recall@10", "Share of queries with an item of the same class among the ten nearest."),
    "map": Metric("mAP", "Mean average precision: how far up the whole ranking the items of the same class stand."),
    "nmi": Metric("NMI", "Normalised mutual information of k-means clusters and classes; 0 is chance, 1 is equal."),
    "ari": Metric("ARI", "Adjusted Rand index of k-means clusters and classes; 0 is chance, 1 is equal."),
    "cluster_accuracy": Metric(
        "Cluster accuracy", "Accuracy of k-means clusters, each named after one class in the best possible way."
    ),
    "mae": Metric(
        "MAE",
        "Mean absolute error of a linear regression (ridge) on the frozen embeddings, in the unit of the target.",
        False,
    ),
    "rmse": Metric("RMSE", "Root mean squared error of that regression, which large errors dominate.", False),
    "r2": Metric("R²", "Share of the target's variance that the regression explains; 0 is no better than the mean."),
    "pearson": Metric("Pearson", "Correlation of the regression's predictions with the target."),
    "gm_error": Metric("GM error", "Geometric mean of its absolute errors, which a few large ones move little.", False),
    "mae_many": Metric("MAE, common", "MAE where targets are common in training.", False),
    "mae_medium": Metric("MAE, in between", "MAE where targets are neither common nor rare in training.", False),
    "mae_few": Metric("MAE, rare", "MAE where targets are rare in training.", False),
    "mae_10": Metric("MAE, 10 targets", "MAE of a regression that has seen ten targets.", False),
    "mae_50": Metric("MAE, 50 targets", "MAE of a regression that has seen fifty targets.", False),
    "knn_mae": Metric("kNN MAE", "MAE of the mean target of the nearest training embeddings.", False),
    "spearman": Metric(
        "Order (Spearman)", "Rank correlation of target distance and embedding distance over pairs of test items."
    ),
    "pair_recall@1": Metric(
        "Pair recall@1",
        "Share of test items in one modality whose nearest item in another is their own; without more said, the mean "
        "over all directions.",
    ),
    "pair_recall@5": Metric("Pair recall@5", "The same with their own among the five nearest."),
    "pair_recall@10": Metric("Pair recall@10", "The same with their own among the ten nearest."),
    "completion": Metric(
        "Completion",
        "Share of test items of which one modality is guessed right from all of its others, among the different values "
        "that the test items have of it; averaged over the modalities.",
    ),
    "zero_shot": Metric(
        "Zero-shot accuracy", "Share of test items nearest to the sentence that names their class; no label was used."
    ),
    "transfer": Metric(
        "Transfer",
        "Share of test items of one modality nearest to the mean training vector that their class has in another.",
    ),
    "view_recall@1": Metric(
        "View recall@1", "Share of test items of which one view's nearest other view is that of the same item."
    ),
    "compositional": Metric(
        "Composition",
        "Share of test images that score higher with their caption than with a rewrite of it that is not true; half is "
        "chance. Without more said, the mean over what was done to the captions.",
    ),
    "compositional_blind": Metric(
        "Composition, blind", "The same with the image of another item: what texts alone give away.", None
    ),
    "arithmetic": Metric(
        "Arithmetic",
        "Share of test images that, less one word of their caption and plus another, are nearest to an image with the "
        "caption so changed.",
    ),
    "arithmetic_blind": Metric(
        "Arithmetic, blind", "The same without adding words: what the nearest other image happens to show.", None
    ),
    "gap_distance": Metric(
        "Gap", "Distance between the mean unit vectors of two modalities; 0 where they lie in one place.", False
    ),
    "gap_separability": Metric(
        "Gap, separability", "Accuracy of a linear classifier that tells modalities apart; 0.5 is no gap.", False
    ),
    "pair_cosine": Metric("Pair cosine", "Mean cosine between two modalities of one item.", None),
    "caption_exact": Metric(
        "Captions, exact", "Share of test items of which the caption that was written is one of their own."
    ),
    "caption_tokens": Metric(
        "Captions, tokens", "Share of the tokens of an item's own caption that are foreseen, those before them shown."
    ),
    "bleu_1": Metric(
        "BLEU-1", "How many of the written words the items' own captions have, times a penalty for short ones."
    ),
    "bleu_4": Metric(
        "BLEU-4", "The same of runs of one to four words, over all test items; 0 where no run of four is right."
    ),
    "cider": Metric(
        "CIDEr-D",
        "How alike written captions are to the items' own, from 0 to 10; words that many items have count "
        "little, and a caption of fewer than four words cannot reach 10.",
    ),
    "alignment": Metric(
        "Alignment", "Mean squared distance between two views of one item on the unit sphere; lower is tighter.", False
    ),
    "uniformity": Metric(
        "Uniformity",
        "Logarithm of the mean Gaussian potential of all pairs on the unit sphere; lower is more evenly spread.",
        False,
    ),
    "tolerance": Metric("Tolerance", "Mean cosine similarity of items of the same class.", None),
    "effective_rank": Metric(
        "Effective rank", "Number of dimensions that the embeddings really use (entropy of their spectrum).", None
    ),
}

# term: (section of the page that needs it, meaning)
TERMS: dict[str, tuple[str, str]] = {
    "Interval": (
        "leaderboard",
        "Where the mean would lie in 95 of 100 repetitions of the experiment with other seeds. Narrow with "
        "many seeds, wide with few.",
    ),
    "Tie": (
        "leaderboard",
        "Methods share a rank where the data cannot tell them apart: repeat with more seeds if it matters.",
    ),
    "p": (
        "leaderboard",
        "How often a difference this large, or larger, would arise by chance between equal methods; corrected for the "
        "number of methods compared.",
    ),
    "Baseline": (
        "leaderboard",
        "Something to beat that no contrastive training went into: the raw input, its principal components, an "
        "encoder with random weights; and, with labels or a target, ordinary supervised training.",
    ),
    "Embedding map": (
        "maps",
        "Test embeddings laid out in the plane so that near neighbours stay near (UMAP). Distances "
        "between far groups and the axes themselves mean nothing; clean groups are a good sign.",
    ),
    "Similarity histogram": (
        "similarity",
        "Cosine similarity of positive pairs (two views of one item) and of negative pairs "
        "(different items) during training. Good training pulls the two apart; both near 1 means collapse.",
    ),
    "Singular spectrum": (
        "spectra",
        "How the variance of the embeddings is spread over dimensions. A cliff means that the "
        "dimensions after it carry nothing (dimensional collapse).",
    ),
    "View": (
        "views",
        "A random change of an item that should not change what it is; training makes views of one item agree.",
    ),
}


LEADS: dict[str, str] = {
    "leaderboard": "Each thin tick is a seed, the dot their mean, the line its 95 % interval.",
    "ties": "Methods in one shaded group share a rank: the data cannot tell them apart.",
    "differences": "Paired by seed, which takes out what the seeds have in common; this, not the overlap of the "
    "intervals above, decides ties. An interval that crosses the dashed zero line is no evidence of a difference.",
    "metrics": "Means over seeds with their 95 % intervals; the best of a column is marked. Tap a heading to sort.",
    "cost": "Up and to the left is better: more quality in less time.",
    "cost_of_errors": "Down and to the left is better: smaller errors in less time.",
    "prediction": "The target of test items and what a linear regression on the frozen embeddings predicts; on the "
    "dashed line it is right.",
    "quality": "While training, first seed, one axis for all: each method in front of the others in grey.",
    "loss": "The losses of different methods are different quantities: each has its own axis, and only its course, not "
    "its height, can be compared.",
    "similarity": "Cosine similarity of pairs during training, from the first epoch (top) to the last. Training pulls "
    "the two apart. Every ridge is scaled to its own height.",
    "score-curves": "How the pairs of each step score, averaged over anchors: positives that become easy, negatives "
    "that crowd together or spread. Negatives are the other items of the batch, or the queue of a method that has one. "
    "Where a method changes features or adds negatives, the solid line is before and the dashed one after that, as the "
    "loss sees them. Steps of a long training are averaged.",
    "maps": "Test embeddings in the plane (UMAP): near means alike; axes and distances between far groups say nothing. "
    "Tap a dot to see what it is and where the other maps put it.",
    "neighbours": "Left, a query; then its nearest neighbours among the other test items, nearest first.",
    "marks": "A solid border: same class as the query. A dashed border and a cross: another class.",
    "spectra": "Singular values of the centred test embeddings, relative to the largest. A line that falls off a cliff "
    "uses few dimensions.",
    "views": "What each method was told is the same: every column is one item, every row a view of it.",
    "confusion": "True class by row, predicted class by column.",
}


def metric(name: str, descriptions: Mapping[str, str] | None = None) -> Metric:
    """The glossary's entry of a score; one that it does not know has its name for a title and no direction.

    Names with a prefix (``val_knn``, ``val/knn``) are looked up without it.
    """
    given = (descriptions or {}).get(name)
    bare = name.removeprefix("val_").removeprefix("val/").removeprefix("test_")
    bare, _, where = bare.partition(":")
    entry = METRICS.get(bare)
    if entry is not None and where:
        return Metric(f"{entry.title}, {where.replace('>', ' to ')}", given or entry.meaning, entry.higher_is_better)
    if entry is None:
        return Metric(name.replace("_", " "), given or "", None)
    return Metric(entry.title, given or entry.meaning, entry.higher_is_better)
