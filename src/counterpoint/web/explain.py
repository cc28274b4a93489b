"""The page of the microscope: what losses do to the pairs of a batch, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.web import panels, tables
from counterpoint.web.axes import LETTER, Chart, Scale, drawing, plain, text, ticks
from counterpoint.web.figures import COLOURS, Series, short
from counterpoint.web.lines import WIDTH, curves
from counterpoint.web.markup import DASH, Html, element, join, known, listed, number
from counterpoint.web.report import Section, _page, _repeat, _section

_ALIKE = 0.15  # of the push may lie elsewhere in two losses that are said to share it alike
SUMMARY = (
    "Effective negatives", "Hardest 1 %", "Hardest 10 %", "Multiplier", "Least multiplier", "Weight of positives",
    "Direction", "Gradient",
)  # fmt: skip
_DENSITY = 40  # bins of multipliers

_AXES = {"temperature": "temperature", "batch_size": "batch size", "views": "views"}
_SPLIT = {
    "length": "own length",
    "positives": "its positives",
    "others": "the other rows",
    "nowhere": "no row",
}
_LEADS = {
    "short": "All at the same batch. Each figure is a mean over anchors.",
    "negatives": "Weight by similarity, read from the gradient. A weight of 1 is what each pair would have if the full "
    "pull of an anchor were spread evenly over them. For negatives the scale is logarithmic (linear around 0), so that "
    "a softmax is a straight line, the steeper the lower its temperature.",
    "hardest": "The part of the push that falls on the most similar 1 % (dark) and 10 % (light) of an anchor's "
    "negatives.",
    "coupling": "How hard anchors are pulled, relative to the full pull. In a softmax that counts the positive among "
    "the candidates, this is the share that it leaves to the negatives, and multiplies positive and negative weights "
    "alike: an anchor whose positive is easy, or whose negatives are few, learns little.",
    "temperature": "The weight of a negative by its similarity, a panel for each loss that has a temperature.",
    "batch_size": "The weight of a negative by its similarity, a panel for each loss.",
    "views": "The weight of a negative by its similarity, a panel for each loss. A loss for two views is averaged over "
    "all pairs of them.",
    "conditional": "CACR weighs positives among positives and negatives among negatives. 1 is the mean of the group: "
    "far positives (low similarity) and near negatives (high similarity) count more. The weights of its gradient, "
    "above, differ from these as the weights themselves have a gradient.",
    "split": "Shares of the squared gradient: along the embedding itself, which a loss of directions never has; along "
    "its positives; along the other rows of the batch; and at right angles to all rows, where no sum over pairs can "
    "point. A dash where the rows span all dimensions, so that nothing is left over.",
}
_TERMS = {
    "Weight": "How strongly the loss moves an anchor along another row: its derivative by the pair's similarity. "
    "Negatives are pushed away in proportion to it, positives drawn nearer.",
    "Effective negatives": "How many negatives share the push (exp of the entropy of their shares): 1 where the "
    "hardest takes all, all of them where they count alike.",
    "Hardest 1 %": "Share of the push on the most similar hundredth of an anchor's negatives, at least one of them.",
    "Multiplier": "Pull of the positives relative to the full pull, that of a positive which is hard beyond measure. "
    "DCL's is 1 always: it removes the coupling. For losses without a softmax over a temperature, relative to the "
    "strongest pull of the batch (marked *).",
    "Weight of positives": "How strongly an anchor's positives pull, together, times the number of anchors.",
    "Direction": "The gradient without that weight: how far the positives are from the negatives that they are held "
    "against.",
    "Gradient": "Length of an anchor's gradient, times the number of anchors: weight times direction.",
}


def explain_page(
    value: Mapping[str, Any], settings: Mapping[str, Any], environment: Mapping[str, Any], command: str
) -> str:
    """What :func:`counterpoint.experiments.explain.explain` found as a self-contained HTML page."""
    losses = [(loss, at) for at, loss in enumerate(value["losses"])]
    paired = [(loss, at) for loss, at in losses if loss["base"]]
    pushing = [(loss, at) for loss, at in paired if loss["base"]["negatives"]]
    said = sentences(value)
    sections = [
        _part("short", "In short", _table([loss for loss, _ in losses]), said, "draws"),
        _part("negatives", "Weights by similarity", _weights(paired), said, "alike"),
        _part("hardest", "The hardest negatives", _bars(pushing), said),
        _part("coupling", "Negative-positive coupling", _coupling(paired), said, "balance"),
        *(_part(axis, f"By {name}", _sweep(paired, axis), said) for axis, name in _AXES.items()),
        _part("conditional", "CACR's conditional weights", _conditional(losses), said),
        _part("split", "Where the gradient points", _split([loss for loss, _ in losses]), said),
        _repeat(command, {"Settings": settings, "Environment": environment}),
        _glossary([loss for loss, _ in paired]),
    ]
    names = [str(loss["name"]) for loss, _ in losses]
    base = value["base"]
    facts = [str(value["data"]), *(f"{name} {base[axis]:g}" for axis, name in _AXES.items())]
    verdict = " ".join(said[name] for name in ("hardest", "coupling") if name in said)
    lead = [element("p", verdict, class_="verdict")] if verdict else []
    return _page("Counterpoint explain", " · ".join(names), facts, lead, sections)


def _part(id: str, title: str, body: Html | None, said: Mapping[str, str], *more: str) -> Section | None:
    found = [element("p", said[name]) for name in (id, *more) if name in said]
    return _section(id, title, join([found, body]) if body else None, _LEADS[id])


def sentences(value: Mapping[str, Any]) -> dict[str, str]:
    """What the figures say, in words, by section; only what is there to be said."""
    losses = value["losses"]
    pushing = {loss["name"]: loss["base"] for loss in losses if loss["base"] and loss["base"]["negatives"]}
    scaled = {loss["name"]: loss for loss in losses if loss["base"] and loss["base"]["full"]}
    said = {
        "hardest": _said_hardest(pushing),
        "alike": _said_alike(value["moved"]),
        "draws": _said_draws(pushing),
        "coupling": _said_coupling(scaled),
        "balance": _said_balance(pushing),
        "temperature": _said_effective(losses, "temperature"),
        "batch_size": _said_multiplier(scaled, "batch_size"),
        "views": " ".join(filter(None, (_said_multiplier(scaled, "views"), _said_positives(losses)))),
        "split": _said_split(losses),
    }
    return {name: words for name, words in said.items() if words}


def share(value: Any) -> str:
    """``18 %``, ``1.3 %``; a dash for none."""
    if not known(value):
        return number(value)
    return f"{100 * value:.0f} %" if value >= 0.0995 or value < 0.0005 else f"{100 * value:.1f} %"


def _said_hardest(pushing: Mapping[str, Mapping[str, Any]]) -> str:
    if not pushing:
        return ""
    order = sorted(pushing, key=lambda name: -pushing[name]["hardest_1"])
    parts = [f"{share(pushing[name]['hardest_1'])} of {name}'s" for name in order]
    return f"The hardest 1 % of the negatives take {listed(parts)} push."


def _said_alike(moved: Mapping[str, float]) -> str:
    if len(moved) < 2:
        return ""
    first, *others = moved
    alike = [name for name in others if moved[name] <= _ALIKE]
    words = []
    if alike:
        verb = "shares its" if len(alike) == 1 else "share their"
        words.append(f"{listed(alike)} {verb} push among the negatives much as {first} does.")
    parts = [f"{share(moved[name])} of that of {name}" for name in others if moved[name] > _ALIKE]
    if parts:
        words.append(f"To be shared as {first} shares it, {listed(parts)} would have to go to other negatives.")
    return " ".join(words)


def _said_draws(pushing: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"{name} {share(base['attracted'])}" for name, base in pushing.items() if base["attracted"] >= 0.005]
    return f"Of the negatives, some are drawn nearer instead of pushed away: in {listed(parts)}." if parts else ""


def _said_coupling(scaled: Mapping[str, Mapping[str, Any]]) -> str:
    """The two losses that are farthest apart, at the smallest batch and at the largest."""
    batches = list(next(iter(scaled.values()))["batch_size"]) if scaled else []
    if len(scaled) < 2:
        return ""

    def strength(name: str, batch: str) -> float:
        return float(scaled[name]["batch_size"][batch]["multiplier"])

    weak, strong = (pick(scaled, key=lambda name: strength(name, batches[0])) for pick in (min, max))
    ratios = [strength(strong, batch) / max(strength(weak, batch), 1e-12) for batch in batches]
    if ratios[0] < 1.05:
        return ""
    words = f"{strong} pulls positives {ratios[0]:.1f} times as hard as {weak} at batch {batches[0]}"
    return f"{words}, and {ratios[-1]:.1f} times at {batches[-1]}." if len(batches) > 1 else f"{words}."


def _said_balance(pushing: Mapping[str, Mapping[str, Any]]) -> str:
    ratios = {name: base["push"] / base["pull"] for name, base in pushing.items() if base["pull"] > 0}
    parts = [
        f"{name} pushes {ratio:.2g} times as hard as it pulls"
        for name, ratio in ratios.items()
        if abs(ratio - 1) > 0.05
    ]
    return f"{listed(parts)}." if parts else ""


def _said_effective(losses: Sequence[Mapping[str, Any]], axis: str) -> str:
    parts = []
    for loss in losses:
        values = [(at, look) for at, look in loss[axis].items() if look and look["negatives"]]
        if len(values) > 1:
            (low, first), (high, last) = values[0], values[-1]
            ends = f"{number(first['effective'])} to {number(last['effective'])} of {last['negatives']:.0f}"
            parts.append((low, high, f"from {ends} in {loss['name']}"))
    if not parts:
        return ""
    low, high, _ = parts[0]
    return f"From {_AXES[axis]} {low} to {high}, the effective negatives go {listed(words for *_, words in parts)}."


def _said_multiplier(scaled: Mapping[str, Mapping[str, Any]], axis: str) -> str:
    parts, ends = [], ("", "")
    for name, loss in scaled.items():
        values = list(loss[axis].items())
        if len(values) > 1:
            (low, first), (high, last) = values[0], values[-1]
            ends = (low, high)
            parts.append(f"{_course(first['multiplier'], last['multiplier'])} in {name}")
    return f"From {_AXES[axis]} {ends[0]} to {ends[1]}, the multiplier {listed(parts)}." if parts else ""


def _said_positives(losses: Sequence[Mapping[str, Any]]) -> str:
    """What similarity does to a positive's weight where an anchor has several."""
    looks = [(loss["name"], *list(loss["views"].items())[-1]) for loss in losses if loss["views"]]
    parts = []
    for name, views, look in looks:
        weights = look["positive_curve"]["y"]
        if len(weights) > 1 and int(views) > 2:
            parts.append(f"{_course(weights[0], weights[-1])} in {name}")
    if not parts:
        return ""
    return f"With {looks[0][1]} views, the weight of a positive, from the least to the most similar, {listed(parts)}."


def _course(first: float, last: float) -> str:
    if abs(first - last) < 0.005:
        return f"stays at {number(last)}"
    return f"goes from {number(first)} to {number(last)}"


def _said_split(losses: Sequence[Mapping[str, Any]]) -> str:
    words = []
    for loss in losses:
        if loss["why"]:
            off = loss["split"]["nowhere"]
            much = f" {share(off)} of it points where no row of the batch lies." if off is not None else ""
            words.append(f"{loss['name']} gives no weights to pairs: {loss['why']}.{much}")
    return " ".join(words)


def summary(look: Mapping[str, Any] | None) -> list[str]:
    """The figures of a loss at one setting, in words, in the order of ``SUMMARY``."""
    if look is None:
        return [DASH] * len(SUMMARY)
    hardest = [share(look[name]) if look["negatives"] else DASH for name in ("hardest_1", "hardest_10")]
    return [
        f"{number(look['effective'])} of {look['negatives']:.0f}" if look["negatives"] else "none",
        *hardest,
        number(look["multiplier"]) + ("" if look["full"] else "*"),
        *(number(look[name]) for name in ("multiplier_least", "pull", "direction", "gradient")),
    ]


def _table(losses: Sequence[Mapping[str, Any]]) -> Html:
    body = []
    for loss in losses:
        cells = [element("td", cell, class_="number") for cell in summary(loss["base"])]
        body.append(element("tr", element("th", loss["name"], scope="row"), cells))
    return _scrolling(tables.plain_table({"Loss": None} | dict.fromkeys(SUMMARY, "number"), body))


def _scrolling(table: Html) -> Html:
    return element("div", table, class_="scroll", tabindex="0", role="region")


def _weights(paired: Sequence[tuple[Mapping[str, Any], int]]) -> Html | None:
    kinds = (("negative_curve", "A negative", True), ("positive_curve", "A positive", False))
    figures = []
    for key, title, signed in kinds:
        series = [_series(loss["name"], loss["base"][key], at) for loss, at in paired]
        shown = [line for line in series if any(line.y)]
        if shown:
            room: tuple[list[float], list[float]] = ([], [] if signed else [0.0, 1.0])
            figures.append(panels.panel(title, curves(shown, "cosine similarity", "weight", signed, shared=room)))
    return panels.panels(figures, broad=True)


def _series(name: str, curve: Mapping[str, Sequence[float]], colour: int) -> Series:
    return Series(str(name), curve["x"], curve["y"], colour, dashed=colour % 2 == 1)


def _sweep(paired: Sequence[tuple[Mapping[str, Any], int]], axis: str) -> Html | None:
    """Negatives, and positives on demand."""
    negatives = _panels(paired, axis, "negative_curve", True)
    positives = _panels(paired, axis, "positive_curve", False)
    if positives is None:
        return negatives
    detail = element("details", element("summary", "The weight of a positive"), positives, open=axis == "views")
    return join([negatives, detail])


def _panels(paired: Sequence[tuple[Mapping[str, Any], int]], axis: str, key: str, signed: bool) -> Html | None:
    """A panel for each loss, a line for each value of the axis, all on the same scales."""
    found = {
        loss["name"]: [_series(value, look[key], at) for at, (value, look) in enumerate(loss[axis].items())]
        for loss, _ in paired
    }
    found = {name: series for name, series in found.items() if len(series) > 1 and any(any(s.y) for s in series)}
    lines = [line for series in found.values() for line in series]
    shared = ([x for line in lines for x in line.x], [0.0, *(y for line in lines for y in line.y)])
    figures = [
        panels.panel(name, curves(series, "cosine similarity", "weight", signed, 340, shared, _AXES[axis]))
        for name, series in found.items()
    ]
    return panels.panels(figures, broad=True)


def _coupling(paired: Sequence[tuple[Mapping[str, Any], int]]) -> Html | None:
    pulling = [(loss, at) for loss, at in paired if known(loss["base"]["multiplier"])]
    if not pulling:
        return None
    figures = [panels.panel("Over the anchors of a batch", densities(pulling))]
    lines = []
    for loss, at in pulling:
        points = [(float(batch), look["multiplier"]) for batch, look in loss["batch_size"].items() if look["full"]]
        if len(points) > 1:
            lines.append(Series(loss["name"], [x for x, _ in points], [y for _, y in points], at, at % 2 == 1))
    if lines:
        top = max(1.0, *(y for line in lines for y in line.y))
        figure = curves(lines, "batch size (logarithmic)", "mean multiplier", False, shared=([], [0.0, top]), log=True)
        figures.append(panels.panel("By batch size", figure))
    return panels.panels(figures, broad=True)


def _conditional(losses: Sequence[tuple[Mapping[str, Any], int]]) -> Html | None:
    found = [(loss, at) for loss, at in losses if loss["conditional"]]
    figures = []
    similarity = {"attraction": "similarity − mean of the anchor's positives", "repulsion": "cosine similarity"}
    for key, title in (("attraction", "Of a positive"), ("repulsion", "Of a negative")):
        series = [_series(loss["name"], loss["conditional"][key], at) for loss, at in found]
        if any(line.x for line in series):
            figure = curves(series, similarity[key], "weight ÷ mean of its group", False, shared=([], [0.0]))
            figures.append(panels.panel(f"{title}, {found[0][0]['conditional']['views']} views", figure))
    return panels.panels(figures, broad=True)


def _split(losses: Sequence[Mapping[str, Any]]) -> Html:
    body = []
    for loss in losses:
        cells = [element("td", share(loss["split"][name]), class_="number") for name in _SPLIT]
        body.append(element("tr", element("th", loss["name"], scope="row"), cells))
    heads = {"Loss": None} | {f"Along {title}": "number" for title in _SPLIT.values()}
    return _scrolling(tables.plain_table(heads, body))


def _glossary(paired: Sequence[Mapping[str, Any]]) -> Section:
    terms = dict(_TERMS)
    if paired:
        missing = max(loss["base"]["residual"] for loss in paired)
        terms["Weight"] += f" All weights together are the gradient: {missing:.0e} of it is missing here."
    pairs = [element("div", element("dt", title), element("dd", meaning)) for title, meaning in terms.items()]
    return Section("glossary", "How to read this page", element("dl", pairs, class_="columns"))


def densities(pulling: Sequence[tuple[Mapping[str, Any], int]]) -> Html:
    """How the multipliers of a batch are spread, a row for each loss, with their mean."""
    width, gap, lift = WIDTH, 38, 26
    left = 14 + LETTER * max(len(short(str(loss["name"]))) for loss, _ in pulling)
    values = [v for loss, _ in pulling for v in loss["base"]["multipliers"] if known(v)]
    x = Scale(min(0.0, *values), max(1.0, *values), left, width - 14)
    height = 20 + gap * len(pulling) + 36
    means = "; ".join(f"{loss['name']}: {number(loss['base']['multiplier'])}" for loss, _ in pulling)
    chart = Chart(x, Scale(0, 1, height - 36, 0), width, height, f"Multipliers of the anchors. Means: {means}")
    for value in ticks(x.low, x.high, 5):
        chart.add(element("line", x1=x(value), x2=x(value), y1=14, y2=height - 36, class_="grid"))
    for at, (loss, colour) in enumerate(pulling):
        bottom, name = 18 + gap * (at + 1) - 6, f"c{colour % COLOURS}"
        counts = [0] * _DENSITY
        for value in loss["base"]["multipliers"]:
            if known(value):
                counts[min(int((value - x.low) / (x.high - x.low) * _DENSITY), _DENSITY - 1)] += 1
        step, most = (x.end - x.start) / _DENSITY, max(1, *counts)
        for bin_, count in enumerate(counts):
            if count:
                size = lift * count / most
                chart.add(
                    element(
                        "rect", x=x.start + bin_ * step, y=bottom - size, width=step, height=size,
                        class_=f"dot {name}", fill_opacity="0.45",
                    )
                )  # fmt: skip
        chart.add(element("circle", cx=x(loss["base"]["multiplier"]), cy=bottom, r="4", class_=f"mean {name}"))
        star = "" if loss["base"]["full"] else "*"
        chart.add(text(left - 6, bottom, short(str(loss["name"])) + star, f"t name {name}", "end"))
    marks = ticks(x.low, x.high, 5)
    chart.axis_x(marks, "multiplier (dot: mean)", [plain(v) for v in marks])
    return chart.svg()


def _bars(pushing: Sequence[tuple[Mapping[str, Any], int]]) -> Html | None:
    """Shares of the hardest hundredth and tenth, one bar inside the other."""
    if not pushing:
        return None
    width, gap = WIDTH, 30
    left = 14 + LETTER * max(len(short(str(loss["name"]))) for loss, _ in pushing)
    x = Scale(0, 1, left, width - 92)
    marks = []
    for at, (loss, colour) in enumerate(pushing):
        top, name, base = 4 + gap * at, f"c{colour % COLOURS}", loss["base"]
        for key, high, opacity in (("hardest_10", 18, "0.35"), ("hardest_1", 18, "1")):
            size = x(base[key]) - x.start
            marks.append(
                element(
                    "rect", x=x.start, y=top, width=max(size, 1.0), height=high, class_=f"dot {name}",
                    fill_opacity=opacity,
                )
            )  # fmt: skip
        marks.append(text(left - 6, top + 13, short(str(loss["name"])), f"t name {name}", "end"))
        both = f"{share(base['hardest_1'])} · {share(base['hardest_10'])}"
        marks.append(text(x(base["hardest_10"]) + 6, top + 13, both))
    spoken = "; ".join(
        f"{loss['name']}: {share(loss['base']['hardest_1'])} and {share(loss['base']['hardest_10'])}"
        for loss, _ in pushing
    )
    label = f"Push on the hardest 1 % and 10 % of the negatives. {spoken}"
    return panels.panels([panels.panel(None, drawing(width, 4 + gap * len(pushing), label, marks))])
