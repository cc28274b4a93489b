"""BYOLIP: CLIP with BYOL between image and text (Fini et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal.siamlip import SiamLIP


class BYOLIP(SiamLIP):
    """SiamLIP whose targets are made by a slowly moving copy of the model.

    Args:
        encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head: see
            :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`; without local views it is CLIP with this
            companion.
        companion_dim, companion_hidden, separate_companion: see
            :class:`~counterpoint.methods.multimodal.siamlip.SiamLIP`.
        momentum: of the teacher, constant: 0.99. It follows the weights and has batch statistics of its own.

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
        companion_dim: int = 128,
        companion_hidden: int | None = None,
        separate_companion: bool = False,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(
            encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head, companion_dim, companion_hidden, separate_companion,
        )  # fmt: skip
        self.teach("siam_", momentum=momentum)
