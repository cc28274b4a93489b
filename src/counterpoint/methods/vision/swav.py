"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (Caron et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.prototypes import Prototypes
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multicrop import MultiCrop
from counterpoint.mining import Queue
from counterpoint.objectives.swav import SwAV as SwAVLoss
from counterpoint.pairwise import gather


class SwAV(MultiCrop):
    """Clusters that are found while training: the code of one crop is predicted from the other crops of its image.

    Codes are made of the first ``n_assign`` views, the global crops; all views predict. It runs with two plain views,
    and with the paper's multi-crop, ``views="swav"``, in which crops of one size pass the encoder together.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. The official code optimises by
            LARC: ``optimizer="larc"``, lr 0.6 and end_lr 0.0006 for batches of 256.
        temperature, epsilon, iterations: see :class:`~counterpoint.objectives.swav.SwAV`; 0.1, 0.05, 3, the paper's.
        prototypes: K; 3,000 for ImageNet. :func:`counterpoint.fit` takes one for 40 items where that is fewer, since a
            batch must be able to fill them; the share is ours.
        n_assign: 2, the paper's.
        queue_size: L, past embeddings of each global crop that join the batch in Sinkhorn; 0, the official default.
            The official scripts for batches of 256 have 3,840, and so has :func:`counterpoint.fit` where K is above
            256.
        queue_start: share of the training after which the queue begins to fill; 0.075, the scripts' epoch 15 of 200.
            It is used from when it is full.
        freeze_epochs: epochs in which the prototypes stay as they were drawn; 1, in all official scripts.
        dim: D of the projection, 128; its hidden layer is as wide as the features, as the paper's 2,048.

    Prototypes are normalised after each step, which is before the next forward. The queue is the same on all processes,
    and belongs to the checkpoint.

    Reference: arXiv 2006.09882.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        prototypes: int = 3000,
        n_assign: int = 2,
        queue_size: int = 0,
        queue_start: float = 0.075,
        freeze_epochs: int = 1,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, n_assign, dim)
        if queue_size < 0:
            raise ValueError(f"queue_size: expected at least 0, got {queue_size}")
        self.prototypes = Prototypes(dim, prototypes)
        self.queue = Queue(queue_size, n_assign * dim) if queue_size else None  # a row: all global crops of an item
        self.objective = SwAVLoss(temperature, epsilon, iterations)
        self.queue_start, self.freeze_epochs = queue_start, freeze_epochs

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        prototypes = min(3000, max(8, items // 40))
        return {"prototypes": prototypes, "queue_size": 3840 if prototypes > 256 else 0}

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z = self.embed_by_size(views, least=2)
        scores = [self.prototypes(each) for each in z]
        loss = self.objective(scores[: self.n_assign], scores[self.n_assign :], self._past())
        if self.queue is not None and self.progress >= self.queue_start:
            self.queue.push(gather(torch.cat(z[: self.n_assign], 1).detach()))
        return loss

    def _past(self) -> list[Tensor] | None:
        """Scores of past embeddings of each global crop with the prototypes of now; ``None`` until there are enough."""
        if self.queue is None or int(self.queue.filled) < len(self.queue.rows):
            return None
        return [self.prototypes(rows).detach() for rows in self.queue().chunk(self.n_assign, 1)]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.current_epoch < self.freeze_epochs:
            self.prototypes.hold()

    def after_step(self) -> None:
        self.prototypes.normalize_()
