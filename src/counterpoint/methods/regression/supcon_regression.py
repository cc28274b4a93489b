"""SupCon for a target that is a number: equal targets, or targets of one bin, are a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.regression._regression import Regression
from counterpoint.objectives import SupCon

_MIDDLE = 1 << 40  # number of the bin at the center: labels below 0 would mean that there is none


class SupConRegression(Regression):
    """What SupReMix builds on: supervised contrast (Khosla et al. 2020) of items with just the same target.

    Where no two targets are equal it is SimCLR, unless they are put into bins. It does not know that some targets are
    nearer to each other than others.

    Args:
        encoder, views, recipe, center, scale: see :class:`~counterpoint.methods.regression._regression.Regression`.
        temperature: 0.3, that of SupReMix's trainers, so that the two differ in what SupReMix adds.
        bin_width: in standard deviations (in units of the target with ``scale=1``); ``None``: only equal targets are
            of one class.
        dim, head: as for SupReMix.

    Raises:
        ValueError: a bin width that is not above 0.

    Reference: arXiv 2004.11362; as a baseline of arXiv 2309.16633.
    """

    n_views = None

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.3,
        bin_width: float | None = None,
        dim: int = 128,
        head: str = "mlp",
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, recipe, center, scale)
        if bin_width is not None and not 0 < bin_width < float("inf"):
            raise ValueError(f"bin_width: expected a finite number above 0, got {bin_width}")
        self.projector = make_head(head, encoder.features, dim)
        self.objective, self.bin_width = SupCon(temperature), bin_width

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(torch.stack(list(self.embed_together(views))), self.classes(self.targets(batch)))

    def classes(self, targets: Tensor) -> Tensor:
        """A number (B,) int64 for each target, the same on all processes: its bin, or the bits of the float itself."""
        if self.bin_width is not None:
            return (targets / self.bin_width).floor().long() + _MIDDLE
        return (targets + 0.0).view(torch.int32).long() & 0xFFFFFFFF  # minus zero is zero
