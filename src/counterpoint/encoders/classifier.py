"""Trained encoders that name classes: the linear classifier of a fine-tuned run, on disk and in use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.encoders.encoder import FORMAT, Encoder, load
from counterpoint.files import atomic, write_json


class Predictions(NamedTuple):
    """What a classifier says of N items."""

    names: list[str]  # of the most probable class of each
    probabilities: Tensor  # (N, C) float32, rows sum to 1, in the order of Classifier.classes


class Classifier(nn.Module):
    """An encoder with a linear classifier on its features.

    Args:
        encoder: (B, *shape) -> (B, F).
        linear: (B, F) -> (B, C).
        classes: names of the C classes.

    Raises:
        ValueError: numbers of features or classes that do not fit together.
    """

    def __init__(self, encoder: Encoder, linear: nn.Linear, classes: Sequence[str]) -> None:
        super().__init__()
        if linear.in_features != encoder.features or linear.out_features != len(classes):
            raise ValueError(
                f"linear: expected {encoder.features} features and {len(classes)} classes, got {linear.in_features} "
                f"and {linear.out_features}"
            )
        self.encoder, self.linear, self.classes = encoder, linear, list(map(str, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.linear(self.encoder(x))

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 512) -> Predictions:
        """Names and probabilities of items ``x`` (N, *shape), uint8 or as the encoder takes them, in evaluation mode.

        The probabilities are the softmax of the logits; nothing was done to calibrate them.
        """
        logits = self.linear(self.encoder.embed(x, batch_size))
        probabilities = logits.float().softmax(1).cpu()
        return Predictions([self.classes[c] for c in probabilities.argmax(1).tolist()], probabilities)


class MultimodalClassifier(nn.Module):
    """A trained model that names the classes of items of several modalities, any of which they may lack.

    Args:
        model: whose ``predict(batch)`` gives logits (B, C), as the methods ``fusion`` and ``m3col`` do.
        classes: names of the C classes.
    """

    def __init__(self, model: Any, classes: Sequence[str]) -> None:
        super().__init__()
        self.model, self.classes = model, list(map(str, classes))

    @property
    def encoder(self) -> Any:
        """Of all modalities."""
        return self.model.encoder

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (B, C)."""
        return self.model.predict(batch)

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any], batch_size: int = 512) -> Predictions:
        """Names and probabilities of N items, in evaluation mode.

        Args:
            batch: the items' values by modality, as a data set gives them, and ``batch["present"]``, bool (N,) by
                modality, where some lack one. A modality that no item has is left out.
            batch_size: items at a time.

        Raises:
            ValueError: a batch without any of the modalities.

        What stands in for a missing modality is the model's. The probabilities are the softmax of the logits; nothing
        was done to calibrate them.
        """
        items = max((len(value) for name, value in batch.items() if name in self.encoder.towers), default=0)
        parts = [self(_rows(batch, at, at + batch_size)) for at in range(0, max(items, 1), batch_size)]
        probabilities = torch.cat(parts).float().softmax(1).cpu()
        return Predictions([self.classes[c] for c in probabilities.argmax(1).tolist()], probabilities)


def _rows(value: Any, start: int, stop: int) -> Any:
    return {k: _rows(v, start, stop) for k, v in value.items()} if isinstance(value, Mapping) else value[start:stop]


def save_classifier(linear: nn.Linear, classes: Sequence[str], folder: str | os.PathLike[str]) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a linear classifier into ``folder``, each atomically."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in linear.state_dict().items()}
    with atomic(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    write_json(folder / "config.json", {"format": FORMAT, "classes": list(classes), "features": linear.in_features})


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Open the encoder and the classifier of a run, in evaluation mode.

    Args:
        path: folder of a run that was trained by a method with a classifier.

    Raises:
        FileNotFoundError: there is no classifier, or no encoder.
        ValueError: files that are damaged or do not belong together. Nothing in them is executed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path) / "classifier"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"path: no classifier in {path}: fine-tune its encoder first, or train one with method supervised"
        )
    encoder = load(path)
    if encoder.modality == "multimodal":
        raise ValueError(f"path: the classifier in {folder} is of several modalities: open it by Run({path!s})")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        weights = load_file(folder / "model.safetensors")
        linear = nn.Linear(config["features"], len(config["classes"]), bias="bias" in weights)
        linear.load_state_dict(weights)
        return Classifier(encoder, linear, config["classes"]).eval()
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: the classifier in {folder} cannot be opened: {error}") from error
