"""SimSiam: Exploring Simple Siamese Representation Learning (Chen & He, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import NegativeCosine


class SimSiam(Method):
    """BYOL without a teacher: predict the other view's projection, with a stop-gradient on it.

    ``loss = - (cos(p1, stop(z2)) + cos(p2, stop(z1))) / 2``

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        dim: D of the projection; ``None`` is the number of features, as the paper's 2,048 for ResNet-50.
        projector_layers: 3 with batch norm on each, the last without affine parameters; the paper has 2 on CIFAR-10.
        bottleneck: hidden width of the predictor; ``None`` is a quarter of ``dim``, the paper's 512 for 2,048.

    Reference: arXiv 2011.10566.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        projector_layers: int = 3,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        dim = dim or encoder.features
        self.projector = mlp_head(encoder.features, dim, dim, layers=projector_layers, last_norm=True)
        self.predictor = mlp_head(dim, bottleneck or max(1, dim // 4), dim)
        self.objective = NegativeCosine()

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = (self.project(view) for view in views)
        return self.agree(self.predictor(z1), self.predictor(z2), z1, z2)

    def agree(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of predictions and projections, all (B, D)."""
        return (self.objective(p1, z2) + self.objective(p2, z1)) / 2
