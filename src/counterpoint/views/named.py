"""How a word in a configuration becomes views: names, lists of transforms, and what is chosen for a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from counterpoint.views import pipelines, row_pipelines
from counterpoint.views.pipeline import TRANSFORMS, Pipeline, Views, nearest
from counterpoint.views.pipelines import TINY, Size
from counterpoint.views.transform import is_size, pair

_NAMED: dict[str, dict[str, Callable[..., Views]]] = {
    "image": {
        "simclr": pipelines.simclr,
        "mocov2": pipelines.mocov2,
        "byol": pipelines.byol,
        "swav": pipelines.swav,
        "groco": pipelines.groco,
        "hallucinator": pipelines.hallucinator,
        "simclr_strong": pipelines.simclr_strong,
        "simclr_weak": pipelines.simclr_weak,
        "asymmetric": pipelines.asymmetric,
        "adainf": pipelines.adainf,
        "adainf_asymmetric": pipelines.adainf_asymmetric,
        "digits": pipelines.digits,
        "rocket": pipelines.rocket,
        "slip": pipelines.slip,
        "none": pipelines.none,
    },
    "vector": {
        "scarf": row_pipelines.scarf,
        "adainf": row_pipelines.adainf_vectors,
        "rocket": row_pipelines.rocket_vectors,
        "slip": row_pipelines.rocket_vectors,
    },
    "text": {"eda": row_pipelines.eda, "rocket": row_pipelines.rocket_texts},
}
_ANY: dict[str, Callable[..., Views]] = {"identity": pipelines.identity}


def names(modality: str | None = None) -> list[str]:
    """Return the names that :func:`resolve` knows, for one modality or for all."""
    kinds = [_NAMED[modality]] if modality else list(_NAMED.values())
    return sorted([name for kind in kinds for name in kind] + list(_ANY))


def resolve(
    spec: str | Mapping[str, Any] | Sequence[Any] | Views, modality: str, shape: Sequence[int], size: Size | None = None
) -> Views:
    """Return the views that ``spec`` means for data of this shape.

    Args:
        spec: one of

            - ``"auto"``: for images "simclr", or "digits" where they are grey or at most 16 pixels small; "scarf" for
              vectors; "eda" for texts;
            - a name of :func:`names`;
            - a name with parameters, ``{"simclr": {"strength": 0.5}}``; ``count`` asks for so many views, the name's
              pipelines taken in turn: ``{"simclr": {"count": 4}}``;
            - a list of transforms, ``[{"HorizontalFlip": {"p": 0.5}}, ...]``: two views by the same pipeline;
            - a list of such lists, one per view, as :meth:`Views.to_config` writes it;
            - :class:`Views`, returned as they are.
        modality: ``"image"``, ``"vector"`` or ``"text"``.
        shape: of one item, (C, H, W) or (F,); of texts, which have none, it is not looked at.
        size: side, or (height, width), of named image views; the image's own by default.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or views of another modality.
    """
    if modality not in _NAMED:
        raise ValueError(f"modality must be 'image', 'vector' or 'text', got {modality!r}.")
    if modality != "text" and len(shape) != (3 if modality == "image" else 1):
        raise ValueError(f"shape must be {'(C, H, W)' if modality == 'image' else '(F,)'}, got {tuple(shape)}.")
    views = _views(spec, modality, shape, size)
    if views.modality not in (None, modality):
        raise ValueError(f"views: these are for {views.modality}s, and the data are {modality}s; got {spec!r}.")
    return views


def _views(spec: Any, modality: str, shape: Sequence[int], size: Size | None) -> Views:
    if isinstance(spec, Views):
        return spec
    if isinstance(spec, str):
        return _named(_automatic(modality, shape) if spec == "auto" else spec, {}, modality, shape, size)
    if isinstance(spec, Mapping) and len(spec) == 1:
        [(name, parameters)] = spec.items()
        name = _automatic(modality, shape) if name == "auto" else name
        if name in TRANSFORMS:
            return Views([Pipeline.from_config([spec])] * 2)
        return _named(name, dict(parameters or {}), modality, shape, size)
    if isinstance(spec, Sequence) and spec:
        if all(isinstance(item, Sequence) and not isinstance(item, str) for item in spec):
            return Views.from_config(spec)
        return Views([Pipeline.from_config(spec)] * 2)
    raise ValueError(
        f"views must be 'auto', a name ({', '.join(names(modality))}), {{name: parameters}}, a list of transforms, "
        f"a list of such lists, or Views; got {spec!r}."
    )


def _automatic(modality: str, shape: Sequence[int]) -> str:
    if modality in ("vector", "text"):
        return "scarf" if modality == "vector" else "eda"
    return "digits" if shape[0] == 1 or min(shape[1:]) <= TINY else "simclr"


def _named(name: str, parameters: dict[str, Any], modality: str, shape: Sequence[int], size: Size | None) -> Views:
    if name in _ANY:
        place: dict[str, Any] = {}
    elif name not in _NAMED[modality]:
        raise ValueError(f"views: unknown name {name!r} for {modality}s{nearest(name, ['auto', *names(modality)])}")
    elif modality == "image":
        chosen = parameters.pop("size", size)
        place = {"size": _size(tuple(shape[1:]) if chosen is None else chosen), "channels": shape[0]}
    else:
        place = {}
    count = parameters.pop("count", None)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"views: expected a count of at least 1, got {count!r}.")
    try:
        made = {**_NAMED[modality], **_ANY}[name](**place, **parameters)
        return made if count is None else Views(made.pipelines[i % made.n] for i in range(count))
    except TypeError as error:
        raise ValueError(f"views: {name} cannot take {parameters!r}: {error}.") from error


def _size(size: Any) -> Size:
    size = tuple(size) if isinstance(size, list) else size
    if not is_size(size):
        raise ValueError(f"size must be a positive whole number or two of them, got {size!r}.")
    height, width = pair(size)
    return height if height == width else (height, width)
