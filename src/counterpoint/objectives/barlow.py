"""Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings
from counterpoint.pairwise import gather


class BarlowTwins(nn.Module):
    """The cross-correlation of the two views' dimensions should be the identity.

    With each dimension standardised over the batch and ``C = z1^T z2 / B`` (D, D)::

        loss = sum_i (C_ii - 1)^2 + lambda_ * sum_{i != j} C_ij^2

    Args:
        lambda_: 0.0051, the paper's.
        eps: 1e-5 in the batch normalisation, as the official code's ``BatchNorm1d(affine=False)``.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw, B >= 2. Cost O(B D^2); the (D, D) matrix is the method's own.

    Raises:
        ValueError: on B = 1 (no variance), shapes that differ, non-finite values.

    Relations: the same statistics as :class:`VICReg`, which holds variance and covariance apart per view.
    """

    def __init__(self, lambda_: float = 0.0051, eps: float = 1e-5) -> None:
        super().__init__()
        if not lambda_ >= 0:
            raise ValueError(f"lambda_: expected a number of at least 0, got {lambda_}")
        self.lambda_, self.eps = lambda_, eps

    def cross_correlation(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The (D, D) matrix ``C``."""
        z1, z2 = (gather(z) for z in embeddings(z1=z1, z2=z2))
        if len(z1) < 2:
            raise ValueError("z1: expected at least 2 rows, since 1 has no variance to standardise by")
        return standardize(z1, self.eps).T @ standardize(z2, self.eps) / len(z1)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        return off_identity(self.cross_correlation(z1, z2), self.lambda_)


def standardize(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Dimensions of ``z`` (B, D) with mean 0 and variance 1 over the batch, as batch norm would have them."""
    largest = z.detach().abs().amax(dim=0).clamp(min=1)  # the square of 1e30 would be infinite in float32
    z = z / largest
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * torch.rsqrt(variance + eps / largest.square())


def off_identity(correlation: Tensor, lambda_: float) -> Tensor:
    """``sum_i (C_ii - 1)^2 + lambda_ * sum_{i != j} C_ij^2`` of a matrix (D, D)."""
    diagonal = correlation.diagonal()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + lambda_ * redundancy
