"""Losses over any number of views: MV-InfoNCE and MV-DHEL (Koromilas et al. 2025, arXiv 2507.06979), and their rivals.

All take ``z`` (V, B, D), view after view: ``z[0]`` is the first view of all items. Modalities are views as well: a
mapping from their names to embeddings (B, D) is taken in its order. Every item must have all of its views.

The rivals are what one would do with a loss for two views: average it over all pairs of views
(:class:`PairwiseAverage`), contrast each view with the mean of the others (:class:`AverageOfOthers`), or tell each
other view apart from other items only (:class:`PolyView`). All of them are NT-Xent when there are two views; MV-DHEL
then is DHEL, the loss that it generalises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.ntxent import NTXent
from counterpoint.pairwise import gather, log_partition


class MVInfoNCE(nn.Module):
    """All pairs of an item's views against all pairs of its views with all views, in one term an item.

    With unit vectors ``u_il`` of item i in view l and ``e(a, b) = exp(<a, b> / temperature)``::

        l_i = - log( sum_{l, m != l} e(u_il, u_im)  /  sum_{l, m != l, j} e(u_il, u_jm) )              "paper"

    The denominator holds the positives (j = i); pairs within a view do not occur.

    Args:
        temperature: 0.2, the default of the official loss; its configurations have 0.5 for CIFAR, 0.1 for ImageNet.
        variant: ``"paper"``, or ``"code"``: the official code's denominator runs over all V B - 1 other embeddings of
            each row and so has negatives within the view as well. Values and gradients differ.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(z)``: (V, B, D) raw, or a mapping of V modalities to (B, D); V >= 2, B >= 2 over all processes.
        Memory O(V^2 B D).

    Raises:
        ValueError: on V = 1 (no positive), B = 1 (no negatives), shapes that differ, non-finite values,
            temperature <= 0.
    """

    def __init__(self, temperature: float = 0.2, variant: str = "paper", reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        if variant not in ("paper", "code"):
            raise ValueError(f"variant: expected 'paper' or 'code', got {variant!r}")
        self.temperature, self.variant, self.reduction = temperature, variant, known_reduction(reduction)

    def forward(self, z: Tensor | Mapping[str, Tensor]) -> Tensor:
        z, scale = _views(z), 1 / self.temperature
        number, items, _ = z.shape
        within = torch.arange(number, device=z.device).repeat_interleave(items)
        exclude: Literal["self"] | Tensor = within if self.variant == "paper" else "self"
        partition = log_partition(z.flatten(0, 1), scale=scale, exclude=exclude).view(number, items).logsumexp(0)
        # each pair of views counts in both orders
        attraction = (_pairs(z) * scale).logsumexp(0) + math.log(2)
        return reduce(partition - attraction, self.reduction)


class MVDHEL(nn.Module):
    """All pairs of an item's views in one numerator; items are spread within each view, apart from the alignment.

    With unit vectors ``u_il`` of item i in view l and ``e(a, b) = exp(<a, b> / temperature)``::

        l_i = - log sum_{l < m} e(u_il, u_im)  +  sum_l log sum_{j != i} e(u_il, u_jl)

    The pull of an item has a total weight of 1, most of it on the two views that are closest already, while the push
    has a weight of V: the loss grows like ``V log B`` and is not comparable over numbers of views. It may be negative.

    Args:
        temperature: 0.2, the default of the official loss; its configurations have 0.5 for CIFAR, 0.1 for ImageNet.
        include_self: ``False`` is the equation above, that of the official code. ``True`` is the equation as the
            official README prints it: j = i counts, and so does each pair of views in both orders. (Both orders alone
            would only lower the loss by log 2.)
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(z)``: (V, B, D) raw, or a mapping of V modalities to (B, D); V >= 2, B >= 2 over all processes.
        Memory O(V^2 B D); time O(V B^2 D), where :class:`MVInfoNCE` takes O(V^2 B^2 D).

    Raises:
        ValueError: as :class:`MVInfoNCE`.

    Relations: with V = 2 this is DHEL, the authors' loss for two views.
    """

    def __init__(self, temperature: float = 0.2, include_self: bool = False, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.include_self, self.reduction = temperature, include_self, known_reduction(reduction)

    def forward(self, z: Tensor | Mapping[str, Tensor]) -> Tensor:
        z, scale = _views(z), 1 / self.temperature
        exclude: Literal["self"] | None = None if self.include_self else "self"
        partition = torch.stack([log_partition(view, scale=scale, exclude=exclude) for view in z]).sum(0)
        attraction = (_pairs(z) * scale).logsumexp(0) + (math.log(2) if self.include_self else 0)
        return reduce(partition - attraction, self.reduction)


class PairwiseAverage(nn.Module):
    """A loss for two views, averaged over all pairs of views (PWE).

    Args:
        loss: a function of two views (B, D); ``None`` is :class:`NTXent`. What it takes and raises holds here too.
        temperature: of the default loss: 0.2, the default of the official losses.

    Shapes:
        ``loss(z)``: (V, B, D) raw, or a mapping of V modalities to (B, D); V >= 2.

    Raises:
        ValueError: on V = 1, shapes that differ, non-finite values, and what ``loss`` raises.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor] | None = None, temperature: float = 0.2) -> None:
        super().__init__()
        self.loss = NTXent(temperature) if loss is None else loss

    def forward(self, z: Tensor | Mapping[str, Tensor]) -> Tensor:
        z = _checked(z)
        return torch.stack([self.loss(first, second) for first, second in combinations(z, 2)]).mean(0)


class AverageOfOthers(nn.Module):
    """NT-Xent between each view and the mean of the others (AVG).

    The mean of the other views' unit vectors is used as it is, shorter than a unit vector where the views disagree, as
    in the official code of MV-DHEL, from whose comparison this is. It carries a gradient and is an anchor as well.

    Args:
        temperature: 0.2, the default of the official losses.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the 2 V B terms: for each view, its B anchors and the B means
            of the others.

    Shapes and errors: as for :class:`MVInfoNCE`.
    """

    def __init__(self, temperature: float = 0.2, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(self, z: Tensor | Mapping[str, Tensor]) -> Tensor:
        z, scale = _views(z), 1 / self.temperature
        others = (z.sum(0) - z) / (len(z) - 1)
        terms = []
        for view, other in zip(z, others, strict=True):
            partition = log_partition(torch.cat([view, other]), scale=scale, exclude="self")
            terms.append(partition - (view * other).sum(1).repeat(2) * scale)
        return reduce(torch.cat(terms), self.reduction)


class PolyView(nn.Module):
    """Each view must find each other view of its item among the views of all other items (PVC).

    With unit vectors ``u_il`` of item i in view l and ``e(a, b) = exp(<a, b> / temperature)``::

        p_ilm = e(u_il, u_im) / ( e(u_il, u_im) + sum_{j != i, n} e(u_il, u_jn) )

    and for the anchor (i, l) minus the mean of ``log p_ilm`` over m != l ("geometric"), or minus the log of their mean
    ("arithmetic").

    Args:
        temperature: 0.2, the default of the official losses of MV-DHEL, with whose comparison its geometric form was
            checked.
        aggregation: ``"geometric"`` or ``"arithmetic"``. The latter is the poly-view paper's; what MV-DHEL's code calls
            so is another loss (it aggregates means over the batch).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the V B terms, view after view.

    Shapes and errors: as for :class:`MVInfoNCE`.

    Reference: Shidani et al., Poly-View Contrastive Learning, ICLR 2024, arXiv 2403.05490.
    """

    def __init__(self, temperature: float = 0.2, aggregation: str = "geometric", reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        if aggregation not in ("geometric", "arithmetic"):
            raise ValueError(f"aggregation: expected 'geometric' or 'arithmetic', got {aggregation!r}")
        self.temperature, self.aggregation, self.reduction = temperature, aggregation, known_reduction(reduction)

    def forward(self, z: Tensor | Mapping[str, Tensor]) -> Tensor:
        z, scale = _views(z), 1 / self.temperature
        number, items, _ = z.shape
        own = torch.arange(items, device=z.device).repeat(number)
        negatives = log_partition(z.flatten(0, 1), scale=scale, exclude=own).view(number, items)
        terms = []
        for view, anchors in enumerate(z):
            others = torch.cat([z[:view], z[view + 1 :]])
            logs = nn.functional.logsigmoid((anchors * others).sum(-1) * scale - negatives[view])
            if self.aggregation == "geometric":
                terms.append(-logs.mean(0))
            else:
                terms.append(math.log(number - 1) - logs.logsumexp(0))
        return reduce(torch.cat(terms), self.reduction)


def _checked(z: Tensor | Mapping[str, Tensor]) -> Tensor:
    """``z`` as one checked tensor (V, B, D) with V >= 2."""
    stacked = torch.stack(embeddings((2,), **z)) if isinstance(z, Mapping) and z else z
    (views,) = embeddings((3,), z=stacked)  # type: ignore[arg-type]  # an empty mapping is refused there
    if len(views) < 2:
        raise ValueError("z: expected at least 2 views, since with 1 there is no positive")
    return views


def _views(z: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Unit vectors (V, B, D) of the batch over all processes, V >= 2 and B >= 2."""
    z = gather(normalize(_checked(z)).transpose(0, 1)).transpose(0, 1)
    if z.shape[1] < 2:
        raise ValueError("z: expected at least 2 items, since with 1 there are no negatives")
    return z


def _pairs(z: Tensor) -> Tensor:
    """Cosines (V (V - 1) / 2, B) of all pairs of an item's views."""
    first, second = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    return (z[first] * z[second]).sum(-1)
