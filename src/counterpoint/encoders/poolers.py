"""Attentional poolers: learned questions to the tokens of an encoder (CoCa, Yu et al., TMLR 2022)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.encoders.attention import Attention
from counterpoint.encoders.encoder import Encoder

LAYOUTS = ("cascade", "parallel", "shared")


class AttentionalPooler(nn.Module):
    """n learned queries read any number of tokens: one layer of cross-attention.

    ``Attention(norm queries, norm tokens)``, no residual and no norm behind it. With one query it is a pooling whose
    weights are learned; with several, a summary of fixed length. A new one on a frozen encoder is how CoCa adapts to a
    task.

    Args:
        dim: D of what comes out.
        context_dim: C of the tokens; D by default.
        heads: 8, open_clip's.
        n_queries: n; 256 is CoCa's for captioning, 1 for contrast.

    Shapes:
        ``pooler(tokens, mask)``: (B, N, C), and (B, N) true where a token is one (default all), to (B, n, D). Tokens of
        several frames may be put one after the other, as CoCa does for video.

    Raises:
        ValueError: tokens of another shape, heads that do not divide D, a mask that leaves an item no token.

    Reference: arXiv 2205.01917, section 3.2; layer and norms as in open_clip, since the paper released no code.
    """

    def __init__(self, dim: int, context_dim: int | None = None, heads: int = 8, n_queries: int = 256) -> None:
        super().__init__()
        if n_queries < 1:
            raise ValueError(f"n_queries: expected at least 1, got {n_queries}")
        self.context_dim = context_dim or dim
        self.queries = nn.Parameter(torch.randn(n_queries, dim))
        self.query_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(self.context_dim)
        self.attention = Attention(dim, heads, self.context_dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if tokens.ndim != 3 or tokens.shape[2] != self.context_dim or not tokens.shape[1]:
            raise ValueError(f"tokens: expected (B, N, {self.context_dim}) with N >= 1, got {tuple(tokens.shape)}")
        if mask is not None and (mask.shape != tokens.shape[:2] or not bool(mask.any(1).all())):
            raise ValueError(f"mask: expected {tuple(tokens.shape[:2])}, true at least once in each row")
        queries = self.query_norm(self.queries).expand(len(tokens), -1, -1)
        return self.attention(queries, self.norm(tokens), mask)


class Pooled(NamedTuple):
    """What two poolers make of an image: ``vector`` (B, D) for contrast, ``tokens`` (B, n, D) for a decoder."""

    vector: Tensor
    tokens: Tensor


class CascadePooler(nn.Module):
    """A vector for contrast and n tokens for captioning from the same encoder, each with a norm behind it.

    Args:
        dim, context_dim, heads: see :class:`AttentionalPooler`.
        n_queries: n, tokens for the decoder; 256, the paper's.
        layout: how the two hang together.

            - ``"cascade"``, the paper's: the contrastive pooler, of one query, reads the n tokens of the other;
            - ``"parallel"``: each reads the encoder's tokens;
            - ``"shared"``: one pooler of n + 1 queries, the first of which is the vector. Re-implementations have this:
              lucidrains' with n = 256, open_clip's with n = 255.

    Shapes:
        ``pooler(tokens, mask)``: (B, N, C) to :class:`Pooled`.

    Raises:
        ValueError: an unknown layout, and as :class:`AttentionalPooler`.

    Reference: arXiv 2205.01917, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        n_queries: int = 256,
        layout: str = "cascade",
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
        self.layout = layout
        self.generative = AttentionalPooler(dim, context_dim, heads, n_queries + (layout == "shared"))
        self.contrastive = None
        if layout != "shared":
            self.contrastive = AttentionalPooler(dim, dim if layout == "cascade" else context_dim, heads, 1)
        self.vector_norm, self.token_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Pooled:
        found = self.generative(tokens, mask)
        if self.contrastive is None:
            return Pooled(self.vector_norm(found[:, 0]), self.token_norm(found[:, 1:]))
        found = self.token_norm(found)
        vector = self.contrastive(found) if self.layout == "cascade" else self.contrastive(tokens, mask)
        return Pooled(self.vector_norm(vector[:, 0]), found)


def tokens_of(encoder: Encoder, x: Tensor) -> Tensor:
    """The tokens (B, N, C) of images (B, C, H, W), or (B, T * N, C) of clips (B, T, C, H, W), frame after frame."""
    if x.ndim == 5:
        return encoder.tokens(x.flatten(0, 1)).unflatten(0, x.shape[:2]).flatten(1, 2)
    return encoder.tokens(x)


class PooledBackbone(nn.Module):
    """An encoder of images behind two poolers, as a backbone whose features are the vector for contrast.

    Args:
        encoder: an :class:`~counterpoint.encoders.Encoder` with ``tokens``.
        width, heads, n_queries, layout: see :class:`CascadePooler`. By default as wide as the tokens, with up to 8
            heads.

    Shapes:
        (B, C, H, W) to (B, width); ``pooled`` gives a :class:`Pooled`.
    """

    def __init__(
        self,
        encoder: Encoder,
        width: int | None = None,
        heads: int | None = None,
        n_queries: int = 256,
        layout: str = "cascade",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        training = encoder.training
        with torch.no_grad():  # only the tokens know how wide they are
            given = encoder.eval().tokens(torch.zeros(1, *encoder.shape)).shape[2]
        encoder.train(training)
        self.features = width or given
        heads = math.gcd(8, self.features) if heads is None else heads
        self.pooler = CascadePooler(self.features, given, heads, n_queries, layout)

    def pooled(self, x: Tensor) -> Pooled:
        """The vector (B, width) and the tokens (B, n, width) of images, or of clips (B, T, C, H, W) of T frames.

        Frames are encoded one by one, and their tokens pooled together: in what order they come is not seen.
        """
        return self.pooler(tokens_of(self.encoder, x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens (B, n, width): what a decoder reads."""
        return self.pooled(x).tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(x).vector


def pool(
    encoder: Encoder,
    width: int | None = None,
    heads: int | None = None,
    n_queries: int = 256,
    layout: str = "cascade",
) -> Encoder:
    """An encoder of images behind two poolers, itself an encoder that is saved and opened like any other.

    Args:
        encoder: whose tokens are read, as trained as it is.
        width, heads, n_queries, layout: see :class:`PooledBackbone`.

    Raises:
        ValueError: an encoder of something else than images, and as :class:`CascadePooler`.
    """
    if encoder.modality != "image":
        raise ValueError(f"encoder: expected one of images, which has tokens, got one of {encoder.modality}s")
    backbone = PooledBackbone(encoder, width, heads, n_queries, layout)
    heads = backbone.pooler.generative.attention.heads
    of = {name: encoder.config[name] for name in ("name", "arguments")}
    arguments = {"of": of, "width": backbone.features, "heads": heads, "n_queries": n_queries, "layout": layout}
    config = {"name": "pooled", "shape": list(encoder.shape), "modality": "image", "arguments": arguments}
    return Encoder(backbone, config, backbone.features)
