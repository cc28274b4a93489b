"""Spectral contrastive learning: Provable Guarantees for Self-Supervised Deep Learning (HaoChen et al., NeurIPS 2021).

The loss under the linear theory of the projection head (Xue et al., ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.spectral import SpectralContrastive


class Spectral(Method):
    """SimCLR with the spectral contrastive loss: embeddings are not normalised, negatives are pushed to be orthogonal.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        clip_mu: embeddings are cut to the length ``sqrt(clip_mu)``; ``None`` is the equation, 1 what public code has.
        dim: D of the projection; 128, as for SimCLR.
        head: see :func:`~counterpoint.encoders.heads.make_head`.

    Reference: arXiv 2106.04156 and 2403.11391.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        clip_mu: float | None = None,
        dim: int = 128,
        head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = make_head(head, encoder.features, dim)
        self.objective = SpectralContrastive(clip_mu)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*self.embed_together(views))
