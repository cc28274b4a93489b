"""What methods with crops of several sizes share: passing those of one size together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.inputs import normalize


class MultiCrop(Method):
    """The first ``n_assign`` views are the global crops, to which items are assigned; all views learn from that.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        n_assign: number of global crops.
        dim: D of the projection; its hidden layer is as wide as the features.
    """

    n_views = None

    def __init__(self, encoder: Encoder, views: Views | None, recipe: Recipe | None, n_assign: int, dim: int) -> None:
        super().__init__(encoder, views, recipe)
        if n_assign < 1:
            raise ValueError(f"n_assign: expected at least 1, got {n_assign}")
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.n_assign = n_assign

    def embed_by_size(self, views: Sequence[Tensor], least: int) -> list[Tensor]:
        """Unit embeddings (B, D) of each view; one pass of the encoder a size, one of the projector for all of them.

        Raises:
            ValueError: there are fewer views than ``least`` or ``n_assign``.
        """
        least = max(least, self.n_assign)
        if len(views) < least:
            raise ValueError(f"views: {type(self).__name__} needs at least {least} crops, and there are {len(views)}")
        h = [self.encoder(torch.cat(list(group))) for _, group in groupby(views, key=lambda view: view.shape)]
        return list(normalize(self.projector(torch.cat(h)).float()).split(len(views[0])))
