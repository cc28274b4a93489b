"""The figures, as inline SVG.

Colours are classes (``c0`` to ``c9``) whose values the style sheet sets for light and dark. They differ in lightness
as well as hue, so that they stay apart without colour vision; no figure says anything by colour alone: lines carry
their name, classes beyond ten change shape, right and wrong carry a sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.web.axes import LETTER, Chart, Scale, extent, log_ticks, polyline, spread, text, tick_labels, ticks
from counterpoint.web.content import Array
from counterpoint.web.markup import Html, coordinate, duration, element, known, number

COLOURS = 10
SPECTRUM_FLOOR = 1e-5


@dataclass(frozen=True)
class Series:
    """A named line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


def percent(value: float) -> str:
    """A position in a figure that stretches with its column."""
    return f"{coordinate(value)}%"


def interval_mark(
    mean: float | None,
    low: float | None,
    high: float | None,
    seeds: Sequence[float],
    scale: Scale,
    label: str,
    grid: Sequence[float] = (),
    zero: bool = False,
) -> Html:
    """A row of a forest plot: each seed a tick, the interval a line, the mean a dot. ``scale`` ends in percent."""
    marks = [
        element("line", x1=percent(scale(v)), x2=percent(scale(v)), y1="-13%", y2="113%", class_="grid") for v in grid
    ]
    if zero:
        at = percent(scale(0))
        marks.append(element("line", x1=at, x2=at, y1="-13%", y2="113%", class_="zero"))
    for seed in seeds:
        if known(seed):
            at = percent(scale(seed))
            marks.append(element("line", x1=at, x2=at, y1="30%", y2="70%", class_="seed"))
    if known(low) and known(high):
        start, end = percent(scale(low)), percent(scale(high))  # type: ignore[arg-type]
        marks.append(element("line", x1=start, x2=end, y1="50%", y2="50%", class_="interval"))
    if known(mean):
        marks.append(element("circle", cx=percent(scale(mean)), cy="50%", r="4.5", class_="mean"))  # type: ignore[arg-type]
    return element("svg", marks, class_="forest", role="img", aria_label=label)


def interval_axis(scale: Scale, values: Sequence[float], labels: Sequence[str]) -> Html:
    """The axis under the rows of :func:`interval_mark`."""
    marks = []
    for value, label in zip(values, labels, strict=True):
        at = percent(scale(value))
        marks.append(element("line", x1=at, x2=at, y1="0", y2="4", class_="axis"))
        marks.append(element("text", label, x=at, y="17", class_="t", text_anchor="middle"))
    return element(
        "svg", marks, class_="forest foot", role="img", aria_label="axis from " + " to ".join(labels[::99] or labels)
    )


def curve(series: Series, label: str, others: Sequence[Series] = (), shared: tuple[float, float] | None = None) -> Html:
    """A small multiple: one line over epochs, in front of the others in grey. One epoch is a dot.

    Args:
        series: the line.
        label: of the y axis.
        others: drawn behind for comparison.
        shared: y range common to several charts; its own otherwise.
    """
    own = {value for value in series.y if known(value)}
    low, high = shared or extent(list(own))
    steps = [x for line in (series, *others) for x in line.x]
    first, last = min(steps, default=0), max(steps, default=1)
    if first == last:
        first, last = first - 0.5, last + 0.5
    values = sorted(own) if shared is None and len(own) == 1 else ticks(low, high, 4)  # of what never changes, itself
    left = 14 + LETTER * max(map(len, tick_labels(values)), default=3)
    chart = Chart(Scale(first, last, left, 250), Scale(low, high, 128, 22), 260, 160, _curve_label(series, label))
    chart.axis_y(values, label)
    whole = [v for v in ticks(first, last, 5) if v == int(v)]
    chart.axis_x(whole, "epoch", [f"{v:.0f}" for v in whole])
    for line in (*others, series):
        points = [(chart.x(x), chart.y(y) if known(y) else math.nan) for x, y in zip(line.x, line.y, strict=True)]
        style = f"line c{series.colour % COLOURS}" if line is series else "line other"
        chart.add(element("path", d=polyline(points), class_=style))
        seen = [point for point in points if math.isfinite(point[1])]
        if line is series and seen:
            chart.add(
                element("circle", cx=seen[-1][0], cy=seen[-1][1], r="3", class_=f"dot c{series.colour % COLOURS}")
            )
    return chart.svg()


def _curve_label(series: Series, label: str) -> str:
    seen = [value for value in series.y if known(value)]
    span = f"from {number(seen[0])} to {number(seen[-1])}" if seen else "without values"
    return f"{label} of {series.name} over {len(series.x)} epochs, {span}"


def spectra(lines: Sequence[Series]) -> Html:
    """Singular values relative to the largest, on a logarithmic axis; each line carries its name."""
    depth = max((max(line.x, default=1) for line in lines), default=1)
    low = min((v for line in lines for v in line.y if known(v) and v > SPECTRUM_FLOOR), default=0.1)
    bottom = max(SPECTRUM_FLOOR, 10.0 ** math.floor(math.log10(min(low, 0.1))))
    named = len(lines) > 1
    right = 420 - (16 + LETTER * max((len(short(line.name)) for line in lines), default=0) if named else 12)
    names = ", ".join(line.name for line in lines)
    chart = Chart(
        Scale(1, max(depth, 2), 50, right), Scale(bottom, 1.0, 260, 24, True), 420, 298, f"Spectra of {names}"
    )
    powers = log_ticks(bottom, 1.0)
    chart.axis_y(powers, "singular value ÷ largest", [f"{v:g}" for v in powers])
    whole = sorted({1.0, *(v for v in ticks(1, max(depth, 2), 5) if v == int(v))})
    chart.axis_x(whole, "dimension", [f"{v:.0f}" for v in whole])
    ends = []
    for line in lines:
        points = [(chart.x(x), chart.y(max(y, bottom))) for x, y in zip(line.x, line.y, strict=True) if known(y)]
        style = f"line c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
        chart.add(element("path", d=polyline(points), class_=style))
        ends.append(points[-1] if points else (chart.x.start, chart.y.start))
    if named:
        places = spread([y for _, y in ends], 13, 24, 260)
        for line, (x, y), place in zip(lines, ends, places, strict=True):
            chart.add(element("path", d=polyline([(x, y), (right + 4, place)]), class_="leader"))
            chart.add(text(right + 7, place + 3.5, short(line.name), f"t name c{line.colour % COLOURS}"))
    return chart.svg()


def cost(points: Mapping[str, tuple[float, float, float | None, float | None]], title: str) -> Html:
    """Seconds of training against quality, with intervals: up and left is better. ``{name: (s, mean, low, high)}``."""
    seconds = [max(point[0], 1e-3) for point in points.values()]
    low, high = min(seconds) / 1.6, max(seconds) * 1.6
    bottom, top = extent([v for point in points.values() for v in point[1:]])
    label = "; ".join(f"{name}: {duration(p[0])}, {number(p[1])}" for name, p in points.items())
    x, y = Scale(low, high, 46, 410, True), Scale(bottom, top, 260, 24)
    chart = Chart(x, y, 420, 298, f"Training time and {title}. {label}")
    chart.axis_y(ticks(bottom, top, 5), title)
    times = _apart(log_ticks(low, high, 4), x)
    names = [duration(v) if v >= 10 else f"{v:g} s" for v in times]
    chart.axis_x(times, "training time of one run (logarithmic)", names)
    dots = [(x(max(time, 1e-3)), y(mean)) for time, mean, _, _ in points.values()]
    for at, ((_, _, lower, upper), (px, py)) in enumerate(zip(points.values(), dots, strict=True)):
        if known(lower) and known(upper):
            ends = {"y1": y(lower), "y2": y(upper)}  # type: ignore[arg-type]
            chart.add(element("line", x1=px, x2=px, **ends, class_=f"interval c{at % COLOURS}"))
        chart.add(element("circle", cx=px, cy=py, r="4.5", class_=f"mean c{at % COLOURS}"))
    names = [short(name) for name in points]
    for at, (name, (px, py), (lx, ly)) in enumerate(zip(names, dots, _label_places(names, dots), strict=True)):
        right = lx > px
        if abs(ly - py) > 6:
            chart.add(element("path", d=polyline([(px, py), (lx - 2 if right else lx + 2, ly)]), class_="leader"))
        style = f"t name halo c{at % COLOURS}"
        chart.add(text(lx, ly + 3.5, name, style, None if right else "end"))
    return chart.svg()


def _label_places(names: Sequence[str], dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A place beside each dot where its name covers no other name and no dot: the nearest that is free.

    ``x`` is where the text starts (right of its dot) or ends (left of it).
    """
    taken = [(px - 6, px + 6, py) for px, py in dots]
    places = []
    for name, (px, py) in zip(names, dots, strict=True):
        wide = LETTER * len(name)
        choices = [
            (away, side, py + up * 6.5)
            for away in range(20)
            for up in {away, -away}
            for side in (1, -1)
            if 18 <= py + up * 6.5 <= 256
        ]
        for away, side, ly in choices:
            near = px + side * (9 + min(away, 3) * 3)
            left, right = (near, near + wide) if side > 0 else (near - wide, near)
            if left >= 48 and right <= 416 and all(right < a or left > b or abs(ly - c) > 11 for a, b, c in taken):
                break
        taken.append((left, right, ly))
        places.append((near, ly))
    return places


def short(name: str, most: int = 16) -> str:
    """A name that fits beside a mark."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _apart(values: list[float], scale: Scale) -> list[float]:
    """Ticks without those whose label would touch the one before."""
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) > 8 * LETTER:
            kept.append(value)
    return kept


def ridges(edges: Array, epochs: Array, positive: Array, negative: Array, name: str) -> Html:
    """Similarity of positive (filled) and negative (dashed) pairs, one ridge for each of up to seven epochs, down."""
    rows = np.unique(np.linspace(0, len(epochs) - 1, min(7, len(epochs))).round().astype(int))
    gap, lift = 28, 32
    height = 24 + lift + gap * (len(rows) - 1) + 36
    low, high = float(edges[0]), float(edges[-1])
    x = Scale(low, high, 40, 250)
    chart = Chart(x, Scale(0, 1, height - 34, 0), 260, height, _ridge_label(edges, epochs, positive, negative, name))
    middle = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
    for at, row in enumerate(rows):
        base = 20 + lift + gap * at
        outlines = [
            polyline(
                [(x.start, base), *zip(map(x, middle), base - _heights(counts[row], lift), strict=True), (x.end, base)]
            )
            for counts in (positive, negative)
        ]
        chart.add(*(element("path", d=outline, class_="ridge back") for outline in outlines))
        for outline, kind in zip(outlines, ("positive", "negative"), strict=True):
            chart.add(element("path", d=outline, class_=f"ridge {kind}"))
        chart.add(text(34, base, f"{int(epochs[row])}", anchor="end"))
    chart.add(text(0, 11, "epoch", "t title"))
    values = ticks(low, high, 5)
    chart.axis_x(values, "cosine similarity", [f"{v:g}".replace("-", "−") for v in values])
    return chart.svg()


def _heights(counts: Array, most: float) -> Array:
    """Counts as heights of which the largest is ``most``."""
    counts = np.nan_to_num(np.asarray(counts, dtype=float))
    heights: Array = counts * (most / max(counts.max(initial=0.0), 1e-12))
    return heights


def _ridge_label(edges: Array, epochs: Array, positive: Array, negative: Array, name: str) -> str:
    middle = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2

    kinds = (("positive", positive), ("negative", negative))

    def mean(counts: Array) -> str:
        total = np.nansum(counts)
        return number(float(np.nansum(counts * middle) / total)) if total > 0 else "unknown"

    course = [f"{kind} pairs go from a mean of {mean(counts[0])} to {mean(counts[-1])}" for kind, counts in kinds]
    return f"Similarity of pairs in {name}, epoch {int(epochs[0])} to {int(epochs[-1])}: {', '.join(course)}"
