"""SogCLR: Provable Stochastic Optimization for Global Contrastive Learning (Yuan et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.sogclr import SogCLR as Objective


class SogCLR(Method):
    """SimCLR with a moving average of each item's denominator, so that small batches do.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        gamma: share of the batch in the moving average, 0.8 (the iSogCLR repository; 0.9 in LibAUC).
        temperature: 0.1, the official code's.
        compat: see :class:`~counterpoint.objectives.sogclr.SogCLR`.
        dim: D of the projection, 128.

    Averages step with each batch of the training, and are saved in its checkpoints.

    Reference: arXiv 2202.12387.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        *,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.1,
        compat: str | None = None,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.objective = Objective(items, gamma, temperature, compat)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*self.embed_together(views), batch.get("index"), self.current_epoch, self.progress)
