"""An encoder that standardises its input, knows how it was built, and survives on disk."""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import layers
from counterpoint.encoders.backbones import MLP, ConvNet, Given
from counterpoint.encoders.signals import LogMelNet, SignalNet
from counterpoint.files import atomic, write_json

FORMAT = 1
SIGNALS: dict[str, type[nn.Module]] = {"signalnet": SignalNet, "logmel": LogMelNet}
_EPS = 1e-3  # a constant channel is divided by this, not by zero
_UNSAFE = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir")


class Encoder(nn.Module):
    """A backbone behind a standardisation: ``backbone((x - mean) / std)``.

    Args:
        backbone: a module (B, *shape) -> (B, features).
        config: ``{"name", "shape", "modality", "arguments"}`` with which :func:`build` makes it again.
        features: F of the output.
        mean, std: of the training data: (C,) for images in [0, 1] and for signals, (F,) for vectors.

    Call it with float views, or with uint8 images, which are divided by 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        config: dict[str, Any],
        features: int,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.config, self.features = backbone, config, features
        self.shape, self.modality = tuple(config["shape"]), config["modality"]
        entries = (self.shape[0],)
        spread = (-1, *[1] * (len(self.shape) - 1))
        mean = torch.zeros(entries) if mean is None else torch.as_tensor(mean, dtype=torch.float32)
        std = torch.ones(entries) if std is None else torch.as_tensor(std, dtype=torch.float32)
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != entries or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected {entries} finite numbers, got {tuple(value.shape)}")
        self.register_buffer("mean", mean.reshape(spread))
        self.register_buffer("std", std.clamp(min=_EPS).reshape(spread))
        self._frozen: list[nn.Module] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = x.float() / 255
        return self.backbone((x - self.mean) / self.std)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.mean.device

    def tokens(self, x: Tensor) -> Tensor:
        """What the backbone has before it averages: (B, T, C), a vector for each place of an image or a signal.

        Of timm's models they are those of ``forward_features``, a class token included; of an MLP, the features (T=1).
        """
        if x.dtype == torch.uint8:
            x = x.float() / 255
        x = (x - self.mean) / self.std
        backbone: Any = self.backbone
        if isinstance(backbone, ConvNet):
            found = backbone.layers[:-2](x)
        elif hasattr(backbone, "maps"):
            found = backbone.maps(x)
        elif hasattr(backbone, "forward_features"):
            found = backbone.forward_features(x)
            last = found.ndim == 4 and found.shape[-1] == self.features != found.shape[1]
            found = found.flatten(1, 2) if last else found  # some of timm's keep channels last
        else:
            found = backbone(x)
        if found.ndim == 2:
            return found[:, None]
        return found if hasattr(backbone, "forward_features") and found.ndim == 3 else found.flatten(2).transpose(1, 2)

    def freeze(self, stages: int | None = None) -> None:
        """Keep the first stages of the backbone as they are: no gradient, and no running statistics that move.

        Args:
            stages: how many of :func:`~counterpoint.encoders.layers.stages`, with all that comes before them; ``None``:
                the whole backbone.

        Raises:
            ValueError: the backbone has fewer stages.
        """
        modules = list(self.backbone.modules())
        if stages is not None:
            known = list(layers.stages(self.backbone).values())
            if not 0 <= stages <= len(known):
                raise ValueError(f"freeze: expected 0 to {len(known)} stages, which this encoder has, got {stages}")
            last = list(known[stages - 1].modules())[-1] if stages else None
            modules = modules[: next((i + 1 for i, module in enumerate(modules) if module is last), 0)]
        for module in modules:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self._frozen = [module for module in modules if not any(module.children())]
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """As for any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @torch.no_grad()
    def embed(self, x: Tensor, batch_size: int = 512) -> Tensor:
        """Features (N, F) float32 of ``x`` in evaluation mode and batches; the mode it was in is restored."""
        training = self.training
        self.eval()
        try:
            return torch.cat([self(part).float() for part in x.split(batch_size)])
        finally:
            self.train(training)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Encoder:
        """Open a saved or exported encoder; :func:`load` under the name that readers of model cards expect."""
        return load(folder)

    def save(self, folder: str | os.PathLike[str], **extra: Any) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, each atomically.

        Args:
            folder: made if missing.
            extra: kept in the config under ``"extra"``, e.g. the method and the data it was trained on.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic(folder / "model.safetensors") as file:
            file.write(save(weights, metadata={"format": "pt"}))
        config = {"format": FORMAT, "features": self.features, **self.config, "extra": extra}
        write_json(folder / "config.json", config)
        return folder


def build(
    name: str,
    shape: Sequence[int],
    *,
    mean: Any = None,
    std: Any = None,
    pretrained: bool = False,
    **arguments: Any,
) -> Encoder:
    """Make an encoder by name.

    Args:
        name: ``"convnet"``, ``"mlp"``, a timm model such as ``"resnet18"`` (``timm:NAME`` if it is ours too), or
            ``"ensemble"`` of ``members``, each a mapping of ``name`` and ``arguments``; ``"pooled"``, an encoder ``of``
            images behind attentional poolers (:func:`~counterpoint.encoders.pool`); ``"signalnet"`` for signals,
            ``"logmel"`` for sound; ``"given"`` for vectors that another model made: they are the features.
        shape: of one item: (C, H, W) for images, (C, T) for signals, (F,) for vectors.
        mean, std: of the training data, see :class:`Encoder`.
        pretrained: timm only: download weights from the hub (tens to hundreds of MB), or take them from its cache.
        arguments: for the backbone: ``widths`` of ours, anything ``timm.create_model`` takes.

    Raises:
        ValueError: unknown name (with the nearest one), arguments that the backbone does not take, an image encoder
            for vectors.
        ImportError: a timm name without timm installed.
    """
    shape = tuple(int(side) for side in shape)
    modality = {1: "vector", 2: "signal", 3: "image"}.get(len(shape))
    if modality is None or min(shape) < 1:
        raise ValueError(f"shape: expected (C, H, W), (C, T) or (F,) of positive sizes, got {shape}")
    if name == "ensemble":
        return _ensemble(shape, mean, std, pretrained, **arguments)
    if name == "pooled":
        return _pooled(shape, mean, std, pretrained, **arguments)
    if name == "mlp":
        backbone: nn.Module = _call(MLP, name, torch.Size(shape).numel(), **arguments)
    elif modality == "signal":
        if name not in SIGNALS:
            raise ValueError(f"encoder: {name!r} takes no signals; there are {', '.join(SIGNALS)} and mlp")
        backbone = _call(SIGNALS[name], name, *shape, **arguments)
    elif modality == "vector" and name == "given":
        backbone, mean, std = _call(Given, name, shape[0], **arguments), None, None
    elif modality == "vector":
        raise ValueError(f"encoder: {name!r} takes images, and the data are vectors of {shape[0]} entries: use 'mlp'")
    elif name == "convnet":
        backbone = _call(ConvNet, name, shape[0], min(shape[1:]), **arguments)
    else:
        backbone = _timm(name.removeprefix("timm:"), shape, pretrained, arguments)
    if isinstance(backbone, ConvNet | MLP | SignalNet | LogMelNet):
        arguments["widths"] = list(backbone.widths)  # so that a later default does not change what is saved
    features = int(getattr(backbone, "features", 0) or getattr(backbone, "num_features"))  # noqa: B009
    config = {"name": name, "shape": list(shape), "modality": modality, "arguments": arguments}
    return Encoder(backbone, config, features, mean, std)


def _ensemble(
    shape: tuple[int, ...],
    mean: Any,
    std: Any,
    pretrained: bool,
    members: Sequence[dict[str, Any]] = (),
    normalize_each: bool = False,
) -> Encoder:
    from counterpoint.encoders.ensemble import ensemble

    for member in members:
        if not isinstance(member, dict) or not {"name"} <= set(member) <= {"name", "arguments"}:
            raise ValueError(f"members: expected a name, and arguments if any, for each, got {member!r}")
        if member["name"] == "ensemble":
            raise ValueError("members: an ensemble cannot be a member of another")
    # a file that is opened must not make anything be fetched, whatever its members say
    built = [{**member.get("arguments", {}), "pretrained": pretrained, "mean": mean, "std": std} for member in members]
    return ensemble(
        [build(member["name"], shape, **each) for member, each in zip(members, built, strict=True)], normalize_each
    )


def _pooled(
    shape: tuple[int, ...], mean: Any, std: Any, pretrained: bool, of: Any = "convnet", **arguments: Any
) -> Encoder:
    from counterpoint.encoders.poolers import pool

    of = {"name": of} if isinstance(of, str) else of
    if not isinstance(of, dict) or not {"name"} <= set(of) <= {"name", "arguments"}:
        raise ValueError(f"of: expected the name of an encoder, or its name and arguments, got {of!r}")
    inner = {**of.get("arguments", {}), "pretrained": pretrained, "mean": mean, "std": std}
    return pool(build(of["name"], shape, **inner), **arguments)


def _call(kind: type[nn.Module], name: str, *fixed: Any, **arguments: Any) -> nn.Module:
    known = list(inspect.signature(kind).parameters)[len(fixed) :]
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"encoder_options: {name} takes no {argument!r}, only {', '.join(known)}")
    return kind(*fixed, **arguments)


def _timm(name: str, shape: tuple[int, ...], pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"encoder: {name!r} is not one of convnet, mlp; timm's models need: pip install 'counterpoint[timm]'"
        ) from error
    if not timm.is_model(name.split(".")[0]):
        known = ["convnet", "mlp", *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(f"encoder: no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    for argument in _UNSAFE:
        if argument in arguments:
            raise ValueError(f"encoder_options: {argument!r} would load files that this library does not check")
    options = {"in_chans": shape[0], "num_classes": 0, "pretrained": pretrained, **arguments}
    try:
        return timm.create_model(name, **options, img_size=shape[1:])
    except TypeError:  # convolutional models take any size and no such argument
        return timm.create_model(name, **options)


def load(path: str | os.PathLike[str]) -> Any:
    """Open an encoder saved by :meth:`Encoder.save`, in evaluation mode; or one of several modalities.

    Args:
        path: the folder of an encoder, or of a run that holds one in ``encoder/``.

    Raises:
        FileNotFoundError: no encoder there.
        ValueError: the config or the weights are damaged, tampered with, or do not belong together. Nothing in the
            files is executed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    folder = folder / "encoder" if (folder / "encoder" / "config.json").exists() else folder
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"path: no encoder in {folder}: expected config.json and model.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if config["format"] > FORMAT:
            raise ValueError(f"written by a newer version of counterpoint (format {config['format']} > {FORMAT})")
        if config["name"] == "multimodal":
            from counterpoint.encoders.multimodal import open_multimodal

            return open_multimodal(folder, config).eval()
        encoder = build(config["name"], config["shape"], **{**config["arguments"], "pretrained": False})
        encoder.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: the encoder in {folder} cannot be opened: {error}") from error
    encoder.config["extra"] = config.get("extra", {})
    return encoder.eval()
