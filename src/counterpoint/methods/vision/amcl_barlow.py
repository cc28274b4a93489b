"""AMCL (Wang, Koniusz, Gedeon, Zheng, ECCV 2024) on Barlow Twins: a temperature for each pair of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.multihead import MultiHeadProjector
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._amcl import Adaptive
from counterpoint.objectives.amcl import AMCLBarlow as AMCLBarlowLoss
from counterpoint.objectives.amcl import PairTemperature


class AMCLBarlow(Adaptive):
    """Barlow Twins with several heads, and a temperature for each entry of each cross-correlation.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        heads, beta, tau_min, tau_max, temperature_hidden, clip: see :class:`~counterpoint.methods.vision.amcl.AMCL`.
        lambda_: weight of the off-diagonal, 0.005, the official code's.
        dim: D of each projection and of its two hidden layers; 128, the code's. Memory grows with its square times the
            width of the temperature network, so that Barlow Twins' own 8,192 is out of reach.

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
        lambda_: float = 0.005,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector: MultiHeadProjector = MultiHeadProjector(encoder.features, dim, dim, heads, layers=3)
        temperature = PairTemperature(dim, heads, temperature_hidden, tau_min, tau_max)
        self.objective = AMCLBarlowLoss(temperature, lambda_, beta)
        self.clip = clip

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = (self.projector.split(self.project(view)) for view in views)
        return self.objective(z1, z2)
