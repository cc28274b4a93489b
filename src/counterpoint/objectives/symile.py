"""Symile: a contrastive loss that sees all modalities at once (Saporta, Puli, Goldstein and Ranganath, NeurIPS 2024).

Three things may be dependent although any two of them are not: a XOR of two coins tells nothing about either alone.
A sum of losses over pairs of modalities (:class:`PairwiseCLIPLoss`) cannot see that. Symile scores a whole tuple, by
the *multilinear inner product* of its embeddings, sum_k a_k b_k ... z_k, and tells the tuples that occurred from those
put together from different items. For two modalities the product is the dot product and the loss InfoNCE.

``log N_c - L``, with N_c candidates an anchor, is a lower bound of the total correlation of the modalities,
KL(p(x_1, ..., x_M) || prod_m p(x_m)), in expectation; the score that attains it is the log of the ratio in it, up to a
constant. So the best score of a candidate y given the rest is ``log p(y | rest) - log p(y)``: with candidates that are
not equally frequent, add ``log p(y)`` to predict (``prior`` of :func:`mip_scores`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce as fold
from itertools import combinations
from operator import mul
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from counterpoint.objectives.groups import GroupInfoNCE
from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition

Modalities: TypeAlias = Mapping[str, Tensor] | Sequence[Tensor] | Tensor
_CHUNK = 1 << 22  # numbers made at a time where all combinations are taken, of candidates or scores: 16 MB of float32


def multilinear_inner_product(z: Sequence[Tensor]) -> Tensor:
    """``sum_k a_k b_k ... z_k`` over the last dimension: the dot product of any number of vectors.

    Args:
        z: two tensors or more, (..., D) each; what stands before D broadcasts. Taken as they are, not normalised.

    Returns:
        (...).

    Raises:
        ValueError: fewer than two tensors, or shapes that do not broadcast.
    """
    factors = list(z)
    if len(factors) < 2:
        raise ValueError(f"z: expected at least 2 tensors, got {len(factors)}")
    try:
        torch.broadcast_shapes(*(x.shape for x in factors))
    except RuntimeError as error:
        raise ValueError(f"z: shapes {[tuple(x.shape) for x in factors]} do not broadcast") from error
    if len({x.shape[-1:] for x in factors}) > 1:
        raise ValueError(f"z: expected one D for all, got {[tuple(x.shape) for x in factors]}")
    return fold(mul, factors).sum(-1)


def mip_scores(
    candidates: Tensor, queries: Modalities, scale: float | Tensor = 1.0, prior: Tensor | None = None
) -> Tensor:
    """Symile's scores of candidates of one modality, given the others: the largest is the prediction.

    Args:
        candidates: (C, D), raw embeddings of the modality to predict.
        queries: the other modalities of N items, a mapping, sequence or stack of (N, D), raw.
        scale: of the scores; the learned one makes a softmax over the candidates a posterior.
        prior: (C,), how frequent each candidate is, in any unit; its logarithm is added, so that a candidate that never
            occurs scores minus infinity. ``None``: all alike.

    Returns:
        (N, C), ``scale * MIP(candidate, queries) + log prior``, of unit vectors.

    Raises:
        ValueError: no query, shapes that differ, non-finite values, a scale that is not above 0, or a prior that is no
            (C,) of frequencies.

    Relations: :func:`pairwise_scores` is the same for a model of pairs of modalities.
    """
    c, q = _scored(candidates, queries, scale)
    return fold(mul, q) @ c.T * scale + _log_prior(prior, c)


def pairwise_scores(
    candidates: Tensor, queries: Modalities, scale: float | Tensor = 1.0, prior: Tensor | None = None
) -> Tensor:
    """Scores of candidates of one modality as pairwise CLIP has them: the sum of the products of all pairs.

    The pairs among the queries are in the sum, as in the official code; they are the same for all candidates.

    Args, returns, raises: as :func:`mip_scores`.
    """
    c, q = _scored(candidates, queries, scale)
    among = sum(((a * b).sum(1, keepdim=True) for a, b in combinations(q, 2)), q[0].new_zeros(()))
    return (fold(torch.add, q) @ c.T + among) * scale + _log_prior(prior, c)


class SymileLoss(nn.Module):
    """Each modality in turn must tell its item's tuple from tuples whose other modalities are of other items.

    With unit vectors ``r^m`` of modality m, ``s = 1/temperature``, anchor m, and ``U_j`` the elementwise product of the
    other modalities of candidate j::

        l_mi = - s MIP(r^1_i, ..., r^M_i) + log( exp(s MIP(r^1_i, ..., r^M_i)) + sum_{j != own} exp(s <r^m_i, U_j>) )

        negatives="n"     U_j = prod_{k != m} r^k_{pi_mk(j)}, j != i: N - 1 candidates put together by permutations
                          that are independent for each anchor m and other modality k
        negatives="all"   all N^(M-1) combinations of the other modalities, of which one is the item's own

    Permutations may put an item's own tuple together by chance; the paper accepts that, and so does this. Gradients
    pass through all modalities. Changing the signs of two modalities changes no score: compare scores, not embeddings.

    Args:
        negatives: ``"n"``, the default of the official code, or ``"all"``.
        temperature: 0.07, where CLIP's learned one starts. The product of unit vectors in many dimensions is small,
            about ``D^(-(M-1)/2)``: let the scale learn, and grow; the official experiments set its start anew for each
            data set.
        reduction: ``"mean"`` (over items and anchors, the official code's), ``"sum"`` or ``"none"`` for the M N terms,
            anchor after anchor.
        max_candidates: with ``"all"``, refuse more candidates than this; 2^22. They are made in chunks: memory is
            O(M N D), time O(M N^M D).
        generator: of the permutations; by default torch's global one.

    Shapes:
        ``loss(z, scale, permutations)``: z a mapping of M >= 2 modalities to (N, D), a sequence or a stack of them,
        raw; scale, in place of ``1/temperature``, a 0-d tensor that may require a gradient, clamped by whoever learns
        it; permutations int64 (M, M - 1, N), of which [m, k] is that of the k-th modality other than m, in their order,
        if they are not to be drawn. Over several processes N is the whole batch, and the permutations are the first
        process's. With N = 1 the loss is 0.

    Raises:
        ValueError: fewer than two modalities, shapes that differ, non-finite values, more than ``max_candidates``, what
            is no permutation, a temperature or scale that is not above 0.

    A modality that is missing in some rows still needs a vector there, such as that of a placeholder and a flag: see
    :class:`~counterpoint.encoders.MissingModalityEmbedding`.

    Reference: arXiv 2411.01053; official code: rajesh-lab/symile, which expects unit vectors.

    Relations: with two modalities and ``"all"`` this is CLIP's loss, :class:`GroupInfoNCE` with one group.
    """

    def __init__(
        self,
        negatives: str = "n",
        temperature: float = 0.07,
        reduction: str = "mean",
        max_candidates: int = 2**22,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if negatives not in ("n", "all"):
            raise ValueError(f"negatives: expected 'n' or 'all', got {negatives!r}")
        positive(temperature=temperature, max_candidates=max_candidates)
        self.negatives, self.temperature, self.reduction = negatives, temperature, known_reduction(reduction)
        self.max_candidates, self.generator = max_candidates, generator

    def forward(self, z: Modalities, scale: Tensor | None = None, permutations: Tensor | None = None) -> Tensor:
        named = named_modalities(z)
        if scale is not None:
            positive(scale=float(scale.detach()))
        s = 1 / self.temperature if scale is None else scale
        units = [gather(normalize(x)) for x in named.values()]
        attraction = fold(mul, units).sum(1) * s
        if self.negatives == "all":
            self._check_number(len(units), len(units[0]))
            partitions = [_all_combinations(anchor, others, s) for anchor, others in _anchors(units)]
        else:
            orders = self._permutations(permutations, units)
            partitions = []
            for order, (anchor, others) in zip(orders, _anchors(units), strict=True):
                keys = fold(mul, (other[rows] for other, rows in zip(others, order, strict=True)))
                shuffled = log_partition(anchor, keys, scale=s, exclude="self")
                partitions.append(torch.logaddexp(shuffled, attraction))
        return reduce((torch.stack(partitions) - attraction).flatten(), self.reduction)

    def _check_number(self, modalities: int, rows: int) -> None:
        count = rows ** (modalities - 1)
        if count > self.max_candidates:
            raise ValueError(
                f"negatives: all combinations of {modalities} modalities of {rows} items are {count} candidates, and "
                f"max_candidates is {self.max_candidates}: take 'n', smaller batches, or raise it"
            )

    def _permutations(self, given: Tensor | None, units: list[Tensor]) -> Tensor:
        """(M, M - 1, N), the same on all processes."""
        modalities, rows, device = len(units), len(units[0]), units[0].device
        shape = (modalities, modalities - 1, rows)
        if given is None:
            at = "cpu" if self.generator is None else self.generator.device
            drawn = [torch.randperm(rows, generator=self.generator, device=at) for _ in range(math.prod(shape[:2]))]
            whole = gather_labels(torch.stack(drawn).view(shape).to(device))
            assert whole is not None
            return whole[:modalities]
        wrong = not isinstance(given, Tensor) or given.is_floating_point() or given.shape != shape
        if wrong or bool((given.sort(-1)[0] != torch.arange(rows, device=given.device)).any()):
            raise ValueError(f"permutations: expected integers {shape}, each row a permutation of 0 to {rows - 1}")
        return given.to(device, torch.int64)


class PairwiseCLIPLoss(nn.Module):
    """CLIP's loss for every pair of modalities: what one does with more than two, and Symile's rival.

    Sees what is shared by pairs alone: with a XOR of two independent bits there is nothing for it to learn.

    Args:
        temperature: 0.07, where CLIP's learned one starts.
        reduction: over the M (M - 1) / 2 pairs: ``"sum"``, the official code's, ``"mean"``, or ``"none"`` for a loss of
            each pair, (1, 2), (1, 3), ...

    Shapes:
        ``loss(z, scale)``: as for :class:`SymileLoss`; N >= 2 over all processes. Memory O(M N D).

    Raises:
        ValueError: as :class:`SymileLoss`, and on N = 1.

    Reference: arXiv 2411.01053; official code: rajesh-lab/symile.

    Relations: each pair's loss is :class:`GroupInfoNCE` with one group. :class:`PairwiseAverage` does with views what
    this does with modalities, and has negatives within a view as well.
    """

    def __init__(self, temperature: float = 0.07, reduction: str = "sum") -> None:
        super().__init__()
        self.pair, self.reduction = GroupInfoNCE(temperature), known_reduction(reduction)
        self.temperature = temperature

    def forward(self, z: Modalities, scale: Tensor | None = None) -> Tensor:
        pairs = combinations(named_modalities(z).values(), 2)
        return reduce(torch.stack([self.pair(x, y, scale=scale) for x, y in pairs]), self.reduction)


def named_modalities(z: Modalities, name: str = "z", least: int = 2) -> dict[str, Tensor]:
    """Checked embeddings (N, D) by name, or by position."""
    if isinstance(z, Mapping):
        named = {f"{name}[{key!r}]": x for key, x in z.items()}
    elif isinstance(z, Tensor) and z.ndim != 3:
        raise ValueError(f"{name}: expected (M, N, D) or a sequence of (N, D), got {tuple(z.shape)}")
    else:
        named = {f"{name}[{m}]": x for m, x in enumerate(z)}
    if len(named) < least:
        raise ValueError(f"{name}: expected at least {least} modalities, got {len(named)}")
    return dict(zip(named, embeddings((2,), **named), strict=True))


def _anchors(units: list[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    """Each modality with all others."""
    return [(anchor, units[:m] + units[m + 1 :]) for m, anchor in enumerate(units)]


def _all_combinations(anchor: Tensor, others: list[Tensor], scale: float | Tensor) -> Tensor:
    """Log partition (N,) of an anchor over all combinations of the rows of the other modalities."""
    if len(others) == 1:
        return log_partition(anchor, others[0], scale=scale)
    count, size = len(anchor) ** len(others), max(1, _CHUNK // max(anchor.shape))
    if count <= size:
        return _some_combinations(anchor, scale, 0, count, *others)
    parts = [  # made again in the backward pass, instead of being kept
        checkpoint(
            _some_combinations, anchor, scale, start, min(start + size, count), *others,
            use_reentrant=False, preserve_rng_state=False,
        )
        for start in range(0, count, size)
    ]  # fmt: skip
    return torch.stack(parts).logsumexp(0)


def _some_combinations(anchor: Tensor, scale: float | Tensor, start: int, stop: int, *others: Tensor) -> Tensor:
    """The same over the combinations numbered from ``start`` to ``stop``: their digits, base N, are the rows."""
    number, rows = torch.arange(start, stop, device=anchor.device), len(anchor)
    factors = []
    for other in others:
        factors.append(other[number % rows])
        number = number // rows
    return log_partition(anchor, fold(mul, factors), scale=scale)


def _scored(candidates: Tensor, queries: Modalities, scale: float | Tensor) -> tuple[Tensor, list[Tensor]]:
    """Unit candidates, and unit queries by modality."""
    (c,) = embeddings(candidates=candidates)
    q = list(named_modalities(queries, "queries", least=1).values())
    if q[0].shape[1] != c.shape[1]:
        raise ValueError(f"candidates: expected (C, {q[0].shape[1]}) as the queries, got {tuple(c.shape)}")
    positive(scale=float(scale.detach()) if isinstance(scale, Tensor) else scale)
    return normalize(c), [normalize(x) for x in q]


def _log_prior(prior: Tensor | None, candidates: Tensor) -> Tensor | float:
    if prior is None:
        return 0.0
    prior = torch.as_tensor(prior).to(candidates)
    if prior.shape != candidates.shape[:1] or not bool(((prior >= 0) & prior.isfinite()).all()) or not prior.any():
        raise ValueError(f"prior: expected ({len(candidates)},) finite frequencies, not all 0, got {prior.tolist()}")
    return (prior / prior.sum()).log()
