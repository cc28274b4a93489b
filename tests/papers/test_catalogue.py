"""The catalogue is complete and consistent, and its rows are found by whatever name a reader uses."""

import re
import subprocess
import sys

import pytest

from counterpoint import papers
from counterpoint.papers import FIELDS, Paper

ALL = papers.papers() + papers.baselines()


def test_72_papers_without_gaps_and_seven_baselines():
    assert [paper.number for paper in papers.papers()] == list(range(1, 73))
    assert [paper.key for paper in papers.baselines()] == [f"B{i}" for i in range(1, 8)]
    assert all(paper.number is None for paper in papers.baselines())


@pytest.mark.parametrize("paper", ALL, ids=lambda paper: paper.key)
def test_row(paper: Paper):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", paper.slug)
    assert paper.field in FIELDS
    assert 2015 <= paper.year <= 2026
    assert paper.venue
    assert re.findall(r"\b20\d\d\b", paper.venue) in ([], [str(paper.year)])
    assert paper.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    assert paper.repository is None or re.fullmatch(r"[\w.-]+/[\w.-]+", paper.repository)
    assert 40 <= len(paper.idea) <= 240
    assert paper.idea.endswith(".")
    assert paper.idea.count(". ") == 0
    assert 1 <= len(re.findall(r"\.(\s|$)", paper.summary)) <= 5
    assert paper.equation
    assert "\n" not in paper.equation
    assert paper.claim.endswith(".")
    assert paper.baseline
    assert paper.modality
    assert set(paper.needs) <= set(papers.blocks())
    assert set(paper.related) <= set(range(1, 73)) - {paper.number}
    assert all(isinstance(part, str) for part in paper.reconstructed)


def test_an_arxiv_paper_is_not_older_than_its_number():
    for paper in ALL:
        if paper.arxiv:
            assert paper.year >= 2000 + int(paper.arxiv[:2]), paper.key


@pytest.mark.parametrize("column", ["key", "slug", "short", "title", "arxiv", "idea", "summary", "equation"])
def test_rows_do_not_share_what_identifies_them(column):
    values = [getattr(paper, column) for paper in ALL if getattr(paper, column)]
    assert len({value.lower() for value in values}) == len(values)


def test_every_block_is_needed_by_some_paper():
    assert set(papers.blocks()) == {need for paper in ALL for need in paper.needs}


def test_methods_of_the_baselines_exist_and_no_two_papers_claim_one():
    from counterpoint import methods

    named = [name for paper in ALL for name in paper.methods]
    assert set(named) <= set(methods.names())
    assert len(set(named)) == len(named)
    assert [paper.methods for paper in papers.baselines()] == [
        (name,) for name in ("simclr", "supcon", "moco", "byol", "simsiam", "barlow", "vicreg")
    ]


@pytest.mark.parametrize("number", [19, 37, 43, 54, 65, 72])
def test_reconstructions_are_declared(number):
    assert papers.get(number).reconstructed


@pytest.mark.parametrize("key", [12, "12", " 012 ", "DCL", "dcl"])
def test_get_by_number_and_name(key):
    assert papers.get(key) is papers.papers()[11]


def test_get_by_method_and_baseline_key():
    assert papers.get("b3").short == papers.get("moco").short == papers.get("MoCo v2").short == "MoCo v2"


@pytest.mark.parametrize(
    ("key", "said"), [("simcrl", "'SimCLR' (B1)"), ("mochy", "'MoCHi' (33)"), (99, "1 to 72"), (0, "1 to 72")]
)
def test_get_suggests_the_nearest(key, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        papers.get(key)


def test_search_wants_every_word_and_puts_names_first():
    assert papers.search("sinkhorn")[0].short == "SwAV"
    assert {paper.short for paper in papers.search("queue negatives")} >= {"MoCo v2", "MoCHi"}
    heads = [paper.short for paper in papers.search("projection head")]
    assert heads[0] == "Projection head"  # in its name; SimCLR speaks of one
    assert "SimCLR" in heads
    assert papers.search("sinkhorn robot") == []


def test_importing_is_light():
    code = "import sys, counterpoint.papers, counterpoint.papers.status; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "numpy", "lightning", "yaml", "rich") if f"'{name}'" in loaded]
