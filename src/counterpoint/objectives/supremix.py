"""SupReMix: Mixup Your Own Pairs, supervised contrastive regression (Wu et al. 2023, arXiv 2309.16633)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels

WEIGHTS = ("l1", "l2", "l1_inverse", "l2_inverse")
_BLOCK = 1 << 20  # scores of anchors with their candidates and mixtures kept at a time


class Mixtures(NamedTuple):
    """Points that SupReMix mixes for one anchor.

    Attributes:
        points: (P, D), not normalised.
        targets: (P,) of the mixtures.
        positive: (P,) bool: between a lower and a higher target and at the anchor's own, or a hard negative.
    """

    points: Tensor
    targets: Tensor
    positive: Tensor


class SupReMix(nn.Module):
    """Contrast for a target that is a number, its hard pairs mixed from the embeddings at hand.

    Positives of an anchor are embeddings of just its target, and *mix-pos*: for every pair of a lower and a higher
    target, both nearer to the anchor's than ``window``, the point between them whose target is the anchor's. Negatives
    are embeddings of other targets, and *mix-neg*: the anchor mixed with each of them. In the denominator each
    candidate ``u`` counts the more the farther its target is::

        mix-neg   m = b z_i + (1 - b) z_k,                 y(m) = b y_i + (1 - b) y_k,      b ~ Beta
        mix-pos   m = a z_j + (1 - a) z_k,   y_j < y_i < y_k,   a = (y_k - y_i) / (y_k - y_j)
        l_i = -1/|P_i| sum_{u in P_i} [ s(u) - log sum_u w(u) exp s(u) ],   s(u) = <z_i, u>/temperature,
        w(u) = 1 + |y_i - y(u)|

    with unit vectors ``z``; mixtures are constants and are not normalised. The sum in the denominator runs over all
    other embeddings and all mixtures.

    Args:
        temperature: 0.3, the official default for images (0.1 for sentences).
        window: 5, in units of the target; the official default for ages in years (1 for similarities from 0 to 5). It
            and the weights depend on the unit: the method ``supremix`` measures targets in standard deviations.
        beta: parameters of the weight of the *anchor* in mix-neg, (2, 8): the official default, with which a mixture is
            mostly the other sample. (The official help text calls this option Beta(5, 5); the code is followed.)
        mix_neg, mix_pos: leave one or both kinds out; without both this is a weighted SupCon.
        distance_weight: ``"l1"`` is the default above (the official code names it L1_inv), ``"l2"`` is ``1 + d^2``,
            ``"l1_inverse"`` and ``"l2_inverse"`` are one over these, ``None`` is 1.
        max_mixtures: at most so many of each kind for an anchor, drawn anew at each call (mix-pos with replacement);
            ``None`` takes all, of which there can be a quarter of the squared number of embeddings.
        detach_mixtures: ``True`` as in the official code; otherwise gradients reach what is mixed too.
        empty: what an anchor without any positive does, as in :class:`SupCon`: ``"skip"``, ``"zero"`` or ``"error"``.
            That happens in one view, with targets all different. (The official code gives NaN, or divides by one more
            than there are.)
        compat: ``"official"`` subtracts one maximum from the scores of embeddings and another from those of mixtures,
            as the official code does before it adds them up, which changes the loss; ``"paper"`` does not.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the V B terms, view after view; a skipped term is 0.

    Shapes:
        ``loss(z, targets)``: z (V, B, D) or (B, D) raw, targets (B,) floats or integers. ``loss(z, targets, weights)``
        with weights (V B, V B) in [0, 1] uses these in place of draws: that of anchor i in its mixture with k, views
        one after the other. Mixtures are never formed: their scores are mixtures of scores, in blocks that the backward
        pass computes again. Memory O(V B D + block); time O((V B)^2 D + mixtures).

    Raises:
        ValueError: on one embedding in all, no positive anywhere, targets or weights that do not fit or are not finite.

    Relations: with all targets equal, or without mixtures and with ``distance_weight=None``, this is :class:`SupCon`
    of the targets as classes. Across processes each draws its own mixtures of the whole batch.
    """

    def __init__(
        self,
        temperature: float = 0.3,
        window: float = 5.0,
        beta: tuple[float, float] = (2.0, 8.0),
        mix_neg: bool = True,
        mix_pos: bool = True,
        distance_weight: str | None = "l1",
        max_mixtures: int | None = None,
        detach_mixtures: bool = True,
        empty: str = "skip",
        compat: str = "paper",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature, window=window)
        if len(beta) != 2 or not all(0 < float(b) < float("inf") for b in beta):
            raise ValueError(f"beta: expected two finite numbers above 0, got {beta}")
        if distance_weight is not None and distance_weight not in WEIGHTS:
            raise ValueError(f"distance_weight: expected one of {', '.join(WEIGHTS)} or None, got {distance_weight!r}")
        if max_mixtures is not None and max_mixtures < 1:
            raise ValueError(f"max_mixtures: expected at least 1, got {max_mixtures}")
        if empty not in ("skip", "zero", "error"):
            raise ValueError(f"empty: expected 'skip', 'zero' or 'error', got {empty!r}")
        if compat not in ("paper", "official"):
            raise ValueError(f"compat: expected 'paper' or 'official', got {compat!r}")
        self.temperature, self.window, self.beta = temperature, window, (float(beta[0]), float(beta[1]))
        self.mix_neg, self.mix_pos, self.distance_weight = mix_neg, mix_pos, distance_weight
        self.max_mixtures, self.detach_mixtures = max_mixtures, detach_mixtures
        self.empty, self.compat, self.reduction = empty, compat, known_reduction(reduction)

    def forward(self, z: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        z, y = self._prepared(z, targets)
        if weights is not None:
            weights = _checked_weights(weights, z)
        # in the order of their targets, an anchor's lower and higher neighbours within the window lie side by side
        order = torch.argsort(y, stable=True)
        with torch.autocast(z.device.type, enabled=False):
            found = self._in_blocks(z[order], y[order], None if weights is None else weights[order][:, order])
        terms, number = (part[torch.argsort(order)] for part in found)
        return self._reduced(terms, number > 0)

    def mixtures(self, z: Tensor, targets: Tensor, anchor: int, weights: Tensor | None = None) -> Mixtures:
        """The mixtures of one anchor as points, to look at; mix-neg first, then mix-pos, each by position.

        Args:
            z, targets, weights: as for the loss.
            anchor: number of the embedding, views one after the other.
        """
        z, y = self._prepared(z, targets)
        away = y - y[anchor]
        made = [(z[:0], y[:0], torch.zeros(0, dtype=torch.bool, device=z.device))]
        if self.mix_neg:
            (others,) = (away != 0).nonzero(as_tuple=True)
            b = self._draw((len(others),), z) if weights is None else _checked_weights(weights, z)[anchor, others]
            points = b[:, None] * z[anchor] + (1 - b)[:, None] * z[others]
            made.append((points, y[anchor] + (1 - b) * away[others], torch.zeros_like(others, dtype=torch.bool)))
        if self.mix_pos:
            low = ((away < 0) & (-away < self.window)).nonzero()[:, 0]
            high = ((away > 0) & (away < self.window)).nonzero()[:, 0]
            j, k = (pair.flatten() for pair in torch.meshgrid(low, high, indexing="ij"))
            a = (away[k] / (y[k] - y[j]))[:, None]
            made.append((a * z[j] + (1 - a) * z[k], y[anchor].expand(len(j)), torch.ones_like(j, dtype=torch.bool)))
        return Mixtures(*(torch.cat(parts) for parts in zip(*made, strict=True)))

    def _prepared(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (V B, D) of all processes and the target of each."""
        (z,) = embeddings((2, 3), z=z)
        z = z[None] if z.ndim == 2 else z
        if not isinstance(targets, Tensor) or targets.shape != (z.shape[1],) or targets.is_complex():
            found = tuple(getattr(targets, "shape", ())) or type(targets).__name__
            raise ValueError(f"targets: expected ({z.shape[1]},) numbers, got {found}")
        y = targets.detach().to(z.device, z.dtype)
        if not bool(torch.isfinite(y.max() - y.min())):
            raise ValueError("targets: expected finite numbers whose differences are finite; leave out missing ones")
        z = gather(normalize(z).transpose(0, 1)).transpose(0, 1)
        everyone = gather_labels(y)
        assert everyone is not None
        if z.shape[0] * z.shape[1] < 2:
            raise ValueError("z: expected at least 2 embeddings, got 1, which has no pair")
        return z.reshape(-1, z.shape[2]), everyone.repeat(z.shape[0])

    def _in_blocks(self, z: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Term and number of positives of each anchor, in the order of the targets."""
        size = max(1, _BLOCK // (2 * len(y) + self._pairs_of(y)))
        blocks = torch.arange(len(y), device=z.device).split(size)
        again = z.requires_grad and torch.is_grad_enabled() and len(blocks) > 1
        terms, numbers = [], []
        for rows in blocks:
            some = None if weights is None else weights[rows]
            if again:
                term, number = checkpoint(self._block, rows, z, y, some, use_reentrant=False)
            else:
                term, number = self._block(rows, z, y, some)
            terms.append(term)
            numbers.append(number)
        return torch.cat(terms), torch.cat(numbers)

    def _pairs_of(self, y: Tensor) -> int:
        """An upper bound of the mix-pos pairs of an anchor."""
        if not self.mix_pos:
            return 0
        low = torch.arange(len(y), device=y.device) - torch.searchsorted(y, y - self.window)
        high = torch.searchsorted(y, y + self.window, right=True) - torch.arange(len(y), device=y.device)
        most = int((low.clamp(min=0) * high.clamp(min=0)).max())
        return most if self.max_mixtures is None else min(most, self.max_mixtures)

    def _block(self, rows: Tensor, z: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Term and number of positives of the anchors ``rows``."""
        keys = z.detach() if self.detach_mixtures else z
        away = y - y[rows][:, None]
        itself = torch.zeros_like(away, dtype=torch.bool).scatter_(1, rows[:, None], True)
        same = (away == 0) & ~itself
        scores = z[rows] @ z.T / self.temperature
        mixable = z[rows] @ keys.T / self.temperature if self.detach_mixtures else scores
        number = same.sum(1)
        attraction = torch.where(same, scores, 0.0).sum(1)
        real = (scores + self._log_weight(away.abs())).masked_fill(itself, -torch.inf)
        mixed: list[Tensor] = []
        top = scores.new_full((len(rows),), -torch.inf)  # the largest score of a mixture, before it is weighted
        if self.mix_neg:
            negatives, logs = self._negatives(mixable, away, rows, weights)
            mixed.append(negatives + logs)
            top = negatives.detach().amax(1)
        if self.mix_pos:
            positives, there = self._positives(mixable, y, away)
            number = number + there.sum(1)
            attraction = attraction + torch.where(there, positives, 0.0).sum(1)
            mixed.append(positives.masked_fill(~there, -torch.inf))
            top = torch.cat([top[:, None], mixed[-1].detach()], 1).amax(1)
        partition = torch.logsumexp(torch.cat([real, *mixed], 1), 1)
        if self.compat == "official" and mixed:
            first, second = scores.detach().amax(1), torch.nan_to_num(top, neginf=0.0)
            rest = torch.logsumexp(torch.cat(mixed, 1), 1) - second
            partition = torch.logaddexp(torch.logsumexp(real, 1) - first, rest)
            equals = same.sum(1)
            attraction = attraction - equals * first - (number - equals) * second
        return torch.where(number > 0, partition - attraction / number.clamp(min=1), 0.0), number

    def _negatives(
        self, scores: Tensor, away: Tensor, rows: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | float]:
        """Scores (n, N) of anchors with their mixtures with what has another target, -inf for the rest; log weights."""
        b = self._draw(scores.shape, scores) if weights is None else weights
        own = scores.gather(1, rows[:, None])
        # the score of an anchor with itself is that of a unit vector: its slope is along the vector, and vanishes
        mixed = b * own + (1 - b) * scores
        used = away != 0
        if self.max_mixtures is not None and self.max_mixtures < scores.shape[1]:
            lot = torch.rand_like(scores).masked_fill(~used, -1.0)
            used = used & (lot >= lot.topk(self.max_mixtures, 1).values[:, -1:])
        return mixed.masked_fill(~used, -torch.inf), self._log_weight((1 - b) * away.abs())

    def _positives(self, scores: Tensor, y: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, P) of points between a lower and a higher target, and which of them are there."""
        lower, higher = ((away < 0) & (-away < self.window)), ((away > 0) & (away < self.window))
        below, above = lower.sum(1, keepdim=True), higher.sum(1, keepdim=True)
        count = below * above
        width = int(count.max())
        if self.max_mixtures is not None:
            width = min(width, self.max_mixtures)
        pair = torch.arange(width, device=y.device).expand(len(away), width)
        there = pair < count
        if self.max_mixtures is not None:
            drawn = (torch.rand(pair.shape, device=y.device) * count).long().minimum((count - 1).clamp(min=0))
            pair = torch.where(count > width, drawn, pair)
        pair = torch.where(there, pair, 0)
        # both lie side by side in the order of the targets, the lower ones just before the anchor's equals
        j = ((away < 0) & (-away >= self.window)).sum(1, keepdim=True) + pair // above.clamp(min=1)
        k = (away <= 0).sum(1, keepdim=True) + pair % above.clamp(min=1)
        j, k = (torch.where(there, index, 0) for index in (j, k))
        low, high = away.gather(1, j), away.gather(1, k)
        a = torch.where(there, high / torch.where(there, high - low, 1.0), 0.0)
        return a * scores.gather(1, j) + (1 - a) * scores.gather(1, k), there

    def _log_weight(self, distance: Tensor) -> Tensor | float:
        if self.distance_weight is None:
            return 0.0
        if self.distance_weight.startswith("l1"):
            logs = torch.log1p(distance)
        else:  # 1 + d^2 without the square, which may overflow
            logs = torch.logaddexp(torch.zeros_like(distance), 2 * distance.log())
        return -logs if self.distance_weight.endswith("inverse") else logs

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.distributions.Beta(*self.beta).sample(torch.Size(shape)).to(like)

    def _reduced(self, terms: Tensor, has: Tensor) -> Tensor:
        if bool(has.all()):
            return reduce(terms, self.reduction)
        if self.empty == "error" or not bool(has.any()):
            raise ValueError(
                f"targets: {int((~has).sum())} of {len(has)} anchors have no positive: give two views, or targets that "
                "repeat or lie within the window on both sides"
            )
        return reduce(terms[has] if self.empty == "skip" and self.reduction == "mean" else terms, self.reduction)


def _checked_weights(weights: Tensor, z: Tensor) -> Tensor:
    if weights.shape != (len(z), len(z)) or not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"weights: expected ({len(z)}, {len(z)}) numbers in [0, 1], got {tuple(weights.shape)}")
    return weights.detach().to(z)
