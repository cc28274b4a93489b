"""Attention of queries to other tokens: what poolers, and decoders that look at a picture, are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of queries to a context, with biases.

    Args:
        dim: C of the queries and of what comes out.
        heads: into which C is divided.
        context_dim: of what is attended to; C by default.

    Shapes:
        ``attention(x, context, mask)``: (B, T, C) and (B, S, context_dim) to (B, T, C). ``mask`` (B, S), optional, is
        true where queries may look; each item needs one place.

    Raises:
        ValueError: heads that do not divide C.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads: expected a divisor of {dim}, the width, got {heads}")
        self.heads = heads
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.value = (nn.Linear(context_dim or dim, dim) for _ in range(2))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, seen in ((self.query, x), (self.key, context), (self.value, context))
        )
        seen = None if mask is None else mask.bool()[:, None, None]
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out(found.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """``h = x + Attention(norm x, norm context)``, then ``h + MLP(norm h)``: a layer that reads other tokens.

    Beside :class:`~counterpoint.encoders.text.Block`, which reads its own.

    Args:
        width: W.
        heads: that share it.
        context_dim: of what is read; W by default.

    Shapes:
        (B, L, W) and (B, S, context_dim) to (B, L, W).
    """

    def __init__(self, width: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2, self.context_norm = (
            nn.LayerNorm(size) for size in (width, width, context_dim or width)
        )
        self.attention = Attention(width, heads, context_dim)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), self.context_norm(context))
        return x + self.mlp(self.norm2(x))
