"""A paper as a trainable thing: one file a method, in folders by field.

The file ``methods/<field>/<name>.py`` holds one subclass of :class:`Method`; its name on the command line is the
file's. So adding a paper is adding a file: nothing has to be registered. A method of your own is named by
``"module:Class"``, or handed over as the class itself.

A method is a plain LightningModule. It takes an encoder, views and its paper's parameters, and defines ``loss``.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.methods.base import Method, Recipe

__all__ = ["Method", "Recipe", "get", "names"]


def names() -> dict[str, str]:
    """Names of all methods with the module that holds each; read from the folder, nothing is imported."""
    root = Path(__file__).parent
    return {
        file.stem: f"counterpoint.methods.{file.parent.name}.{file.stem}"
        for file in sorted(root.glob("*/*.py"))
        if not file.stem.startswith("_")
    }


def get(method: str | type[Method]) -> type[Method]:
    """The class of a method, by name, by ``"module:Class"``, or given.

    Raises:
        ValueError: unknown name, with the nearest one.
    """
    from counterpoint.methods.base import Method

    if isinstance(method, type) and issubclass(method, Method):
        return method
    if not isinstance(method, str):
        raise ValueError(f"method: expected a name or a subclass of Method, got {method!r}")
    if ":" in method:
        module, _, name = method.partition(":")
        found = getattr(import_module(module), name, None)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise ValueError(f"method: {method!r} is no subclass of counterpoint.methods.Method")
        return found
    known = names()
    if method not in known:
        near = difflib.get_close_matches(method.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"method: no method {method!r}; {hint}There are: {', '.join(known)}")
    found = [
        value
        for value in vars(import_module(known[method])).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == known[method]
    ]
    (only,) = found
    return only


def __getattr__(name: str) -> Any:
    if name in ("Method", "Recipe"):
        return getattr(import_module("counterpoint.methods.base"), name)
    raise AttributeError(f"module 'counterpoint.methods' has no attribute {name!r}")
