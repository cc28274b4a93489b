"""What stands for a modality that an item does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MODES = ("indicator", "embedding", "vector")


class MissingModalityEmbedding(nn.Module):
    """Puts a placeholder where an item lacks a modality, and says so, for the layer that follows.

    A sample with a modality missing is not thrown away: the rest of it is as good as any. What follows must only be
    able to tell a placeholder from a value. Whatever stands in a row that is missing, NaN included, has no influence
    on the result.

    Args:
        dim: F, of the vectors.
        mode: ``"indicator"`` replaces the vector by ``placeholder`` and appends 1 where it is missing, 0 where it is
            there, as for raw inputs (Symile's XOR example has 0.5 for coins, its laboratory values their median);
            ``"embedding"`` replaces it by the mean of those that were there in training and appends a learned vector,
            one for those that are there and another for those that are not, as for features of a frozen encoder
            (Symile-M3); ``"vector"`` replaces it by a learned vector and appends nothing, for embeddings: what the
            other two come to once a linear layer has followed.
        placeholder: of the mode ``"indicator"``; 0.
        width: of the learned vectors of the mode ``"embedding"``; F, the official code's.

    Attributes:
        features: F + 1, F + width or F, what comes out.
        mean: (F,), of the rows that were there in training; starts at 0.

    Shapes:
        ``missing(x, present)``: (B, F) and bool (B,) to (B, features); without ``present`` all are there.

    Raises:
        ValueError: an unknown mode, sizes below 1, vectors of another size, or flags that are not bool (B,).

    The mean is over all rows seen in training mode, so that it follows an encoder that is not frozen only with a delay;
    the official code computes it beforehand from frozen features. It is part of the state.

    Reference: Saporta et al., "Contrasting with Symile", NeurIPS 2024, arXiv 2411.01053.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, dim: int, mode: str = "indicator", placeholder: float = 0.0, width: int | None = None) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        width = dim if width is None else width
        for name, value in (("dim", dim), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.dim, self.mode, self.placeholder = dim, mode, placeholder
        self.features = dim + {"indicator": 1, "embedding": width, "vector": 0}[mode]
        if mode == "vector":
            self.vector = nn.Parameter(torch.randn(dim) / dim**0.5)  # about as long as a unit vector
        if mode == "embedding":
            self.embedding = nn.Embedding(2, width)  # 0: there, 1: missing
            self.register_buffer("mean", torch.zeros(dim))
            self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected (B, {self.dim}), got {tuple(x.shape)}")
        if present is None:
            present = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if present.shape != (len(x),) or present.dtype != torch.bool:
            raise ValueError(f"present: expected bool ({len(x)},), got {present.dtype} {tuple(present.shape)}")
        there = present[:, None]
        if self.mode == "indicator":
            filled = torch.where(there, x, self.placeholder)
            return torch.cat([filled, (~there).to(filled)], 1)
        if self.mode == "vector":
            return torch.where(there, x, self.vector.to(x.dtype))
        if self.training:
            self._learn(x.detach(), there)
        filled = torch.where(there, x, self.mean.to(x.dtype))
        return torch.cat([filled, self.embedding((~present).long()).to(x.dtype)], 1)

    @torch.no_grad()
    def _learn(self, x: Tensor, there: Tensor) -> None:
        """The mean moves by what these rows add to it."""
        count = there.sum()
        total = torch.where(there, x, 0.0).sum(0, dtype=self.mean.dtype)
        self.seen += count
        self.mean += (total - count * self.mean) / self.seen.clamp(min=1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, mode={self.mode!r}, features={self.features}"
