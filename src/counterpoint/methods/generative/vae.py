"""VAE: Auto-Encoding Variational Bayes (Kingma & Welling, ICLR 2014), what the mutual information machines leave."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.generative._latent import LatentVariable
from counterpoint.objectives import ELBO


class VAE(LatentVariable):
    """An auto-encoder whose codes stay as uncertain as the reconstruction allows.

    Args:
        encoder, views, recipe, decoder, widths, likelihood, embedding, pool: see
            :class:`~counterpoint.methods.generative._latent.LatentVariable`.
        latent_dim, min_log_scale: as for :class:`~counterpoint.methods.generative.cmim.CMIM`.
        beta, analytic, recon_reduction: see :class:`~counterpoint.objectives.ELBO`.

    Reference: arXiv 1312.6114.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        latent_dim: int = 64,
        beta: float = 1.0,
        analytic: bool = True,
        recon_reduction: str = "sum",
        min_log_scale: float = -6.0,
        decoder: str = "auto",
        widths: Sequence[int] | None = None,
        likelihood: str = "auto",
        embedding: str = "latent",
        pool: str | int | None = None,
    ) -> None:
        super().__init__(
            encoder, views, recipe, latent_dim, min_log_scale, decoder, widths, likelihood, embedding, pool
        )
        self.criterion = ELBO(beta, analytic, recon_reduction)
