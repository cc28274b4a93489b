"""Learned queries that read a sequence of any length into vectors of a fixed number: the Perceiver of CosMo.

CosMo (arXiv 2401.00849) has it twice: a :class:`PerceiverResampler` on the patches of every picture, and a
:class:`QueryPool` on the words of a text. Both use the attention of Flamingo, in which a query reads itself beside what
it is there to read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def at_least_one(**named: int) -> None:
    """``ValueError`` naming the argument that is below 1."""
    for name, value in named.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")


def feed_forward(dim: int, inner: int) -> nn.Sequential:
    """Layer norm, linear, GELU (exact), linear: (..., dim) to (..., dim), no biases in the linear layers."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, mask: Tensor | None = None) -> Tensor:
    """Attention of (B, Q, W) to (B, N, W) in ``heads`` parts of W: (B, Q, W).

    Args:
        q, k, v: queries, keys and values of one width W.
        heads: parts of it.
        scale: of the inner products.
        mask: (B, Q, N) or (B, 1, N), true where a query may look; every query must be allowed something.
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = None if mask is None else mask[:, None]
    return nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale).transpose(1, 2).flatten(2)


class PerceiverAttention(nn.Module):
    """Queries attend to a sequence and to themselves, each behind its own layer norm; no biases.

    Args:
        dim: D of both.
        heads, dim_head: 8 heads of 64, the official code's.
        qk_norm: layer norm of queries and keys over all heads together, before they meet. Off, as released.

    Shapes:
        ``attention(x, queries, mask)``: (B, N, D) and (B, Q, D) to (B, Q, D); mask (B, N), true where x counts. The
        queries always count, so that one whose x is all masked reads itself.
    """

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 64, qk_norm: bool = False) -> None:
        super().__init__()
        at_least_one(dim=dim, heads=heads, dim_head=dim_head)
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm_x, self.norm_queries = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.q_norm = nn.LayerNorm(inner) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(inner) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, queries: Tensor, mask: Tensor | None = None) -> Tensor:
        queries = self.norm_queries(queries)
        k, v = self.to_kv(torch.cat([self.norm_x(x), queries], 1)).chunk(2, 2)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), queries.shape[1])], 1)[:, None]
        return self.to_out(attend(self.q_norm(self.to_q(queries)), self.k_norm(k), v, self.heads, self.scale, mask))


class PerceiverResampler(nn.Module):
    """Pictures of any number of patches, and clips of any number of frames, as ``num_latents`` tokens each.

    Latent queries, the same for all, read the patches of all frames of one picture or clip. With ``extra_query`` there
    is one more, at index 0, whose output CosMo contrasts with the text, while the others are what the language model
    sees: no gradient of one task reaches the other's output, but both share all the weights here.

    Each layer is ``latents + attention(patches, latents)``, then ``latents + feed_forward(latents)``; a layer norm at
    the end.

    Args:
        dim: D of patches and tokens.
        depth: layers; 6, the official code's.
        num_latents: n, tokens a picture; 64, the official code's.
        extra_query: whether there is one more, for contrast.
        heads, dim_head: of the attention; 8 of 64.
        ff_mult: how much wider the feed-forward layer is inside; 4.
        qk_norm: see :class:`PerceiverAttention`.

    Shapes:
        (B, T, F, v, D), T pictures of F frames of v patches, to (B, T, n + 1, D), or (B, T, n, D) without the extra.
        Pictures do not see each other. The order of patches means nothing here: where they lie must be in them, as it
        is in what a vision transformer puts out.

    Raises:
        ValueError: on another shape, or options that are not above 0.

    Reference: arXiv 2401.00849; official code: showlab/cosmo. Without the extra query it is Flamingo's (arXiv
    2204.14198).
    """

    def __init__(
        self,
        dim: int,
        depth: int = 6,
        num_latents: int = 64,
        extra_query: bool = True,
        heads: int = 8,
        dim_head: int = 64,
        ff_mult: int = 4,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        at_least_one(dim=dim, depth=depth, num_latents=num_latents, ff_mult=ff_mult)
        self.dim, self.extra_query = dim, extra_query
        self.latents = nn.Parameter(torch.randn(num_latents + extra_query, dim))
        self.attentions = nn.ModuleList(PerceiverAttention(dim, heads, dim_head, qk_norm) for _ in range(depth))
        self.feed_forwards = nn.ModuleList(feed_forward(dim, dim * ff_mult) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[4] != self.dim or not x.numel():
            raise ValueError(f"x: expected (B, T, F, v, {self.dim}), got {tuple(x.shape)}")
        patches = x.flatten(2, 3).flatten(0, 1)
        latents = self.latents.to(x.dtype).expand(len(patches), -1, -1)
        for attention, forward in zip(self.attentions, self.feed_forwards, strict=True):
            latents = latents + attention(patches, latents)
            latents = latents + forward(latents)
        return self.norm(latents).unflatten(0, x.shape[:2])


class QueryPool(nn.Module):
    """One learned query reads a text and becomes its vector: CosMo's text fusion layer.

    ``q + attention(hidden, q)``, then ``+ feed_forward``, then a layer norm that has a gain and no bias.

    Args:
        dim: D.
        heads, dim_head, ff_mult, qk_norm: as for :class:`PerceiverResampler`.

    Shapes:
        ``pool(hidden, mask)``: (B, L, D) to (B, D); mask (B, L), true where a word counts. Without a mask all positions
        count, padding included, which is what the official code does: the vector of a text then depends on how long
        the longest of its batch is.

    Raises:
        ValueError: on another shape, or a mask of another one.
    """

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 64, ff_mult: int = 4, qk_norm: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attention = PerceiverAttention(dim, heads, dim_head, qk_norm)
        self.feed_forward = feed_forward(dim, dim * ff_mult)
        self.norm = nn.LayerNorm(dim, bias=False)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[2] != self.dim or not hidden.numel():
            raise ValueError(f"hidden: expected (B, L, {self.dim}), got {tuple(hidden.shape)}")
        if mask is not None and mask.shape != hidden.shape[:2]:
            raise ValueError(f"mask: expected {tuple(hidden.shape[:2])} as hidden, got {tuple(mask.shape)}")
        query = self.query.to(hidden.dtype).expand(len(hidden), 1, -1)
        query = query + self.attention(hidden, query, None if mask is None else mask.bool())
        query = query + self.feed_forward(query)
        return self.norm(query)[:, 0]
