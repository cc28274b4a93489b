"""A numeric target from end to end: fit, resume, compare, the command, the estimator and the page."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.data import load

QUICK = {"epochs": 2, "progress": False, "threads": 1, "encoder_options": {"widths": [16]}, "monitor": 2}
BARE = {**QUICK, "evaluate": False, "report": False, "monitor": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cp.fit("diabetes", "supremix", out=str(tmp_path_factory.mktemp("fit") / "run"), **QUICK)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("compare") / "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)
        return cp.compare("diabetes", "supremix,supcon", seeds=2, out=out, **{**QUICK, "epochs": 1})


def test_scores_and_items(run):
    assert {"mae", "rmse", "r2", "pearson", "mae_10", "knn_mae", "spearman"} <= set(run.scores)
    assert "knn" not in run.scores
    parts = np.load(run.folder / "splits.npz")
    truth = load("diabetes").targets
    np.testing.assert_array_equal(run.embeddings["targets"], truth[parts["test"]])
    wrong = run.evaluation.arrays["target_predictions"] - truth[parts["test"]]
    np.testing.assert_allclose(run.evaluation.items["mae"], np.abs(wrong), rtol=1e-5)


def test_the_page_shows_the_target(run):
    page = (run.folder / "report.html").read_text()
    assert "misses the target by" in page
    for title in ("Predicted and true", "mean absolute error", "shaded by the target", "Similarity by target"):
        assert title in page
    assert page.index('id="prediction"') < page.index('id="maps"')
    assert 'class="shade v8"' in page


def test_a_column_is_named_in_the_config(tmp_path):
    made = np.random.default_rng(0)
    frame = pd.DataFrame(made.normal(size=(80, 3)), columns=list("abc"))
    frame["age"] = 40 + 10 * frame["a"]
    frame.loc[:9, "age"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    done = cp.fit(str(tmp_path / "t.csv"), "l1_regression", target="age", out=str(tmp_path / "run"), **BARE)
    assert yaml.safe_load((done.folder / "config.yaml").read_text())["target"] == "age"
    assert done.model().center == pytest.approx(frame["age"].mean(), abs=3)
    steps = {row["step"] for row in done.metrics}
    assert max(steps) == 2, "an epoch is one batch of what has a target"
    with pytest.raises(ValueError, match=r"^method: 'supremix' needs a target, and 't' has none"):
        cp.fit(str(tmp_path / "t.csv"), "supremix", out=str(tmp_path / "other"), features=["b"], **BARE)
    with pytest.raises(ValueError, match=r"^target: there is no column 'Age'"):
        cp.fit(str(tmp_path / "t.csv"), "supremix", target="Age", out=str(tmp_path / "other"), overwrite=True, **BARE)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = cp.fit("diabetes", "supremix", out=str(tmp_path / "a"), **{**BARE, "epochs": 4, "batch_size": 64})
    out = str(tmp_path / "b")

    class Stop(Exception):
        pass

    def stop(done, loss, speed):
        if done > 0.6:
            raise Stop

    settings = {**BARE, "epochs": 4, "batch_size": 64, "checkpoint_seconds": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "counterpoint.experiments.training.Progress.on_train_batch_end",
            lambda self, trainer, *_: stop(trainer.global_step / 16, 0, 0),
        )
        with pytest.raises(Stop):
            cp.fit("diabetes", "supremix", out=out, **{**settings, "progress": stop})
    again = cp.fit("diabetes", "supremix", out=out, resume=True, **{**settings, "progress": False})
    assert again.metrics[-1]["loss"] == whole.metrics[-1]["loss"]


def test_small_errors_rank_first(comparison):
    board = comparison.board
    assert board["metric"] == "mae"
    assert board["data"]["target"] == "25 to 346"
    names = [row["name"] for row in board["rows"]]
    assert set(names) == {"supremix", "raw", "pca", "untrained", "l1_regression"}
    means = [row["mean"] for row in board["rows"]]
    assert means == sorted(means)
    assert all(row["difference"] >= 0 for row in board["rows"][1:])
    assert {row["name"] for row in board["rows"] if row["baseline"]} == set(names) - {"supremix"}
    assert board["notes"] == ["supcon needs labels, and the data have none: left out"]
    page = (comparison.folder / "report.html").read_text()
    assert "Down and to the left is better" in page
    assert "Predicted and true" in page
    best = board["rows"][0]
    assert f"{best['name']} is best, with a MAE of" in page or "has the lowest MAE" in page


def test_labels_and_target(tmp_path):
    out = str(tmp_path / "run")
    done = cp.fit("digits", "untrained", target="label", limit=300, out=out, report=False, progress=False, threads=1)
    assert {"mae", "knn", "probe"} <= set(done.scores)


def test_the_command(tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ["--target", "label", "--limit", "200", "--epochs", "1", "--report", "false", "--progress", "false"]
    assert main(["fit", "digits", "--method", "supremix", "--out", out, *words, "--threads", "1"]) == 0
    assert "Mean absolute error" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "head" / "config.json").read_text())["options"]["scale"] > 2
    assert main(["fit", "digits", "--method", "supremix", "--out", str(tmp_path / "x"), "--limit", "50"]) == 1
    assert "needs a target" in capsys.readouterr().err


def test_the_estimator_takes_numbers():
    x = load("diabetes")[:]["vector"].numpy()
    y = load("diabetes").targets
    encoder = cp.ContrastiveEncoder("supremix", epochs=1).fit(x, y)
    assert encoder.transform(x).shape == (442, 256)
    assert cp.ContrastiveEncoder("simclr", epochs=1).fit(x, y + 0.5).transform(x).shape == (442, 256)
    with pytest.raises(ValueError, match="needs a target"):
        cp.ContrastiveEncoder("l1_regression", epochs=1).fit(x)
    with pytest.raises(ValueError, match="every value is 1"):
        cp.ContrastiveEncoder("l1_regression", epochs=1).fit(x, np.ones(442))
