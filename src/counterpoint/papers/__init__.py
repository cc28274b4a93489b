"""The catalogue: 72 papers on contrastive learning, and the seven that all of them compare themselves with.

A paper is a row of data (``catalogue.yaml``): what it is, who wrote it, its idea, its main equation and the claim that
can be measured. What Counterpoint can do with it is never written down, only computed from tests that ran and claims
that were measured (:mod:`counterpoint.papers.status`), so a row cannot promise what the code does not do.

    >>> from counterpoint import papers
    >>> papers.get("dcl").title
    'Decoupled Contrastive Learning'
    >>> [paper.short for paper in papers.search("sinkhorn")][:2]
    ['SwAV', 'CLIP-rocket']

This package needs the standard library and yaml only; the catalogue is read when it is first asked for.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "Paper", "baselines", "blocks", "get", "papers", "search"]

FIELDS = (
    "vision",
    "multimodal",
    "text",
    "retrieval",
    "sequences",
    "recommendation",
    "graphs",
    "speech",
    "medical",
    "people",
    "generation",
    "decoding",
    "decision",
    "safety",
    "theory",
)
CATALOGUE = Path(__file__).with_name("catalogue.yaml")


@dataclass(frozen=True)
class Paper:
    """A row of the catalogue; ``None`` means that we do not know.

    Attributes:
        key: ``"1"`` to ``"72"``, or ``"B1"`` to ``"B7"`` for a baseline.
        slug: short name for files and addresses, unique.
        short: the name the field uses.
        authors: surnames, ``et al.`` after the third where there are many.
        year: of the version named by ``venue``.
        arxiv: identifier without a version.
        field: one of :data:`FIELDS`.
        repository: the authors' code, ``owner/name`` on GitHub.
        idea: one sentence.
        equation: the main one, in plain text.
        reconstructed: parts whose formula could not be read in the paper or in its authors' code.
        related: numbers of papers close to this one.
        needs: keys of :func:`blocks`.
        methods: names under which it can be trained.
        baseline: what its claim is measured against.
        claim: what is measured.
    """

    key: str
    slug: str
    short: str
    title: str
    authors: str | None
    year: int
    venue: str | None
    arxiv: str | None
    field: str
    modality: str
    repository: str | None
    idea: str
    summary: str
    equation: str
    reconstructed: tuple[str, ...]
    related: tuple[int, ...]
    needs: tuple[str, ...]
    methods: tuple[str, ...]
    baseline: str
    claim: str

    @property
    def number(self) -> int | None:
        """1 to 72; ``None`` for a baseline."""
        return int(self.key) if self.key.isdigit() else None


@cache
def _catalogue() -> dict[str, Any]:
    import yaml

    # The C parser reads the file in 20 ms, the Python one in half a second; both are safe loaders.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    catalogue: dict[str, Any] = yaml.load(CATALOGUE.read_text(encoding="utf-8"), Loader=loader)
    return catalogue


def _paper(row: dict[str, Any]) -> Paper:
    row = dict(row)
    key = str(row.pop("number", None) or row.pop("key"))
    lists = ("reconstructed", "related", "needs", "methods")
    columns: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in row.items()}
    return Paper(key=key, **columns)


@cache
def _rows(part: str) -> tuple[Paper, ...]:
    return tuple(_paper(row) for row in _catalogue()[part])


def papers() -> list[Paper]:
    """The 72 papers in order."""
    return list(_rows("papers"))


def baselines() -> list[Paper]:
    """The seven methods every paper compares itself with: SimCLR to VICReg, keys ``B1`` to ``B7``."""
    return list(_rows("baselines"))


def blocks() -> dict[str, str]:
    """Building blocks that several papers share, with what each one is."""
    return dict(_catalogue()["blocks"])


def get(key: int | str) -> Paper:
    """One paper by number (``12`` or ``"12"``), key (``"B1"``), short name, slug or method; case does not matter.

    Raises:
        ValueError: no such paper; the message names the nearest one.
    """
    everything = papers() + baselines()
    wanted = str(key).strip().lower()
    wanted = str(int(wanted)) if wanted.isdigit() else wanted
    for names in (_exact_names, lambda paper: set(paper.methods)):
        for paper in everything:
            if wanted in names(paper):
                return paper
    if wanted.lstrip("-").isdigit():
        raise ValueError(f"paper: no number {key}; papers are numbered 1 to {len(papers())}, baselines B1 to B7")
    known = {name: paper for paper in everything for name in _exact_names(paper)}
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.4)
    hint = f"did you mean {known[near[0]].short!r} ({known[near[0]].key})? " if near else ""
    raise ValueError(f"paper: no paper {key!r}; {hint}`counterpoint papers` lists them all")


def _exact_names(paper: Paper) -> set[str]:
    return {paper.key.lower(), paper.slug.lower(), paper.short.lower()}


def search(text: str) -> list[Paper]:
    """Papers that contain every word of ``text``, those with more of it in their names first, then by number."""
    words = text.lower().split()
    found = []
    for order, paper in enumerate(papers() + baselines()):
        named = f"{paper.short} {paper.slug} {paper.title}".lower()
        source = (paper.authors, paper.year, paper.venue, paper.arxiv, paper.field, paper.modality)
        said = (named, *source, paper.idea, paper.summary, *paper.needs, *paper.methods)
        body = " ".join(map(str, said)).lower()
        if all(word in body for word in words):
            weight = sum(2 * (word in named) + (word in paper.idea.lower()) for word in words)
            found.append((-weight, order, paper))
    return [paper for _, _, paper in sorted(found, key=lambda item: item[:2])]
