"""The ledger: result files of claims, and ``RESULTS.md``, the page that is made from them and from nothing else."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from counterpoint import papers
from counterpoint.experiments.claims.define import Claim, overall
from counterpoint.experiments.claims.files import claims_folder
from counterpoint.files import atomic, write_json
from counterpoint.papers.status import VERDICTS, read_json
from counterpoint.web.verdicts import verdicts

_ORDER = ("fails", "inconclusive", "holds")  # which setting speaks for a claim: the one that says the least for it
PICTURE = "verdicts.svg"
_HEADLINE = ("effect", "low", "high", "metric", "data", "date", "commit")


def merge(claim: Claim, entries: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], Path | None]:
    """Write ``<folder>/<name>.json`` and return it, with its path.

    A setting that was not run this time keeps the result that the file has for it if that was measured with the same
    definition, and is ``not run`` otherwise. Where nothing at all was measured nothing is written.
    """
    file = folder / f"{claim.name}.json"
    old = {entry["name"]: entry for entry in read_json(file).get("settings", [])} if file.is_file() else {}
    new = {entry["name"]: entry for entry in entries}
    settings = []
    for setting in claim.settings:
        blank = {"name": setting.name, "verdict": "not run", "data": setting.data, "reason": "not asked for yet"}
        entry, kept = new.get(setting.name, blank), old.get(setting.name, {})
        if entry["verdict"] == "not run" and kept.get("definition"):
            if kept["definition"] == setting.definition():
                entry = kept
            else:
                entry = {**entry, "reason": f"changed since it was measured on {kept.get('date')}"}
        settings.append(entry)
    value = {
        "paper": claim.paper,
        "name": claim.name,
        "title": claim.title,
        "statement": claim.statement,
        "source": claim.source,
        "verdict": overall(entry["verdict"] for entry in settings),
        **_headline(settings),
        "command": f"counterpoint claim {claim.name}",
        "settings": settings,
    }
    if value["verdict"] == "not run":
        return value, None
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, value)
    return value, file


def _headline(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the setting that says the least for the claim: of the worst verdict, the smallest effect."""
    measured = [entry for entry in settings if entry["verdict"] in _ORDER]
    if not measured:
        return {}
    sign = {entry["name"]: 1 if entry["higher_is_better"] else -1 for entry in measured}
    least = min(measured, key=lambda entry: (_ORDER.index(entry["verdict"]), sign[entry["name"]] * entry["effect"]))
    return {**{name: least[name] for name in _HEADLINE}, "seeds": len(least["seeds"])}


def setting_lines(value: dict[str, Any]) -> list[str]:
    """A line of text for each setting of a result."""
    lines = []
    for entry in value["settings"]:
        if entry["verdict"] == "not run":
            lines.append(f"  {entry['name']}: not run: {entry['reason']}")
            continue
        means = " against ".join(f"{_mean(entry['scores'][arm]):.3f}" for arm in ("method", "baseline"))
        lines.append(
            f"  {entry['name']}: {entry['verdict']}: {entry['metric']} {means}, {_effect(entry)}, {_count(entry)}, "
            f"on {entry['date']}"
        )
    return lines


def write_results(folder: str | os.PathLike[str] | None = None, out: str | os.PathLike[str] | None = None) -> Path:
    """Write ``RESULTS.md`` from the result files of claims, and beside these the picture that it shows.

    The same files give the same page, byte for byte.

    Args:
        folder: of the result files; default ``claims/results`` of the checkout.
        out: the page; default ``RESULTS.md`` of the checkout, or beside ``folder`` where that is given.

    Returns:
        the page's path.

    Raises:
        ValueError: a file that is no result, named.
        FileNotFoundError: there is no checkout here and no folder was given.
    """
    place = Path(folder) if folder else claims_folder() / "results"
    page = Path(out) if out else (place if folder else claims_folder()).parent / "RESULTS.md"
    values = [_read(file) for file in sorted(place.glob("*.json"))]
    values.sort(key=lambda value: (not value["paper"].isdigit(), value["paper"].zfill(3), value["name"]))
    shown = [(_paper(value["paper"]), value["settings"]) for value in values]
    with atomic(place / PICTURE, "w") as file:
        file.write(verdicts(shown))
    with atomic(page, "w") as file:
        file.write(_page(values, Path(os.path.relpath(place, page.parent)).as_posix()))
    return page


def _read(file: Path) -> dict[str, Any]:
    value = read_json(file)
    missing = [name for name in ("paper", "name", "title", "statement", "source", "settings") if name not in value]
    if missing or value.get("verdict") not in VERDICTS:
        lacks = f"no {', '.join(missing)}" if missing else f"verdict {value.get('verdict')!r}"
        raise ValueError(f"{file}: not the result of a claim ({lacks}); measure it again")
    return {**value, "paper": str(value["paper"])}


def _page(values: list[dict[str, Any]], place: str) -> str:
    counts = {verdict: sum(value["verdict"] == verdict for value in values) for verdict in VERDICTS}
    lines = [
        "# Claims, measured",
        "",
        "Generated from `claims/results/*.json` by `counterpoint claim` and `make claims`, which replace any change "
        "made here.",
        "",
        f"{len(values)} measured: {counts['holds']} hold, {counts['fails']} fail, {counts['inconclusive']} are "
        "inconclusive. The effect is method minus baseline in the metric named, over seeds and test items, with its "
        "95 % interval. A claim fails if it fails in any setting, holds only if it holds in all of them, and is "
        "inconclusive otherwise; a setting that was not run never counts for it. Shown here is the setting that says "
        "least for the claim.",
        "",
        f"![Each setting's distance from what its claim asks for]({place}/{PICTURE})",
        "",
        *_table(("paper", "claim", "verdict", "settings", "least for it"), [_row(value) for value in values]),
    ]
    for value in values:
        lines += ["", *_details(value, place)]
    return "\n".join(lines) + "\n"


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    cells = [list(heads), ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _row(value: dict[str, Any]) -> list[str]:
    counts = Counter(entry["verdict"] for entry in value["settings"])
    some = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (*reversed(_ORDER), "not run") if counts[verdict])
    least = f"{value['data']}: {_effect(value)}"
    return [_paper(value["paper"]), value["title"], f"**{value['verdict']}**", some, least]


def _details(value: dict[str, Any], place: str) -> list[str]:
    file = f"{place}/{value['name']}.json"
    heads = ("setting", "data", "effect", "verdict", "method", "baseline", "seeds", "date", "commit")
    return [
        f"## {_paper(value['paper'])}: {value['title']}",
        "",
        f"{value['statement']} ({value['source']})",
        "",
        f"Verdict: **{value['verdict']}**. Repeat it with `counterpoint claim {value['name']}`. Every seed, every "
        f"other score and the environment: [{file}]({file}).",
        "",
        *_table(heads, [_setting_row(entry) for entry in value["settings"]]),
        "",
        *[_note(entry) for entry in value["settings"]],
    ]


def _setting_row(entry: dict[str, Any]) -> list[str]:
    if entry["verdict"] == "not run":
        return [entry["name"], entry["data"], "", "not run", "", "", "", "", ""]
    means = [f"{_mean(entry['scores'][arm]):.4g}" for arm in ("method", "baseline")]
    when = [str(len(entry["seeds"])), entry["date"], entry["commit"]]
    wanted = f", {entry['at_least']:+g} wanted" if entry["at_least"] else ""
    return [entry["name"], entry["data"], f"{_effect(entry)}{wanted}", f"**{entry['verdict']}**", *means, *when]


def _note(entry: dict[str, Any]) -> str:
    """What a setting was, as an item of a list: what counts, what both arms got, what it was measured on."""
    start = f"- *{entry['name']}*: "
    if entry["verdict"] == "not run":
        return f"{start}{entry['reason'].rstrip('.')}."
    better = "" if entry["higher_is_better"] else ", lower is better"
    items = f"{entry['items']:,} test items, " if entry["items"] else ""
    parts = [f"{entry['description']}{better}", f"{items}p = {entry['p']:.2g}"]
    parts += [f"{entry['notes'].rstrip('.')}"] if entry["notes"] else []
    parts += (
        [_budget(entry)] if entry["budget_checked"] else ["The arms are programs of their own: see the claim's file"]
    )
    about = entry["environment"]
    return f"{start}{'. '.join(parts)}. On {about['processor']}, torch {about['versions']['torch']}."


def _budget(entry: dict[str, Any]) -> str:
    texts = []
    for arm in ("method", "baseline"):
        budget = entry["budget"][arm]
        parts = [f"{budget[name]:,} {name}" for name in ("steps", "epochs") if budget.get(name)]
        parts += [f"batches of {budget['batch_size']}"] if budget.get("batch_size") else []
        seconds = [second for second in budget["seconds"] if second is not None]
        parts += [f"{_mean(seconds):.0f} s a seed"] if seconds else []
        texts.append(f"{arm.capitalize()}: {', '.join(parts) or 'nothing to train'}")
    return "; ".join(texts)


def _paper(key: str) -> str:
    try:
        return f"{papers.get(key).short} ({key})"
    except ValueError:
        return key


def _effect(entry: dict[str, Any]) -> str:
    low, high = ("unknown" if entry[end] is None else f"{entry[end]:+.3f}" for end in ("low", "high"))
    return f"{entry['metric']} {entry['effect']:+.3f} [{low}, {high}]"


def _count(entry: dict[str, Any]) -> str:
    items = f", {entry['items']:,} test items" if entry["items"] else ""
    return f"{len(entry['seeds'])} seeds{items}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
