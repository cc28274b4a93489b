"""Every method of several modalities on pairs as users have them: broken, empty, strange, constant, alone, too few."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint import methods
from counterpoint.data import pair

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAMES = [name for name in methods.names() if getattr(methods.get(name), "multimodal", False)]
TRAINED = [name for name in NAMES if name != "untrained_towers"]
MLP, TEXT = {"name": "mlp", "widths": [16]}, {"width": 16, "depth": 1, "heads": 2}
BOTH = {"image": MLP, "text": TEXT}
LOCKED = {"image": {**MLP, "freeze": True}, "text": TEXT}
OPTIONS = {"close": {"width": 16, "layers": 1, "beams": 1, "length": 8}}
ENCODERS = {
    "lit": LOCKED,
    "cwcl": LOCKED,
    "coca_classes": {"image": MLP},
    "cosmo": {"image": MLP, "text": {**TEXT, "depth": 2}},
}
ROWS = 48
QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1, "evaluate": False, "overwrite": True}


def digits(rows=ROWS):
    images, labels = load_digits(return_X_y=True)
    return (images[:rows].reshape(-1, 8, 8) * 15.9).astype("uint8"), labels[:rows]


def pairs(name, images, texts, labels):
    """As a method takes them: one that reads no texts gets none."""
    read = {"image": images} if name == "coca_classes" else {"image": images, "text": texts}
    return pair(read, labels, given=["train"] * (len(labels) - 6) + ["val", "test"] * 3, name="pairs")


def captions(labels):
    return [f"a photo of a {WORDS[label]}" for label in labels]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A trained run, for the methods that go on from one."""
    images, labels = digits(200)
    folder = tmp_path_factory.mktemp("clip") / "run"
    data = pair({"image": images, "text": captions(labels)}, labels)
    return str(cp.fit(data, "clip", out=str(folder), steps=3, batch_size=32, encoders=BOTH, **QUIET).folder)


def fit(name, data, folder, clip, batch_size=8, **more):
    how = {"encoder": clip} if name in ("close", "negclip", "degla") else {"encoders": ENCODERS.get(name, BOTH)}
    how["options"] = OPTIONS.get(name, {})
    return cp.fit(data, name, out=str(folder), steps=4, batch_size=batch_size, **how, **QUIET, **more)


def assert_sound(run):
    for name, value in run.model().state_dict().items():
        assert not value.isnan().any(), name
    assert all(parameter.isfinite().all() for parameter in run.model().parameters())
    for row in run.metrics:
        assert math.isfinite(row.get("loss", 0.0)), row


@pytest.mark.parametrize("name", TRAINED)
class TestEach:
    def test_texts_that_are_empty_endless_or_in_unknown_letters_and_what_is_missing(self, name, tmp_path, clip):
        images, labels = digits()
        texts = captions(labels)
        texts[0], texts[1], texts[2], texts[3] = "", "seven " * 400, "☃ żółw 数字", "   "
        texts[5] = texts[17] = None
        images = list(images)
        images[6] = images[18] = None
        if name != "coca_classes":
            images[7] = texts[7] = None  # and one that has nothing
        assert_sound(fit(name, pairs(name, images, texts, labels), tmp_path / "run", clip))

    def test_a_modality_that_is_always_the_same(self, name, tmp_path, clip):
        images, labels = digits()
        assert_sound(fit(name, pairs(name, images * 0, captions(labels), labels), tmp_path / "image", clip))
        if name != "coca_classes":
            same = ["the same"] * len(labels)
            assert_sound(fit(name, pairs(name, images, same, labels), tmp_path / "text", clip))

    def test_no_item_has_both(self, name, tmp_path, clip):
        """Refused, but by those that can learn from one modality."""
        images, labels = digits()
        one = [image if number % 2 else None for number, image in enumerate(images)]
        other = [None if number % 2 else text for number, text in enumerate(captions(labels))]
        data = pairs(name, one, other, labels)
        if methods.get(name).paired:
            with pytest.raises(ValueError, match=r"^modalities: 0 of the 42 training items .* one of image, text"):
                fit(name, data, tmp_path / "run", clip)
        else:
            assert_sound(fit(name, data, tmp_path / "run", clip))


def test_who_learns_without_pairs():
    """Classifiers, a captioner that reads texts alone, documents, and image pairs of an image."""
    alone = {"untrained_towers", "close", "coca_classes", "cosmo", "fusion", "m3col", "slip"}
    assert {name for name in NAMES if not methods.get(name).paired} == alone


def test_a_batch_of_one(tmp_path, clip):
    images, labels = digits()
    with pytest.raises(ValueError, match=r"^batch_size: 1 leaves nothing to contrast with"):
        fit("clip", pairs("clip", images, captions(labels), labels), tmp_path / "run", clip, batch_size=1)


def test_a_modality_that_nobody_has():
    images, labels = digits()
    with pytest.raises(ValueError, match=r"text"):
        pair({"image": images, "text": [None] * len(labels)}, labels)


def test_modalities_of_different_numbers_of_items():
    images, labels = digits()
    with pytest.raises(ValueError, match=r"^modalities: expected as many items in each, got .*48.*47"):
        pair({"image": images, "text": captions(labels)[:-1]})


def test_a_modality_that_only_test_items_have(tmp_path):
    images, labels = digits()
    texts = [None] * (ROWS - 6) + captions(labels[-6:])
    with pytest.raises(ValueError, match=r"text"):
        cp.fit(pairs("clip", images, texts, labels), "clip", out=str(tmp_path / "run"), steps=2, encoders=BOTH, **QUIET)


@pytest.mark.parametrize("name", ["clip", "symile"])
def test_a_picture_that_does_not_decode(name, tmp_path):
    """In a table of files: too many are refused; of few, the pair lacks its picture, and the run says which."""
    from PIL import Image

    images, labels = digits()
    rows = ["photo,caption,label"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{captions([label])[0]},{label}")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:40])
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(rows))
    how = {"image": "photo", "text": "caption", "labels": "label", "encoders": BOTH, "steps": 4, "batch_size": 8}
    with pytest.raises(ValueError, match=r"at least 1 of the 48 images .* more than max_corrupt=0\.01 allows: .*4"):
        cp.fit(str(table), name, out=str(tmp_path / "run"), **how, **QUIET)
    run = cp.fit(str(table), name, out=str(tmp_path / "run"), max_corrupt=0.1, **how, **QUIET)
    assert_sound(run)
    assert "4.png" in str(run.status)


def test_a_signal_with_gaps_counts_what_it_has(tmp_path):
    images, labels = digits()
    waves = np.random.default_rng(0).standard_normal((ROWS, 40)).astype("float32")
    waves[3] = np.nan
    data = pair({"image": images, "signal": waves}, labels)
    encoders = {"image": MLP, "signal": {"name": "mlp", "widths": [16]}}
    assert_sound(cp.fit(data, "clip", out=str(tmp_path / "run"), steps=3, batch_size=8, encoders=encoders, **QUIET))
    waves[4, 7] = np.inf
    with pytest.raises(ValueError, match=r"signal"):
        pair({"image": images, "signal": waves}, labels)
