"""BYOL: Bootstrap Your Own Latent (Grill et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, mlp_head
from counterpoint.encoders.ema import cosine_momentum
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import NegativeCosine


class BYOL(Method):
    """The student's prediction from one view must match the teacher's projection of the other; no negatives.

    ``loss = (2 - 2 cos(p1, z2')) + (2 - 2 cos(p2, z1'))`` with the teacher's ``z'``.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        momentum: of the teacher at the start, rising to 1 by a cosine: 0.99, which replications on CIFAR use; the
            paper's 0.996 is for ImageNet's 10^5 steps and more.
        dim: D of projection and prediction, 256 (section 3.3).
        hidden: of both heads; ``None`` is twice the features, the paper's 4,096 for 2,048.

    Reference: arXiv 2006.07733.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        momentum: float = 0.99,
        dim: int = 256,
        hidden: int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        hidden = hidden or 2 * encoder.features
        self.projector = mlp_head(encoder.features, hidden, dim)
        self.predictor = mlp_head(dim, hidden, dim)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.objective, self.momentum = NegativeCosine(), momentum

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        p1, p2 = (self.predictor(self.project(view)) for view in views)
        z1, z2 = (self.teacher(view) for view in views)
        return (2 + 2 * self.objective(p1, z2)) + (2 + 2 * self.objective(p2, z1))

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.update(nn.Sequential(self.encoder, self.projector), momentum)
