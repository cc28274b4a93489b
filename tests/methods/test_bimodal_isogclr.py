"""SogCLR and iSogCLR of pairs of modalities: whose state steps, what is missing, and resumption."""

import math

import numpy as np
import pytest
import torch
from tests.methods.test_clip import QUIET, batch_of, halves, towers
from torch.nn.functional import normalize

import counterpoint as cp
from counterpoint import methods
from counterpoint.data import pair
from counterpoint.experiments import training
from counterpoint.methods.multimodal.bimodal_isogclr import BimodalISogCLR

both = pytest.mark.parametrize("name", ["bimodal_sogclr", "bimodal_isogclr"])


def make(name, *modalities, **options):
    return methods.get(name)(towers(*modalities), dim=4, **{"items": 20, "temperature": 0.1, **options})


def seen(state):
    return (~state.log_s.isneginf()).nonzero().flatten().tolist()


def at(batch, index):
    return {**batch, "index": torch.tensor(index)}


@both
def test_at_a_first_visit_the_gradient_is_that_of_both_decoupled_directions(name):
    """``tau log mean_j exp(h_j / tau)`` of images and of texts, each with the negatives of the other modality."""
    method, batch = make(name, "a", "b").eval(), at(batch_of("a", "b"), [3, 7, 8, 12, 0, 19])
    z = method.embed(batch)
    x, y = (normalize(z[key], dim=1) for key in ("a", "b"))
    scores = (x @ y.T - (x * y).sum(1, keepdim=True), y @ x.T - (x * y).sum(1, keepdim=True))
    away = torch.eye(6, dtype=torch.bool)
    wanted = sum(0.1 * (h / 0.1).masked_fill(away, -torch.inf).logsumexp(1).mean() for h in scores)
    weights = [tower.head[0].weight if hasattr(tower.head, "__getitem__") else tower.head.weight
               for tower in method.encoder.towers.values()]  # fmt: skip
    found = method.loss([batch], batch)
    for ours, theirs in zip(
        *(torch.autograd.grad(of, weights, retain_graph=True) for of in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_each_side_of_each_item_has_its_own_temperature():
    method, batch = make("bimodal_isogclr", "a", "b", rho=0.5), at(batch_of("a", "b"), [3, 7, 8, 12, 0, 19])
    method.loss([batch], batch)
    objective = method.objectives["0 1"]
    for state in (objective.image_state, objective.text_state):
        assert seen(state) == [0, 3, 7, 8, 12, 19]
        assert (state.tau != torch.tensor(0.1)).nonzero().flatten().tolist() == seen(state)
    assert (objective.image_state.tau != objective.text_state.tau)[seen(state)].all()


@both
def test_items_without_a_modality_keep_their_state_for_its_pairs(name):
    there = torch.tensor([True, True, False, True, True, True])
    method = make(name, "a", "b", "c")
    batch = at(batch_of("a", "b", "c", present={"b": there}), [3, 7, 8, 12, 0, 19])
    method.loss([batch], batch)
    found = {key: (seen(each.image_state), seen(each.text_state)) for key, each in method.objectives.items()}
    some, whole = [0, 3, 7, 12, 19], [0, 3, 7, 8, 12, 19]
    assert found == {"0 1": (some, some), "0 2": (whole, whole), "1 2": (some, some)}


def test_what_it_refuses():
    method, batch = make("bimodal_sogclr", "a", "b"), batch_of("a", "b")
    with pytest.raises(ValueError, match=r"^index: this method needs batch\['index'\]"):
        method.loss([batch], {name: value for name, value in batch.items() if name != "index"})
    with pytest.raises(ValueError, match=r"^index: expected positions from 0 to 19, got 0 to 20"):
        method.loss([batch], at(batch, [0, 20, 1, 2, 3, 4]))


def test_the_radius_suits_the_number_of_items():
    assert BimodalISogCLR.defaults_for(3_000_000)["rho"] == pytest.approx(6, abs=0.05)
    assert BimodalISogCLR.defaults_for(10**12) == {"rho": 6}
    for items in (2, 50, 2000):
        assert 0 < BimodalISogCLR.defaults_for(items)["rho"] < math.log(items)


@pytest.mark.paper(63, "trains")
@both
def test_learns_to_find_the_other_half(name, tmp_path):
    run = cp.fit(halves(), name, epochs=15, batch_size=32, out=str(tmp_path / "run"), **QUIET)
    base = cp.fit(halves(), "untrained_towers", out=str(tmp_path / "base"), **QUIET)
    assert run.scores["pair_recall@5"] > base.scores["pair_recall@5"] + 0.2
    titles = {found.title for found in run.findings}
    assert ("Temperatures of the items" in titles) == (name == "bimodal_isogclr")


def test_frequent_classes_and_pictures_are_shown(tmp_path):
    """Digits with a third of the classes thinned, beside a vector of themselves."""
    data = halves(400)
    kept = np.flatnonzero((data.labels < 7) | (np.arange(400) % 4 == 0))
    digits = cp.data.load("digits")
    images, vectors = digits[kept]["image"].numpy(), data[kept]["left"].numpy()
    whole = pair({"image": images.transpose(0, 2, 3, 1), "left": vectors}, data.labels[kept], classes=data.classes)
    run = cp.fit(whole, "bimodal_isogclr", epochs=2, batch_size=64, out=str(tmp_path / "run"), **QUIET)
    found = {each.title: each for each in run.findings}
    assert set(found["Temperatures of the items"].series) == {"image", "left"}
    assert sum(found["Temperatures of the items"].series["left"]) == pytest.approx(1)
    counts = found["Temperatures by frequency"].x
    assert (np.diff(counts) >= 0).all()
    assert len(counts) == 10
    assert found["Lowest and highest temperatures"].images.shape[:2] == (2, 8)


class Killed(Exception):
    pass


def test_a_killed_run_resumes_with_the_state_of_both_sides(tmp_path, monkeypatch):
    how = {"epochs": 3, "batch_size": 32, "checkpoint_seconds": 0.0, "evaluate": False, **QUIET}
    kept, write = {}, training.Checkpointer.on_train_batch_start
    monkeypatch.setattr(BimodalISogCLR, "on_train_end", lambda self: kept.update(self.objectives.state_dict()))
    cp.fit(halves(120), "bimodal_isogclr", out=str(tmp_path / "whole"), **how)
    expected, steps = {key: value.clone() for key, value in kept.items()}, 0

    def die(self, *arguments):
        nonlocal steps
        write(self, *arguments)
        steps += 1
        if steps == 4:
            raise Killed

    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
    with pytest.raises(Killed):
        cp.fit(halves(120), "bimodal_isogclr", out=str(tmp_path / "killed"), **how)
    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
    kept.clear()
    cp.fit(halves(120), "bimodal_isogclr", out=str(tmp_path / "killed"), resume=True, **how)
    assert len(expected) == 6
    assert all(torch.equal(kept[key], expected[key]) for key in expected)
