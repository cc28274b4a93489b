"""Text that looks at pictures through a gate that is closed at first (Flamingo; compressed in CosMo)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.encoders.resampler import at_least_one, attend, feed_forward


class GatedCrossAttention(nn.Module):
    """What goes before a block of a frozen language model, so that its words can see the pictures before them::

        h <- h + tanh(a) attention(norm(h), media)
        h <- h + tanh(f) feed_forward(h)

    Both gates are single numbers and 0 at first: the block then changes nothing, and the language model is as it was.

    A word sees the last picture before it (``only_immediate``), or all before it. Words before the first picture, and
    those whose picture is not there, attend to nothing: the attention adds 0 to them, in both modes. (The official code
    has that in the first alone; in the other a row with nothing to see becomes an even look at all pictures, those
    after it included.) The feed-forward part acts on every word, also of a text without pictures.

    Args:
        dim: D of the text.
        dim_visual: of the media tokens, which are not normalised here.
        heads, dim_head: before compression; 8 of 64, the official code's.
        compress_ratio: r; the inner width of attention and feed-forward is divided by it, the number of heads is not.
            2 in the released models, 1 in their baseline.
        only_immediate: see above. True, as released.
        ff_mult: how much wider the feed-forward layer is inside before compression; 4.
        qk_norm: layer norm of queries and keys over all heads together; off, as released.

    The scale of the inner products is ``dim_head ** -0.5`` of the width before compression, as in the official code.

    Shapes:
        ``block(h, media, media_locations)``: (B, L, D), (B, T, n, dim_visual) and (B, L) booleans, true at the tokens
        that stand for the pictures, in their order; to (B, L, D). A text may have fewer of them than T.

    Raises:
        ValueError: on shapes that do not match, or heads that do not divide the compressed width.

    Reference: arXiv 2401.00849; official code: showlab/cosmo.
    """

    def __init__(
        self,
        dim: int,
        dim_visual: int,
        heads: int = 8,
        dim_head: int = 64,
        compress_ratio: int = 2,
        only_immediate: bool = True,
        ff_mult: int = 4,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        at_least_one(dim=dim, dim_visual=dim_visual, heads=heads, dim_head=dim_head, compress_ratio=compress_ratio)
        inner = heads * dim_head // compress_ratio
        if inner < 1 or inner % heads:
            raise ValueError(
                f"compress_ratio: {heads} heads of {dim_head} divided by {compress_ratio} are {inner} dimensions, "
                f"which {heads} heads cannot share; take a ratio that divides {dim_head}"
            )
        self.dim, self.dim_visual = dim, dim_visual
        self.heads, self.scale, self.only_immediate = heads, dim_head**-0.5, only_immediate
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim_visual, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.q_norm = nn.LayerNorm(inner) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(inner) if qk_norm else nn.Identity()
        self.feed_forward = feed_forward(dim, max(1, dim * ff_mult // compress_ratio))
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, media: Tensor, media_locations: Tensor) -> Tensor:
        self._check(h, media, media_locations)
        h = h + self.attention_gate.tanh().to(h.dtype) * self._attend(h, media, media_locations)
        return h + self.feed_forward_gate.tanh().to(h.dtype) * self.feed_forward(h)

    def _attend(self, h: Tensor, media: Tensor, media_locations: Tensor) -> Tensor:
        visible = visible_media(media_locations, media.shape[1], self.only_immediate)
        sees = visible.any(2, keepdim=True)
        # a row with nothing to see is computed on everything, so that no softmax is empty, and then counts nothing
        mask = (visible | ~sees).repeat_interleave(media.shape[2], 2)
        k, v = self.to_kv(media.flatten(1, 2)).chunk(2, 2)
        q = self.q_norm(self.to_q(self.norm(h)))
        return self.to_out(attend(q, self.k_norm(k), v, self.heads, self.scale, mask) * sees)

    def _check(self, h: Tensor, media: Tensor, media_locations: Tensor) -> None:
        if h.ndim != 3 or h.shape[2] != self.dim or not h.numel():
            raise ValueError(f"h: expected (B, L, {self.dim}), got {tuple(h.shape)}")
        if media.ndim != 4 or media.shape[3] != self.dim_visual or len(media) != len(h) or not media.numel():
            raise ValueError(f"media: expected ({len(h)}, T, n, {self.dim_visual}), got {tuple(media.shape)}")
        if media_locations.shape != h.shape[:2] or media_locations.dtype != torch.bool:
            raise ValueError(
                f"media_locations: expected {tuple(h.shape[:2])} booleans, got {tuple(media_locations.shape)} "
                f"{media_locations.dtype}"
            )

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.dim_visual}, heads={self.heads}, only_immediate={self.only_immediate}"


def visible_media(media_locations: Tensor, pictures: int, only_immediate: bool = True) -> Tensor:
    """Which pictures each word may look at: (B, L, T) booleans.

    Args:
        media_locations: (B, L), true at the tokens that stand for the pictures.
        pictures: T.
        only_immediate: the last picture at or before a word; otherwise all of them.
    """
    passed = media_locations.cumsum(1)[:, :, None]
    numbers = torch.arange(1, pictures + 1, device=media_locations.device)
    return passed == numbers if only_immediate else passed >= numbers
