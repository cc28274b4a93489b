"""Scales, ticks and frames of the figures.

A chart is drawn about as wide as a phone and never shrunk below that, so that an 11-pixel label stays one; charts on a
wide screen stand beside each other instead of growing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from counterpoint.web.markup import Html, coordinate, element, join, number

LETTER = 6.3  # width of an 11-pixel letter, on the generous side


@dataclass(frozen=True)
class Scale:
    """Data values to positions, linear or logarithmic: ``Scale(0, 1, 10, 110)(0.5) == 60``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of ``value``; beyond the ends it is held at them."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, self._inside(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _inside(self, value: float) -> float:
        return min(max(float(value), self.low), self.high)


def extent(values: Sequence[float | None], padding: float = 0.06) -> tuple[float, float]:
    """Range of the finite values and a little around it; never empty."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = (high - low) * padding or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within the range, at most ``most`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    return [low, high]


def plain(value: float) -> str:
    """A tick's number in full, with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def tick_labels(values: Sequence[float]) -> list[str]:
    """As :func:`~counterpoint.web.markup.number` writes them, or in full where two would read the same."""
    short = [number(value) for value in values]
    return short if len(set(short)) == len(set(values)) else [plain(value) for value in values]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Powers of ten within the range, thinned to ``most``; with 2 and 5 between where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / most))
    values = [10.0**i for i in range(first, last + 1, step)]
    if len([v for v in values if low <= v <= high]) < 3:
        values = [factor * 10.0**i for i in range(first, last + 1) for factor in (1, 2, 5)]
    return [v for v in values if low <= v <= high]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels on a line apart to ``gap`` at least, as little as it takes and in order, within ``low``..``high``."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gap = min(gap, (high - low) / max(len(order) - 1, 1))
    placed = [0.0] * len(order)
    # neighbours that collide form a block around their mean: pool adjacent violators
    blocks: list[tuple[float, int]] = []  # (mean of position - rank * gap, members)
    for rank, i in enumerate(order):
        block = (positions[i] - rank * gap, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, count = blocks.pop()
            block = ((mean * count + block[0] * block[1]) / (count + block[1]), count + block[1])
        blocks.append(block)
    at = 0
    top = high - (len(order) - 1) * gap
    for mean, count in blocks:
        for _ in range(count):
            placed[order[at]] = min(max(mean, low), top) + at * gap
            at += 1
    return placed


def polyline(points: Sequence[tuple[float, float]]) -> Html:
    """The ``d`` of a path through the points, broken where one is not finite."""
    parts, down = [], False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{coordinate(x)} {coordinate(y)}")
        down = True
    return Html("".join(parts))


def text(x: float, y: float, content: str, class_: str = "t", anchor: str | None = None) -> Html:
    """A label; ``anchor`` is ``middle`` or ``end``."""
    return element("text", content, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


@dataclass
class Chart:
    """A frame with two scales to which marks are added; ``svg`` closes it."""

    x: Scale
    y: Scale
    width: float
    height: float
    label: str
    marks: list[Html] = field(default_factory=list)

    def add(self, *marks: Html) -> None:
        """Draw, over what is there."""
        self.marks += marks

    def axis_x(self, values: Sequence[float], title: str = "", labels: Sequence[str] | None = None) -> None:
        """Ticks below and a title under them."""
        base = self.y.start
        self.add(element("line", x1=self.x.start, x2=self.x.end, y1=base, y2=base, class_="axis"))
        for value, label in zip(values, labels or tick_labels(values), strict=True):
            at = self.x(value)
            self.add(element("line", x1=at, x2=at, y1=base, y2=base + 3, class_="axis"))
            self.add(text(at, base + 15, label, anchor="middle"))
        if title:
            self.add(text((self.x.start + self.x.end) / 2, base + 30, title, "t title", "middle"))

    def axis_y(self, values: Sequence[float], title: str = "", labels: Sequence[str] | None = None) -> None:
        """Grid lines with their values at the left, and the title above the axis, where it needs no turned head."""
        for value, label in zip(values, labels or tick_labels(values), strict=True):
            at = self.y(value)
            self.add(element("line", x1=self.x.start, x2=self.x.end, y1=at, y2=at, class_="grid"))
            self.add(text(self.x.start - 5, at + 3.5, label, anchor="end"))
        if title:
            self.add(text(0, 11, title, "t title"))

    def svg(self, class_: str = "chart") -> Html:
        """The finished figure, with its description for those who cannot see it."""
        return drawing(self.width, self.height, self.label, self.marks, class_)


def drawing(width: float, height: float, label: str, marks: Sequence[Html], class_: str = "chart") -> Html:
    """An SVG element that scales with its column."""
    return element(
        "svg",
        join(marks),
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        role="img",
        aria_label=label,
        class_=class_,
        style=f"max-width:{coordinate(width * 1.35)}px",
    )
