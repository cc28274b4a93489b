"""cMIM: a contrastive mutual information framework for generative and discriminative learning (Livne 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.generative._latent import LatentVariable
from counterpoint.objectives import ContrastiveMIM


class CMIM(LatentVariable):
    """An auto-encoder with certain codes, each told from the codes of the other items; no augmentation.

    Args:
        encoder, views, recipe, decoder, widths, likelihood, embedding, pool: see
            :class:`~counterpoint.methods.generative._latent.LatentVariable`.
        latent_dim: L; KERMT's 512 is for molecules, 64 is ours for small images and tables.
        temperature, negatives, recon_reduction, normalize_gradient: see
            :class:`~counterpoint.objectives.ContrastiveMIM`.
        min_log_scale: -6, KERMT's.

    What is saved and evaluated are the features below the code, as of all methods; ``fit(layer="projection")`` scores
    the mean of the code, and with ``embedding="informative"`` the decoder's states.

    Reference: arXiv 2502.19642.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        latent_dim: int = 64,
        temperature: float = 0.1,
        negatives: str = "mean",
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
        self.criterion = ContrastiveMIM(temperature, recon_reduction, normalize_gradient, negatives)
