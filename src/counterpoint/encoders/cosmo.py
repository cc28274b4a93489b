"""CosMo's model: a frozen language model that sees pictures, with a text and an image vector (arXiv 2401.00849).

The first blocks of the language model read text alone, and a vector of the text is taken from them. Before every second
of the others a gated block lets the words look at the pictures. Both halves of the contrast and the captioning are one
pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.gated_attention import GatedCrossAttention
from counterpoint.encoders.generation import generate
from counterpoint.encoders.interleaved import END_OF_CHUNK, VISUAL, Interleaved, InterleavedCollator
from counterpoint.encoders.multimodal import MultimodalEncoder, Tower
from counterpoint.encoders.resampler import PerceiverResampler, QueryPool
from counterpoint.encoders.text import HuggingFaceText, TextEncoder, TextTransformer
from counterpoint.encoders.tokenizer import Tokenizer


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


class LanguageTower(Tower):
    """A causal language model whose later blocks look at pictures, and the vector of its text.

    The blocks are those of the encoder, left as they are; the gated ones act between them.

    Args:
        encoder: a text encoder with a transformer of ours, which is made causal, or a causal model of Hugging Face that
            shares the weights of its first and its last layer.
        dim_visual: of the pictures' tokens.
        unimodal_depth: blocks that see text alone; 12 of 24 in the released 2B model, ``None``: half of them.
        interval: a gated block before every so many of the others; 2, the released one's (its baseline: 1).
        compress_ratio, only_immediate, heads, dim_head, qk_norm: see :class:`GatedCrossAttention`.
        length, images: of documents, see :class:`InterleavedCollator`.
        compat: ``"official"`` takes the text vector one block earlier, as the official code does, whose hidden state
            0 is the one before all blocks, and lets it read padding too.

    Raises:
        ValueError: fewer than two blocks, a depth that leaves none, a model of Hugging Face that is not causal, does
            not share these weights or has fewer places than ``length``.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        dim_visual: int,
        *,
        unimodal_depth: int | None = None,
        interval: int = 2,
        compress_ratio: int = 2,
        only_immediate: bool = True,
        heads: int = 4,
        dim_head: int = 32,
        qk_norm: bool = False,
        length: int = 128,
        images: int = 3,
        compat: str | None = None,
    ) -> None:
        prepared(encoder, length)
        super().__init__(encoder)
        blocks, width = blocks_of(encoder.backbone), encoder.features
        depth = max(1, len(blocks) // 2) if unimodal_depth is None else unimodal_depth
        if not 1 <= depth < len(blocks):
            raise ValueError(
                f"unimodal_depth: expected 1 to {len(blocks) - 1} of the {len(blocks)} blocks of the language model, "
                f"got {depth}"
            )
        if interval < 1:
            raise ValueError(f"interval: expected at least 1, got {interval}")
        if compat not in (None, "official"):
            raise ValueError(f"compat: expected 'official' or nothing, got {compat!r}")
        self.official = compat == "official"
        self.depth, self.length = depth, length
        self.gated = nn.ModuleDict(
            {
                str(at): GatedCrossAttention(
                    width, dim_visual, heads, dim_head, compress_ratio, only_immediate, qk_norm=qk_norm
                )
                for at in range(depth, len(blocks), interval)
            }
        )
        self.pool = QueryPool(width, heads, dim_head, qk_norm=qk_norm)
        tokenizer = encoder.tokenizer
        self.visual, self.end_of_chunk = tokenizer.id_of(VISUAL), tokenizer.id_of(END_OF_CHUNK)
        self.collator = InterleavedCollator(
            lambda text: tokenizer.backend.encode(text, add_special_tokens=False).ids,
            visual=self.visual,
            end_of_chunk=self.end_of_chunk,
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            length=length,
            images=images,
        )

    def documents(self, documents: Sequence[str], complete: bool = True) -> Interleaved:
        """Documents as tokens, where the weights are."""
        made = self.collator(documents, complete)
        return Interleaved(*(x.to(self.encoder.device) for x in made))

    def write(
        self, ids: Tensor, mask: Tensor, media: Tensor | None = None, locations: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) of each next token, and the hidden states (B, L, W) that the text vector is taken from.

        Args:
            ids, mask: (B, L), see :class:`Interleaved`.
            media: (B, T, n, dim_visual) of the pictures; without it the language model is as it would be alone.
            locations: bool (B, L), where ``<visual>`` stands; from the ids by default.
        """
        locations = (ids == self.visual) & mask if locations is None else locations
        with self._between(media, locations) as kept:
            states = self.encoder.backbone.states(ids, mask)
        return states @ output_weight(self.encoder.backbone).T.to(states.dtype), kept["hidden"]

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The hidden states (B, L, W) that the text vector is taken from; later blocks are not run."""
        with self._between(None, mask, stop=True) as kept, suppress(_Enough):
            self.encoder.backbone.states(ids, mask)
        return kept["hidden"]

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The vector (B, W) of a text from its hidden states."""
        return self.pool(hidden, None if self.official else mask)

    def features(self, x: Any) -> Tensor:
        """(B, W) of captions, each read as the text of one picture."""
        made = self.documents([f"{VISUAL} {plain_text(text)}" for text in x])
        return self.pooled(self.hidden(made.input_ids, made.attention_mask), made.attention_mask)

    @contextmanager
    def _between(self, media: Tensor | None, locations: Tensor, stop: bool = False) -> Iterator[dict[str, Tensor]]:
        """While the language model runs, keep the hidden states and put the gated blocks between its own."""
        kept: dict[str, Tensor] = {}
        wanted = self.depth - 1 if self.official else self.depth

        def before(at: int) -> Any:
            def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
                h = given[0] if given else named["hidden_states"]
                if at == wanted:
                    kept["hidden"] = h
                    if stop:
                        raise _Enough
                if media is None or str(at) not in self.gated:
                    return None
                h = self.gated[str(at)](h, media.to(h.dtype), locations)
                return ((h, *given[1:]), named) if given else (given, {**named, "hidden_states": h})

            return hook

        blocks = blocks_of(self.encoder.backbone)
        handles = [block.register_forward_pre_hook(before(at), with_kwargs=True) for at, block in enumerate(blocks)]
        try:
            yield kept
        finally:
            for handle in handles:
                handle.remove()


class _Enough(Exception):
    """The states that are wanted are there."""


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


def plain_text(text: Any) -> str:
    """A caption, the first of several, without what stands for a picture in a document."""
    first = text if isinstance(text, str) else (text[0] if len(text) else "")
    return str(first).replace(VISUAL, " ").replace(END_OF_CHUNK, " ").strip()


def blocks_of(backbone: Any) -> nn.ModuleList:
    """The blocks of a language model, in the order in which a text passes them.

    Raises:
        ValueError: there is no list of blocks in it.
    """
    if isinstance(backbone, TextTransformer):
        return backbone.blocks
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"text: {type(backbone).__name__} has no blocks that could be divided")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def output_weight(backbone: Any) -> Tensor:
    """(V, W): the weights with which states become logits, those of the words themselves."""
    if isinstance(backbone, TextTransformer):
        return backbone.token.weight
    return backbone.model.get_input_embeddings().weight


def prepared(encoder: TextEncoder, length: int) -> None:
    """Make a text encoder a causal language model with CosMo's two tokens and ``length`` places.

    The new tokens, and the new places of a transformer of ours, have weights as new; all others stay as they are. What
    is ready already is left alone.
    """
    backbone, tokenizer = encoder.backbone, encoder.tokenizer
    if not isinstance(backbone, TextTransformer | HuggingFaceText):
        raise ValueError(f"text: {encoder.config['name']!r} is no language model; there are transformer and hf:NAME")
    missing = [token for token in (VISUAL, END_OF_CHUNK) if tokenizer.backend.token_to_id(token) is None]
    if missing or tokenizer.length != length:
        tokenizer = Tokenizer.from_state(tokenizer.state())  # others may use the old one
        tokenizer.backend.add_special_tokens(missing)
        tokenizer.length = length
        encoder.tokenizer = tokenizer
    if isinstance(backbone, TextTransformer):
        _prepare_ours(encoder, backbone, len(tokenizer), length)
    else:
        _prepare_hugging_face(encoder, len(tokenizer), length)


def _prepare_ours(encoder: TextEncoder, backbone: TextTransformer, words: int, length: int) -> None:
    backbone.causal = True
    for block in backbone.blocks:
        block.causal = True  # type: ignore[assignment]
    encoder.config = {**encoder.config, "arguments": {**encoder.config["arguments"], "causal": True}}
    old = backbone.token.weight
    if len(old) < words:
        backbone.token = nn.Embedding(words, old.shape[1]).to(old)
        nn.init.normal_(backbone.token.weight, std=0.02)
        with torch.no_grad():
            backbone.token.weight[: len(old)] = old
    places = backbone.position
    if len(places) != length:
        backbone.position = nn.Parameter(torch.empty(length, places.shape[1]).to(places))
        nn.init.normal_(backbone.position, std=0.01)
        with torch.no_grad():
            backbone.position[: len(places)] = places[:length]
        backbone.length = length


@torch.no_grad()
def _prepare_hugging_face(encoder: TextEncoder, words: int, length: int) -> None:
    model: Any = encoder.backbone.model
    about, name = model.config, type(model).__name__
    if not getattr(about, "tie_word_embeddings", True):
        raise ValueError(
            f"text: {name} has an output layer of its own, which its encoder does not hold; take a model that ties it "
            "to its words, such as GPT-2, OPT, Bloom or the small ones of Qwen"
        )
    most = int(getattr(about, "max_position_embeddings", length))
    if length > most:
        raise ValueError(f"length: {name} has {most} places, and {length} are asked for")
    if len(model.get_input_embeddings().weight) < words:
        model.resize_token_embeddings(words)
        encoder.config = {**encoder.config, "arguments": {**encoder.config["arguments"], "vocab_size": words}}
    was = model.training
    pair = torch.tensor([[1, 2], [1, 3]], device=encoder.device)
    states = encoder.backbone.eval().states(pair, torch.ones_like(pair, dtype=torch.bool))
    encoder.backbone.train(was)
    if not torch.allclose(states[0, 0], states[1, 0], atol=1e-4):
        raise ValueError(f"text: {name} is no language model: its words see those that follow; take one like GPT-2")
