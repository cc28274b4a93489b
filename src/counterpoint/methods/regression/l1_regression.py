"""Regression trained end to end: what a target alone gives the same encoder under the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.regression._regression import Regression


class L1Regression(Regression):
    """A linear output on the encoder, trained together with it on all views to predict the standardised target.

    The counterpart of ``supervised`` for numbers, and what the papers on representations for regression compare with.
    Like every other method it is judged by a new regression on its frozen features.

    Args:
        encoder, views, recipe, center, scale: see :class:`~counterpoint.methods.regression._regression.Regression`.
        error: ``"l1"``, the absolute error (SupReMix's second stage), or ``"mse"``, the squared one.

    Raises:
        ValueError: another error.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        error: str = "l1",
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, recipe, center, scale)
        if error not in ("l1", "mse"):
            raise ValueError(f"error: expected 'l1' or 'mse', got {error!r}")
        self.output, self.error = nn.Linear(encoder.features, 1), error

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        targets = self.targets(batch).repeat(len(views))
        predicted = self.output(torch.cat(list(self.embed_together(views))))[:, 0].float()
        if self.error == "l1":
            return nn.functional.l1_loss(predicted, targets)
        return nn.functional.mse_loss(predicted, targets)
