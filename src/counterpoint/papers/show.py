"""The catalogue on a terminal: a table of all papers, the page of one, and both as plain data for JSON.

    papers(field="vision")        # what `counterpoint papers --field vision` prints
    papers(show="dcl")            # the page of one
    data("dcl")                   # the same as a dict

Colours say what was measured: green for a claim that holds, red for one that fails or for a failing test, yellow for an
inconclusive one, nothing for what is still planned.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.papers import FIELDS, Paper, baselines, blocks, get
from counterpoint.papers import papers as numbered
from counterpoint.papers import search as find
from counterpoint.papers.status import STAGES, VERDICTS, Check, Claim, Status, statuses

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

__all__ = ["data", "page", "papers", "rows", "table"]

WIDE, NARROW = 110, 84  # columns from which titles are shown, and those that all the rest takes
STAGE_COLOURS = {"planned": "dim", "parity": "cyan", "trains": "blue"}
VERDICT_COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


def papers(
    show: str | None = None,
    field: str | None = None,
    status: str | None = None,
    search: str | None = None,
    json: bool = False,
) -> None:
    """Print the papers with what runs here and what was measured, or the page of one.

    Args:
        show: number (12), baseline (B1), short name (dcl) or method (simclr) of the paper whose page to print.
        field: only papers of one field, such as vision, text or graphs.
        status: only papers that are planned, at parity, trains or claim, whose claim holds, fails or is inconclusive,
            or failing: with a failing test.
        search: only papers that contain all of these words.
        json: print JSON.

    Raises:
        ValueError: no such paper (the nearest is named), field or status.
    """
    from json import dumps

    from rich.console import Console

    if json:
        found = data(show) if show else data(field=field, status=status, text=search)
        print(dumps(found, indent=2, ensure_ascii=False))
    else:
        console = Console()
        width = console.width
        console.print(page(show) if show else table(field, status, search, width))


def rows(
    field: str | None = None,
    status: str | None = None,
    text: str | None = None,
    evidence: Path | None = None,
    results: Path | None = None,
) -> list[tuple[Paper, Status]]:
    """Papers with their status, by number, baselines last.

    Args:
        field: keep those of one field.
        status: keep those at one stage (planned, parity, trains, claim), with one verdict (holds, fails, inconclusive),
            or ``"failing"``: with a failing test.
        text: keep those that contain every word of it, best match first.
        evidence, results: see :func:`counterpoint.papers.status.statuses`.

    Raises:
        ValueError: an unknown field or status.
    """
    states = (*STAGES, *VERDICTS, "failing")
    if field is not None and field not in FIELDS:
        raise ValueError(f"field: expected one of {', '.join(FIELDS)}, got {field!r}")
    if status is not None and status not in states:
        raise ValueError(f"status: expected one of {', '.join(states)}, got {status!r}")
    chosen = find(text) if text else numbered() + baselines()
    known = statuses(chosen, evidence, results)
    return [
        (paper, known[paper.key])
        for paper in chosen
        if field in (None, paper.field) and (status is None or _is(known[paper.key], status))
    ]


def _is(state: Status, word: str) -> bool:
    return bool(state.failing) if word == "failing" else word in (state.stage, state.verdict)


def data(key: int | str | None = None, **filters: Any) -> Any:
    """The same as plain data: one paper as a dict, or without ``key`` a list of those :func:`rows` keeps."""
    if key is None:
        return [_as_dict(paper, state) for paper, state in rows(**filters)]
    paper = get(key)
    return _as_dict(paper, statuses([paper], **filters)[paper.key])


def _as_dict(paper: Paper, state: Status) -> dict[str, Any]:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(paper).items()}
    return {**plain, "number": paper.number, **state.as_dict()}


def table(
    field: str | None = None,
    status: str | None = None,
    text: str | None = None,
    width: int | None = None,
    evidence: Path | None = None,
    results: Path | None = None,
) -> Table:
    """All papers, or some (see :func:`rows`), a line each.

    Args:
        width: of the terminal, asked from it by default. Six columns fit into 80; from 110 on titles are shown too.
    """
    import shutil

    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen = rows(field, status, text, evidence, results)
    width = width or shutil.get_terminal_size().columns
    wide = width >= WIDE
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.caption, shown.caption_justify = _count(chosen), "left"
    shown.add_column("no.", justify="right", no_wrap=True)
    shown.add_column("paper", no_wrap=True)
    if wide:
        shown.add_column("title", no_wrap=True, overflow="ellipsis", max_width=width - NARROW)
    shown.add_column("year", no_wrap=True)
    shown.add_column("field", no_wrap=True)
    shown.add_column("status", no_wrap=True)
    shown.add_column("verdict", overflow="fold")
    for paper, state in chosen:
        title = [Text(paper.title)] if wide else []
        cells = [Text(paper.key), Text(paper.short, "bold"), *title, Text(str(paper.year)), Text(paper.field)]
        shown.add_row(*cells, _stage(state), _verdict(state))
    return shown


def _count(chosen: list[tuple[Paper, Status]]) -> str:
    stages = Counter(state.verdict or state.stage for _, state in chosen)
    counted = ", ".join(f"{stages[word]} {word}" for word in (*VERDICTS, *reversed(STAGES)) if stages[word])
    failing = sum(bool(state.failing) for _, state in chosen)
    return f"{len(chosen)} papers: {counted or 'none'}" + (f"; {failing} with failing tests" if failing else "")


def _stage(state: Status) -> Text:
    from rich.text import Text

    if state.failing:
        return Text(f"{state.stage} !", "red")
    return Text(state.stage, STAGE_COLOURS.get(state.stage, ""))


def _verdict(state: Status) -> Text:
    from rich.text import Text

    if state.verdict is None:
        return Text("")
    decisive = next(claim for claim in state.claims if claim.verdict == state.verdict)
    effect = "" if decisive.effect is None else f" {decisive.effect:+.2g}"
    return Text(f"{state.verdict}{effect}", VERDICT_COLOURS[state.verdict])


def page(key: int | str, evidence: Path | None = None, results: Path | None = None) -> Group:
    """The page of one paper: what it says, what runs here, and how to run and measure it.

    Raises:
        ValueError: no such paper, with the nearest one.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    paper = get(key)
    state = statuses([paper], evidence, results)[paper.key]
    source = [paper.authors, paper.venue, f"arXiv {paper.arxiv}" if paper.arxiv else None]
    parts: list[Any] = [
        Text(f"{paper.key}  {paper.short}", "bold"),
        Text(paper.title),
        Text(" · ".join(filter(None, [source[0], str(paper.year), *source[1:]])), "dim"),
    ]
    for heading, body in sections(paper, state):
        parts += [Text(f"\n{heading}", "bold"), *(Padding(Text(line), (0, 0, 0, 2)) for line in body)]
    return Group(*parts)


def sections(paper: Paper, state: Status) -> list[tuple[str, list[str]]]:
    """The page of a paper as headings with lines of plain text; the documentation's pages are made from it too."""
    needs = [f"{need}: {blocks()[need]}" for need in paper.needs]
    related = [f"{other.key:>3}  {other.short}" for other in map(get, paper.related)]
    found = [
        ("Idea", [paper.idea]),
        ("What it is", [paper.summary]),
        ("Equation", [paper.equation]),
        ("Reconstructed here", [f"{part} (not readable in the paper or its code)" for part in paper.reconstructed]),
        ("Official repository", [f"https://github.com/{paper.repository}" if paper.repository else "none known to us"]),
        ("Status", status_lines(state)),
        ("Run it", run_lines(paper, state)),
        ("Claim", [f"{paper.claim} Compared with: {paper.baseline}."]),
        ("Built on", needs),
        ("Related", related),
    ]
    return [(heading, lines) for heading, lines in found if lines]


def run_lines(paper: Paper, state: Status) -> list[str]:
    """Commands that train a paper's methods and measure its claim, as far as either exists."""
    lines = [f"counterpoint fit digits --method {method} --out runs/{method}" for method in paper.methods]
    return lines + [f"counterpoint claim {claim.name}" for claim in state.claims]


def status_lines(state: Status) -> list[str]:
    """Stage, checks and claims of a status in words."""
    if state.stage == "planned" and not state.checks:
        return ["planned: no test and no claim result speaks for it yet"]
    lines = [f"claim {state.verdict}"] if state.verdict else []
    lines += [_check_line(kind, check) for kind, check in state.checks.items()]
    return lines + [_claim_line(claim) for claim in state.claims]


def _check_line(kind: str, check: Check) -> str:
    when = ", ".join(filter(None, [check.date, check.commit]))
    outcome = f"{check.passed} passed" + (f", failed: {', '.join(check.failed)}" if check.failed else "")
    return f"{kind}: {outcome}" + (f" ({when})" if when else "")


def _claim_line(claim: Claim) -> str:
    parts = [f"{claim.title}: {claim.verdict}"]
    if claim.effect is not None:
        interval = "" if claim.low is None or claim.high is None else f" [{claim.low:+.3g}, {claim.high:+.3g}]"
        parts.append(f"{claim.metric or 'effect'} {claim.effect:+.3g}{interval}")
    parts += [f"{claim.seeds} seeds" if claim.seeds else "", f"on {claim.data}" if claim.data else ""]
    parts += [claim.date or "", claim.commit or ""]
    return ", ".join(filter(None, parts))
