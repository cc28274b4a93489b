"""DCLW, the weighted form of Decoupled Contrastive Learning (Yeh et al., ECCV 2022)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision.dcl import DCL
from counterpoint.objectives.dcl import DCLW as DCLWLoss


class DCLW(DCL):
    """DCL whose positive pairs pull the harder the farther they are apart, compared with the rest of the batch.

    Args:
        encoder, views, recipe, temperature, dim: as for DCL.
        sigma: 0.5, of the negative von Mises-Fisher weight; the default of the re-implementations.
        detach_weight: hold the weights constant.
        clamp_weight: no weight below 0, which is not the paper's.

    Reference: arXiv 2110.06848.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.1,
        sigma: float = 0.5,
        detach_weight: bool = True,
        clamp_weight: bool = False,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, dim)
        self.objective = DCLWLoss(temperature, sigma, detach_weight, clamp_weight)
