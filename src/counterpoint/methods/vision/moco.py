"""MoCo v2: Improved Baselines with Momentum Contrastive Learning (Chen et al. 2020), on MoCo (He et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, make_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.mining import Queue
from counterpoint.objectives import InfoNCE
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather


class MoCo(Method):
    """A query must find its key, made by a slowly moving teacher, among the keys of past batches.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 0.2, version 2's.
        momentum: of the teacher: 0.99, which replications on small data use; the paper's 0.999 is for 10^6 steps.
        queue_size: K; 65,536 for ImageNet's 1.28 million images, 4,096 for CIFAR's 50,000 in the authors' notebook.
            :func:`counterpoint.fit` takes the same share of the data, a twelfth.
        dim: D of the projection, 128; its hidden layer is as wide as the features (version 2).
        head: ``"mlp"``, version 2's with batch norm; ``"mlp-plain"``, the official code's, without; ``"linear"``,
            version 1's (whose temperature is 0.07).

    The queue starts with random unit vectors, as in the official code. Keys are pushed after the loss, so that no query
    meets its own key there.

    Reference: arXiv 2003.04297 and 1911.05722.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
        head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe)
        if head not in ("mlp", "mlp-plain", "linear"):
            raise ValueError(f"head: expected 'mlp', 'mlp-plain' or 'linear', got {head!r}")
        self.projector = make_head(head, encoder.features, dim)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.queue = Queue(queue_size, dim)
        self.queue.push(normalize(torch.randn(queue_size, dim)))
        self.objective = InfoNCE(temperature)
        self.momentum = momentum

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"queue_size": min(65536, max(16, items // 12))}

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        queries, keys = self.project(views[0]), normalize(self.teacher(views[1]).float())
        loss = self.contrast(queries, keys, batch)
        self.enqueue(gather(keys), batch)
        return loss

    def contrast(self, queries: Tensor, keys: Tensor, batch: dict[str, Any]) -> Tensor:
        """The loss of raw queries (B, D) and their unit keys (B, D) against the queue."""
        bank = self.queue()
        self.watch(queries, keys, bank)
        return self.objective(queries, keys, bank)

    def enqueue(self, keys: Tensor, batch: dict[str, Any]) -> None:
        """Let the keys of all processes be negatives from now on."""
        self.queue.push(keys)

    def after_step(self) -> None:
        self.teacher.update(nn.Sequential(self.encoder, self.projector), self.momentum)
