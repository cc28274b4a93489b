"""A text decoder in two halves: one that reads the text alone, one that also sees the image (CoCa, Yu et al. 2022).

Since the first half sees no image, its last token is a vector of the text that contrastive learning can use; since it
is causal, one pass through both halves serves contrast and captioning. Layers are as in open_clip, since the paper
released no code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.encoders.attention import CrossBlock
from counterpoint.encoders.text import Block, TextTransformer


class UnimodalTextDecoder(TextTransformer):
    """A causal transformer over a text and, at its end, a learned token whose state is the vector of the text.

    Args:
        vocabulary, length, width, depth, heads, dropout, drop_path: see
            :class:`~counterpoint.encoders.TextTransformer`. ``depth`` is half of the paper's decoder (12 of 24 in its
            Base and Large sizes); ``length`` is without the token at the end, which has a place of its own (76 and 77
            in open_clip).
        compat: ``None``: the token at the end sees all tokens that are no padding, and itself. ``"open_clip"``: as its
            released models were trained, its mask shifted by one place. Behind a padded text of n tokens it then sees
            the first n + 1, one of them padding, and not itself.

    Shapes:
        ids (B, L) and mask (B, L), true where there is a token, by :meth:`both` to the vectors (B, W), normed, and the
        states of the tokens (B, L, W), not normed, which have not seen the token at the end. How much padding there is
        at the end changes neither. A text of padding alone is finite too: its first place counts as a token.

    Raises:
        ValueError: more than ``length`` tokens.

    Reference: arXiv 2205.01917, section 3.2.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        compat: str | None = None,
    ) -> None:
        super().__init__(vocabulary, length, width, depth, heads, True, dropout, drop_path)
        if compat not in (None, "open_clip"):
            raise ValueError(f"compat: expected None or 'open_clip', got {compat!r}")
        self.compat = compat
        self.last = nn.Parameter(torch.randn(width) * 0.02)  # its position included: it has but one

    def both(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors (B, W) and the states (B, L, W) of texts."""
        x = torch.cat([self.embedded(ids), self.last.expand(len(ids), 1, -1)], 1)
        own = torch.ones_like(mask[:, :1])
        seen = torch.cat([mask, own] if self.compat is None else [own, mask], 1)
        seen[:, 0] = True  # who sees nothing has no state
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x[:, -1]), x[:, :-1]

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The states (B, L, W): what the other half goes on from."""
        return self.both(ids, mask)[1]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.both(ids, mask)[0]


class MultimodalDecoder(nn.Module):
    """Goes on from the states of a text with the image in view, to the scores of each next word.

    A layer is a block of causal self-attention and one of cross-attention, each with an MLP, so two MLPs a layer.

    Args:
        vocabulary: V.
        width: W of the text's states.
        depth: layers; as many as the other half.
        heads: that share the width.
        context_dim: of the image tokens; W by default.
        dropout, drop_path: of the blocks of self-attention, see :class:`~counterpoint.encoders.text.Block`.

    Shapes:
        ``decoder(states, image_tokens)``: (B, L, W) and (B, n, context_dim) to logits (B, L, V), where those at t
        depend on the states up to t alone: they are of the word at t + 1. Padding at the end needs no mask.
        ``hidden`` gives the normed states (B, L, W) before the output; the last of a text is what CoCa fine-tunes on
        for questions about an image.

    Reference: arXiv 2205.01917, section 3.2.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        context_dim: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, True, dropout, drop_path) for _ in range(depth))
        self.cross = nn.ModuleList(CrossBlock(width, heads, context_dim) for _ in range(depth))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.output.weight, std=width**-0.5)

    def hidden(self, states: Tensor, image_tokens: Tensor) -> Tensor:
        """The states (B, L, W) just before the output layer."""
        if states.ndim != 3 or image_tokens.ndim != 3 or len(states) != len(image_tokens):
            raise ValueError(
                f"states, image_tokens: expected (B, L, W) and (B, n, C) of the same B, got {tuple(states.shape)} and "
                f"{tuple(image_tokens.shape)}"
            )
        for block, cross in zip(self.blocks, self.cross, strict=True):
            states = cross(block(states), image_tokens)
        return self.norm(states)

    def forward(self, states: Tensor, image_tokens: Tensor) -> Tensor:
        return self.output(self.hidden(states, image_tokens))


def shifted(ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it is to say: ``ids[:, :-1]`` and ``ids[:, 1:]`` of texts (B, L), L >= 2.

    The one place where texts are shifted: logits of the first belong to the second, place by place, and objectives
    shift nothing.

    Raises:
        ValueError: texts of fewer than two tokens.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise ValueError(f"ids: expected (B, L) with L >= 2, a token to read and one to say, got {tuple(ids.shape)}")
    return ids[:, :-1], ids[:, 1:]
