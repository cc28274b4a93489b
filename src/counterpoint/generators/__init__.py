"""Generators: models that learn the distribution of some data and draw new items from it, without labels.

They are means, not ends: :func:`counterpoint.generate` trains one and keeps what it draws, and a method learns from
real and generated items together (:class:`counterpoint.data.InflatedDataset`). ``gmm`` is a mixture of Gaussians in the
space of the principal components, made in seconds; ``diffusion`` is a denoising diffusion model, made in minutes on
small images and hours on larger ones.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

_KINDS = {"gmm": ("mixture", "Mixture"), "diffusion": ("diffusion", "Diffusion")}

__all__ = ["get", "names"]


def names() -> list[str]:
    """Names of the generators."""
    return list(_KINDS)


def get(name: str) -> Any:
    """The class of a generator.

    Raises:
        ValueError: unknown name, with the nearest one.
    """
    if name not in _KINDS:
        near = difflib.get_close_matches(str(name).lower(), _KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"method: no generator {name!r}; {hint}there are: {', '.join(_KINDS)}")
    module, kind = _KINDS[name]
    return getattr(import_module(f"counterpoint.generators.{module}"), kind)
