"""MV-InfoNCE: A Principled Framework for Multi-View Contrastive Learning (Koromilas et al. 2025)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multiview import MultiView
from counterpoint.objectives.multiview import MVInfoNCE as MVInfoNCELoss


class MVInfoNCE(MultiView):
    """InfoNCE over all views of an item at once, in one term.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`; two views or more.
        temperature: 0.5, the official configuration for CIFAR; 0.1 for ImageNet.
        variant: ``"paper"`` or ``"code"``, which differ in the denominator.
        dim: D of the projection, 128.

    Reference: arXiv 2507.06979.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        variant: str = "paper",
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, MVInfoNCELoss(temperature, variant), dim)
