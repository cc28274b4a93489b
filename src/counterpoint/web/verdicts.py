"""All measured claims in one picture: a row for a claim, a mark for each of its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.web.axes import LETTER, Scale
from counterpoint.web.markup import Html, element, interval, join, signed

ROW, WIDTH, FAR = 21.0, 420.0, 6.0
COLOURS = {"holds": "#1b7f4b", "inconclusive": "#6b7280", "fails": "#c2332b"}
_INK, _FAINT = "#1f2937", "#d1d5db"
_SAID = "How far each difference lies from what its claim asks for, in half-widths of its interval; 6 and beyond as 6"


def verdicts(claims: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Html:
    """A picture that stands alone, for a page in Markdown.

    A difference and its interval are in units of their metric; here they are put on one scale: the distance of the
    difference from what the claim asks for, in half-widths of the interval. Above 1 it holds, below -1 it fails, and in
    between nothing was shown.

    Args:
        claims: a name, and the settings as the result file has them, for each row, top down. A setting without an
            interval, or with one of no width, has its place by its verdict alone.
    """
    left = 12 + LETTER * max((len(name) for name, _ in claims), default=0)
    x = Scale(-FAR, FAR, left + 8, left + WIDTH)
    height = 46 + ROW * len(claims) + 44
    bottom = height - 44
    marks = [element("rect", width=left + WIDTH + 14, height=height, fill="#ffffff"), *_legend(left)]
    marks += [
        element("rect", x=x(-1.0), width=x(1.0) - x(-1.0), y=34.0, height=bottom - 34, fill="#f3f4f6"),
        *(_line(x(v), bottom, v) for v in (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)),
        _text(
            (x(-FAR) + x(FAR)) / 2, height - 8, "half-widths of the 95 % interval beyond what is asked for", "middle"
        ),
    ]
    for row, (name, settings) in enumerate(claims):
        y = 46 + ROW * (row + 0.5)
        marks += [_text(left - 4, y + 4, name, "end"), *_row(settings, x, y)]
    size = {"width": left + WIDTH + 14, "height": height}
    box = f"0 0 {size['width']:.0f} {height:.0f}"
    about = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "role": "img", "aria_label": _SAID}
    return element("svg", join(marks), **about, **size, font_family="system-ui, sans-serif", font_size="11")


def _row(settings: Sequence[Mapping[str, Any]], x: Scale, y: float) -> list[Html]:
    measured = sorted((entry for entry in settings if entry["verdict"] in COLOURS), key=_distance)
    places: list[float] = []
    marks = []
    for entry in measured:
        at = x(_distance(entry))
        near = sum(abs(at - other) < 6 for other in places)
        places.append(at)
        said = f"{entry['name']}: {entry['metric']} {signed(entry['effect'])} {interval(entry['low'], entry['high'])}"
        marks.append(_mark(entry["verdict"], at, y + (0, -5, 5)[near % 3], f"{said}, {entry['verdict']}"))
    return marks


def _distance(entry: Mapping[str, Any]) -> float:
    """Half-widths between the difference and what is asked for, positive where the claim is right, at most FAR."""
    by_verdict = {"holds": FAR, "fails": -FAR, "inconclusive": 0.0}[entry["verdict"]]
    if entry["low"] is None or entry["high"] is None or not entry["high"] > entry["low"]:
        return by_verdict
    gain = entry["effect"] if entry["higher_is_better"] else -entry["effect"]
    distance = (gain - entry["at_least"]) / ((entry["high"] - entry["low"]) / 2)
    return float(min(max(distance, -FAR), FAR))


def _mark(verdict: str, x: float, y: float, said: str) -> Html:
    """Told apart by their shape as well: a disc, a ring, a cross."""
    title, colour = element("title", said), COLOURS[verdict]
    if verdict == "fails":
        d = f"M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m0 -7l-7 7"
        return element("path", title, d=d, stroke=colour, stroke_width="2", fill="none")
    fill = colour if verdict == "holds" else "#ffffff"
    return element("circle", title, cx=x, cy=y, r="3.6", fill=fill, stroke=colour, stroke_width="1.6")


def _legend(left: float) -> list[Html]:
    marks, at = [], left + 12
    for verdict in COLOURS:
        marks += [_mark(verdict, at, 16.0, verdict), _text(at + 9, 20.0, verdict)]
        at += 34 + LETTER * len(verdict)
    return marks


def _line(x: float, bottom: float, value: float) -> Html:
    ink = _INK if value == 0 else _FAINT
    line = element("line", x1=x, x2=x, y1=34.0, y2=bottom, stroke=ink, stroke_width="1" if value == 0 else "0.6")
    return join([line, _text(x, bottom + 15, f"{value:+.0f}" if value else "0", "middle")])


def _text(x: float, y: float, content: str, anchor: str = "start") -> Html:
    return element("text", content, x=x, y=y, fill=_INK, text_anchor=anchor)
