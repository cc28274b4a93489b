"""What a page is made of: plain data, most of it optional. A section without data does not appear on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from counterpoint.findings import Finding

Array = NDArray[Any]
Thumbnails = Callable[[int], "Array | None"]


@dataclass
class Prediction:
    """A numeric target and what a regression on the embeddings made of it.

    Attributes:
        true, predicted: (N,) of the test items; NaN where a target is missing.
        edges: (K + 1,) of the bins of the training targets.
        counts: (K,) training items in each bin.
    """

    true: Array
    predicted: Array
    edges: Array
    counts: Array


@dataclass
class RunData:
    """One trained (or baseline) encoder, as the page shows it.

    Attributes:
        name: title of the run.
        method: name of its method.
        config: what repeats it; nested dicts are flattened with dots.
        environment: versions, processor, threads, commit.
        summary: a sentence or two on the outcome, plain text.
        scores: metric name to value; ``None`` or NaN is shown as a dash.
        descriptions: what a metric (or setting) means, by its name; added to the built-in glossary.
        notes: warnings worth reading, such as a collapse alarm.
        skipped: ``(path, why)`` of inputs that could not be read.
        history: a dict per epoch: ``epoch``, ``step``, ``loss`` and any further numbers.
        histograms: ``edges (E+1,)``, ``epochs (R,)``, ``positive (R, E)``, ``negative (R, E)``: counts of cosine
            similarity of positive and negative pairs over training.
        score_curves: how positives and negatives scored over training: ``step`` (S,), and (S,) for each
            ``stage/statistic``, as :attr:`counterpoint.experiments.run.Run.score_curves` has them.
        spectrum: (D,) singular values, largest first; computed from ``embeddings`` where absent.
        embeddings: (N, D); only used to compute what is absent of ``spectrum``, ``map`` and ``neighbours``.
        map: (M, 2) positions; computed with UMAP (seconds) from ``embeddings`` where absent.
        map_index: (M,) which of the N items the positions belong to; ``None``: all of them, in order.
        labels: (N,) int, ``-1`` where an item has none; ``None`` without labels.
        classes: name of each label.
        targets: (N,) float, NaN where an item has none; maps are then coloured by it.
        prediction: what a regression made of the target.
        thumbnails: item number to uint8 (H, W, C) or ``None``.
        neighbours: ``(queries (Q,), indices (Q, k), same (Q, k) bool)``; computed from ``embeddings`` where absent
            and N <= 5000.
        views: (n, V, H, W, C) uint8, ``V`` views of each of ``n`` examples.
        confusion: (K, K) counts, true class by row.
        findings: what the method found out, as figures.
        seconds: training time.
        command: what repeats the run in a shell.
    """

    name: str
    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    summary: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    histograms: Mapping[str, Array] | None = None
    score_curves: Mapping[str, Array] | None = None
    spectrum: Array | None = None
    embeddings: Array | None = None
    map: Array | None = None
    map_index: Array | None = None
    labels: Array | None = None
    classes: Sequence[str] | None = None
    targets: Array | None = None
    prediction: Prediction | None = None
    thumbnails: Thumbnails | None = None
    neighbours: tuple[Array, Array, Array | None] | None = None
    views: Array | None = None
    confusion: Array | None = None
    findings: Sequence[Finding] = ()
    seconds: float | None = None
    command: str | None = None


@dataclass
class LeaderboardRow:
    """One method on the leaderboard.

    Attributes:
        name: the method.
        mean, low, high: score averaged over seeds and its 95 % interval; ``None`` or NaN where unknown.
        rank: 1 for the best; methods that cannot be told apart share a rank.
        tied: whether another method shares the rank.
        difference: this method's mean minus the best one's, paired by seed (so at most zero, as a rule), with its
            95 % interval ``difference_low``, ``difference_high`` and ``p`` corrected for the number of comparisons;
            ``None`` for the best itself and where there are too few seeds.
        seeds: score of each seed.
        scores: mean of the other metrics.
        baseline: not a contrastive method but something to beat (raw input, PCA, an untrained encoder, ...).
    """

    name: str
    mean: float | None
    low: float | None = None
    high: float | None = None
    rank: int = 1
    tied: bool = False
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    seeds: Sequence[float] = ()
    scores: Mapping[str, float | None] = field(default_factory=dict)
    baseline: bool = False


@dataclass
class ComparisonData:
    """Several methods on the same data, seeds and budget.

    Attributes:
        name: title, as a rule the data's name.
        metric: the score that ranks; a key of :mod:`~counterpoint.web.glossary` or of ``descriptions``.
        rows: the leaderboard, best first.
        data: description of the data (items, shape, classes, sizes of the splits).
        verdict: the outcome in a sentence; :func:`~counterpoint.web.verdict.verdict` writes it where absent.
        metrics: ``{method: {metric: (mean, low, high)}}``.
        descriptions: what a metric means, by its name; added to the built-in glossary.
        runs: the first seed of each method.
        settings: what all methods share (epochs, batch, encoder, ...).
        environment: versions, processor, threads, commit.
        seconds: training time of one run by method, averaged over seeds.
        failures: ``(run, why)`` of runs that did not finish.
        command: what repeats the comparison in a shell.
        notes: warnings worth reading.
    """

    name: str
    metric: str
    rows: Sequence[LeaderboardRow]
    data: Mapping[str, Any] = field(default_factory=dict)
    verdict: str | None = None
    metrics: Mapping[str, Mapping[str, tuple[float | None, float | None, float | None]]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, RunData] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[tuple[str, str]] = ()
    command: str | None = None
    notes: Sequence[str] = ()
