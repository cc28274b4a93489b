"""CoCa: Contrastive Captioners are Image-Text Foundation Models (Yu et al., TMLR 2022)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import (
    MultimodalDecoder,
    MultimodalEncoder,
    Pooled,
    UnimodalTextDecoder,
    build_text_encoder,
    generate,
    pool,
)
from counterpoint.encoders.captioning import shifted
from counterpoint.encoders.text import TextTransformer
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._figures import written_captions
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.objectives import CoCaLoss
from counterpoint.pairwise import gather_labels


class CoCa(Multimodal):
    """Contrast and captioning in one pass: the lower half of a text decoder embeds the text, the upper half writes it.

    The image encoder's tokens go through two attentional poolers: n of them to the decoder, and of those one vector
    that is contrasted with the text's, the state of a token at its end. The text's tower is causal, so the same states
    serve both losses, and it sees no image, so its vectors can be told from those of other images.

    Args:
        encoder: towers of one image and one text modality. The image's is read through poolers; one that has some
            already (``"pooled"``) stays. The text's, a ``"transformer"``, is made anew as a causal one of the same
            size with the same vocabulary, with a warning if it was trained; one that is causal already
            (``"unimodal"``) stays. Where a tower is new, so are the heads.
        views, recipe, dim, head: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        w_caption: weight of the captions; 2, the paper's. 0 trains by contrast alone.
        w_contrastive: weight of the contrast; 1. 0 trains by captions alone, as in fine-tuning for captioning.
        layout: of the poolers: ``"cascade"``, the paper's, ``"parallel"`` or ``"shared"``; see
            :class:`~counterpoint.encoders.CascadePooler`.
        n_queries: n, image tokens for the decoder; 16 here, a quarter of a small image's places. The paper has 256 for
            256 patches.
        pool_width: of the poolers' output; by default that of the image encoder's tokens.
        depth: layers of the upper half; by default as many as the lower half has, as in the paper.
        freeze: the name of the image's tower: its encoder stays as it is, and only the poolers on it learn, the
            paper's way of adapting a frozen encoder.
        temperature: where the learned one starts, 0.07.
        learn_temperature: ``False`` keeps it.
        compat: ``None``, or ``"open_clip"`` for the shifted mask of its released models, see
            :class:`~counterpoint.encoders.UnimodalTextDecoder`. It holds for a text tower that is made here.

    Logged at each step: ``contrastive`` and ``caption``, the weighted terms.

    :meth:`generate` writes captions of images; a run's scores say how good they are.

    Raises:
        ValueError: no image or no text modality, further ones, a text tower that is not trained from scratch, and as
            :class:`~counterpoint.objectives.CoCaLoss` and :class:`~counterpoint.encoders.CascadePooler`.

    Reference: arXiv 2205.01917. The paper released no code; layers are as in open_clip's re-implementation, which is
    what golden figures compare with.
    """

    projector: MultimodalDecoder

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        w_caption: float = 2.0,
        w_contrastive: float = 1.0,
        layout: str = "cascade",
        n_queries: int = 16,
        pool_width: int | None = None,
        depth: int | None = None,
        freeze: str | Sequence[str] = (),
        temperature: float = 0.07,
        learn_temperature: bool = True,
        compat: str | None = None,
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
                    f"{names[1]}: CoCa's tower of texts is causal, so the trained one is replaced", stacklevel=2
                )
        super().__init__(encoder, views, recipe, dim, head)
        self.image, self.written = names
        half: UnimodalTextDecoder = text.encoder.backbone
        block: Any = half.blocks[0]
        tokenizer, depth = text.encoder.tokenizer, len(half.blocks) if depth is None else depth
        self.projector = MultimodalDecoder(
            len(tokenizer), half.features, depth, block.heads, image.encoder.features, block.dropout, block.drop_path
        )
        self.objective = CoCaLoss(w_caption, w_contrastive, tokenizer.pad, temperature)
        self.scale = LogitScale(1 / temperature, learn=learn_temperature and w_contrastive > 0)
        if not w_caption:
            self.projector.requires_grad_(False)
        if not w_contrastive:
            self._idle(image, text)

    @staticmethod
    def _idle(image: Any, text: Any) -> None:
        """What only the contrast would train stays as it is, so that processes need not look for it."""
        pooler, half = image.encoder.backbone.pooler, text.encoder.backbone
        parts = [image.head, text.head, pooler.vector_norm, half.norm]
        for part in [*parts, *([] if pooler.contrastive is None else [pooler.contrastive])]:
            part.requires_grad_(False)
        half.last.requires_grad_(False)

    def see(self, images: Tensor) -> Pooled:
        """The vector (B, F) and the tokens (B, n, F) of images, uint8 or in [0, 1]."""
        x = images if images.is_floating_point() else images.float() / 255
        encoder: Any = self.encoder.towers[self.image].encoder
        return encoder.backbone.pooled(x)

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        images, texts = self._pairs(views[0], batch)
        if not self._any(images):
            return self.nothing({})
        towers = self.encoder.towers
        seen, (ids, mask) = self.see(images), towers[self.written].encoder.tokenize(texts)
        vector, states = towers[self.written].encoder.backbone.both(ids, mask)
        given: dict[str, Tensor] = {}
        if self.objective.w_contrastive:
            given |= {"image": towers[self.image].head(seen.vector), "text": towers[self.written].head(vector)}
            if self.watching and len(images) > 1:
                self.watch_batch(given["image"], given["text"])
        if self.objective.w_caption:
            given |= {"logits": self.projector(states[:, :-1], seen.tokens), "labels": shifted(ids)[1]}
        return self.total(**self.objective.terms(**given, scale=self.scale()))

    def _pairs(self, view: View, batch: Mapping[str, Any]) -> tuple[Tensor, list[Any]]:
        """Images (M, C, H, W) and texts of the items that have both."""
        images, texts = view[self.image], view[self.written]
        there = self.both(batch, self.image, self.written)
        if there is None or bool(there.all()):
            return images, texts
        return images[there], [text for text, has in zip(texts, there.tolist(), strict=True) if has]

    @staticmethod
    def _any(images: Tensor) -> bool:
        """Whether there are pairs, on each of several processes: all come to the same answer."""
        counts = gather_labels(torch.tensor([len(images)], device=images.device))
        return counts is not None and bool(counts.min() > 0)

    def after_step(self) -> None:
        self.scale.clamp()

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        strategy: str = "beam",
        length: int | None = None,
        batch_size: int = 128,
        **options: Any,
    ) -> list[str]:
        """Captions of images, in evaluation mode and batches; the mode it was in is restored.

        Args:
            images: (N, C, H, W) uint8, or floats in [0, 1].
            strategy: ``"beam"``, with 6 beams unless told otherwise, as open_clip; ``"greedy"`` or ``"sample"``.
            length: tokens at most, the end included; by default what the text tower takes.
            batch_size: images at a time.
            options: see :func:`~counterpoint.encoders.generate`.

        Raises:
            ValueError: a model that was trained without captions, and as :func:`~counterpoint.encoders.generate`.
        """
        if not self.objective.w_caption:
            raise ValueError("w_caption: this model was trained without captions, with a weight of 0; it cannot write")
        training, text = self.training, self.encoder.towers[self.written].encoder
        tokenizer, most = text.tokenizer, text.backbone.length - 1
        special = {tokenizer.bos, tokenizer.unk, tokenizer.mask} - {tokenizer.pad, tokenizer.eos}
        how = {"end": tokenizer.eos, "pad": tokenizer.pad, "forbidden": sorted(special), **options}
        self.eval()
        try:
            written: list[str] = []
            for part in images.split(batch_size):
                tokens = self.see(part.to(self.device)).tokens
                start = torch.full((len(part), 1), tokenizer.bos, device=self.device)
                write, longest = partial(self._next, tokens), min(length or most, most)
                written += tokenizer.decode(generate(write, start, length=longest, strategy=strategy, **how))
            return written
        finally:
            self.train(training)

    def _next(self, tokens: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """Logits (M, V) of the token after texts (M, T) about the images of these rows."""
        half: Any = self.encoder.towers[self.written].encoder.backbone
        states = half.states(ids, torch.ones_like(ids, dtype=torch.bool))
        return self.projector.output(self.projector.hidden(states, tokens[rows])[:, -1])

    @torch.no_grad()
    def token_predictions(self, images: Tensor, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The most probable tokens (B, L - 1) of texts, the right ones so far shown, and the right ones."""
        text: Any = self.encoder.towers[self.written].encoder
        ids, mask = text.tokenize(texts)
        logits = self.projector(text.backbone.states(ids, mask)[:, :-1], self.see(images).tokens)
        return logits.argmax(2), shifted(ids)[1]

    def write(self, batch: Mapping[str, Any]) -> list[str] | None:
        """Captions of a batch's images by beam search; ``None`` from a model that was trained without captions."""
        return self.generate(batch[self.image]) if self.objective.w_caption else None

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        found = list(super().findings(dataset, indices)) if self.objective.w_contrastive else []
        if self.objective.w_caption:
            found += written_captions(self, dataset, indices, self.image, self.written)
        return found


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
