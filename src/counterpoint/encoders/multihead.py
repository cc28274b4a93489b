"""Several projection heads on one encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.encoders.heads import mlp_head


class MultiHeadProjector(nn.Module):
    """C heads of one architecture, each with weights drawn of its own: equal heads would stay equal.

    Args:
        inputs, hidden, outputs, layers, last_norm: of each head, see :func:`~counterpoint.encoders.mlp_head`.
        heads: C; 3, the default of AMCL's code (Wang et al., ECCV 2024).

    Shapes:
        ``projector(h)``: (B, inputs) to (B, C * outputs), the heads side by side, an embedding like any other;
        ``projector.split(z)``: the same by head, (C, B, outputs).

    Raises:
        ValueError: fewer than one head.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, heads: int = 3, *, layers: int = 2, last_norm: bool = False
    ) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads: expected at least 1, got {heads}")
        self.heads = nn.ModuleList(
            mlp_head(inputs, hidden, outputs, layers=layers, last_norm=last_norm) for _ in range(heads)
        )

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([head(h) for head in self.heads], dim=1)

    def split(self, z: Tensor) -> Tensor:
        """Side by side (B, C * D), as :meth:`forward` gives it, to head by head (C, B, D)."""
        return z.unflatten(1, (len(self.heads), -1)).transpose(0, 1)
