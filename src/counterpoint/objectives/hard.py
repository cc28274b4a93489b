"""Hard and simple contrastive losses, and where their gradient goes (Wang & Liu, CVPR 2021, arXiv 2012.09740).

The softmax loss at a low temperature concentrates on the negatives nearest to the anchor, at a high one it treats all
alike. The paper makes losses of both ends: :class:`HardContrastive` chooses the nearest negatives outright,
:class:`SimpleContrastive` has no preference left. :func:`relative_penalty` and :func:`penalty_entropy` measure it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition, nearest, pair_sum

_BLOCK = 1 << 19  # scores and positions kept at a time while thresholds are looked for: 6 MB


class _Pairs(NamedTuple):
    """Anchors (N, D), the score of each with its positive (N,), and the candidates for its negatives."""

    queries: Tensor
    attraction: Tensor
    keys: Tensor | None  # None: the queries themselves
    exclude: Tensor | None  # item of each query and key: an anchor's own item is not among its negatives
    negatives: int  # how many are left for each anchor
    exclude_keys: Tensor | None = None  # of the keys, where they are not the queries' items in the same order


class _Selective(nn.Module):
    """What both losses share: who is a negative of whom, and which of them are hard enough to count."""

    def __init__(self, fraction: float, count: int | None, candidates: str, reduction: str) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a number above 0 and up to 1, got {fraction}")
        if count is not None and count < 1:
            raise ValueError(f"count: expected at least 1, got {count}")
        if candidates not in ("both", "other"):
            raise ValueError(f"candidates: expected 'both' or 'other', got {candidates!r}")
        self.fraction, self.count, self.candidates = fraction, count, candidates
        self.reduction = known_reduction(reduction)

    def _pairs(
        self,
        z1: Tensor,
        z2: Tensor,
        negatives: Tensor | None,
        exclude: Tensor | None = None,
        exclude_keys: Tensor | None = None,
    ) -> _Pairs:
        given = (negatives is not None, exclude is not None, exclude_keys is not None)
        if given[1] != given[2] or given[1] > given[0]:
            raise ValueError("exclude, exclude_keys: expected both, of negatives that are given, or neither")
        z1, z2 = (gather(normalize(z)) for z in embeddings(z1=z1, z2=z2))
        attraction = (z1 * z2).sum(1)
        if negatives is not None:
            (negatives,) = embeddings(negatives=negatives)
            if negatives.shape[1:] != z1.shape[1:]:
                raise ValueError(f"negatives: expected (K, {z1.shape[1]}), got {tuple(negatives.shape)}")
            if exclude is None or exclude_keys is None:
                return _Pairs(z1, attraction, normalize(negatives), None, len(negatives))
            return self._of_others(z1, attraction, normalize(negatives), exclude, exclude_keys)
        if len(z1) < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        item = torch.arange(len(z1), device=z1.device)
        if self.candidates == "other":
            return _Pairs(z1, attraction, z2, item, len(z1) - 1)
        return _Pairs(torch.cat([z1, z2]), attraction.repeat(2), None, item.repeat(2), 2 * len(z1) - 2)

    def _of_others(self, z1: Tensor, attraction: Tensor, keys: Tensor, exclude: Tensor, exclude_keys: Tensor) -> _Pairs:
        """Against a bank in which an anchor's own item has rows."""
        own = gather_labels(exclude)
        assert own is not None
        for name, groups, rows in (("exclude", own, z1), ("exclude_keys", exclude_keys, keys)):
            if groups.shape != rows.shape[:1] or groups.is_floating_point():
                raise ValueError(f"{name}: expected ({len(rows)},) integers, got {tuple(groups.shape)} {groups.dtype}")
        ordered = exclude_keys.sort()[0]
        mine = torch.searchsorted(ordered, own, right=True) - torch.searchsorted(ordered, own)
        left = len(keys) - int(mine.max())
        if left < 1:
            raise ValueError("negatives: expected a row of another item for each query, and some have none")
        return _Pairs(z1, attraction, keys, own, left, exclude_keys)

    def _kept(self, negatives: int) -> int:
        """How many of so many negatives are meant to count; more do where some are equally hard."""
        return min(negatives, self.count or max(1, round(self.fraction * negatives)))

    @torch.no_grad()
    def _hardest(self, pairs: _Pairs, kept: int) -> tuple[Tensor, Tensor]:
        """The largest score of each anchor with a negative, and its threshold: the ``kept``-th largest, each (N,).

        The threshold is lowered by what the rounding of a score can make up, since its tile need not be rounded as the
        block here is: without that the last negative, or one of several equal ones, could fall out by chance.
        """
        own = pairs.queries if pairs.keys is None else pairs.keys
        items = pairs.exclude if pairs.exclude_keys is None else pairs.exclude_keys
        # made here, since small tensors that stay between large ones that go keep glibc from using their room again
        found = pairs.queries.new_empty(len(pairs.queries), 2)
        for rows in torch.arange(len(pairs.queries), device=own.device).split(max(1, _BLOCK // kept)):
            some = None if pairs.exclude is None else pairs.exclude[rows]
            scores, _ = nearest(pairs.queries[rows], own, kept, exclude=some, exclude_keys=items)
            found[rows[0] : rows[-1] + 1] = scores[:, [0, -1]]
        largest, threshold = found.unbind(1)
        return largest, threshold - 16 * torch.finfo(threshold.dtype).eps


class HardContrastive(_Selective):
    """The softmax loss whose negatives are only the most similar ones: the hard contrastive loss.

    With ``s_ik`` the cosine of anchor ``i`` and candidate ``k``, ``s_ii`` that of its positive, and ``a_i`` the
    ``kept``-th largest ``s_ik`` over its negatives, a constant (the upper alpha quantile)::

        l_i = -log( exp(s_ii/temperature) / (exp(s_ii/temperature) + sum_{k != i, s_ik >= a_i} exp(s_ik/temperature)) )

    Negatives as hard as the ``kept``-th count too, so that there may be more.

    Args:
        temperature: 1.0, the highest of the paper's (.07, .3, .7, 1.0). A low temperature looks for hard negatives;
            here they are given, and the paper's best figures are those of high ones.
        fraction: alpha, the share of an anchor's negatives that is kept, rounded, at least 1. 0.0819 is the paper's for
            CIFAR, 4,095 of 50,000; it has .0315 for SVHN and .034 for ImageNet-100. 1 keeps all.
        count: kept negatives as a number, in place of ``fraction``; all where there are fewer.
        candidates: for two views of a batch, ``"both"`` views' embeddings of all other items are an anchor's negatives,
            and each of the 2B embeddings is an anchor (SimCLR); ``"other"`` is the paper's N candidates for each row:
            row i of ``z1`` against the rows of ``z2``, B anchors.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the terms of the anchors, view 1 first.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw, B >= 2 over all processes; or, against a bank, ``loss(z1, z2, negatives)``
        with queries ``z1`` and their keys ``z2`` (B, D), and negatives (K, D) raw, among which no query's own key is.
        With ``loss(z1, z2, negatives, exclude, exclude_keys)`` it may be: these are the items, integers, of the queries
        (B,) and of the bank (K,), and the rows of its own item are no negatives of a query.
        Memory O((B + K) D): the thresholds are found in blocks, the sums taken in tiles.

    Raises:
        ValueError: on B = 1 without a bank, shapes that differ, non-finite values, temperature <= 0, nothing kept.

    Reference: arXiv 2012.09740. No official code is known; the equations are checked against a literal evaluation.

    Relations: with ``fraction=1`` this is :class:`NTXent`, or against a bank :class:`InfoNCE`, exactly. As the
    temperature falls, ``temperature * l_i`` becomes ``max(0, hardest s_ik - s_ii)``, a triplet loss without margin; as
    it rises, ``temperature * (l_i - log(1 + kept))`` becomes :class:`SimpleContrastive` times ``kept / (1 + kept)``.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        fraction: float = 0.0819,
        count: int | None = None,
        candidates: str = "both",
        reduction: str = "mean",
    ) -> None:
        super().__init__(fraction, count, candidates, reduction)
        positive(temperature=temperature)
        self.temperature = temperature

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        negatives: Tensor | None = None,
        exclude: Tensor | None = None,
        exclude_keys: Tensor | None = None,
    ) -> Tensor:
        pairs = self._pairs(z1, z2, negatives, exclude, exclude_keys)
        attraction = pairs.attraction / self.temperature
        return reduce(torch.logaddexp(self._log_partition(pairs), attraction) - attraction, self.reduction)

    def _log_partition(self, pairs: _Pairs) -> Tensor:
        """Over the negatives that are kept."""
        kept, scale = self._kept(pairs.negatives), 1 / self.temperature
        if kept == pairs.negatives:
            return log_partition(
                pairs.queries, pairs.keys, scale=scale, exclude=pairs.exclude, exclude_keys=pairs.exclude_keys
            )

        def term(s: Tensor, largest: Tensor, threshold: Tensor) -> Tensor:
            # no kept score is above the largest; the bound is for pairs left out, whose infinity would spoil gradients
            return torch.where(s >= threshold, torch.exp(((s - largest) * scale).clamp(max=20)), 0.0)

        rows = self._hardest(pairs, kept)
        total = pair_sum(
            term, pairs.queries, pairs.keys, rows=rows, exclude=pairs.exclude, exclude_keys=pairs.exclude_keys
        )
        # the hardest adds 1, but for rounding at temperatures that are as small as it
        return rows[0] * scale + total.clamp(min=torch.finfo(total.dtype).tiny).log()


class SimpleContrastive(_Selective):
    """The contrastive loss without a preference for hard negatives: linear in the scores.

    ::

        l_i = - s_ii + lambda_ * sum_{k != i} s_ik

    The *hard simple* loss is the same over the hardest negatives only: ``fraction`` or ``count``.

    Args:
        lambda_: weight of the negatives. The paper leaves it to be tuned; ``None`` is one over the number that is kept,
            which makes this the limit of the softmax loss at high temperatures.
        fraction: share of an anchor's negatives that is kept: all. The paper's for hard negatives are those of
            :class:`HardContrastive`, 0.0819 for CIFAR.
        count, candidates, reduction: as in :class:`HardContrastive`.

    Shapes:
        as in :class:`HardContrastive`: ``loss(z1, z2)`` or ``loss(z1, z2, negatives)``, items as there.

    Raises:
        ValueError: on B = 1 without a bank, shapes that differ, non-finite values, a negative lambda, nothing kept.

    Reference: arXiv 2012.09740. No official code is known; the equations are checked against a literal evaluation.

    Relations: the limit of :class:`HardContrastive` at high temperatures.
    """

    def __init__(
        self,
        lambda_: float | None = None,
        fraction: float = 1.0,
        count: int | None = None,
        candidates: str = "both",
        reduction: str = "mean",
    ) -> None:
        super().__init__(fraction, count, candidates, reduction)
        if lambda_ is not None and not 0 <= lambda_ < float("inf"):
            raise ValueError(f"lambda_: expected a finite number of at least 0, got {lambda_}")
        self.lambda_ = lambda_

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        negatives: Tensor | None = None,
        exclude: Tensor | None = None,
        exclude_keys: Tensor | None = None,
    ) -> Tensor:
        pairs = self._pairs(z1, z2, negatives, exclude, exclude_keys)
        kept = self._kept(pairs.negatives)
        weight = 1 / kept if self.lambda_ is None else self.lambda_
        if kept == pairs.negatives:
            threshold = torch.full_like(pairs.attraction, float("-inf")).detach()
        else:
            _, threshold = self._hardest(pairs, kept)
        repulsion = pair_sum(
            lambda s, least: torch.where(s >= least, s, 0.0),
            pairs.queries,
            pairs.keys,
            rows=(threshold,),
            exclude=pairs.exclude,
            exclude_keys=pairs.exclude_keys,
        )
        return reduce(weight * repulsion - pairs.attraction, self.reduction)


def relative_penalty(scores: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """What share of an anchor's repulsion falls on each negative in the softmax loss: a Boltzmann distribution.

    ``r_ij = exp(s_ij/temperature) / sum_{k != i} exp(s_ik/temperature)``: the gradient of the loss with respect to the
    score of a negative over that with respect to the positive's.

    Args:
        scores: (N, M) cosines of anchors and candidates; the positive of row i is column i.
        temperature: of the loss.
        negatives: bool (N, M), which candidates count; default all but the diagonal. Of a SimCLR batch the diagonal and
            the positive both have to be left out.

    Returns:
        (N, M), differentiable; rows sum to 1, what does not count is 0.

    Raises:
        ValueError: scores that are no matrix or not finite, a row without a negative, a mask of another shape,
            temperature <= 0.
    """
    return _log_penalty(scores, temperature, negatives).exp()


def penalty_entropy(scores: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """Entropy (N,) in nats of :func:`relative_penalty`, whose arguments it takes.

    From 0 (the hardest negative takes all) to the log of their number (all alike); it never falls as the temperature
    rises, and rises strictly where the scores differ.
    """
    logs = _log_penalty(scores, temperature, negatives)
    shares = logs.exp()
    return -(shares * logs.masked_fill(shares == 0, 0.0)).sum(1)


def _log_penalty(scores: Tensor, temperature: float, negatives: Tensor | None) -> Tensor:
    positive(temperature=temperature)
    (scores,) = embeddings(scores=scores)
    if negatives is None:
        negatives = ~torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    if negatives.shape != scores.shape or negatives.dtype != torch.bool:
        raise ValueError(f"negatives: expected {tuple(scores.shape)} bool, got {tuple(negatives.shape)}")
    if not bool(negatives.any(1).all()):
        raise ValueError("scores: expected a negative in each row, and some rows have none")
    scores = scores.masked_fill(~negatives, float("-inf"))
    return torch.log_softmax((scores - scores.detach().amax(1, keepdim=True)) / temperature, dim=1)
