"""CLIP and what all methods of several modalities share."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build
from counterpoint.experiments.run import Run
from counterpoint.methods.multimodal._multimodal import LogitScale
from counterpoint.methods.multimodal.clip import CLIP

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def halves(items=400, texts=False):
    """Digits: left and right half, and a sentence."""
    x, y = load_digits(return_X_y=True)
    x = x[:items].reshape(-1, 8, 8).astype(np.float32) / 16
    parts = {"left": x[:, :, :4].reshape(len(x), -1), "right": x[:, :, 4:].reshape(len(x), -1)}
    if texts:
        parts = {"image": (x * 255).astype(np.uint8), "text": [f"a photo of a {WORDS[label]}" for label in y[:items]]}
    return pair(parts, y[:items], classes=WORDS)


def towers(*names, width=5, dim=None):
    torch.manual_seed(0)
    encoder = MultimodalEncoder({name: build("mlp", (width,), widths=(12,)) for name in names})
    if dim:
        encoder.attach(dim)
    return encoder


def batch_of(*names, rows=6, present=None):
    made = torch.Generator().manual_seed(1)
    batch = {name: torch.randn(rows, 5, generator=made) for name in names}
    there = {name: torch.ones(rows, dtype=torch.bool) for name in names}
    return {**batch, "present": {**there, **(present or {})}, "index": torch.arange(rows)}


def by_hand(x, y, scale):
    """Symmetric cross entropy of one matrix."""
    x, y = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    scores = scale * x @ y.T
    truth = torch.arange(len(x))
    return (torch.nn.functional.cross_entropy(scores, truth) + torch.nn.functional.cross_entropy(scores.T, truth)) / 2


def test_the_loss_is_symmetric_cross_entropy_summed_over_pairs():
    method, batch = CLIP(towers("a", "b", "c"), dim=4), batch_of("a", "b", "c")
    z = method.embed(batch)
    wanted = sum(by_hand(z[m], z[n], method.scale()) for m, n in (("a", "b"), ("a", "c"), ("b", "c")))
    found = method.loss(method.make_views(batch), batch)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(of, method.scale.log, retain_graph=True)[0] for of in (found, wanted)]
    torch.testing.assert_close(*grads)


def test_items_without_a_modality_take_no_part():
    some = torch.tensor([True, True, False, True, True, True])
    method, batch = CLIP(towers("a", "b"), dim=4).eval(), batch_of("a", "b", present={"b": some})
    z = method.embed(batch)
    torch.testing.assert_close(method.loss([batch], batch), by_hand(z["a"][some], z["b"][some], method.scale()))
    batch["b"][2] = 1e3  # whatever the placeholder
    torch.testing.assert_close(method.loss([batch], batch), by_hand(z["a"][some], z["b"][some], method.scale()))
    method.train()  # nor may a placeholder enter the statistics of a batch
    losses = []
    for placeholder in (0.0, 1e3):
        batch["b"][2] = placeholder
        losses.append(method.loss([batch], batch))
    torch.testing.assert_close(*losses, rtol=0, atol=0)


def test_a_batch_without_any_pair_has_no_loss_and_no_gradient():
    none = torch.zeros(6, dtype=torch.bool)
    method, batch = CLIP(towers("a", "b"), dim=4), batch_of("a", "b", present={"b": none})
    loss = method.loss([batch], batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_the_scale_is_learned_and_clamped():
    scale = LogitScale(50.0)
    assert float(scale().detach()) == pytest.approx(50)
    with torch.no_grad():
        scale.log += 5
    scale.clamp()
    assert float(scale().detach()) == pytest.approx(100)
    assert not LogitScale(10.0, learn=False).log.requires_grad
    bounded = LogitScale(2.0, smallest=1.0)
    with torch.no_grad():
        bounded.log -= 5
    bounded.clamp()
    assert float(bounded().detach()) == pytest.approx(1)
    for wrong in (0.0, -1.0, float("nan"), 101.0):
        with pytest.raises(ValueError, match="init"):
            LogitScale(wrong)


def test_runs_that_kept_no_scale_open_with_a_new_one():
    method = CLIP(towers("a", "b"), temperature=0.1)
    assert method.facts()["scale"] == pytest.approx(10)
    method.recall({})
    assert method.scale().item() == pytest.approx(10)
    method.recall({"scale": 31.0})
    assert method.scale().item() == pytest.approx(31)
    assert method.scale.log.requires_grad


def test_what_it_refuses():
    with pytest.raises(ValueError, match="temperature: expected"):
        CLIP(towers("a", "b"), temperature=0.0)
    with pytest.raises(ValueError, match="modalities: CLIP needs 2"):
        CLIP(towers("a"))
    with pytest.raises(ValueError, match="freeze: there is no modality 'c'"):
        CLIP(towers("a", "b"), freeze=["c"])


QUIET = {"progress": False, "report": False, "monitor": 0}


def test_trains_on_halves_and_finds_the_other_half(tmp_path):
    run = cp.fit(halves(), "clip", epochs=15, batch_size=64, out=str(tmp_path / "run"), **QUIET)
    base = cp.fit(halves(), "untrained_towers", out=str(tmp_path / "base"), **QUIET)
    assert run.scores["pair_recall@5"] > base.scores["pair_recall@5"] + 0.2
    assert run.scores["transfer"] > base.scores["transfer"] + 0.3
    assert base.scores["pair_recall@1"] < 0.1


def test_a_run_with_texts_and_gaps_is_whole(tmp_path):
    data = halves(200, texts=True)
    data.parts["text"].at[:20] = -1
    run = cp.fit(
        data, "clip", epochs=4, batch_size=64, out=str(tmp_path / "run"), progress=False, prompts=["a photo of a {}"]
    )
    assert {"zero_shot", "pair_recall@1", "knn:image", "gap_distance"} <= set(run.scores)
    assert any("text: missing in 20 of 200" in note for note in run.evaluation.notes)
    titles = [found.title for found in run.findings]
    shown = ["Who finds whom", "When modalities are missing", "Where image and text lie"]
    assert {*shown, "From text to image", "From image to text"} <= set(titles)
    page = (run.folder / "report.html").read_text()
    assert "a photo of a" in page
    assert "pair_recall@1" in run.metrics[-1]
    encoder = run.encoder()
    assert encoder.embed("text", ["a photo of a six"]).shape == (1, 128)
    model = Run(run.folder).model()
    z = model.embed({"text": ["a photo of a six"]})["text"]
    torch.testing.assert_close(
        torch.nn.functional.normalize(z, dim=1), encoder.embed("text", ["a photo of a six"]), rtol=1e-4, atol=1e-5
    )
    assert encoder.extra["scale"] == pytest.approx(float(model.scale().detach()))
    assert abs(float(model.scale().detach()) - 1 / 0.07) > 1e-4  # as learned, not as new
    again = cp.fit(
        data, "clip", epochs=1, batch_size=64, encoder=str(run.folder), out=str(tmp_path / "on"), **QUIET,
    )  # fmt: skip
    assert again.encoder().extra["start"]["method"] == "clip"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "simclr"}, "takes one modality, and the data have left, right; try clip"),
        ({"encoders": {"up": "mlp"}}, "encoders: there is no modality 'up'"),
        ({"encoders": {"left": "convnet"}}, "takes images"),
        ({"encoders": {"left": 3}}, "expected a name"),
        ({"encoder": "mlp"}, "name that of each modality in encoders"),
        ({"freeze": 1}, "freeze"),
        ({"views": "simclr"}, "a pipeline for each of left, right"),
        ({"views": {"up": "none"}}, "no modality 'up'"),
        ({"prompts": ["a photo"], "texts": True}, r"prompts: 'a photo' has no \{\}"),
        ({"generated": "gmm"}, "generated"),
    ],
)
def test_what_fit_refuses(settings, message, tmp_path):
    settings = {"method": "clip", "steps": 1, **settings}
    data = halves(80, settings.pop("texts", False))
    with pytest.raises(ValueError, match=message):
        cp.fit(data, out=str(tmp_path / "run"), **settings, **QUIET)


def test_one_modality_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="'clip' takes several modalities, and 'digits' has one"):
        cp.fit("digits", "clip", out=str(tmp_path / "run"), steps=1, **QUIET)
    with pytest.raises(ValueError, match="encoders: the data have one modality"):
        cp.fit("digits", out=str(tmp_path / "other"), steps=1, encoders={"image": "mlp"}, **QUIET)


def test_resumed_after_a_stop_the_weights_are_the_same(tmp_path, monkeypatch):
    settings = {"method": "clip", "steps": 8, "batch_size": 32, "checkpoint_seconds": 0.0, "evaluate": False, **QUIET}
    whole = cp.fit(halves(120, texts=True), out=str(tmp_path / "whole"), **settings)
    step = CLIP.after_step
    seen = []

    def stop(self):
        step(self)
        seen.append(1)
        if len(seen) == 5:
            raise RuntimeError("stop")

    monkeypatch.setattr(CLIP, "after_step", stop)
    with pytest.raises(RuntimeError):
        cp.fit(halves(120, texts=True), out=str(tmp_path / "cut"), **settings)
    monkeypatch.setattr(CLIP, "after_step", step)
    cut = cp.fit(halves(120, texts=True), out=str(tmp_path / "cut"), resume=True, **settings)
    a, b = (run.encoder().state_dict() for run in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_compare_ranks_methods_of_several_modalities(tmp_path):
    found = cp.compare(
        halves(200), ["clip"], seeds=2, epochs=4, batch_size=64, out=str(tmp_path / "c"), progress=False, jobs=1,
        metric="pair_recall@5",
    )  # fmt: skip
    assert [row["name"] for row in found.board["rows"]] == ["clip", "untrained_towers"]
    assert "transfer:left>right" in found.board["metrics"]["clip"]
