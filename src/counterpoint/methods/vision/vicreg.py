"""VICReg: Variance-Invariance-Covariance Regularization (Bardes, Ponce, LeCun, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import VICReg as VICRegLoss


class VICReg(Method):
    """Views agree, every dimension varies, no dimension repeats another.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        sim_coeff, std_coeff, cov_coeff: 25, 25, 1, the paper's.
        dim: D of the projection and of its two hidden layers; ``None`` is four times the features, the paper's 8,192
            for 2,048.

    Reference: arXiv 2105.04906.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        sim_coeff: float = 25.0,
        std_coeff: float = 25.0,
        cov_coeff: float = 1.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        dim = dim or 4 * encoder.features
        self.projector = mlp_head(encoder.features, dim, dim, layers=3)
        self.objective = VICRegLoss(sim_coeff, std_coeff, cov_coeff)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        terms = self.objective.terms(*(self.project(view) for view in views))
        return self.total(**{name: self.objective.weights[name] * term for name, term in terms.items()})
