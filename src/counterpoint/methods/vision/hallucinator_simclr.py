"""Hallucinator (Wu, Hobbs, Hovakimyan, ICCV 2023) on SimCLR: the first view's embeddings are doubled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._hallucinating import Hallucinating
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.objectives import HallucinatedNTXent


class HallucinatorSimCLR(Hallucinating, SimCLR):
    """SimCLR of two anchors for each embedding of the second view: the first view's, and one made from both.

    Only the first view is doubled; gradients flow through both. The paper's views are ``views="hallucinator"``.

    Args:
        encoder, views, recipe, temperature, dim: as for :class:`~counterpoint.methods.vision.simclr.SimCLR`.
        mask_duplicates: leaves the second copy of a view out of its own denominator and its partner's, where the
            official code has it as a negative: see :class:`~counterpoint.objectives.hallucination.HallucinatedNTXent`.
        hidden, depth, ratio: of the generator, see :class:`~counterpoint.views.FeatureHallucinator`.
        hallucinate: ``False`` doubles the anchor itself, a control with the same arithmetic.
        normalize_first: brings anchors and what they are pushed away from to length 1 before the generator sees them;
            the official code does not.

    Reference: arXiv 2307.12168.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        dim: int = 128,
        mask_duplicates: bool = False,
        hidden: int | None = None,
        depth: int = 3,
        ratio: tuple[float, float] = (0.0, 0.1),
        hallucinate: bool = True,
        normalize_first: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, dim)
        self.make_generator(dim, hidden, depth, ratio, hallucinate, normalize_first)
        self.objective = HallucinatedNTXent(temperature, mask_duplicates, copies=not hallucinate)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        x, k = self.embed_together(views)
        x, hallucinated = self.doubled(x, k).chunk(2)
        return self.objective(x, hallucinated, k.float())
