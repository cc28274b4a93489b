"""One more positive for every pair, made in feature space (Wu, Hobbs, Hovakimyan, ICCV 2023, arXiv 2307.12168)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.views.features import extrapolate


class FeatureHallucinator(nn.Module):
    """A small network that invents another anchor from an anchor pushed away from its positive.

    ``x' = (1 + r) x - r k`` with one ``r`` for the batch, uniform in ``ratio_range``, and
    ``x_hal = W3 relu(W2 relu(W1 [x; x'] + b1) + b2) + b3``. It is trained with the encoder by the loss of the pairs
    ``(x, k)`` and ``(x_hal, k)`` alone, and dropped afterwards.

    Args:
        dim: D.
        hidden: width between the layers; ``None`` is 2D, the official code's.
        depth: linear layers; 3, the code's.
        ratio_range: smallest and largest ``r``; (0, 0.1), the code's. With ``r = 0`` the network sees ``x`` twice,
            which is not the identity.

    Shapes:
        ``generator(x, k, ratio)``: both (B, D) to (2B, D), the rows of ``x`` and then the hallucinated ones, neither
        normalised. ``ratio``: a number of one's own in place of the draw.

    Lengths are taken as they come. The code gives raw ``x`` and, in MoCo, unit ``k``: where ``x`` is much longer,
    ``r k`` is next to nothing.

    Raises:
        ValueError: on shapes that differ, or a range that is none.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, depth: int = 3, ratio_range: tuple[float, float] = (0.0, 0.1)
    ) -> None:
        super().__init__()
        hidden = 2 * dim if hidden is None else hidden
        for name, value in (("dim", dim), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        low, high = ratio_range
        if not -math.inf < low <= high < math.inf:
            raise ValueError(f"ratio_range: expected a finite pair (low, high) with low <= high, got {ratio_range}")
        self.dim, self.ratio_range = dim, (float(low), float(high))
        layers: list[nn.Module] = []
        for inputs in [2 * dim, *[hidden] * (depth - 2)][: depth - 1]:
            layers += [nn.Linear(inputs, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden if depth > 1 else 2 * dim, dim))

    def forward(self, x: Tensor, k: Tensor, ratio: Tensor | float | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected (B, {self.dim}), got {tuple(x.shape)}")
        if k.shape != x.shape:
            raise ValueError(f"k: expected {tuple(x.shape)} as x, got {tuple(k.shape)}")
        if ratio is None:
            low, high = self.ratio_range
            ratio = low + (high - low) * torch.rand((), device=x.device, dtype=x.dtype)
        return torch.cat([x, self.layers(torch.cat([x, extrapolate(x, k, ratio)], 1)).to(x.dtype)])
