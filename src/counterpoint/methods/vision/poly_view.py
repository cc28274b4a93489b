"""Poly-View Contrastive Learning (Shidani et al., ICLR 2024), a rival (PVC) of MV-DHEL."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multiview import MultiView
from counterpoint.objectives.multiview import PolyView as PolyViewLoss


class PolyView(MultiView):
    """Each view must find each other view of its item among the views of all other items.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`; two views or more.
        temperature: 0.5, the official configuration for CIFAR; 0.1 for ImageNet.
        aggregation: of the terms of a view: ``"geometric"`` or ``"arithmetic"``.
        dim: D of the projection, 128.

    Reference: arXiv 2403.05490; a baseline in arXiv 2507.06979.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        aggregation: str = "geometric",
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, PolyViewLoss(temperature, aggregation), dim)
