"""HTML that cannot be injected into: text is escaped unless its type says that it already is HTML.

Class names and file paths come from the user's data and may hold anything, ``<script>`` included. Every piece of the
page is therefore built by :func:`element`, which escapes each child and attribute that is not :class:`Html`.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "meta", "link", "circle", "line", "path", "rect", "image", "use"})
DASH = "–"
_UNWRITABLE = frozenset({"Cc", "Cs"})  # control characters, surrogates


class Html(str):
    """A string that already is HTML; the only kind of string that :func:`element` does not escape."""


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element, its children escaped unless they are :class:`Html`; ``None`` children and attributes are left out.

    Attribute names lose a trailing underscore (``class_``) and carry hyphens for inner ones (``aria_label``).
    """
    head = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID and name in {"br", "col", "hr", "img", "meta", "link"}:
        return Html(head)
    if name in _VOID and not children:
        return Html(head[:-1] + "/>")
    return Html(f"{head}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Children one after the other, nested iterables flattened, text escaped."""
    return Html("".join(_child(child) for child in children))


def _child(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return _printable(child)
    if isinstance(child, Iterable):
        return join(child)
    return _printable(str(child))


def _printable(text: str) -> str:
    # control characters are not allowed in HTML and lone surrogates (undecodable file names) not in UTF-8
    clean = "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNWRITABLE else "�" for c in text)
    return html.escape(clean)


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = coordinate(value)
    return f' {key}="{value if isinstance(value, Html) else _printable(str(value))}"'


def coordinate(value: float) -> str:
    """A coordinate for SVG with one decimal: a tenth of a pixel is more than the eye sees."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def known(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    try:
        return value is not None and math.isfinite(value)
    except TypeError:
        return False


def number(value: Any) -> str:
    """A figure for a reader: ``.972``, ``1.00``, ``12.3``, ``−2.41``, ``1,797``, ``5e−6``; a dash for none."""
    if not known(value):
        return DASH
    size = abs(float(value))
    if size == 0:
        return "0"
    if size < 0.0005:
        text = f"{size:.0e}".replace("e-0", "e−")
    elif size < 0.9995:
        text = f"{size:.3f}".removeprefix("0")
    elif size < 9.995:
        text = f"{size:.2f}"
    elif size < 99.95:
        text = f"{size:.1f}"
    else:
        text = f"{size:,.0f}"
    return f"−{text}" if value < 0 else text


def signed(value: Any) -> str:
    """A difference: as :func:`number`, with its sign."""
    return f"+{number(value)}" if known(value) and value > 0 else number(value)


def interval(low: Any, high: Any) -> str:
    """``.965 to .979``; a dash where there is none."""
    return f"{number(low)} to {number(high)}" if known(low) and known(high) else DASH


def probability(p: Any) -> str:
    """``p = .013``, ``p < .001``; a dash where there is none."""
    if not known(p):
        return DASH
    return "p < .001" if p < 0.001 else f"p = {number(p)}" if p < 0.9995 else "p = 1"


def duration(seconds: Any) -> str:
    """``0.4 s``, ``38 s``, ``4 min 10 s``, ``2 h 5 min``; a dash where there is none."""
    if not known(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of text: ``{"encoder": {"width": 32}}`` becomes ``{"encoder.width": "32"}``."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, float):
            flat[name] = f"{value:g}"
        elif isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
            flat[name] = ", ".join(str(item) for item in value) or DASH
        else:
            flat[name] = DASH if value is None else str(value)
    return flat


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
