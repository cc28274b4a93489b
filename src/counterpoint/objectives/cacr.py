"""CACR: Contrastive Attraction and Contrastive Repulsion for Representation Learning (Zheng et al., TMLR 2023).

A *doubly* contrastive loss. Positives are compared with positives and negatives with negatives, each group by a softmax
over squared distances ``d = |z - z'|^2`` of its own, and no positive stands in a denominator with negatives:

* **attraction** pulls every positive, the far ones harder: ``w = softmax(+ tau_pos d)`` over an anchor's positives;
* **repulsion** pushes every negative, the near ones harder: ``v = softmax(- tau_neg d)`` over an anchor's negatives.

``tau_pos`` and ``tau_neg`` *multiply* distances (0 to 4), where temperatures elsewhere divide. At 0 all weights of a
group are equal: that is the ablation, and nothing else. The authors show that attraction is least where the positives
of a query coincide, and repulsion, under these weights, where embeddings lie evenly, whatever the sampling.

The authors have three settings: :class:`CACR` (one encoder, the batch), :class:`CACRQueue` (MoCo v2: a teacher's keys
and a queue) and :class:`CACRMoCoV3` (MoCo v3: predictions and a teacher's keys of the batch). Losses may be negative.

All means over negatives go through the log partition and a sum over pairs: no matrix of all pairs is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, log_partition, pair_sum

WEIGHTS = ("full", "attraction", "repulsion", "none")
COSTS = ("euclidean", "rbf")
Bank = tuple[Tensor, Tensor, bool]


class _TwoGroups(nn.Module):
    """What the first two settings share: scales, multipliers, and the attraction."""

    def __init__(self, alpha: float, beta: float, tau_pos: float, tau_neg: float, weights: str, reduction: str) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("tau_pos", tau_pos), ("tau_neg", tau_neg)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number, 0 or more, got {value}")
        if weights not in WEIGHTS:
            raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
        self.alpha, self.beta, self.reduction = alpha, beta, known_reduction(reduction)
        self.tau_pos = tau_pos if weights in ("full", "attraction") else 0.0
        self.tau_neg = tau_neg if weights in ("full", "repulsion") else 0.0

    def _attraction(self, queries: Tensor, keys: Tensor, constant: bool) -> Tensor:
        distances = _between_views(queries, keys)
        weights = self._attraction_weights(distances.detach() if constant else distances)
        return self.alpha * (weights * distances).sum((0, 1)) / len(queries)

    def _attraction_weights(self, distances: Tensor) -> Tensor:
        own = torch.eye(len(distances), dtype=torch.bool, device=distances.device)[:, :, None]
        return (self.tau_pos * distances).masked_fill(own, float("-inf")).softmax(1)


class CACR(_TwoGroups):
    """Every view is an anchor: its positives are the item's other views, its negatives other items in another view.

    With unit vectors ``z``, ``V`` views and ``d(x, y) = |x - y|^2 = 2 - 2 <x, y>``::

        attraction = alpha / V sum_a mean_i sum_{b != a} w_ab d(z_i^a, z_i^b),     w_ab = softmax_{b != a}(  tau_pos d)
        repulsion  = - beta mean_{a < b} mean_i sum_{j != i} v_ij d(z_i^a, z_j^b), v_ij = softmax_{j != i}(- tau_neg d)

    and the loss is their sum. Repulsion looks from view ``a`` to later views ``b`` only, as the official code does.

    Args:
        alpha, beta: scales of the two terms; 1, the authors' for all data sets.
        tau_pos: sharpness of the attraction's weights; 1, the authors' for all data sets.
        tau_neg: of the repulsion's; 2, the authors' on CIFAR-100, STL-10 and ImageNet (0.9 on CIFAR-10).
        weights: which group has conditional weights: ``"full"`` both, ``"attraction"``, ``"repulsion"``, or ``"none"``,
            where both terms are plain means. The last three are the ablations.
        detach_weights: keep gradients out of the weights. ``False``, the official code of this setting; its
            large-scale code detaches them. The value is the same.
        cost: what the repulsion averages, ``"euclidean"``, or ``"rbf"`` (an option of the official code)::

                repulsion = beta mean_{a < b} log mean_i sum_{j != i} v_ij exp(- rbf_t d(z_i^a, z_j^b))

        rbf_t: sharpness of that kernel; 2, the official code's.
        tau_plus: share of negatives that are thought to be positives, which takes the item's own distance out of its
            repulsion: ``r_i <- (r_i - tau_plus d(z_i^a, z_i^b)) / (1 - tau_plus)``; ``None`` does not, the authors
            have 0.1. Sign and scale are the official code's; by the estimate of debiased contrastive learning they
            would be ``+ tau_plus beta d``, since ``r_i`` is a mean of ``- beta d``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms of the items; with the RBF cost, whose logarithm
            is of the batch's mean, only ``"mean"``.

    Shapes:
        ``loss(z)``: (V, B, D) raw, V >= 2 views, B >= 2 items over all processes. Memory O(V B (V + D)). A zero vector
        has distance 2 to everything.

    Raises:
        ValueError: on one view or one item, non-finite values, numbers below 0, a ``tau_plus`` outside (0, 1), and one
            with the RBF cost or without weights in the repulsion, for which the authors define none.

    Relations: with two views attraction is Wang & Isola's alignment, its one weight being 1; the RBF cost without
    weights is their uniformity, of pairs between views instead of within one.

    Reference: arXiv 2105.03746.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau_pos: float = 1.0,
        tau_neg: float = 2.0,
        weights: str = "full",
        detach_weights: bool = False,
        cost: str = "euclidean",
        rbf_t: float = 2.0,
        tau_plus: float | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(alpha, beta, tau_pos, tau_neg, weights, reduction)
        positive(rbf_t=rbf_t)
        self.cost, self.rbf_t = _known_cost(cost), rbf_t
        if cost == "rbf" and reduction != "mean":
            raise ValueError(f"reduction: expected 'mean' with the RBF cost, a logarithm of a mean, got {reduction!r}")
        if tau_plus is not None and not (0 < tau_plus < 1 and cost == "euclidean" and weights in ("full", "repulsion")):
            raise ValueError(
                f"tau_plus: expected None or a share in (0, 1), with weights in the repulsion and the Euclidean cost, "
                f"got {tau_plus} with weights={weights!r} and cost={cost!r}"
            )
        self.tau_plus, self.detach_weights = tau_plus, detach_weights

    def forward(self, z: Tensor) -> Tensor:
        terms = self.components(z)
        return terms["attraction"] + terms["repulsion"]

    def components(self, z: Tensor) -> dict[str, Tensor]:
        """``{"attraction": ..., "repulsion": ...}``, reduced: what the loss is the sum of."""
        z = self._checked(z)
        repulsion = self._rbf(z) if self.cost == "rbf" else self._euclidean(z)
        terms = {"attraction": self._attraction(z, z, self.detach_weights), "repulsion": repulsion}
        return {name: reduce(term, self.reduction) for name, term in terms.items()}

    def conditional_weights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both groups' weights as matrices, for batches small enough to look at.

        Returns:
            attraction (V, V, B): of the positive in view ``b`` for item ``i``'s anchor in view ``a`` at ``[a, b, i]``;
            repulsion (V (V - 1) / 2, B, B), pairs of views in order: of item ``j`` for anchor ``i``. Both sum to 1 over
            their group and are 0 outside it.
        """
        z = self._checked(z)
        repulsion = [_others(2 * self.tau_neg * (z[a] @ z[b].T)) for a, b in _pairs(z)]
        return self._attraction_weights(_between_views(z, z)), torch.stack(repulsion)

    def _checked(self, z: Tensor) -> Tensor:
        (z,) = embeddings((3,), z=z)
        if len(z) < 2:
            raise ValueError("z: expected at least 2 views (V, B, D), since with 1 no anchor has a positive")
        z = _whole(z)
        if z.shape[1] < 2:
            raise ValueError("z: expected at least 2 items, since with 1 there are no negatives")
        return z

    def _euclidean(self, z: Tensor) -> Tensor:
        own, terms = torch.arange(z.shape[1], device=z.device), []
        for a, b in _pairs(z):
            score = _mean_score(z[a], own, 2 * self.tau_neg, [(z[b], own, self.detach_weights)])
            term = -self.beta * (2 - 2 * score)
            if self.tau_plus is not None:
                distance = 2 - 2 * (z[a] * z[b]).sum(1)
                term = (term - self.tau_plus * distance) / (1 - self.tau_plus)
            terms.append(term)
        return torch.stack(terms).mean(0)

    def _rbf(self, z: Tensor) -> Tensor:
        """The sum over the negatives is a ratio of two partitions, of the weights with the kernel and without."""
        own, items, terms = torch.arange(z.shape[1], device=z.device), z.shape[1], []
        for a, b in _pairs(z):
            sharp = log_partition(z[a], z[b], scale=2 * (self.tau_neg + self.rbf_t), exclude=own, exclude_keys=own)
            plain = log_partition(z[a], z[b], scale=2 * self.tau_neg, exclude=own, exclude_keys=own)
            if self.detach_weights:  # of the gradient of `sharp`, this share is the kernel's
                sharp = torch.lerp(sharp.detach(), sharp, self.rbf_t / (self.tau_neg + self.rbf_t))
                plain = plain.detach()
            terms.append((sharp - plain).logsumexp(0) - math.log(items) - 2 * self.rbf_t)
        return self.beta * torch.stack(terms).mean()


class CACRQueue(_TwoGroups):
    """Positives are a teacher's keys of the item's other views; negatives a queue and, with it, the rest of the batch.

    With queries ``q``, keys ``k`` and a queue ``n``, all unit vectors::

        attraction = alpha mean_a mean_i sum_{b != a} w_ab d(q_i^a, k_i^b),  w_ab = softmax_{b != a}(tau_pos d)
        repulsion  = - beta mean_a mean_i sum_x v_ix d(q_i^a, x),            v_ix = softmax_x(- tau_neg d)

    where ``x`` runs over the queue and, with ``intra_batch``, the queries ``q_j^a`` of other items, in one softmax.

    Args:
        alpha, beta, tau_pos, tau_neg: 1, 1, 1 and 2, of the authors' ImageNet runs.
        weights: as for :class:`CACR`.
        intra_batch: whether the other queries of the anchor's view are negatives too; yes, the official default.
        detach_weights: ``None``, the official code: weights that come from the teacher's keys, present or past, are
            constants, those of the batch's own queries are not (through the common softmax this reaches the queue's).
            ``True``: all are constants; ``False``: none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms of the items.

    Shapes:
        ``loss(queries, keys, negatives)``: (V, B, D), (V, B, D) and (K, D), all raw, V >= 2. Memory O(V B (V + D) +
        K D). The official code compares the queue with the first view's queries for every anchor view, a value kept too
        long; here each view's own are, as in its equation.

    Raises:
        ValueError: on one view, shapes that differ, an empty bank, non-finite values, numbers below 0.

    Relations: :class:`~counterpoint.objectives.InfoNCE` is MoCo's loss, with the positive among the negatives.

    Reference: arXiv 2105.03746.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau_pos: float = 1.0,
        tau_neg: float = 2.0,
        weights: str = "full",
        intra_batch: bool = True,
        detach_weights: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(alpha, beta, tau_pos, tau_neg, weights, reduction)
        self.intra_batch, self.detach_weights = intra_batch, detach_weights

    def forward(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> Tensor:
        terms = self.components(queries, keys, negatives)
        return terms["attraction"] + terms["repulsion"]

    def components(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """``{"attraction": ..., "repulsion": ...}``, reduced: what the loss is the sum of."""
        queries, keys, negatives = self._checked(queries, keys, negatives)
        own = torch.arange(queries.shape[1], device=queries.device)
        nobody = own.new_full((len(negatives),), -1)
        constant = self.detach_weights is not False
        scores = []
        for view in queries:
            batch = [(view, own, self.detach_weights is True)] if self.intra_batch else []
            scores.append(_mean_score(view, own, 2 * self.tau_neg, [(negatives, nobody, constant), *batch]))
        repulsion = -self.beta * (2 - 2 * torch.stack(scores).mean(0))
        terms = {"attraction": self._attraction(queries, keys, constant), "repulsion": repulsion}
        return {name: reduce(term, self.reduction) for name, term in terms.items()}

    def conditional_weights(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Both groups' weights as matrices, for batches small enough to look at.

        Returns:
            attraction (V, V, B): of the key in view ``b`` for item ``i``'s query in view ``a`` at ``[a, b, i]``;
            repulsion (V, B, K), or (V, B, K + B) with the batch's queries after the queue. Both sum to 1 over their
            group and are 0 outside it.
        """
        queries, keys, negatives = self._checked(queries, keys, negatives)
        logits = 2 * self.tau_neg * (queries @ negatives.T)
        if self.intra_batch:
            batch = 2 * self.tau_neg * (queries @ queries.mT)
            itself = torch.eye(batch.shape[1], dtype=torch.bool, device=batch.device)
            logits = torch.cat([logits, batch.masked_fill(itself, float("-inf"))], 2)
        return self._attraction_weights(_between_views(queries, keys)), logits.softmax(2)

    def _checked(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys = embeddings((3,), queries=queries, keys=keys)
        (negatives,) = embeddings(negatives=negatives)
        if len(queries) < 2:
            raise ValueError("queries: expected at least 2 views (V, B, D), since with 1 no query has a positive")
        if negatives.shape[1] != queries.shape[2]:
            raise ValueError(f"negatives: expected (K, {queries.shape[2]}), got {tuple(negatives.shape)}")
        return _whole(queries), _whole(keys), normalize(negatives)


class CACRMoCoV3(nn.Module):
    """A key's positives are the predictions from all other views of its item; its negatives are the batch.

    With predictions ``q``, a teacher's keys ``k``, unit vectors both, and ``T`` the temperature, for key view ``m``::

        p_v = softmax_{v != m}( d(q_i^v, k_i^m) / T ),  a constant
        rbf:        l_i = sum_v p_v 2T ( - <q_i^v, k_i^m> / T + log sum_j exp(<q_i^v, k_j^m> / T) )
        euclidean:  l_i = sum_v p_v ( c(q_i^v, k_i^m) - sum_{j != i} u_ij c(q_i^v, k_j^m) ),  c = 1 - <q, k>
                          with u = softmax_{j != i}(- c / T), a constant

    averaged over the key views. The RBF cost keeps the positive in its denominator; here alone in CACR.

    Args:
        temperature: 1, the authors' for ResNet-50; 0.2 for ViT-B.
        cost: of the repulsion, ``"rbf"`` (the official default) or ``"euclidean"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms of the items. ``None`` is the official code's:
            the mean with the RBF cost, the *sum* with the Euclidean one, whose learning rates do not carry over.

    Shapes:
        ``loss(queries, keys)``: (V, B, D) and (M, B, D), raw, V >= 2 and 1 <= M <= V; key view ``m`` is of the same
        view as query view ``m``. With multi-crop, M = 2 is the authors' light mode (small crops are queries only), M =
        V their full mode. Keys usually carry no gradient, but may. Memory O(V B D).

    Raises:
        ValueError: on one view or one item, shapes that do not fit, non-finite values, temperature <= 0.

    Relations: with two views and the RBF cost, MoCo v3's loss: ``2T`` times the cross entropy of the keys.

    Reference: arXiv 2105.03746.
    """

    def __init__(self, temperature: float = 1.0, cost: str = "rbf", reduction: str | None = None) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.cost = temperature, _known_cost(cost)
        self.reduction = known_reduction(("mean" if cost == "rbf" else "sum") if reduction is None else reduction)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        terms = self.components(queries, keys)
        return terms["attraction"] + terms["repulsion"]

    def components(self, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """``{"attraction": ..., "repulsion": ...}``, reduced: what the loss is the sum of."""
        queries, keys = self._checked(queries, keys)
        found: dict[str, list[Tensor]] = {"attraction": [], "repulsion": []}
        for m, key in enumerate(keys):
            others = torch.cat([queries[:m], queries[m + 1 :]])
            distances = 2 - 2 * (others * key).sum(2)
            weights = (distances.detach() / self.temperature).softmax(0)
            cost = distances if self.cost == "rbf" else distances / 2
            found["attraction"].append((weights * cost).sum(0))
            found["repulsion"].append((weights * self._repulsion(others, key)).sum(0))
        return {name: reduce(torch.stack(terms).mean(0), self.reduction) for name, terms in found.items()}

    def _repulsion(self, queries: Tensor, key: Tensor) -> Tensor:
        rows, items = queries.flatten(0, 1), torch.arange(len(key), device=key.device)
        if self.cost == "rbf":
            partition = log_partition(rows, key, scale=1 / self.temperature)
            return (2 * self.temperature * partition - 2).view(queries.shape[:2])
        score = _mean_score(rows, items.repeat(len(queries)), 1 / self.temperature, [(key, items, True)])
        return (score - 1).view(queries.shape[:2])

    def conditional_weights(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Both groups' weights as matrices, for batches small enough to look at.

        Returns:
            attraction (M, V, B): of the query in view ``v`` for item ``i``'s key in view ``m`` at ``[m, v, i]``;
            repulsion (M, V, B, B): of item ``j``'s key for item ``i``'s query. Both are 0 for ``v = m``; the Euclidean
            cost leaves ``j = i`` out.
        """
        queries, keys = self._checked(queries, keys)
        own = torch.eye(len(queries), dtype=torch.bool, device=keys.device)[: len(keys), :, None]
        distances = _between_views(keys, queries) / self.temperature
        scores = queries[None] @ keys.mT[:, None] / self.temperature
        repulsion = scores.softmax(3) if self.cost == "rbf" else _others(scores)
        attraction = distances.masked_fill(own, float("-inf")).softmax(1)
        return attraction, repulsion.masked_fill(own[..., None], 0.0)

    def _checked(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        (queries,), (keys,) = embeddings((3,), queries=queries), embeddings((3,), keys=keys)
        if len(queries) < 2:
            raise ValueError("queries: expected at least 2 views (V, B, D), since a key's own view is left out")
        views, items, dim = queries.shape
        if keys.shape[1:] != queries.shape[1:] or len(keys) > views:
            raise ValueError(f"keys: expected (1 to {views}, {items}, {dim}), got {tuple(keys.shape)}")
        queries, keys = _whole(queries), _whole(keys)
        if queries.shape[1] < 2:
            raise ValueError("queries: expected at least 2 items, since with 1 there are no negatives")
        return queries, keys


def _known_cost(cost: str) -> str:
    if cost not in COSTS:
        raise ValueError(f"cost: expected 'euclidean' or 'rbf', got {cost!r}")
    return cost


def _whole(z: Tensor) -> Tensor:
    """Unit vectors (V, B, D) of the items of all processes."""
    return gather(normalize(z).transpose(0, 1)).transpose(0, 1)


def _pairs(z: Tensor) -> Iterable[tuple[int, int]]:
    return combinations(range(len(z)), 2)


def _between_views(queries: Tensor, keys: Tensor) -> Tensor:
    """Squared distances (V, V', B) of each item's views; sums of products, which autocast leaves in float32."""
    return torch.stack([2 - 2 * (query * keys).sum(2) for query in queries])


def _others(scores: Tensor) -> Tensor:
    """Softmax of the last dimension of (..., B, B) over all but oneself."""
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(itself, float("-inf")).softmax(-1)


def _mean_score(queries: Tensor, own: Tensor, scale: float, banks: list[Bank]) -> Tensor:
    """Mean of ``<q_i, k>`` (N,) under ``softmax(scale <q_i, k>)`` over the keys of all banks but the query's own.

    A bank is its keys (M, D), their ids (M,), those that equal ``own`` being left out, and whether the weights are
    constants for the gradient.
    """
    partitions = []
    with torch.autocast(queries.device.type, enabled=False):  # a partition in bfloat16 would not be that of the sum
        for keys, ids, constant in banks:
            pair = (queries.detach(), keys.detach()) if constant else (queries, keys)
            partitions.append(log_partition(*pair, scale=scale, exclude=own, exclude_keys=ids))
    rows = (torch.stack(partitions).logsumexp(0),)
    sums = [
        pair_sum(partial(_weighted, scale, constant), queries, keys, rows=rows, exclude=own, exclude_keys=ids)
        for keys, ids, constant in banks
    ]
    return torch.stack(sums).sum(0)


def _weighted(scale: float, constant: bool, scores: Tensor, partition: Tensor) -> Tensor:
    return scores * torch.exp(scale * (scores.detach() if constant else scores) - partition)
