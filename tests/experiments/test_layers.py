"""A run keeps its head, and every layer of it can be probed."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.experiments.layers import layers, measure, representations
from counterpoint.experiments.run import Run
from counterpoint.methods.vision.simclr import SimCLR

QUICK = {
    "epochs": 3, "limit": 500, "threads": 1, "progress": False, "report": False, "monitor": 0, "evaluate": False,
    "batch_size": 64, "encoder_options": {"widths": [8, 16, 24]},
}  # fmt: skip
ROWS = ["stage 1", "stage 2", "features", "head 1: Linear", "head 2: ReLU", "projection"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("layers") / "run")
    return cp.fit("digits", out=out, **{**QUICK, "evaluate": True}, options={"dim": 20})


class TestModel:
    def test_encoder_and_head_are_those_that_were_trained(self, run):
        model = run.model()
        assert isinstance(model, SimCLR)
        assert not model.training
        kept = run.embeddings
        x = cp.data.load("digits", limit=500)[kept["index"]]["image"].float() / 255
        with torch.inference_mode():
            torch.testing.assert_close(model(x), torch.from_numpy(kept["features"]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.project(x), torch.from_numpy(kept["projections"]), rtol=1e-4, atol=1e-5)

    def test_opening_it_leaves_the_random_numbers_alone(self, run):
        state = torch.get_rng_state()
        run.model()
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("head", ["none", "reweighting:1.2"])
    def test_heads_without_parameters_are_kept_too(self, tmp_path, head):
        kept = cp.fit("digits", out=str(tmp_path / "run"), **QUICK, options={"head": head})
        assert kept.model().project(torch.rand(2, 1, 8, 8)).shape == (2, 24)
        assert list(load_file(kept.folder / "head" / "model.safetensors")) == ([] if head == "none" else ["weights"])

    def test_options_that_the_data_chose_are_kept(self, tmp_path):
        kept = cp.fit("digits", "moco", out=str(tmp_path / "run"), **QUICK)
        assert len(kept.model().queue.rows) == 500 * 65 // 100 // 12  # not the default of the class

    def test_a_method_that_a_file_names_is_not_imported(self, run, tmp_path, monkeypatch):
        (tmp_path / "sprung.py").write_text("raise SystemExit")
        monkeypatch.syspath_prepend(tmp_path)
        copied = copy(run, tmp_path / "run")
        config = json.loads((copied / "head" / "config.json").read_text())
        (copied / "head" / "config.json").write_text(json.dumps({**config, "method": "sprung:Trap"}))
        with pytest.raises(ValueError, match=r"^method: the run is of 'sprung:Trap', not one of ours"):
            Run(copied).model()
        assert isinstance(Run(copied).model(SimCLR), SimCLR)

    def test_what_does_not_belong_together(self, run, tmp_path):
        copied = copy(run, tmp_path / "run")
        save_file({"0.weight": torch.zeros(3, 3)}, copied / "head" / "model.safetensors")
        with pytest.raises(ValueError, match=r"^run: the head in .* cannot be opened"):
            Run(copied).model()
        (copied / "head" / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"^run: the head in .* cannot be opened"):
            Run(copied).model()
        os.remove(copied / "head" / "config.json")
        with pytest.raises(FileNotFoundError, match=r"^run: no head in .*fit it again"):
            Run(copied).model()


def copy(run, folder):
    import shutil

    shutil.copytree(run.folder, folder)
    return folder


@pytest.fixture(scope="module")
def probed(run):
    return layers(str(run.folder))


class TestLayers:
    def test_every_layer_has_a_row(self, probed):
        assert [row["name"] for row in probed.rows] == ROWS
        assert [row["part"] for row in probed.rows] == ["backbone"] * 2 + ["features"] + ["head"] * 2 + ["projection"]
        assert [row["dimensions"] for row in probed.rows] == [8, 16, 24, 24, 24, 20]

    def test_features_score_as_the_run_did(self, run, probed):
        for score in ("probe", "knn", "effective_rank"):
            assert probed["features"][score] == pytest.approx(run.scores[score], abs=1e-3)

    def test_the_projection_is_scored_as_fit_scores_it(self, run, probed, tmp_path):
        other = cp.fit(
            "digits", out=str(tmp_path / "run"), **{**QUICK, "evaluate": True}, options={"dim": 20}, layer="projection"
        )
        for score in ("probe", "knn", "effective_rank"):
            assert probed["projection"][score] == pytest.approx(other.scores[score], abs=0.02)

    def test_the_layers_of_the_head_follow_from_each_other(self, run):
        model, data = run.model(), cp.data.load("digits", limit=500)
        found = {name: torch.from_numpy(x) for name, x in representations(model, data, np.arange(40), batch=16).items()}
        assert all(len(x) == 40 for x in found.values())
        linear, norm, relu, last = model.projector
        with torch.inference_mode():
            torch.testing.assert_close(found["head 1: Linear"], linear(found["features"]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found["head 2: ReLU"], relu(norm(found["head 1: Linear"])), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found["projection"], last(found["head 2: ReLU"]), rtol=1e-4, atol=1e-5)

    def test_class_weights_and_spectra(self, probed):
        for row in probed.rows:
            assert len(row["weights"]) == len(row["weighted"]) == 10
            assert row["inequality"] == pytest.approx(np.std(np.log(row["weights"])))
            assert row["spectrum"] == sorted(row["spectrum"], reverse=True)
            assert len(row["spectrum"]) == row["dimensions"]

    def test_the_difference_is_paired(self, probed):
        gap = probed.value["difference"]["probe"]
        assert gap["mean"] == pytest.approx(probed["features"]["probe"] - probed["projection"]["probe"])
        assert gap["low"] < gap["mean"] < gap["high"]

    def test_it_is_kept_and_shown(self, run, probed):
        assert json.loads((run.folder / "layers.json").read_text())["layers"][0]["name"] == "stage 1"
        page = probed.page.read_text()
        assert all(name in page for name in ROWS)
        assert 'src="http' not in page
        assert "<script src" not in page

    def test_fewer_items(self, run):
        assert measure(run, limit=50, report=False).value["items"] == {"train": 50, "val": 50, "test": 50}
        with pytest.raises(ValueError, match=r"^limit: expected at least 2"):
            measure(run, limit=1)

    def test_on_the_command_line(self, run, capsys):
        assert main(["layers", str(run.folder), "--report", "false", "--limit", "60"]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in ROWS)
        assert "before the head" in shown
        assert main(["layers", str(run.folder / "nothing")]) == 1
        assert "no run in" in capsys.readouterr().err

    def test_a_run_without_a_head(self, tmp_path):
        kept = cp.fit("digits", out=str(tmp_path / "run"), **QUICK, options={"head": "none"})
        found = measure(kept, limit=60)
        assert [row["name"] for row in found.rows] == ["stage 1", "stage 2", "features"]
        assert found.value["difference"] == {}
        assert "no projection head" in found.page.read_text()

    def test_without_labels(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
        kept = cp.fit(x, out=str(tmp_path / "run"), epochs=1, threads=1, progress=False, report=False, monitor=0)
        found = measure(kept, data=x)
        assert found.rows[0]["name"] == "stage 1"
        assert all(row["probe"] is None and row["weights"] is None for row in found.rows)
        assert found["features"]["effective_rank"] > 1
        assert "No labels" in found.page.read_text()

    def test_by_other_labels_than_those_it_was_trained_with(self, tmp_path):
        digits = cp.data.load("digits", limit=400)
        images = digits[np.arange(400)]["image"].numpy()
        np.savez(tmp_path / "data.npz", x=images, coarse=digits.labels % 2, fine=digits.labels)
        settings = {**QUICK, "limit": None, "labels": "coarse"}
        kept = cp.fit(str(tmp_path / "data.npz"), "supcon", out=str(tmp_path / "run"), **settings)
        found = {labels: layers(str(kept.folder), labels=labels, report=False) for labels in (None, "fine")}
        assert len(found[None]["features"]["weights"]) == 2
        assert len(found["fine"]["features"]["weights"]) == 10
        assert found["fine"]["features"]["probe"] < found[None]["features"]["probe"]


def test_the_reweighting_head_stands_in_for_a_trained_one(tmp_path):
    """It is fixed, the loss acts on the reweighted features, and the encoder learns through it."""
    kept = cp.fit("digits", out=str(tmp_path / "run"), **QUICK, options={"head": "reweighting:1.5"})
    found = measure(kept, report=False, limit=100)
    assert [row["name"] for row in found.rows] == ["stage 1", "stage 2", "features", "projection"]
    weights = kept.model().projector.weights
    torch.testing.assert_close(weights, 1.5 ** -torch.arange(24.0))
    assert found["projection"]["effective_rank"] < found["features"]["effective_rank"] / 2
    assert kept.metrics[-1]["loss"] < kept.metrics[0]["loss"]
