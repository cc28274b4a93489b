"""AMCL (Wang, Koniusz, Gedeon, Zheng, ECCV 2024) on SimSiam: several predictions of one target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.encoders.multihead import MultiHeadProjector
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._amcl import Adaptive
from counterpoint.objectives.amcl import AMCLSimSiam as AMCLSimSiamLoss
from counterpoint.objectives.amcl import PairTemperature


class AMCLSimSiam(Adaptive):
    """SimSiam with several predictors on its one projector, each at a temperature for each pair and direction.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        heads, beta, tau_min, tau_max, temperature_hidden, clip: see :class:`~counterpoint.methods.vision.amcl.AMCL`;
            the heads are the predictors, as the paper's table draws the target without a head.
        dim, projector_layers, bottleneck: see :class:`~counterpoint.methods.vision.simsiam.SimSiam`.

    Reference: arXiv 2310.05615.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        heads: int = 3,
        beta: float = 0.1,
        tau_min: float = 0.05,
        tau_max: float = 2.0,
        temperature_hidden: int = 128,
        clip: float | None = 1.0,
        dim: int | None = None,
        projector_layers: int = 3,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        dim = dim or encoder.features
        self.projector = mlp_head(encoder.features, dim, dim, layers=projector_layers, last_norm=True)
        self.predictors = MultiHeadProjector(dim, bottleneck or max(1, dim // 4), dim, heads)
        self.objective = AMCLSimSiamLoss(PairTemperature(dim, heads, temperature_hidden, tau_min, tau_max), beta)
        self.clip = clip

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        h1, h2 = (self.project(view) for view in views)
        z1, z2 = (self.predictors.split(self.predictors(h)) for h in (h1, h2))
        return self.objective(z1, z2, h1, h2)
