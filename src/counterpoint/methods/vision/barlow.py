"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import BarlowTwins as BarlowTwinsLoss


class BarlowTwins(Method):
    """The cross-correlation between the two views' projections should be the identity matrix.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        lambda_: 0.0051, the weight of the off-diagonal, the paper's.
        dim: D of the projection and of its two hidden layers; ``None`` is four times the features, the paper's 8,192
            for 2,048.

    Reference: arXiv 2103.03230.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        lambda_: float = 0.0051,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        dim = dim or 4 * encoder.features
        self.projector = mlp_head(encoder.features, dim, dim, layers=3)
        self.objective = BarlowTwinsLoss(lambda_)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*(self.project(view) for view in views))
