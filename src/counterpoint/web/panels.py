"""Groups of figures: one panel per method, side by side. A run's page has groups of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from counterpoint.web import values as drawn
from counterpoint.web.axes import extent
from counterpoint.web.content import Array, RunData
from counterpoint.web.figures import Series, curve, ridges, spectra
from counterpoint.web.grids import grid, tiles
from counterpoint.web.images import data_uri, sheet, thumbnail, thumbnails_of
from counterpoint.web.lines import curves, thinned
from counterpoint.web.maps import NEIGHBOUR_LIMIT, embedding_map, neighbour_grid
from counterpoint.web.markup import Html, element, known
from counterpoint.web.scatter import class_styles, scatter
from counterpoint.web.values import shade_edges, shade_legend, value_map

Runs = Mapping[str, RunData]
QUERIES = 10
MAP_POINTS = 1500  # UMAP lays these out in about six seconds; twice as many take three times as long
NEIGHBOUR_SIDE = 48  # pixels: shown at 40 to 54
VIEW_SIDE = 64
SMOOTH_SIDE = 40
EXAMPLES = 8
SPRITE_SIDE = 32
SPRITE_LIMIT = 1000
NOT_CURVES = frozenset({"epoch", "step", "seconds", "time", "loss"})


def panel(title: str | None, *figure: Any, caption: str | None = None) -> Html:
    """A figure under its heading."""
    heading = element("h3", title) if title else None
    return element("figure", heading, *figure, element("figcaption", caption) if caption else None)


def panels(figures: Sequence[Html], broad: bool = False) -> Html | None:
    """Figures in as many columns as the page has room for."""
    if not figures:
        return None
    kind = "figures broad" if broad else "figures" if len(figures) > 1 else "figures one"
    return element("div", figures, class_=kind)


def complete(run: RunData, seed: int = 0) -> RunData:
    """The run with map, neighbours and spectrum computed from its embeddings where it lacks them."""
    if run.embeddings is None or len(run.embeddings) < 2:
        return run
    vectors = np.asarray(run.embeddings, dtype=np.float32)
    if run.map is None:
        index, xy = embedding_map(vectors, seed, MAP_POINTS, run.labels)
        run = replace(run, map=xy, map_index=index)
    if run.neighbours is None and run.thumbnails is not None and len(vectors) <= NEIGHBOUR_LIMIT:
        run = replace(run, neighbours=neighbour_grid(vectors, run.labels, QUERIES, seed=seed))
    if run.spectrum is None:
        finite = np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
        run = replace(run, spectrum=np.linalg.svd(finite - finite.mean(0), compute_uv=False))
    return run


def history_of(run: RunData, key: str, colour: int = 0) -> Series | None:
    """One number of the history over epochs, ``None`` where it never appears."""
    found = [(row.get("epoch", at), row.get(key)) for at, row in enumerate(run.history)]
    points = [(x, float(y)) for x, y in found if isinstance(y, int | float) and not isinstance(y, bool)]
    if not any(known(y) for _, y in points):
        return None
    return Series(run.method, [x for x, _ in points], [y for _, y in points], colour)


def curve_keys(run: RunData) -> list[str]:
    """What the history tells besides the loss."""
    keys: dict[str, None] = {}
    for row in run.history:
        keys |= dict.fromkeys(k for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool))
    return [key for key in keys if key not in NOT_CURVES]


def losses(runs: Runs) -> Html | None:
    """Loss over epochs, each on its own axis."""
    lines = {name: history_of(run, "loss", at) for at, (name, run) in enumerate(runs.items())}
    return panels(
        [panel(_title(name, runs), curve(replace(line, name=name), "loss")) for name, line in lines.items() if line]
    )


def qualities(runs: Runs, key: str, title: str) -> Html | None:
    """A score over epochs: each method in front of the others, on one axis."""
    found = [(name, history_of(run, key, at)) for at, (name, run) in enumerate(runs.items())]
    lines = [replace(line, name=name) for name, line in found if line]
    shared = extent([v for line in lines for v in line.y])
    figures = []
    for line in lines:
        others = [other for other in lines if other is not line]
        figures.append(panel(_title(line.name, runs), curve(line, title, others, shared)))
    return panels(figures)


def histograms(runs: Runs) -> Html | None:
    """Similarity of positive and negative pairs over training."""
    figures = []
    for name, run in runs.items():
        if run.histograms is not None and len(run.histograms["epochs"]):
            h = {key: np.asarray(value) for key, value in run.histograms.items()}
            figures.append(
                panel(_title(name, runs), ridges(h["edges"], h["epochs"], h["positive"], h["negative"], name))
            )
    return panels(figures)


_STATISTICS = {  # of an anchor's scores, with the titles of their figures
    "positive": "Score with the positive",
    "negative_mean": "Mean score with negatives",
    "negative_variance": "Variance of the scores with negatives",
    "exp_positive": "ln exp(positive ÷ temperature)",
    "exp_negative": "ln mean exp(negative ÷ temperature)",
    "first": "Share whose positive scores highest",
}


def score_curves(runs: Runs) -> Html | None:
    """A figure for each statistic: all runs on one axis, dashed what the loss sees where a method changes it."""
    figures = []
    for statistic, title in _STATISTICS.items():
        lines = []
        for at, (name, run) in enumerate(runs.items()):
            for stage in ("before", "after"):
                values = (run.score_curves or {}).get(f"{stage}/{statistic}")
                if values is None or not np.isfinite(values).any():
                    continue
                assert run.score_curves is not None
                y = np.log(values) if statistic.startswith("exp") else values
                label = name if len(runs) > 1 else stage
                points = thinned(run.score_curves["step"]).tolist(), thinned(y).tolist()
                lines.append(Series(label, *points, at, dashed=stage == "after"))
        if lines:
            figures.append(panel(title, curves(lines, "step", "", signed=False)))
    return panels(figures, broad=True)


def spectrum(runs: Runs, dashed: Sequence[str] = ()) -> Html | None:
    """All singular spectra in one figure."""
    lines = []
    for at, (name, run) in enumerate(runs.items()):
        if run.spectrum is None:
            continue
        values = np.sort(np.nan_to_num(np.abs(np.asarray(run.spectrum, dtype=float))))[::-1]
        if len(values) and values[0] > 0:
            shown = np.unique(np.geomspace(1, len(values), min(len(values), 200)).round().astype(int))
            heights = values[shown - 1] / values[0]
            lines.append(Series(name, shown.tolist(), heights.tolist(), at, name in dashed))
    return panel(None, spectra(lines)) if lines else None


def maps(runs: Runs) -> Html | None:
    """Embedding maps, coloured by class or shaded by target alike in all, and the thumbnails that their dots show."""
    mapped = {name: run for name, run in runs.items() if run.map is not None and len(run.map)}
    if not mapped:
        return None
    figures, seen = [], []
    first = next(iter(mapped.values()))
    edges = None if first.targets is None else shade_edges(first.targets)
    for name, run in mapped.items():
        items = np.arange(len(run.map)) if run.map_index is None else np.asarray(run.map_index)  # type: ignore[arg-type]
        labels = None if run.labels is None else np.asarray(run.labels)
        names = class_names(run)
        shown = None if labels is None else labels[items]
        assert run.map is not None
        if edges is not None and run.targets is not None:
            figure = value_map(run.map, np.asarray(run.targets)[items], edges, items, name)
        else:
            figure = scatter(run.map, shown, names, class_styles(labels), items, name)
        figures.append(panel(_title(name, runs), figure))
        seen.append(items)
    legend = _legend(first) if edges is None else shade_legend(edges)
    wide = panels(figures)
    return element("div", wide, legend, _sprite(first, np.unique(np.concatenate(seen))))


def predictions(runs: Runs) -> Html | None:
    """Predicted against true targets and errors along their range; of several runs the former alone."""
    figures = []
    for name, run in runs.items():
        if run.prediction is None or not np.isfinite(run.prediction.true).any():
            continue
        figures.append(panel(_title(name, runs), drawn.predictions(run.prediction, name)))
        if len(runs) == 1:
            caption = "Errors of the test items in each range of the target; below, how many training items lie in it."
            figures.append(panel(None, drawn.errors_by_range(run.prediction, name), caption=caption))
    return panels(figures, broad=len(runs) == 1)


def class_names(run: RunData) -> dict[int, str]:
    """Name of each label that occurs."""
    if run.labels is None:
        return {}
    names = run.classes or []
    found = {int(label) for label in np.unique(run.labels)}
    return {i: "unlabelled" if i < 0 else names[i] if i < len(names) else f"class {i}" for i in found}


def _legend(run: RunData) -> Html | None:
    styles, names = class_styles(None if run.labels is None else np.asarray(run.labels)), class_names(run)
    if not styles:
        return None
    entries = [element("li", _swatch(style), names[label]) for label, style in styles.items() if style != "rest"]
    rest = sum(style == "rest" for style in styles.values())
    if rest:
        entries.append(element("li", f"{rest} further classes in grey"))
    return element("ul", entries, class_="legend", aria_label="Classes")


def _swatch(style: str) -> Html:
    dot = element("path", d="M6 6h0", class_=f"dots {style}", style="stroke-width:9")
    return element("svg", dot, viewBox="0 0 12 12", aria_hidden="true")


def _sprite(run: RunData, items: Array) -> Html | None:
    """Thumbnails of the mapped items in one hidden picture; a random thousand where there are more."""
    if run.thumbnails is None:
        return None
    if len(items) > SPRITE_LIMIT:
        items = np.sort(np.random.default_rng(0).permutation(items)[:SPRITE_LIMIT])
    images = thumbnails_of(items.tolist(), run.thumbnails)
    known_items = [(int(item), image) for item, image in zip(items, images, strict=True) if image is not None]
    if not known_items:
        return None
    side = min(SPRITE_SIDE, max(known_items[0][1].shape[:2]))
    columns = min(40, len(known_items))
    return element(
        "img",
        id="sprite",
        hidden=True,
        alt="",
        src=Html(data_uri(sheet([image for _, image in known_items], columns, side))),
        data_columns=columns,
        data_items=" ".join(str(item) for item, _ in known_items),
    )


def neighbour_grids(runs: Runs) -> Html | None:
    """Queries and their nearest neighbours, as images."""
    figures = []
    for name, run in runs.items():
        if run.neighbours is None or run.thumbnails is None:
            continue
        queries, indices, same = (None if part is None else np.asarray(part) for part in run.neighbours)
        assert queries is not None
        assert indices is not None
        rows = [thumbnails_of([query, *near], run.thumbnails) for query, near in zip(queries, indices, strict=True)]
        first = next((image for row in rows for image in row if image is not None), None)
        if first is None:
            continue
        pictures = [[None if image is None else thumbnail(image, NEIGHBOUR_SIDE) for image in row] for row in rows]
        share = None if same is None else f"{int(same.sum())} of {same.size} neighbours are of the query's class"
        label = f"{name}: {len(queries)} queries and their {indices.shape[1]} nearest neighbours. {share or ''}"
        figure = _sharpness(grid(pictures, same, label), first.shape)
        figures.append(panel(_title(name, runs), figure, caption=f"{share}." if share else None))
    return panels(figures, broad=True)


def example_views(runs: Runs) -> Html | None:
    """What each pipeline makes of a few items: a column per item, a row per view."""
    figures = []
    for name, run in runs.items():
        if run.views is None or np.asarray(run.views).ndim != 5 or 0 in np.asarray(run.views).shape:
            continue
        views = np.asarray(run.views)[:EXAMPLES]
        pictures = [[thumbnail(item[v], VIEW_SIDE) for item in views] for v in range(views.shape[1])]
        label = f"{views.shape[1]} views of each of {len(views)} items, made by {name}"
        figures.append(panel(_title(name, runs), _sharpness(tiles(pictures, label), views.shape[2:4])))
    return panels(figures, broad=True)


def _title(name: str, runs: Runs) -> str | None:
    """A heading where there is more than one panel to tell apart."""
    return name if len(runs) > 1 else None


def _sharpness(figure: Html, shape: Sequence[int]) -> Html:
    """Small pictures keep their pixels when they are enlarged, larger ones are smoothed."""
    return Html(figure.replace('class="', 'class="smooth ', 1)) if max(shape[:2]) >= SMOOTH_SIDE else figure
