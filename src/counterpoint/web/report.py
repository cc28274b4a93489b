"""The two pages: a run's and a comparison's.

Each is a sequence of sections, most important first: what came out, how sure that is, then the figures that let a
reader see why, and at the end everything needed to repeat it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np

from counterpoint.files import atomic
from counterpoint.web import panels, tables
from counterpoint.web.content import ComparisonData, RunData
from counterpoint.web.discoveries import discoveries
from counterpoint.web.figures import Series, cost, curve
from counterpoint.web.glossary import LEADS, TERMS, metric
from counterpoint.web.grids import confusion
from counterpoint.web.markup import Html, counted, duration, element, flatten, join, known, number
from counterpoint.web.verdict import verdict

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LABELLED = (
    *("pair_recall@1", "zero_shot", "transfer", "pair_recall@5", "pair_recall@10"),
    *("accuracy", "knn", "probe", "probe_1", "probe_5", "probe_10", "recall@1", "recall@5", "recall@10", "map"),
    *("mae", "rmse", "r2", "pearson", "gm_error", "mae_many", "mae_medium", "mae_few", "mae_10", "mae_50", "knn_mae"),
    "spearman",
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    body: Html


def write(path: str | os.PathLike[str], html: str) -> None:
    """Write a page, atomically.

    Raises:
        OSError: from the file system; an older page is then still whole.
    """
    with atomic(path, "w") as file:
        file.write(html)


def run_page(run: RunData) -> str:
    """One run as a self-contained HTML page. Parts that ``run`` has no data for do not appear on it.

    What is absent of map, neighbours and spectrum is computed from ``run.embeddings`` where those are given.
    """
    run = panels.complete(run)
    runs = {run.name: run}
    sections = [
        _section("scores", "Scores", tables.score_table(run.scores, run.descriptions) if run.scores else None),
        _predictions(runs),
        _section("training", "Training", _training(run)),
        _section("findings", "What the method found", discoveries(run.findings)),
        _histograms(runs),
        _section("score-curves", "Scores over training", panels.score_curves(runs), LEADS["score-curves"]),
        _maps(runs),
        _neighbours(runs),
        _spectra(runs, ()),
        _confusion(run),
        _views(runs),
        _skipped(run.skipped),
        _repeat(run.command, {"Settings": run.config, "Environment": run.environment}),
    ]
    sections.append(_glossary(list(run.scores), run.descriptions, sections))
    facts = [run.method, *([duration(run.seconds)] if known(run.seconds) else [])]
    lead = element("p", run.summary, class_="verdict") if run.summary else None
    return _page("Counterpoint run", run.name, facts, [lead, *_notes(run.notes)], sections)


def comparison_page(data: ComparisonData) -> str:
    """Several methods on the same data as a self-contained HTML page; parts without data do not appear on it."""
    runs = {name: panels.complete(run) for name, run in _ordered(data).items()}
    title = metric(data.metric, data.descriptions).title
    baselines = [row.name for row in data.rows if row.baseline]
    spoken = data.verdict or verdict(data.rows, title, not _is_error(data))
    sections = [
        _leaderboard(data, title),
        _metrics(data),
        _section("cost", "Cost and quality", _cost(data, title)),
        _curves(runs, data.metric, data.descriptions),
        _maps(runs),
        _predictions(runs),
        _neighbours(runs),
        _histograms(runs),
        _section("score-curves", "Scores over training", panels.score_curves(runs), LEADS["score-curves"]),
        _spectra(runs, baselines),
        _views(runs),
        _failures(data.failures),
        _skipped(_all_skipped(runs)),
        _repeat(data.command, {"Settings": data.settings, "Environment": data.environment}),
    ]
    sections.append(_glossary(_metric_names(data), data.descriptions, sections))
    lead = [element("p", spoken, class_="verdict"), *_notes(data.notes)]
    return _page("Counterpoint comparison", data.name, _facts(data.data), lead, sections)


def _is_error(data: ComparisonData) -> bool:
    return metric(data.metric, data.descriptions).higher_is_better is False


def _predictions(runs: Mapping[str, RunData]) -> Section | None:
    return _section("prediction", "Predicted and true", panels.predictions(runs), LEADS["prediction"])


def _facts(data: Mapping[str, Any]) -> list[str]:
    """``1,797 items`` for a count, ``shape: 1 x 8 x 8`` for the rest."""
    facts = []
    for name, value in flatten(data).items():
        facts.append(f"{int(value):,} {name}" if value.isdecimal() else f"{name}: {value}")
    return facts


def _ordered(data: ComparisonData) -> dict[str, RunData]:
    """Runs in the order of the leaderboard."""
    order = [row.name for row in data.rows if row.name in data.runs]
    return {name: data.runs[name] for name in [*order, *(name for name in data.runs if name not in order)]}


def _page(kind: str, title: str, facts: Sequence[str], lead: Sequence[Any], sections: Sequence[Section | None]) -> str:
    present = [section for section in sections if section]
    links = [element("li", element("a", section.title, href=f"#{section.id}")) for section in present]
    style, script = _resource("style.css"), _resource("page.js")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="generator", content="Counterpoint"),
        element("title", f"{title} - {kind}"),
        element("style", style),
    )
    header = element(
        "header",
        element("p", kind, class_="eyebrow"),
        element("h1", title),
        element("p", [[element("span", fact), " "] for fact in facts], class_="facts") if facts else None,
        lead,
        element("nav", element("ul", links), aria_label="Contents"),
    )
    main = element("main", [_render(section) for section in present])
    footer = element(
        "footer", element("p", "Written by Counterpoint. This file holds everything it shows and loads nothing.")
    )
    body = element("body", header, main, footer, element("script", script))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _render(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.id}-title")
    return element("section", heading, section.body, id=section.id, aria_labelledby=f"{section.id}-title")


@cache
def _resource(name: str) -> Html:
    return Html(files("counterpoint.web").joinpath(name).read_text("utf-8"))


def _section(id: str, title: str, body: Html | None, lead: str | None = None) -> Section | None:
    if not body:
        return None
    return Section(id, title, join([element("p", lead, class_="lead") if lead else None, body]))


def _notes(notes: Sequence[str]) -> list[Html]:
    return [element("p", note, class_="note") for note in notes]


def _leaderboard(data: ComparisonData, title: str) -> Section | None:
    if not data.rows:
        return None
    tie = any(a.rank == b.rank for a, b in pairwise(data.rows))
    lead = f"Ranked by {title} on test items. {LEADS['leaderboard']} {LEADS['ties'] if tie else ''}"
    parts = [tables.leaderboard(data.rows, title)]
    gaps = tables.differences(data.rows)
    if gaps:
        parts += [element("h3", f"Difference from {data.rows[0].name}", class_="next"), _lead("differences"), gaps]
    return _section("leaderboard", "Leaderboard", join(parts), lead)


def _lead(name: str) -> Html:
    return element("p", LEADS[name], class_="lead")


def _metric_names(data: ComparisonData) -> list[str]:
    """The scores that compare something: those of two methods or more, and the one that ranks."""
    counts = Counter(name for scores in data.metrics.values() for name in scores)
    least = min(2, len(data.metrics))
    return [name for name in dict.fromkeys([data.metric, *counts]) if counts[name] >= (least, 1)[name == data.metric]]


def _metrics(data: ComparisonData) -> Section | None:
    names = _metric_names(data)
    if not names:
        return None
    useful = [name for name in names if name.partition(":")[0] in LABELLED or name == data.metric]
    others = [name for name in names if name not in useful]
    captions = ((useful, "How useful the embeddings are"), (others, "Clusters and geometry"))
    parts = [tables.metric_table(data.metrics, part, data.descriptions, text) for part, text in captions if part]
    return _section("metrics", "All metrics", join(parts), LEADS["metrics"])


def _cost(data: ComparisonData, title: str) -> Html | None:
    points = {
        row.name: (float(data.seconds[row.name]), float(row.mean), row.low, row.high)
        for row in data.rows
        if row.mean is not None and known(row.mean) and known(data.seconds.get(row.name))
    }
    if len(points) < 2:
        return None
    rows = []
    for name, (seconds, mean, _, _) in sorted(points.items(), key=lambda point: point[1][0]):
        cells = [element("td", text, class_="number") for text in (duration(seconds), number(mean))]
        rows.append(element("tr", element("th", name, scope="row"), cells))
    table = tables.plain_table({"Method": None, "Time": "number", title: "number"}, rows)
    lead = LEADS["cost_of_errors" if _is_error(data) else "cost"]
    figure = panels.panel(None, cost(points, title), caption=lead)
    return panels.panels([figure, element("div", table)], broad=True)


def _curves(runs: Mapping[str, RunData], chosen: str, descriptions: Mapping[str, str]) -> Section | None:
    keys = {key for run in runs.values() for key in panels.curve_keys(run)}
    candidates = [prefix + name for name in (chosen, "knn") for prefix in ("", "val_", "val/")]
    wanted = next((key for key in candidates if key in keys), None)
    quality = panels.qualities(runs, wanted, metric(wanted, descriptions).title) if wanted else None
    loss = panels.losses(runs)
    parts: list[Html] = []
    if quality:
        parts += [_lead("quality"), quality]
    if loss:
        heading = [element("h3", "Loss", class_="next")] if quality else []
        parts += [*heading, _lead("loss"), loss]
    return _section("curves", "Learning curves", join(parts))


def _training(run: RunData) -> Html | None:
    figures = []
    for at, key in enumerate(["loss", *panels.curve_keys(run)]):
        line = panels.history_of(run, key, at)
        if line:
            title = "loss" if key == "loss" else metric(key, run.descriptions).title
            figures.append(panels.panel(None, curve(Series(run.name, line.x, line.y, at), title)))
    return panels.panels(figures)


def _histograms(runs: Mapping[str, RunData]) -> Section | None:
    body = panels.histograms(runs)
    kinds = {"positive": "positive pairs (solid)", "negative": "negative pairs (dashed)"}
    entries = []
    for kind, title in kinds.items():
        shape = element("path", d="M0 12L4 2L10 2L16 12", class_=f"ridge {kind}")
        entries.append(element("li", element("svg", shape, viewBox="0 0 16 12", aria_hidden="true"), title))
    legend = element("ul", entries, class_="legend", aria_label="Kinds of pairs")
    return _section("similarity", "Positive and negative pairs", body and join([legend, body]), LEADS["similarity"])


def _maps(runs: Mapping[str, RunData]) -> Section | None:
    return _section("maps", "Embedding maps", panels.maps(runs), LEADS["maps"])


def _neighbours(runs: Mapping[str, RunData]) -> Section | None:
    labelled = any(run.neighbours is not None and run.neighbours[2] is not None for run in runs.values())
    lead = f"{LEADS['neighbours']} {LEADS['marks'] if labelled else ''}"
    return _section("neighbours", "Nearest neighbours", panels.neighbour_grids(runs), lead)


def _spectra(runs: Mapping[str, RunData], dashed: Sequence[str]) -> Section | None:
    lead = f"{LEADS['spectra']} {'Baselines are dashed.' if dashed else ''}"
    return _section("spectra", "Singular spectra", panels.spectrum(runs, dashed), lead)


def _views(runs: Mapping[str, RunData]) -> Section | None:
    return _section("views", "Example views", panels.example_views(runs), LEADS["views"])


def _confusion(run: RunData) -> Section | None:
    if run.confusion is None or np.asarray(run.confusion).size == 0:
        return None
    counts = np.asarray(run.confusion)
    names = list(run.classes or [])[: len(counts)]
    names += [str(at) for at in range(len(names), len(counts))]
    return _section("confusion", "Confusion", panels.panel(None, confusion(counts, names)), LEADS["confusion"])


def _failures(failures: Sequence[tuple[str, str]]) -> Section | None:
    body = tables.pair_table(failures, "Run", "Why") if failures else None
    return _section("failures", "What did not finish", body)


def _all_skipped(runs: Mapping[str, RunData]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((str(path), str(why)) for run in runs.values() for path, why in run.skipped))


def _skipped(skipped: Sequence[tuple[str, str]]) -> Section | None:
    if not skipped:
        return None
    lead = f"{counted(len(skipped), 'input')} could not be read and took no part."
    return _section("skipped", "Skipped inputs", tables.pair_table(skipped, "Input", "Why"), lead)


def _repeat(command: str | None, values: Mapping[str, Mapping[str, Any]]) -> Section | None:
    parts = [element("pre", element("code", command))] if command else []
    for title, entries in values.items():
        if entries:
            table = tables.value_table(entries, title)
            parts.append(element("details", element("summary", title), table, open=True))
    return _section("repeat", "Repeat it", join(parts))


def _glossary(
    names: Sequence[str], descriptions: Mapping[str, str], sections: Sequence[Section | None]
) -> Section | None:
    """Only what the page shows is explained."""
    present = {section.id for section in sections if section}
    entries = {title: meaning for title, (where, meaning) in TERMS.items() if where in present}
    for name in names:
        entry = metric(name, descriptions)
        if entry.meaning:
            entries[entry.title] = entry.meaning
    if not entries:
        return None
    pairs = [element("div", element("dt", title), element("dd", meaning)) for title, meaning in entries.items()]
    return Section("glossary", "How to read this page", element("dl", pairs, class_="columns"))
