"""Variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings
from counterpoint.pairwise import gather


class VICReg(nn.Module):
    """Views agree (invariance), every dimension varies (variance), no two dimensions repeat each other (covariance).

    ::

        invariance = mean (z1 - z2)^2
        variance   = 1/2 sum over views of mean_d max(0, 1 - sqrt(var_d + eps))
        covariance = sum over views of 1/D sum_{i != j} Cov_ij^2
        loss = sim_coeff * invariance + std_coeff * variance + cov_coeff * covariance

    The official code's form: the paper adds the two views' variance terms without the half.

    Args:
        sim_coeff, std_coeff, cov_coeff: 25, 25, 1, the paper's.
        eps: 1e-4, the official code's.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw and never normalised, B >= 2. Cost O(B D^2). It grows with the fourth power
        of ``z``: float32 holds it for entries up to 1e8, and beyond it is infinite or NaN.

    Raises:
        ValueError: on B = 1 (no variance), shapes that differ, non-finite values.

    Relations: :class:`BarlowTwins` asks for the same through one cross-correlation matrix.
    """

    def __init__(
        self, sim_coeff: float = 25.0, std_coeff: float = 25.0, cov_coeff: float = 1.0, eps: float = 1e-4
    ) -> None:
        super().__init__()
        for name, value in (("sim_coeff", sim_coeff), ("std_coeff", std_coeff), ("cov_coeff", cov_coeff)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.weights = {"invariance": sim_coeff, "variance": std_coeff, "covariance": cov_coeff}
        self.eps = eps

    def terms(self, z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
        """The three terms before their coefficients, by name."""
        z1, z2 = (gather(z) for z in embeddings(z1=z1, z2=z2))
        if len(z1) < 2:
            raise ValueError("z1: expected at least 2 rows, since 1 has no variance")
        return {
            "invariance": (z1 - z2).square().mean(),
            "variance": (self._variance(z1) + self._variance(z2)) / 2,
            "covariance": _covariance(z1) + _covariance(z2),
        }

    def _variance(self, z: Tensor) -> Tensor:
        return torch.relu(1 - torch.sqrt(z.var(dim=0) + self.eps)).mean()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        terms = self.terms(z1, z2)
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()


def _covariance(z: Tensor) -> Tensor:
    z = z - z.mean(dim=0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
