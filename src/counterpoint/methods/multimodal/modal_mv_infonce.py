"""MV-InfoNCE of modalities: A Principled Framework for Multi-View Contrastive Learning (Koromilas et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal.modal_mv_dhel import ModalMVDHEL
from counterpoint.objectives import MVInfoNCE


class ModalMVInfoNCE(ModalMVDHEL):
    """Each modality is a view, by a tower of its own: pairs of an item against all pairs of modalities, in one term.

    Args:
        encoder, views, recipe, dim, head, freeze, temperature: see
            :class:`~counterpoint.methods.multimodal.modal_mv_dhel.ModalMVDHEL`.
        variant: see :class:`~counterpoint.objectives.MVInfoNCE`; ``"paper"`` contrasts across modalities alone.

    Reference: arXiv 2507.06979. Of one modality and its augmentations: ``mv_infonce``.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        temperature: float = 0.2,
        variant: str = "paper",
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze, temperature)
        self.objective = MVInfoNCE(temperature, variant)
