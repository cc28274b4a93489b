"""Informative embeddings: what a decoder knows of an item just before it says it (Livne 2025, arXiv 2502.19642).

An encoder-decoder squeezes an item through a code. On the way back the decoder unfolds the code into what it needs in
order to write the item down, and its last hidden states, averaged, are an embedding that needs no training of its own:
of any auto-encoder, variational or not, and of any sequence-to-sequence model. The paper's text could not be read in
full; that the states are those before the output layer, that a sequence is averaged, and that an autoregressive decoder
is shown the item itself, is how we understand it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

POOLS = ("mean", "max", "flatten", "first", "last")
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
Pool = str | int


def informative_embedding(
    model: Any,
    x: Any,
    layer: str | nn.Module | None = None,
    pool: Pool = "mean",
    mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Hidden states of a decoder that reconstructs ``x``, as an embedding.

    The item is encoded to the mean of its code, the decoder runs on it, in evaluation mode and without a gradient, and
    what the output layer would be given is pooled. The mode that the model was in is restored.

    Args:
        model: one of

            - a method with a decoder (``cmim``, ``mim``, ``vae``, ``autoencoder``);
            - a Hugging Face encoder-decoder (T5, BART, ...), with or without its language head;
            - a pair ``(encoder, decoder)`` of modules: the encoder gives a code, or a pair whose first is its mean; the
              decoder takes a code, and if its ``forward`` needs a second argument, the targets too.
        x: a batch of items as the encoder takes them: images, vectors, (B, T) tokens; or what a tokenizer returns, a
            mapping with ``input_ids`` and ``attention_mask``.
        layer: whose output is taken, by its name in the decoder (for Hugging Face, in the model) or as itself. ``None``
            is the states that go into the output layer, found as the last layer with weights that runs.
        pool: what becomes of states of several places: ``"mean"``, ``"max"``, ``"flatten"``; ``"first"`` or ``"last"``
            for sequences; a number k for maps: averages over k x k parts, side by side.
        mask: (B, T), true where a token is no padding; padding is neither encoded nor averaged.
        targets: what the decoder is shown and would say, where that is not ``x``, such as a transcript.

    Returns:
        (B, D) float32.

    Raises:
        ValueError: padding among the tokens and no mask, a mask of another shape or with empty rows, a layer that does
            not exist or run, states that cannot be pooled so, a model of another kind.
    """
    known_pool(pool)
    if isinstance(x, Mapping):
        mask = x.get("attention_mask") if mask is None else mask
        x = x["input_ids"]
    run, modules, inside = _runner(model, x, mask, x if targets is None else targets)
    with _evaluated(modules), torch.no_grad(), _captured(inside, layer) as seen:
        count = run()
    if "states" not in seen:
        what = "no layer with weights ran" if layer is None else f"{layer!r} did not run, or gave no tensor"
        raise ValueError(f"layer: {what} in the decoder")
    states = seen["states"]
    if states.shape[0] != count:
        raise ValueError(f"layer: its states are {tuple(states.shape)}, and there are {count} items")
    return pool_states(states, pool, mask if targets is None else None)


def pool_states(states: Tensor, pool: Pool = "mean", mask: Tensor | None = None) -> Tensor:
    """States of an item's places to one vector, (B, D) float32.

    Args:
        states: (B, W), left as they are; (B, T, W) of a sequence; (B, W, H, W') of an image.
        pool, mask: as for :func:`informative_embedding`.

    Raises:
        ValueError: as there.
    """
    known_pool(pool)
    if mask is not None:
        if states.ndim != 3 or mask.shape != states.shape[:2]:
            raise ValueError(f"mask: expected one entry for each place of states {tuple(states.shape)}, got "
                             f"{tuple(mask.shape)}")  # fmt: skip
        mask = mask.bool()
        if not bool(mask.any(1).all()):
            raise ValueError(f"mask: {int((~mask.any(1)).sum())} of {len(mask)} rows hold nothing but padding")
    states = states.float()
    if states.ndim == 2:
        return states
    if states.ndim not in (3, 4):
        raise ValueError(f"layer: expected states of two to four dimensions, got {tuple(states.shape)}")
    if isinstance(pool, int):
        if states.ndim != 4:
            raise ValueError(f"pool: {pool} is for maps, and these states are {tuple(states.shape)}")
        return nn.functional.adaptive_avg_pool2d(states, pool).flatten(1)
    if pool in ("first", "last"):
        return _end(states, pool, mask)
    if mask is None:
        places = (1,) if states.ndim == 3 else (2, 3)
        return {"flatten": states.flatten(1), "mean": states.mean(places), "max": states.amax(places)}[pool]
    if pool == "flatten":
        return torch.where(mask[:, :, None], states, 0.0).flatten(1)
    if pool == "max":
        return torch.where(mask[:, :, None], states, -torch.inf).amax(1)
    return torch.where(mask[:, :, None], states, 0.0).sum(1) / mask.sum(1, keepdim=True)


def known_pool(pool: Pool) -> Pool:
    """``pool`` itself, if :func:`pool_states` knows it; ``ValueError`` otherwise."""
    whole = isinstance(pool, int) and not isinstance(pool, bool) and pool > 0
    if not whole and (not isinstance(pool, str) or pool not in POOLS):
        raise ValueError(f"pool: expected a number above 0 or one of {', '.join(POOLS)}, got {pool!r}")
    return pool


def _end(states: Tensor, pool: str, mask: Tensor | None) -> Tensor:
    if states.ndim != 3:
        raise ValueError(f"pool: {pool!r} is for sequences, and these states are {tuple(states.shape)}")
    places = torch.arange(states.shape[1], device=states.device)
    mask = torch.ones_like(states[:, :, 0], dtype=torch.bool) if mask is None else mask
    at = (
        torch.where(mask, places, states.shape[1]).amin(1) if pool == "first" else torch.where(mask, places, -1).amax(1)
    )
    return states[torch.arange(len(states), device=states.device), at]


class InformativeEncoder(nn.Module):
    """The informative embedding as an encoder: what embeds, evaluates and searches can use it in place of one.

    Args:
        model: a method with an ``encoder`` of this library and a decoder, such as ``Run.model()`` of a ``cmim`` gives.
        layer, pool: as for :func:`informative_embedding`.

    ``encoder(x)`` takes what the model's own encoder takes and gives (B, D); ``features`` is D, ``shape`` and
    ``modality`` are those of the items. No gradient passes.
    """

    def __init__(self, model: Any, layer: str | None = None, pool: Pool = "mean") -> None:
        super().__init__()
        self.model, self.layer, self.pool = model, layer, pool
        self.shape, self.modality = model.encoder.shape, model.encoder.modality
        self.config = {**model.encoder.config, "extra": {"embedding": "informative", "pool": pool}}
        self.features = self(torch.zeros(2, *self.shape, device=model.encoder.mean.device)).shape[1]

    @property
    def mean(self) -> Tensor:
        """The standardisation's, whose device is the model's."""
        return cast(Tensor, self.model.encoder.mean)

    def forward(self, x: Tensor) -> Tensor:
        return informative_embedding(self.model, x, self.layer, self.pool)

    def embed(self, x: Tensor, batch_size: int = 512) -> Tensor:
        """Embeddings (N, D) float32 of ``x`` in batches."""
        return torch.cat([self(part) for part in x.split(batch_size)])


def _runner(model: Any, x: Any, mask: Tensor | None, targets: Any) -> tuple[Callable[[], int], list[Any], nn.Module]:
    """What runs the decoder and says how many items there were, the modules to evaluate, and where layers are."""
    if isinstance(model, tuple | list) and len(model) == 2:
        encoder, decoder = model
        return _pair(encoder, decoder, x, mask, targets)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return _sequence_to_sequence(model, x, mask, targets)
    if isinstance(model, nn.Module) and hasattr(model, "decoder") and hasattr(model, "encode"):
        return _pair(model.encode, cast(nn.Module, model.decoder), x, mask, targets, [model])
    raise ValueError(
        "model: expected a method with a decoder, a Hugging Face encoder-decoder or a pair (encoder, decoder), got "
        f"{type(model).__name__}"
    )


def _pair(
    encoder: Any, decoder: nn.Module, x: Any, mask: Tensor | None, targets: Any, modules: list[Any] | None = None
) -> tuple[Callable[[], int], list[Any], nn.Module]:
    def run() -> int:
        code = encoder(x, mask) if mask is not None and _required(encoder, 2, needed=False) else encoder(x)
        code = code[0] if isinstance(code, tuple | list) else code
        decoder(code, targets) if _required(decoder, 2) else decoder(code)
        return len(code)

    return run, modules or [encoder, decoder], decoder


def _required(module: Any, count: int, *, needed: bool = True) -> bool:
    """Whether a module takes so many arguments by place, or cannot do with fewer."""
    parameters = inspect.signature(module.forward if isinstance(module, nn.Module) else module).parameters.values()
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in placed if not needed or p.default is p.empty]) >= count


def _sequence_to_sequence(
    model: Any, x: Any, mask: Tensor | None, targets: Tensor
) -> tuple[Callable[[], int], list[Any], nn.Module]:
    """A Hugging Face model: the decoder is shown the targets, one place later and after its word for the start."""
    start, begin, pad = (
        getattr(model.config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    )
    start = begin if start is None else start
    if start is None:
        raise ValueError("model: its config has no decoder_start_token_id, the token that the decoder begins with")
    if mask is None and not x.is_floating_point() and pad is not None and bool((x == pad).any()):
        raise ValueError(
            f"mask: the items hold the padding token {pad}; give the tokenizer's attention_mask, (B, T) true where a "
            "token is none"
        )
    if mask is not None and not x.is_floating_point() and mask.shape != x.shape:
        raise ValueError(f"mask: expected {tuple(x.shape)} as the tokens, got {tuple(mask.shape)}")
    shown = torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], 1)
    given: dict[str, Any] = {"attention_mask": None if mask is None else mask.long()}
    if mask is not None and targets is x:
        given["decoder_attention_mask"] = torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], 1).long()

    def run() -> int:
        model(x, decoder_input_ids=shown, use_cache=False, **given)
        return len(x)

    return run, [model], model


@contextmanager
def _evaluated(modules: list[Any]) -> Iterator[None]:
    """Evaluation mode while the block runs, for each submodule back as it was."""
    modes = [(part, part.training) for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    for module in modules:
        if isinstance(module, nn.Module):
            module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _captured(inside: nn.Module, layer: str | nn.Module | None) -> Iterator[dict[str, Tensor]]:
    """While the block runs: the last output of ``layer``, or without one the last input of a layer with weights."""
    seen: dict[str, Tensor] = {}
    head = inside.get_output_embeddings() if hasattr(inside, "get_decoder") else None  # type: ignore[operator]

    def keep(value: Any) -> None:
        value = value[0] if isinstance(value, tuple | list) and value else value
        value = getattr(value, "last_hidden_state", value)
        if isinstance(value, Tensor):
            seen["states"] = value

    def before(module: nn.Module, inputs: Any) -> None:
        keep(inputs)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        keep(output)

    if layer is not None:
        handles = [_named(inside, layer).register_forward_hook(after)]
    elif head is not None:
        handles = [head.register_forward_pre_hook(before)]
    elif hasattr(inside, "get_decoder"):  # of Hugging Face, without a head: the decoder's last states
        handles = [inside.get_decoder().register_forward_hook(after)]  # type: ignore[operator]
    else:
        layers = [module for module in inside.modules() if isinstance(module, _WEIGHTED)]
        handles = [module.register_forward_pre_hook(before) for module in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _named(inside: nn.Module, layer: str | nn.Module) -> nn.Module:
    if isinstance(layer, nn.Module):
        return layer
    modules = dict(inside.named_modules())
    if layer not in modules:
        import difflib

        near = difflib.get_close_matches(layer, modules, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(modules)[1:9])}, ..."
        raise ValueError(f"layer: no layer {layer!r} in the decoder; {hint}")
    return modules[layer]
