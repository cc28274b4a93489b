"""SogCLR and iSogCLR as methods: what they remember of each item, and that a run resumes with it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

import counterpoint as cp
from counterpoint import methods
from counterpoint.encoders import build
from counterpoint.experiments import training
from counterpoint.experiments.measuring import embed_items
from counterpoint.experiments.run import Run

SMALL = {
    "limit": 400, "batch_size": 64, "threads": 1, "progress": False, "report": False,
    "encoder_options": {"widths": [8, 16]},
}  # fmt: skip
both = pytest.mark.parametrize("name", ["sogclr", "isogclr"])


def make(name, **options):
    torch.manual_seed(0)
    return methods.get(name)(build("convnet", (1, 8, 8), widths=(8, 16)), **{"items": 20, **options})


def batch(index):
    made = torch.Generator().manual_seed(int(index.sum()))
    return {"views": [torch.rand(len(index), 1, 8, 8, generator=made) for _ in range(2)], "index": index}


@pytest.mark.paper(63, "trains")
@both
def test_learns_from_real_images(name, tmp_path, monkeypatch):
    """Nearest neighbours in the projection, before the first step and after the last; the loss need not fall."""
    data, found = cp.data.load("digits", limit=1000), []

    def look(method):
        z = normalize(embed_items(method, data, np.arange(1000))[1], dim=1)
        nearest = (z[650:] @ z[:650].T).argmax(1)
        found.append((data.labels[650:] == data.labels[nearest]).mean())

    monkeypatch.setattr(methods.get(name), "on_train_start", look)
    monkeypatch.setattr(methods.get(name), "on_train_end", look)
    how = {**SMALL, "limit": 1000, "batch_size": 32, "epochs": 6, "monitor": 0, "evaluate": False}
    how["encoder_options"] = {"widths": [16, 32, 64]}
    run = cp.fit("digits", name, out=str(tmp_path / "run"), **how)
    assert run.metrics[-1]["step"] >= 100
    assert found[1] > 0.85  # chance is 0.1
    assert found[1] > found[0] + 0.05


class Killed(Exception):
    pass


@both
def test_a_killed_run_resumes_with_the_state_of_its_items(tmp_path, monkeypatch, name):
    how = {**SMALL, "epochs": 3, "checkpoint_seconds": 0.0, "monitor": 0, "evaluate": False}
    kept = {}
    monkeypatch.setattr(methods.get(name), "on_train_end", lambda self: kept.update(self.objective.state_dict()))
    whole = cp.fit("digits", name, out=str(tmp_path / "whole"), **how)
    expected = {key: value.clone() for key, value in kept.items()}
    assert int((~expected["state.log_s"].isneginf()).sum()) > 200
    write = training.Checkpointer.on_train_batch_start
    for stop in (3, 9):  # within the first epoch, within the last
        folder, steps = tmp_path / f"killed{stop}", 0

        def die(self, *arguments, stop=stop):
            nonlocal steps
            write(self, *arguments)
            steps += 1
            if steps == stop:
                raise Killed

        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
        with pytest.raises(Killed):
            cp.fit("digits", name, out=str(folder), **how)
        saved = torch.load(folder / "checkpoint" / "last.ckpt", weights_only=True)["state_dict"]
        assert (saved["objective.state.log_s"] > -torch.inf).sum() >= 64 * min(stop - 1, 4)
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
        kept.clear()
        resumed = cp.fit("digits", name, out=str(folder), resume=True, **how)
        assert all(torch.equal(kept[key], expected[key]) for key in expected)
        assert [r["loss"] for r in resumed.metrics] == [r["loss"] for r in whole.metrics]
        ours, theirs = (load_file(Run(f).folder / "encoder" / "model.safetensors") for f in (folder, whole.folder))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_each_item_has_its_own_temperature():
    method = make("isogclr", temperature=0.3, eta=0.1)
    seen = torch.tensor([3, 7, 8, 12])
    method.loss(batch(seen)["views"], batch(seen))
    moved = method.objective.state.tau != torch.tensor(0.3)
    assert moved.nonzero().flatten().tolist() == seen.tolist()
    assert len(set(method.objective.state.tau[seen].tolist())) == 4
    plain = make("sogclr", temperature=0.3)
    plain.loss(batch(seen)["views"], batch(seen))
    assert (plain.objective.state.tau == torch.tensor(0.3)).all()
    assert (plain.objective.state.s > 0).nonzero().flatten().tolist() == seen.tolist()


@both
def test_the_method_tells_its_objective_when_it_is(name):
    method, told = make(name), []
    method.objective.forward = lambda z1, z2, index, epoch, progress: told.append((epoch, progress)) or z1.sum()
    method.loss(batch(torch.arange(4))["views"], batch(torch.arange(4)))
    assert told == [(0, 0.0)]


@both
def test_items_without_positions(name):
    views = batch(torch.arange(4))["views"]
    with pytest.raises(ValueError, match=r"^index: needed"):
        make(name).loss(views, {"views": views})
    with pytest.raises(ValueError, match=r"^index: expected positions from 0 to 19, got 18 to 21"):
        make(name).loss(views, {"index": torch.arange(18, 22)})
    with pytest.raises(ValueError, match=r"^items: expected"):
        make(name, items=0)
