"""CACR: Contrastive Attraction and Contrastive Repulsion for Representation Learning (Zheng et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.cacr import CACR as CACRLoss


class CACR(Method):
    """Several views of each image, one encoder: far positives are pulled harder, near negatives pushed harder.

    The authors' setting for CIFAR-10, CIFAR-100 and STL-10. They take five views, ``views={"simclr": {"count": 5}}``;
    attraction compares positives with each other, which takes three at least. Each view passes the network by itself,
    as in their code.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        alpha, beta, tau_pos, tau_neg, weights, detach_weights, cost, rbf_t, tau_plus: see
            :class:`~counterpoint.objectives.cacr.CACR`.
        dim: D of the projection, 128, as wide as the output of the authors' AlexNet, whose layer before it is what
            they evaluate.
        head: the projection head; see :func:`~counterpoint.encoders.heads.make_head`.

    The authors train with SGD, learning rate 0.12 a 256 images, batches of 128, weight decay 1e-4, for 200 epochs.

    Reference: arXiv 2105.03746.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau_pos: float = 1.0,
        tau_neg: float = 2.0,
        weights: str = "full",
        detach_weights: bool = False,
        cost: str = "euclidean",
        rbf_t: float = 2.0,
        tau_plus: float | None = None,
        dim: int = 128,
        head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = make_head(head, encoder.features, dim)
        self.objective = CACRLoss(alpha, beta, tau_pos, tau_neg, weights, detach_weights, cost, rbf_t, tau_plus)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(torch.stack([self.project(view) for view in views]))
