"""Supervised training with cross entropy: what labels alone give the same encoder under the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Method, Recipe, Views, labels_of


class Supervised(Method):
    """A linear classifier on the encoder, trained together with it on all views; unlabelled items are left out.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: K.
    """

    needs_labels = True
    labelled_only = True
    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        classes: int = 10,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.classifier = nn.Linear(encoder.features, classes)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        labels = labels_of(batch)
        logits = self.classifier(torch.cat(list(self.embed_together(views))))
        labels = labels.repeat(len(views))
        total = nn.functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
        return total / (labels >= 0).sum().clamp(min=1)
