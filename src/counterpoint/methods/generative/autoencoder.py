"""A plain auto-encoder: reconstruction alone, the floor for what its probabilistic relatives add."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.generative._latent import LatentVariable
from counterpoint.pairwise import gather


class Autoencoder(LatentVariable):
    """The negative log-likelihood of an item under the decoder of the mean of its code; nothing is drawn.

    Args:
        encoder, views, recipe, decoder, widths, likelihood, embedding, pool: see
            :class:`~counterpoint.methods.generative._latent.LatentVariable`.
        latent_dim: L, as for :class:`~counterpoint.methods.generative.cmim.CMIM`.

    No prior is fitted: its samples are of codes that it may never have met.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        latent_dim: int = 64,
        decoder: str = "auto",
        widths: Sequence[int] | None = None,
        likelihood: str = "auto",
        embedding: str = "latent",
        pool: str | int | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, latent_dim, -6.0, decoder, widths, likelihood, embedding, pool)
        self.projector.latent.log_scale.requires_grad_(False)

    def _loss(self, x: Tensor) -> Tensor:
        mean = self.encode(x).mean
        return -gather(self.log_likelihood(mean, x).flatten(1).sum(1)).mean()
