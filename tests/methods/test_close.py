"""CLOSE: what it learns from, that images play no part in it, what it writes about them, what a run keeps, refusals."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder, fit_adapters
from counterpoint.findings import Captions, Curves
from counterpoint.methods.multimodal._task import common_answers
from counterpoint.methods.multimodal.close import CLOSE

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1}
SMALL = {"width": 32, "layers": 1, "beams": 1, "length": 8}


def digits(**more):
    """Pictures of digits with a caption each."""
    found = load_digits()
    images = (found.images * 15.9).astype("uint8")
    captions = [f"a photo of a {WORDS[digit]}" for digit in found.target]
    return pair({"image": images, "text": captions, **more}, labels=found.target, classes=WORDS, name="digits")


def towers(dim=6, texts=("a photo of a one", "a photo of a two", "is it even")):
    torch.manual_seed(0)
    encoder = MultimodalEncoder(
        {
            "image": build("mlp", (1, 8, 8), widths=(8,)),
            "text": build_text_encoder("transformer", list(texts), width=16),
        }
    )
    encoder.attach(dim)
    return encoder


def make(**options):
    encoder = towers()
    torch.manual_seed(0)
    return CLOSE(encoder, **{**SMALL, **options})


def batch(captions=("a photo of a one", "a photo of a two"), **more):
    count = len(captions)
    images = torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    there = {name: torch.ones(count, dtype=torch.bool) for name in ("image", "text", *more)}
    return {"image": images, "text": list(captions), "index": torch.arange(count), **more, "present": there}


def loss(method, read, seed=0):
    torch.manual_seed(seed)
    return method.loss(method.make_views(read), read)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "clip"
    encoders = {"image": {"name": "mlp", "widths": [64]}, "text": {"width": 32, "depth": 1}}
    return cp.fit(digits(), "clip", out=str(out), epochs=12, options={"dim": 32}, encoders=encoders, **QUIET).folder


def close(clip, name, data=None, epochs=12, evaluate=False, **options):
    return cp.fit(
        data or digits(), "close", encoder=str(clip), out=str(clip.parent / name), epochs=epochs, batch_size=64,
        lr=5e-3, evaluate=evaluate, options={**SMALL, "dropout": 0.0, **options}, **QUIET,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(clip):
    return close(clip, "close", evaluate=True)


def right(model, data, indices):
    said, references = model.answers(data, indices)
    return np.mean([text in each for text, each in zip(said, references, strict=True)])


class TestTraining:
    @pytest.mark.paper(41, "trains")
    def test_images_are_described_by_what_has_read_texts_alone(self, run):
        model, data = run.model(), digits()
        test = np.load(run.folder / "splits.npz")["test"]
        assert right(model, data, test) > 0.6  # of ten captions; chance is 0.1
        torch.manual_seed(0)
        untrained = CLOSE(run.encoder(), **SMALL).eval()
        assert right(untrained, data, test) < 0.2

    def test_captions_are_scored(self, run):
        test = np.load(run.folder / "splits.npz")["test"]
        assert run.scores["caption_exact"] == pytest.approx(right(run.model(), digits(), test), abs=0.01)
        assert run.scores["bleu_1"] > run.scores["caption_exact"]

    def test_what_is_found_out_is_drawn(self, run):
        said, curve = run.findings[-2:]
        assert isinstance(said, Captions)
        assert said.columns == ["about the image", "about its text", "right"]
        assert said.images.shape[1:3] == (8, 8)
        assert isinstance(curve, Curves)
        blurred = curve.series["blurred text"]
        assert blurred[-1] > blurred[0]
        assert curve.series["image"][0] > blurred[0]  # of the texts it was trained on, it knows more

    def test_towers_stay_as_they_are(self, clip, run):
        before, after = (cp.load(folder).state_dict() for folder in (clip, run.folder))
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_entailment(self, clip):
        """The caption is the premise; the words of hypothesis and answer are not in the vocabulary of the tower."""
        digit = load_digits().target
        rng = np.random.default_rng(0)
        asked = rng.integers(2, size=len(digit))
        claim = [["its number is even", "its number is odd"][each] for each in asked]
        plain = digits()
        images = plain[np.arange(len(plain))]["image"]
        labels = (digit % 2 == asked).astype(int)
        data = pair(
            {"image": images, "text": plain.texts("text"), "claim": claim}, labels=labels, classes=["no", "yes"]
        )
        run = close(
            clip, "entailment", data, epochs=2, evaluate=True, target="label", question="claim", adapter="linear"
        )
        assert "caption_exact" not in run.scores  # names of classes are no captions
        assert run.findings[-2].columns == ["question", "about the image", "about its text", "right"]
        model = run.model()
        assert model.task.labels == ("no", "yes")
        assert model.writer.tokenizer.unk not in model.writer.tokenizer.encode(["its number is even odd yes"])[0]
        assert not torch.equal(model.adapter.weight, torch.eye(32))  # what was estimated is kept with the run
        references = model.answers(data, np.arange(8))[1]
        assert [each[0] for each in references] == [["no", "yes"][int(data.labels[i])] for i in range(8)]
        with pytest.raises(ValueError, match=r"^questions: this model was trained with the question 'claim'"):
            model.say(data[[0]]["image"])

    def test_an_untrained_encoder_is_refused(self):
        encoder = towers()
        encoder.dim = None
        with pytest.raises(ValueError, match=r"^encoder: this method writes about vectors of towers that are trained"):
            CLOSE(encoder)


class TestLoss:
    def test_images_play_no_part(self):
        read = batch()
        other = {**read, "image": torch.zeros_like(read["image"])}
        missing = {**read, "present": {**read["present"], "image": torch.zeros(2, dtype=torch.bool)}}
        found = [loss(make().eval(), each) for each in (read, other, missing)]
        assert found[0] == found[1] == found[2]

    def test_the_rival_reads_images_and_no_adapter_touches_them(self):
        read = batch()
        rival = make(source="image", adapter="noise", std=5.0)
        rival.writer.eval()
        assert loss(rival, read, 0) == loss(rival, read, 1)
        assert loss(rival, {**read, "image": torch.zeros_like(read["image"])}) != loss(rival, read)

    def test_noise_acts_in_training_alone(self):
        method, read = make(std=0.5, dropout=0.0), batch()
        assert loss(method, read, 0) != loss(method, read, 1)
        assert loss(method.eval(), read, 0) == loss(method.eval(), read, 1)

    def test_only_the_language_model_learns(self):
        method = make().train()
        assert not any(module.training for module in method.encoder.modules())
        loss(method, batch()).backward()
        learned = [name for name, p in method.named_parameters() if p.grad is not None]
        assert learned
        assert all(name.startswith("projector.writer.") for name in learned)

    def test_nothing_to_learn_from_is_no_loss(self):
        method, read = make(), batch()
        read["present"]["text"] = torch.zeros(2, dtype=torch.bool)
        found = loss(method, read)
        assert found == 0
        found.backward()

    @pytest.mark.parametrize(
        ("options", "std"),
        [({}, 0.12), ({"captions": "multiple"}, 0.04), ({"target": "label", "names": ["no", "yes"]}, 0.08),
         ({"target": "answer", "captions": "mean"}, 0.04), ({"target": "answer", "question": "query"}, 0.04),
         ({"std": 0.3}, 0.3)],
    )  # fmt: skip
    def test_noise_of_the_official_script(self, options, std):
        assert make(**options).adapter.std == std


class TestExamples:
    SEVERAL = (("a one", "the digit one", " "), ("a two",), ())

    def read(self, **more):
        read = batch(("x",) * 3, **more)
        read["text"] = list(self.SEVERAL)
        read["present"]["text"] = torch.tensor([True, True, False])
        return read

    def test_single(self):
        found = make().task.examples(self.read(), drawn=False)
        assert found.rows == [0, 1]
        assert found.stand_ins == found.targets == [("a one",), ("a two",)]
        method = make()
        drawn = {method.task.examples(self.read()).targets[0] for _ in range(20)}
        assert drawn == {("a one",), ("the digit one",)}

    def test_multiple(self):
        found = make(captions="multiple").task.examples(self.read(), drawn=False)
        assert (found.rows, found.stand_ins, found.targets) == ([0], [("a one",)], [("the digit one",)])

    def test_the_rival_writes_all_captions(self):
        found = make(source="image").task.examples(self.read(), drawn=False)
        assert found.targets == [("a one", "the digit one"), ("a two",)]

    def test_mean_of_captions_and_common_answers(self):
        read = self.read(answer=[("yes", "yes", "no"), ("no",), ("no",)], query=["is it", "is it", "is it"])
        method = make(target="answer", question="query", captions="mean").eval()
        found = method.task.examples(read, drawn=False)
        assert found.stand_ins == [("a one", "the digit one"), ("a two",)]
        assert (found.targets, found.questions) == ([("yes",), ("no",)], ["is it", "is it"])
        raw = method.encoder.towers["text"](["a one", "the digit one"]).mean(0)
        torch.testing.assert_close(method.of_texts(found.stand_ins)[0], raw / raw.norm())

    def test_labels(self):
        read = self.read(label=torch.tensor([1, -1, 0]))
        found = make(target="label", names=["no", "yes"]).task.examples(read, drawn=False)
        assert (found.rows, found.targets) == ([0], [("yes",)])

    def test_answers_that_count(self):
        assert common_answers(["a"] * 5 + ["b"] * 3 + ["c"] * 2) == ("a", "b")
        assert common_answers(["a", "b", "b", "c", "c"]) == ("b", "c")
        assert common_answers(["a", "b"]) == ("a", "b")
        assert common_answers([]) == ()


class TestEstimation:
    def test_it_is_of_the_raw_pairs(self):
        method, read = make(adapter="mean-shift"), batch(("a photo of a one", "is it even", "a photo of a two"))
        method.estimate([read])
        texts = method.encoder.towers["text"](read["text"])
        images = method.encoder.towers["image"](read["image"])
        torch.testing.assert_close(method.adapter.mu, fit_adapters(texts, images).mu)

    def test_pairs_alone_count(self):
        method, read = make(adapter="linear"), batch()
        read["present"]["image"] = torch.tensor([True, False])
        with pytest.raises(ValueError, match=r"^adapter: it is estimated from training items with both"):
            method.estimate([read])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"captions": "all"}, "captions: expected one of single, multiple, mean"),
        ({"source": "sound"}, "source: expected one of text, image"),
        ({"adapter": "nose"}, "adapter: no adapter 'nose'; did you mean 'noise'"),
        ({"captions": "mean"}, "captions: 'mean' is for a target of its own"),
        ({"captions": "multiple", "target": "label", "names": ["a"]}, "captions: 'multiple' has captions for targets"),
        ({"target": "label"}, "names: the names of the classes are needed"),
        ({"text": "image"}, "target: 'image' holds no texts; name"),
        ({"image": "photo"}, "image: there is no modality 'photo'; there are image, text"),
    ],
)
def test_refusals(options, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        make(**options)


def test_what_is_to_be_scored():
    read = batch(answer=["yes", "no"], query=["is it even", "is it even"])
    method = make(target="answer", question="query").eval()
    assert (method.written, make().written) == ("answer", "text")
    assert method.write(read) == method.say(read["image"], read["query"])
    assert method.write({**read, "query": ["is it even", ""]}) is None
    assert method.write({**read, "answer": ["", "no"]}) is None
    assert make(target="label", names=["no", "yes"]).write(read) is None


def test_what_a_batch_must_hold():
    with pytest.raises(ValueError, match=r"^modalities: this method needs 'query'"):
        make(question="query").task.examples(batch())
    with pytest.raises(ValueError, match=r"^labels: target='label' needs labels"):
        make(target="label", names=["no"]).task.examples(batch())
