"""Texts with pictures in them, as tokens: where the pictures stand, where a chunk ends, and what is to be learned.

A document is a string in which ``<visual>`` marks the place of each picture, in order; a caption is one that begins
with it, and a prompt with examples is one that ends with it::

    "Two of them. <visual> a seven <visual> a two"      two pictures, each with the text that follows it
    "<visual> a seven <visual> a two <visual>"          what comes after the third is to be written

As tokens this is ``<s> [text] <visual> text <|endofchunk|> <visual> text <|endofchunk|> </s>``, the form of CosMo
(arXiv 2401.00849) and Flamingo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VISUAL, END_OF_CHUNK = "<visual>", "<|endofchunk|>"
IGNORED = -100  # a label that is not learned, as torch's cross entropy has it


class Interleaved(NamedTuple):
    """A batch of documents as tokens.

    ``input_ids`` int64 (B, L); ``attention_mask`` (B, L), true but at padding; ``labels`` int64 (B, L), -100 where
    nothing is learned, not shifted; ``media_locations`` (B, L), true at ``<visual>``; ``pictures`` int64 (B,), how many
    of the pictures of each are in the tokens: its first ones.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    media_locations: Tensor
    pictures: Tensor


class InterleavedCollator:
    """From documents with ``<visual>`` in them to tokens.

    Args:
        encode: from a string to its tokens, without any that mark beginning or end.
        visual, end_of_chunk, bos, eos, pad: the numbers of these tokens.
        length: L at most; 128, the official code's.
        images: pictures of a document at most, its first ones; 3, the official code's. The text after the last of them
            goes on to the end of the chunk.

    A document that is too long is shortened so that its pictures stay: the text before the first picture and the text
    of each chunk share the places, short ones leaving what they do not need to the long ones. Chunks lose their ends,
    the text before the first picture its beginning. (The official code cuts each text to a share of the characters,
    at random places, before it makes tokens of them.)

    ``collator(documents)`` gives an :class:`Interleaved`, padded to its longest document; ``complete=False`` leaves the
    last chunk open, for a prompt.

    Raises:
        ValueError: no documents, or one without text and pictures; a length in which the pictures alone find no place.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        *,
        visual: int,
        end_of_chunk: int,
        bos: int,
        eos: int,
        pad: int,
        length: int = 128,
        images: int = 3,
    ) -> None:
        if images < 1:
            raise ValueError(f"images: expected at least 1, got {images}")
        least = 2 + 3 * images  # each picture with its token, one of text and its end
        if length < least:
            raise ValueError(f"length: {images} pictures need {least} tokens at least, got {length}")
        self.encode, self.length, self.images = encode, length, images
        self.visual, self.end_of_chunk, self.bos, self.eos, self.pad = visual, end_of_chunk, bos, eos, pad

    def __call__(self, documents: Sequence[str], complete: bool = True) -> Interleaved:
        if isinstance(documents, str) or not len(documents):
            raise ValueError("documents: expected at least one string, in a list")
        rows = [self.tokens(document, complete) for document in documents]
        ids = torch.full((len(rows), max(map(len, rows))), self.pad, dtype=torch.int64)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = True
        locations = ids == self.visual
        labels = interleaved_labels(ids, self.visual, self.end_of_chunk, self.pad, self.bos, mask)
        return Interleaved(ids, mask, labels, locations, locations.sum(1))

    def tokens(self, document: str, complete: bool = True) -> list[int]:
        """The tokens of one document."""
        lead, *chunks = (part.strip() for part in document.split(VISUAL))
        if not lead and not chunks:
            raise ValueError("documents: one of them has neither text nor a picture")
        texts = [list(self.encode(part)) if part else [] for part in (lead, *chunks[: self.images])]
        marks = 2 + 2 * (len(texts) - 1)
        kept = _shares([len(text) for text in texts], self.length - marks)
        row = [self.bos, *texts[0][len(texts[0]) - kept[0] :]]
        for text, some in zip(texts[1:], kept[1:], strict=True):
            row += [self.visual, *text[:some], self.end_of_chunk]
        if complete:
            return [*row, self.eos]
        return row[:-1] if len(texts) > 1 else row


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each is kept so that all have place: the same for all, but for those that need less."""
    kept, left = [0] * len(lengths), sorted(range(len(lengths)), key=lambda at: lengths[at])
    while left:
        at = left.pop(0)
        kept[at] = min(lengths[at], room // (len(left) + 1))
        room -= kept[at]
    return kept


def interleaved_labels(
    ids: Tensor, media_id: int, eoc_id: int, pad_id: int, bos_id: int, mask: Tensor | None = None
) -> Tensor:
    """The tokens that a language model learns to write about pictures; -100 for all others.

    Learned is what stands between a picture and the end of its chunk, that end included. Not learned are padding, all
    before the first picture, what follows the end of a chunk up to the next picture, and the tokens ``<visual>`` and
    ``<s>`` themselves.

    Args:
        ids: int64 (B, L).
        media_id, eoc_id, pad_id, bos_id: of ``<visual>``, ``<|endofchunk|>``, padding and ``<s>``.
        mask: (B, L), true but at padding, for language models whose padding is another token too; default, every
            ``pad_id`` is padding.

    Returns:
        int64 (B, L), not shifted: the label at t is the token at t.

    Raises:
        ValueError: on ids that are not (B, L) integers.
    """
    if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        raise ValueError(f"ids: expected (B, L) integers, got {tuple(ids.shape)} {ids.dtype}")
    padding = ids == pad_id if mask is None else ~mask.bool()
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device).expand_as(ids)
    media, ends = ids == media_id, (ids == eoc_id) & ~padding
    last_media = (places * media).cummax(1).values
    last_end = (places * ends).cummax(1).values.roll(1, 1)
    last_end[:, 0] = 0  # of those before a place, so that the end of a chunk still belongs to it
    learned = (last_media > last_end) & ~media & ~padding & (ids != bos_id)
    return ids.masked_fill(~learned, IGNORED)


def row_numbers(ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """A number for each row, the same for rows that are the same: int64 (B,).

    What tells which captions of a batch say the same, so that one of two equal captions is not taken for a negative of
    the other. (The official check counts distinct tokens in place of distinct rows.) The numbers depend on the tokens
    alone, so that those of several processes can be compared.

    Args:
        ids: int64 (B, L).
        mask: (B, L), true where a token counts; so rows padded to different lengths are the same.
    """
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    rows = [row[some].tolist() for row, some in zip(ids.cpu(), kept.cpu(), strict=True)]
    digests = [hashlib.blake2b(repr(row).encode(), digest_size=8).digest() for row in rows]
    numbers = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64, device=ids.device)


def interleave(texts: Sequence[str], at: Sequence[int]) -> tuple[str, list[int]]:
    """A document from its sentences and the sentence before which each picture stands.

    Args:
        texts: S sentences.
        at: for each picture the number of its sentence, or -1 for one that is left out.

    Returns:
        the string with ``<visual>`` in it, and the pictures in the order in which they appear.

    Raises:
        ValueError: a number that is no sentence's.
    """
    bad = [number for number in at if not -1 <= number < len(texts)]
    if bad:
        raise ValueError(f"at: expected numbers of {len(texts)} sentences or -1, got {bad[0]}")
    shown = sorted((number, picture) for picture, number in enumerate(at) if number >= 0)
    parts = [
        " ".join([*(VISUAL for number, _ in shown if number == here), text.replace(VISUAL, " ").strip()])
        for here, text in enumerate(texts)
    ]
    return " ".join(part for part in parts if part.strip()), [picture for _, picture in shown]


def few_shot(examples: Sequence[str], question: str = "") -> str:
    """A prompt that shows captions of the first pictures and asks for that of the one after them.

    Args:
        examples: K captions; none for a prompt without examples.
        question: how the answer begins, if anything.
    """
    return " ".join([*(f"{VISUAL} {example}" for example in examples), VISUAL, question]).strip()


def plain_text(text: str | Sequence[str]) -> str:
    """A caption, the first of several, without what stands for a picture in a document."""
    first = text if isinstance(text, str) else (text[0] if len(text) else "")
    return str(first).replace(VISUAL, " ").replace(END_OF_CHUNK, " ").strip()
