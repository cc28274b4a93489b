"""SiamLIP: CLIP with SimSiam between image and text (Fini et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
            temperature, local_temperature, score, local_head: see
            :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`; without local views it is CLIP with this
            companion.
        companion_dim: of projections and predictions: 128.
        companion_hidden: width of the hidden layers of projectors and predictors; ``None`` is as many as features, the
            paper's 2,048 for a ResNet.
        separate_companion: whether local views have projectors and predictors of their own; ``False``. The authors have
            both, and take separate ones for vision transformers.

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
        local_head: str = "mlp",
        companion_dim: int = 128,
        companion_hidden: int | None = None,
        separate_companion: bool = False,
    ) -> None:
        super().__init__(
            encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head,
        )  # fmt: skip
        deep = companion_hidden or self.width
        for name in self.names:
            projector = partial(self.new_head, name, deep, companion_dim, 2, last_norm=True)
            self.add_companion("siam", name, projector, separate_companion)
            predictor = partial(mlp_head, companion_dim, deep, companion_dim)
            self.add_companion("predictor", name, predictor, separate_companion)
        self.prediction = CrossModalPrediction()

    def companion(self, h: Features, local: Features, views: Sequence[View]) -> Tensor:
        v = self.through("siam", h)
        p = self.through("predictor", v)
        if self.teacher is not None:
            taught, model = self.targets(views)
            v = self.through("siam", taught, model.heads)
        a, b = self.names
        return self.prediction(p[a], p[b], v[a], v[b])
