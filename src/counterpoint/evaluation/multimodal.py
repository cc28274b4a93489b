"""Measures of a space that several modalities share: retrieval across them, zero-shot classes, what one lacks.

The vectors are unit vectors of one space. What can be said of every item as a whole is said of the *fused* vector, the
mean of those of the modalities that the item has, brought to length 1; of that all of
:func:`~counterpoint.evaluation.evaluate` is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import TypeAlias

import numpy as np

from counterpoint.evaluation.embeddings import UNLABELLED, Embeddings
from counterpoint.evaluation.evaluate import Evaluation, evaluate
from counterpoint.evaluation.metrics import known_metrics
from counterpoint.evaluation.neighbours import knn
from counterpoint.evaluation.zero_shot import class_ranks

Score: TypeAlias = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
RANKS = (1, 5, 10)
MISSING = (0.0, 0.25, 0.5, 0.75, 1.0)
_OWN = ("knn", "probe")  # measured of each modality alone too
_BLOCK = 1024


@dataclass(frozen=True)
class SharedSpace:
    """N items in a common space.

    Attributes:
        vectors: float32 (N, D) of each modality, of any length; rows of what an item lacks are not looked at.
        present: bool (N,) of each.
        labels: int64 (N,), -1 where an item has none; ``None`` without labels.
        contents: int64 (N,) of a modality in which items can be the same, such as a caption that several images have:
            equal numbers for equal contents. To find any of them is right.
        targets: float64 (N,), NaN where an item has none; ``None`` without a target.
    """

    vectors: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    contents: Mapping[str, np.ndarray] = field(default_factory=dict)
    targets: np.ndarray | None = None

    def __post_init__(self) -> None:
        unit = {}
        for name, values in self.vectors.items():
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            unit[name] = (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        object.__setattr__(self, "vectors", unit)

    def __len__(self) -> int:
        return next(len(values) for values in self.vectors.values())

    def fused(self, present: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """(N, D): the mean of the unit vectors of the modalities that an item has, brought to length 1."""
        present = self.present if present is None else present
        total = sum(np.where(present[name][:, None], values, 0) for name, values in self.vectors.items())
        lengths = np.linalg.norm(np.asarray(total), axis=1, keepdims=True)
        return np.asarray(total / np.where(lengths > 0, lengths, 1), dtype=np.float32)

    def some(self) -> np.ndarray:
        """Bool (N,): items that have any modality."""
        return np.asarray(np.logical_or.reduce([self.present[name] for name in self.vectors]))


def evaluate_modalities(
    train: SharedSpace,
    val: SharedSpace,
    test: SharedSpace,
    *,
    classes: Mapping[str, np.ndarray] | None = None,
    fused: Sequence[np.ndarray] | None = None,
    score: Score | None = None,
    seed: int = 0,
    metrics: Iterable[str] | None = None,
) -> Evaluation:
    """Measure a common space.

    Args:
        train, val, test: the same modalities in each.
        classes: vectors (K, D) of the classes in one modality or several, such as of sentences that name them; other
            modalities are then classified by the nearest, without any training.
        fused: vectors (N, F) of the items as a whole in train, val and test, of a method that fuses in its own way.
        score: of candidates (C, D) of one modality, given the vectors (N, D) of all others: (N, C), as the method has
            it. With three modalities or more the best candidate is its guess.
        seed: as for :func:`~counterpoint.evaluation.evaluate`.
        metrics: names, as there; those with ``:`` say of which modality, or from which into which. ``None``: all.

    Returns:
        all scores of the fused vectors; of two modalities or more ``pair_recall@1``, ``@5``, ``@10`` (an item of one
        finds itself in another), averaged over all directions and for each, as ``pair_recall@1:image>text``;
        ``transfer``, classes of one modality by the mean vectors of another; ``zero_shot`` with ``classes``;
        ``completion`` with ``score``, and with both the class that fits all other modalities together best, as
        ``zero_shot:image+audio``; the gap between modalities; and kNN and probe of each modality alone, as
        ``knn:image``.
    """
    wanted = known_metrics(metrics)
    kept = [part.some() for part in (train, val, test)]
    whole = [part.fused() for part in (train, val, test)] if fused is None else fused
    sets = [
        Embeddings(vectors[keep], _at(part.labels, keep), targets=_at(part.targets, keep)) if keep.sum() > 1 else None
        for vectors, part, keep in zip(whole, (train, val, test), kept, strict=True)
    ]
    if sets[0] is None or sets[2] is None:
        raise ValueError("train, test: expected at least two items with any modality in each")
    base = evaluate(sets[0], sets[1], sets[2], seed=seed, metrics=_plain(metrics))
    result = Evaluation(dict(base.scores), dict(base.items), dict(base.arrays), list(base.notes))
    if not kept[2].all():
        for name, values in result.items.items():
            result.items[name] = _spread(values, kept[2])
    result.notes[:] = [note for note in result.notes if not note.startswith("No labels")]
    if len(test.vectors) > 1:
        _retrieval(test, result)
        _gap(test, seed, result)
        if train.labels is not None and test.labels is not None:
            _transfer(train, test, result)
    if score is not None and len(test.vectors) > 2:
        _completion(test, score, result)
    for where, vectors in (classes or {}).items():
        if test.labels is not None:
            _zero_shot(test, where, vectors, score, result)
    if train.labels is not None and test.labels is not None and len(test.vectors) > 1:
        _alone(train, val, test, seed, result)
    names = [name for name in result.scores if {name, name.partition(":")[0]} & wanted]
    scores = {name: result.scores[name] for name in sorted(names, key=_order)}
    items = {name: result.items[name] for name in scores if name in result.items}
    return Evaluation(scores, items, result.arrays, result.notes)


def _order(name: str) -> tuple[int, int]:
    """What several modalities are for first, then the rest as it was; each score before its parts."""
    base, _, where = name.partition(":")
    first = ("pair_recall@1", "zero_shot", "transfer", "completion", "pair_recall@5", "pair_recall@10", "gap_distance")
    later = ("gap_separability", "pair_cosine")
    own = (*first, *later)
    return (2 if where else 1 - (base in own), own.index(base) if base in own else len(own))


def _plain(metrics: Iterable[str] | None) -> list[str] | None:
    return None if metrics is None else [name for name in ([metrics] if isinstance(metrics, str) else metrics)]


def _at(values: np.ndarray | None, keep: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[keep]


def _spread(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    whole = np.full(len(keep), np.nan, np.float32)
    whole[keep] = values
    return whole


def _record(name: str, values: np.ndarray, result: Evaluation) -> None:
    """Keep a score per item (N,), NaN where it cannot be judged, and the mean over the others."""
    if np.isnan(values).all():
        return
    result.items[name] = values.astype(np.float32)
    result.scores[name] = float(np.nanmean(values, dtype=np.float64))


def cross_ranks(test: SharedSpace, query: str, answer: str) -> np.ndarray:
    """(N,) how many wrong items of ``answer`` stand before the first right one, or beside it, for each query.

    NaN for items that lack either modality. Answers of equal content count once, and a query is answered by any item
    that equals its own in either modality.
    """
    there = test.present[query] & test.present[answer]
    own = np.arange(len(test))
    asked, answered = (test.contents.get(name, own) for name in (query, answer))
    gallery = np.flatnonzero(test.present[answer])
    if answer in test.contents:
        gallery = gallery[np.unique(answered[gallery], return_index=True)[1]]
    queries = np.flatnonzero(there)
    ranks = np.full(len(test), np.nan)
    for start in range(0, len(queries), _BLOCK):
        some = queries[start : start + _BLOCK]
        scores = test.vectors[query][some] @ test.vectors[answer][gallery].T
        right = answered[gallery][None] == answered[some][:, None]
        if query in test.contents and answer not in test.contents:
            right |= asked[gallery][None] == asked[some][:, None]
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[some] = ((scores >= best) & ~right).sum(axis=1)
    return ranks


def _retrieval(test: SharedSpace, result: Evaluation) -> None:
    found: dict[int, list[np.ndarray]] = {k: [] for k in RANKS}
    pairs = list(permutations(test.vectors, 2))
    for query, answer in pairs:
        ranks = cross_ranks(test, query, answer)
        for k in RANKS:
            hits = np.where(np.isnan(ranks), np.nan, ranks < k)
            found[k].append(hits)
            _record(f"pair_recall@{k}:{query}>{answer}", hits, result)
    for k, each in found.items():
        _record(f"pair_recall@{k}", _mean(each), result)
    if any(np.isnan(hits).all() for hits in found[1]):
        result.notes.append("pair_recall: two modalities have no test item in common, and are left out.")


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over the arrays (N,), of those that are not NaN."""
    stacked = np.stack(values)
    there = ~np.isnan(stacked)
    counts = there.sum(axis=0)
    return np.where(counts > 0, np.where(there, stacked, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _gap(test: SharedSpace, seed: int, result: Evaluation) -> None:
    from counterpoint.evaluation.gap import modality_gap

    found = []
    for a, b in combinations(test.vectors, 2):
        both = test.present[a] & test.present[b]
        if both.sum() >= 5:
            found.append(modality_gap(test.vectors[a][both], test.vectors[b][both], seed=seed).scores())
    for name, key in (
        ("gap_distance", "centroid_distance"),
        ("gap_separability", "linear_separability"),
        ("pair_cosine", "mean_pair_cosine"),
    ):
        if found:
            result.scores[name] = float(np.mean([of[key] for of in found]))


def _transfer(train: SharedSpace, test: SharedSpace, result: Evaluation) -> None:
    """Classes of one modality by the mean vectors that another has of them in training."""
    assert train.labels is not None
    found = []
    for query, answer in permutations(test.vectors, 2):
        known = train.present[answer] & (train.labels != UNLABELLED)
        names = np.unique(train.labels[known])
        if len(names) < 2:
            continue
        means = np.stack([train.vectors[answer][known & (train.labels == name)].mean(axis=0) for name in names])
        hits = _classified(test, query, names, means)
        found.append(hits)
        _record(f"transfer:{query}>{answer}", hits, result)
    if found:
        _record("transfer", _mean(found), result)


def completion(test: SharedSpace, name: str, score: Score) -> np.ndarray:
    """(N,) whether an item's own content of a modality is the best guess from all its others; NaN where it lacks any.

    Candidates are the different contents of the test items, each once; a tie is wrong.
    """
    judged = np.logical_and.reduce([test.present[other] for other in test.vectors])
    own = test.contents.get(name, np.arange(len(test)))
    gallery = np.flatnonzero(test.present[name])
    gallery = gallery[np.unique(own[gallery], return_index=True)[1]]
    return _guessed(test, name, test.vectors[name][gallery], own[gallery], np.where(judged, own, -1), score)


def _guessed(
    test: SharedSpace, name: str, candidates: np.ndarray, numbers: np.ndarray, own: np.ndarray, score: Score
) -> np.ndarray:
    """(N,) whether the best of candidates (C, D), given all other modalities, has an item's number; NaN if it is -1."""
    hits = np.full(len(test), np.nan)
    asked = np.flatnonzero(own >= 0)
    if len(candidates) < 2:
        return hits
    for start in range(0, len(asked), _BLOCK):
        some = asked[start : start + _BLOCK]
        scores = score(candidates, {other: of[some] for other, of in test.vectors.items() if other != name})
        right = numbers[None] == own[some][:, None]
        hits[some] = np.where(right, scores, -np.inf).max(axis=1) > np.where(right, -np.inf, scores).max(axis=1)
    return hits


def _completion(test: SharedSpace, score: Score, result: Evaluation) -> None:
    found = [completion(test, name, score) for name in test.vectors]
    for name, hits in zip(test.vectors, found, strict=True):
        _record(f"completion:{name}", hits, result)
    _record("completion", _mean(found), result)


def _zero_shot(test: SharedSpace, where: str, vectors: np.ndarray, score: Score | None, result: Evaluation) -> None:
    """The nearest class for each other modality, and the class that fits all of them together best."""
    others, found = [name for name in test.vectors if name != where], []
    if score is not None and len(others) > 1:
        assert test.labels is not None
        whole = np.logical_and.reduce([test.present[name] for name in others])
        own = np.where(whole, test.labels, UNLABELLED)
        hits = _guessed(test, where, vectors, np.arange(len(vectors)), own, score)
        _record(f"zero_shot:{'+'.join(others)}", hits, result)
    for query in test.vectors:
        if query != where:
            hits = _classified(test, query, np.arange(len(vectors)), vectors)
            found.append(hits)
            _record(f"zero_shot:{query}", hits, result)
    if found:
        _record("zero_shot", _mean(found), result)


def _classified(test: SharedSpace, query: str, names: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(N,) whether the nearest class is an item's own; NaN without the modality or a label. A tie is wrong."""
    assert test.labels is not None
    judged = test.present[query] & (test.labels != UNLABELLED)
    ranks = class_ranks(test.vectors[query], test.labels, names, vectors)
    return np.where(judged, ranks < 1, np.nan)


def _alone(train: SharedSpace, val: SharedSpace, test: SharedSpace, seed: int, result: Evaluation) -> None:
    for name in test.vectors:
        keeps = [part.present.get(name, np.zeros(0, bool)) for part in (train, val, test)]  # there may be no val
        if min(int(keep.sum()) for keep in (keeps[0], keeps[2])) < 2:
            continue
        sets = [
            Embeddings(part.vectors[name][keep], _at(part.labels, keep)) if keep.sum() > 1 else None
            for part, keep in zip((train, val, test), keeps, strict=True)
        ]
        assert sets[0] is not None
        assert sets[2] is not None
        found = evaluate(sets[0], sets[1], sets[2], seed=seed, metrics=_OWN)
        for score in found.scores:
            result.scores[f"{score}:{name}"] = found.scores[score]
            result.items[f"{score}:{name}"] = _spread(found.items[score], keeps[2])


def missing_curve(train: SharedSpace, test: SharedSpace, *, seed: int = 0) -> dict[str, np.ndarray]:
    """kNN accuracy when modalities of test items go missing: ``share`` (S,), and (S,) for each thing that goes.

    ``any``: each modality of an item is lost with that chance, but one stays. With the name of a modality: only that
    one is lost, in that share of the items. Neighbours are training items as they are.
    """
    if train.labels is None or test.labels is None:
        return {}
    keep = train.some()
    gallery = Embeddings(train.fused()[keep], train.labels[keep])
    if len(gallery.classes) < 2:
        return {}
    curves: dict[str, np.ndarray] = {"share": np.array(MISSING)}
    for what in ("any", *test.vectors):
        accuracies = []
        for share in MISSING:
            present = _dropped(test, what, share, seed)
            there = np.logical_or.reduce(list(present.values())) & (test.labels != UNLABELLED)
            if there.sum() < 2:
                accuracies.append(np.nan)
                continue
            queries = Embeddings(test.fused(present)[there], test.labels[there])
            accuracies.append(float((knn(gallery, queries) == queries.labels).mean()))
        curves[what] = np.array(accuracies)
    return curves


def _dropped(test: SharedSpace, what: str, share: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, int(share * 1000)])
    present = {}
    lost = {name: rng.random(len(test)) < share for name in test.vectors}
    for name in test.vectors:
        gone = lost[name] if what in ("any", name) else np.zeros(len(test), bool)
        present[name] = test.present[name] & ~gone
    if what == "any":  # one that the item had stays
        none = ~np.logical_or.reduce(list(present.values()))
        for item in np.flatnonzero(none):
            had = [name for name in test.vectors if test.present[name][item]]
            if had:
                present[had[int(rng.integers(len(had)))]][item] = True
    return present
