"""Contrast within groups: negatives come from an anchor's own group alone (MCL: Zhang et al., ECCV 2024).

What separates the groups cannot separate the items of one, so a model that is asked to tell apart the items of a group
has to learn something else. The authors draw each batch from a single group and leave the loss as it is; these losses
give every anchor of a mixed batch the same term, with fewer negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.ntxent import NTXent
from counterpoint.pairwise import gather, gather_labels, log_partition, log_partitions


class GroupNTXent(NTXent):
    """NT-Xent whose denominator holds an anchor's positive and the embeddings of the items of its group.

    With unit vectors ``z``, positive ``p(i)`` and group ``g``::

        l_i = - <z_i, z_p(i)>/temperature + log sum_{j != i, g_j = g_i} exp(<z_i, z_j>/temperature)

    An item alone in its group has nothing to be told from: its two terms are 0 and have no gradient. They count in the
    mean.

    Args:
        temperature: 0.5, as for :class:`NTXent`; the authors' code for one modality is not published.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the 2B terms, view 1 first.

    Shapes:
        ``loss(z1, z2, groups)``: both (B, D), raw, B >= 2 over all processes; groups (B,) integers, any numbers, or
        ``None``: one group. Memory O(B D): the groups are taken one after the other, without a mask.

    Raises:
        ValueError: on B = 1, shapes that differ, groups that are not (B,) integers, non-finite values, or
            temperature <= 0.

    Reference: arXiv 2402.11816; the loss for one modality is a reconstruction.

    Relations: with a single group this is :class:`NTXent`. :class:`SupCon` looks at the same groups and does the
    opposite: there they attract.
    """

    def forward(self, z1: Tensor, z2: Tensor, groups: Tensor | None = None) -> Tensor:
        if groups is None:
            return super().forward(z1, z2)
        z1, z2 = embeddings(z1=z1, z2=z2)
        numbers = _numbers(groups, z1)
        first, second = (gather(normalize(z)) for z in (z1, z2))
        if len(first) < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        scale = 1 / self.temperature
        attraction = (first * second).sum(1) * scale
        order, sizes = _by_group(numbers)
        parts = []
        for a, b, alone in _groups(first, second, attraction, order, sizes):
            if len(a) < 2:
                parts.append(alone[None].expand(2, 1))  # only the positive is in the sum
            else:
                parts.append(log_partition(torch.cat([a, b]), scale=scale, exclude="self").view(2, -1))
        partition = torch.cat(parts, 1)[:, order.argsort()]
        return reduce((partition - attraction).flatten(), self.reduction)


class GroupInfoNCE(nn.Module):
    """Two modalities, pair by pair, each finding the other among the pairs of its group: CLIP's loss within groups.

    With unit vectors ``x`` and ``y``, group ``g`` and ``s = 1/temperature``::

        l_i = - s <x_i, y_i> + 1/2 log sum_{g_j = g_i} exp(s <x_i, y_j>) + 1/2 log sum_{g_j = g_i} exp(s <y_i, x_j>)

    A pair alone in its group has a term of 0 without gradient, which counts in the mean.

    Args:
        temperature: 0.07, where CLIP's learned one starts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(x, y, groups, scale)``: both (B, D), raw, B >= 2 over all processes; groups (B,) integers or ``None``:
        one group; scale, in place of ``1/temperature``, a 0-d tensor that may require a gradient, such as CLIP's
        ``exp(logit_scale)``, clamped by whoever learns it (CLIP: at most 100). Memory O(B D).

    Raises:
        ValueError: on B = 1, shapes that differ, groups that are not (B,) integers, non-finite values, a temperature
            or scale that is not above 0.

    Reference: arXiv 2402.11816; official code: MajorDavidZhang/MCL, whose batches are of one group each.

    Relations: with a single group this is the loss of CLIP (Radford et al. 2021).
    """

    def __init__(self, temperature: float = 0.07, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(self, x: Tensor, y: Tensor, groups: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        x, y = embeddings(x=x, y=y)
        numbers = _numbers(x.new_zeros(len(x), dtype=torch.int64) if groups is None else groups, x)
        if scale is not None:
            positive(scale=float(scale.detach()))
        s = 1 / self.temperature if scale is None else scale
        x, y = gather(normalize(x)), gather(normalize(y))
        if len(x) < 2:
            raise ValueError("x: expected at least 2 rows, since with 1 there are no negatives")
        attraction = (x * y).sum(1) * s
        order, sizes = _by_group(numbers)
        parts = []
        for a, b, alone in _groups(x, y, attraction, order, sizes):
            parts.append(alone if len(a) < 2 else torch.stack(log_partitions(a, b, scale=s)).mean(0))
        return reduce(torch.cat(parts)[order.argsort()] - attraction, self.reduction)


def _numbers(groups: Tensor, z: Tensor) -> Tensor:
    """The groups of all processes' rows, checked."""
    if not isinstance(groups, Tensor) or groups.shape != (len(z),) or groups.is_floating_point() or groups.is_complex():
        got = f"{tuple(groups.shape)} {groups.dtype}" if isinstance(groups, Tensor) else type(groups).__name__
        raise ValueError(f"groups: expected ({len(z)},) integers, got {got}")
    whole = gather_labels(groups.to(z.device))
    assert whole is not None
    return whole


def _by_group(numbers: Tensor) -> tuple[Tensor, list[int]]:
    """Rows in an order in which the groups follow each other, and the sizes of the groups."""
    order = numbers.argsort(stable=True)
    return order, torch.unique_consecutive(numbers[order], return_counts=True)[1].tolist()


def _groups(first: Tensor, second: Tensor, attraction: Tensor, order: Tensor, sizes: list[int]) -> zip:  # type: ignore[type-arg]
    """The rows of each group in both views, and their attraction."""
    return zip(*(x[order].split(sizes) for x in (first, second, attraction)), strict=True)
