"""A head that is trained on texts and used on images (CLOSE), and what it reads: soft tokens, means of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.adapters import Adapter, GaussianNoiseAdapter
from counterpoint.objectives.inputs import embeddings, normalize


class EmbeddingToTokens(nn.Module):
    """A vector as soft tokens that a language model reads before its words: one linear layer, reshaped.

    Args:
        dim: D of the vector.
        width: of the language model's word vectors.
        tokens: how many are made of each vector; 4, the official code's.
        constants: learned tokens before them, the same for every vector and zero at first; none, the official default.

    Shapes:
        (B, D) to (B, constants + tokens, width).
    """

    def __init__(self, dim: int, width: int, tokens: int = 4, constants: int = 0) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("tokens", tokens), ("constants", constants + 1)):
            if value < 1:
                least = int(name != "constants")
                raise ValueError(f"{name}: expected at least {least}, got {value - 1 + least}")
        self.tokens, self.width = tokens, width
        self.linear = nn.Linear(dim, tokens * width)
        self.constants = nn.Parameter(torch.zeros(constants, width)) if constants else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.linear.in_features:
            raise ValueError(f"x: expected (B, {self.linear.in_features}), got {tuple(x.shape)}")
        made: Tensor = self.linear(x).unflatten(1, (self.tokens, self.width))
        if self.constants is None:
            return made
        return torch.cat([self.constants.expand(len(x), -1, -1).to(made), made], 1)


def before_words(tokens: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Soft tokens (B, S, W) followed by embedded words (B, L, W), and the mask (B, S + L) of what is no padding.

    Args:
        tokens: all of them count.
        words: as a language model embeds them.
        mask: (B, L), 1 or true where a word counts.

    Raises:
        ValueError: shapes that do not match.
    """
    if words.shape[:1] + words.shape[2:] != tokens.shape[:1] + tokens.shape[2:] or mask.shape != words.shape[:2]:
        raise ValueError(
            f"words, mask: expected (B, L, W) and (B, L) beside tokens {tuple(tokens.shape)}, got "
            f"{tuple(words.shape)} and {tuple(mask.shape)}"
        )
    return torch.cat([tokens, words], 1), torch.cat([mask.new_ones(tokens.shape[:2]), mask], 1)


def mean_of_texts(vectors: Tensor, owner: Tensor, items: int | None = None) -> Tensor:
    """One vector an item where it has several texts: the mean of the raw vectors, which the adapter then normalises.

    Args:
        vectors: (M, D), raw.
        owner: (M,), the item that each belongs to, from 0, in any order; the official code needs them item by item.
        items: B; by default up to the last owner.

    Returns:
        (B, D).

    Raises:
        ValueError: owners that are no (M,) integers from 0 to B - 1, or an item without a text.
    """
    if owner.shape != vectors.shape[:1] or owner.is_floating_point() or not len(owner):
        raise ValueError(f"owner: expected ({len(vectors)},) integers, got {tuple(owner.shape)} {owner.dtype}")
    count = int(owner.max()) + 1 if items is None else items
    if int(owner.min()) < 0 or int(owner.max()) >= count:
        raise ValueError(f"owner: expected 0 to {count - 1}, got {int(owner.min())} to {int(owner.max())}")
    sizes = torch.bincount(owner, minlength=count)
    if not bool(sizes.all()):
        raise ValueError(f"owner: {int((sizes == 0).sum())} of {count} items have no text")
    total = vectors.new_zeros(count, vectors.shape[1]).index_add(0, owner, vectors)
    return total / sizes[:, None].to(total)


class CrossModalTransfer(nn.Module):
    """A head that is trained on the vectors of texts and used on those of images (CLOSE).

    Args:
        text_encoder, image_encoder: into one space: (B, D), raw. They are frozen here: no gradient, and in evaluation
            mode whatever the mode of this module.
        adapter: of text vectors; ``None`` leaves them as they are.
        head: module on unit vectors (B, D): a classifier, a text generator, ...

    ``transfer(text=...)`` and ``transfer(image=...)`` give what the head gives; further arguments are handed to it.
    Whether the adapter's noise acts is decided by the mode of the module, as for dropout.

    Raises:
        ValueError: neither or both of text and image.

    Reference: arXiv 2211.09778.
    """

    def __init__(
        self, text_encoder: nn.Module, image_encoder: nn.Module, adapter: Adapter | None, head: nn.Module
    ) -> None:
        super().__init__()
        self.text_encoder, self.image_encoder = text_encoder, image_encoder
        self.adapter = GaussianNoiseAdapter(0.0) if adapter is None else adapter
        self.head = head
        for encoder in (text_encoder, image_encoder):
            encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> CrossModalTransfer:
        super().train(mode)
        self.text_encoder.eval()
        self.image_encoder.eval()
        return self

    def vectors(self, text: Any = None, image: Any = None) -> Tensor:
        """What the head is given: unit vectors (B, D) of images, or adapted ones of texts."""
        if (text is None) == (image is None):
            raise ValueError("text, image: expected one of the two")
        with torch.no_grad():
            if image is not None:
                (v,) = embeddings(image=self.image_encoder(image))
                return normalize(v)
            return self.adapter(self.text_encoder(text))

    def forward(self, *arguments: Any, text: Any = None, image: Any = None, **named: Any) -> Any:
        return self.head(self.vectors(text, image), *arguments, **named)
