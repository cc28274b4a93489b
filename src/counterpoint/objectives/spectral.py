"""The spectral contrastive loss (HaoChen et al., NeurIPS 2021, arXiv 2106.04156)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, normalize, positive
from counterpoint.pairwise import gather


class SpectralContrastive(nn.Module):
    """Views of an item have a large inner product, different items have none: a low-rank fit of who is whose view.

    Without normalisation::

        loss = -2 mean_i <z1_i, z2_i> + mean_{i != j} <z1_i, z2_j>^2

    Its minimum over all functions factorises the normalised adjacency matrix of the augmentation graph; for linear
    encoders the minimum is known in closed form (:func:`counterpoint.evaluation.feature_weights.optimum`).

    Args:
        clip_mu: embeddings longer than ``sqrt(clip_mu)`` are cut to that length, as in public code (there 1). ``None``
            is the equation.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw and never normalised, B >= 2 over all processes. The sum over pairs is
        ``<Z1'Z1, Z2'Z2>`` minus its diagonal, so that memory is O(D^2) where that is less than O(B^2). The loss grows
        with the fourth power of ``z``: without ``clip_mu``, float32 holds it for entries up to 1e8.

    Raises:
        ValueError: on B = 1 (no pair), shapes that differ, non-finite values, embeddings so long that the loss
            overflows, clip_mu <= 0.

    Reference: also Xue et al., ICLR 2024, arXiv 2403.11391, whose theory of the projection head rests on it.
    """

    def __init__(self, clip_mu: float | None = None) -> None:
        super().__init__()
        if clip_mu is not None:
            positive(clip_mu=clip_mu)
        self.clip_mu = clip_mu

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        z1, z2 = (gather(self._clip(z)) for z in embeddings(z1=z1, z2=z2))
        items, dim = z1.shape
        if items < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        own = (z1 * z2).sum(1)
        with torch.autocast(z1.device.type, enabled=False):
            # one sum in two orders: over the matrix of pairs or those of dimensions, whichever is smaller
            squares = (z1 @ z2.T).square().sum() if items <= dim else ((z1.T @ z1) * (z2.T @ z2)).sum()
        loss = (squares - own.square().sum()) / (items * (items - 1)) - 2 * own.mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError("z1, z2: embeddings are so long that the loss overflows; scale them, or give a clip_mu")
        return loss

    def _clip(self, z: Tensor) -> Tensor:
        if self.clip_mu is None:
            return z
        limit = self.clip_mu**0.5
        long = torch.linalg.vector_norm(z.detach(), dim=1, keepdim=True) > limit
        return torch.where(long, normalize(torch.where(long, z, 1.0)) * limit, z)
