"""What a method found out, drawn: shades, pictures, lines, points and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from counterpoint.findings import Captions, Curves, Finding, Heatmap, Pictures, Scatter
from counterpoint.web import panels
from counterpoint.web.axes import LETTER, drawing, text
from counterpoint.web.figures import Series, short
from counterpoint.web.grids import tiles
from counterpoint.web.images import thumbnail
from counterpoint.web.lines import curves, thinned
from counterpoint.web.markup import Html, element, number
from counterpoint.web.scatter import groups
from counterpoint.web.tables import plain_table

_SIDE = 64  # pixels of a picture
_WIDE = 440


def discoveries(findings: Sequence[Finding]) -> Html | None:
    """Each finding under its heading, with its text below; ``None`` where there are none."""
    return panels.panels([panels.panel(one.title, _draw(one), caption=one.text) for one in findings], broad=True)


def _draw(finding: Finding) -> Html:
    if isinstance(finding, Heatmap):
        return heatmap(finding)
    if isinstance(finding, Scatter):
        return groups(finding.groups, finding.joined, finding.title)
    if isinstance(finding, Captions):
        return captions(finding)
    return pictures(finding) if isinstance(finding, Pictures) else lines(finding)


def heatmap(finding: Heatmap) -> Html:
    """Shades from the lowest value to the highest; in cells that have room for it, the value."""
    values = finding.values
    low, high = (float(end(values)) if np.isfinite(values).any() else 0.0 for end in (np.nanmin, np.nanmax))
    rows, columns = ([short(name, 14) for name in names] for names in (finding.rows, finding.columns))
    left = 12 + LETTER * max(map(len, rows))
    cell = max(8.0, min(34.0, (_WIDE - left) / len(columns)))
    marks = []
    for row, line in enumerate(values):
        top = 22 + row * cell
        if cell >= 11:
            marks.append(text(left - 5, top + cell / 2 + 4, rows[row], anchor="end"))
        for column, value in enumerate(line):
            if not np.isfinite(value):
                continue
            shade = (value - low) / (high - low) if high > low else 0.5
            place = {"x": left + column * cell, "y": top, "width": cell - 1, "height": cell - 1}
            marks.append(element("rect", **place, class_="cell right", fill_opacity=f"{0.04 + 0.96 * shade:.2f}"))
            if cell >= 30:
                style = "t figure strong" if shade > 0.5 else "t figure"
                marks.append(text(left + (column + 0.5) * cell, top + cell / 2 + 3.5, _brief(value), style, "middle"))
    if cell >= 11:
        heads = [short(name, max(1, int(cell / LETTER))) for name in columns]
        marks += [text(left + (at + 0.5) * cell, 15, name, anchor="middle") for at, name in enumerate(heads)]
    foot = 22 + len(rows) * cell + 16
    marks.append(text(left, foot, f"palest {number(low)}, darkest {number(high)}", "t title"))
    label = f"{finding.title}: {len(rows)} x {len(columns)} values from {number(low)} to {number(high)}"
    return drawing(left + cell * len(columns) + 4, foot + 8, label, marks)


def _brief(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1).replace("-", "−") if abs(value) < 9.995 else f"{value:.0f}"


def pictures(finding: Pictures) -> Html:
    """Rows and columns of pictures, under the names of the columns."""
    images = finding.images
    if finding.captions:
        return _captioned(finding)
    made = tiles([[thumbnail(image, _SIDE) for image in row] for row in images], finding.title)
    if max(images.shape[2:4]) >= panels.SMOOTH_SIDE:
        made = Html(made.replace('class="', 'class="smooth ', 1))
    if not finding.columns:
        return made
    listed = ", ".join(f"{at}: {name}" for at, name in enumerate(finding.columns, 1))
    return Html(made + element("p", f"Columns: {listed}.", class_="lead"))


def _captioned(finding: Pictures) -> Html:
    """Pictures with a text under each, in a table whose columns have names."""
    smooth = " smooth" if max(finding.images.shape[2:4]) >= panels.SMOOTH_SIDE else ""
    rows = []
    for images, captions in zip(finding.images, finding.captions, strict=True):
        cells = [
            element(
                "td",
                element("img", src=thumbnail(image, _SIDE), alt=caption, width=_SIDE, class_=f"picture{smooth}"),
                element("span", caption, class_="caption"),
            )
            for image, caption in zip(images, captions, strict=True)
        ]
        rows.append(element("tr", cells))
    heads = list(finding.columns)
    head = element("thead", element("tr", [element("th", name, scope="col") for name in heads])) if heads else None
    return element("div", element("table", head, element("tbody", rows), class_="captioned"), class_="scroll")


def lines(finding: Curves) -> Html:
    """The lines with their names at their ends; long ones are averaged over stretches."""
    shown = []
    for at, (name, values) in enumerate(finding.series.items()):
        x, y = thinned(finding.x), thinned(values)
        shown.append(Series(name, x.tolist(), y.tolist(), at, dashed=at % 2 == 1))
    return curves(shown, finding.x_label, finding.y_label, signed=False)


def captions(finding: Captions) -> Html:
    """A row for each item: its picture, if there is one, and the texts."""
    rows = []
    for at, line in enumerate(finding.lines):
        cells = [element("td", text) for text in line]
        if finding.images is not None:
            picture = element("img", src=Html(thumbnail(finding.images[at], _SIDE)), alt=f"item {at + 1}")
            cells.insert(0, element("td", picture))
        rows.append(element("tr", cells))
    heads = dict.fromkeys(([] if finding.images is None else ["picture"]) + list(finding.columns))
    smooth = finding.images is not None and max(finding.images.shape[1:3]) >= panels.SMOOTH_SIDE
    return plain_table(heads, rows, "captions smooth" if smooth else "captions")
