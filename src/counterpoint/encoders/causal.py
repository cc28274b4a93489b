"""A text encoder made a causal language model of documents: two more tokens, more places, and where its parts are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.interleaved import END_OF_CHUNK, VISUAL
from counterpoint.encoders.text import HuggingFaceText, TextEncoder, TextTransformer
from counterpoint.encoders.tokenizer import Tokenizer


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
