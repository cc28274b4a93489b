"""NegCLIP and DeGLA as methods: negatives from the data, the teacher, what is kept, and a training on digits."""

import json

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.data import Splits, pair
from counterpoint.encoders import MultimodalEncoder, Tokenizer, build, build_text_encoder
from counterpoint.methods.multimodal.degla import DeGLA
from counterpoint.methods.multimodal.negclip import NegCLIP
from counterpoint.objectives import HardNegativeCLIPLoss

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = ["three left of seven", "two left of nine", "six right of four", "one left of eight"]
TOKENIZER = Tokenizer.train(CAPTIONS)
QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1}


def digits(count, seed=0):
    """Two digits side by side, uint8 (count, 8, 16), and what they are."""
    from sklearn.datasets import load_digits

    found, rng = load_digits(), np.random.default_rng(seed)
    images = np.clip(found.images * 16, 0, 255).astype(np.uint8)
    parts = rng.integers(0, len(images), (count, 2))
    which = [f"{WORDS[a]} left of {WORDS[b]}" for a, b in found.target[parts]]
    return pair({"image": np.concatenate([images[parts[:, 0]], images[parts[:, 1]]], 2), "text": which}, name="two")


def towers(image="mlp", seed=0, dim=None, **text):
    torch.manual_seed(seed)
    options = {"widths": [16, 8]} if image == "mlp" else {"widths": [8]}
    made = {
        "image": build(image, (1, 8, 16), **options),
        "text": build_text_encoder("transformer", tokenizer=TOKENIZER, width=16, depth=1, heads=2, **text),
    }
    encoder = MultimodalEncoder(made)
    if dim:
        encoder.attach(dim)
    return encoder


def batch(present=None, captions=CAPTIONS):
    images = torch.rand(len(captions), 1, 8, 16, generator=torch.Generator().manual_seed(1))
    there = torch.ones(len(captions)).bool() if present is None else torch.tensor(present)
    whole = {"image": torch.ones(len(captions)).bool(), "text": there}
    return {"image": images, "text": list(captions), "present": whole, "index": torch.arange(len(captions))}


def loss(method, given):
    return method.loss(method.make_views(given), given)


def prepared(method, captions=CAPTIONS):
    method.prepare(pair({"image": np.zeros((len(captions), 8, 16)), "text": captions}), np.arange(len(captions)))
    return method


def test_the_loss_of_negclip_is_that_of_its_parts():
    method = prepared(NegCLIP(towers(), count=3)).eval()
    given = batch()
    foils = [[foil.text for foil in method.foils(caption)] for caption in CAPTIONS]
    assert all(len(some) == 3 for some in foils)
    tower = method.encoder.towers
    negatives = torch.stack([tower["text"](some) for some in foils])
    expected = HardNegativeCLIPLoss(0.07)(tower["image"](given["image"]), tower["text"](CAPTIONS), negatives)
    torch.testing.assert_close(loss(method, given), expected, rtol=1e-4, atol=1e-5)


def test_parts_of_the_loss_are_told():
    method, plain = prepared(DeGLA(towers())).train(), prepared(DeGLA(towers(), w_tgc=0.3, w_distill=0.01)).train()
    whole = loss(method, batch())
    told = method.told
    parts = [f"loss:{name}" for name in ("base", "igc", "tgc", "distill")]
    assert told.keys() == {*parts, "foil_accuracy"}
    torch.testing.assert_close(whole.detach(), torch.stack([told[name] for name in parts]).sum())
    loss(plain, batch())
    torch.testing.assert_close(plain.told["loss:tgc"], 3 * told["loss:tgc"])
    torch.testing.assert_close(plain.told["loss:distill"], 2 * told["loss:distill"])
    assert not any(value.requires_grad for value in told.values())
    vectors = [torch.nn.functional.normalize(x.detach(), dim=-1) for x in each(method, method.encoder)]
    own, others = (vectors[0] * vectors[1]).sum(1), (vectors[0][:, None] * vectors[2]).sum(2)
    assert told["foil_accuracy"] == (own[:, None] > others).float().mean()


def test_replaced_words_are_those_of_the_training_captions():
    method = prepared(NegCLIP(towers(), count=30, kinds=["replace_nouns"]))
    words = {word for foil in method.foils("three left of seven") for word in foil.text.split()}
    assert words == {"three", "seven", "two", "nine", "six", "four", "one", "eight", "left", "of"}


def test_items_without_a_caption_are_left_out():
    method = prepared(NegCLIP(towers())).eval()
    whole, some = batch([True, False, True, True], [CAPTIONS[0], "", *CAPTIONS[2:]]), batch()
    keep = [0, 2, 3]
    kept = {"image": some["image"][keep], "text": [CAPTIONS[k] for k in keep]}
    torch.testing.assert_close(loss(method, whole), loss(method, kept))
    nothing = loss(method, batch([False] * 4, [""] * 4))
    assert nothing == 0
    nothing.backward()


def test_captions_without_a_negative_and_single_words():
    method = NegCLIP(towers())
    prepared(method, ["three"])
    given = batch(captions=["three", "three left of seven", ""])
    value = loss(method, given)
    value.backward()
    assert torch.isfinite(value)
    pairs = method.rewritten(method.make_views(given)[0], given)
    assert pairs.mask.sum(1).tolist()[0] == pairs.mask.sum(1).tolist()[2] == 0
    assert pairs.mask[1].all()


def test_other_true_captions_of_an_item_are_no_negatives():
    method = prepared(NegCLIP(towers(), count=40))
    foils = {foil.text for foil in method.foils("three left of seven")}
    assert "seven left of three" in foils
    method = prepared(NegCLIP(towers(), count=40))
    given = batch() | {"text": [("three left of seven", "seven left of three"), *CAPTIONS[1:]]}
    pairs = method.rewritten(method.make_views(given)[0], given)
    assert pairs.captions[0] == "three left of seven"
    assert "seven left of three" not in pairs.negatives[:40]


@pytest.mark.parametrize("image", ["mlp", "convnet"])
def test_the_teacher_begins_as_the_student_and_follows_it(image):
    """Batch norms of both see the same batch: nothing is to be distilled in the first step."""
    method = prepared(DeGLA(towers(image, dropout=0.0), decay=0.9)).train()
    parts = method.objective(*each(method, method.encoder), *each(method, method.teacher.teacher))
    assert parts["distill"].item() == pytest.approx(0, abs=1e-9)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    loss(method, batch()).backward()
    optimizer.step()
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step()
    for old, new, student in zip(before, method.teacher.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    parts = method.objective(*each(method, method.encoder), *each(method, method.teacher.teacher))
    assert parts["distill"] > 1e-6


def each(method, encoder):
    given = batch()
    return method.vectors(encoder, method.rewritten(method.make_views(given)[0], given))


def test_dropout_of_the_teacher_is_off():
    method = prepared(DeGLA(towers(dropout=0.5))).train()
    with torch.no_grad():
        first, second = (each(method, method.teacher.teacher)[1] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(each(method, method.encoder)[1], each(method, method.encoder)[1])
    assert not any(module.training for module in method.eval().modules())


def test_without_its_additions_degla_is_negclip():
    first = prepared(NegCLIP(towers())).eval()
    second = prepared(DeGLA(towers(), w_igc=0, w_tgc=0, w_distill=0)).eval()
    torch.testing.assert_close(loss(first, batch()), loss(second, batch()))
    third = prepared(DeGLA(towers())).eval()
    assert loss(third, batch()) > loss(second, batch())


def test_heads_of_a_trained_encoder_stay():
    encoder = towers(dim=24)
    heads = [tower.head for tower in encoder.towers.values()]
    method = DeGLA(encoder)
    assert [tower.head for tower in method.encoder.towers.values()] == heads
    assert method.teacher.teacher.towers["image"].head.out_features == 24
    assert NegCLIP(towers()).encoder.dim == 128


def test_other_towers_stay_as_they_are():
    made = {name: tower.encoder for name, tower in towers().towers.items()}
    encoder = MultimodalEncoder({**made, "vector": build("mlp", (5,), widths=[8])})
    method = prepared(NegCLIP(encoder))
    assert not any(p.requires_grad for p in encoder.towers["vector"].parameters())
    loss(method, batch()).backward()


def test_a_file_of_negatives(tmp_path):
    path = tmp_path / "negatives.jsonl"
    path.write_text(json.dumps({"caption": CAPTIONS[0], "negatives": ["a horse", "a cow"]}))
    method = prepared(NegCLIP(towers(), negatives=str(path), count=2))
    assert [foil.text for foil in method.foils(CAPTIONS[0])] == ["a horse", "a cow"]
    assert {foil.kind for foil in method.foils(CAPTIONS[1])} <= set(method.foils.kinds)
    missing = NegCLIP(towers(), negatives=str(tmp_path / "none.jsonl"))
    with pytest.raises(FileNotFoundError):
        prepared(missing)


@pytest.mark.parametrize("kind", [NegCLIP, DeGLA])
def test_the_temperature_goes_on_from_the_trained_one_where_asked(kind):
    encoder = towers()
    encoder.extra = {"scale": 42.0}
    assert kind(encoder, temperature="trained").scale().item() == pytest.approx(42)
    assert kind(encoder).scale().item() == pytest.approx(1 / 0.07)
    encoder.extra = {"scale": 100.00001}  # a rounding above the bound
    assert kind(encoder, temperature="trained").scale().item() == pytest.approx(100)
    for temperature in ("trained", "warm", 0.0):
        with pytest.raises(ValueError, match=r"^temperature: expected"):
            kind(towers(), temperature=temperature)


def test_bad_options_are_named():
    for options, name in (({"decay": 1.1}, "decay"), ({"w_tgc": -1}, "w_tgc"), ({"distill_batch": 0}, "batch")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            DeGLA(towers(), **options)
    for options, name in (({"count": 0}, "count"), ({"kinds": ["swap"]}, "kinds")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            NegCLIP(towers(), **options)
    made = {name: build("mlp", (5,), widths=[8]) for name in ("a", "b")}
    with pytest.raises(ValueError, match=r"^modalities: this method needs one of kind 'image'"):
        NegCLIP(MultimodalEncoder(made))
    method = NegCLIP(towers())
    given = batch()
    ids = method.encoder.towers["text"].encoder.tokenize(CAPTIONS)
    with pytest.raises(ValueError, match=r"^views: NegCLIP makes negatives of texts"):
        method.loss([{"image": given["image"], "text": ids}], given)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP trained on two digits side by side."""
    folder = tmp_path_factory.mktemp("clip") / "run"
    encoders = {"image": {"name": "mlp", "widths": [128, 64]}, "text": {"name": "transformer", "width": 32, "depth": 1}}
    return cp.fit(
        digits(900), "clip", out=str(folder), steps=60, batch_size=64, lr=3e-3, encoders=encoders,
        splits=SPLITS, metrics=["pair_recall@10", "compositional"], options={"dim": 32}, **QUIET,
    )  # fmt: skip


SPLITS = Splits(np.arange(600), np.arange(600, 700), np.arange(700, 900))


@pytest.mark.paper(46, "trains")
@pytest.mark.parametrize("method", ["degla", "negclip"])
def test_it_learns_order_from_where_clip_left_off(tmp_path, clip, method):
    options = {"kinds": ["swap_nouns", "replace_nouns"]}
    run = cp.fit(
        digits(900), method, out=str(tmp_path / "run"), steps=60, batch_size=64, lr=3e-3, encoder=str(clip.folder),
        splits=SPLITS, metrics=["pair_recall@10", "compositional", "compositional_blind"], options=options, **QUIET,
    )  # fmt: skip
    assert run.state == "finished"
    assert run.scores["compositional:swap"] > max(0.6, clip.scores["compositional:swap"])
    assert run.scores["pair_recall@10"] > 0.3
    assert 0.3 < run.scores["compositional_blind"] < 0.7
    found = {finding.title: finding for finding in run.findings}
    counts = {line[0]: int(line[1].replace(",", "")) for line in found["Captions against their rewrites"].lines}
    assert counts["swap nouns"] > 100
    assert found["Rewrites that were taken for the caption"].images is not None
    opened = run.model()
    assert isinstance(opened, NegCLIP)
    assert opened.encoder.dim == 32  # the head that CLIP had


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, clip, monkeypatch):
    """The teacher is in the checkpoint, and the negatives are made again as they were."""
    arguments = {
        "steps": 6, "batch_size": 64, "encoder": str(clip.folder), "splits": SPLITS, "evaluate": False,
        "options": {"decay": 0.5, "w_distill": 1.0}, "checkpoint_seconds": 0.0, **QUIET,
    }  # fmt: skip
    whole = cp.fit(digits(900), "degla", out=str(tmp_path / "whole"), **arguments)
    step, left = DeGLA.after_step, [4]

    def interrupted(self):
        step(self)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(DeGLA, "after_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        cp.fit(digits(900), "degla", out=str(tmp_path / "parts"), **arguments)
    monkeypatch.setattr(DeGLA, "after_step", step)
    parts = cp.fit(digits(900), "degla", out=str(tmp_path / "parts"), resume=True, **arguments)
    states = [run.encoder().state_dict() for run in (whole, parts)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0, msg=name)
