"""What methods for a numeric target share: targets in standard deviations, and a figure of what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.findings import Finding, Heatmap
from counterpoint.methods.base import Method, Recipe, Views

_BINS = 8


class Regression(Method):
    """A method whose batches carry ``"target"``, which it sees as ``(target - center) / scale``.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        center: subtracted; fit gives the mean of the training targets.
        scale: a unit of the target; fit gives the standard deviation of the training targets, so that parameters in
            units of the target mean the same for years, degrees and dollars. 1 keeps the target's own unit.

    Raises:
        ValueError: a scale that is not above 0, numbers that are not finite.
    """

    needs_target = True

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, recipe)
        if not (abs(center) < float("inf") and 0 < scale < float("inf")):
            raise ValueError(f"center, scale: expected finite numbers, scale above 0, got {center} and {scale}")
        self.center, self.scale = center, scale

    def targets(self, batch: dict[str, Any]) -> Tensor:
        """The targets (B,) of a batch, standardised.

        Raises:
            ValueError: the data have none.
        """
        if "target" not in batch:
            raise ValueError("target: this method needs a target, and the data have none; name its column with target=")
        standard: Tensor = (batch["target"].float() - self.center) / self.scale
        return standard

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        """How alike the projections of items of similar and of different targets are."""
        batch = dataset[indices]
        if "target" not in batch:
            return ()
        y = batch["target"].numpy()
        known = np.flatnonzero(~np.isnan(y))
        edges = np.unique(np.quantile(y[known], np.linspace(0, 1, _BINS + 1))) if len(known) else np.empty(0)
        if len(edges) < 3:
            return ()
        x = batch[dataset.modality][known].to(self.device)
        z = torch.nn.functional.normalize(self.project(x.float() / 255 if x.dtype == torch.uint8 else x).float(), dim=1)
        at = np.clip(np.searchsorted(edges, y[known], side="right") - 1, 0, len(edges) - 2)
        means = torch.stack([z[torch.from_numpy(at == one).to(z.device)].mean(0) for one in range(len(edges) - 1)])
        names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
        text = (
            "Mean cosine of projections of test items, by ranges of the target that hold equal shares of them. In an "
            "ordered representation it falls from the diagonal outwards."
        )
        return [Heatmap("Similarity by target", text, (means @ means.T).cpu().numpy(), names)]
