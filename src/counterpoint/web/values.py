"""Figures of a numeric target: maps shaded by it, what was predicted against what is true, errors along its range."""

from __future__ import annotations

import numpy as np

from counterpoint.web.axes import LETTER, Chart, Scale, drawing, extent, text, ticks
from counterpoint.web.content import Array, Prediction
from counterpoint.web.markup import Html, coordinate, counted, element, number
from counterpoint.web.scatter import places_of, thin

SHADES = 9
_POINTS = 2000


def shade_edges(targets: Array) -> Array:
    """Edges (SHADES + 1,) of the shades: the middle 96 % of the values in equal steps, what lies beyond in the ends."""
    known = np.asarray(targets, float)[np.isfinite(targets)]
    low, high = np.percentile(known, (2, 98)) if len(known) else (0.0, 1.0)
    if low == high:
        low, high = float(known.min()), float(known.max())
    edges: Array = np.linspace(low, high if high > low else low + 1, SHADES + 1)
    return edges


def shade_of(targets: Array, edges: Array) -> Array:
    """Number of the shade of each target (N,), -1 where there is none."""
    found = np.clip(np.searchsorted(edges, targets, side="right") - 1, 0, SHADES - 1)
    return np.where(np.isfinite(targets), found, -1)


def value_map(xy: Array, targets: Array, edges: Array, items: Array, title: str) -> Html:
    """A map of embeddings, each dot shaded by its target.

    Args:
        xy: (M, 2) within any range.
        targets: (M,), NaN where there is none.
        edges: from :func:`shade_edges`, common to all maps of a page.
        items: (M,) item numbers, for the thumbnails that the script shows.
        title: said to those who cannot see it.
    """
    xy, targets, items = thin(np.asarray(xy, float), np.asarray(targets, float), np.asarray(items))
    places, size = places_of(xy), 5.2 if len(xy) <= 600 else 3.8 if len(xy) <= 2000 else 2.8
    shades, marks = shade_of(targets, edges), []
    for shade in np.unique(shades):
        chosen = np.flatnonzero(shades == shade)
        dots = Html("".join(f"M{coordinate(px)} {coordinate(py)}h0" for px, py in places[chosen]))
        name = f"{number(edges[shade])} to {number(edges[shade + 1])}" if shade >= 0 else "no target"
        marks.append(
            element(
                "path",
                d=dots,
                class_=f"dots {f'v{shade}' if shade >= 0 else 'rest'}",
                style=f"stroke-width:{size}",
                data_name=name,
                data_items=" ".join(map(str, items[chosen].tolist())),
            )
        )
    return drawing(320, 320, f"{title}: map of {len(xy):,} embeddings, shaded by the target", marks, "map")


def shade_legend(edges: Array) -> Html:
    """The shades in their order, with the values at the ends and in the middle."""
    width, left = 26.0, 40.0
    marks = [
        element("rect", x=left + at * width, y=4.0, width=width, height=12.0, class_=f"shade v{at}")
        for at in range(SHADES)
    ]
    for at in (0, SHADES // 2, SHADES):
        value = edges[at] if at != SHADES // 2 else (edges[0] + edges[-1]) / 2
        place = left + (at if at != SHADES // 2 else SHADES / 2) * width
        marks.append(text(place, 30, number(value), anchor="middle"))
    label = f"Shades from {number(edges[0])} to {number(edges[-1])}"
    return drawing(2 * left + SHADES * width, 36, label, marks)


def predictions(given: Prediction, name: str) -> Html:
    """Predicted against true targets; on the diagonal they agree."""
    known = np.isfinite(given.true)
    true, predicted = np.asarray(given.true, float)[known], np.asarray(given.predicted, float)[known]
    shown = np.linspace(0, len(true) - 1, min(len(true), _POINTS)).round().astype(int)
    low, high = extent([*true.tolist(), *predicted.tolist()], 0.03)
    values = ticks(low, high, 5)
    left = 14 + LETTER * max((len(number(v)) for v in values), default=3)
    error = number(float(np.abs(predicted - true).mean())) if len(true) else number(None)
    label = f"Predicted against true target of {counted(len(true), 'test item')} by {name}; mean absolute error {error}"
    chart = Chart(Scale(low, high, left, 310), Scale(low, high, 272, 22), 320, 306, label)
    chart.axis_y(values, "predicted")
    chart.axis_x(values, "true")
    ends = {"x1": chart.x(low), "y1": chart.y(low), "x2": chart.x(high), "y2": chart.y(high)}
    chart.add(element("line", **ends, class_="zero"))
    dots = Html(
        "".join(f"M{coordinate(chart.x(true[i]))} {coordinate(chart.y(predicted[i]))}h0" for i in shown.tolist())
    )
    chart.add(element("path", d=dots, class_="dots c0", style=f"stroke-width:{4.2 if len(shown) <= 600 else 2.8}"))
    return chart.svg()


def errors_by_range(given: Prediction, name: str) -> Html:
    """Mean absolute error of the test items of each bin of the target, above how many training items it has."""
    edges, counts = np.asarray(given.edges, float), np.asarray(given.counts)
    known = np.isfinite(given.true)
    true, errors = np.asarray(given.true, float)[known], np.abs(given.predicted - given.true)[known]
    at = np.clip(np.searchsorted(edges, true, side="right") - 1, 0, len(counts) - 1)
    means = np.array([errors[at == one].mean() if (at == one).any() else 0.0 for one in range(len(counts))])
    top = float(max(means.max(initial=0.0), 1e-12)) * 1.06
    values = ticks(0, top, 4)
    left = 14 + LETTER * max(len(number(v)) for v in values)
    # equally wide columns: bins of distinct values at the ends are half as wide as the others
    x = Scale(0, len(counts), left, 412)
    label = f"Error of {name} by range of the target: " + ", ".join(
        f"{number(low)} to {number(high)}: {number(mean)} ({count} in training)"
        for low, high, mean, count in zip(edges[:-1], edges[1:], means, counts, strict=True)
    )
    chart = Chart(x, Scale(0, top, 170, 22), 420, 290, label)
    chart.axis_y(values, "mean absolute error")
    most = max(int(counts.max(initial=0)), 1)
    chart.add(text(0, 188, "training items", "t title"))
    for one, (mean, count) in enumerate(zip(means.tolist(), counts.tolist(), strict=True)):
        place = {"x": x(one) + 0.8, "width": x(one + 1) - x(one) - 1.6}
        height = 48 * count / most
        chart.add(element("rect", **place, y=chart.y(mean), height=170 - chart.y(mean), class_="bar c0"))
        chart.add(element("rect", **place, y=244 - height, height=height, class_="bar rest"))
    chart.add(element("line", x1=x.start, x2=x.end, y1=244.0, y2=244.0, class_="axis"))
    for one in sorted({round(v) for v in np.linspace(0, len(counts), min(len(counts), 5) + 1)}):
        chart.add(text(x(one), 259, number(edges[one]), anchor="middle"))
    foot = f"target (at most {counted(most, 'training item')} a range)"
    chart.add(text((x.start + x.end) / 2, 276, foot, "t title", "middle"))
    return chart.svg()
