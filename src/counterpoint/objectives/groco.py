"""GroCo, group ordering constraints: Learning by Sorting (Shvetsova et al., ICCV 2023, arXiv 2301.02009)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy, embedding_bag

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, reduce
from counterpoint.objectives.sorting import DifferentiableSort
from counterpoint.pairwise import gather, nearest


class GroCo(nn.Module):
    """An anchor's positives must rank above its hardest negatives; the order within either group is free.

    Its cosines with the k nearest negatives, ascending, and with its P positives, ascending, enter a differentiable
    sorting network. With the relaxed permutation ``P[i, j]``, input i in rank j of n = k + P::

        q_i = sum_{j < k} P[i, j],    l = - 1/n ( sum_{i negative} log q_i + sum_{i positive} log(1 - q_i) )

    and the loss is the mean over all views of all items as anchors. Positives are the item's other views; negatives are
    the other items *in the anchor's own view*. As the inputs are ordered by group already, the strongest negatives and
    the weakest positives meet first and get most of the gradient.

    Args:
        negatives: k, the nearest that are taken, 10; all B - 1 where there are fewer, since the official code then
            sorts minus infinities.
        steepness: of the soft swaps; 1, the official code's, for cosines.
        stop_gradient: no gradient through positives and negatives, only through the anchor; the official default. The
            value is the same without.
        positive_views: so many first views serve as positives (multi-crop: the 2 full crops, while the small ones are
            anchors alone); ``None``: all views.
        network, relaxation: of :class:`DifferentiableSort`; ``"odd_even"`` and ``"cauchy"`` are the official code's.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the V*B terms, view after view.

    Shapes:
        ``loss(z)``: z (V, B, D) raw, V >= 2 and B >= 2 over all processes. ``loss(z, positive_views=2)`` says it for
        one call, where the constructor leaves it open. Memory O(V B (D + n^2)).

    Raises:
        ValueError: on one view or one item, ``positive_views`` outside 2 to V, fewer than 1 negative, what
            :class:`DifferentiableSort` refuses, non-finite values.

    Only the order counts, and with bounded gradients embeddings can stay in a narrow cone: the method's last batch norm
    without affine parameters is part of it. The official code averages the cross entropies of ``q`` and of ``1 - q``,
    which are the same number. Logarithms are cut at -100, as by torch.

    Relations: :class:`NTXent` weighs all negatives of both views by a softmax; :func:`~counterpoint.pairwise.nearest`
    chooses here.
    """

    def __init__(
        self,
        negatives: int = 10,
        steepness: float = 1.0,
        stop_gradient: bool = True,
        positive_views: int | None = None,
        network: str = "odd_even",
        relaxation: str = "cauchy",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if negatives < 1:
            raise ValueError(f"negatives: expected at least 1, got {negatives}")
        if positive_views is not None and positive_views < 2:
            raise ValueError(f"positive_views: expected at least 2, got {positive_views}")
        self.negatives, self.stop_gradient, self.positive_views = negatives, stop_gradient, positive_views
        self.sorter: dict[str, Any] = {"network": network, "relaxation": relaxation, "steepness": steepness}
        DifferentiableSort(1, **self.sorter)  # refuses what it does not know
        self.reduction = known_reduction(reduction)

    def forward(self, z: Tensor, positive_views: int | None = None) -> Tensor:
        (z,) = embeddings((3,), z=z)
        with torch.autocast(z.device.type, enabled=False):
            z = gather(normalize(z).transpose(0, 1)).transpose(0, 1)
            views, items, _ = z.shape
            if views < 2 or items < 2:
                raise ValueError(f"z: expected at least 2 views of at least 2 items, got {views} of {items}")
            positives = next((p for p in (self.positive_views, positive_views) if p is not None), views)
            if not 2 <= positives <= views:
                raise ValueError(f"positive_views: expected 2 to {views}, the views in z, got {positives}")
            scores = [self._scores(z, view, positives) for view in range(views)]
            # a positive view has one positive less than the others, which its own sorter takes
            parts = [torch.cat(part) for part in (scores[:positives], scores[positives:]) if part]
            return reduce(
                torch.cat([self._terms(part, min(self.negatives, items - 1)) for part in parts]), self.reduction
            )

    def _scores(self, z: Tensor, view: int, positives: int) -> Tensor:
        """Cosines (B, k + P) of a view's embeddings with their nearest negatives and their positives."""
        keys, anchors = z.detach() if self.stop_gradient else z, z[view]
        own = torch.arange(len(anchors), device=z.device)
        found, hardest = nearest(anchors, k=min(self.negatives, len(anchors) - 1), exclude=own)
        negative: Tensor = _Found.apply(anchors, keys[view], found, hardest)
        positive = torch.stack([(anchors * keys[other]).sum(1) for other in range(positives) if other != view], dim=1)
        return torch.cat([negative.sort(dim=1).values, positive.sort(dim=1).values], dim=1)

    def _terms(self, scores: Tensor, negatives: int) -> Tensor:
        size = scores.shape[1]
        low = DifferentiableSort(size, **self.sorter).to(scores.device).lowest(scores, negatives).clamp(0, 1)
        target = (torch.arange(size, device=scores.device) < negatives).to(low.dtype).expand_as(low)
        return binary_cross_entropy(low, target, reduction="none").mean(dim=1)


class _Found(torch.autograd.Function):
    """Inner products (B, k) that :func:`nearest` found, with their gradient; no (B, k, D) is gathered for it."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scores: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, index)
        return scores.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, index = ctx.saved_tensors
        to_keys = None
        if ctx.needs_input_grad[1]:
            to_keys = torch.zeros_like(keys)
            for rank in range(index.shape[1]):
                to_keys.index_add_(0, index[:, rank], grad[:, rank, None] * queries)
        return embedding_bag(index, keys, per_sample_weights=grad, mode="sum"), to_keys, None, None
