"""Encoders of several modalities into one space: a tower each, saved and opened together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.encoder import FORMAT, Encoder, build
from counterpoint.encoders.heads import make_head
from counterpoint.encoders.text import TextEncoder, text_encoder_of
from counterpoint.encoders.tokenizer import Tokenizer
from counterpoint.files import atomic, write_json


class Tower(nn.Module):
    """An encoder of one modality and its head into the space that all share.

    Args:
        encoder: an :class:`~counterpoint.encoders.Encoder` or a :class:`TextEncoder`.

    Shapes:
        a batch of the modality to (B, D); before a head is attached, to the features (B, F).
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: nn.Module = nn.Identity()
        self.frozen = False

    @property
    def kind(self) -> str:
        """What it takes: ``image`` (the pictures of a video too), ``text``, ``signal`` (sound too) or ``vector``."""
        return str(self.encoder.modality)

    def freeze(self, head: bool = False, stages: int | None = None) -> None:
        """Keep the encoder as it is, in evaluation mode and without gradient; and the head, if asked for.

        Args:
            head: the head too.
            stages: only so many stages of the encoder, from the first, as :meth:`Encoder.freeze` has it.

        Raises:
            ValueError: an encoder that has fewer stages, or none that are known.
        """
        if stages is not None:
            if not isinstance(self.encoder, Encoder):
                raise ValueError(f"freeze: an encoder of {self.kind} stays as it is as a whole or not; got {stages}")
            self.encoder.freeze(stages)
            return
        self.frozen = True
        for part in (self.encoder, *((self.head,) if head else ())):
            for parameter in part.parameters():
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Tower:
        """As for any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, x: Any) -> Tensor:
        """(B, F) of the encoder."""
        if isinstance(x, Tensor) and not x.is_floating_point():
            x = x.float() / 255
        if self.frozen:
            with torch.no_grad():
                return self._encoded(x)
        return self._encoded(x)

    def _encoded(self, x: Any) -> Tensor:
        """Of a clip (B, T, C, H, W) the mean over its frames, unless the encoder pools their tokens, as CoCa's does."""
        if isinstance(x, Tensor) and x.ndim == 5 and not hasattr(self.encoder.backbone, "pooled"):
            return self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)
        return self.encoder(x)

    def forward(self, x: Any) -> Tensor:
        return self.head(self.features(x))


class TowerEncoder(nn.Module):
    """One tower of a :class:`MultimodalEncoder` as an encoder of its own: from a modality into the common space.

    Args:
        whole: the encoder of all modalities, with heads.
        name: of the tower.

    ``features`` is D; ``modality``, ``shape`` and ``embed`` are as of an encoder of that modality alone.
    """

    def __init__(self, whole: MultimodalEncoder, name: str) -> None:
        super().__init__()
        if name not in whole.towers:
            raise ValueError(f"modality: there is no {name!r}; there are {', '.join(whole.towers)}")
        self.tower, self.name = whole.towers[name], name
        self.features, self.config = whole.dim, {**whole.config, "tower": name}
        self.modality, self.shape = self.tower.kind, tuple(self.tower.encoder.shape)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.tower.parameters()).device

    def forward(self, x: Any) -> Tensor:
        return self.tower(x)

    @torch.no_grad()
    def embed(self, x: Any, batch_size: int = 512) -> Tensor:
        """Embeddings (N, D) float32, raw, in evaluation mode and batches; the mode it was in is restored."""
        training = self.training
        self.eval()
        try:
            return torch.cat([self(x[at : at + batch_size]).float() for at in range(0, len(x), batch_size)])
        finally:
            self.train(training)


class MultimodalEncoder(nn.Module):
    """A tower for each modality.

    Args:
        towers: an encoder for each name.

    ``encoder(batch)`` gives ``{name: z (B, D)}`` for the names that the batch holds, raw: objectives normalise.
    ``encoder.features(batch)`` gives what lies below the heads.

    Attributes:
        towers: by name, in order.
        dim: D, once heads are attached.
    """

    modality, shape = "multimodal", ()

    def __init__(self, towers: Mapping[str, Any]) -> None:
        super().__init__()
        if not towers:
            raise ValueError("towers: none given")
        self.towers: Any = nn.ModuleDict({name: Tower(encoder) for name, encoder in towers.items()})
        self.dim: int | None = None
        self.head: str | None = None
        self.extra: dict[str, Any] = {}

    @property
    def features_of(self) -> dict[str, int]:
        """F of each tower's encoder."""
        return {name: tower.encoder.features for name, tower in self.towers.items()}

    @property
    def config(self) -> dict[str, Any]:
        """What makes it again."""
        towers = {name: tower.encoder.config for name, tower in self.towers.items()}
        about = {"name": "multimodal", "modality": "multimodal", "towers": towers, "dim": self.dim, "head": self.head}
        return {**about, "extra": self.extra}

    def named(self, kind: str) -> str:
        """The first tower of a kind: ``image``, ``text``, ``signal`` or ``vector``.

        Raises:
            ValueError: there is none, with what there is.
        """
        for name, tower in self.towers.items():
            if tower.kind == kind:
                return name
        there = ", ".join(f"{name} ({tower.kind})" for name, tower in self.towers.items())
        raise ValueError(f"modalities: this method needs one of kind {kind!r}, and there are {there}")

    def attach(self, dim: int = 128, head: str = "linear") -> None:
        """Give each tower a new head into a space of ``dim`` dimensions; heads of that kind that are there stay.

        Args:
            dim: D.
            head: see :func:`~counterpoint.encoders.make_head`; CLIP's is linear, without bias here as there.
        """
        if (self.dim, self.head) == (dim, head):
            return
        self.dim, self.head = dim, head
        for tower in self.towers.values():
            width = tower.encoder.features
            made = nn.Linear(width, dim, bias=False) if head == "linear" else make_head(head, width, dim)
            tower.head = made

    def features(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``{name: h (B, F)}`` of the modalities that the batch holds."""
        return {name: tower.features(batch[name]) for name, tower in self.towers.items() if name in batch}

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: tower(batch[name]) for name, tower in self.towers.items() if name in batch}

    @torch.no_grad()
    def embed(self, name: str, x: Any, batch_size: int = 512) -> Tensor:
        """Unit vectors (N, D) float32 of N items of a modality, in evaluation mode and batches."""
        return nn.functional.normalize(TowerEncoder(self, name).embed(x, batch_size), dim=1)

    def save(self, folder: str | os.PathLike[str], **extra: Any) -> Path:
        """Write ``config.json``, ``model.safetensors`` and the tokenizers into a folder, each atomically."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        with atomic(folder / "model.safetensors") as file:
            file.write(save(weights, metadata={"format": "pt"}))
        for name, tower in self.towers.items():
            if isinstance(tower.encoder, TextEncoder):
                write_json(folder / f"tokenizer-{name}.json", tower.encoder.tokenizer.state())
        write_json(folder / "config.json", {"format": FORMAT, **self.config, "extra": {**self.extra, **extra}})
        return folder


def open_multimodal(folder: Path, config: dict[str, Any]) -> MultimodalEncoder:
    """What :meth:`MultimodalEncoder.save` wrote; see :func:`counterpoint.encoders.load` for errors."""
    from safetensors.torch import load_file

    towers: dict[str, Any] = {}
    for name, told in config["towers"].items():
        if told["modality"] == "text":
            state = json.loads((folder / f"tokenizer-{name}.json").read_text("utf-8"))
            towers[name] = text_encoder_of(told, Tokenizer.from_state(state))
        else:
            towers[name] = build(told["name"], told["shape"], **{**told["arguments"], "pretrained": False})
    encoder = _joined(MultimodalEncoder(towers), config.get("model"))
    if config["dim"] is not None:
        encoder.attach(config["dim"], config["head"])
    encoder.load_state_dict(load_file(folder / "model.safetensors"))
    encoder.extra = config.get("extra", {})
    return encoder


def _joined(encoder: MultimodalEncoder, about: Mapping[str, Any] | None) -> MultimodalEncoder:
    """Towers that a model binds together, told by a name that is known here; nothing in a config is imported."""
    if about is None:
        return encoder
    if about["name"] == "cosmo":
        from counterpoint.encoders.cosmo import CosMoEncoder

        return CosMoEncoder(encoder, **about["options"])
    if about["name"] == "staged":
        from counterpoint.encoders.staged import StagedEncoder

        return StagedEncoder(encoder, **about["options"])
    raise ValueError(f"model: {about['name']!r} is not known; it may be of a newer version of counterpoint")
