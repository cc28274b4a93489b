"""Views of items of several modalities: a pipeline for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from counterpoint.views.named import names as known_names
from counterpoint.views.named import resolve

SMALL = 16  # pixels; of smaller images nothing is cut away
WITH_VIEWS = ("image", "vector", "text")


class ModalityViews:
    """Views of each modality of a batch.

    Args:
        pipelines: by name, a callable from a batch of the modality to its views; what has none is taken as it is.
        specs: what the pipelines were made of, for a config.

    ``views(batch, names)`` gives a list of dicts, the views: the first holds the first view of every modality, and so
    on. A modality with fewer views than another begins anew with its first.
    """

    def __init__(self, pipelines: Mapping[str, Any], specs: Mapping[str, Any] | None = None) -> None:
        self.pipelines, self.specs = dict(pipelines), dict(specs or {})

    def __call__(self, batch: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
        made: dict[str, Sequence[Any]] = {}
        for name in names:
            if name in batch:
                pipeline = self.pipelines.get(name)
                made[name] = [batch[name]] if pipeline is None else list(pipeline(batch[name]))
        count = max(map(len, made.values()), default=0)
        return [{name: views[at % len(views)] for name, views in made.items()} for at in range(count)]

    def to_config(self) -> dict[str, Any]:
        """What :func:`resolve_each` takes."""
        return {name: pipeline.to_config() for name, pipeline in self.pipelines.items() if pipeline is not None}


class _First:
    """The first of a pipeline's views."""

    def __init__(self, views: Any) -> None:
        self.views = views

    def __call__(self, x: Tensor) -> list[Any]:
        return list(self.views(x))[:1]

    def to_config(self) -> Any:
        return self.views.to_config()[:1]


def resolve_each(spec: Any, kinds: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> ModalityViews:
    """The views that ``spec`` means for modalities of these kinds and shapes.

    Args:
        spec: ``"auto"``: of images a crop of at least half of the area, as in the recipes of CLIP, where they are
            larger than 16 pixels, and all else as it is; ``"none"``: everything as it is; another name, with or without
            parameters, such as ``"rocket"`` or ``{"rocket": {"local": 3}}``: the pipelines of this name of all
            modalities that have one, the others being as they are; or a mapping from names of modalities to what
            :func:`~counterpoint.views.resolve` takes. A single list of transforms is one view.
        kinds, shapes: of the data.

    Raises:
        ValueError: a name that is no modality, or views that do not fit one.
    """
    if isinstance(spec, ModalityViews):
        return spec
    if spec in ("none", "identity"):
        return ModalityViews({})
    if spec == "auto":
        spec = {
            name: [[{"RandomResizedCrop": {"size": list(shapes[name][1:]), "scale": [0.5, 1.0]}}]]
            for name, kind in kinds.items()
            if kind == "image" and min(shapes[name][1:]) > SMALL
        }
    spec = _of_every_kind(spec, kinds)
    if not isinstance(spec, Mapping):
        raise ValueError(f"views: expected auto, none, or a pipeline for each of {', '.join(kinds)}, got {spec!r}")
    pipelines: dict[str, Any] = {}
    for name, wanted in spec.items():
        if name not in kinds:
            raise ValueError(f"views: there is no modality {name!r}; there are {', '.join(kinds)}")
        if wanted in (None, "none"):
            continue
        if kinds[name] not in WITH_VIEWS:
            raise ValueError(f"views: there are none for {kinds[name]}s; leave {name!r} out")
        views = resolve(wanted, modality=kinds[name], shape=shapes[name])
        single = isinstance(wanted, Sequence) and not isinstance(wanted, str) and not isinstance(wanted[0], Sequence)
        pipelines[name] = _First(views) if single else views
    return ModalityViews(pipelines, spec)


def _of_every_kind(spec: Any, kinds: Mapping[str, str]) -> Any:
    """For the name of pipelines, with parameters or without, a mapping from the modalities that have one of it."""
    name = spec if isinstance(spec, str) else next(iter(spec)) if isinstance(spec, Mapping) and len(spec) == 1 else None
    if name is None or name in kinds:
        return spec
    having = [key for key, kind in kinds.items() if kind in WITH_VIEWS and name in known_names(kind)]
    return {key: spec for key in having} if having else spec
