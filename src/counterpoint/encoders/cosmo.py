"""CosMo's model: a frozen language model that sees pictures, with a text and an image vector (arXiv 2401.00849).

The first blocks of the language model read text alone, and a vector of the text is taken from them. Before every second
of the others a gated block lets the words look at the pictures. Both halves of the contrast and the captioning are one
pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.generation import generate
from counterpoint.encoders.interleaved import VISUAL, Interleaved
from counterpoint.encoders.language_tower import LanguageTower
from counterpoint.encoders.multimodal import MultimodalEncoder, Tower
from counterpoint.encoders.resampler import PerceiverResampler


class ResampledTower(Tower):
    """An image encoder behind a :class:`PerceiverResampler`; the feature of an image is the extra query's output.

    Args:
        encoder: with ``tokens``.
        resampler: with the extra query.
    """

    def __init__(self, encoder: Any, resampler: PerceiverResampler) -> None:
        super().__init__(encoder)
        self.resampler = resampler

    def read(self, pictures: Tensor, there: Tensor | None = None) -> Tensor:
        """Tokens (B, T, n + 1, W) of pictures (B, T, C, H, W), or of clips (B, T, F, C, H, W).

        Args:
            pictures: uint8, or floating point in [0, 1].
            there: bool (B, T), which of them are; the others are not looked at, and have tokens of zeros.
        """
        if pictures.ndim not in (5, 6):
            raise ValueError(f"pictures: expected (B, T, C, H, W) or (B, T, F, C, H, W), got {tuple(pictures.shape)}")
        clips = pictures[:, :, None] if pictures.ndim == 5 else pictures
        there = torch.ones(clips.shape[:2], dtype=torch.bool, device=clips.device) if there is None else there
        some = clips[there]
        width = self.resampler.latents.shape
        if not len(some):
            return clips.new_zeros((*clips.shape[:2], *width), dtype=self.resampler.latents.dtype)
        frames = some.flatten(0, 1)
        frames = frames if frames.is_floating_point() else frames.float() / 255
        with torch.no_grad() if self.frozen else nullcontext():
            patches = self.encoder.tokens(frames)
        tokens = self.resampler(patches.unflatten(0, (1, len(some), -1)))[0]
        if bool(there.all()):
            return tokens.unflatten(0, clips.shape[:2])
        return tokens.new_zeros((*clips.shape[:2], *width)).masked_scatter(there[:, :, None, None], tokens)

    def features(self, x: Any) -> Tensor:
        """(B, W) of images (B, C, H, W)."""
        return self.read(x[:, None])[:, 0, 0]


class CosMoEncoder(MultimodalEncoder):
    """A vision encoder and a language model that are joined: vectors for contrast, and text about pictures.

    ``encoder(batch)`` gives ``{name: z (B, D)}`` as of any :class:`MultimodalEncoder`; :meth:`read_and_write` both
    halves for documents; :meth:`generate` writes.

    Args:
        encoder: of which the first image and the first text tower are taken.
        num_latents: n of the resampler; 16 and ``resampler_depth`` 2, heads 4 of 32 are ours, for small images on a
            processor. The official code has 64, 6 and 8 heads of 64.
        resampler_depth, heads, dim_head, qk_norm: see :class:`PerceiverResampler`.
        options: of :class:`LanguageTower`.

    Raises:
        ValueError: no image or no text tower, and as :class:`LanguageTower`.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        *,
        num_latents: int = 16,
        resampler_depth: int = 2,
        heads: int = 4,
        dim_head: int = 32,
        qk_norm: bool = False,
        **options: Any,
    ) -> None:
        image, text = encoder.named("image"), encoder.named("text")
        seeing, reading = encoder.towers[image], encoder.towers[text]
        width = int(seeing.encoder.features)
        shared: dict[str, Any] = {"heads": heads, "dim_head": dim_head, "qk_norm": qk_norm}
        resampler = PerceiverResampler(width, resampler_depth, num_latents, **shared)
        towers: dict[str, Tower] = {
            image: ResampledTower(seeing.encoder, resampler),
            text: LanguageTower(reading.encoder, width, **shared, **options),
        }
        super().__init__({name: tower.encoder for name, tower in towers.items()})
        self.image, self.text, self.towers = image, text, nn.ModuleDict(towers)
        for name in towers:
            if encoder.towers[name].frozen:
                towers[name].freeze()
        self.options = {"num_latents": num_latents, "resampler_depth": resampler_depth, **shared, **options}

    @property
    def config(self) -> dict[str, Any]:
        """What makes it again."""
        return {**super().config, "model": {"name": "cosmo", "options": self.options}}

    @property
    def seeing(self) -> ResampledTower:
        """The tower of images."""
        return self.towers[self.image]

    @property
    def language(self) -> LanguageTower:
        """The tower of texts."""
        return self.towers[self.text]

    def read_and_write(
        self, documents: Interleaved, pictures: Tensor, there: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Both halves in one pass.

        Args:
            documents: of B, see :class:`Interleaved`.
            pictures: (B, T, C, H, W), or (B, T, F, C, H, W) of clips.
            there: bool (B, T), which of them are; by default, as many as the documents have slots.

        Returns:
            ``logits`` (B, L, V); ``text`` and ``image`` (B, D), raw: of the text, and the mean over its pictures.
        """
        if there is None:
            there = torch.arange(pictures.shape[1], device=pictures.device) < documents.pictures[:, None]
        tokens = self.seeing.read(pictures, there)
        language, mask = self.language, documents.attention_mask
        logits, hidden = language.write(documents.input_ids, mask, tokens[:, :, 1:], documents.media_locations)
        count = there.sum(1, keepdim=True).clamp(min=1)
        image = tokens[:, :, 0].sum(1) / count  # those that are not there are zeros
        return {
            "logits": logits,
            "text": language.head(language.pooled(hidden, mask)),
            "image": self.seeing.head(image),
        }

    @torch.no_grad()
    def generate(
        self,
        pictures: Tensor,
        prompts: Sequence[str] | None = None,
        *,
        length: int | None = None,
        batch_size: int = 128,
        **how: Any,
    ) -> list[str]:
        """Write about pictures.

        Args:
            pictures: (N, C, H, W), one for each prompt; or (N, T, C, H, W), or clips (N, T, F, C, H, W).
            prompts: N documents whose last chunk is open: ``"<visual> a seven <visual> a two <visual>"`` shows two
                examples and asks for the third; see :func:`~counterpoint.encoders.interleaved.few_shot`. By default
                ``"<visual>"``: a caption, without examples.
            length: tokens that are added at most; 32, or as many as find a place.
            batch_size: prompts at a time.
            how: ``strategy`` and what belongs to it, see :func:`~counterpoint.encoders.generate`.

        Returns:
            N strings, what was added.

        Raises:
            ValueError: another number of prompts than pictures, a prompt with more slots than pictures, or one that
                leaves no place for ``length`` tokens.
        """
        pictures = pictures[:, None] if pictures.ndim == 4 else pictures
        prompts = [VISUAL] * len(pictures) if prompts is None else list(prompts)
        if len(prompts) != len(pictures):
            raise ValueError(f"prompts: expected {len(pictures)} as there are pictures, got {len(prompts)}")
        training = self.training
        self.eval()
        try:
            found: list[str] = []
            for at in range(0, len(prompts), batch_size):
                part = slice(at, at + batch_size)
                found += self._generated(pictures[part], prompts[part], length, how)
            return found
        finally:
            self.train(training)

    def _generated(self, pictures: Tensor, prompts: list[str], length: int | None, how: dict[str, Any]) -> list[str]:
        language = self.language
        tokenizer, start = language.encoder.tokenizer, language.documents(prompts, complete=False)
        pictures = pictures.to(start.input_ids.device)
        if int(start.pictures.max()) > pictures.shape[1]:
            raise ValueError(
                f"prompts: one of them has {int(start.pictures.max())} pictures, and {pictures.shape[1]} are given"
            )
        width = start.input_ids.shape[1]
        length = min(32, language.length - width) if length is None else length
        if length < 1 or width + length > language.length:
            raise ValueError(
                f"length: {max(1, length)} tokens find no place behind a prompt of {width}; the model has "
                f"{language.length} in all"
            )
        there = torch.arange(pictures.shape[1], device=pictures.device) < start.pictures[:, None]
        media = self.seeing.read(pictures, there)[:, :, 1:]
        left = (~start.attention_mask).sum(1)  # padding goes in front, so that what is added stands behind the prompt
        places = torch.arange(width, device=left.device)
        ids = start.input_ids.gather(1, (places - left[:, None]) % width)

        def next_token(texts: Tensor, rows: Tensor) -> Tensor:
            total, skipped = texts.shape[1], left[rows]
            at = torch.arange(total, device=texts.device)
            moved = texts.gather(1, (at + skipped[:, None]) % total)
            mask = at < (total - skipped)[:, None]
            logits = language.write(moved, mask, media[rows])[0]
            return logits[torch.arange(len(texts), device=texts.device), total - skipped - 1]

        made = generate(
            next_token,
            ids,
            length=length,
            end=language.end_of_chunk,
            pad=tokenizer.pad,
            forbidden=[token for token in {language.visual, tokenizer.bos, tokenizer.eos} if token != tokenizer.pad],
            **how,
        )
        rows = made[:, width:].tolist()
        ended = [row[: row.index(language.end_of_chunk)] if language.end_of_chunk in row else row for row in rows]
        return [text.strip() for text in tokenizer.decode(ended)]
