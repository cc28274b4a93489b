"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import NTXent


class SimCLR(Method):
    """Two views of each image, one encoder, a projection head, NT-Xent over the batch.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 0.5, the paper's best for CIFAR-10 (section B.9).
        dim: D of the projection, 128 (section 4.2); its hidden layer is as wide as the features.
        head: the paper's MLP; others, also none and one with fixed weights: see
            :func:`~counterpoint.encoders.heads.make_head`.

    Reference: arXiv 2002.05709.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.5,
        dim: int = 128,
        head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = make_head(head, encoder.features, dim)
        self.objective: nn.Module = NTXent(temperature)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*self.embed_together(views))
