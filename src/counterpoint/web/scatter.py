"""Embedding maps as SVG: thousands of dots that stay light, named where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from counterpoint.web.axes import LETTER, drawing, polyline, text
from counterpoint.web.content import Array
from counterpoint.web.figures import COLOURS, short
from counterpoint.web.markup import Html, coordinate, element, join

SHAPES = 2
POINT_LIMIT = 5000


def class_styles(labels: Array | None) -> dict[int, str]:
    """Style of each label: the twenty most frequent get a colour and a shape of their own, the others are grey."""
    if labels is None:
        return {}
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = sorted(values[np.argsort(-counts, kind="stable")][: COLOURS * SHAPES].tolist())
    styles = {int(value): "rest" for value in values}
    for at, value in enumerate(shown):
        styles[int(value)] = f"c{at % COLOURS}" + (" square" if at >= COLOURS else "")
    return styles


def scatter(
    xy: Array, labels: Array | None, names: Mapping[int, str], styles: Mapping[int, str], items: Array, title: str
) -> Html:
    """A map: a path of dots per class, so that thousands of points stay light, with the class's name at its middle.

    Args:
        xy: (M, 2) within any range.
        labels: (M,) or ``None``.
        names: name of each label.
        styles: from :func:`class_styles`, common to all maps of a page.
        items: (M,) item numbers, for the thumbnails that the script shows.
        title: said to those who cannot see it.
    """
    xy, labels, items = thin(np.asarray(xy, float), labels, np.asarray(items))
    places = places_of(xy)
    size = 5.2 if len(xy) <= 600 else 3.8 if len(xy) <= 2000 else 2.8
    marks = []
    groups = [-1] if labels is None else sorted(set(labels.tolist()))
    for group in groups:
        chosen = np.arange(len(xy)) if labels is None else np.flatnonzero(labels == group)
        dots = Html("".join(f"M{coordinate(px)} {coordinate(py)}h0" for px, py in places[chosen]))
        marks.append(
            element(
                "path",
                d=dots,
                class_=f"dots {styles.get(group, 'c0' if labels is None else 'rest')}",
                style=f"stroke-width:{size}",
                data_name=names.get(group, "") if labels is not None else "",
                data_items=" ".join(map(str, items[chosen].tolist())),
            )
        )
    if labels is not None:
        marks += _class_names(places, labels, names, styles)
    return drawing(320, 320, f"{title}: map of {len(xy):,} embeddings", marks, "map")


def groups(points: Mapping[str, Array], joined: int, title: str) -> Html:
    """Points of a few groups on one scale, named below, with lines between rows that belong together.

    Groups that lie in one place are what such a figure is looked at for; every second one has square points.

    Args:
        points: for each group its name and (N, 2).
        joined: so many rows of the first group are joined with those of the others.
        title: said to those who cannot see it.
    """
    names, parts = list(points), [np.asarray(part, float) for part in points.values()]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    xy = np.concatenate(parts)
    seen = np.isfinite(xy).all(1)
    places = np.full_like(xy, np.nan)
    places[seen] = places_of(xy[seen])
    styles = [f"c{at % COLOURS}{' square' if at % 2 else ''}" for at in range(len(parts))]
    apart = np.split(places, np.flatnonzero(np.diff(labels)) + 1)
    lines = [polyline([apart[0][at], other[at]]) for other in apart[1:] for at in range(joined)]
    marks = [element("path", d=join(lines), class_="leader")] if lines else []
    size = 5.2 if len(xy) <= 600 else 3.8
    for at in range(len(parts)):
        dots = Html("".join(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in places[seen & (labels == at)]))
        marks.append(element("path", d=dots, class_=f"dots {styles[at]}", style=f"stroke-width:{size}"))
    left = 6.0
    for style, name in zip(styles, map(short, names), strict=True):
        marks.append(
            element("path", d=f"M{coordinate(left + 3)} 334h0", class_=f"dots {style}", style="stroke-width:6")
        )
        marks.append(text(left + 11, 338, name, f"t name {style}"))
        left += 11 + LETTER * len(name) + 16
    counted = ", ".join(f"{len(part)} of {name}" for name, part in points.items())
    return drawing(max(320.0, left), 344, f"{title}: {counted}", marks)


def places_of(xy: Array) -> Array:
    """Positions (M, 2) in a square drawing of 320."""
    low, high = (xy.min(0), xy.max(0)) if len(xy) else (np.zeros(2), np.ones(2))
    span = float((high - low).max()) or 1.0
    places: Array = (xy - (low + high) / 2) / span * 292 + 160
    places[:, 1] = 320 - places[:, 1]
    return places


def thin(xy: Array, labels: Any, items: Array) -> tuple[Array, Any, Array]:
    """At most :data:`POINT_LIMIT` points, evenly taken, none of them NaN."""
    keep = np.flatnonzero(np.isfinite(xy).all(1))
    if len(keep) > POINT_LIMIT:
        keep = keep[np.linspace(0, len(keep) - 1, POINT_LIMIT).round().astype(int)]
    return xy[keep], None if labels is None else np.asarray(labels)[keep], items[keep]


def _class_names(places: Array, labels: Array, names: Mapping[int, str], styles: Mapping[int, str]) -> list[Html]:
    """Names at the medians of their classes, the larger classes first; one that would cover another is left out."""
    taken: list[tuple[float, float, float]] = []
    marks = []
    for group in sorted((g for g in styles if styles[g] != "rest"), key=lambda g: -int((labels == g).sum())):
        mine = places[labels == group]
        if not len(mine):
            continue
        name = short(names.get(group, str(group)))
        half = LETTER * len(name) / 2
        x, y = np.median(mine, axis=0)
        x = min(max(x, half + 2), 318 - half)
        if all(abs(x - tx) > half + other + 3 or abs(y - ty) > 13 for tx, ty, other in taken):
            taken.append((x, y, half))
            marks.append(text(x, y + 4, name, f"t halo {styles[group]}", "middle"))
    return marks
