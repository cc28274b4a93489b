"""Scores of captions: by hand, against their definitions, and refusals."""

import math
import sys

import numpy as np
import pytest

from counterpoint.evaluation.captions import bleu, captioning, cider, exact_match, token_accuracy, words

CAPTIONS = ["A dog runs.", "two cats on the mat", "a small red car"]
REFERENCES = [["a dog runs", "the dog is running"], "two cats on a mat", ["a big red car", "A small, red car!"]]


def test_words_are_compared_without_case_and_punctuation():
    assert words("  It's a DOG, isn't it? ") == "it's a dog isn't it"
    assert exact_match(CAPTIONS, REFERENCES).tolist() == [1, 0, 1]


def test_bleu_by_hand():
    # unigrams: 3/3, 4/5, 4/4; candidate and closest references are 12 words long
    assert bleu(CAPTIONS, REFERENCES, 1) == pytest.approx(11 / 12)
    bigrams = (2 + 2 + 3) / (2 + 4 + 3)
    assert bleu(CAPTIONS, REFERENCES, 2) == pytest.approx(math.sqrt(11 / 12 * bigrams))
    assert bleu(["a b c"], ["a b c"], 4) == 0  # no 4-gram in it
    assert bleu(["a b"], ["a b c d"], 1) == pytest.approx(math.exp(1 - 4 / 2))  # brevity


def test_cider_of_perfect_and_foreign_captions():
    pytest.importorskip("pycocoevalcap")
    texts = ["a dog runs on green grass", "two cats sleep under the table", "one red car stands in rain"]
    np.testing.assert_allclose(cider(texts, texts), 10, rtol=1e-6)
    np.testing.assert_allclose(cider(texts[1:] + texts[:1], texts), 0, atol=1e-6)
    np.testing.assert_allclose(cider(["dog", "cat", "car"], ["dog", "cat", "car"]), 2.5, rtol=1e-6)
    # what is said of all of them counts nothing
    same = [f"a picture of {name}" for name in ("dog", "cat", "car")]
    half = cider(["a picture of", "a picture of", "a picture of"], same)
    np.testing.assert_allclose(half, 0, atol=1e-6)


def test_cider_by_its_definition():
    """Three items, single words: tf-idf cosines with clipping and the penalty of length, which counts bigrams."""
    pytest.importorskip("pycocoevalcap")
    found = cider(["dog dog", "cat", "car"], ["dog", "cat", "car"])
    cosine = (1 * 1) / (2 * 1)  # the clipped count of dog times its reference's, over both lengths; idf cancels
    assert found[0] == pytest.approx(10 * cosine * math.exp(-1 / (2 * 36)) / 4, rel=1e-5)


def test_tokens():
    predictions, labels = np.array([[5, 6, 1], [5, 5, 5], [7, 7, 7]]), np.array([[5, 7, 1], [5, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(token_accuracy(predictions, labels), [2 / 3, 1, np.nan])
    assert token_accuracy(predictions, labels, pad=5)[1] == 0


def test_all_of_them_together(monkeypatch):
    result = captioning(CAPTIONS, REFERENCES)
    assert result.scores["caption_exact"] == pytest.approx(2 / 3)
    assert {"caption_exact", "bleu_1", "bleu_4"} <= set(result.scores)
    for name, values in result.items.items():
        assert result.scores[name] == pytest.approx(float(values.mean()))
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    without = captioning(CAPTIONS, REFERENCES)
    assert "cider" not in without.scores
    assert "counterpoint[captions]" in without.notes[0]
    with pytest.raises(ImportError, match=r"counterpoint\[captions\]"):
        cider(CAPTIONS, REFERENCES)


def test_empty_captions_score_nothing():
    assert exact_match(["", "..."], ["a dog", "a cat"]).sum() == 0
    assert bleu(["", ""], ["a dog", "a cat"], 1) == 0


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: bleu([], []), "captions, references"),
        (lambda: bleu(["a"], []), "captions, references"),
        (lambda: bleu("a dog", "a dog"), "captions, references"),
        (lambda: bleu(["a"], [[]]), "references"),
        (lambda: bleu(["a"], ["a"], 0), "n"),
        (lambda: token_accuracy([[1, 2]], [[1]]), "predictions, labels"),
    ],
)
def test_refusals(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        make()


def test_references_without_words():
    pytest.importorskip("pycocoevalcap")
    with pytest.raises(ValueError, match=r"^references: expected at least one word"):
        cider(["a", "b"], ["", "..."])
