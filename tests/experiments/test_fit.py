import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.experiments import training
from counterpoint.experiments.run import Run
from counterpoint.files import FolderInUse, claim_folder
from counterpoint.methods.base import Recipe

QUICK = {"epochs": 2, "limit": 400, "progress": False, "threads": 1}
BARE = {**QUICK, "evaluate": False, "report": False, "monitor": 0}


def weights(folder):
    return load_file(Path(folder) / "encoder" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cp.fit("digits", out=str(tmp_path_factory.mktemp("fit") / "run"), **{**QUICK, "epochs": 4}, monitor=3)


def test_a_run_holds_everything(run):
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert files == {
        *("config.yaml", "environment.json", "status.json", "splits.npz", "metrics.jsonl", "histograms.npz"),
        "score_curves.npz",
        *("encoder/config.json", "encoder/model.safetensors", "embeddings.npz", "report.html", ".lock"),
        *("head/config.json", "head/model.safetensors"),
        *("evaluation.json", "evaluation.npz"),
    }
    assert run.state == "finished"
    assert torch.__version__.startswith(run.environment["versions"]["torch"])
    assert run.config["data"] == "digits"


def test_training_is_recorded(run):
    rows = run.metrics
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["epoch"] for row in rows if "knn" in row] == list(run.histograms["epochs"])
    positive, negative = run.histograms["positive"][-1], run.histograms["negative"][-1]
    centres = (run.histograms["edges"][1:] + run.histograms["edges"][:-1]) / 2
    assert positive @ centres / positive.sum() > negative @ centres / negative.sum()


def test_a_run_is_optimised_as_it_is_told(tmp_path, monkeypatch):
    made, optimizers = [], Recipe.optimizers

    def watched(self, *given):
        made.append(optimizers(self, *given))
        return made[-1]

    monkeypatch.setattr(Recipe, "optimizers", watched)
    config = {"data": "digits", "epochs": 2, "limit": 60, "lr": 1e-2, "warmup": 0.5, "start_lr": 4e-3, "end_lr": 2e-3}
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({**BARE, **config, "betas": [0.8, 0.9]}))
    assert main(["fit", "--config", str(tmp_path / "asked.yaml"), "--out", str(tmp_path / "run")]) == 0
    (optimizer, schedule), run = made[0], Run(tmp_path / "run")
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert run.config["betas"] == [0.8, 0.9]
    assert 1e-2 * schedule.lr_lambdas[0](0) == pytest.approx(4e-3)
    assert run.metrics[-1]["lr"] == pytest.approx(2e-3)


def test_scores_are_those_of_the_saved_encoder(run):
    encoder = cp.load(run.folder)
    dataset = cp.data.load("digits", limit=400)
    kept = run.embeddings
    torch.testing.assert_close(
        encoder.embed(dataset[kept["index"]]["image"]), torch.from_numpy(kept["features"]), rtol=1e-4, atol=1e-5
    )
    assert 0.5 < run.scores["knn"] <= 1
    assert run.scores["knn"] == pytest.approx(run.evaluation.items["knn"].mean())


def test_the_projection_can_be_scored_instead(run, tmp_path):
    other = cp.fit("digits", out=str(tmp_path / "run"), **{**QUICK, "epochs": 4}, monitor=0, layer="projection")
    assert same(weights(run.folder), weights(other.folder))  # scoring changes nothing
    spectrum = {one: one.embeddings["projections"].shape[1] for one in (run, other)}
    assert spectrum[run] == spectrum[other]
    assert other.scores["effective_rank"] != run.scores["effective_rank"]
    assert 0.3 < other.scores["knn"] <= 1


def test_only_the_scores_that_are_asked_for_are_measured(run, tmp_path):
    some = cp.fit("digits", out=str(tmp_path / "run"), **{**BARE, "evaluate": True}, metrics=["knn", "uniformity"])
    assert set(some.scores) == {"knn", "uniformity"}
    assert set(some.scores) < set(run.scores)


def test_the_report_names_the_run_and_loads_nothing(run):
    page = (run.folder / "report.html").read_text()
    assert "simclr" in page
    assert 'src="http' not in page


def test_a_config_repeats_the_run(run, tmp_path):
    from counterpoint.cli import main

    again = tmp_path / "again"
    words = ["fit", "--config", str(run.folder / "config.yaml"), "--out", str(again), "--progress", "false"]
    assert main([*words, "--evaluate", "false", "--report", "false"]) == 0
    assert same(weights(run.folder), weights(again))


def test_seeds_matter_and_repeat(tmp_path):
    def trained(name, seed):
        return weights(cp.fit("digits", out=str(tmp_path / name), seed=seed, **BARE).folder)

    first, again, other = trained("a", 0), trained("b", 0), trained("c", 1)
    assert same(first, again)
    assert not same(first, other)


class Killed(Exception):
    pass


ANYWHERE = (1, 3, 5, 9)  # at the start, within the first epoch, at the seam, within the last
STATEFUL = {  # what else than weights must come back: queues, teachers, prototypes
    "amcl_moco": {},
    "cacr_moco": {"queue_size": 32},
    "cmim": {},
    "feature_transformation": {"queue_size": 32},
    "hallucinator_moco": {"queue_size": 32},
    "hard_contrastive": {"queue_size": 32},
    "hard_contrastive_bank": {},
    "hydra": {"gate_kind": "gumbel", "gate_embed": 16, "gate_hidden": 16},
    "mochi": {"queue_size": 32, "oracle": True},
    "nnclr": {},
    "swav": {"queue_size": 64, "queue_start": 0.2},
}


@pytest.mark.parametrize(
    ("method", "options", "stops"),
    [("simclr", {}, ANYWHERE), ("moco", {}, ANYWHERE), *((name, told, (5,)) for name, told in STATEFUL.items())],
    ids=["simclr", "moco", *STATEFUL],
)
def test_a_run_killed_at_any_step_resumes_bit_for_bit(tmp_path, monkeypatch, method, options, stops):
    settings = {**BARE, "batch_size": 64, "epochs": 3, "checkpoint_seconds": 0.0, "monitor": 2, "options": options}
    whole = cp.fit("digits", method, out=str(tmp_path / "whole"), **settings)
    write = training.Checkpointer.on_train_batch_start
    for stop in stops:
        folder, steps = tmp_path / f"killed{stop}", 0

        def die(self, *arguments, stop=stop):
            nonlocal steps
            write(self, *arguments)
            steps += 1
            if steps == stop:
                raise Killed

        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
        with pytest.raises(Killed):
            cp.fit("digits", method, out=str(folder), **settings)
        assert Run(folder).state == "failed"
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
        resumed = cp.fit("digits", method, out=str(folder), resume=True, **settings)
        assert same(weights(whole.folder), weights(folder))
        assert [r["loss"] for r in resumed.metrics] == [r["loss"] for r in whole.metrics]
        assert (resumed.histograms["positive"] == whole.histograms["positive"]).all()


SCRIPT = """
import sys, counterpoint as cp
if __name__ == "__main__":
    cp.fit("digits", out=sys.argv[1], epochs=40, limit=400, threads=1, progress=False, evaluate=False, report=False,
           monitor=0, checkpoint_seconds=0.05, resume=True)
"""


def test_kill_minus_nine_and_resume(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    killed = tmp_path / "killed"
    command = [sys.executable, str(tmp_path / "script.py"), str(killed)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (killed / "checkpoint" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "encoder").exists()
    subprocess.run(command, check=True)
    settings = {**BARE, "epochs": 40, "checkpoint_seconds": 0.05}
    whole = cp.fit("digits", out=str(tmp_path / "whole"), **settings)
    assert same(weights(whole.folder), weights(killed))
    assert Run(killed).state == "finished"


def test_killed_while_the_report_is_written(tmp_path, monkeypatch):
    """All is measured and said by then, and the checkpoint, which goes last, is still there."""
    settings = {**BARE, "report": True, "out": str(tmp_path / "run")}
    run = cp.fit("digits", **settings)
    before = weights(run.folder)
    (run.folder / "report.html").unlink()
    (run.folder / "checkpoint").mkdir()
    cp.fit("digits", resume=True, **settings)
    assert (run.folder / "report.html").exists()
    assert same(before, weights(run.folder))
    monkeypatch.setenv("RANK", "1")  # another process of a run that is done does not wait for the first
    assert cp.fit("digits", resume=True, **settings).state == "finished"
    assert not (run.folder / "checkpoint").exists()


def test_control_c_leaves_a_usable_run(tmp_path, monkeypatch):
    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Recorder, "on_train_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        cp.fit("digits", out=str(tmp_path / "run"), **BARE)
    run = Run(tmp_path / "run")
    assert run.state == "interrupted"
    assert run.encoder().embed(torch.zeros(2, 1, 8, 8)).isfinite().all()


def test_the_whole_recipe_can_be_asked_for(tmp_path):
    settings = {**QUICK, "evaluate": False, "report": False, "monitor": 0}
    run = cp.fit("digits", out=str(tmp_path / "run"), start_lr=1e-6, end_lr=5e-4, betas=[0.9, 0.98], **settings)
    assert run.metrics[-1]["lr"] == pytest.approx(5e-4)
    assert run.config["betas"] == [0.9, 0.98]
    with pytest.raises(ValueError, match=r"^betas: expected two numbers"):
        cp.fit("digits", out=str(tmp_path / "other"), betas=[0.9], **settings)


def test_one_run_a_folder(tmp_path):
    cp.fit("digits", out=str(tmp_path / "run"), **BARE)
    with pytest.raises(FileExistsError, match=r"out: .*resume"):
        cp.fit("digits", out=str(tmp_path / "run"), **BARE)
    with pytest.raises(ValueError, match=r"resume: .*seed=0, now 1"):
        cp.fit("digits", out=str(tmp_path / "run"), resume=True, seed=1, **BARE)
    before = (tmp_path / "run" / "encoder" / "model.safetensors").stat().st_mtime_ns
    assert cp.fit("digits", out=str(tmp_path / "run"), resume=True, **BARE).state == "finished"
    assert (tmp_path / "run" / "encoder" / "model.safetensors").stat().st_mtime_ns == before
    with claim_folder(tmp_path / "other"), pytest.raises(FolderInUse, match="another run"):
        cp.fit("digits", out=str(tmp_path / "other"), **BARE)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save, calls = torch.save, 0

    def full(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device")
        save(*arguments, **named)

    monkeypatch.setattr(torch, "save", full)
    settings = {**BARE, "checkpoint_seconds": 0.0, "batch_size": 64}
    with pytest.raises(OSError, match="No space"):
        cp.fit("digits", out=str(tmp_path / "run"), **settings)
    assert os.listdir(tmp_path / "run" / "checkpoint") == ["last.ckpt"]
    monkeypatch.setattr(torch, "save", save)
    assert cp.fit("digits", out=str(tmp_path / "run"), resume=True, **settings).state == "finished"


def test_a_tampered_checkpoint_is_not_executed(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/sprung",)

    settings = {**BARE, "checkpoint_seconds": 0.0, "batch_size": 64}
    monkeypatch.setattr(training.Recorder, "on_train_epoch_end", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cp.fit("digits", out=str(tmp_path / "run"), **settings)
    monkeypatch.undo()
    torch.save({"state_dict": Trap()}, tmp_path / "run" / "checkpoint" / "last.ckpt")
    with pytest.raises(Exception, match=r"(?i)weights"):
        cp.fit("digits", out=str(tmp_path / "run"), resume=True, **settings)
    assert not (tmp_path / "sprung").exists()


def test_divergence_is_an_error_not_a_nan(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match=r"loss is|NaN or infinite"):
        cp.fit("digits", "vicreg", out=str(tmp_path / "run"), optimizer="sgd", lr=1e30, **{**BARE, "epochs": 6})
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("method", ["simclr", "moco", "barlow"])
def test_bfloat16_trains(tmp_path, method):
    settings = {**BARE, "monitor": 1}
    run = cp.fit("digits", method, out=str(tmp_path / "run"), precision="bf16-mixed", **settings)
    exact = cp.fit("digits", method, out=str(tmp_path / "exact"), precision="32-true", **settings)
    assert [r["loss"] for r in run.metrics] == pytest.approx([r["loss"] for r in exact.metrics], rel=0.05)
    assert not same(weights(run.folder), weights(exact.folder))
    assert all(value.dtype != torch.bfloat16 for value in weights(run.folder).values())


def test_vectors_without_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    run = cp.fit(x, out=str(tmp_path / "run"), **{**QUICK, "limit": None})
    assert "knn" not in run.scores
    assert run.scores["effective_rank"] > 1
    assert run.encoder().modality == "vector"


def test_hidden_labels_are_hidden_from_the_method_only(tmp_path):
    from counterpoint.experiments.preparing import load_data

    arguments = {**QUICK, "method": "supervised", "labels_per_class": 2, "split_seed": 0, "val": 0.15, "test": 0.2}
    arguments |= dict.fromkeys(("labels", "image", "features", "image_size", "root"))
    dataset, splits, shown, train = load_data("digits", {**arguments, "seed": 3, "download": False, "max_corrupt": 0})
    assert len(train) == 20
    assert (np.bincount(dataset.labels[train]) == 2).all()
    assert (shown.labels[train] == dataset.labels[train]).all()
    assert (np.delete(shown.labels, train) == -1).all()
    assert set(train) <= set(splits.train)
    assert (dataset.labels >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "simclrr"}, "did you mean 'simclr'"),
        ({"options": {"temprature": 1}}, "no parameter 'temprature'; it has temperature, dim, head"),
        ({"batch_size": 4000}, r"batch_size: 4000 is larger than the \d+ training items"),
        ({"batch_size": 1}, "at least 2"),
        ({"encoder": "resnet81"}, "did you mean resnet18"),
        ({"views": "simcrl"}, "simclr"),
        ({"metrics": ["prob"]}, "metrics.*did you mean 'probe'"),
        ({"layer": "head"}, "layer: expected 'features' or 'projection'"),
        ({"views": "swav"}, "contrasts 2 views, and there are"),
        ({"lr": -1}, "lr"),
        ({"end_lr": 1.0}, "end_lr: expected a number from 0 to lr"),
        ({"betas": [0.9]}, "betas: expected two numbers"),
        ({"optimizer": "adam"}, "'adamw', 'sgd' or 'larc'"),
        ({"data": "digitz"}, "digits"),
        ({"data": np.full((20, 4), np.nan)}, "NaN"),
        ({"data": np.random.default_rng(0).normal(size=(40, 4)), "method": "supcon"}, "needs labels"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    given = {"data": "digits", **BARE, "out": str(tmp_path / "run"), **arguments}
    if not isinstance(given["data"], str):
        given["limit"] = None
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cp.fit(**given)
    assert arguments.get("method") != "simclrr" or not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="out: cannot write"):
        cp.fit("digits", out=str(tmp_path / "file"), **BARE)
