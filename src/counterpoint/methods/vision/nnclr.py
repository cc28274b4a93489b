"""NNCLR: With a Little Help from My Friends (Dwibedi et al., ICCV 2021), also decoupled (Yeh et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.mining import Queue
from counterpoint.objectives.inputs import embeddings, normalize, positive
from counterpoint.pairwise import gather, log_partitions, nearest


class NNCLR(Method):
    """The positive of an item is not its own other view but that view's nearest neighbour among past embeddings.

    With the neighbour ``n_i`` of one view's projection in the queue and the prediction ``p_i`` of the other view::

        l_i = - <n_i, p_i> / t + ( log sum_j exp(<n_i, p_j> / t) + log sum_j exp(<n_j, p_i> / t) ) / 2

    averaged over items and over both ways to pair the views. ``decoupled`` leaves j = i out of both sums, which is DCL.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: t; 0.1, the paper's.
        queue_size: K; 98,304 in the paper. Replications on CIFAR hold more embeddings than there are images;
            :func:`counterpoint.fit` takes as many as there are, up to the paper's.
        dim: D of projection and prediction, 256 (section 4.1).
        hidden: of the projector's two hidden layers, half that of the predictor's; ``None`` is the number of features,
            as the paper's 2,048 for ResNet-50.
        decoupled: the positive does not count in the denominators, as in DCL.

    The queue starts with random unit vectors; projections of the first view are pushed after the loss. Neighbours carry
    no gradient.

    Reference: arXiv 2104.14548; decoupled: arXiv 2110.06848.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.1,
        queue_size: int = 4096,
        dim: int = 256,
        hidden: int | None = None,
        decoupled: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe)
        positive(temperature=temperature)
        hidden = hidden or encoder.features
        self.projector = mlp_head(encoder.features, hidden, dim, layers=3, last_norm=True)
        self.predictor = mlp_head(dim, 2 * hidden, dim)
        self.queue = Queue(queue_size, dim)
        self.queue.push(normalize(torch.randn(queue_size, dim)))
        self.temperature, self.decoupled = temperature, decoupled

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"queue_size": min(98304, max(16, items))}

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = (self.project(view) for view in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = (self._contrast(z1, p2) + self._contrast(z2, p1)) / 2
        self.queue.push(gather(normalize(z1.detach().float())))
        return loss

    def _contrast(self, z: Tensor, p: Tensor) -> Tensor:
        z, p = (normalize(x) for x in embeddings(z=z.detach(), p=p))
        past = self.queue()
        neighbours, p = gather(past[nearest(z, past, 1)[1][:, 0]]), gather(p)
        if self.decoupled and len(p) < 2:
            raise ValueError("views: expected at least 2 items, since with 1 there are no negatives")
        scale, own = 1 / self.temperature, torch.arange(len(p), device=p.device) if self.decoupled else None
        rows, columns = log_partitions(neighbours, p, scale=scale, exclude=own, exclude_keys=own)
        return ((rows + columns) / 2 - (neighbours * p).sum(1) * scale).mean()
