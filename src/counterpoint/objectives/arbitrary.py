"""Positives from any two classes, compared in a subspace of their own (Wu et al., arXiv 2410.18200)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, normalize, positive
from counterpoint.pairwise import gather, gather_labels
from counterpoint.pairwise.tiles import gradients_through

_CELLS = 2**18  # of the score matrix at a time


class ArbitraryPairs(nn.Module):
    """Each anchor has a target class, and the keys of that class are its positives, whatever its own class is.

    Scores are taken behind gates ``g_i``, one vector an anchor, which decide in which coordinates it and all keys are
    compared. With ``P(i)`` the keys of the target class and ``N(i)`` those of neither the target nor the own class::

        cosine:  s_ij = cos(g_i * z_i, g_i * k_j) / temperature
        dot:     s_ij = sum_d g_id^2 z_id k_jd / temperature - ungated <z_i, k_j>        (unit z and k)

        loss = mean over all pairs (i, j), j in P(i), of  log( exp(s_ij) + sum_{n in N(i)} exp(s_in) ) - s_ij

    A positive competes with the negatives and not with the other positives. Keys of the anchor's own class are left
    out, unless it is the target. The gate is the anchor's: ``s`` is not symmetric.

    Args:
        temperature: 0.1, the authors'; with ``learnable_scale`` the one at the start.
        similarity: ``"cosine"``, of their scripts, or ``"dot"``, of their later research code.
        ungated: weight of the term that repels where gates are closed, ``"dot"`` only; 0, as in the authors' code.
        learnable_scale: makes 1 / temperature a parameter, ``exp(log_scale)``.
        exclude_self: for anchors that are the keys: leaves out the pairs (i, i). The authors' code does not.
        reduction: ``"mean"`` over all positive pairs, ``"sum"`` over them, or ``"none"`` for (B,), the sums over each
            anchor's positives.

    Shapes:
        ``loss(anchors, keys, anchor_labels, target_labels, key_labels, gate)``: (B, D) and (N, D), raw; integers (B,),
        (B,) and (N,); gates (B, D), not negative, or ``None`` for open ones. Without labels row i of the keys is the
        positive of anchor i and all others are negatives. A negative label is an unknown class: such an anchor, or one
        with such a target, adds nothing, such a key is left out. Memory O((B + N) D): scores are made for a block of
        anchors at a time, and again in the backward pass; no (B, N, D) tensor is made.

    Raises:
        ValueError: on mismatched shapes or labels, gates that are negative or not finite, non-finite values.

    No positive anywhere, as may happen where targets are drawn among all classes: 0, with a gradient of 0. An anchor
    without negatives costs exactly 0. Closed gates, or embeddings that are 0 behind them, have the score 0.

    Relations: without labels this is one direction of CLIP's loss, and :class:`InfoNCE` with the batch as its bank.
    With the own class as target and open gates it is supervised contrast without competition between positives.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        similarity: str = "cosine",
        ungated: float = 0.0,
        learnable_scale: bool = False,
        exclude_self: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"similarity: expected 'cosine' or 'dot', got {similarity!r}")
        if not math.isfinite(ungated) or (ungated and similarity != "dot"):
            raise ValueError(f"ungated: expected 0, or a finite number with similarity='dot', got {ungated}")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
        self.similarity, self.ungated, self.exclude_self, self.reduction = similarity, ungated, exclude_self, reduction
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learnable_scale else None

    def forward(
        self,
        anchors: Tensor,
        keys: Tensor,
        anchor_labels: Tensor | None = None,
        target_labels: Tensor | None = None,
        key_labels: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        (anchors,), (keys,) = embeddings(anchors=anchors), embeddings(keys=keys)
        self._check(anchors, keys, anchor_labels, target_labels, key_labels)
        if gate is not None:
            gate = gather(_gates(gate, anchors))
        with torch.autocast(anchors.device.type, enabled=False):
            z, k = gather(normalize(anchors)), gather(normalize(keys))
            labels = self._labels(len(z), len(k), anchor_labels, target_labels, key_labels, z.device)
            return self._reduced(z, k, gate, *labels)

    def _reduced(self, z: Tensor, k: Tensor, gate: Tensor | None, own: Tensor, target: Tensor, of: Tensor) -> Tensor:
        scale = z.new_tensor(1 / self.temperature) if self.log_scale is None else self.log_scale.exp().to(z)
        plan = _Plan(self.similarity, self.ungated, own, target, of, self.exclude_self)
        terms, number = _Blocks.apply(plan, z, k, gate, scale)
        if self.reduction == "none":
            return terms  # type: ignore[no-any-return]
        total: Tensor = terms.sum()
        return total / number.clamp(min=1) if self.reduction == "mean" else total

    def _labels(
        self,
        anchors: int,
        keys: int,
        own: Tensor | None,
        target: Tensor | None,
        of: Tensor | None,
        device: torch.device,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if own is None or target is None or of is None:
            rows = torch.arange(keys, device=device)
            return rows[:anchors], rows[:anchors], rows
        own, target, of = (gather_labels(x.to(device).long()) for x in (own, target, of))
        assert own is not None
        assert target is not None
        assert of is not None
        return own, target, of

    def _check(self, anchors: Tensor, keys: Tensor, *labels: Tensor | None) -> None:
        if keys.shape[1] != anchors.shape[1]:
            raise ValueError(f"keys: expected (N, {anchors.shape[1]}), got {tuple(keys.shape)}")
        names, lengths = ("anchor_labels", "target_labels", "key_labels"), (len(anchors), len(anchors), len(keys))
        given = [label is not None for label in labels]
        if any(given) != all(given):
            raise ValueError(f"{names[given.index(False)]}: expected all three labels or none of them")
        for name, label, length in zip(names, labels, lengths, strict=True):
            if label is not None and (label.shape != (length,) or label.is_floating_point() or label.is_complex()):
                raise ValueError(f"{name}: expected ({length},) integers, got {tuple(label.shape)} {label.dtype}")
        if (self.exclude_self or not all(given)) and len(keys) != len(anchors):
            why = "with exclude_self" if self.exclude_self else "without labels"
            raise ValueError(f"keys: expected {tuple(anchors.shape)} as anchors {why}, got {tuple(keys.shape)}")


def gated_cosine(z: Tensor, k: Tensor, gate: Tensor | None = None, scale: Tensor | float = 1.0) -> Tensor:
    """``scale * cos(g_i * z_i, g_i * k_j)``, (B, N), without the (B, N, D) tensor of gated keys.

    The numerator is ``<g_i^2 z_i, k_j>`` and the length of a gated key the root of ``<g_i^2, k_j^2>``. Of a gate only
    the proportions count.

    Args:
        z: unit vectors (B, D).
        k: unit vectors (N, D).
        gate: (B, D), not negative; ``None`` is open.
        scale: a number.

    A gated key shorter than 1e-12 of its gate's largest entry, or than 1e-32, counts as 0, and so does its score.
    """
    if gate is None:
        return scale * (z @ k.T)
    gate = gate / gate.detach().amax(1, keepdim=True).clamp(min=1e-20)
    squared = gate.square() @ k.square().T
    there = squared > 1e-24
    return scale * torch.where(there, ((normalize(gate * z) * gate) @ k.T) * torch.where(there, squared, 1).rsqrt(), 0)


def gated_dot(
    z: Tensor, k: Tensor, gate: Tensor | None = None, scale: Tensor | float = 1.0, ungated: float = 0.0
) -> Tensor:
    """``scale * sum_d g_id^2 z_id k_jd - ungated <z_i, k_j>``, (B, N); shapes as for :func:`gated_cosine`."""
    left = z if gate is None else z * gate.square()
    return (scale * left - ungated * z) @ k.T


def multi_positive_terms(scores: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """``log( exp(s_ij) + sum_{n in N(i)} exp(s_in) ) - s_ij`` where ``positives``, 0 elsewhere.

    Args:
        scores: (B, N).
        positives: booleans (B, N).
        negatives: booleans (B, N); a cell that is neither plays no part. A row without any costs 0.

    Returns:
        (B, N).
    """
    has = negatives.any(1, keepdim=True)
    partition = scores.masked_fill(~negatives & has, -math.inf).logsumexp(1, keepdim=True)
    counted = positives & has
    gap = torch.where(counted, partition - scores, 0)
    return torch.where(counted, nn.functional.softplus(gap, threshold=40), 0)


class _Plan(NamedTuple):
    """What is compared and how, apart from the tensors that carry gradients."""

    similarity: str
    ungated: float
    own: Tensor
    target: Tensor
    of: Tensor
    exclude_self: bool

    def row_sums(self, rows: slice, z: Tensor, k: Tensor, gate: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
        """For each anchor of a block the sum over its positives, and their number."""
        own, target, known = self.own[rows, None], self.target[rows, None], self.of >= 0
        if self.exclude_self:
            row = torch.arange(rows.start, rows.start + len(z), device=z.device)[:, None]
            known = known & (row != torch.arange(len(k), device=z.device))
        positives = (target == self.of) & known & (own >= 0)
        negatives = (target != self.of) & (own != self.of) & known
        if self.similarity == "dot":
            scores = gated_dot(z, k, gate, scale, self.ungated)
        else:
            scores = gated_cosine(z, k, gate, scale)
        return multi_positive_terms(scores, positives, negatives).sum(1), positives.sum(1)

    def whole(self, z: Tensor, k: Tensor, gate: Tensor | None, scale: Tensor) -> tuple[Tensor]:
        """All anchors at once, by operations that autograd knows."""
        return (self.row_sums(slice(0, len(z)), z, k, gate, scale)[0],)


class _Blocks(torch.autograd.Function):
    """The sums of all anchors, a block of them at a time, and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, z: Tensor, k: Tensor, gate: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.plan = plan
        ctx.save_for_backward(z, k, gate, scale)
        sums, number = z.new_empty(len(z)), torch.zeros((), dtype=torch.int64, device=z.device)
        for rows in _blocks(z, k):
            sums[rows], counts = plan.row_sums(rows, z[rows], k, None if gate is None else gate[rows], scale)
            number += counts.sum()
        ctx.mark_non_differentiable(number)
        return sums, number

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # to be derived again
            return None, *gradients_through(ctx.plan.whole, inputs, [grad], wanted)
        z, k, gate, scale = inputs
        found = [torch.zeros_like(x) if want else None for x, want in zip(inputs, wanted, strict=True)]
        for rows in _blocks(z, k):
            parts = z[rows], k, None if gate is None else gate[rows], scale
            given: list[Any] = [None if x is None else x.detach() for x in parts]
            with torch.enable_grad():
                for x, want in zip(given, wanted, strict=True):
                    if want:
                        x.requires_grad_()
                sums, _counts = ctx.plan.row_sums(rows, *given)
            asked = [x for x in given if x is not None and x.requires_grad]
            changes = iter(torch.autograd.grad(sums, asked, grad[rows]))
            for place, (total, want) in enumerate(zip(found, wanted, strict=True)):
                if want and total is not None:
                    (total[rows] if place in (0, 2) else total).add_(next(changes))
        return None, *found


def _blocks(z: Tensor, k: Tensor) -> list[slice]:
    step = max(1, _CELLS // len(k))
    return [slice(start, start + step) for start in range(0, len(z), step)]


def _gates(gate: Tensor, anchors: Tensor) -> Tensor:
    if not isinstance(gate, Tensor) or gate.shape != anchors.shape or not gate.is_floating_point():
        raise ValueError(f"gate: expected {tuple(anchors.shape)} as anchors, got {tuple(getattr(gate, 'shape', ()))}")
    if not bool((torch.isfinite(gate) & (gate >= 0)).all()):
        raise ValueError("gate: expected finite numbers of at least 0")
    return gate.to(anchors)
