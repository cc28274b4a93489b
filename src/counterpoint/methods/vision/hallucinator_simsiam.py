"""Hallucinator (Wu, Hobbs, Hovakimyan, ICCV 2023) on SimSiam: each prediction is doubled by an invented one."""

from __future__ import annotations

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._hallucinating import Hallucinating
from counterpoint.methods.vision.simsiam import SimSiam


class HallucinatorSimSiam(Hallucinating, SimSiam):
    """SimSiam of two predictions for each target: the predictor's, and one pushed away from the other view's.

    Both directions have an ``r`` of their own, and both start from the predictor's outputs. The paper's views are
    ``views="hallucinator"``.

    Args:
        encoder, views, recipe, dim, projector_layers, bottleneck: as for
            :class:`~counterpoint.methods.vision.simsiam.SimSiam`. The paper's D is 512.
        hidden, depth, ratio: of the generator, see :class:`~counterpoint.views.FeatureHallucinator`.
        hallucinate: ``False`` doubles the anchor itself, a control with the same arithmetic, whose loss is
            SimSiam's.
        normalize_first: brings anchors and what they are pushed away from to length 1 before the generator sees them;
            the official code does not.

    Reference: arXiv 2307.12168.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        projector_layers: int = 3,
        bottleneck: int | None = None,
        hidden: int | None = None,
        depth: int = 3,
        ratio: tuple[float, float] = (0.0, 0.1),
        hallucinate: bool = True,
        normalize_first: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, projector_layers, bottleneck)
        self.make_generator(dim or encoder.features, hidden, depth, ratio, hallucinate, normalize_first)

    def agree(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        both = self.doubled(p1, p2, target=z2), self.doubled(p2, p1, target=z1)
        return super().agree(*both, z1.repeat(2, 1), z2.repeat(2, 1))
