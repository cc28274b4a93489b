"""The tables of a page: leaderboard, differences, all metrics, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from counterpoint.web.axes import Scale, extent, ticks
from counterpoint.web.content import LeaderboardRow
from counterpoint.web.figures import interval_axis, interval_mark
from counterpoint.web.glossary import metric
from counterpoint.web.markup import Html, element, flatten, interval, known, number, probability, signed

INSIDE = (6.0, 94.0)  # percent of the plot's width that data may take: the ends belong to labels


def leaderboard(rows: Sequence[LeaderboardRow], title: str) -> Html:
    """Ranks, names, scores and their forest plot. Methods that share a rank stand in one shaded group."""
    values = [v for row in rows for v in (row.mean, row.low, row.high, *row.seeds) if known(v)]
    scale = Scale(*extent(values, 0.04), *INSIDE)
    grid = ticks(scale.low, scale.high, 4)
    groups = [
        element("tbody", [_place(row, tied, scale, grid) for row in group], class_="tied" if tied else None)
        for group, tied in _groups(rows)
    ]
    foot = element(
        "tfoot",
        element(
            "tr",
            element("td", colspan="3"),
            element("td", interval_axis(scale, grid, [number(v) for v in grid]), class_="plot"),
        ),
    )
    return element("table", _head("Rank", "Method", title, "Seeds and 95 % interval"), groups, foot, class_="board")


def _groups(rows: Sequence[LeaderboardRow]) -> Iterator[tuple[list[LeaderboardRow], bool]]:
    for _, group in groupby(rows, key=lambda row: row.rank):
        members = list(group)
        yield members, len(members) > 1


def _head(rank: str, who: str, score: str, plot: str) -> Html:
    classes = ("rank", "who", "score number", "plot")
    cells = [
        element("th", element("span", rank, class_="hidden"), "#", scope="col", class_=classes[0]),
        *(
            element("th", name, scope="col", class_=kind)
            for name, kind in zip((who, score, plot), classes[1:], strict=True)
        ),
    ]
    return element("thead", element("tr", cells))


def _who(row: LeaderboardRow) -> Html:
    kind = element("span", " baseline", class_="kind") if row.baseline else None
    return element("th", row.name, kind, scope="row", class_="who")


def _place(row: LeaderboardRow, tied: bool, scale: Scale, grid: Sequence[float]) -> Html:
    span = element("span", interval(row.low, row.high), class_="small") if known(row.low) else None
    spoken = f"{row.name}: {number(row.mean)}, interval {interval(row.low, row.high)}, {len(row.seeds)} seeds"
    plot = interval_mark(row.mean, row.low, row.high, row.seeds, scale, spoken, grid)
    shared = element("span", " shared rank", class_="hidden") if tied else None
    return element(
        "tr",
        element("td", f"{row.rank}{'=' if tied else ''}", shared, class_="rank"),
        _who(row),
        element("td", element("b", number(row.mean)), span, class_="score number"),
        element("td", plot, class_="plot"),
    )


def differences(rows: Sequence[LeaderboardRow]) -> Html | None:
    """Each method's difference from the best one, paired by seed: the evidence behind ranks and ties."""
    tested = [row for row in rows if known(row.difference) and row is not rows[0]]
    if not tested:
        return None
    values = [v for row in tested for v in (row.difference, row.difference_low, row.difference_high) if known(v)]
    scale = Scale(*extent([0.0, *values], 0.04), *INSIDE)
    grid = ticks(scale.low, scale.high, 4)
    body = [_gap(row, row.rank == rows[0].rank, scale, grid) for row in tested]
    axis = element("td", interval_axis(scale, grid, [signed(v) for v in grid]), class_="plot")
    foot = element("tfoot", element("tr", element("td", colspan="3"), axis))
    head = _head("Tied or behind", "Method", f"Minus {rows[0].name}", "Difference and 95 % interval")
    return element("table", head, element("tbody", body), foot, class_="board")


def _gap(row: LeaderboardRow, tied: bool, scale: Scale, grid: Sequence[float]) -> Html:
    span = interval(row.difference_low, row.difference_high)
    spoken = f"{row.name}: {signed(row.difference)}, interval {span}, {probability(row.p)}"
    plot = interval_mark(row.difference, row.difference_low, row.difference_high, (), scale, spoken, grid, zero=True)
    outcome = element("span", " tied" if tied else " behind", class_="hidden")
    p = element("span", probability(row.p), class_="small")
    return element(
        "tr",
        element("td", "≈" if tied else "<", outcome, class_="rank"),
        _who(row),
        element("td", element("b", signed(row.difference)), p, class_="score number"),
        element("td", plot, class_="plot"),
        class_="tied" if tied else None,
    )


def metric_table(
    metrics: Mapping[str, Mapping[str, tuple[Any, Any, Any]]],
    names: Sequence[str],
    descriptions: Mapping[str, str],
    caption: str,
) -> Html:
    """Methods by metrics, each a mean over its interval; the best of a column is bold and marked."""
    best = {name: _best([row.get(name) for row in metrics.values()], name, descriptions) for name in names}
    head = [element("th", "Method", scope="col", data_first="ascending")]
    for name in names:
        entry = metric(name, descriptions)
        first = "ascending" if entry.higher_is_better is False else None
        head.append(
            element("th", entry.title, scope="col", class_="number", title=entry.meaning or None, data_first=first)
        )
    body = []
    for method, scores in metrics.items():
        cells = [element("th", method, scope="row")]
        for name in names:
            mean, low, high = scores.get(name) or (None, None, None)
            span = element("span", interval(low, high), class_="small") if known(low) and known(high) else None
            value = f"{mean:.6g}" if known(mean) else ""
            top = "best" if known(mean) and mean == best[name] else None
            shown = element("span", number(mean), class_=top)
            cells.append(element("td", shown, span, class_="number", data_value=value))
        body.append(element("tr", cells))
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", body),
        class_="sortable",
    )
    return _scrolling(table, caption)


def _scrolling(table: Html, label: str) -> Html:
    """A table that scrolls sideways on a narrow screen, also by keyboard."""
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _best(cells: Sequence[tuple[Any, Any, Any] | None], name: str, descriptions: Mapping[str, str]) -> float | None:
    means = [float(cell[0]) for cell in cells if cell and known(cell[0])]
    direction = metric(name, descriptions).higher_is_better
    if direction is None or len(means) < 2:
        return None
    return max(means) if direction else min(means)


def score_table(scores: Mapping[str, float | None], descriptions: Mapping[str, str]) -> Html:
    """One run's scores with what they mean."""
    body = []
    for name, value in scores.items():
        entry = metric(name, descriptions)
        shown = element("td", element("b", number(value)), class_="number")
        body.append(element("tr", element("th", entry.title, scope="row"), shown, element("td", entry.meaning)))
    return _scrolling(plain_table({"Score": None, "Value": "number", "Meaning": None}, body, "scores"), "Scores")


def plain_table(heads: Mapping[str, str | None], rows: Sequence[Html], class_: str | None = None) -> Html:
    """Rows under headings, each heading with its class."""
    head = element("tr", [element("th", title, scope="col", class_=kind) for title, kind in heads.items()])
    return element("table", element("thead", head), element("tbody", rows), class_=class_)


def value_table(values: Mapping[str, Any], caption: str) -> Html:
    """Settings or environment: name and value."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value)) for name, value in flatten(values).items()
    ]
    return element("table", element("caption", caption, class_="hidden"), element("tbody", rows), class_="values")


def pair_table(pairs: Sequence[tuple[str, str]], first: str, second: str, most: int = 200) -> Html:
    """Two columns of text, such as a file and why it was skipped; at most ``most`` rows, the rest counted."""
    rows = [element("tr", element("th", a, scope="row"), element("td", b)) for a, b in pairs[:most]]
    if len(pairs) > most:
        rows.append(element("tr", element("td", f"and {len(pairs) - most:,} more", colspan="2")))
    return _scrolling(plain_table({first: None, second: None}, rows, "values"), first)
