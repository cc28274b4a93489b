"""Hard contrastive loss: Understanding the Behaviour of Contrastive Loss (Wang & Liu, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.mining import Queue
from counterpoint.objectives.hard import HardContrastive as HardLoss
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather


class HardContrastive(Method):
    """SimCLR or MoCo whose denominator holds the nearest negatives only, so that the temperature can be high.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 1.0, the highest of the paper's; its best figures with hard negatives are at high ones.
        fraction: of an anchor's negatives that are kept: 0.0819, the paper's for CIFAR; 1 is SimCLR (or MoCo).
        count: kept negatives as a number, in place of ``fraction``.
        queue_size: K; 0 takes the negatives from the batch, as SimCLR, else they are the last K keys of a slowly moving
            teacher, as in MoCo. The paper keeps a memory bank of all training images: that is
            :class:`~counterpoint.methods.vision.hard_contrastive_bank.HardContrastiveBank`.
        momentum: of the teacher, 0.99 as in :class:`~counterpoint.methods.vision.moco.MoCo`; without a queue unused.
        dim: D of the projection, 128; its hidden layer is as wide as the features (SimCLR's; the paper does not say).

    The queue starts with random unit vectors, as in MoCo's official code.

    Reference: arXiv 2012.09740.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 1.0,
        fraction: float = 0.0819,
        count: int | None = None,
        queue_size: int = 0,
        momentum: float = 0.99,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.objective: nn.Module = HardLoss(temperature, fraction, count)
        self.queue: Queue | None = None
        self.momentum = momentum
        if queue_size:
            self.teacher = EMA(nn.Sequential(encoder, self.projector))
            self.queue = Queue(queue_size, dim)
            self.queue.push(normalize(torch.randn(queue_size, dim)))

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        if self.queue is None:
            return self.objective(*self.embed_together(views))
        queries, keys = self.project(views[0]), normalize(self.teacher(views[1]).float())
        bank = self.queue()
        self.watch(queries, keys, bank)
        loss = self.objective(queries, keys, bank)
        self.queue.push(gather(keys))
        return loss

    def after_step(self) -> None:
        if self.queue is not None:
            self.teacher.update(nn.Sequential(self.encoder, self.projector), self.momentum)
