import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import counterpoint as cp
from counterpoint.experiments import compare as module
from counterpoint.experiments.compare import Comparison

QUICK = {"epochs": 1, "limit": 300, "progress": False, "monitor": 1}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "out"
    return cp.compare("digits", "simclr,supcon", seeds=2, out=str(folder), jobs=1, **QUICK)


def test_every_method_and_baseline_is_ranked(comparison):
    rows = comparison.board["rows"]
    assert {row["name"] for row in rows} == {"simclr", "supcon", "raw", "pca", "untrained", "supervised"}
    assert comparison.board["metric"] == "knn"
    assert [row["mean"] for row in rows] == sorted((row["mean"] for row in rows), reverse=True)
    assert rows[0]["rank"] == 1
    assert rows[0]["difference"] is None
    for row in rows[1:]:
        assert row["difference"] == pytest.approx(row["mean"] - rows[0]["mean"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert 0 <= row["p"] <= 1


def test_the_mean_is_that_of_the_runs(comparison):
    runs = comparison.runs
    assert len(runs["simclr"]) == 2
    assert len(runs["raw"]) == 1
    row = next(row for row in comparison.board["rows"] if row["name"] == "simclr")
    assert row["mean"] == pytest.approx(np.mean([run.scores["knn"] for run in runs["simclr"]]))


def test_seeds_are_pairs(comparison):
    runs = comparison.runs
    for a, b in zip(runs["simclr"], runs["supcon"], strict=True):
        assert a.config["seed"] == b.config["seed"]
        assert (a.folder / "splits.npz").read_bytes() == (b.folder / "splits.npz").read_bytes()
    assert runs["untrained"][0].metrics == []
    untrained, other = (runs["untrained"][k].encoder().state_dict() for k in (0, 1))
    assert any(not (untrained[name] == other[name]).all() for name in untrained)


def test_files(comparison):
    frame = comparison.frame()
    assert list(frame["name"]) == [row["name"] for row in comparison.board["rows"]]
    page = (comparison.folder / "report.html").read_text()
    for name in ("simclr", "supcon", "untrained"):
        assert name in page
    assert "best by knn" in repr(comparison)


def test_resume_trains_nothing_again(comparison, monkeypatch):
    folder = str(comparison.folder)
    with pytest.raises(FileExistsError, match="resume"):
        cp.compare("digits", "simclr,supcon", seeds=2, out=folder, jobs=1, **QUICK)
    stamps = {path: path.stat().st_mtime_ns for path in comparison.folder.rglob("model.safetensors")}
    again = cp.compare("digits", "simclr,supcon", seeds=2, out=folder, jobs=1, resume=True, **QUICK)
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("model.safetensors")} == stamps
    assert again.board["rows"] == comparison.board["rows"]


def test_one_failure_does_not_cost_the_others(tmp_path):
    found = cp.compare(
        "digits", "simclr,byol", seeds=1, out=str(tmp_path / "out"), jobs=1, baselines="untrained",
        options={"byol": {"momentum": 7}}, **QUICK,
    )  # fmt: skip
    assert {row["name"] for row in found.board["rows"]} == {"simclr", "untrained"}
    ((name, why),) = found.board["failures"]
    assert name == "byol-seed0"
    assert "momentum" in why
    assert any("byol is not ranked: 0 of 1" in note for note in found.board["notes"])


def test_without_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
    found = cp.compare(
        x, "simclr,supcon", seeds=1, out=str(tmp_path / "out"), jobs=1, **{**QUICK, "limit": None}
    )  # fmt: skip
    assert found.board["metric"] == "effective_rank"
    assert {row["name"] for row in found.board["rows"]} == {"simclr", "raw", "pca", "untrained"}
    assert "supcon needs labels" in found.board["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "simclr,mocco"}, "did you mean 'moco'"),
        ({"methods": ""}, "methods: none"),
        ({"metric": "knnn"}, "did you mean 'knn'"),
        ({"baselines": "pcaa"}, "raw,pca,untrained,supervised"),
        ({"seeds": 0}, "seeds: expected at least 1"),
        ({"options": {"byol": {}}}, "'byol' is not among the methods"),
        ({"on": "moon"}, "'local' or 'ray'"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    given = {"data": "digits", "methods": "simclr", "out": str(tmp_path / "out"), **QUICK, **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        cp.compare(**given)
    assert not (tmp_path / "out" / "runs").exists()


def test_parallel_equals_serial(comparison, tmp_path):
    parallel = cp.compare(
        "digits", "simclr", seeds=2, out=str(tmp_path / "out"), jobs=2, baselines="untrained", threads=1, **QUICK
    )
    serial = cp.compare(
        "digits", "simclr", seeds=2, out=str(tmp_path / "one"), jobs=1, baselines="untrained", threads=1, **QUICK
    )
    assert parallel.board["rows"] == serial.board["rows"]


SCRIPT = """
import sys, counterpoint as cp
if __name__ == "__main__":
    cp.compare("digits", "simclr,byol", seeds=2, out=sys.argv[1], jobs=2, epochs=400, progress=False)
"""


def test_killed_workers_do_not_live_on(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "out")])
    status = tmp_path / "out" / "runs" / "simclr-seed0" / "status.json"
    deadline = time.monotonic() + 90
    while not status.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = json.loads(status.read_text())["pid"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{worker}")


def test_workers_share_the_cores():
    import torch

    from counterpoint.experiments.workers import process_pool

    cores = os.cpu_count() or 1
    for width in (2, 4 * cores):
        with process_pool(width) as pool:
            assert pool.submit(torch.get_num_threads).result() == max(1, cores // width)
            assert pool.submit(most_threads).result() == max(1, cores // width)


def most_threads():
    """Of any library that scikit-learn computes with."""
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_info

    return max(library["num_threads"] for library in threadpool_info())


def test_a_fit_holds_its_evaluation_to_its_threads(tmp_path, monkeypatch):
    from counterpoint.experiments import measuring

    seen, measure = [], measuring.evaluate_encoder

    def look(*given):
        seen.append(most_threads())
        return measure(*given)

    monkeypatch.setattr(measuring, "evaluate_encoder", look)
    import torch

    before = torch.get_num_threads()
    try:
        cp.fit("digits", out=str(tmp_path / "run"), steps=1, limit=100, threads=1, report=False, progress=False)
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


@pytest.mark.slow
def test_on_ray(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        spread = cp.compare(
            "digits", "simclr", seeds=1, out=str(tmp_path / "ray"), on="ray", baselines="untrained", threads=1, **QUICK
        )
    finally:
        ray.shutdown()
    local = cp.compare(
        "digits", "simclr", seeds=1, out=str(tmp_path / "local"), jobs=1, baselines="untrained", threads=1, **QUICK
    )
    assert spread.board["rows"] == local.board["rows"]


def test_an_unfinished_comparison_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"leaderboard.json"):
        Comparison(tmp_path)
    assert module.METHODS.startswith("simclr")
