"""A-MIM: a mutual information machine (Livne, Swersky & Fleet 2019), what cMIM adds a contrastive term to."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.generative._latent import LatentVariable
from counterpoint.objectives import MIM as MIMLoss


class MIM(LatentVariable):
    """An auto-encoder that maximises the mutual information of items and codes, sampling from the data alone.

    Args:
        encoder, views, recipe, decoder, widths, likelihood, embedding, pool: see
            :class:`~counterpoint.methods.generative._latent.LatentVariable`.
        latent_dim, min_log_scale: as for :class:`~counterpoint.methods.generative.cmim.CMIM`.
        recon_reduction, normalize_gradient: see :class:`~counterpoint.objectives.MIM`.

    Reference: arXiv 1910.03175; SentenceMIM, arXiv 2003.02645.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        latent_dim: int = 64,
        recon_reduction: str = "sum",
        normalize_gradient: bool = False,
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
        self.criterion = MIMLoss(recon_reduction, normalize_gradient)
