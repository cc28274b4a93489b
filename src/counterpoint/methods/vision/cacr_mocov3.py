"""CACR in the form of MoCo v3: predictions, a teacher's keys of the batch, multi-crop (Zheng et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, mlp_head
from counterpoint.encoders.ema import cosine_momentum
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.cacr import CACRMoCoV3 as CACRMoCoV3Loss


class CACRMoCoV3(Method):
    """Predictions from all other views seek the teacher's key of a view among the keys of the batch.

    The authors' setting for pre-training on ImageNet. The first two views are large; any more are local crops, such as
    those of ``views="swav"`` (the authors have eight, at scales 0.05 to 0.4).

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature, cost: see :class:`~counterpoint.objectives.cacr.CACRMoCoV3`. 1 for ResNet-50, 0.2 for ViT-B.
        local: what views after the second are: ``"light"``, the official default, queries only; ``"full"``, keys too.
        momentum: of the teacher at the start, rising to 1 by a cosine: 0.99, the official code's default; its ResNet-50
            runs have 0.996.
        dim: D of projection and prediction, 256.
        hidden: of both heads; ``None`` is twice the features, the authors' 4,096 for 2,048.
        projector_layers: 2 for ResNets; 3 for ViTs.
        predictor_norm: whether a batch norm ends the predictor, as it ends the projector; only for ViTs.

    The authors train ResNet-50 with LARS (learning rate 0.3, weight decay 1.5e-6) and ViT-B with AdamW (1.5e-4, 0.1),
    in batches of 4,096.

    Reference: arXiv 2105.03746; MoCo v3 is arXiv 2104.02057.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 1.0,
        cost: str = "rbf",
        local: str = "light",
        momentum: float = 0.99,
        dim: int = 256,
        hidden: int | None = None,
        projector_layers: int = 2,
        predictor_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe)
        if local not in ("light", "full"):
            raise ValueError(f"local: expected 'light' or 'full', got {local!r}")
        hidden = hidden or 2 * encoder.features
        self.projector = mlp_head(encoder.features, hidden, dim, layers=projector_layers, last_norm=True)
        self.predictor = mlp_head(dim, hidden, dim, last_norm=predictor_norm)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.objective = CACRMoCoV3Loss(temperature, cost)
        self.local, self.momentum = local, momentum

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        queries = torch.stack([self.predictor(self.project(view)) for view in views])
        keys = torch.stack([self.teacher(view) for view in (views if self.local == "full" else views[:2])])
        return self.objective(queries, keys)

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.update(nn.Sequential(self.encoder, self.projector), momentum)
