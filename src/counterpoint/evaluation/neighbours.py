"""Nearest neighbours: who lies close to whom, and whether they are the right ones.

Everything is exact and computed tile by tile, so that the (Q, N) matrix of similarities never exists: a tile of it is
reduced to the ``k`` best of each query (:func:`top_k`) or to each query's average precision (:func:`retrieval`) and
forgotten. Peak memory is that of one tile and of the answer, whatever Q and N are.

- :func:`knn` asks the nearest labelled items of the training set for the class of a test item: a classifier without
  parameters to fit, the usual first look at an embedding (Wu et al. 2018, "Unsupervised Feature Learning via
  Non-Parametric Instance Discrimination").
- :func:`retrieval` asks whether the nearest items of a gallery are of the query's class: recall@k as in metric learning
  (is there at least one among the first k? Jegou et al. 2011; Musgrave et al. 2020) and average precision over the
  whole ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation.embeddings import Embeddings, unit

METRICS = ("cosine", "dot", "euclid")


def top_k(
    queries: np.ndarray | Tensor,
    keys: np.ndarray | Tensor,
    k: int,
    *,
    exclude_self: bool = False,
    metric: str = "cosine",
    block: int = 512,
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys nearest to each query, exactly.

    Args:
        queries: (Q, D).
        keys: (N, D).
        k: neighbours per query, at most N (N - 1 with ``exclude_self``).
        exclude_self: queries and keys are the same N items, and an item is not its own neighbour.
        metric: ``"cosine"``, ``"dot"``, or ``"euclid"`` (the value is then minus the distance).
        block: queries per tile; a tile holds ``block x 8 block`` float32 similarities (8 MiB).

    Returns:
        Values float32 (Q, k), falling along each row, and indices int64 (Q, k) into ``keys``. Of equally near keys the
        one with the lower index comes first.

    Raises:
        ValueError: shapes that do not fit, NaN or Inf, ``k`` out of range, or an unknown metric.
    """
    q, c = _matrix("queries", queries), _matrix("keys", keys)
    if q.shape[1] != c.shape[1]:
        raise ValueError(f"queries, keys: dimensions differ: {q.shape[1]} and {c.shape[1]}.")
    if exclude_self and len(q) != len(c):
        raise ValueError(f"exclude_self: needs the same items twice, got {len(q)} queries and {len(c)} keys.")
    most = len(c) - exclude_self
    if not 1 <= k <= most:
        raise ValueError(f"k: expected 1 to {most} (the keys that can be neighbours), got {k}.")
    if block < 1:
        raise ValueError(f"block: expected at least 1, got {block}.")
    q, c, bias = _prepare(q, c, metric)
    values, indices = torch.empty(len(q), k), torch.empty(len(q), k, dtype=torch.int64)
    for start in range(0, len(q), block):
        rows = slice(start, start + block)
        values[rows], indices[rows] = _nearest(q[rows], c, bias, k, start if exclude_self else None, 8 * block)
    if metric == "euclid":
        values = (values - q.square().sum(1, keepdim=True)).clamp_(max=0).neg_().sqrt_().neg_()
    return values, indices


def _matrix(name: str, x: np.ndarray | Tensor) -> Tensor:
    x = torch.as_tensor(x).detach().float()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name}: expected shape (rows, D), neither of them 0, got {tuple(x.shape)}.")
    if not x.isfinite().all():
        raise ValueError(f"{name}: holds NaN or Inf; neighbours of such rows are not defined. Remove them.")
    return x


def _prepare(q: Tensor, c: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vectors, and a term per key, such that ``q @ c.T + term`` orders the keys of a query."""
    if metric == "cosine":
        return unit(q), unit(c), None
    if metric == "dot":
        return q, c, None
    if metric == "euclid":
        # |q - c|^2 = |q|^2 - (2 q.c - |c|^2); centring keeps the three terms from cancelling far from the origin.
        centre = c.mean(0)
        q, c = q - centre, c - centre
        return q, 2 * c, -c.square().sum(1)
    raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {metric!r}.")


def _nearest(
    q: Tensor, c: Tensor, bias: Tensor | None, k: int, offset: int | None, width: int
) -> tuple[Tensor, Tensor]:
    """Best ``k`` of each row of ``q`` over the tiles of ``c``; row r is key ``offset + r`` and left out, if given."""
    values, indices = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.int64)
    for low in range(0, len(c), width):
        tile = q @ c[low : low + width].T
        if bias is not None:
            tile += bias[low : low + width]
        if offset is not None:
            own = torch.arange(len(q)) + (offset - low)
            inside = ((own >= 0) & (own < tile.shape[1])).nonzero()[:, 0]
            tile[inside, own[inside]] = -torch.inf
        best, where = _first_largest(tile, min(k, tile.shape[1]))
        # Keys of earlier tiles have lower indices and stand first, so that ties fall to them.
        values, indices = torch.cat([values, best], 1), torch.cat([indices, where + low], 1)
        if values.shape[1] > best.shape[1]:
            values, where = _first_largest(values, min(k, values.shape[1]))
            indices = indices.gather(1, where)
    return values, indices


def _first_largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k)`` with a rule for ties, which topk lacks: the lower index is taken, and comes first."""
    if k == x.shape[1]:
        return x.sort(dim=1, descending=True, stable=True)
    values, indices = x.topk(k + 1, dim=1)
    cut = values[:, k - 1] == values[:, k]  # rows where the k-th and what follows are equal: topk's choice is arbitrary
    indices = indices[:, :k].sort(dim=1).values
    if cut.any():
        tied, last = x[cut], values[cut, k - 1 : k]
        equal = tied == last
        wanted = k - (tied > last).sum(1, keepdim=True)
        taken = (tied > last) | (equal & (equal.cumsum(1, dtype=torch.int32) <= wanted))
        indices[cut] = taken.nonzero()[:, 1].view(-1, k)
    values, order = x.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def knn(train: Embeddings, test: Embeddings, *, k: int = 20, temperature: float = 0.07, block: int = 512) -> np.ndarray:
    """Class of each test item by a weighted vote of its ``k`` nearest training items.

    A neighbour at cosine s votes ``exp(s / temperature)`` for its class (Wu et al. 2018, section 3.4). ``k = 20`` is
    the setting that DINO reports (Caron et al. 2021), where the paper has 200; it is fixed, so that nothing is chosen
    on the test set, and clipped to the number of labelled training items. Equal votes go to the lower label.

    Args:
        train: (N, D) with labels; unlabelled items are left out.
        test: (Q, D); its labels are not read.
        k: neighbours that vote.
        temperature: divides the cosine; 0.07 as in the paper.
        block: queries per tile, as in :func:`top_k`.

    Returns:
        int64 (Q,): labels.

    Raises:
        ValueError: no labelled training item, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}.")
    if not len(train.classes):
        raise ValueError("train: kNN needs labelled items, and none has a label.")
    keys, labels = train.vectors[train.labelled], train.known_labels
    classes, names = np.unique(labels, return_inverse=True)
    values, indices = top_k(test.vectors, keys, min(k, len(keys)), block=block)
    voters = torch.as_tensor(names)[indices]
    predicted = np.empty(len(test), np.int64)
    for start in range(0, len(test), block):
        rows = slice(start, start + block)
        weights = ((values[rows] - values[rows, :1]) / temperature).exp()
        votes = torch.zeros(len(weights), len(classes)).scatter_add_(1, voters[rows], weights)
        predicted[rows] = classes[votes.argmax(1).numpy()]
    return predicted


def retrieval(
    queries: Embeddings, gallery: Embeddings | None = None, *, ks: Sequence[int] = (1, 5, 10), block: int = 512
) -> dict[str, np.ndarray]:
    """How well the nearest items by cosine share the query's class.

    ``recall@k`` is 1 where at least one of the first k is of the query's class. ``map`` is the average precision over
    the whole ranking: the mean, over the items of the query's class, of the share of that class among all items at
    least as near; items at equal distance count together, as in ``sklearn.metrics.average_precision_score``.

    Args:
        queries: (Q, D) with labels.
        gallery: (N, D) with labels; None: the queries themselves, each without itself.
        ks: the k of recall@k; k beyond the gallery means all of it.
        block: queries per tile of recall@k, as in :func:`top_k`; tiles of average precision hold as many numbers.

    Returns:
        ``{"recall@1": float32 (Q,), ..., "map": float32 (Q,)}``; NaN for queries that have no answer: no label, or no
        other item of their class in the gallery.

    Raises:
        ValueError: queries or gallery without any label.
    """
    own = gallery is None
    gallery = queries if gallery is None else gallery
    for name, items in (("queries", queries), ("gallery", gallery)):
        if not items.labelled.any():
            raise ValueError(f"{name}: retrieval needs labels, and there are none.")
    asked, offered = np.flatnonzero(queries.labelled), np.flatnonzero(gallery.labelled)
    q_labels, g_labels = queries.known_labels, gallery.known_labels
    classes, counts = np.unique(g_labels, return_counts=True)
    # the gallery must hold an item of the query's class, and without the query itself two
    answerable = np.isin(q_labels, classes[counts > own])
    result = {name: np.full(len(queries), np.nan, np.float32) for name in [*(f"recall@{k}" for k in ks), "map"]}
    if not answerable.any():
        return result
    q, g = unit(torch.from_numpy(queries.vectors[asked])), unit(torch.from_numpy(gallery.vectors[offered]))
    reach = min(max(ks), len(g) - own)
    found = g_labels[top_k(q, g, reach, exclude_self=own, block=block)[1].numpy()] == q_labels[:, None]
    for k in ks:
        result[f"recall@{k}"][asked] = np.where(answerable, found[:, :k].any(axis=1), np.nan)
    result["map"][asked[answerable]] = _average_precision(q, q_labels, g, g_labels, answerable, own, 8 * block * block)
    return result


def _average_precision(
    q: Tensor, q_labels: np.ndarray, g: Tensor, g_labels: np.ndarray, answerable: np.ndarray, own: bool, tile: int
) -> np.ndarray:
    """Average precision of the answerable queries, in tiles of about ``tile`` similarities.

    The gallery is ordered by class and queries are taken a class at a time, so that the similarities to a query's own
    class are a slice. Sorting values alone then suffices, with no need of their order: the rank of an answer is the
    number of similarities at least as large.
    """
    order = np.argsort(g_labels, kind="stable")
    g, g_labels = g[order], g_labels[order]
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    precision: np.ndarray = np.full(len(q), np.nan, np.float32)
    height = max(1, tile // len(g))
    for label in np.unique(q_labels[answerable]):
        low, high = np.searchsorted(g_labels, [label, label + 1])
        members = np.flatnonzero(q_labels == label)
        for rows in (members[start : start + height] for start in range(0, len(members), height)):
            similarity = q[rows] @ g.T
            if own:
                similarity[torch.arange(len(rows)), position[rows]] = -torch.inf
            # numpy sorts float32 with vector instructions, ten times faster than torch, which also returns the order
            answers = torch.from_numpy(np.sort(similarity[:, low:high].numpy(), axis=1)[:, int(own) :].copy())
            similarity.numpy().sort(axis=1)
            ranks = len(g) - torch.searchsorted(similarity, answers)
            hits = answers.shape[1] - torch.searchsorted(answers, answers)
            precision[rows] = (hits / ranks).mean(dim=1).numpy()
    return np.asarray(precision[answerable])
