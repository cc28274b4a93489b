"""What the terminal shows: every number whole at 80 columns, filters that filter, text as it was written."""

import json

import pytest
from rich.console import Console

from counterpoint import papers
from counterpoint.papers import show

CLAIM = {"paper": 54, "name": "copies", "title": "copies stand out", "verdict": "inconclusive", "effect": -0.0123}
CLAIM |= {"low": -0.1, "high": 0.1, "metric": "z", "seeds": 5, "data": "books"}
CLAIM |= {"date": "2026-11-23", "commit": "0123abc"}


@pytest.fixture
def evidence(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(json.dumps(CLAIM))
    tests = {"12": {"parity": {"tests": {"t::a": "passed"}}}, "18": {"trains": {"tests": {"t::b": "failed"}}}}
    (tmp_path / "evidence.json").write_text(json.dumps(tests))
    return {"evidence": tmp_path / "evidence.json", "results": tmp_path / "results"}


def render(shown, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - never read
    console.print(shown)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_table_fits_and_cuts_no_number(width, evidence):
    lines = render(show.table(width=width, **evidence), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    starts = [line.split()[0] for line in lines[2:] if line.strip() and line.split()[0][0].isalnum()]
    assert [start for start in starts if start in {paper.key for paper in papers.papers() + papers.baselines()}] == [
        paper.key for paper in papers.papers() + papers.baselines()
    ]
    for paper in papers.papers():
        row = next(line for line in lines if line.split()[:1] == [paper.key])
        assert paper.short in row
        assert f" {paper.year} " in row
        assert paper.field in row


@pytest.mark.parametrize("width", [80, 120])
def test_table_shows_status_and_verdict(width, evidence):
    lines = render(show.table(width=width, **evidence), width).splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert "claim" in rows["54"]
    assert "inconclusive -0.012" in rows["54"]
    assert " parity" in rows["12"]
    assert "planned !" in rows["18"]
    assert "79 papers: 1 inconclusive, 1 parity, 77 planned; 1 with failing tests" in " ".join(lines)


def test_titles_appear_where_there_is_room():
    assert "Decoupled Contrastive Learning" not in render(show.table(text="dcl", width=80), 80)
    assert "Decoupled Contrastive Learning" in render(show.table(text="dcl", width=120), 120)


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        ({"status": "inconclusive"}, ["54"]),
        ({"status": "claim"}, ["54"]),
        ({"status": "parity"}, ["12"]),
        ({"status": "failing"}, ["18"]),
        ({"field": "theory"}, ["18", "65", "70"]),
        ({"field": "theory", "text": "temperature"}, ["18"]),
    ],
)
def test_filters(filters, keys, evidence):
    assert [paper.key for paper, _ in show.rows(**filters, **evidence)] == keys


@pytest.mark.parametrize(
    ("filters", "said"), [({"field": "music"}, "field: .*vision"), ({"status": "done"}, "status: .*planned")]
)
def test_unknown_filters_are_refused(filters, said):
    with pytest.raises(ValueError, match=said):
        show.rows(**filters)


@pytest.mark.parametrize("paper", papers.papers() + papers.baselines(), ids=lambda paper: paper.key)
def test_page_prints_everything_as_written(paper):
    text = "".join(render(show.page(paper.key), 80).split())  # lines are wrapped anywhere
    for part in (paper.title, paper.idea, paper.summary, paper.equation, paper.claim, paper.repository or "none known"):
        assert "".join(part.split()) in text
    assert ("counterpointfit" in text) == bool(paper.methods)


def test_page_shows_the_evidence(evidence):
    text = " ".join(render(show.page(54, **evidence), 200).split())
    assert "copies stand out: inconclusive, z -0.0123 [-0.1, +0.1], 5 seeds, on books, 2026-11-23, 0123abc" in text
    assert "counterpoint claim copies" in text
    assert "parity: 1 passed" in render(show.page(12, **evidence), 80)
    assert "failed: t::b" in render(show.page(18, **evidence), 80)


def test_data_is_plain(evidence):
    one = json.loads(json.dumps(show.data("dcl", **evidence)))
    assert (one["number"], one["status"], one["checks"]["parity"]["ok"]) == (12, "parity", True)
    assert len(json.loads(json.dumps(show.data(**evidence)))) == 79


def test_the_command_prints_json_a_page_or_the_table(capsys):
    show.papers(show="12", json=True)
    assert json.loads(capsys.readouterr().out)["slug"] == "dcl"
    show.papers(field="theory", json=True)
    assert [row["number"] for row in json.loads(capsys.readouterr().out)] == [18, 65, 70]
    show.papers(show="dcl")
    assert "Decoupled Contrastive Learning" in capsys.readouterr().out
    show.papers(search="sinkhorn prototypes")
    assert "SwAV" in capsys.readouterr().out
