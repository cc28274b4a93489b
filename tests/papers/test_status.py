"""Status follows from the evidence and from nothing else."""

import json

import pytest

from counterpoint import papers
from counterpoint.papers.status import results_folder, status, statuses

DCL = papers.get("dcl")


@pytest.fixture
def files(tmp_path):
    evidence, results = tmp_path / "evidence.json", tmp_path / "results"
    results.mkdir()

    def write(claims=(), **kinds):
        tests = {kind: {"tests": outcomes, "date": "2026-11-23", "commit": "abc"} for kind, outcomes in kinds.items()}
        evidence.write_text(json.dumps({"12": tests}))
        for index, claim in enumerate(claims):
            (results / f"{index}.json").write_text(json.dumps(claim))
        return status(DCL, evidence, results)

    return write


def claim(verdict, **more):
    return {"paper": 12, "name": "small-batch", "title": "small batches", "verdict": verdict, **more}


def test_without_any_file_everything_is_planned(tmp_path):
    found = statuses(evidence=tmp_path / "none.json", results=tmp_path / "none")
    assert len(found) == 79
    assert {state.stage for state in found.values()} == {"planned"}
    assert not any(state.verdict or state.failing for state in found.values())


def test_it_climbs_from_planned_to_a_claim_that_holds(files):
    assert files().stage == "planned"
    assert files(parity={"t::a": "passed"}).stage == "parity"
    assert files(parity={"t::a": "passed"}, trains={"t::b": "passed"}).stage == "trains"
    top = files([claim("holds", effect=0.02, low=0.01, high=0.03, seeds=5)], parity={"t::a": "passed"})
    assert (top.stage, top.verdict) == ("claim", "holds")
    assert (top.claims[0].effect, top.claims[0].low, top.claims[0].high, top.claims[0].seeds) == (0.02, 0.01, 0.03, 5)


def test_one_failing_test_takes_the_stage_away_and_is_named(files):
    state = files(parity={"t::a": "passed", "t::b": "failed"})
    assert state.stage == "planned"
    assert state.failing == ("parity",)
    assert state.checks["parity"].failed == ("t::b",)
    assert state.checks["parity"].passed == 1


def test_a_failing_training_test_leaves_parity(files):
    state = files(parity={"t::a": "passed"}, trains={"t::b": "failed"})
    assert (state.stage, state.failing) == ("parity", ("trains",))


def test_a_failing_test_shows_beside_a_claim(files):
    state = files([claim("holds")], parity={"t::a": "failed"})
    assert (state.stage, state.verdict, state.failing) == ("claim", "holds", ("parity",))


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "inconclusive"], "inconclusive"),
        (["inconclusive", "fails", "holds"], "fails"),
    ],
)
def test_several_claims_are_as_good_as_the_worst(files, verdicts, together):
    assert files([claim(verdict) for verdict in verdicts]).verdict == together


def test_a_claim_goes_to_its_own_paper_only(files, tmp_path):
    files([{**claim("holds"), "paper": "B1"}])
    found = statuses(evidence=tmp_path / "evidence.json", results=tmp_path / "results")
    assert [key for key, state in found.items() if state.claims] == ["B1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"paper": 1, "verdict": "yes"}', "'yes'"),
        ('{"verdict": "holds"}', "paper"),
    ],
)
def test_a_broken_result_is_named(tmp_path, content, said):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        statuses([DCL], tmp_path / "none.json", tmp_path)
    assert "bad.json" in str(error.value)


def test_results_are_looked_for_in_the_checkout_or_the_package():
    assert results_folder().parts[-2:] in {("claims", "results"), ("papers", "claims")}
