"""What methods of many views share: one encoder and one head for all, and a loss on the views together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views


class MultiView(Method):
    """Any number of views, two or more, such as ``views={"auto": {"count": 4}}`` makes; the time grows with it.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        objective: loss on projections (V, B, D).
        dim: D of the projection. The head is that of MV-DHEL's official code, its hidden layer as wide as the features,
            batch norm at its end (without the learned scale that it has there).
    """

    n_views = None

    def __init__(
        self, encoder: Encoder, views: Views | None, recipe: Recipe | None, objective: nn.Module, dim: int
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim, last_norm=True)
        self.objective = objective

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(torch.stack(list(self.embed_together(views))))
