"""A griffe extension that turns what our docstrings take from reStructuredText into Markdown.

Roles (``:func:`~counterpoint.data.load```) become code, ``::`` before a literal block one colon, and arguments that are
described together (``mean, std: of the training data``) an entry each, so that each finds its type and default.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`(~?)([^`]+)`")
LITERAL = re.compile(r"(?<=\S)::[ ]*$", re.MULTILINE)
GROUPED = re.compile(r"^( +)(\w+(?:, \w+)+):( .*(?:\n\1 +\S.*)*)", re.MULTILINE)
ARGUMENTS = re.compile(r"^(?:Args|Attributes):\n(?:(?: +\S.*)?\n?)+", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(inspect.cleandoc(obj.docstring.value))


def markdown(text: str) -> str:
    """A docstring in Markdown."""
    text = ROLE.sub(lambda found: f"`{found[2].rsplit('.', 1)[-1] if found[1] else found[2]}`", text)
    text = LITERAL.sub(":", text)
    return ARGUMENTS.sub(lambda found: GROUPED.sub(_apart, found[0]), text)


def _apart(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}:{text}" for name in names.split(", "))
