"""Several lines in one figure, each with its name at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from counterpoint.web.axes import LETTER, Chart, Scale, extent, plain, polyline, spread, text, ticks
from counterpoint.web.content import Array
from counterpoint.web.figures import COLOURS, Series, short
from counterpoint.web.markup import Html, element, known, number

LINEAR = 0.01  # values nearer to 0 than this are drawn on a linear scale, others on a logarithmic one
WIDTH = 400
_POINTS = 400  # of a line: more are averaged, so that a long training stays a readable figure of some kilobytes


def bent(value: float) -> float:
    """A position on the scale that is logarithmic but around 0, where it is linear and goes on below."""
    return math.asinh(value / LINEAR)


def curves(
    lines: Sequence[Series],
    x_title: str,
    y_title: str,
    signed: bool,
    width: float = WIDTH,
    shared: tuple[Sequence[float], Sequence[float]] = ((), ()),
    named: str | None = None,
    log: bool = False,
) -> Html:
    """Lines that carry their names at the end.

    Args:
        lines: to be drawn.
        x_title, y_title: of the axes.
        signed: whether y is on the scale of :func:`bent`.
        width: of the figure.
        shared: values of x and y that must find room too, where several figures have one scale.
        named: what the names are values of, written above them.
        log: whether x is logarithmic, with a tick at each value.
    """
    place: Callable[[float], float] = bent if signed else float
    xs, ys = [*shared[0], *(x for s in lines for x in s.x)], [*shared[1], *(y for s in lines for y in s.y)]
    low, high = extent([place(y) for y in ys if known(y)], 0.04)
    values = _ticks(low, high) if signed else ticks(low, high, 5)
    labels = [plain(v) for v in values]
    left = 14 + LETTER * max((len(label) for label in labels), default=3)
    right = width - 14 - LETTER * max(max(len(short(line.name)) for line in lines), len(named or ""))
    start, end = (min(xs), max(xs)) if log else extent([x for x in xs if known(x)], 0.02)
    height = 0.7 * width
    base = height - 38
    described = f"{y_title} by {x_title}: {'; '.join(_described(line) for line in lines)}"
    chart = Chart(Scale(start, end, left, right, log), Scale(low, high, base, 24), width, height, described)
    chart.axis_y([place(v) for v in values], y_title, labels)
    at = sorted(set(xs)) if log else ticks(start, end, 5)
    chart.axis_x(at, x_title, [plain(v) for v in at])
    if signed and low < 0 < high:
        zero = chart.y(0.0)
        chart.add(element("line", x1=chart.x.start, x2=chart.x.end, y1=zero, y2=zero, class_="axis"))
    ends = []
    for line in lines:
        points = [(chart.x(x), chart.y(place(y))) for x, y in zip(line.x, line.y, strict=True) if known(y)]
        style = f"line c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
        chart.add(element("path", d=polyline(points), class_=style))
        if log:
            dots = (element("circle", cx=x, cy=y, r="3", class_=f"dot c{line.colour % COLOURS}") for x, y in points)
            chart.add(*dots)
        ends.append(points[-1] if points else (right, base))
    if named:
        chart.add(text(right + 7, 11, named, "t title"))
    for line, (x, y), to in zip(lines, ends, spread([y for _, y in ends], 13, 26, base), strict=True):
        chart.add(element("path", d=polyline([(x, y), (right + 4, to)]), class_="leader"))
        chart.add(text(right + 7, to + 3.5, short(line.name), f"t name c{line.colour % COLOURS}"))
    return chart.svg()


def thinned(values: Array) -> Array:
    """At most 400 values: the means of as many stretches; NaN where a stretch has no number."""
    if len(values) <= _POINTS:
        return values
    parts = np.array_split(values, _POINTS)
    return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


def _ticks(low: float, high: float) -> list[float]:
    powers = [10.0**power for power in range(-1, 7)]
    values = [*(-v for v in reversed(powers)), 0.0, *powers]
    return [v for v in values if low <= bent(v) <= high]


def _described(line: Series) -> str:
    ends = [(x, y) for x, y in zip(line.x, line.y, strict=True) if known(y)]
    if not ends:
        return line.name
    first, last = (f"{number(y)} at {number(x)}" for x, y in (ends[0], ends[-1]))
    return f"{line.name} from {first} to {last}"
