"""fit --generated: what is drawn, what is measured, what a resumed run does."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.evaluation import Evaluation
from counterpoint.experiments import measuring, training
from counterpoint.experiments.run import Run

BARE = {
    "limit": 300,
    "steps": 6,
    "batch_size": 32,
    "threads": 1,
    "progress": False,
    "report": False,
    "monitor": 0,
    "evaluate": False,
}
FAKE = np.random.default_rng(0).integers(0, 256, (90, 8, 8), dtype=np.uint8)
GMM = {"gmm": {"count": 200, "components": 3}}


def weights(folder):
    return load_file(folder / "encoder" / "model.safetensors")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class Seen(cp.methods.get("simclr")):
    """SimCLR that remembers what it was shown."""

    batches: list = []  # noqa: RUF012

    def loss(self, views, batch):
        self.batches.append({name: batch[name].clone() for name in ("index", "label", "is_generated")})
        return super().loss(views, batch)


def test_an_epoch_draws_what_it_says_and_only_training_items(tmp_path):
    Seen.batches.clear()
    run = cp.fit(
        "digits", Seen, out=str(tmp_path / "run"), generated=FAKE, real_repeats=3,
        **{**BARE, "steps": None, "epochs": 1, "batch_size": 25},
    )  # fmt: skip
    seen = {name: torch.cat([batch[name] for batch in Seen.batches]).numpy() for name in Seen.batches[0]}
    train = np.load(run.folder / "splits.npz")["train"]
    counts = np.bincount(seen["index"], minlength=390)
    assert (counts[np.setdiff1d(np.arange(300), train)] == 0).all()
    assert len(seen["index"]) == (3 * len(train) + 90) // 25 * 25  # the last, smaller batch is left out
    assert counts[train].sum() >= 3 * len(train) - 25
    assert counts[train].max() == 3
    assert counts[300:].max() == 1
    assert (seen["is_generated"] == (seen["index"] >= 300)).all()
    assert (seen["label"][seen["is_generated"]] == -1).all()
    assert (seen["label"][~seen["is_generated"]] >= 0).all()


def test_nothing_generated_is_measured(tmp_path, monkeypatch):
    """Evaluation, monitor, statistics and figures meet real items: the same as without generated ones."""
    looked = []

    def watch(method, dataset, splits, *_):
        looked.append((dataset, splits))
        return Evaluation({"knn": 0.0})

    monkeypatch.setattr(measuring, "evaluate_encoder", watch)
    settings = {**BARE, "monitor": 1, "evaluate": True}
    plain = cp.fit("digits", out=str(tmp_path / "plain"), **settings)
    inflated = cp.fit("digits", out=str(tmp_path / "inflated"), generated=FAKE, **settings)
    (first, one), (second, other) = looked
    assert len(first) == len(second) == 300
    assert all((getattr(one, part) == getattr(other, part)).all() for part in ("train", "val", "test"))
    a, b = weights(plain.folder), weights(inflated.folder)
    assert all(torch.equal(a[name], b[name]) for name in ("mean", "std"))
    assert not same(a, b)
    assert plain.metrics[-1]["step"] == inflated.metrics[-1]["step"] == 6
    counts = {"real": 195, "generated": 90, "real_repeats": 10}
    assert inflated.status["inflation"] == {**counts, "beta": 1950 / 2040}
    assert plain.status["notes"] == inflated.status["notes"] == []
    [found] = inflated.findings
    assert found.title == "Generated images"
    assert "96% of what is drawn is real" in found.text
    assert (found.images[0, 0, :, :, 0] == FAKE[0]).all()


def test_without_generated_items_nothing_changes(tmp_path):
    one = cp.fit("digits", out=str(tmp_path / "a"), **BARE)
    other = cp.fit("digits", out=str(tmp_path / "b"), real_repeats=7, **BARE)
    assert same(weights(one.folder), weights(other.folder))


@pytest.mark.parametrize("method", ["moco", "byol", "barlow", "supcon", "deepcluster", "isogclr", "swav", "groco"])
def test_any_method_takes_them(tmp_path, method):
    run = cp.fit("digits", method, out=str(tmp_path / "run"), generated=FAKE, **BARE)
    assert run.metrics[-1]["step"] == 6
    assert np.isfinite(run.metrics[-1]["loss"])


def test_a_folder_of_another_size_and_of_colours_stands_beside_small_grey_images(tmp_path):
    (tmp_path / "made").mkdir()
    for number in range(40):
        colour = (number, 255 - number, 90)
        Image.new("RGB", (20, 14), colour).save(tmp_path / "made" / f"{number:02}.png")
    settings = {**BARE, "generated": str(tmp_path / "made"), "real_repeats": 2}
    run = cp.fit("digits", "adainf", out=str(tmp_path / "run"), **settings)
    assert run.state == "finished"
    assert np.isfinite(run.metrics[-1]["loss"])
    counts = {"real": 195, "generated": 40, "real_repeats": 2}
    assert run.status["inflation"] == {**counts, "beta": 390 / 430}
    assert run.model().encoder.shape == (1, 8, 8)
    [found] = run.findings
    shown = found.images.reshape(-1, *found.images.shape[2:])
    expected = [np.asarray(Image.new("RGB", (1, 1), (n, 255 - n, 90)).convert("L"))[0, 0] for n in range(len(shown))]
    assert np.abs(shown[:, 4, 4, 0].astype(int) - np.array(expected, int)).max() <= 1


def test_a_method_that_needs_every_label_leaves_them_alone(tmp_path):
    plain = cp.fit("digits", "supervised", out=str(tmp_path / "a"), **BARE)
    run = cp.fit("digits", "supervised", out=str(tmp_path / "b"), generated=FAKE, **BARE)
    assert same(weights(plain.folder), weights(run.folder))
    assert any("this method does not use them" in note for note in run.status["notes"])


def test_a_method_that_needs_a_target_refuses_them(tmp_path):
    with pytest.raises(ValueError, match=r"^generated: generated items have no target"):
        cp.fit("digits", "l1_regression", target="label", out=str(tmp_path / "run"), generated=FAKE, **BARE)


def test_hidden_labels_stay_hidden(tmp_path):
    Seen.batches.clear()
    cp.fit(
        "digits", Seen, out=str(tmp_path / "run"), generated=FAKE, labels_per_class=1, real_repeats=1,
        **BARE,
    )  # fmt: skip
    known = {int(i) for batch in Seen.batches for i in batch["index"][batch["label"] >= 0]}
    assert len(known) <= 10


def test_a_generator_by_name_sees_the_training_part_and_resumes(tmp_path, monkeypatch):
    settings = {**BARE, "generated": GMM, "checkpoint_seconds": 0.0}
    whole = cp.fit("digits", "adainf", out=str(tmp_path / "whole"), **settings)
    made = whole.folder / "generated"
    parts = [np.load(folder / "splits.npz")["train"] for folder in (whole.folder, made)]
    assert (parts[0] == parts[1]).all()
    assert whole.config["generated"] == GMM
    write, steps = training.Checkpointer.on_train_batch_start, 0

    def die(self, *arguments):
        nonlocal steps
        write(self, *arguments)
        steps += 1
        if steps == 4:
            raise KeyError

    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
    with pytest.raises(KeyError):
        cp.fit("digits", "adainf", out=str(tmp_path / "killed"), **settings)
    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
    before = (tmp_path / "killed" / "generated" / "images.npy").stat().st_mtime_ns
    again = cp.fit("digits", "adainf", out=str(tmp_path / "killed"), resume=True, **settings)
    assert same(weights(whole.folder), weights(again.folder))
    assert (tmp_path / "killed" / "generated" / "images.npy").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"^resume: .*real_repeats=10, now 1"):
        cp.fit("digits", "adainf", out=str(again.folder), resume=True, real_repeats=1, **settings)


def test_a_generator_that_saw_the_test_part_is_told_on(tmp_path):
    for seed in (0, 1):
        cp.generate(
            "digits", count=50, check=0, limit=300, split_seed=seed, out=str(tmp_path / f"made{seed}"), threads=1,
            options={"components": 2}, progress=False,
        )  # fmt: skip
        run = cp.fit("digits", out=str(tmp_path / f"run{seed}"), generated=str(tmp_path / f"made{seed}"), **BARE)
        leaks = [note for note in run.status["notes"] if "the items that this run is measured on" in note]
        assert len(leaks) == seed


def test_compare_holds_steps_and_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("counterpoint.experiments.reports.write_comparison_report", lambda *_: None)
    found = cp.compare(
        "digits", ["adainf"], seeds=1, baselines="supervised", out=str(tmp_path / "c"), jobs=1, generated=FAKE,
        real_repeats=2, limit=300, steps=4, batch_size=32, threads=1, progress=False, monitor=0, metrics=["knn"],
    )  # fmt: skip
    assert {name: runs[0].metrics[-1]["step"] for name, runs in found.runs.items()} == {"adainf": 4, "supervised": 4}
    assert found.config["real_repeats"] == 2


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        ({"gan": {}}, r"generated: expected \{NAME: parameters\}"),
        ({"gmm": {"parts": 3}}, "options: gmm cannot take"),
        (np.random.rand(20, 3), "generated: its items are vectors"),
        (np.full((5, 8, 8), 300), "generated: source: integer images must lie in"),
    ],
)
def test_what_cannot_be_used(tmp_path, generated, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        cp.fit("digits", out=str(tmp_path / "run"), generated=generated, **BARE)
    assert Run(tmp_path / "run").state == "failed"
