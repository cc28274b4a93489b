"""CoCa: Contrastive Captioners are Image-Text Foundation Models (Yu et al., TMLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder, generate
from counterpoint.encoders.captioning import shifted
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._coca import CoCaModel
from counterpoint.methods.multimodal._figures import written_captions
from counterpoint.methods.multimodal._multimodal import LogitScale, View
from counterpoint.objectives import CoCaLoss


class CoCa(CoCaModel):
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
        super().__init__(
            encoder, views, recipe, dim, head, layout, n_queries, pool_width, depth, freeze, compat
        )  # fmt: skip
        self.objective = CoCaLoss(w_caption, w_contrastive, self.texts.tokenizer.pad, temperature)
        self.scale = LogitScale(1 / temperature, learn=learn_temperature and w_contrastive > 0)
        if not w_caption:
            self.projector.requires_grad_(False)
        if not w_contrastive:
            self.without_contrast()

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        images, texts, _ = self.whole_pairs(views[0], batch)
        if not self.everywhere(len(images), self.device):
            return self.nothing({})
        towers = self.encoder.towers
        seen, (ids, mask) = self.see(images), self.texts.tokenize(texts)
        vector, states = self.texts.backbone.both(ids, mask)
        given: dict[str, Tensor] = {}
        if self.objective.w_contrastive:
            given |= {"image": towers[self.image].head(seen.vector), "text": towers[self.written].head(vector)}
            if self.watching and len(images) > 1:
                self.watch_batch(given["image"], given["text"])
        if self.objective.w_caption:
            given |= {"logits": self.projector(states[:, :-1], seen.tokens), "labels": shifted(ids)[1]}
        return self.total(**self.objective.terms(**given, scale=self.scale()))

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
        training, text = self.training, self.texts
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
        states = self.texts.backbone.states(ids, torch.ones_like(ids, dtype=torch.bool))
        return self.projector.output(self.projector.hidden(states, tokens[rows])[:, -1])

    @torch.no_grad()
    def token_predictions(self, images: Tensor, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The most probable tokens (B, L - 1) of texts, the right ones so far shown, and the right ones."""
        ids, mask = self.texts.tokenize(texts)
        logits = self.projector(self.texts.backbone.states(ids, mask)[:, :-1], self.see(images).tokens)
        return logits.argmax(2), shifted(ids)[1]

    def write(self, batch: Mapping[str, Any]) -> list[str] | None:
        """Captions of a batch's images by beam search; ``None`` from a model that was trained without captions."""
        return self.generate(batch[self.image]) if self.objective.w_caption else None

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        found = list(super().findings(dataset, indices)) if self.objective.w_contrastive else []
        if self.objective.w_caption:
            found += written_captions(self, dataset, indices, self.image, self.written)
        return found
