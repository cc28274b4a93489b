"""CoCa's model, which a method that captions and one that answers questions share: poolers, and a decoder in halves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from counterpoint.encoders import (
    MultimodalDecoder,
    MultimodalEncoder,
    Pooled,
    UnimodalTextDecoder,
    build_text_encoder,
    pool,
)
from counterpoint.encoders.text import TextTransformer
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import Multimodal, some_rows


class CoCaModel(Multimodal):
    """An image encoder behind poolers, a causal tower of texts, and a decoder that goes on from it with the image.

    A run of a CoCa goes on as a whole: as ``encoder`` it brings its decoder along.

    Args:
        encoder, views, recipe, dim, head, layout, n_queries, pool_width, depth, freeze, compat: see
            :class:`~counterpoint.methods.multimodal.coca.CoCa`.
    """

    continues: ClassVar[tuple[str, ...]] = ("coca", "coca_answers")
    projector: MultimodalDecoder

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any,
        recipe: Recipe | None,
        dim: int,
        head: str,
        layout: str,
        n_queries: int,
        pool_width: int | None,
        depth: int | None,
        freeze: str | Sequence[str],
        compat: str | None,
    ) -> None:
        names = encoder.named("image"), encoder.named("text")
        others = [name for name in encoder.towers if name not in names]
        if others:
            raise ValueError(f"modalities: CoCa takes an image and a text; leave out {', '.join(others)}")
        frozen = [freeze] if isinstance(freeze, str) else list(freeze)
        if not set(frozen) <= {names[0]}:
            raise ValueError(f"freeze: expected {names[0]!r}, the image's tower, alone, got {', '.join(frozen)}")
        image, text = (encoder.towers[name] for name in names)
        own = image.encoder, text.encoder
        if image.encoder.config["name"] != "pooled":
            image.encoder = pool(image.encoder, pool_width, None, n_queries, layout)
        if frozen or image.frozen:  # a tower is frozen as a whole, poolers too, so it is its encoder that is
            image.frozen = False
            image.encoder.backbone.encoder.freeze()
        text.encoder = _causal(text.encoder, compat)
        if (image.encoder, text.encoder) != own:
            encoder.dim = encoder.head = None  # heads are new where what is below them is
            if encoder.extra and text.encoder is not own[1]:
                warnings.warn(
                    f"{names[1]}: CoCa's tower of texts is causal, so the trained one is replaced", stacklevel=3
                )
        super().__init__(encoder, views, recipe, dim, head)
        self.image, self.written = names
        half: UnimodalTextDecoder = text.encoder.backbone
        block: Any = half.blocks[0]
        depth = len(half.blocks) if depth is None else depth
        self.projector = MultimodalDecoder(
            len(text.encoder.tokenizer), half.features, depth, block.heads, image.encoder.features, block.dropout,
            block.drop_path,
        )  # fmt: skip

    def without_contrast(self) -> None:
        """What only a contrast would train stays as it is, so that processes need not look for it."""
        self.contrasts = False
        image, text = (self.encoder.towers[name] for name in (self.image, self.written))
        pooler, half = image.encoder.backbone.pooler, text.encoder.backbone
        parts = [image.head, text.head, pooler.vector_norm, half.norm]
        for part in [*parts, *([] if pooler.contrastive is None else [pooler.contrastive])]:
            part.requires_grad_(False)
        half.last.requires_grad_(False)

    @property
    def texts(self) -> Any:
        """The encoder of texts."""
        return self.encoder.towers[self.written].encoder

    def see(self, images: Tensor) -> Pooled:
        """The vector (B, F) and the tokens (B, n, F) of images (B, C, H, W), or of clips (B, T, C, H, W) of T frames.

        They are uint8 or in [0, 1].
        """
        x = images if images.is_floating_point() else images.float() / 255
        encoder: Any = self.encoder.towers[self.image].encoder
        return encoder.backbone.pooled(x)

    def whole_pairs(self, view: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Tensor, list[Any], Tensor | None]:
        """Images (M, C, H, W) and texts of the items that have both, and which these are: bool (B,), ``None``: all."""
        images, texts = view[self.image], view[self.written]
        there = self.both(batch, self.image, self.written)
        if there is None or bool(there.all()):
            return images, texts, None
        rows = there.nonzero()[:, 0]
        return images[rows], some_rows(texts, rows), there


def _causal(text: Any, compat: str | None) -> Any:
    """The text's tower as the lower half of a decoder: as it is, or a new one of its size."""
    backbone: nn.Module = text.backbone
    if isinstance(backbone, UnimodalTextDecoder):
        return text
    if not isinstance(backbone, TextTransformer):
        raise ValueError(
            "encoders: CoCa trains the text's tower from scratch; expected a 'transformer', got "
            f"{text.config['name']!r}, a pretrained model that is not causal"
        )
    block: Any = backbone.blocks[0]
    return build_text_encoder(
        "unimodal", tokenizer=text.tokenizer, width=backbone.features, depth=len(backbone.blocks), heads=block.heads,
        dropout=block.dropout, drop_path=block.drop_path, compat=compat,
    )  # fmt: skip
