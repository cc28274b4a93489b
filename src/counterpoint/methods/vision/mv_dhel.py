"""MV-DHEL: A Principled Framework for Multi-View Contrastive Learning (Koromilas et al. 2025)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multiview import MultiView
from counterpoint.objectives.multiview import MVDHEL as MVDHELLoss


class MVDHEL(MultiView):
    """Views of an item meet all together; items are spread within each view apart from that.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`; two views or more.
        temperature: 0.5, the official configuration for CIFAR; 0.1 for ImageNet.
        include_self: count an item among those it is spread from, as the equation in the README does.
        dim: D of the projection, 128.

    Reference: arXiv 2507.06979.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        include_self: bool = False,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, MVDHELLoss(temperature, include_self), dim)
