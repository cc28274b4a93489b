"""A hook of MkDocs that writes the papers' pages from the catalogue: one each, with the status computed at build time.

``mkdocs.yml`` names this file under ``hooks``. ``papers/index.md`` lists all papers by field, and
``papers/<key>-<slug>.md`` says what ``counterpoint papers show <key>`` prints.
"""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from counterpoint.papers import FIELDS, Paper, baselines, get, papers
from counterpoint.papers.show import run_lines, status_lines
from counterpoint.papers.status import Status, statuses

MARKS = "\\`*_{}[]<>|$~^#"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Hang the pages under *Papers* in the navigation, grouped by field."""
    for entry in config.nav or []:
        if "Papers" in entry:
            entry["Papers"] = ["papers/index.md", *_navigation()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those on disk."""
    known = statuses()
    files.append(File.generated(config, "papers/index.md", content=index(known)))
    for paper in papers() + baselines():
        files.append(File.generated(config, f"papers/{address(paper)}", content=page(paper, known[paper.key])))
    return files


def _navigation() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"Baselines": [_entry(paper) for paper in baselines()]}]
    for field in FIELDS:
        groups.append({field.capitalize(): [_entry(paper) for paper in papers() if paper.field == field]})
    return groups


def _entry(paper: Paper) -> dict[str, str]:
    return {f"{paper.key} {paper.short}": f"papers/{address(paper)}"}


def address(paper: Paper) -> str:
    """File name of a paper's page."""
    return f"{paper.key.lower()}-{paper.slug}.md"


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret."""
    return "".join("\\" + character if character in MARKS else character for character in text)


def index(known: dict[str, Status]) -> str:
    """The list of all papers."""
    lines = ["# Papers", "", _intro(known), ""]
    for heading, rows in [
        ("Baselines", baselines()),
        *((field.capitalize(), [paper for paper in papers() if paper.field == field]) for field in FIELDS),
    ]:
        lines += [f"## {heading}", "", "| no. | paper | year | idea | status |", "| ---: | --- | --- | --- | --- |"]
        for paper in rows:
            state = known[paper.key]
            cells = [paper.key, f"[{plain(paper.short)}]({address(paper)})", str(paper.year), plain(paper.idea)]
            lines.append(f"| {' | '.join([*cells, _short(state)])} |")
        lines.append("")
    return "\n".join(lines)


def _intro(known: dict[str, Status]) -> str:
    measured = sum(bool(state.claims) for state in known.values())
    tested = sum(any(check.ok for check in state.checks.values()) for state in known.values())
    return (
        f"{len(papers())} papers on contrastive learning and the {len(baselines())} methods that all of them compare "
        f"themselves with. {tested} have passing tests, {measured} a measured claim; all others are planned. Status is "
        "computed from test runs and claim results when this page is built. `counterpoint papers` shows the same list, "
        "`counterpoint papers show 12` one paper."
    )


def _short(state: Status) -> str:
    word = f"claim {state.verdict}" if state.verdict else state.stage
    return f"{word}, {' and '.join(state.failing)} failing" if state.failing else word


def page(paper: Paper, state: Status) -> str:
    """The page of one paper."""
    dated = paper.venue and str(paper.year) in paper.venue
    about = [paper.authors, paper.venue, None if dated else str(paper.year)]
    links = []
    if paper.arxiv:
        links.append(f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})")
    if paper.repository:
        links.append(f"[{plain(paper.repository)}](https://github.com/{paper.repository})")
    source = " · ".join([*(plain(part) for part in about if part), *links])
    lines = [f"# {plain(paper.short)}", "", f"**{plain(paper.title)}**", "", source, ""]
    lines += [f"> {plain(paper.idea)}", "", plain(paper.summary), "", "## Equation", ""]
    lines += ["```text", *_wrapped(paper.equation), "```", ""]
    if paper.reconstructed:
        parts = plain("; ".join(paper.reconstructed))
        lines += ['!!! note "Reconstructed"', "", f"    Not readable in the paper or its authors' code: {parts}.", ""]
    lines += ["## Status", "", *(f"- {plain(line)}" for line in status_lines(state)), ""]
    if commands := run_lines(paper, state):
        lines += ["## Run it", "", "```console", *(f"$ {command}" for command in commands), "```", ""]
    lines += ["## Claim", "", plain(paper.claim), "", f"Compared with: {plain(paper.baseline)}.", ""]
    if paper.related:
        lines += ["## Related", "", *(_related(get(number)) for number in paper.related), ""]
    return "\n".join(lines)


def _wrapped(equation: str) -> list[str]:
    """An equation's parts on lines of their own: they are separated by two spaces after a comma, or by a semicolon."""
    return equation.replace(",  ", ",\n").replace(";  ", "\n").splitlines()


def _related(paper: Paper) -> str:
    return f"- [{paper.key} {plain(paper.short)}]({address(paper)}): {plain(paper.idea)}"
