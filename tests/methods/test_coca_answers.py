"""CoCa's answers: image and question are read together, a CoCa run goes on whole, what is missing, refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder
from counterpoint.experiments.reports import _summary
from counterpoint.findings import Captions
from counterpoint.methods.multimodal._task import plain_answer, soft_answers
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
    assert [one.title for one in run.findings] == ["Answers"]  # no contrast is trained, so none is shown
    model, data = run.model(), questions()
    test = np.load(run.folder / "splits.npz")["test"]
    right = model.predict(data[test]).argmax(1).numpy() == data.labels[test]
    assert right.mean() == pytest.approx(run.scores["accuracy"])


def test_nothing_between_modalities_is_scored(runs):
    out, _ = runs
    run = cp.fit(questions(300), "coca_answers", out=str(out / "scored"), encoder=str(out / "coca"), steps=2,
                 batch_size=64, **{**QUIET, "monitor": 2})  # fmt: skip
    assert {"accuracy", "knn", "effective_rank"} <= set(run.scores)
    assert not {name for name in run.scores if ":" in name or name.startswith(("pair_", "gap_", "zero", "comp"))}
    assert not {"pair_recall@1", "positive_similarity"} & set(run.metrics[-1])
    asked = cp.fit(questions(300), "coca_answers", out=str(out / "asked"), encoder=str(out / "coca"), steps=1,
                   batch_size=64, lr=1e-3, metrics=["knn", "zero_shot"], **QUIET)  # fmt: skip
    assert list(asked.scores) == ["knn"]
    assert "zero_shot: left out, the method trains without contrast." in asked.evaluation.notes


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


def two_images(items=1200):
    """Whether a sentence is true of two digits: neither picture tells alone (NLVR2)."""
    found, rng = load_digits(), np.random.default_rng(0)
    left, right = (rng.integers(len(found.target), size=items) for _ in range(2))
    larger = found.target[left] > found.target[right]
    images = [(found.images[at] * 15.9).astype(np.uint8) for at in (left, right)]
    texts = [("the left digit is larger", "the right digit is smaller")[at % 2] for at in range(items)]
    given = {"image": images[0], "second": images[1], "text": texts}
    return pair(given, larger.astype(int), classes=["false", "true"], name="two")


def test_a_sentence_about_two_images(tmp_path):
    data = two_images()
    run = cp.fit(data, "coca_answers", out=str(tmp_path / "run"), encoders=TOWERS, steps=300, metrics=["accuracy"],
                 batch_size=64, lr=3e-3, **QUIET)  # fmt: skip
    assert run.scores["accuracy"] > 0.8
    model = run.model()
    assert model.beside == ["second"]
    assert model.names == ["image", "text"]  # one encoder reads both images
    batch = data[np.load(run.folder / "splits.npz")["test"]]
    swapped = {**batch, "image": batch["second"], "second": batch["image"]}
    right, other = ((model.predict(each).argmax(1) == batch["label"]).float().mean() for each in (batch, swapped))
    assert right == pytest.approx(run.scores["accuracy"])
    assert other < 0.4  # which image is the first is known
    shown = [one for one in run.findings if isinstance(one, Captions) and one.title == "Answers"]
    assert shown[0].images.shape[1:] == (8, 17, 1)
    told = run.classifier().predict(batch)
    assert set(told.names) == {"false", "true"}


def test_states_of_two_images_stand_side_by_side():
    method = make(beside="second").eval()
    first = torch.rand(3, 1, 8, 8)
    given = {"image": first, "second": first.flip(0), "text": ASKED[:3]}
    found = method.fused(given, {})
    alone = [method.read(given[name], given["text"]) for name in ("image", "second")]
    torch.testing.assert_close(found, torch.cat(alone, 1))
    assert (method.fused({"image": first, "text": ASKED[:3]}, {}) == 0).all()  # the second is missing in all


def asked_of_many(items=900):
    """Digits named by ten people, some of whom say something else."""
    found, rng = load_digits(), np.random.default_rng(0)
    digit = found.target[:items]
    said = [[str(d)] * 7 + [str(w) for w in rng.integers(10, size=2)] + [f" {d}. "] for d in digit]
    said[0] = []
    images = (found.images[:items] * 15.9).astype(np.uint8)
    return pair({"image": images, "text": ["which digit"] * items, "answers": said}, name="asked")


def test_answers_of_several_people(tmp_path):
    data = asked_of_many()
    run = cp.fit(data, "coca_answers", out=str(tmp_path / "run"), encoders=TOWERS, steps=200, batch_size=64, lr=3e-3,
                 metrics=["vqa", "accuracy"], options={"answers": "answers"}, **QUIET)  # fmt: skip
    assert list(run.scores) == ["vqa"]
    assert run.scores["vqa"] > 0.8
    assert _summary(run).startswith("The answers to test questions are worth ")
    model = run.model()
    assert sorted(model.own_classes) == list("0123456789")
    assert model.names == ["image", "text"]
    test = np.load(run.folder / "splits.npz")["test"]
    assert np.nanmean(model.answer_scores(data[test])) == pytest.approx(run.scores["vqa"])
    assert torch.isnan(model.answer_scores(data[[0, 1]])).tolist() == [True, False]
    names = run.classifier().predict(data[test]).names
    assert np.mean([data[[at]]["answers"][0][0] == name for at, name in zip(test, names, strict=True)]) > 0.8
    shown = [one for one in run.findings if isinstance(one, Captions) and one.title == "Answers"]
    assert shown[0].lines[0][2] in "0123456789"


def test_an_answer_is_worth_a_third_for_each_of_three_people():
    said = ["yes"] * 5 + ["no"] * 2 + ["maybe"] + ["never"] * 2
    worth = soft_answers([said, ["no"], ["yes", "no"], []], ["yes", "no", "maybe", "perhaps"])
    expected = [[1, 2 / 3, 1 / 3, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(worth, torch.tensor(expected))
    assert plain_answer("  A  Red Bus. ") == "a red bus"


def test_the_loss_of_soft_scores_is_binary_cross_entropy():
    method = make(answers="said", vocabulary=["yes", "no"])
    given = {**batch(2), "said": [("yes", "yes", "no", "no", "no"), ()]}
    given["present"]["said"] = torch.tensor([True, False])
    logits = method.predict(given)[0]
    p = torch.sigmoid(logits)
    expected = -(2 / 3 * p[0].log() + 1 / 3 * (1 - p[0]).log() + p[1].log())
    torch.testing.assert_close(step(method.eval(), given), expected)  # who has no answer does not count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": "image"}, r"^answers: expected the name of a modality of texts, text, got 'image'"),
        ({}, r"^labels: 'coca_answers' needs labels, and 'pairs' has none"),
        ({"beside": "text"}, r"^beside: expected images of the shape of the first, got 'text'"),
        ({"beside": "large"}, r"^beside: .* got 'large', and there are image of \(1, 8, 8\), large of \(1, 9, 9\)"),
    ],
)
def test_options_that_do_not_fit_the_data(options, message):
    images = {"image": np.zeros((3, 8, 8), np.uint8), "large": np.zeros((3, 9, 9), np.uint8)}
    data = pair({**images, "text": ["a", "b", "c"]})
    options = {"beside": [], **options}
    with pytest.raises(ValueError, match=message):
        CoCaAnswers.options_from(data, np.arange(3), options)


def test_a_vocabulary_is_of_answers():
    with pytest.raises(ValueError, match=r"^vocabulary: it is of answers"):
        make(vocabulary=["a", "b"])
    with pytest.raises(ValueError, match=r"^vocabulary: expected different answers"):
        make(answers="said", vocabulary=["a", "A "])
