"""A claim: the rule of its verdict, equal budgets, resumption, the ledger; and a small one measured for real."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import (
    Claim,
    DataMissing,
    Setting,
    claims,
    find,
    overall,
    run_claim,
    write_results,
)
from counterpoint.experiments.claims import claim as command
from counterpoint.papers import get
from counterpoint.papers.status import status

TINY = {"encoder": "convnet", "encoder_options": {"widths": [8, 16]}, "epochs": 2, "limit": 300, "batch_size": 64}
SCORES = {"method": {0: 0.8, 1: 0.9, 2: 0.85}, "baseline": {0: 0.5, 1: 0.62, 2: 0.54}}


MADE = """
from counterpoint.experiments.claims import Claim, Setting

def ahead(seed, folder):
    return {"accuracy": 0.9 + 0.01 * seed}

def behind(seed, folder):
    return {"accuracy": 0.5 + 0.02 * seed}

SETTING = Setting("made", "made", "accuracy", {"method": ahead, "baseline": behind}, seeds=(0, 1))
CLAIM = Claim(12, "made", "a", "b", "c", [SETTING])
"""


class Told:
    """An arm that scores what it is told to, and counts how often it is asked."""

    def __init__(self, scores, items=None):
        self.scores, self.items, self.seeds = scores, items, []

    def __call__(self, seed, folder):
        self.seeds.append(seed)
        items = {} if self.items is None else {"accuracy": self.items[seed]}
        return Evaluation({"accuracy": self.scores[seed]}, items)


def told(name="made", better=True, at_least=0.0, **arms):
    arms = {arm: Told(scores) for arm, scores in {**SCORES, **arms}.items()}
    return Setting(name, "made", "accuracy", arms, seeds=(0, 1, 2), higher_is_better=better, at_least=at_least)


def claim(*settings, **changed):
    text = {"paper": 12, "name": "made", "title": "a | b", "statement": "It is better.", "source": "table 1"}
    return Claim(**{**text, **changed}, settings=settings)


def measure(given, folder, **options):
    return run_claim(given, out=str(folder), progress=False, **options)


@pytest.mark.parametrize(
    ("low", "high", "at_least", "better", "verdict"),
    [
        (0.01, 0.05, 0.0, True, "holds"),
        (-0.01, 0.05, 0.0, True, "inconclusive"),
        (-0.05, -0.01, 0.0, True, "fails"),
        (0.0, 0.0, 0.0, True, "fails"),
        (0.0, 0.05, 0.0, True, "inconclusive"),
        (-0.05, 0.0, 0.0, True, "fails"),
        (0.01, 0.05, 0.02, True, "inconclusive"),
        (0.03, 0.05, 0.02, True, "holds"),
        (0.005, 0.015, 0.02, True, "fails"),
        (-0.01, 0.03, -0.02, True, "holds"),
        (-0.05, -0.01, 0.0, False, "holds"),
        (0.01, 0.05, 0.0, False, "fails"),
        (-0.05, -0.01, 0.02, False, "inconclusive"),
        (-np.inf, np.inf, 0.0, True, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, at_least, better, verdict):
    assert told(better=better, at_least=at_least).verdict(low, high, seeds=3) == verdict


def test_one_seed_shows_nothing():
    assert told().verdict(0.1, 0.2, seeds=1) == "inconclusive"


def test_a_claim_holds_only_if_all_its_settings_hold():
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "not run"]) == "inconclusive"
    assert overall(["holds", "inconclusive"]) == "inconclusive"
    assert overall(["holds", "fails", "not run", "inconclusive"]) == "fails"
    assert overall(["not run", "not run"]) == "not run"


def fits(method, baseline, **options):
    return Setting("digits", "digits", "knn", {"method": method, "baseline": baseline}, **options)


def test_unequal_budgets_are_refused():
    simclr, moco = {"method": "simclr"}, {"method": "moco"}
    assert fits(simclr, moco).budget_checked
    with pytest.raises(ValueError, match=r"epochs \(100 and 50\).*Tune both sides alike"):
        fits({**simclr, "epochs": 100}, moco)  # against fit's own default
    with pytest.raises(ValueError, match="lr"):
        fits({**simclr, "lr": 1e-2}, {**moco, "lr": 1e-3}, shared={"epochs": 3})
    with pytest.raises(ValueError, match="options"):
        fits({**simclr, "options": {"temperature": 0.1}}, moco)
    with pytest.raises(ValueError, match="score"):
        fits({**simclr, "score": "probe"}, moco)
    fits({**simclr, "lr": 1e-2}, moco, differs=("method", "lr"))
    fits({**simclr, "epochs": 50}, moco)  # the default, written out


def test_arms_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="are the same"):
        fits({"method": "simclr"}, {})
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        fits({"method": "moco"}, {}, shared={"epoch": 3})
    with pytest.raises(ValueError, match="'seed' is not for an arm"):
        fits({"method": "moco", "seed": 3}, {})
    with pytest.raises(ValueError, match="exactly 'method' and 'baseline'"):
        Setting("x", "digits", "knn", {"ours": {}, "theirs": {}})
    with pytest.raises(ValueError, match="papers are numbered 1 to 72"):
        claim(told(), paper=73)
    with pytest.raises(ValueError, match="name of its own"):
        claim(told(), told())


def test_effect_and_scores_are_method_minus_baseline(tmp_path):
    found = measure(claim(told()), tmp_path)
    (entry,) = found.settings
    assert found.verdict == entry["verdict"] == "holds"
    assert entry["effect"] == pytest.approx(np.mean([0.3, 0.28, 0.31]))
    assert entry["low"] < entry["effect"] < entry["high"]
    assert entry["scores"] == {arm: list(each.values()) for arm, each in SCORES.items()}
    turned = measure(claim(told(better=False)), tmp_path / "turned")
    assert turned.verdict == "fails"
    assert turned.settings[0]["effect"] == pytest.approx(entry["effect"])


def test_scores_per_item_enter_the_interval(tmp_path):
    draw = np.random.default_rng(0)
    items = {seed: draw.integers(0, 2, 40).astype(np.float32) for seed in range(3)}
    means = {seed: float(each.mean()) for seed, each in items.items()}
    arms = {"method": Told(means, items), "baseline": Told({s: m - 0.1 for s, m in means.items()})}
    setting = Setting("made", "made", "accuracy", arms, seeds=(0, 1, 2))
    one_sided = measure(claim(setting), tmp_path / "a").settings[0]
    assert one_sided["items"] == 0  # the baseline has none, so seeds alone speak
    flipped = {seed: 1 - each for seed, each in items.items()}
    arms = {"method": arms["method"], "baseline": Told({s: 1 - m for s, m in means.items()}, flipped)}
    both = measure(claim(replace(setting, arms=arms)), tmp_path / "b").settings[0]
    assert both["items"] == 40
    fewer = {seed: each[:30] for seed, each in flipped.items()}
    arms = {**arms, "baseline": Told(means, fewer)}
    with pytest.raises(ValueError, match="different items"):
        measure(claim(replace(setting, arms=arms)), tmp_path / "c")


def test_resume_asks_only_for_what_is_missing(tmp_path):
    given = claim(told())
    first = measure(given, tmp_path)
    arms = given.settings[0].arms
    assert arms["method"].seeds == arms["baseline"].seeds == [0, 1, 2]
    shutil.rmtree(tmp_path / "made" / "baseline-seed1")
    again = measure(given, tmp_path)
    assert arms["method"].seeds == [0, 1, 2]
    assert arms["baseline"].seeds == [0, 1, 2, 1]
    assert again.settings[0]["scores"] == first.settings[0]["scores"]
    measure(given, tmp_path, resume=False)
    assert arms["method"].seeds == [0, 1, 2, 0, 1, 2]


def ahead(seed, folder):
    return {"accuracy": 0.9 + 0.01 * seed}


def behind(seed, folder):
    return {"accuracy": 0.5 + 0.02 * seed}


def absent(seed, folder):
    raise DataMissing("the data are not here.")


def test_runs_of_other_code_are_not_taken_for_those_of_this_one(tmp_path):
    setting = Setting("made", "made", "accuracy", {"method": ahead, "baseline": behind})
    measure(claim(setting), tmp_path, seeds=2)
    swapped = replace(setting, arms={"method": behind, "baseline": ahead})
    with pytest.raises(ValueError, match="take resume=False"):
        measure(claim(swapped), tmp_path, seeds=2)


def test_runs_side_by_side_give_the_same(tmp_path):
    setting = Setting("made", "made", "accuracy", {"method": ahead, "baseline": behind}, seeds=(0, 1))
    file = tmp_path / "made.py"
    file.write_text(MADE)
    alone = measure(claim(setting), tmp_path / "alone").settings[0]
    beside = run_claim(str(file), out=str(tmp_path / "beside"), progress=False, jobs=2)
    assert beside.settings[0]["scores"] == alone["scores"]
    assert beside.file == tmp_path / "results" / "made.json"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_runs_side_by_side_die_with_the_one_that_started_them(tmp_path):
    """What Linux will send each of them then: 9 is kill."""
    asks = """
def sent():
    import ctypes
    found = ctypes.c_int()
    ctypes.CDLL("libc.so.6").prctl(2, ctypes.byref(found))
    return found.value
"""
    told = MADE.replace("0.9 + 0.01 * seed", "sent()").replace("0.5 + 0.02 * seed", "sent()")
    (tmp_path / "made.py").write_text(asks + told)
    found = run_claim(str(tmp_path / "made.py"), out=str(tmp_path / "beside"), progress=False, jobs=2).settings[0]
    assert found["scores"] == {"method": [9, 9], "baseline": [9, 9]}


def test_settings_are_merged_until_what_they_measure_changes(tmp_path):
    here, there = told("here"), told("there", baseline={0: 0.9, 1: 0.99, 2: 0.95})
    folder, results = tmp_path / "runs", str(tmp_path / "results")
    first = measure(claim(here, there), folder, only="here", results=results)
    assert [entry["verdict"] for entry in first.settings] == ["holds", "not run"]
    assert first.verdict == "inconclusive"
    both = measure(claim(here, there), folder, only="there", results=results)
    assert [entry["verdict"] for entry in both.settings] == ["holds", "fails"]
    assert both.verdict == "fails"
    assert both.value["data"] == "made"
    assert both.value["effect"] == both.settings[1]["effect"]  # the headline is the setting that speaks against it
    changed = replace(here, at_least=0.2)
    again = measure(claim(changed, there), folder, only="there", results=results)
    assert again.settings[0]["verdict"] == "not run"
    assert "changed since it was measured" in again.settings[0]["reason"]
    with pytest.raises(ValueError, match="did you mean 'there'"):
        measure(claim(here, there), folder, only="their")


def test_a_trial_with_fewer_seeds_does_not_count(tmp_path):
    given = replace(claim(told()), file=tmp_path / "claims" / "made.py")
    trial = measure(given, tmp_path / "runs", seeds=2)
    assert trial.file == tmp_path / "runs" / "made.json"
    assert measure(given, tmp_path / "runs").file == tmp_path / "claims" / "results" / "made.json"


def test_the_command_brings_the_page_up_to_date(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "made.py").write_text(MADE)
    command(str(folder / "made.py"), out=str(tmp_path / "trial"), seeds=1, progress=False)
    assert not (tmp_path / "RESULTS.md").exists()
    command(str(folder / "made.py"), out=str(tmp_path / "runs"), progress=False)
    assert "accuracy +0.395 [" in (tmp_path / "RESULTS.md").read_text("utf-8")


def test_an_arm_that_reads_data_is_told_where_they_lie(tmp_path):
    seen = []

    def reads(seed, folder, root):
        seen.append((root, folder.name))
        return {"accuracy": 0.5}

    setting = Setting("made", "made", "accuracy", {"method": reads, "baseline": behind}, root="there")
    measure(claim(setting), tmp_path / "a", seeds=1)
    measure(claim(setting), tmp_path / "b", seeds=1, root="here")
    assert seen == [("there", "method-seed0"), ("here", "method-seed0")]


def test_missing_data_are_not_run_and_never_held(tmp_path, monkeypatch):
    monkeypatch.delenv("COUNTERPOINT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    arms = {"method": {"method": "moco"}, "baseline": {"method": "simclr"}}
    cifar10 = Setting("cifar10", "cifar10", "knn", arms, needs="Ask for it.")
    mine = Setting("mine", "mine", "accuracy", {"method": absent, "baseline": absent})
    found = measure(claim(told(), cifar10, mine), tmp_path / "runs")
    assert [entry["verdict"] for entry in found.settings] == ["holds", "not run", "not run"]
    assert found.verdict == "inconclusive"
    assert found.settings[1]["reason"].endswith("Ask for it.")
    nothing = measure(claim(cifar10), tmp_path / "none")
    assert nothing.verdict == "not run"
    assert nothing.file is None
    assert not list((tmp_path / "none").glob("*.json"))


def test_a_result_is_what_the_catalogue_reads(tmp_path):
    measure(claim(told()), tmp_path / "runs", results=str(tmp_path))
    value = json.loads((tmp_path / "made.json").read_text("utf-8"))
    assert value["paper"] == "12"
    read = status(get(12), results=tmp_path)
    assert read.verdict == "holds"
    (known,) = read.claims
    assert (known.name, known.metric, known.seeds, known.data) == ("made", "accuracy", 3, "made")
    assert known.low < known.effect < known.high
    assert len(known.date) == 10
    assert known.commit


def test_the_page_is_made_of_the_files_alone(tmp_path):
    results = tmp_path / "results"
    for name, paper, setting in [
        ("b1", "B1", told()),
        ("p3", 3, told(baseline={0: 0.9, 1: 1.0, 2: 0.96})),
        ("p12", 12, told()),
    ]:
        measure(claim(setting, name=name, paper=paper), tmp_path / name, results=str(results))
    page = write_results(results)
    text = page.read_bytes()
    assert page == tmp_path / "RESULTS.md"
    page.unlink()
    assert write_results(results).read_bytes() == text
    told_by = text.decode()
    assert "(results/verdicts.svg)" in told_by
    assert (results / "verdicts.svg").read_text("utf-8").count("made: accuracy") == 3
    assert "2 hold, 1 fail, 0 are inconclusive" in told_by
    rows = [line for line in told_by.splitlines() if "a \\| b" in line]
    assert [row.split("**")[1] for row in rows] == ["fails", "holds", "holds"]  # 3, 12, B1
    assert "accuracy -0.103 [" in rows[0]
    assert "| 1 fails |" in rows[0]
    sections = told_by.split("\n## ")[1:]
    assert [text.count("| made | made |") for text in sections] == [1, 1, 1]
    assert "| 0.85 | 0.9533 |" in sections[0]
    (results / "bad.json").write_text('{"verdict": "holds"}')
    with pytest.raises(ValueError, match=r"bad\.json: not the result"):
        write_results(results)


def test_claims_are_found_by_name_number_or_short_name():
    assert find("pretraining").paper == "B1"
    assert find("b1").name == find("SimCLR").name == "pretraining"
    with pytest.raises(ValueError, match="did you mean 'pretraining'"):
        find("pre-training")
    with pytest.raises(ValueError, match=r"none is written for .* yet; there are: .*pretraining"):
        find(next(str(n) for n in range(1, 73) if str(n) not in {known.paper for known in claims()}))
    with pytest.raises(FileNotFoundError, match="no file"):
        find("nowhere/claim.py")


def test_without_a_checkout_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("counterpoint.experiments.claims.files.__file__", str(tmp_path / "a/b/c/d/files.py"))
    with pytest.raises(FileNotFoundError, match="Clone the repository"):
        find("pretraining")


def test_a_small_claim_is_measured_for_real(tmp_path):
    arms = {"method": {"method": "simclr"}, "baseline": {"method": "simclr", "epochs": 0}}
    training = Setting("digits", "digits", "knn", arms, shared=TINY, differs=("epochs",), seeds=(0, 1))
    found = measure(claim(training), tmp_path)
    (entry,) = found.settings
    assert entry["items"] == 60
    assert entry["budget"]["method"]["steps"] == 2 * (195 // 64)
    assert entry["budget"]["baseline"]["steps"] == 0
    assert entry["description"].startswith("digits: 300 items of 1 x 8 x 8, 10 classes; 195 train")
    assert len(entry["scores"]["method"]) == 2
    assert entry["scores"]["method"] != entry["scores"]["baseline"]
    assert entry["commit"]
    states = sorted(tmp_path.glob("digits/*/status.json"))
    assert len(states) == 4
    before = [file.stat().st_mtime_ns for file in states]
    again = measure(claim(training), tmp_path)
    assert [file.stat().st_mtime_ns for file in states] == before
    assert again.value == found.value


def test_both_arms_of_pretraining_know_the_same_labels(tmp_path):
    (digits, _) = find("pretraining").settings
    tiny = {**digits.shared, "steps": 3, "encoder_options": {"widths": [8, 16]}}
    found = measure(claim(replace(digits, shared=tiny)), tmp_path, seeds=1)
    (entry,) = found.settings
    assert entry["verdict"] == "inconclusive"  # of one seed
    assert entry["budget"]["method"]["steps"] == entry["budget"]["baseline"]["steps"] == 3
    others = entry["other_scores"]["baseline"]
    assert entry["scores"]["baseline"][0] in (others["own_classifier"][0], others["logistic_regression"][0])

    from counterpoint.experiments import Run
    from counterpoint.experiments.preparing import load_data

    known = []
    for arm in ("method", "baseline"):
        run = Run(tmp_path / "digits" / f"{arm}-seed0")
        _, splits, shown, train = load_data(run.config["data"], run.config)
        known.append(np.flatnonzero(shown.labels >= 0))
        assert len(train) == {"method": 1168, "baseline": 100}[arm]
        assert set(known[-1]) <= set(splits.train)
        assert np.bincount(shown.labels[known[-1]]).tolist() == [10] * 10
    assert np.array_equal(*known)
