"""FT: Improving Contrastive Learning by Visualizing Feature Transformation (Zhu et al., ICCV 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision.moco import MoCo
from counterpoint.objectives import InfoNCE
from counterpoint.objectives.inputs import normalize
from counterpoint.views.feature_transformation import FeatureTransformation as Transformation


class FeatureTransformation(MoCo):
    """MoCo whose pairs are pushed apart and whose negatives are mixed before the loss sees them.

    Args:
        encoder, views, recipe, temperature, queue_size, dim: as for :class:`~counterpoint.methods.vision.moco.MoCo`;
            temperature 0.2 and dim 128 are the authors' on MoCo v2 too.
        mode, pos_alpha, neg_alpha, elementwise, postmix_norm, positives: see
            :class:`~counterpoint.views.feature_transformation.FeatureTransformation`; the defaults are the authors'
            recommended setting.
        start: share of the training before features are transformed; 0, at once, as in the authors' runs.
        momentum: of the teacher: 0.99, the authors' for ImageNet-100; they have 0.999 for ImageNet.

    The queue holds the keys as the teacher made them. (The authors' class, on one process, keeps the transformed ones.)
    The scores of positives and negatives before and after the transformation are on the page of the run.

    Reference: arXiv 2108.02982.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        mode: str = "posneg",
        pos_alpha: float = 2.0,
        neg_alpha: float = 1.6,
        elementwise: str = "none",
        postmix_norm: bool = False,
        positives: str = "extrapolate",
        start: float = 0.0,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, momentum, queue_size, dim)
        if not 0 <= start <= 1:
            raise ValueError(f"start: expected a share from 0 to 1, got {start}")
        self.objective = InfoNCE(temperature, normalize=False)
        self.transformation = Transformation(mode, pos_alpha, neg_alpha, elementwise, postmix_norm, positives)
        self.start = start

    def contrast(self, queries: Tensor, keys: Tensor, batch: dict[str, Any]) -> Tensor:
        features = normalize(queries.float()), keys, self.queue()
        self.watch(*features)
        if self.progress >= self.start:
            features = self.transformation(*features)
            self.watch(*features, stage="after", unit=False)
        return self.objective(*features)
