"""Pairwise NT-Xent over many views: the rival (PWE) of MV-DHEL (Koromilas et al. 2025)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multiview import MultiView
from counterpoint.objectives.multiview import PairwiseAverage


class PairwiseViews(MultiView):
    """SimCLR's loss, averaged over all pairs of an item's views.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`; two views or more.
        temperature: 0.5, the official configuration for CIFAR; 0.1 for ImageNet.
        dim: D of the projection, 128.

    Reference: arXiv 2507.06979, where it is a baseline.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, PairwiseAverage(temperature=temperature), dim)
