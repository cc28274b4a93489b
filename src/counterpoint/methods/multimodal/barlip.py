"""BarLIP: CLIP with Barlow Twins between image and text (Fini et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import View
from counterpoint.methods.multimodal._rocket import Features, Rocket
from counterpoint.objectives import CrossModalBarlow


class BarLIP(Rocket):
    """CLIP-rocket, and the dimensions of image and caption should be correlated each with its own and with no other.

    Args:
        encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head: see
            :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`; without local views it is CLIP with this
            companion.
        lambda_, weight: 5e-3 and 0.025, the paper's; see :class:`~counterpoint.objectives.rocket.CrossModalBarlow`.
        companion_dim: of the projection that is correlated; ``None`` is four times the features, the paper's 8,192 for
            a ResNet's 2,048.
        companion_hidden: of its two hidden layers; ``None`` is one and a half times the features, about the paper's
            3,000.
        separate_companion: whether local views have projectors of their own; ``False``. The authors have both, and take
            separate ones for vision transformers.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        label_smoothing: float = 0.1,
        directions: str = "sum",
        separate_projectors: bool = True,
        hidden: int | None = None,
        temperature: float = 0.07,
        local_temperature: float = 0.1,
        score: str | float = "global",
        local_head: str = "mlp",
        lambda_: float = 5e-3,
        weight: float = 0.025,
        companion_dim: int | None = None,
        companion_hidden: int | None = None,
        separate_companion: bool = False,
    ) -> None:
        super().__init__(
            encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head,
        )  # fmt: skip
        width, deep = companion_dim or 4 * self.width, companion_hidden or 3 * self.width // 2
        for name in self.names:
            projector = partial(self.new_head, name, deep, width, 3, last_norm="affine")
            self.add_companion("barlow", name, projector, separate_companion)
        self.barlow = CrossModalBarlow(lambda_, weight)

    def companion(self, h: Features, local: Features, views: Sequence[View]) -> Tensor:
        v = self.through("barlow", h)
        return self.barlow(*(v[name] for name in self.names))
