"""Figures made of squares: confusions, and queries with their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from counterpoint.web.axes import LETTER, drawing, text
from counterpoint.web.content import Array
from counterpoint.web.figures import short
from counterpoint.web.markup import Html, coordinate, element, number


def confusion(counts: Array, names: Sequence[str]) -> Html:
    """Share of each true class (row) that was given each class (column); the figures are written into the cells."""
    counts = np.nan_to_num(np.asarray(counts, dtype=float))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(counts)
    names = [short(name, 14) for name in names]
    left = 12 + LETTER * max((len(name) for name in names), default=1)
    cell = max(10.0, min(32.0, (420 - left) / size))
    marks = [text(left + cell * size / 2, 11, "predicted", "t title", "middle")]
    for row in range(size):
        top = 34 + row * cell
        marks.append(text(left - 5, top + cell / 2 + 4, names[row], anchor="end"))
        for column in range(size):
            value = share[row, column]
            marks.append(
                element(
                    "rect", x=left + column * cell, y=top, width=cell - 1, height=cell - 1,
                    class_="cell right" if row == column else "cell wrong", fill_opacity=f"{max(0.04, value):.2f}",
                )
            )  # fmt: skip
            if counts[row, column] and cell >= 22:
                style = "t figure strong" if value > 0.5 else "t figure"
                marks.append(
                    text(
                        left + (column + 0.5) * cell,
                        top + cell / 2 + 3.5,
                        f"{counts[row, column]:.0f}",
                        style,
                        "middle",
                    )
                )
    heads = [name if len(name) * LETTER < cell else str(at) for at, name in enumerate(names)]
    marks += [text(left + (at + 0.5) * cell, 28, name, anchor="middle") for at, name in enumerate(heads)]
    right = float(np.trace(counts) / max(counts.sum(), 1))
    return drawing(
        left + cell * size + 4, 38 + cell * size, f"Confusion of {size} classes: {number(right)} on the diagonal", marks
    )


def grid(pictures: Sequence[Sequence[str | None]], same: Array | None, label: str) -> Html:
    """Queries (first column) and their neighbours.

    A neighbour of the query's class has a solid border; one of another class a dashed border and a cross.

    Args:
        pictures: (Q, 1 + k) data URIs of square thumbnails; ``None`` leaves a gap.
        same: (Q, k) bool, or ``None`` without labels.
        label: description.
    """
    cell, gap, split = 40.0, 4.0, 8.0
    columns = max((len(row) for row in pictures), default=1)
    marks = []
    for at, row in enumerate(pictures):
        for column, picture in enumerate(row):
            x, y = column * (cell + gap) + (split if column else 0) + 2, at * (cell + gap) + 2
            if picture:
                marks.append(element("image", href=Html(picture), x=x, y=y, width=cell, height=cell))
            if column == 0 or same is None:
                marks.append(element("rect", x=x, y=y, width=cell, height=cell, class_="frame query"))
            else:
                marks += _verdict_mark(x, y, cell, bool(same[at, column - 1]))
    return drawing(columns * (cell + gap) + split, len(pictures) * (cell + gap), label, marks, "neighbours")


def _verdict_mark(x: float, y: float, cell: float, right: bool) -> list[Html]:
    frame = element("rect", x=x, y=y, width=cell, height=cell, class_=f"frame {'right' if right else 'wrong'}")
    if right:
        return [frame]
    corner_x, corner_y = x + cell - 7, y + 7
    cross = f"M{coordinate(corner_x - 3)} {coordinate(corner_y - 3)}l6 6m0 -6l-6 6"
    return [
        frame,
        element("circle", cx=corner_x, cy=corner_y, r="6", class_="badge wrong"),
        element("path", d=Html(cross), class_="cross"),
    ]


def tiles(pictures: Sequence[Sequence[str]], label: str) -> Html:
    """Pictures in rows and columns, each with a hairline around it.

    Args:
        pictures: rows of data URIs of square pictures.
        label: description.
    """
    cell, gap = 40.0, 4.0
    marks = []
    for row, line in enumerate(pictures):
        for column, picture in enumerate(line):
            place = {"x": column * (cell + gap) + 1, "y": row * (cell + gap) + 1, "width": cell, "height": cell}
            marks.append(element("image", href=Html(picture), **place))
            marks.append(element("rect", **place, class_="frame query"))
    width = max(len(line) for line in pictures) * (cell + gap)
    return drawing(width, len(pictures) * (cell + gap), label, marks, "views")
