"""LiT: Zero-Shot Transfer with Locked-image Text Tuning (Zhai et al., CVPR 2022, arXiv 2111.07991)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._locked import Locked, Meeting
from counterpoint.objectives import GroupInfoNCE


class LiT(Locked):
    """CLIP's loss towards a tower that stays as it is.

    Args:
        encoder, views, recipe, dim, head, locked, temperature, learn_temperature: see
            :class:`~counterpoint.methods.multimodal._locked.Locked`. A trained head on the locked encoder, ``dim``
            other than its features, is what the authors recommend.

    Reference: arXiv 2111.07991.

    Relations: the rival of ``cwcl``, which only exchanges the loss.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str = "linear",
        locked: str = "",
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, locked, temperature, learn_temperature)
        self.objective = GroupInfoNCE(temperature)

    def meet(self, pairs: Meeting) -> Tensor:
        return self.objective(pairs.locked, pairs.trained, scale=self.scale())
