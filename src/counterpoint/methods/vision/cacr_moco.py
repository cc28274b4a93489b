"""CACR in the form of MoCo v2: a teacher's keys attract, past keys and the batch repel (Zheng et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.mining import Queue
from counterpoint.objectives.cacr import CACRQueue
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather


class CACRMoCo(Method):
    """Each view's query is attracted to the teacher's keys of the other views and repelled by past keys and the batch.

    The authors' setting for ImageNet, Webvision and ImageNet-22K. They take five views (``Ny = 4``); student and
    teacher see every one of them, and the last view's keys enter the queue.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        alpha, beta, tau_pos, tau_neg, weights, intra_batch, detach_weights: see
            :class:`~counterpoint.objectives.cacr.CACRQueue`.
        momentum: of the teacher: 0.99, which replications on small data use; the authors' 0.999 is for 10^6 steps.
        queue_size: K; the authors' 65,536 is for ImageNet's 1.28 million images; :func:`counterpoint.fit` takes the
            same share of the data, a twelfth, as for MoCo.
        dim: D of the projection, 128; its hidden layer is as wide as the features.

    As in MoCo, the queue starts with random unit vectors, and keys are pushed after the loss. The authors train with
    SGD, learning rate 0.03 at batches of 256, and a cosine schedule.

    Reference: arXiv 2105.03746.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau_pos: float = 1.0,
        tau_neg: float = 2.0,
        weights: str = "full",
        intra_batch: bool = True,
        detach_weights: bool | None = None,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.queue = Queue(queue_size, dim)
        self.queue.push(normalize(torch.randn(queue_size, dim)))
        self.objective = CACRQueue(alpha, beta, tau_pos, tau_neg, weights, intra_batch, detach_weights)
        self.momentum = momentum

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"queue_size": min(65536, max(16, items // 12))}

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        queries = torch.stack([self.project(view) for view in views])
        keys = normalize(torch.stack([self.teacher(view) for view in views]).float())
        loss = self.objective(queries, keys, self.queue())
        self.queue.push(gather(keys[-1]))
        return loss

    def after_step(self) -> None:
        self.teacher.update(nn.Sequential(self.encoder, self.projector), self.momentum)
