"""When a run asks which caption is an image's and which a rewrite of it, and what it tells."""

import numpy as np
import pytest
import torch

from counterpoint.data import Splits, pair
from counterpoint.evaluation import Evaluation
from counterpoint.experiments.composing import with_composition

COLOURS = ("red", "blue", "green")
SENTENCES = [
    f"a {c} {a} near a {d} {b}" for a, b in (("car", "bus"), ("dog", "tree")) for c in COLOURS for d in COLOURS
]


class Words:
    """Embeds a text by its words; of images it knows the sentence by its number, or nothing."""

    device = torch.device("cpu")

    def __init__(self, captions, sees):
        self.captions, self.sees = captions, sees

    def eval(self):
        return self

    def embed(self, view):
        ((name, values),) = view.items()
        texts = values if name == "text" else [self.captions[int(v)] if self.sees else "" for v in values[:, 0, 0, 0]]
        return {name: torch.stack([self.vector(text) for text in texts])}

    def vector(self, text):
        """Which word stands where."""
        places = [hash_of(f"{at} {word}") for at, word in enumerate(text.split())]
        return torch.stack([torch.zeros(64), *places]).sum(0)


def hash_of(word):
    seed = sum(ord(letter) * 131**k for k, letter in enumerate(word)) % 2**31
    return torch.randn(64, generator=torch.Generator().manual_seed(seed))


def asked(captions, sees=True, metrics=None, image=True):
    count = len(captions)
    pictures = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 8, 8))
    made = {"image": pictures} if image else {"audio": np.random.default_rng(0).normal(size=(count, 1, 9))}
    data, half = pair({**made, "text": list(captions)}), np.arange(count)
    splits = Splits(half[::2], half[:0], half[1::2])
    return with_composition(Evaluation({"knn": 0.5}), Words(captions, sees), data, splits, metrics)


def test_who_sees_is_right_and_who_does_not_is_at_chance():
    evaluation, found = asked(SENTENCES)
    assert evaluation.scores["knn"] == 0.5
    assert evaluation.scores["compositional"] == 1
    groups = {f"compositional:{name}" for name in ("order", "replace", "swap", "add")}
    assert groups <= evaluation.scores.keys()
    assert evaluation.scores["compositional_blind"] < 0.9  # a longer text is less like any picture
    counts, worst = found
    assert {line[0] for line in counts.lines} >= {"reorder", "swap nouns", "replace adjectives", "add nouns"}
    assert all(line[2] == "1.000" for line in counts.lines)
    assert worst.images.shape == (len(worst.lines), 8, 8, 1)
    assert all(line[1] in SENTENCES and line[2] != line[1] for line in worst.lines)
    assert [SENTENCES[image[0, 0, 0]] for image in worst.images] == [line[1] for line in worst.lines]
    blind, _ = asked(SENTENCES, sees=False)
    assert blind.scores["compositional"] == 0.5


def test_it_is_one_test_for_all_runs():
    first, second = (asked(SENTENCES)[1][1].lines for _ in range(2))
    assert first == second


def test_captions_of_a_word_or_two_are_asked_only_on_request():
    short = ["red car", "blue bus", "green dog", "red tree"] * 4
    evaluation, found = asked(short)
    assert found == []
    assert evaluation.scores == {"knn": 0.5}
    evaluation, found = asked(short, metrics=["compositional"])
    assert "compositional" in evaluation.scores
    assert "compositional_blind" not in evaluation.scores
    evaluation, found = asked(["!"] * 8, metrics=["compositional"])
    assert any("no test caption has a rewrite" in note for note in evaluation.notes)


@pytest.mark.parametrize("options", [{"metrics": ["knn"]}, {"image": False}])
def test_nothing_is_asked_where_it_is_not_wanted_or_cannot_be(options):
    evaluation, found = asked(SENTENCES, **options)
    assert found == []
    assert evaluation.scores == {"knn": 0.5}
