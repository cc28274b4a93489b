"""From a trained encoder to a classifier: the run it leaves, what it starts from, what it refuses, and its use."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.experiments.reports import run_data
from counterpoint.experiments.run import Run

BARE = {"limit": 400, "threads": 1, "progress": False, "report": False, "monitor": 0}
TUNE = {"epochs": 3, "labels_per_class": 5, "threads": 1, "progress": False, "monitor": 0, "report": False}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run of SimCLR on 400 digits."""
    return cp.fit("digits", out=str(tmp_path_factory.mktemp("start") / "simclr"), epochs=2, **BARE, evaluate=False)


@pytest.fixture(scope="module")
def tuned(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    changed = {"epochs": 10, "metrics": ["accuracy", "scatter"], "seed": 3}
    return cp.finetune(str(start.folder), out=str(out), **{**TUNE, **changed})


def weights(folder, part="encoder"):
    return load_file(Path(folder) / part / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestTheRun:
    def test_holds_a_classifier_and_its_scores(self, tuned, start):
        assert tuned.state == "finished"
        assert tuned.config["method"] == "core_tuning"
        assert list(tuned.scores) == ["accuracy", "scatter"]
        assert weights(tuned.folder, "classifier")["weight"].shape == (10, 128)
        told = json.loads((tuned.folder / "encoder" / "config.json").read_text())["extra"]["start"]
        assert (told["method"], told["folder"]) == ("simclr", str(start.folder))

    def test_is_split_as_the_first_was(self, tuned, start):
        """So no test item has been trained on."""
        one, two = (np.load(run.folder / "splits.npz") for run in (tuned, start))
        assert all(np.array_equal(one[part], two[part]) for part in ("train", "val", "test"))
        assert tuned.config["limit"] == 400

    def test_scores_are_those_of_the_saved_classifier(self, tuned):
        dataset = cp.data.load("digits", limit=400)
        index = tuned.embeddings["index"]
        batch = dataset[index]
        found = tuned.classifier().predict(batch["image"])
        truth = [dataset.classes[c] for c in batch["label"]]
        correct = np.array([a == b for a, b in zip(found.names, truth, strict=True)])
        evaluation = tuned.evaluation
        assert tuned.scores["accuracy"] == pytest.approx(correct.mean())
        assert np.array_equal(evaluation.items["accuracy"], correct.astype(np.float32))
        confusion = evaluation.arrays["classifier_confusion"]
        assert confusion.sum() == len(index)
        assert np.trace(confusion) == correct.sum()
        assert evaluation.arrays["class_accuracy"] == pytest.approx(np.diag(confusion) / confusion.sum(1))
        torch.testing.assert_close(found.probabilities.sum(1), torch.ones(len(index)))

    def test_its_model_has_the_classifier(self, tuned):
        assert same(tuned.model().classifier.state_dict(), weights(tuned.folder, "classifier"))

    def test_the_page_tells_how_often_it_is_right(self, tuned):
        shown = run_data(tuned, cp.data.load("digits", limit=400))
        assert f"The classifier is right for {tuned.scores['accuracy']:.1%} of the 80 test items" in shown.summary
        low, high = (float(x) for x in re.search(r"95 % interval ([\d.]+)% to ([\d.]+)%", shown.summary).groups())
        assert low < 100 * tuned.scores["accuracy"] < high
        assert np.array_equal(shown.confusion, tuned.evaluation.arrays["classifier_confusion"])

    def test_the_encoder_has_moved_from_where_it_was(self, tuned, start):
        before, after = weights(start.folder), weights(tuned.folder)
        moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
        assert moved["mean"] == moved["std"] == 0  # the statistics of the data it was trained on first
        assert 0 < moved["backbone.layers.0.weight"] < 0.1  # a few small steps from there, not a new draw


def test_no_steps_change_nothing(start, tmp_path):
    run = cp.finetune(str(start.folder), out=str(tmp_path / "run"), method="untrained", **TUNE, evaluate=False)
    assert same(weights(run.folder), weights(start.folder))
    with pytest.raises(FileNotFoundError, match=r"^path: no classifier in"):
        run.classifier()


@pytest.mark.parametrize("method", ["core_tuning", "linear_probe"])
def test_a_killed_run_resumes_bit_for_bit(method, start, tmp_path, monkeypatch):
    from counterpoint.experiments.training import Recorder

    def tune(name, **more):
        settings = {
            **TUNE,
            "batch_size": 20,
            "encoder_lr": 1e-4,
            "freeze": 1,
            "evaluate": False,
            "checkpoint_seconds": 0,
        }
        return cp.finetune(str(start.folder), out=str(tmp_path / name), method=method, **settings, **more)

    whole = tune("whole")
    end, steps = Recorder.on_train_batch_end, []

    def stop(self, trainer, *arguments):
        end(self, trainer, *arguments)
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        tune("killed")
    monkeypatch.setattr(Recorder, "on_train_batch_end", end)
    with pytest.raises(ValueError, match=r"^encoder: the run in .* is interrupted, not finished"):
        cp.finetune(str(tmp_path / "killed"), out=str(tmp_path / "next"), **TUNE)
    resumed = tune("killed", resume=True)
    for part in ("encoder", "head", "classifier"):
        assert same(weights(whole.folder, part), weights(resumed.folder, part))
    first = "backbone.layers.0.weight"
    assert torch.equal(weights(whole.folder)[first], weights(start.folder)[first])  # frozen


def test_other_data_and_an_exported_encoder(start, tmp_path):
    """Data of another size are brought to the encoder's; classes are the new ones."""
    exported = cp.export(start.folder, tmp_path / "exported")
    made = np.random.default_rng(0)
    labels = np.array(["cat", "dog"])[np.arange(60) % 2]
    images = (made.random((60, 8, 8)) * 100 + 100 * (labels == "dog")[:, None, None]).astype(np.uint8)
    run = cp.finetune(
        str(exported), (images, labels), out=str(tmp_path / "run"), epochs=20, lr=1e-2, threads=1, progress=False,
        method="linear_probe", monitor=0, report=False, metrics=["accuracy"],
    )  # fmt: skip
    assert run.classifier().classes == ["cat", "dog"]
    assert run.scores["accuracy"] > 0.9
    assert run.classifier().predict(torch.full((1, 1, 8, 8), 250, dtype=torch.uint8)).names == ["dog"]


def test_images_are_brought_to_the_encoders_size(start, tmp_path):
    from PIL import Image

    for i in range(40):
        folder = tmp_path / "photos" / ("dark" if i % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 15), (20, 20, 20) if i % 2 else (220, 230, 240)).save(folder / f"{i}.png")
    run = cp.finetune(
        str(start.folder), str(tmp_path / "photos"), out=str(tmp_path / "run"), epochs=10, lr=1e-2, threads=1,
        progress=False, monitor=0, report=False, metrics=["accuracy"],
    )  # fmt: skip
    assert run.encoder().shape == (1, 8, 8)
    assert run.scores["accuracy"] == 1
    written = cp.classify(str(tmp_path / "photos"), str(run.folder), str(tmp_path / "p.csv"), probabilities=True)
    with open(written) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert all(row["label"] == row["prediction"] for row in rows)
    assert all(float(row["dark"]) + float(row["light"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(float(row["probability"]) == float(row[row["prediction"]]) for row in rows)
    with pytest.raises(FileExistsError, match=r"^out: "):
        cp.classify(str(tmp_path / "photos"), str(run.folder), str(written))


def test_classes_without_labels_in_training(start, tmp_path):
    """One class only in test, one with a single item: counted as wrong and told; no failure."""
    made = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 20 + [2] * 1 + [3] * 6)
    images = (made.random((47, 8, 8)) * 255).astype(np.uint8)
    splits = cp.data.Splits(np.arange(0, 41, 2), np.array([1, 3, 21, 23]), np.array([5, 7, 25, 27, *range(41, 47)]))
    run = cp.finetune(
        str(start.folder), (images, labels), out=str(tmp_path / "run"), splits=splits, epochs=2, threads=1,
        progress=False, monitor=0, report=False, metrics=["accuracy"],
    )  # fmt: skip
    assert 40 in splits.train  # the only item of class 2
    notes = " ".join(run.evaluation.notes)
    assert "1 of 3 test classes have no label in training, so their 6 items count as wrong" in notes
    assert run.scores["accuracy"] <= 0.4
    assert np.isnan(run.evaluation.arrays["class_accuracy"][2])


def test_compare_starts_all_methods_from_one_encoder(start, tmp_path, monkeypatch):
    monkeypatch.setattr("counterpoint.experiments.reports.write_comparison_report", lambda *_: None)  # maps take long
    comparison = cp.compare(
        "digits", ["finetune_ce"], encoder=str(start.folder), seeds=1, baselines="pca,supervised", labels_per_class=5,
        epochs=2, limit=400, monitor=0, jobs=1, threads=1, metrics=["accuracy"], out=str(tmp_path / "c"), freeze=1,
        progress=False,
    )  # fmt: skip
    board = comparison.board
    assert board["metric"] == "accuracy"
    assert {row["name"] for row in board["rows"]} == {"finetune_ce", "supervised"}
    assert any("no accuracy: pca" in note for note in board["notes"])
    first, before = "backbone.layers.0.weight", weights(start.folder)
    tuned, scratch = (comparison.runs[name][0] for name in ("finetune_ce", "supervised"))
    assert torch.equal(weights(tuned.folder)[first], before[first])  # frozen
    assert weights(scratch.folder)[first].shape == before[first].shape
    assert not torch.allclose(weights(scratch.folder)[first], before[first], atol=1e-2)
    assert (tuned.config["freeze"], scratch.config["freeze"]) == (1, 0)


def test_the_command(start, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(start.folder.parent)
    words = "--epochs 1 --labels_per_class 5 --method finetune_ce --threads 1 --progress false --monitor 0"
    assert main(["finetune", "simclr", *words.split(), "--evaluate", "false", "--report", "false"]) == 0
    folder = "runs/digits-finetune_ce-from-simclr-seed0"
    assert f"{folder}: finished" in capsys.readouterr().out
    config = Run(folder).config
    assert (config["encoder"], config["limit"], config["splits"]) == ("./simclr", 400, "simclr/splits.npz")
    assert main(["classify", "digits", folder, "--out", str(tmp_path / "p.csv"), "--limit", "5"]) == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 6
    assert main(["classify", "digits", "simclr", "--out", str(tmp_path / "q.csv")]) == 1
    assert "no classifier in simclr" in capsys.readouterr().err


class TestRefused:
    def test_what_is_no_trained_encoder(self, tmp_path):
        for name in (str(tmp_path), str(tmp_path / "absent")):
            with pytest.raises(FileNotFoundError, match=r"^encoder: no trained encoder in"):
                cp.finetune(name, "digits", out=str(tmp_path / "run"), **TUNE)
        with pytest.raises(FileNotFoundError, match=r"^data: .* is no run"):
            cp.finetune(str(tmp_path), out=str(tmp_path / "run"), **TUNE)
        with pytest.raises(ValueError, match=r"^encoder: no model 'convnett'"):
            cp.fit("digits", out=str(tmp_path / "c"), encoder="convnett", epochs=1, **BARE)

    def test_a_run_that_is_not_finished(self, start, tmp_path):
        copy = shutil.copytree(start.folder, tmp_path / "copy")
        Run(copy).set_state("interrupted")
        with pytest.raises(ValueError, match=r"^encoder: the run in .* is interrupted, not finished.*resume"):
            cp.finetune(str(copy), out=str(tmp_path / "run"), **TUNE)
        run = cp.finetune(str(copy / "encoder"), "digits", out=str(tmp_path / "other"), **TUNE, evaluate=False)
        assert run.state == "finished"

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.zeros((40, 5), np.float32), "data: .* holds vectors"),
            (np.zeros((40, 8, 8), np.uint8), "method: 'core_tuning' needs labels"),
        ],
    )
    def test_data_that_do_not_fit(self, data, message, start, tmp_path):
        with pytest.raises(ValueError, match=f"^{message}"):
            cp.finetune(str(start.folder), data, out=str(tmp_path / "run"), **{**TUNE, "labels_per_class": None})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 16}, "image_size: the encoder takes"),
            ({"encoder_options": {"widths": [8]}}, "encoder_options: .* has its own"),
            ({"freeze": 9}, "freeze: expected 0 to 3 stages"),
            ({"encoder_lr": -1.0}, "encoder_lr: expected"),
            ({"method": "core_tunin"}, "method: no method"),
        ],
    )
    def test_arguments(self, changes, message, start, tmp_path):
        with pytest.raises(ValueError, match=f"^{message}"):
            cp.finetune(str(start.folder), out=str(tmp_path / "run"), **{**TUNE, **changes})

    def test_a_classifier_that_is_damaged(self, tuned, tmp_path):
        copy = shutil.copytree(tuned.folder, tmp_path / "copy")
        (copy / "classifier" / "model.safetensors").write_bytes(b"no")
        with pytest.raises(ValueError, match=r"^path: the classifier in .* cannot be opened"):
            Run(copy).classifier()
        shutil.copy(tuned.folder / "classifier" / "model.safetensors", copy / "classifier")
        told = json.loads((copy / "classifier" / "config.json").read_text())
        (copy / "classifier" / "config.json").write_text(json.dumps({**told, "classes": told["classes"][:3]}))
        with pytest.raises(ValueError, match=r"^path: the classifier in .* cannot be opened"):
            Run(copy).classifier()
