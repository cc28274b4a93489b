"""SupCon: Supervised Contrastive Learning (Khosla et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Method, Recipe, Views, labels_of
from counterpoint.objectives import SupCon as SupConLoss


class SupCon(Method):
    """SimCLR whose positives are all embeddings of the anchor's class; an unlabelled item is its own class.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 0.1, the paper's.
        dim: D of the projection, 128; its hidden layer is as wide as the features (section 4).
        head: the paper's MLP; others, also none and one with fixed weights: see
            :func:`~counterpoint.encoders.heads.make_head`.

    Reference: arXiv 2004.11362.
    """

    needs_labels = True
    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.1,
        dim: int = 128,
        head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = make_head(head, encoder.features, dim)
        self.objective = SupConLoss(temperature)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(torch.stack(list(self.embed_together(views))), labels_of(batch))
