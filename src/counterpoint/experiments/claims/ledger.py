"""The ledger: result files of claims, and ``RESULTS.md``, the page that is made from them and from nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from counterpoint import papers
from counterpoint.experiments.claims.define import Claim, overall
from counterpoint.experiments.claims.files import claims_folder
from counterpoint.files import atomic, write_json
from counterpoint.papers.status import VERDICTS, read_json

_ORDER = ("fails", "inconclusive", "holds")  # which setting speaks for a claim: the one that says the least for it
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
    """Write ``RESULTS.md`` from the result files of claims.

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
    with atomic(page, "w") as file:
        file.write(_page(values))
    return page


def _read(file: Path) -> dict[str, Any]:
    value = read_json(file)
    missing = [name for name in ("paper", "name", "title", "statement", "source", "settings") if name not in value]
    if missing or value.get("verdict") not in VERDICTS:
        lacks = f"no {', '.join(missing)}" if missing else f"verdict {value.get('verdict')!r}"
        raise ValueError(f"{file}: not the result of a claim ({lacks}); measure it again")
    return {**value, "paper": str(value["paper"])}


def _page(values: list[dict[str, Any]]) -> str:
    counts = {verdict: sum(value["verdict"] == verdict for value in values) for verdict in VERDICTS}
    lines = [
        "# Claims, measured",
        "",
        "Generated from `claims/results/*.json` by `counterpoint claim` and `make claims`, which replace any change "
        "made here.",
        "",
        f"{len(values)} measured: {counts['holds']} hold, {counts['fails']} fail, {counts['inconclusive']} are "
        "inconclusive. The effect is method minus baseline in the metric named, over seeds and test items, with its "
        "95 % interval. A claim fails if it fails on any data, holds only if it holds on all of them, and is "
        "inconclusive otherwise; data on which it was not run never count for it.",
        "",
        "| paper | claim | verdict | data | effect | on these data | seeds | date | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row for value in values for row in _rows(value)]
    for value in values:
        lines += ["", *_details(value)]
    return "\n".join(lines) + "\n"


def _rows(value: dict[str, Any]) -> list[str]:
    rows = []
    for number, entry in enumerate(value["settings"]):
        first = [_paper(value["paper"]), value["title"], f"**{value['verdict']}**"] if number == 0 else ["", "", ""]
        if entry["verdict"] == "not run":
            there = [entry["data"], "", "not run", "", "", ""]
        else:
            when = [str(len(entry["seeds"])), entry["date"], entry["commit"]]
            there = [entry["data"], _effect(entry), f"**{entry['verdict']}**", *when]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*first, *there]) + " |")
    return rows


def _details(value: dict[str, Any]) -> list[str]:
    lines = [f"## {_paper(value['paper'])}: {value['title']}", ""]
    lines += [f"{value['statement']} ({value['source']})", "", f"Verdict: **{value['verdict']}**."]
    lines += [f"Repeat it with `counterpoint claim {value['name']}`.", ""]
    for entry in value["settings"]:
        lines += _setting_details(entry)
    return lines[:-1]


def _setting_details(entry: dict[str, Any]) -> list[str]:
    if entry["verdict"] == "not run":
        return [f"### {entry['name']}: not run", "", f"{entry['reason'].rstrip('.')}.", ""]
    bound = f" Counts from {entry['at_least']:g}." if entry["at_least"] else ""
    better = "" if entry["higher_is_better"] else " (lower is better)"
    about = entry["environment"]
    lines = [
        f"### {entry['name']}: {entry['verdict']}",
        "",
        f"- Data: {entry['description']}",
        f"- Effect: {_effect(entry)}{better}, p = {entry['p']:.2g}, {_count(entry)}.{bound}",
    ]
    lines += [_arm_line(entry, arm) for arm in ("method", "baseline")]
    if not entry["budget_checked"]:
        lines.append("- Budget: the arms are programs of their own; see the claim's file")
    lines += [f"- {entry['notes']}"] if entry["notes"] else []
    lines += [f"- Measured on {entry['date']} at {entry['commit']}, {about['processor']}, "]
    lines[-1] += f"torch {about['versions']['torch']}: `{entry['command']}`"
    return [*lines, ""]


def _arm_line(entry: dict[str, Any], arm: str) -> str:
    scores, budget = entry["scores"][arm], entry["budget"][arm]
    each = ", ".join(f"{score:.4g}" for score in scores)
    parts = [f"{budget[name]:,} {name}" for name in ("steps", "epochs") if budget.get(name)]
    parts += [f"batch {budget['batch_size']}"] if budget.get("batch_size") else []
    seconds = [second for second in budget["seconds"] if second is not None]
    parts += [f"{_mean(seconds):.0f} s a seed"] if seconds else []
    others = [
        f"{name} {_mean(found):.4g}"
        for name, found in entry["other_scores"][arm].items()
        if all(score is not None for score in found)
    ]
    aside = f". Also {', '.join(others)}" if others else ""
    mean = f"mean {entry['metric']} {_mean(scores):.4g} (by seed: {each})"
    return f"- {arm.capitalize()}: {mean}; {', '.join(parts)}{aside}"


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
