"""From data to generated items: what the folder holds, what the generator sees, that it goes on where it was killed."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.experiments import generating, training
from counterpoint.experiments.generate import generator
from counterpoint.experiments.run import Run
from counterpoint.generators.mixture import Mixture

QUIET = {"progress": False, "threads": 1}
GMM = {**QUIET, "limit": 300, "options": {"components": 3}}
UNET = {
    **QUIET, "limit": 200, "count": 300, "check": 0, "precision": "32-true",
    "options": {"widths": [8, 16], "steps": 6, "batch_size": 40, "timesteps": 20, "sampling_steps": 2},
}  # fmt: skip


def weights(folder):
    return load_file(folder / "generator" / "model.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return cp.generate("digits", count=700, out=str(tmp_path_factory.mktemp("made") / "digits"), **GMM)


def test_a_folder_holds_everything(made):
    names = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "environment.json", "status.json", "splits.npz", ".lock"),
        *("generator/config.json", "generator/model.safetensors", "images.npy", "generated.json", "samples.png"),
    }
    about = made.about
    assert (about["count"], about["shape"], about["method"], about["data"]) == (700, [1, 8, 8], "gmm", "digits")
    assert (about["seed"], about["options"]["components"], about["trained_on"]) == (0, 3, 195)
    dataset = made.dataset()
    assert (len(dataset), dataset.shape, dataset.labels) == (700, (1, 8, 8), None)
    assert len(np.unique(dataset[:]["image"].numpy(), axis=0)) > 600
    assert Run(made.folder).state == "finished"


def test_it_sees_the_training_part_alone(tmp_path, monkeypatch):
    seen = []
    fit = Mixture.fit
    monkeypatch.setattr(Mixture, "fit", lambda self, x, seed=0: seen.append(x) or fit(self, x, seed))
    cp.generate("digits", count=10, check=0, out=str(tmp_path / "made"), split_seed=5, **GMM)
    dataset = cp.data.load("digits", limit=300)
    train = cp.data.split(dataset, seed=5).train
    assert (np.rint(seen[0] * 255) == dataset[train]["image"].numpy()).all()


def test_quality_is_told_beside_that_of_held_out_items(made, tmp_path):
    quality = made.about["quality"]
    assert quality["items"] == 105  # as many as are held out
    assert 0 < quality["frechet_held_out"] < quality["frechet"]
    assert 0.5 < quality["nearest"] / quality["nearest_held_out"] < 2
    assert quality["closer_than_held_out"] < 0.2
    assert quality["space"] == "32 principal components of the pixels"


def test_copies_are_found_out(tmp_path, monkeypatch):
    """A generator that knows nothing but its training items."""

    def fit(self, x, seed=0):
        self.arrays = {"x": x}
        return self

    def sample(self, count, seed):
        return self.arrays["x"][np.random.default_rng(list(seed)).integers(len(self.arrays["x"]), size=count)]

    monkeypatch.setattr(Mixture, "fit", fit)
    monkeypatch.setattr(Mixture, "sample", sample)
    quality = cp.generate("digits", count=100, out=str(tmp_path / "made"), **GMM).about["quality"]
    assert quality["nearest"] == 0
    assert quality["closer_than_held_out"] == 1


def test_quality_by_an_encoder(tmp_path):
    run = cp.fit("digits", out=str(tmp_path / "run"), epochs=1, limit=300, evaluate=False, report=False, **QUIET)
    found = cp.generate("digits", count=80, out=str(tmp_path / "made"), encoder=str(run.folder), **GMM)
    assert found.about["quality"]["space"] == f"features of {run.folder}"
    with pytest.raises(ValueError, match=r"encoder: .* takes items of"):
        cp.generate("digits", count=80, out=str(tmp_path / "b"), encoder=str(run.folder), image_size=12, **GMM)


def test_pictures_as_files(tmp_path):
    array = cp.generate("digits", count=300, check=0, out=str(tmp_path / "a"), **GMM)
    files = cp.generate("digits", count=300, check=0, out=str(tmp_path / "b"), format="png", **GMM)
    assert len(list(files.items.glob("*.png"))) == 300
    second = np.asarray(Image.open(files.items / "0000001.png"))
    assert (second == array.dataset()[1]["image"][0, 0].numpy()).all()


def test_vectors_can_be_generated(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 5))
    found = cp.generate(x, count=50, out=str(tmp_path / "made"), **QUIET)
    assert found.items.name == "vectors.npy"
    assert found.dataset().shape == (5,)
    assert found.about["quality"]["space"] == "5 principal components of the vectors"


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [2, 5])
def test_a_training_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, step):
    pytest.importorskip("diffusers")
    settings = {**UNET, "count": 10, "checkpoint_seconds": 0.0}
    whole = cp.generate("digits", "diffusion", out=str(tmp_path / "whole"), **settings)
    write, steps = training.Checkpointer.on_train_batch_start, 0

    def die(self, *arguments):
        nonlocal steps
        write(self, *arguments)
        steps += 1
        if steps == step:
            raise Killed

    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
    with pytest.raises(Killed):
        cp.generate("digits", "diffusion", out=str(tmp_path / "killed"), **settings)
    assert Run(tmp_path / "killed").state == "failed"
    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
    again = cp.generate("digits", "diffusion", out=str(tmp_path / "killed"), resume=True, **settings)
    one, other = weights(whole.folder), weights(again.folder)
    assert all((one[name] == other[name]).all() for name in one)
    assert (whole.items.read_bytes()) == again.items.read_bytes()


def test_a_drawing_killed_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "BLOCK", 100)
    whole = cp.generate("digits", count=450, check=0, out=str(tmp_path / "whole"), **GMM)
    sample, drawn = Mixture.sample, []

    def die(self, count, seed):
        drawn.append(seed)
        if len(drawn) == 3:
            raise Killed
        return sample(self, count, seed)

    monkeypatch.setattr(Mixture, "sample", die)
    with pytest.raises(Killed):
        cp.generate("digits", count=450, check=0, out=str(tmp_path / "killed"), **GMM)
    assert not (tmp_path / "killed" / "generated.json").exists()
    with pytest.raises(ValueError, match=r"generated: .* is not finished"):
        cp.data.open_generated(tmp_path / "killed", cp.data.load("digits"))
    again = cp.generate("digits", count=450, check=0, out=str(tmp_path / "killed"), resume=True, **GMM)
    assert drawn[3:] == [(0, 2), (0, 3), (0, 4)]
    assert (again.dataset()[:]["image"] == whole.dataset()[:]["image"]).all()
    assert not (again.folder / "parts").exists()


def test_a_trained_generator_draws_more(made):
    model = generator(made.folder)
    first = np.rint(model.sample(256, (0, 0)) * 255).astype(np.uint8)
    assert (first == made.dataset()[:256]["image"].numpy()).all()
    with pytest.raises(FileNotFoundError, match="folder: no generator in"):
        generator(made.folder.parent)


def test_a_folder_in_use_is_kept(made):
    with pytest.raises(FileExistsError, match=r"^out: "):
        cp.generate("digits", count=700, out=str(made.folder), **GMM)
    before = (made.folder / "images.npy").stat().st_mtime_ns
    cp.generate("digits", count=700, out=str(made.folder), resume=True, **GMM)
    assert (made.folder / "images.npy").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"^resume: .* count=700, now 20"):
        cp.generate("digits", count=20, out=str(made.folder), resume=True, **GMM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gan"}, "method: no generator 'gan'"),
        ({"count": 0}, "count: expected at least 1"),
        ({"check": -1}, "check: expected at least 0"),
        ({"format": "jpg"}, "format: expected one of npy, png"),
        ({"options": {"steps": 3}}, "options: gmm cannot take"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        cp.generate("digits", out=str(tmp_path / "made"), **{**GMM, **arguments})


def test_the_command_says_what_it_made(tmp_path, capsys):
    words = ["generate", "digits", "--count", "60", "--limit", "300", "--out", str(tmp_path / "made"), "--threads", "1"]
    assert main([*words, "--options", '{"components": 2}', "--progress", "false"]) == 0
    shown = capsys.readouterr().out
    assert "60 items by gmm from 195 of digits" in shown
    assert "of held-out items" in shown
    assert json.loads((tmp_path / "made" / "generated.json").read_text())["options"]["components"] == 2
