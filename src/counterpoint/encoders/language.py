"""A language model that reads a vector: captions, answers and labels as text, from images or whatever a vector is of.

The model is a Hugging Face encoder-decoder, with pretrained weights from a local folder or small and new, and searching
and sampling are those of ``transformers``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.tokenizer import EOS, PAD, Tokenizer
from counterpoint.encoders.transfer import EmbeddingToTokens, before_words

Targets = Sequence[str] | Sequence[Sequence[str]]
_IGNORED = -100


def small_t5(
    vocabulary: int,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    pad: int = PAD,
    end: int = EOS,
) -> Any:
    """A T5 with new weights, small enough to be trained from scratch on a processor.

    Args:
        vocabulary: V, with the special tokens.
        width: of the word vectors; the feed-forward layers are four times as wide, as in T5.
        layers: of the encoder, and of the decoder.
        heads: of the attention, dividing ``width``.
        dropout: 0.1, T5's.
        pad, end: numbers of the padding, which is also what a text begins after, and of the end of a text: those of the
            tokenizers of this library.

    Raises:
        ValueError: heads that do not divide the width, or sizes below 1.
        ImportError: without transformers.
    """
    for name, value in (("vocabulary", vocabulary), ("width", width), ("layers", layers), ("heads", heads)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if width % heads:
        raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
    transformers = _transformers()
    config = transformers.T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // heads,
        d_ff=4 * width,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=dropout,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=pad,
    )
    return transformers.T5ForConditionalGeneration(config)


class TextGenerator(nn.Module):
    """Writes a text about a vector, and about a task text where there is one: the language model of CLOSE.

    The vector becomes soft tokens, which the encoder reads before the embedded words of the task (a question, a
    hypothesis, an article); the decoder writes the answer. Trained by the cross entropy of the next token, all weights
    together.

    Args:
        model: a Hugging Face encoder-decoder, such as :func:`small_t5` makes.
        tokenizer: of its words; the length of its texts does not matter here.
        dim: D of the vectors.
        tokens, constants: see :class:`~counterpoint.encoders.EmbeddingToTokens`; 4 and 0, the official code's.
        length: tokens of a target or task at most, the end included; what is longer is cut and ends all the same. 64,
            ours.
        lowercase: of targets; the official code does. Task texts are left as they are.
        compat: ``"official"`` lets the encoder attend to the padding of task texts, as the official code does, which
            passes no mask there (the decoder's attention has it). A text's states then depend on the longest of its
            batch.

    Shapes:
        ``generator(x, targets, task=None)``: (B, D), as normalised as the caller wants them, B texts or B lists of
        texts, B task texts; the scalar loss, the mean over all tokens of all targets but the padding. Of an item with
        several targets the encoder's states are used for each of them, computed once.

    Raises:
        ValueError: numbers of vectors and texts that differ, empty texts, no target at all, a tokenizer with more
            tokens than the model has.

    Reference: arXiv 2211.09778; official code: allenai/close.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        dim: int,
        tokens: int = 4,
        constants: int = 0,
        length: int = 64,
        lowercase: bool = True,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        if compat not in (None, "official"):
            raise ValueError(f"compat: expected None or 'official', got {compat!r}")
        if length < 2:
            raise ValueError(f"length: expected at least 2, a token and the end, got {length}")
        words = model.get_input_embeddings()
        if len(tokenizer) > words.num_embeddings:
            raise ValueError(f"tokenizer: it has {len(tokenizer)} tokens, and the model {words.num_embeddings}")
        special = (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.mask)
        self.tokenizer = Tokenizer(tokenizer.backend, length + 1, special)  # it counts a beginning, which is not kept
        self.model = model
        self.soft = EmbeddingToTokens(dim, words.embedding_dim, tokens, constants)
        self.length, self.lowercase, self.compat = length, lowercase, compat

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], dim: int, *, download: bool = False, **options: Any
    ) -> TextGenerator:
        """With a pretrained model: T5-base in the paper.

        Args:
            path: folder of a model with its tokenizer; or a name on the hub, such as ``"google-t5/t5-small"``.
            dim: D of the vectors.
            download: allow fetching it (242 MB for t5-small, 892 MB for t5-base); otherwise it must be on this machine.
            options: of the generator.

        Raises:
            FileNotFoundError: no such model on this machine.
            ValueError: a model that is no encoder-decoder. Code that comes with a model is never run, and weights are
                read from safetensors alone.
        """
        transformers = _transformers()
        how: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(path, **how)
            if not config.is_encoder_decoder:
                raise ValueError(f"path: expected an encoder-decoder such as T5, and {path} is {config.model_type!r}")
            model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path, use_safetensors=True, **how)
            found = transformers.AutoTokenizer.from_pretrained(path, **how)
        except OSError as error:
            hint = "" if download else "; a folder is opened as it is, a name is fetched with download=True"
            raise FileNotFoundError(f"path: no model {os.fspath(path)!r} on this machine{hint}: {error}") from error
        pad, unk, end = found.pad_token_id, found.unk_token_id, found.eos_token_id
        if pad is None or end is None or getattr(found, "backend_tokenizer", None) is None:
            raise ValueError(
                f"path: the tokenizer of {path} is none of the package tokenizers, or has no padding or end"
            )
        unk = pad if unk is None else unk
        return cls(model, Tokenizer(found.backend_tokenizer, 3, (pad, unk, pad, end, unk)), dim, **options)

    def read(self, x: Tensor, task: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's states (B, S, W) of vectors and task texts, and the mask (B, S) of what is no padding."""
        states = self.soft(x)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=x.device)
        if task is not None:
            ids, real = self._ids("task", task, len(x), x.device)
            states, mask = before_words(states, self.model.get_input_embeddings()(ids), real)
        seen = None if self.compat == "official" else mask.long()
        return self.model.get_encoder()(inputs_embeds=states, attention_mask=seen).last_hidden_state, mask

    def forward(self, x: Tensor, targets: Targets, task: Sequence[str] | None = None) -> Tensor:
        logits, labels = self.scored(x, targets, task)
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)

    def log_likelihood(self, x: Tensor, texts: Sequence[str], task: Sequence[str] | None = None) -> Tensor:
        """``log p`` of a text for each vector, (B,): the sum over its tokens and its end."""
        logits, labels = self.scored(x, texts, task)
        terms = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, reduction="none"
        )
        return -terms.view(labels.shape).sum(1)

    def scored(self, x: Tensor, targets: Targets, task: Sequence[str] | None) -> tuple[Tensor, Tensor]:
        """Logits (M, L, V) float32 of all M targets, and their tokens (M, L), -100 for padding; aligned."""
        if isinstance(targets, str) or len(targets) != len(x):
            raise ValueError(f"targets: expected {len(x)} texts or lists of texts, got {_told(targets)}")
        lists = [[each] if isinstance(each, str) else list(each) for each in targets]
        flat = [text.lower() if self.lowercase else text for texts in lists for text in texts]
        owner = torch.tensor([item for item, texts in enumerate(lists) for _ in texts], device=x.device)
        ids, real = self._ids("targets", flat, len(flat), x.device)
        states, mask = self.read(x, task)
        labels = ids.masked_fill(~real, _IGNORED)
        from transformers.modeling_outputs import BaseModelOutput

        read = BaseModelOutput(last_hidden_state=states[owner])
        found = self.model(encoder_outputs=read, attention_mask=mask[owner].long(), labels=labels)
        return found.logits.float(), labels

    @torch.no_grad()
    def generate(
        self, x: Tensor, task: Sequence[str] | None = None, beams: int = 5, length: int = 32, **options: Any
    ) -> list[str]:
        """A text for each vector, in evaluation mode; the mode is restored.

        Args:
            x: (B, D).
            task: B task texts, as in training.
            beams: of the search; 5, the official code's. 1 takes the most probable token each time.
            length: tokens at most; the official code has 32 for captions, 16 for answers and 8 for entailment.
            options: more of ``generate`` of ``transformers``, such as ``do_sample=True, top_k=50``, which draws from
                torch's global generator.
        """
        from transformers.modeling_outputs import BaseModelOutput

        training = self.training
        self.eval()
        try:
            states, mask = self.read(x, task)
            ids = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask.long(),
                **{
                    "num_beams": beams,
                    "max_new_tokens": length,
                    "do_sample": False,
                    "eos_token_id": self.tokenizer.eos,
                    "pad_token_id": self.tokenizer.pad,
                    "suppress_tokens": self._unwritten or None,
                    **options,
                },
            )
        finally:
            self.train(training)
        return [text.strip() for text in self.tokenizer.decode(ids)]

    @property
    def _unwritten(self) -> list[int]:
        """Special tokens that no text should hold."""
        own = self.tokenizer
        return sorted({own.unk, own.bos, own.mask} - {own.pad, own.eos})

    def _ids(self, name: str, texts: Sequence[str], count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (count, L) of texts, each with its end, and where they are no padding."""
        if isinstance(texts, str) or len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: expected {count} texts, got {_told(texts)}")
        if not count:
            raise ValueError(f"{name}: expected at least one text")
        empty = sum(not text.strip() for text in texts)
        if empty:
            raise ValueError(f"{name}: {empty} of {count} texts are empty")
        ids, real = self.tokenizer.padded([row[1:] for row in self.tokenizer.encode(texts)])
        return ids.to(device), real.to(device)


def with_words(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """A tokenizer that knows words too which it could not spell: each becomes a token of its own, after all others.

    A vocabulary that was learned from a few captions lacks the letters of other words, such as the names of classes.

    Args:
        tokenizer: is left as it is, and returned where it can spell all of them.
        words: single ones, without spaces and punctuation.
    """
    found = tokenizer.backend.encode_batch(list(words), add_special_tokens=False)
    new = dict.fromkeys(word for word, row in zip(words, found, strict=True) if tokenizer.unk in row.ids)
    if not new:
        return tokenizer
    from tokenizers import AddedToken

    backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in new])
    special = (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.mask)
    return Tokenizer(backend, tokenizer.length, special)


def _told(texts: Any) -> str:
    return "a string" if isinstance(texts, str) else f"{len(texts)} entries"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("language models need transformers: pip install 'counterpoint[text]'") from error
    return transformers
