"""GroCo: Learning by Sorting: Self-supervised Learning with Group Ordering Constraints (Shvetsova et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.groco import GroCo as Objective


class GroCo(Method):
    """Sort each image's similarities by a differentiable network; its other views must come out above its negatives.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. Two views or more. The paper's pair
            is ``views="groco"``, its four views ``{"groco": {"count": 4}}``, its multi-crop
            ``{"groco": {"local": 6}}``.
        negatives: k, hardest negatives of the anchor's own view; 10, the official code's.
        steepness: of the soft swaps; 1.
        stop_gradient: only through the anchor; the official default.
        positive_views: how many of the first views serve as positives; ``None``: those as large as the first, so all
            views of one size, and of multi-crop the full crops.
        network, relaxation: of :class:`~counterpoint.objectives.sorting.DifferentiableSort`.
        dim: D of the projection; ``None`` is the number of features, as the paper's 2,048 for ResNet-50.
        last_norm: batch norm without affine parameters at the end of the 3-layer head. Without it, embeddings can
            stay in a narrow cone.

    Each view goes through the network by itself, with batch statistics of its own, as in the official code; so views
    may differ in size. The paper's evaluation, kNN of the encoder's features with k = 20 and temperature 0.07, is the
    score ``knn``.

    Reference: arXiv 2301.02009, ICCV 2023.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        negatives: int = 10,
        steepness: float = 1.0,
        stop_gradient: bool = True,
        positive_views: int | None = None,
        network: str = "odd_even",
        relaxation: str = "cauchy",
        dim: int | None = None,
        last_norm: bool = True,
    ) -> None:
        super().__init__(encoder, views, recipe)
        width = encoder.features
        self.projector = mlp_head(width, width, dim or width, layers=3, last_norm=last_norm)
        self.objective = Objective(negatives, steepness, stop_gradient, positive_views, network, relaxation)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        full = sum(view.shape == views[0].shape for view in views)
        return self.objective(torch.stack([self.project(view) for view in views]), positive_views=full)
