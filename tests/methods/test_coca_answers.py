"""CoCa's answers: image and question are read together, a CoCa run goes on whole, what is missing, refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder
from counterpoint.findings import Captions
from counterpoint.methods.multimodal.coca_answers import CoCaAnswers

ASKED = ["is it even", "is it odd", "is it small", "is it larger than four"]
QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1, "seed": 0}
TOWERS = {"image": {"widths": [16, 32]}, "text": {"width": 32, "depth": 1}}


def questions(items=900):
    """Digits with a question each, which neither the picture nor the words answer by themselves."""
    found = load_digits()
    digit, asked = found.target[:items], np.random.default_rng(0).integers(4, size=items)
    yes = np.where(asked < 2, digit % 2 == asked, (digit > 4) == (asked == 3))
    images = (found.images[:items] * 15.9).astype(np.uint8)
    texts = [ASKED[each] for each in asked]
    return pair({"image": images, "text": texts}, yes.astype(int), classes=["no", "yes"], name="questions")


def make(**options):
    torch.manual_seed(0)
    text = build_text_encoder("transformer", ASKED, width=16, depth=2, heads=2)
    encoder = MultimodalEncoder({"image": build("convnet", (1, 8, 8), widths=(8,)), "text": text})
    return CoCaAnswers(encoder, **{"n_queries": 3, "classes": 2, **options})


def batch(items=4):
    x = torch.rand(items, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    there = torch.ones(items, dtype=torch.bool)
    return {
        "image": x, "text": ASKED[:items], "label": torch.tensor([0, 1, 1, 0])[:items],
        "present": {"image": there, "text": there.clone()},
    }  # fmt: skip


def step(method, given):
    return method.loss([given], given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short CoCa on digits, and what goes on from it."""
    out = tmp_path_factory.mktemp("runs")
    data, how = questions(), {"batch_size": 64, "lr": 3e-3, **QUIET}
    cp.fit(
        data, "coca", out=str(out / "coca"), steps=10, encoders=TOWERS, evaluate=False,
        options={"n_queries": 4, "dim": 32}, **how,
    )  # fmt: skip
    cp.fit(data, "coca_answers", out=str(out / "still"), encoder=str(out / "coca"), steps=1, evaluate=False,
           **{**how, "lr": 1e-12})  # fmt: skip
    run = cp.fit(data, "coca_answers", out=str(out / "answers"), encoder=str(out / "coca"), steps=150,
                 metrics=["accuracy"], **how)  # fmt: skip
    return out, run


@pytest.mark.paper(58, "trains")
def test_it_answers_what_image_and_question_only_say_together(runs):
    _, run = runs
    assert run.scores["accuracy"] > 0.8  # either alone says about half
    shown = [one for one in run.findings if isinstance(one, Captions) and one.title == "Answers"]
    assert shown[0].columns == ["text", "answered", "right"]
    model, data = run.model(), questions()
    test = np.load(run.folder / "splits.npz")["test"]
    right = model.predict(data[test]).argmax(1).numpy() == data.labels[test]
    assert right.mean() == pytest.approx(run.scores["accuracy"])


def test_a_run_of_coca_brings_its_decoder(runs):
    out, _ = runs
    before, after = (load_file(out / name / "head" / "model.safetensors") for name in ("coca", "still"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    with pytest.raises(ValueError, match=r"^encoder: the head of the run in .*coca does not fit here"):
        cp.fit(questions(), "coca_answers", out=str(out / "deep"), encoder=str(out / "coca"), options={"depth": 3},
               **QUIET)  # fmt: skip


def test_coca_goes_on_whole_too(runs):
    """Fine-tuning for captions: the contrast at a weight of 0."""
    out, _ = runs
    cp.fit(
        questions(), "coca", out=str(out / "captions"), encoder=str(out / "coca"), steps=1, evaluate=False, lr=1e-12,
        batch_size=64, options={"n_queries": 4, "dim": 32, "w_contrastive": 0, "w_caption": 1}, **QUIET,
    )  # fmt: skip
    before, after = (load_file(out / name / "head" / "model.safetensors") for name in ("coca", "captions"))
    torch.testing.assert_close(after["output.weight"], before["output.weight"])


def test_the_state_is_that_of_the_last_token():
    method = make().eval()
    given = batch()
    alone = torch.cat([method.read(given["image"][i : i + 1], given["text"][i : i + 1]) for i in range(4)])
    torch.testing.assert_close(method.read(given["image"], given["text"]), alone)  # padding changes nothing
    other = method.read(given["image"].flip(0), given["text"])
    assert not torch.allclose(other, alone)


def test_all_that_learns_gets_a_gradient_and_nothing_else():
    method = make()
    step(method, batch()).backward()
    without = {name for name, p in method.named_parameters() if p.grad is None}
    assert without == {name for name, p in method.named_parameters() if not p.requires_grad}
    assert {"projector.output.weight", "encoder.towers.text.encoder.backbone.last"} <= without


def test_items_that_lack_something():
    method, given = make().eval(), batch()
    there = {name: torch.ones(2, dtype=torch.bool) for name in ("image", "text")}
    kept = {"image": given["image"][1:3], "text": ASKED[1:3], "label": given["label"][1:3], "present": there}
    expected = step(method, kept)
    given["present"]["image"][0] = False
    given["label"][3] = -1
    torch.testing.assert_close(step(method, given), expected)
    assert (method.fused(given, {})[0] == 0).all()
    torch.testing.assert_close(method.predict(given)[0], method.classifier.bias.detach())
    given["present"]["text"][:] = False
    nothing = step(method.train(), given)
    assert nothing == 0
    nothing.backward()
    assert (method.fused(given, {}) == 0).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"^classes: expected at least 2, got 1"):
        make(classes=1)
    plain = batch()
    del plain["label"]
    with pytest.raises(ValueError, match=r"^labels: this method needs labels"):
        step(make(), plain)
