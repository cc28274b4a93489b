"""Adaptive multi-head contrastive learning, AMCL (Wang, Koniusz, Gedeon, Zheng, ECCV 2024, arXiv 2310.05615).

C projection heads see similarity each in its own way, and each pair has a temperature of its own in each head, which a
small network, :class:`PairTemperature`, reads from the two embeddings. Each head takes the positive for a Gaussian of
variance ``tau`` around the anchor. On unit vectors its likelihood makes the score of a pair, with :func:`omega`::

    score = s / tau - beta * Omega(tau),     Omega(tau) = D/2 log(tau) + 1/tau

and the product over the heads makes the loss a sum over them. The paper derives it for four kinds of loss, of which
these are the equations (2.1) to (2.4): :class:`AMCL` (SimCLR, MoCo, and InfoNCE as in LGP and CAN),
:class:`AMCLSimSiam` and :class:`AMCLBarlow`.

Why temperatures are bounded: a negative's ``-beta * Omega`` falls without end as ``tau`` grows, and where ``s < beta``
its ``(s - beta) / tau`` does as ``tau`` shrinks; ``beta`` alone does not hold them. ``D`` is large, so that ``log tau``
outweighs the rest of ``Omega``: for wide heads ``beta`` is better taken as a multiple of ``1/D``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from counterpoint.objectives.barlow import BarlowTwins
from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, nearest

Temperature = Callable[[Tensor, Tensor], Tensor]
_PAIRS = 2**15  # whose temperatures are computed at a time where all pairs need one


def omega(tau: Tensor, dim: int) -> Tensor:
    """``D/2 log(tau) + 1/tau``: what the Gaussian's normalisation and unit length leave of its log-likelihood."""
    return dim / 2 * tau.log() + 1 / tau


class PairTemperature(nn.Module):
    """The temperature of a pair of embeddings in each of C heads, by a small network for each head.

    ``tau = tau_min + (tau_max - tau_min) * sigmoid(w2 relu(W1 [x; y] + b1) + b2)``. The order of a pair counts.

    The form is that of the authors' ``adaptive_temperature.py``; whether the paper's network reads the concatenation,
    as there, or a product of mapped embeddings could not be made sure of.

    Args:
        dim: D of an embedding.
        heads: C; 3, the code's.
        hidden: width of the network, 128, the code's.
        tau_min: 0.05. The code has 1e-5, with which scores and their gradients reach 1e5 and 1e10.
        tau_max: 2, the code's.

    Shapes:
        ``temperature(x, y)``: (C, ..., D) each, to (C, ...); what lies between broadcasts, (C, N, 1, D) and
        (C, 1, M, D) give all pairs. Computed in the type of its weights.

    Raises:
        ValueError: a dimension below 1, or bounds that are not ``0 < tau_min <= tau_max``.
    """

    def __init__(
        self, dim: int, heads: int = 3, hidden: int = 128, tau_min: float = 0.05, tau_max: float = 2.0
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("heads", heads), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        positive(tau_min=tau_min, tau_max=tau_max)
        if tau_max < tau_min:
            raise ValueError(f"tau_max: expected at least tau_min, {tau_min}, got {tau_max}")
        self.first = nn.ModuleList(nn.Linear(2 * dim, hidden) for _ in range(heads))
        self.last = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(heads))
        self.tau_min, self.tau_max = tau_min, tau_max

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a 1/tau magnifies what bfloat16 would round off
            logits = [self._logit(*head) for head in zip(self.first, self.last, x, y, strict=True)]
            return self.tau_min + (self.tau_max - self.tau_min) * torch.stack(logits).sigmoid()

    def _logit(self, first: nn.Module, last: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        # W1 [x; y] is a sum of two products, each over the items instead of over the pairs
        left, right = first.get_parameter("weight").chunk(2, dim=1)
        hidden = linear(x.to(left), left, first.get_parameter("bias")) + linear(y.to(right), right)
        logit: Tensor = last(hidden.relu())
        return logit.squeeze(-1)


class AMCL(nn.Module):
    """In each head, an anchor's positive against its hardest negative, each at the temperature of its pair: (2.1).

    With unit vectors, ``s`` their products and ``score(s, tau) = s / tau - beta * Omega(tau)``::

        l_i = sum_c [ score(s_in*, tau_in*) - score(s_ip, tau_ip) ]  of head c,     n* = argmax_n s_in

    so that positives minimise ``-s/tau + beta * Omega`` and negatives the opposite, regulariser included. The negative
    is chosen by similarity alone, and no temperature but those of the 2 pairs is computed.

    Args:
        temperature: from pairs of unit vectors (C, N, D), (C, N, D) to (C, N), all above 0: a :class:`PairTemperature`,
            trained along with the encoder, or any function. Of the smooth maximum, what it learns must be a module's.
        beta: 0.1, the code's; of ``Omega``.
        negative: ``"hardest"``, the paper's, or ``"logsumexp"``: ``log sum_n exp(score_n)`` in its place, the smooth
            maximum, over all negatives. This one is ours.
        positive_in_denominator: the maximum (or the sum) is over the positive as well, (2.4), the form for LGP and CAN.
            A head whose positive is the nearest of all then is at rest. ``False`` is (2.1).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the terms of the anchors, each the sum over its heads.

    Shapes:
        ``loss(z1, z2)``: C heads of two views, (C, B, D) each, raw, B >= 2 over all processes. Both views are anchors,
        view 1 first, and the other items' 2B - 2 embeddings are their negatives: 2B terms.
        ``loss(z1, z2, negatives)`` with a bank (C, K, D): view 1 alone is anchor: B terms (MoCo).
        Memory O(C (B + K) D); the smooth maximum computes all temperatures, some rows at a time, again when it goes
        backward, which it does once: no second derivatives.

    Attributes:
        statistics: mean and deviation of the temperatures of positives and of hardest negatives in the last call.

    Raises:
        ValueError: no negative (B = 1 without a bank), shapes that differ, non-finite values, beta < 0.

    Relations: with one head, one temperature for all pairs, beta = 0 and the smooth maximum this is NT-Xent without the
    positive in the denominator, and with a bank :class:`InfoNCE`.
    """

    statistics: dict[str, Tensor]

    def __init__(
        self,
        temperature: Temperature,
        beta: float = 0.1,
        negative: str = "hardest",
        positive_in_denominator: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if negative not in ("hardest", "logsumexp"):
            raise ValueError(f"negative: expected 'hardest' or 'logsumexp', got {negative!r}")
        self.temperature, self.beta, self.negative = temperature, _weight("beta", beta), negative
        self.positive_in_denominator, self.reduction = positive_in_denominator, known_reduction(reduction)
        self.statistics = {}

    def forward(self, z1: Tensor, z2: Tensor, negatives: Tensor | None = None) -> Tensor:
        z1, z2 = (_gather(normalize(z)) for z in embeddings((3,), z1=z1, z2=z2))
        if negatives is None:
            anchors, positives = torch.cat([z1, z2], 1), torch.cat([z2, z1], 1)
            keys, items = anchors, torch.arange(z1.shape[1], device=z1.device).repeat(2)
            if z1.shape[1] < 2:
                raise ValueError("z1: expected at least 2 items, since with 1 there are no negatives")
        else:
            (negatives,) = embeddings((3,), negatives=negatives)
            if negatives[:, 0].shape != z1[:, 0].shape:
                raise ValueError(f"negatives: expected ({len(z1)}, K, {z1.shape[2]}), got {tuple(negatives.shape)}")
            anchors, positives, keys, items = z1, z2, normalize(negatives), None
        similar, tau = (anchors * positives).sum(2), self.temperature(anchors, positives)
        self.statistics = _statistics(positive=tau)
        pull = self._score(similar, tau, anchors)
        if self.negative == "logsumexp":
            push = self._smooth(anchors, keys, items)
            push = torch.logaddexp(push, pull) if self.positive_in_denominator else push
        else:
            hardest, push = self._hardest(anchors, keys, items)
            push = torch.where(similar > hardest, pull, push) if self.positive_in_denominator else push
        return reduce((push - pull).sum(0), self.reduction)

    def _score(self, similarity: Tensor, tau: Tensor, anchors: Tensor) -> Tensor:
        return similarity / tau - self.beta * omega(tau, anchors.shape[-1])

    def _hardest(self, anchors: Tensor, keys: Tensor, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Similarity and score of each anchor's nearest key, of other items where the keys are items, (C, N)."""
        found = [nearest(a, k, 1, exclude=items, exclude_keys=items)[1] for a, k in zip(anchors, keys, strict=True)]
        chosen = torch.stack([k[index[:, 0]] for k, index in zip(keys, found, strict=True)])
        similarity, tau = (anchors * chosen).sum(2), self.temperature(anchors, chosen)
        self.statistics |= _statistics(negative=tau)
        return similarity, self._score(similarity, tau, anchors)

    def _smooth(self, anchors: Tensor, keys: Tensor, items: Tensor | None) -> Tensor:
        """Log of the sum over the keys of exp(score), (C, N)."""
        learned = list(self.temperature.parameters()) if isinstance(self.temperature, nn.Module) else []
        if not learned and self.temperature(anchors[:, :1].detach(), keys[:, :1].detach()).requires_grad:
            raise ValueError(
                "temperature: expected a module that holds what is learned, for the sum over all negatives"
            )
        found: Tensor = _Smooth.apply(self._block, items, anchors, keys, *learned)
        return found

    def _block(self, anchors: Tensor, keys: Tensor, own: Tensor | None, items: Tensor | None) -> Tensor:
        with torch.autocast(anchors.device.type, enabled=False):
            similarity = anchors @ keys.transpose(1, 2)
        scores = self._score(similarity, self.temperature(anchors[:, :, None], keys[:, None]), anchors)
        if own is not None and items is not None:
            scores = scores.masked_fill(own[:, None] == items, -torch.inf)
        return scores.logsumexp(2)


class _Smooth(torch.autograd.Function):
    """``block(anchors, keys, items of the anchors, items)``, some rows at a time, and again when it goes backward.

    A checkpoint for each block would do, but what it keeps lies between the blocks in memory, whose room is then not
    used again: at 16,384 rows 1.5 GB of it.
    """

    @staticmethod
    def forward(
        ctx: Any, block: Callable[..., Tensor], items: Tensor | None, anchors: Tensor, keys: Tensor, *learned: Tensor
    ) -> Tensor:
        ctx.block, ctx.items = block, items
        ctx.save_for_backward(anchors, keys, *learned)
        found = anchors.new_empty(anchors.shape[:2])
        for rows in _blocks(anchors, keys):
            found[:, rows] = block(anchors[:, rows], keys, None if items is None else items[rows], items)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, *learned = ctx.saved_tensors
        table = keys.detach().requires_grad_()
        totals = [torch.zeros_like(x) for x in (anchors, keys, *learned)]
        wanted = [table, *(x for x in learned if x.requires_grad)]
        sums = [totals[1], *(total for total, x in zip(totals[2:], learned, strict=True) if x.requires_grad)]
        for rows in _blocks(anchors, keys):
            some = anchors[:, rows].detach().requires_grad_()
            with torch.enable_grad():
                found = ctx.block(some, table, None if ctx.items is None else ctx.items[rows], ctx.items)
            own, *rest = torch.autograd.grad(found, [some, *wanted], grad[:, rows], allow_unused=True)
            totals[0][:, rows] = own
            for total, part in zip(sums, rest, strict=True):
                if part is not None:
                    total += part
        return None, None, *totals


def _blocks(anchors: Tensor, keys: Tensor) -> list[slice]:
    rows = max(1, _PAIRS // keys.shape[1])
    return [slice(start, start + rows) for start in range(0, anchors.shape[1], rows)]


class AMCLSimSiam(nn.Module):
    """Predictions by C heads of one constant target, each at the temperature of its pair and direction: (2.2).

    With unit vectors, ``z`` the predictions and ``h`` the targets, on which the gradient stops::

        l_i = sum_c [ - <z1_i, h2_i> / (2 tau_12) - <z2_i, h1_i> / (2 tau_21)
                      + beta * Omega(tau_12) + beta * Omega(tau_21) ]  of head c

    The paper's table gives the targets no head: all heads predict the same. That ``tau_12`` is the temperature of the
    pair ``(z1, z2)`` and ``tau_21`` that of ``(z2, z1)`` is our reading of "two directed temperatures".

    Args:
        temperature, beta, reduction: as for :class:`AMCL`; ``"none"`` gives B terms.

    Shapes:
        ``loss(z1, z2, h1, h2)``: predictions (C, B, D) and targets (B, D), raw.

    Attributes:
        statistics: mean and deviation of the temperatures in the last call.

    Raises:
        ValueError: shapes that differ, non-finite values, beta < 0.

    Relations: with one head, all temperatures 1 and beta = 0 this is SimSiam's mean of two :class:`NegativeCosine`.
    """

    statistics: dict[str, Tensor]

    def __init__(self, temperature: Temperature, beta: float = 0.1, reduction: str = "mean") -> None:
        super().__init__()
        self.temperature, self.beta = temperature, _weight("beta", beta)
        self.reduction = known_reduction(reduction)
        self.statistics = {}

    def forward(self, z1: Tensor, z2: Tensor, h1: Tensor, h2: Tensor) -> Tensor:
        z1, z2 = (_gather(normalize(z)) for z in embeddings((3,), z1=z1, z2=z2))
        h1, h2 = (gather(normalize(h.detach())) for h in embeddings(h1=h1, h2=h2))
        if h1.shape != z1.shape[1:]:
            raise ValueError(f"h1: expected {tuple(z1.shape[1:])} as a head of z1, got {tuple(h1.shape)}")
        tau = torch.stack([self.temperature(z1, z2), self.temperature(z2, z1)])
        self.statistics = _statistics(positive=tau)
        similarity = torch.stack([(z1 * h2).sum(2), (z2 * h1).sum(2)])
        terms = self.beta * omega(tau, z1.shape[2]) - similarity / (2 * tau)
        return reduce(terms.sum((0, 1)), self.reduction)


class AMCLBarlow(nn.Module):
    """In each head, the cross-correlation of the dimensions against the temperatures of their pairs: (2.3).

    With each dimension standardised over the batch and ``C = z1^T z2 / B`` (D, D) of each head::

        loss = sum_c [ sum_l (1 - C_ll / tau_ll)^2 + lambda_ * sum_{l != m} C_lm^2 / tau_lm
                       + beta * sum_l Omega(tau_ll) - beta * sum_{l != m} Omega(tau_lm) ]  of head c

    Here the pairs are of dimensions, not of items, and how the paper reads a temperature from them is not known to us.
    A dimension is described by its correlations with the dimensions of the other view: ``tau_lm`` is the temperature of
    row l and column m of ``C``, which depends neither on the order nor on the number of the items. That is ours.

    Args:
        temperature: as for :class:`AMCL`, and broadcasting: (C, D, 1, D), (C, 1, D, D) to (C, D, D).
        lambda_: 5e-3, the code's.
        beta: 0.1, the code's; of ``Omega``, whose D is that of the head.
        eps: 1e-5 in the standardisation, see :class:`BarlowTwins`.

    Shapes:
        ``loss(z1, z2)``: (C, B, D) each, raw, B >= 2. Cost O(C (B + hidden) D^2), memory O(C hidden D^2).

    Attributes:
        statistics: mean and deviation of the temperatures on and off the diagonal in the last call, if any.

    Raises:
        ValueError: on B = 1 (no variance), shapes that differ, non-finite values, lambda_ or beta < 0.

    Relations: with one head, all temperatures 1 and beta = 0 this is :class:`BarlowTwins`.
    """

    statistics: dict[str, Tensor]

    def __init__(self, temperature: Temperature, lambda_: float = 0.005, beta: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.twins = BarlowTwins(lambda_, eps)
        self.temperature, self.beta = temperature, _weight("beta", beta)
        self.statistics = {}

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        z1, z2 = embeddings((3,), z1=z1, z2=z2)
        correlation = torch.stack([self.twins.cross_correlation(*head) for head in zip(z1, z2, strict=True)])
        tau = self.temperature(correlation[:, :, None], correlation.transpose(1, 2)[:, None])
        same = torch.eye(z1.shape[2], dtype=torch.bool, device=z1.device)
        self.statistics = _statistics(positive=tau[:, same], negative=tau[:, ~same])
        penalty = self.beta * omega(tau, z1.shape[2])
        positives = (1 - correlation / tau).square() + penalty
        negatives = self.twins.lambda_ * correlation.square() / tau - penalty
        return torch.where(same, positives, negatives).sum()


def _gather(z: Tensor) -> Tensor:
    """Items (C, B, D) of all processes."""
    return gather(z.transpose(0, 1)).transpose(0, 1)


def _weight(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
    return value


def _statistics(**temperatures: Tensor) -> dict[str, Tensor]:
    """``tau_<kind>`` and ``tau_<kind>_std`` of each kind."""
    found: dict[str, Tensor] = {}
    for kind, tau in temperatures.items():
        if not tau.numel():  # heads of one dimension have no other to be correlated with
            continue
        std, mean = torch.std_mean(tau.detach(), correction=0)
        found |= {f"tau_{kind}": mean, f"tau_{kind}_std": std}
    return found
