"""DCL: Decoupled Contrastive Learning (Yeh et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.dcl import DCL as DCLLoss


class DCL(Method):
    """SimCLR without the positive in the denominator, so that easy positives and small batches do not stop learning.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 0.1, the default of the re-implementations.
        dim: D of the projection, 128 as in SimCLR; its hidden layer is as wide as the features.

    Reference: arXiv 2110.06848. The same on a queue: ``dcl_moco``; on nearest neighbours: ``nnclr`` with ``decoupled``.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.1,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.objective = DCLLoss(temperature)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*self.embed_together(views))
