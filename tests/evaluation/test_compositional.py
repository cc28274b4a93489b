"""Compositional accuracy: right, wrong and alike; groups; a reader that sees no image; what is asked; bad input."""

import numpy as np
import pytest

from counterpoint.evaluation import compositional, compositional_items
from counterpoint.mining import CaptionNegatives


def unit(k, d=4):
    return np.eye(d)[k]


def made(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_text_that_is_closer_by_cosine_is_right():
    images = np.stack([unit(0), unit(1) * 5])
    captions = np.stack([unit(0) * 0.1 + unit(2) * 0.05, unit(2), unit(1), unit(1) + unit(3)])
    foils = np.stack([unit(0) * 9 + unit(2) * 9, unit(0), unit(1) * 7, unit(2)])
    found = compositional(images, captions, foils, [0, 0, 1, 1], ["swap_nouns", "reorder", "reorder", "replace_nouns"])
    assert found.right.tolist() == [1, 0, 0.5, 1]
    assert found.margins[1] == pytest.approx(-1)
    assert found.scores["compositional:swap"] == 1
    assert found.scores["compositional:order"] == 0.25
    assert found.scores["compositional:replace"] == 1
    assert found.scores["compositional"] == pytest.approx(0.75)  # groups count alike, not questions
    assert found.kinds.tolist() == ["swap_nouns", "reorder", "reorder", "replace_nouns"]
    np.testing.assert_array_equal(found.per_item(3), np.array([0.5, 0.75, np.nan], np.float32))


def test_adjectives_and_nouns_are_one_group_and_unknown_kinds_are_their_own():
    images, captions = made(1, 3), made(4, 3, seed=1)
    foils = captions * np.array([[1], [1], [-1], [-1]]) * np.sign(captions @ images[0])[:, None]
    captions = captions * np.sign(captions @ images[0])[:, None]
    kinds = ["swap_nouns", "swap_adjectives", "swap_nouns", "given"]
    scores = compositional(images, captions, foils, [0] * 4, kinds).scores
    assert scores["compositional:swap"] == pytest.approx(2 / 3)
    assert scores["compositional:given"] == 1
    assert "compositional_blind" not in scores  # there is no other image


def test_added_things_and_properties_are_one_group():
    images, captions = made(1, 3), made(2, 3, seed=1)
    captions = captions * np.sign(captions @ images[0])[:, None]
    foils = captions * np.array([[-1], [2.0]]) + np.array([[0, 0, 0], [1, 0, 0]]) * np.sign(images[0, 0]) * 9
    scores = compositional(images, captions, foils, [0, 0], ["add_nouns", "add_adjectives"]).scores
    assert set(scores) == {"compositional", "compositional:add"}


def test_texts_that_lie_apart_are_told_without_the_image():
    """Captions on one side, foils on the other: right for any image, and the blind score shows it."""
    images, texts = made(50, 8), made(50, 8, seed=1)
    side = np.zeros(8)
    side[0] = 10
    found = compositional(np.abs(images), np.abs(texts) + side, texts - side, np.arange(50), ["reorder"] * 50)
    assert found.scores["compositional"] == found.scores["compositional_blind"] == 1
    seen = compositional(images, images, images[::-1], np.arange(50), ["reorder"] * 50)
    assert seen.scores["compositional"] == 1
    assert seen.scores["compositional_blind"] < 0.7


def test_lengths_do_not_matter_and_may_be_extreme():
    images, captions, foils = made(5, 3), made(9, 3, seed=1), made(9, 3, seed=2)
    rows, kinds = np.arange(9) % 5, ["reorder"] * 9
    expected = compositional(images, captions, foils, rows, kinds)
    found = compositional(images * 1e200, captions * 1e-200, foils, rows, kinds)
    np.testing.assert_array_equal(found.right, expected.right)
    zero = compositional(images * 0, captions, foils, rows, kinds)
    assert zero.scores["compositional"] == 0.5


def test_what_is_asked():
    negatives = CaptionNegatives(["a cat on a mat", "a dog on a bed"], 2)
    items = compositional_items(["a cat on a mat", None, "", ("a dog on a bed", "a dog")], negatives)
    assert [item.row for item in items] == [0, 0, 3, 3]
    assert [item.caption for item in items] == ["a cat on a mat"] * 2 + ["a dog on a bed"] * 2
    assert [(item.foil, item.kind) for item in items[:2]] == [tuple(foil) for foil in negatives("a cat on a mat")]


GOOD = {"images": made(3, 4), "captions": made(2, 4), "foils": made(2, 4), "rows": [0, 2], "kinds": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", made(3)),
        ("images", np.full((3, 4), np.nan)),
        ("captions", made(2, 5)),
        ("captions", made(0, 4)),
        ("foils", made(3, 4)),
        ("rows", [0, 3]),
        ("rows", [-1, 0]),
        ("rows", [0]),
        ("rows", [0.0, 1.0]),
        ("kinds", ["a"]),
    ],
)
def test_bad_input(name, value):
    compositional(**GOOD)
    with pytest.raises(ValueError, match=f"^{name}: "):
        compositional(**{**GOOD, name: value})
