"""When a run adds words to pictures, and what it shows."""

import numpy as np
import pytest
import torch

from counterpoint.data import pair
from counterpoint.evaluation import Evaluation, SharedSpace
from counterpoint.experiments.calculating import with_arithmetic

THINGS, COLOURS = ("heart", "star", "book", "car"), ("red", "blue", "green")
CAPTIONS = [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS] * 2


def word(text):
    seed = sum(ord(letter) * 131**k for k, letter in enumerate(text)) % 2**31
    return torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(seed)), dim=0)


class Words:
    """Embeds a text as the sum of its words."""

    def eval(self):
        return self

    def embed(self, view):
        (name, texts) = next(iter(view.items()))
        return {name: torch.stack([sum(word(w) for w in text.split()) for text in texts])}


def asked(captions=CAPTIONS, sees=True, metrics=None, image=True, missing=()):
    count = len(captions)
    pictures = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 8, 8))
    made = {"image": pictures} if image else {"audio": np.random.default_rng(0).normal(size=(count, 1, 9))}
    data = pair({**made, "text": list(captions)})
    vectors = Words().embed({"text": captions})["text"].numpy()
    first = next(iter(made))
    present = np.ones(count, bool)
    present[list(missing)] = False
    here = np.random.default_rng(0).normal(size=vectors.shape) if not sees else vectors
    space = SharedSpace({first: here, "text": vectors}, {first: present, "text": np.ones(count, bool)})
    order = np.arange(count)
    return with_arithmetic(Evaluation({"knn": 0.5}), Words(), data, order, space, metrics)


def test_who_adds_words_finds_the_picture():
    evaluation, found = asked()
    assert evaluation.scores["knn"] == 0.5
    assert evaluation.scores["arithmetic"] == 1
    assert evaluation.scores["arithmetic_blind"] == 0
    np.testing.assert_array_equal(evaluation.items["arithmetic"], np.ones(len(CAPTIONS), np.float32))
    assert asked(sees=False)[0].scores["arithmetic"] < 0.3
    (pictures,) = found
    assert pictures.images.shape == (6, 5, 8, 8, 1)
    for row, told in zip(pictures.images, pictures.captions, strict=True):
        change, _, caption = told[0].partition(": ")
        before, after = change.split(" → ")
        assert CAPTIONS[row[0, 0, 0, 0]] == caption
        assert caption.replace(before, after) == told[1] == CAPTIONS[row[1, 0, 0, 0]]
    assert len({tuple(told[0].partition(":")[0].split(" → ")) for told in pictures.captions}) == 6


def test_pictures_that_are_missing_take_no_part():
    evaluation, _ = asked(missing=(0, 5))
    assert np.isnan(evaluation.items["arithmetic"][[0, 5]]).all()
    assert evaluation.scores["arithmetic"] == 1


def test_when_it_is_left_out():
    few = CAPTIONS[:6] + [f"{at}th nothing{at}" for at in range(20)]
    assert asked(few) == (Evaluation({"knn": 0.5}), [])
    assert asked(few, metrics=["arithmetic"])[0].scores.keys() == {"knn", "arithmetic"}
    evaluation, found = asked(["one", "two", "three"], metrics=["arithmetic"])
    assert found == []
    assert evaluation.notes == ["arithmetic: left out, no two test captions differ in a single word."]
    assert asked(metrics=["knn"])[1] == []
    assert asked(image=False)[1] == []


def test_a_blind_score_alone():
    assert asked(metrics=["arithmetic_blind"])[0].scores == {"knn": 0.5, "arithmetic_blind": 0.0}


def test_captions_that_differ_in_case_are_the_same():
    captions = [text.upper() if at % 2 else text for at, text in enumerate(CAPTIONS)]
    data = pair({"image": np.zeros((len(captions), 8, 8), np.uint8), "text": captions})
    vectors = Words().embed({"text": CAPTIONS})["text"].numpy()
    ones = np.ones(len(captions), bool)
    space = SharedSpace({"image": vectors, "text": vectors}, {"image": ones, "text": ones})
    evaluation, _ = with_arithmetic(Evaluation(), Words(), data, np.arange(len(captions)), space)
    assert evaluation.scores["arithmetic"] == pytest.approx(1)
