"""The page of a run's layers: what each is worth, before and after the projection head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from counterpoint.web import panels, tables
from counterpoint.web.axes import LETTER, Chart, Scale, extent, log_ticks, polyline, text, ticks
from counterpoint.web.figures import COLOURS, Series, short, spectra
from counterpoint.web.markup import Html, element, interval, join, known, number, probability, signed
from counterpoint.web.report import Section, _notes, _page, _repeat, _section

SCORES = {
    "probe": "Linear probe",
    "knn": "kNN accuracy",
    "effective_rank": "Effective rank",
    "inequality": "Inequality",
}
_ROW = 25  # pixels between the layers of a figure
_SPECTRA = 6  # lines of one figure that can still be told apart

_LEADS = {
    "layers": "From the first stage of the backbone to the projection on which the loss acts. What is kept and used "
    "after training are the features; the head behind them is dropped.",
    "profile": "Each row is a layer, passed from top to bottom; the dashed line is where the head begins.",
    "weights": "How much of each layer lies along each class, relative to the mean of the classes. Lines that fan out "
    "from top to bottom are classes that deeper layers treat ever more unequally.",
    "spectra": "Singular values of the centred test items, relative to the largest: which share of its dimensions a "
    "layer uses.",
}
_TERMS = {
    "Linear probe": "Test accuracy of a linear classifier trained on the frozen layer: what can be read off it.",
    "kNN accuracy": "Share of test items whose class is guessed right from their 20 nearest training items.",
    "Effective rank": "Number of dimensions that the layer really uses (entropy of its spectrum).",
    "Inequality": "Standard deviation of the logarithms of the class weights: 0 where all classes weigh alike. In the "
    "theory of linear networks it doubles from before a linear head to after it.",
    "Class weight": "Standard deviation of the layer along the direction of a class, as a share of its whole spread.",
    "Head": "Layers between the features and the loss. They take the loss's demand for invariance on themselves: what "
    "the augmentations disturb is thrown away in them, and is still there in the features.",
}


def layers_page(
    value: Mapping[str, Any], settings: Mapping[str, Any], environment: Mapping[str, Any], command: str
) -> str:
    """The content of ``layers.json`` as a self-contained HTML page.

    Args:
        value: as :func:`counterpoint.experiments.layers.layers` writes it.
        settings: of the run.
        environment: of the run.
        command: what writes the page again.
    """
    rows = value["layers"]
    sections = [
        _section("layers", "Layers", _table(rows), _LEADS["layers"]),
        _section("profile", "Through the network", _profiles(rows), _LEADS["profile"]),
        _section("weights", "Class weights", _weights(rows, value["classes"]), _LEADS["weights"]),
        _section("spectra", "Singular spectra", _spectra(rows), _LEADS["spectra"]),
        _repeat(command, {"Settings": settings, "Environment": environment}),
        _glossary(rows),
    ]
    facts = [str(value["method"]), str(value["data"]), f"{value['items']['test']:,} test items"]
    lead = [element("p", summary(value), class_="verdict"), *_notes(value["notes"])]
    return _page("Counterpoint layers", str(value["run"]), facts, lead, sections)


def summary(value: Mapping[str, Any]) -> str:
    """What the head does, in a sentence or two."""
    rows = {row["name"]: row for row in value["layers"]}
    if "projection" not in rows:
        return "This run has no projection head: the loss acts on the features themselves."
    before, after = rows["features"], rows["projection"]
    ranks = (
        f"The features use {number(before['effective_rank'])} of {before['dimensions']} dimensions, the projection "
        f"{number(after['effective_rank'])} of {after['dimensions']}."
    )
    gap = value["difference"].get("probe")
    if gap is None:
        return ranks
    outcome = "no more than" if gap["low"] <= 0 <= gap["high"] else "more than"
    return (
        f"A linear classifier is right on {before['probe']:.1%} of the test items before the head and on "
        f"{after['probe']:.1%} after it: a difference of {signed(gap['mean'])} ({interval(gap['low'], gap['high'])}, "
        f"{probability(gap['p'])} over test items), {outcome} chance would make. {ranks}"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Html:
    shown = [name for name in SCORES if any(known(row[name]) for row in rows)]
    body = []
    for row in rows:
        cells = [element("td", number(row[name]), class_="number") for name in shown]
        strong = element("b", row["name"]) if row["part"] in ("features", "projection") else row["name"]
        wide = element("td", f"{row['dimensions']:,}", class_="number")
        body.append(element("tr", element("th", strong, scope="row"), element("td", row["part"]), wide, cells))
    heads = {"Layer": None, "Part": None, "Dimensions": "number"} | {SCORES[name]: "number" for name in shown}
    return element("div", tables.plain_table(heads, body), class_="scroll", tabindex="0", role="region")


def _profiles(rows: Sequence[Mapping[str, Any]]) -> Html | None:
    accuracy = [_line(rows, name, at) for at, name in enumerate(("probe", "knn"))]
    figures = []
    if any(known(x) for line in accuracy for x in line.x):
        figures.append(panels.panel("Accuracy", profile(rows, accuracy, "accuracy"), _legend(accuracy)))
    for name in ("effective_rank", "inequality"):
        line = _line(rows, name, 0)
        if any(known(x) for x in line.x):
            figures.append(panels.panel(SCORES[name], profile(rows, [line], SCORES[name].lower())))
    return panels.panels(figures, broad=True)


def _line(rows: Sequence[Mapping[str, Any]], name: str, colour: int) -> Series:
    values = [math.nan if row[name] is None else float(row[name]) for row in rows]
    return Series(SCORES[name], values, range(len(rows)), colour, dashed=colour == 1)


def profile(rows: Sequence[Mapping[str, Any]], lines: Sequence[Series], title: str, log: bool = False) -> Html:
    """Values by layer, a row each, downwards: ``x`` of a line is its values, ``y`` the numbers of the layers."""
    names = [short(str(row["name"])) for row in rows]
    values = [x for line in lines for x in line.x if known(x) and (x > 0 or not log)]
    low, high = (10**v for v in extent([math.log10(v) for v in values])) if log else extent(values)
    left, base = 12 + LETTER * max(map(len, names)), 20.0 + _ROW * len(rows)
    y = Scale(-0.6, len(rows) - 0.4, 10, base)
    said = "; ".join(f"{line.name} {number(line.x[0])} to {number(line.x[-1])}" for line in lines[:4])
    label = f"{title} by layer, from {names[0]} to {names[-1]}: {said}"
    chart = Chart(Scale(low, high, left, 408, log), Scale(0, 1, base, 10), 420, base + 38, label)
    for at, name in enumerate(names):
        strong = rows[at]["part"] in ("features", "projection")
        chart.add(element("line", x1=left, x2=408, y1=y(at), y2=y(at), class_="grid"))
        chart.add(text(left - 6, y(at) + 3.5, name, "t title" if strong else "t", "end"))
    head = next((at for at, row in enumerate(rows) if row["part"] == "features"), len(rows)) + 0.5
    if head < len(rows):
        chart.add(element("line", x1=0.0, x2=408, y1=y(head), y2=y(head), class_="zero"))
    for line in lines:
        points = [(chart.x(v) if known(v) else math.nan, y(at)) for v, at in zip(line.x, line.y, strict=True)]
        colour = f"c{line.colour % COLOURS}" if line.colour >= 0 else "rest"
        chart.add(element("path", d=polyline(points), class_=f"line {colour}{' dashed' if line.dashed else ''}"))
        for px, py in points:
            if known(px):
                chart.add(element("circle", cx=px, cy=py, r="3", class_=f"dot {colour}"))
    marks = log_ticks(low, high, 4) if log else []
    chart.axis_x(marks if len(marks) > 2 else ticks(low, high, 5), title)
    return chart.svg()


def _legend(lines: Sequence[Series]) -> Html:
    entries = []
    for line in lines:
        style = f"line c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
        swatch = element("svg", element("path", d="M0 6H16", class_=style), viewBox="0 0 16 12", aria_hidden="true")
        entries.append(element("li", swatch, line.name))
    return element("ul", entries, class_="legend")


def _weights(rows: Sequence[Mapping[str, Any]], classes: Sequence[str] | None) -> Html | None:
    if not rows or rows[0]["weights"] is None:
        return None
    weights = np.array([row["weights"] for row in rows], dtype=float)  # (layers, K)
    logs = np.log(np.where(weights > 0, weights, np.nan))
    relative = np.exp(logs - np.nanmean(logs, axis=1, keepdims=True)) if np.isfinite(logs).any(axis=1).all() else logs
    names = [str(classes[label]) if classes else f"class {label}" for label in rows[0]["weighted"]]
    few = len(names) <= COLOURS
    lines = [
        Series(name, relative[:, at].tolist(), range(len(rows)), at if few else -1) for at, name in enumerate(names)
    ]
    figure = panels.panel(None, profile(rows, lines, "weight ÷ mean of the classes (logarithmic)", log=True))
    body = []
    for at in np.argsort(-weights[-1], kind="stable"):
        cells = [element("td", number(value), class_="number") for value in weights[:, at]]
        body.append(element("tr", element("th", names[at], scope="row"), cells))
    heads = {"Class": None} | {str(row["name"]): "number" for row in rows}
    table = element("div", tables.plain_table(heads, body), class_="scroll", tabindex="0", role="region")
    detail = element("details", element("summary", f"Weights of {len(names)} classes"), table, open=few)
    return join([panels.panels([figure]), _legend(lines) if few else None, detail])


def _spectra(rows: Sequence[Mapping[str, Any]]) -> Html | None:
    """Features and projection, and of the other layers so many as one figure can hold."""
    lines: list[Series] = []
    others = [row for row in rows if row["part"] not in ("features", "projection")]
    kept = others[:: max(1, -(-len(others) // (_SPECTRA - 2)))]
    for row in rows:
        values = np.asarray(row["spectrum"], dtype=float)
        if (row in kept or row not in others) and values.size and values[0] > 0:
            at = np.unique(np.geomspace(1, len(values), min(len(values), 200)).round().astype(int))
            heights = (values[at - 1] / values[0]).tolist()
            lines.append(Series(str(row["name"]), at.tolist(), heights, len(lines), row["part"] == "backbone"))
    return panels.panels([panels.panel(None, spectra(lines))]) if lines else None


def _glossary(rows: Sequence[Mapping[str, Any]]) -> Section:
    seen = {SCORES[name] for name in SCORES if any(known(row[name]) for row in rows)} | {"Head"}
    seen |= {"Class weight"} if "Inequality" in seen else set()
    terms = {title: meaning for title, meaning in _TERMS.items() if title in seen}
    pairs = [element("div", element("dt", title), element("dd", meaning)) for title, meaning in terms.items()]
    return Section("glossary", "How to read this page", element("dl", pairs, class_="columns"))
