"""A pipeline is data: a list of transforms with their parameters, and views are a list of pipelines.

    Views([Pipeline([RandomResizedCrop(32), HorizontalFlip()])] * 2)

is the same thing as the configuration

    - - RandomResizedCrop: {size: 32, scale: [0.08, 1.0], ratio: [0.75, 1.3333]}
      - HorizontalFlip: {p: 0.5}
    - - RandomResizedCrop: ...

and each is made from the other by ``to_config`` and ``from_config``. Both are immutable, hashable, and equal when their
transforms are. A pipeline applies its transforms in order; neighbours that can be multiplied out (crop and flip, jitter
and grey) are, with the result they would have one by one - except that a run of colour transforms is clamped to [0, 1]
once, at its end.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from counterpoint.views import image, text, vector
from counterpoint.views.transform import Change, Dice, Fusible, Transform, check_batch, pair

TRANSFORMS: dict[str, type[Transform]] = {
    item.__name__: item
    for module in (image, vector, text)
    for item in vars(module).values()
    if isinstance(item, type) and issubclass(item, Transform) and hasattr(item, "modality")
}

TransformConfig = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Pipeline:
    """Transforms applied one after the other.

    Args:
        transforms: of one modality; none at all is the identity.

    Raises:
        ValueError: something that is no transform, or transforms of several modalities together.

    Example:
        >>> Pipeline([HorizontalFlip()])(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    transforms: tuple[Transform, ...] = ()

    def __init__(self, transforms: Iterable[Transform] = ()):
        object.__setattr__(self, "transforms", tuple(transforms))
        for transform in self.transforms:
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"transforms must hold transforms such as HorizontalFlip(), got {transform!r}; "
                    "Pipeline.from_config reads configurations."
                )
        modalities = sorted({transform.modality for transform in self.transforms})
        if len(modalities) > 1:
            raise ValueError(f"transforms must be of one modality, got {' and '.join(modalities)}: {self}.")

    @property
    def modality(self) -> str | None:
        """``"image"``, ``"vector"`` or ``"text"``; ``None`` for the identity, which takes any."""
        return self.transforms[0].modality if self.transforms else None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out, or ``None`` where it is what goes in."""
        sizes = [size for item in self.transforms if (size := getattr(item, "size", None)) is not None]
        return pair(sizes[-1]) if sizes else None

    def __call__(self, x: Any, generator: torch.Generator | None = None) -> Any:
        """Return a view of ``x``.

        Args:
            x: images (B, C, H, W), uint8 or floats in [0, 1]; vectors (B, F), floats; or texts, a list of B strings, or
                of B tuples of strings where items have several captions.
            generator: source of randomness; torch's global one by default.

        Returns:
            float32; images (B, C, H', W') in [0, 1], vectors (B, F). Of texts, a list of B strings: of several captions
            one, drawn unless the pipeline begins with ``Caption``.

        Raises:
            ValueError: a shape or dtype that the pipeline cannot take.
        """
        if self.modality == "text" or (self.modality is None and text.is_texts(x)):
            return self._texts(x, generator)
        x = as_float(x)
        if self.modality is not None:
            check_batch(x, self.modality)
        dice = Dice(x, generator)
        pending: Change | None = None
        for transform in self.transforms:
            joins = isinstance(transform, Fusible) and isinstance(pending, transform.change)
            if pending is not None and not joins:
                x, pending = pending(x), None
            if isinstance(transform, Fusible):
                pending = transform.extend(transform.change.start(x) if pending is None else pending, dice)
            else:
                x = transform.apply(x, dice)
        return x if pending is None else pending(x)

    def _texts(self, x: Any, generator: torch.Generator | None) -> list[str]:
        text.check_texts(x, several=True)
        transforms: list[Any] = list(self.transforms)
        if not (transforms and isinstance(transforms[0], text.Caption)) and not all(isinstance(t, str) for t in x):
            transforms.insert(0, text.Caption())
        dice, changed = Dice(x, generator), list(x)
        for transform in transforms:
            changed = transform.apply(changed, dice)
        return changed

    def to_config(self) -> list[TransformConfig]:
        """Return plain lists, dictionaries and numbers: ``[{"HorizontalFlip": {"p": 0.5}}, ...]``."""
        return [_plain(item) for item in self.transforms]

    @classmethod
    def from_config(cls, config: Sequence[str | Mapping[str, Any]]) -> Pipeline:
        """Read what :meth:`to_config` writes; parameters left out have their defaults, a bare name has all of them.

        Raises:
            ValueError: an unknown transform or parameter (the nearest name is suggested), or a value out of range.
        """
        if isinstance(config, str | Mapping) or not isinstance(config, Sequence):
            raise ValueError(f"a pipeline must be a list such as [{{'HorizontalFlip': {{'p': 0.5}}}}], got {config!r}.")
        return cls(_transform_from_config(item) for item in config)

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.transforms))}])"


@dataclass(frozen=True)
class Views:
    """Several views of each item, one per pipeline: ``views(x) -> [view 1, view 2, ...]``.

    Pipelines may differ (BYOL's two) and so may the sizes of what they return (SwAV's crops).

    Args:
        pipelines: at least one, all for the same modality.

    Raises:
        ValueError: no pipeline, or pipelines of images and of vectors together.
    """

    pipelines: tuple[Pipeline, ...]

    def __init__(self, pipelines: Iterable[Pipeline]):
        object.__setattr__(self, "pipelines", tuple(pipelines))
        if not self.pipelines or not all(isinstance(pipeline, Pipeline) for pipeline in self.pipelines):
            raise ValueError(f"pipelines must be a list of at least one Pipeline, got {list(self.pipelines)!r}.")
        modalities = sorted({pipeline.modality for pipeline in self.pipelines if pipeline.modality})
        if len(modalities) > 1:
            raise ValueError(f"pipelines must be of one modality, got {' and '.join(modalities)}.")

    @property
    def n(self) -> int:
        """Number of views, V."""
        return len(self.pipelines)

    @property
    def sizes(self) -> list[tuple[int, int] | None]:
        """(height, width) of each view; ``None`` where a view is as large as what goes in."""
        return [pipeline.size for pipeline in self.pipelines]

    @property
    def modality(self) -> str | None:
        """``"image"``, ``"vector"`` or ``"text"``; ``None`` where every pipeline is the identity."""
        return next((pipeline.modality for pipeline in self.pipelines if pipeline.modality), None)

    def __call__(self, x: Any, generator: torch.Generator | None = None) -> list[Any]:
        """Return V views of ``x``, each as :meth:`Pipeline.__call__` does."""
        x = x if text.is_texts(x) or self.modality == "text" else as_float(x)
        return [pipeline(x, generator) for pipeline in self.pipelines]

    def to_config(self) -> list[list[TransformConfig]]:
        """Return a list of pipelines, each as :meth:`Pipeline.to_config` writes it."""
        return [pipeline.to_config() for pipeline in self.pipelines]

    @classmethod
    def from_config(cls, config: Sequence[Sequence[str | Mapping[str, Any]]]) -> Views:
        """Read what :meth:`to_config` writes.

        Raises:
            ValueError: as :meth:`Pipeline.from_config`.
        """
        if isinstance(config, str | Mapping) or not isinstance(config, Sequence):
            raise ValueError(f"views must be a list of pipelines, each a list of transforms, got {config!r}.")
        return cls(Pipeline.from_config(pipeline) for pipeline in config)

    def __repr__(self) -> str:
        lines = "".join(f"  {pipeline!r},\n" for pipeline in self.pipelines)
        return f"Views([\n{lines}])"


def as_float(x: Tensor) -> Tensor:
    """Return ``x`` as float32, uint8 divided by 255; refuse other integers."""
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a torch.Tensor, got {type(x).__name__}; torch.as_tensor(x) makes one.")
    if x.dtype == torch.uint8:
        return x.float().div_(255)
    if not x.is_floating_point():
        raise ValueError(f"x must be uint8 or floating point, got {x.dtype}; pixels are 0..255 as uint8 or 0..1.")
    return x.float()


def _plain(value: Any) -> Any:
    """A parameter as a configuration has it; a transform, also one within another, as ``{name: parameters}``."""
    if isinstance(value, Transform):
        return {type(value).__name__: {field.name: _plain(getattr(value, field.name)) for field in fields(value)}}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _transform_from_config(item: str | Mapping[str, Any]) -> Transform:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ValueError(f"a transform must be a name or {{name: {{parameter: value}}}}, got {item!r}.")
    [(name, parameters)] = item.items()
    if name not in TRANSFORMS:
        raise ValueError(f"unknown transform {name!r}{nearest(name, TRANSFORMS)}")
    kind = TRANSFORMS[name]
    known = {field.name: field for field in fields(kind)}
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise ValueError(f"{name}: parameters must be {{parameter: value}}, got {parameters!r}.")
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"{name}: unknown parameter {parameter!r}{nearest(parameter, known)}")
    for field in known.values():
        if field.default is MISSING and field.name not in parameters:
            raise ValueError(f"{name}: parameter {field.name!r} is missing and has no default.")
    inner = parameters.get("transforms")
    if isinstance(inner, list | tuple):
        made = [item if isinstance(item, Transform) else _transform_from_config(item) for item in inner]
        parameters = {**parameters, "transforms": tuple(made)}
    return kind(**parameters)


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known name where one is near, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), [item.lower() for item in known], 1)
    hint = next((f"; did you mean {item!r}?" for item in known if close and item.lower() == close[0]), ".")
    return f"{hint} Known: {', '.join(known) or 'none'}."
