"""SiamLIP: CLIP with SimSiam between image and text (Fini et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import MultimodalEncoder, mlp_head
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import View
from counterpoint.methods.multimodal._rocket import Features, WithTeacher
from counterpoint.objectives import CrossModalPrediction


class SiamLIP(WithTeacher):
    """CLIP-rocket, and each modality predicts the projection of the other, which is held constant.

    Args:
        encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score: see
            :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`; without local views it is CLIP with this
            companion.
        companion_dim: of projections and predictions: 128.
        companion_hidden: width of the hidden layers of projectors and predictors; ``None`` is as many as features, the
            paper's 2,048 for a ResNet.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket.

    See also :class:`~counterpoint.methods.multimodal.byolip.BYOLIP`, whose targets are a teacher's.
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
        companion_dim: int = 128,
        companion_hidden: int | None = None,
    ) -> None:
        super().__init__(
            encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score,
        )  # fmt: skip
        deep = companion_hidden or self.width
        for name in self.names:
            self.projector[f"siam_{name}"] = self.new_head(name, deep, companion_dim, 2, last_norm=True)
            self.projector[f"predictor_{name}"] = mlp_head(companion_dim, deep, companion_dim)
        self.prediction = CrossModalPrediction()

    def companion(self, h: Features, local: Features, views: Sequence[View]) -> Tensor:
        v = [[self.projector[f"siam_{name}"](each) for each in h[name]] for name in self.names]
        p = [[self.projector[f"predictor_{name}"](z) for z in of] for name, of in zip(self.names, v, strict=True)]
        if self.teacher is not None:
            taught, model = self.targets(views)
            v = [[model.heads[f"siam_{name}"](each) for each in taught[name]] for name in self.names]
        return self.prediction(*p, *v)
