"""Encoders of texts: a small transformer trained from scratch, or a model of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from counterpoint.encoders.tokenizer import Tokenizer

Tokens: TypeAlias = "tuple[Tensor, Tensor]"
_HUGGING_FACE = "hf:"


class Block(nn.Module):
    """A layer of a transformer: self-attention and a perceptron, each after its norm and beside its input.

    Args:
        width: W.
        heads: that share it.
        causal: tokens see those before them alone.
        dropout: share of the activations that a training step leaves out.
        drop_path: chance that a training step leaves out a branch for an item (stochastic depth).

    Shapes:
        (B, L, W) and mask (B, L) bool, True where there is a token, to (B, L, W).
    """

    def __init__(
        self, width: int, heads: int, causal: bool = False, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} do not divide the width {width}")
        self.heads, self.causal, self.dropout, self.drop_path = heads, causal, dropout, drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self._kept(self._attend(self.norm1(x), mask))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None
        if mask is not None:
            seen = mask[:, None, None, :]
            if self.causal:
                seen = seen & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        found = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=self.causal and seen is None
        )
        return self.out(found.transpose(1, 2).flatten(2))

    def _kept(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, self.dropout, self.training)
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            x = x * torch.empty(len(x), 1, 1, device=x.device, dtype=x.dtype).bernoulli_(keep) / keep
        return x


class TextTransformer(nn.Module):
    """A transformer over token ids, each layer a :class:`Block`.

    Args:
        vocabulary: tokens.
        length: of a text at most.
        width: W; 128, depth 2 and heads 4 are ours, for thousands of short texts on a processor; CLIP has 512, 12, 8.
        depth: layers.
        heads: of each.
        causal: as CLIP's, with the feature at the end token; by default tokens see all others and the feature is the
            mean over them.
        dropout, drop_path: see :class:`Block`.

    Shapes:
        ids (B, L) int64 and mask (B, L) bool to the states (B, L, W) by :meth:`states`, and to a feature (B, W).
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        causal: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.features, self.causal, self.length = width, causal, length
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.token.weight, std=0.02)  # CLIP's
        nn.init.normal_(self.position, std=0.01)
        self.blocks = nn.ModuleList(Block(width, heads, causal, dropout, drop_path) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def embedded(self, ids: Tensor) -> Tensor:
        """(B, L, W): tokens and their positions, before the first layer."""
        if ids.shape[1] > self.length:
            raise ValueError(f"ids: expected at most {self.length} tokens, got {ids.shape[1]}")
        return self.token(ids) + self.position[: ids.shape[1]]

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W), after the last norm."""
        x = self.embedded(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, W): the state of the last token of a causal transformer, else the mean over tokens."""
        if self.causal:
            last = mask.sum(1).clamp(min=1) - 1
            return states[torch.arange(len(states), device=states.device), last]
        return mean_over_tokens(states, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.pool(self.states(ids, mask), mask)


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """(B, W): the mean of states (B, L, W) where mask (B, L) is True; zeros where it never is."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class HuggingFaceText(nn.Module):
    """A text model of Hugging Face, with the mean over its last states as the feature.

    Args:
        model: a ``PreTrainedModel`` that gives ``last_hidden_state``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.features = int(model.config.hidden_size)
        self.causal = False

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W)."""
        return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return mean_over_tokens(self.states(ids, mask), mask)


class TextEncoder(nn.Module):
    """A transformer behind its tokenizer: from texts to features.

    Args:
        backbone: ids (B, L) and mask (B, L) to features (B, F), with ``states``.
        tokenizer: of the texts.
        config: ``{"name", "arguments"}`` with which :func:`text_encoder_of` makes it again.

    Shapes:
        a sequence of B texts (of tuples of texts, of which the first is taken), or ``(ids, mask)``, to (B, F). An
        empty text is a beginning and an end.
    """

    modality, shape = "text", ()

    def __init__(self, backbone: Any, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
        super().__init__()
        self.backbone, self.tokenizer, self.config = backbone, tokenizer, config
        self.features = int(backbone.features)
        self.frozen = False

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.backbone.parameters()).device

    def tokenize(self, texts: Any) -> Tokens:
        """Ids (B, L) and mask (B, L) of texts, on the device of the weights; what are ids already stay."""
        if isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[0], Tensor):
            return texts
        if isinstance(texts, str):
            raise ValueError("texts: expected a list of them, got one string")
        first = [text if isinstance(text, str) else (text[0] if len(text) else "") for text in texts]
        ids, mask = self.tokenizer(first)
        return ids.to(self.device), mask.to(self.device)

    def states(self, texts: Any) -> tuple[Tensor, Tensor]:
        """States (B, L, F) of the tokens, and mask (B, L)."""
        ids, mask = self.tokenize(texts)
        return self.backbone.states(ids, mask), mask

    def tokens(self, texts: Any) -> Tensor:
        """States (B, L, F) of the tokens."""
        return self.states(texts)[0]

    def forward(self, texts: Any) -> Tensor:
        return self.backbone(*self.tokenize(texts))

    @torch.no_grad()
    def embed(self, texts: Sequence[Any], batch_size: int = 512) -> Tensor:
        """Features (N, F) float32 in evaluation mode and batches; the mode it was in is restored."""
        training = self.training
        self.eval()
        try:
            parts = [self(texts[at : at + batch_size]).float() for at in range(0, len(texts), batch_size)]
            return torch.cat(parts)
        finally:
            self.train(training)


def build_text_encoder(
    name: str,
    texts: Sequence[str] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    vocabulary: int = 8192,
    length: int | None = None,
    special: Sequence[str] = (),
    pretrained: bool = True,
    **arguments: Any,
) -> TextEncoder:
    """Make an encoder of texts by name.

    Args:
        name: ``"transformer"``, trained from scratch with a vocabulary of its own; ``"unimodal"``, a causal one with a
            token at its end, the lower half of a decoder of captions
            (:class:`~counterpoint.encoders.UnimodalTextDecoder`); or ``"hf:NAME"``, a model of Hugging Face that is in
            its cache, or ``"hf:/path"``, one in a folder. Nothing is downloaded.
        texts: to learn the vocabulary from, where there is no tokenizer.
        tokenizer: instead.
        vocabulary, length, special: see :meth:`~counterpoint.encoders.Tokenizer.train`; of a Hugging Face model only
            ``length`` is ours to choose (default 128, or what it can take).
        pretrained: of Hugging Face models, take the weights; otherwise its architecture with new ones.
        arguments: of :class:`TextTransformer`, or of the class named above.

    Raises:
        ValueError: an unknown name or argument, or no texts to learn from.
        FileNotFoundError: no such model on this machine.
        ImportError: the extra ``text`` is not installed.
    """
    if name.startswith(_HUGGING_FACE):
        if arguments:
            raise ValueError(f"encoders: {name} takes no {', '.join(arguments)}")
        return _hugging_face(name.removeprefix(_HUGGING_FACE), length, pretrained)
    if name not in ("transformer", "unimodal"):
        raise ValueError(
            f"encoders: no encoder of texts is called {name!r}; there are transformer, unimodal and hf:NAME"
        )
    if tokenizer is None:
        if texts is None:
            raise ValueError("encoders: texts are needed to learn a vocabulary from")
        tokenizer = Tokenizer.train(texts, vocabulary, length, special)
    kind: Any = TextTransformer
    if name == "unimodal":
        from counterpoint.encoders.captioning import UnimodalTextDecoder

        kind = UnimodalTextDecoder
    try:
        backbone = kind(len(tokenizer), tokenizer.length, **arguments)
    except TypeError as error:
        raise ValueError(f"encoders: the transformer of texts: {error}") from error
    return TextEncoder(backbone, tokenizer, {"name": name, "modality": "text", "arguments": dict(arguments)})


def text_encoder_of(config: dict[str, Any], tokenizer: Tokenizer) -> TextEncoder:
    """The encoder that a saved config describes, with weights that are yet to be loaded; nothing is downloaded."""
    if config["name"] == "hf":
        from transformers import AutoConfig, AutoModel

        arguments = dict(config["arguments"])
        model = AutoModel.from_config(AutoConfig.for_model(**arguments))
        return TextEncoder(HuggingFaceText(model), tokenizer, config)
    return build_text_encoder(config["name"], tokenizer=tokenizer, **config["arguments"])


def _hugging_face(name: str, length: int | None, pretrained: bool) -> TextEncoder:
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(f"encoders: {name!r} needs transformers: pip install 'counterpoint[text]'") from error
    try:
        found = AutoTokenizer.from_pretrained(name, local_files_only=True, use_fast=True)
        settings = AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        if pretrained:
            model = AutoModel.from_pretrained(name, local_files_only=True, use_safetensors=True)
        else:
            model = AutoModel.from_config(settings)
    except (OSError, ValueError) as error:
        where = "a folder" if os.path.isdir(name) else "the cache of Hugging Face on this machine"
        raise FileNotFoundError(f"encoders: no text model {name!r} in {where}: {str(error).splitlines()[0]}") from error
    if getattr(found, "backend_tokenizer", None) is None:
        raise ValueError(f"encoders: the tokenizer of {name!r} is none of the package tokenizers")
    ids = [
        0 if found.pad_token_id is None else found.pad_token_id,
        found.unk_token_id or 0,
        _first(found.bos_token_id, found.cls_token_id),
        _first(found.eos_token_id, found.sep_token_id),
        found.mask_token_id or 0,
    ]
    most = min(int(getattr(settings, "max_position_embeddings", 128)), 1 << 20)
    tokenizer = Tokenizer(found.backend_tokenizer, min(length or 128, most), ids)
    arguments = {k: v for k, v in settings.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    config = {"name": "hf", "modality": "text", "arguments": arguments, "from": os.path.basename(name)}
    return TextEncoder(HuggingFaceText(model), tokenizer, config)


def _first(*ids: int | None) -> int:
    return next((at for at in ids if at is not None), 0)
