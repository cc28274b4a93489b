"""What the methods of fine-tuning share: a linear classifier on the encoder, and batches of labelled items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views, labels_of


class Classifying(Method):
    """An encoder and a linear classifier without bias, as in Core-tuning's official code; all views are trained on.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C.
    """

    needs_labels = True
    labelled_only = True
    n_views = None

    def __init__(
        self, encoder: Encoder, views: Views | None = None, recipe: Recipe | None = None, classes: int = 10
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.classifier = nn.Linear(encoder.features, classes, bias=False)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        """``loss_of`` the features (B', F) and labels (B',) of all views of the labelled items."""
        labels = labels_of(batch)
        known = labels >= 0
        if not bool(known.any()):
            raise ValueError(f"labels: none of the {len(labels)} items of this batch has one")
        if not bool(known.all()):
            views, labels = [view[known] for view in views], labels[known]
        sizes = {view.shape[1:] for view in views}
        parts = [torch.cat([view for view in views if view.shape[1:] == size]) for size in sizes]
        return self.loss_of(torch.cat([self.encoder(part) for part in parts]), labels.repeat(len(views)))

    def loss_of(self, features: Tensor, labels: Tensor) -> Tensor:
        """The paper, on features (B, F) of labelled items: cross entropy where nothing else is said."""
        return nn.functional.cross_entropy(self.classifier(features).float(), labels)


def contrast_head(features: int, dim: int) -> nn.Sequential:
    """The head of Core-tuning's contrastive loss: linear, ReLU, linear, as wide as the features."""
    return mlp_head(features, features, dim, norm=False)
