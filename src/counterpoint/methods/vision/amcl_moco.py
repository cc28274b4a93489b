"""AMCL (Wang, Koniusz, Gedeon, Zheng, ECCV 2024) on MoCo: a bank of negatives for each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder
from counterpoint.encoders.multihead import MultiHeadProjector
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._amcl import Adaptive
from counterpoint.mining import Queue
from counterpoint.objectives.amcl import AMCL, PairTemperature
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather


class AMCLMoCo(Adaptive):
    """MoCo with several heads: a query's key against the nearest key of past batches, in each head.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        heads, beta, negative, positive_in_denominator, tau_min, tau_max, temperature_hidden, clip, dim: see
            :class:`~counterpoint.methods.vision.amcl.AMCL`.
        momentum: of the teacher, 0.99, the official code's.
        queue_size: K; 4,096, the code's for CIFAR-10's 50,000 images. :func:`counterpoint.fit` takes the same share of
            the data, a twelfth.

    The queue starts with random unit vectors, as MoCo's. Keys are pushed after the loss, so that no query meets its own
    key there.

    Reference: arXiv 2310.05615.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        heads: int = 3,
        beta: float = 0.1,
        negative: str = "hardest",
        positive_in_denominator: bool = False,
        tau_min: float = 0.05,
        tau_max: float = 2.0,
        temperature_hidden: int = 128,
        clip: float | None = 1.0,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector: MultiHeadProjector = MultiHeadProjector(encoder.features, encoder.features, dim, heads)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.queue = Queue(queue_size, heads * dim)
        self.queue.push(normalize(torch.randn(queue_size, heads, dim)).flatten(1))
        temperature = PairTemperature(dim, heads, temperature_hidden, tau_min, tau_max)
        self.objective = AMCL(temperature, beta, negative, positive_in_denominator)
        self.momentum, self.clip = momentum, clip

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"queue_size": min(65536, max(16, items // 12))}

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        split = self.projector.split
        keys = normalize(split(self.teacher(views[1]).float()))
        queries, together = self.project(views[0]), keys.transpose(0, 1).flatten(1)
        self.watch(queries, together, self.queue())
        loss = self.objective(split(queries), keys, split(self.queue()))
        self.queue.push(gather(together))
        return loss

    def after_step(self) -> None:
        self.teacher.update(nn.Sequential(self.encoder, self.projector), self.momentum)
