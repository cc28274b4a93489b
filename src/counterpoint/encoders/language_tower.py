"""A language model whose later blocks look at pictures, while its first ones give the vector of a text (CosMo)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders.causal import blocks_of, output_weight, prepared
from counterpoint.encoders.gated_attention import GatedCrossAttention
from counterpoint.encoders.interleaved import END_OF_CHUNK, VISUAL, Interleaved, InterleavedCollator, plain_text
from counterpoint.encoders.multimodal import Tower
from counterpoint.encoders.resampler import QueryPool
from counterpoint.encoders.text import TextEncoder


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
        if len(blocks) < 2:
            raise ValueError("depth: expected a language model of at least 2 blocks, one for each half, got 1")
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
