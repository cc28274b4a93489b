"""Texts to numbers and back: a word-piece tokenizer trained on the user's own texts, or that of a pretrained model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

PAD, UNK, BOS, EOS, MASK = range(5)
_ALPHABET = 1000  # letters that the trainer keeps
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]")


class Tokenizer:
    """Token ids of texts, with a beginning and an end.

    Args:
        backend: of the package tokenizers; its special tokens 0 to 4 are padding, unknown, beginning, end and mask,
            unless ``ids`` says otherwise.
        length: tokens of a text at most, beginning and end included; what is longer is cut, and keeps its end token.
        ids: of ``pad``, ``unk``, ``bos``, ``eos`` and ``mask``.

    Shapes:
        ``tokenizer(texts)`` of B texts: ids int64 (B, L) and mask bool (B, L), True where there is a token; L is that
        of the longest text of the batch.
    """

    def __init__(self, backend: Any, length: int = 77, ids: Sequence[int] = (PAD, UNK, BOS, EOS, MASK)) -> None:
        if length < 3:
            raise ValueError(f"length: expected at least 3 tokens, of which 2 are beginning and end, got {length}")
        self.backend, self.length = backend, length
        self.pad, self.unk, self.bos, self.eos, self.mask = ids
        self.backend.no_padding()
        self.backend.no_truncation()

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary: int = 8192, length: int | None = None, special: Sequence[str] = ()
    ) -> Tokenizer:
        """Learn word pieces from texts, in lower case.

        Args:
            texts: to learn from; frequent words become tokens of their own, rare ones are put together from pieces.
            vocabulary: tokens at most.
            length: see :class:`Tokenizer`; by default that of the longest text, at most 77, which is CLIP's.
            special: more tokens that stand for themselves, such as ``<visual>``; their ids follow those of the usual
                five, in order.

        Raises:
            ValueError: no text with a letter in it, or a vocabulary too small for the letters.
            ImportError: the package tokenizers is not installed.
        """
        tokenizers = _tokenizers()
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        texts = [text for text in texts if text.strip()]
        if not texts:
            raise ValueError("texts: there is none to learn a vocabulary from")
        named = [*SPECIAL, *special]

        def backend(vocab: dict[str, int] | None = None) -> Any:
            made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=SPECIAL[UNK]))
            made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            made.decoder = decoders.WordPiece()
            return made

        learner = backend()
        # the trainer meets words in an order that is new each time, and numbers the letters within words as it meets
        # them; named beforehand, they and all that ties among them decide are the same each time
        inner = [f"##{letter}" for letter in _letters(learner, texts)]
        learner.train_from_iterator(
            texts,
            trainers.WordPieceTrainer(
                vocab_size=vocabulary, special_tokens=[*named, *inner], show_progress=False, min_frequency=1
            ),
        )
        chosen = backend(learner.get_vocab())
        chosen.add_special_tokens(named)
        made = cls(chosen, 1 << 20)
        if length is None:
            length = max(3, min(77, max(len(ids) for ids in made.encode(texts))))
        made.length = length
        return made

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, beginning and end included, as long as they are but at most ``length``."""
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self.bos, *each.ids[: self.length - 2], self.eos] for each in found]

    def losses(self, texts: Sequence[str]) -> tuple[int, float]:
        """How many of the texts are cut, and the share of all their tokens that the vocabulary does not know."""
        found = [each.ids for each in self.backend.encode_batch(list(texts), add_special_tokens=False)]
        unknown = sum(token == self.unk for ids in found for token in ids)
        return sum(len(ids) > self.length - 2 for ids in found), unknown / max(1, sum(map(len, found)))

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.padded(self.encode(texts))

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) of rows of different lengths."""
        width = max((len(row) for row in rows), default=0)
        ids = torch.full((len(rows), width), self.pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[at, : len(row)] = True
        return ids, mask

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of rows of ids: up to the first end token, without the special ones."""
        rows = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        kept = []
        for row in rows:
            row = row[: row.index(self.eos)] if self.eos in row else row
            kept.append([token for token in row if token not in (self.pad, self.bos)])
        return [str(text) for text in self.backend.decode_batch(kept, skip_special_tokens=True)]

    def id_of(self, token: str) -> int:
        """The id of a token that stands for itself.

        Raises:
            ValueError: there is none.
        """
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"token: the vocabulary has no {token!r}")
        return int(found)

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def state(self) -> dict[str, Any]:
        """Plain data that :meth:`from_state` makes it of again."""
        ids = [self.pad, self.unk, self.bos, self.eos, self.mask]
        return {"length": self.length, "ids": ids, "backend": json.loads(self.backend.to_str())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tokenizer:
        """The tokenizer whose :meth:`state` this is; nothing in it is executed."""
        backend = _tokenizers().Tokenizer.from_str(json.dumps(state["backend"]))
        return cls(backend, int(state["length"]), [int(at) for at in state["ids"]])

    def __deepcopy__(self, memo: Any) -> Tokenizer:
        return self  # nothing in it changes, and the backend cannot be copied cheaply


def _letters(backend: Any, texts: Iterable[str]) -> list[str]:
    """The letters of texts as the backend sees them, at most as many as its trainer keeps, most frequent first."""
    counts = Counter(letter for text in texts for letter in backend.normalizer.normalize_str(text))
    found = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    return found[:_ALPHABET]


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("text: needs a tokenizer: pip install 'counterpoint[text]'") from error
    return tokenizers
