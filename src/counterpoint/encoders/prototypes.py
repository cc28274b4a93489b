"""Prototypes: learned directions that embeddings are scored against (Caron et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prototypes(nn.Module):
    """K unit vectors ``c_k``; ``prototypes(z)`` are the cosines ``<z_b, c_k> / |z_b|``.

    Call :meth:`normalize_` after each optimiser step: the vectors are parameters, and a step makes them longer. While
    they are to stay as they are, call :meth:`hold` before each step.

    Args:
        dim: D of the embeddings.
        k: K, how many.

    Shapes:
        (B, D), raw, to (B, K); in float32 at least, since Sinkhorn divides the cosines by a small number.
    """

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("k", k)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.weight = nn.Parameter(torch.randn(k, dim))
        self.normalize_()

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            unit = nn.functional.normalize(z.to(self.weight.dtype), dim=-1)
            return nn.functional.linear(unit, self.weight)

    @torch.no_grad()
    def normalize_(self) -> None:
        """Bring the vectors back to length 1, in place."""
        self.weight.copy_(nn.functional.normalize(self.weight, dim=1))

    def hold(self) -> None:
        """Drop the gradient, so that the coming optimiser step moves nothing: no decay and no momentum either."""
        self.weight.grad = None
