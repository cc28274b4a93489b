"""DCL on a queue: Decoupled Contrastive Learning (Yeh et al., ECCV 2022) in MoCo (He et al., CVPR 2020)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision.moco import MoCo
from counterpoint.objectives import InfoNCE


class DCLMoCo(MoCo):
    """MoCo whose query is not compared with its own key in the denominator, only with the keys of past batches.

    Args:
        encoder, views, recipe, momentum, queue_size, dim: as for MoCo.
        temperature: 0.2, MoCo v2's: the denominator is all that changes. The paper's own is not known to us.

    Reference: arXiv 2110.06848.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, momentum, queue_size, dim)
        self.objective = InfoNCE(temperature, positive_in_denominator=False)
