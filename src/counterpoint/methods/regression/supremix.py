"""SupReMix: Mixup Your Own Pairs (Wu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.regression._regression import Regression
from counterpoint.objectives import SupReMix as SupReMixLoss


class SupReMix(Regression):
    """Contrast for a target that is a number, with hard negatives and positives mixed from the batch.

    After training the mixtures are gone, and a linear regression on the frozen features predicts (linear probe).
    Targets are measured in standard deviations, which ``window`` and the distance weights are then too.

    Args:
        encoder, views, recipe, center, scale: see :class:`~counterpoint.methods.regression._regression.Regression`.
        temperature: 0.3, the official default for images.
        window: how near two targets must be to be mixed into a positive: 1 standard deviation. The official defaults
            are 5 years for ages and 1 for similarities from 0 to 5, about a third and two thirds of one (ours);
            ``scale=1`` with ``window=5`` is the former.
        beta, mix_neg, mix_pos, distance_weight: see :class:`~counterpoint.objectives.SupReMix`.
        max_mixtures: of each kind for an anchor, 512 (ours): with the official batch of 64 nearly all, with 256 items
            a fifth of a second a step instead of one.
        dim: D of the projection, 128, the official feature dimension; its hidden layer is as wide as the features.
        head: see :func:`~counterpoint.encoders.heads.make_head`; the official code has one for sentences only.

    Items without a target are left out of training.

    Reference: arXiv 2309.16633.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.3,
        window: float = 1.0,
        beta: tuple[float, float] = (2.0, 8.0),
        mix_neg: bool = True,
        mix_pos: bool = True,
        distance_weight: str | None = "l1",
        max_mixtures: int | None = 512,
        dim: int = 128,
        head: str = "mlp",
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, recipe, center, scale)
        self.projector = make_head(head, encoder.features, dim)
        self.objective = SupReMixLoss(temperature, window, beta, mix_neg, mix_pos, distance_weight, max_mixtures)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(torch.stack(list(self.embed_together(views))), self.targets(batch))
