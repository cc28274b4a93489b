"""What a fit of several modalities says of its data: what is missing, what tells nothing, what tokenizers lose."""

from types import SimpleNamespace

import numpy as np

from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build_text_encoder
from counterpoint.experiments.towers import _cut_texts, _gaps, _score_of
from counterpoint.objectives.symile import mip_scores


def test_a_modality_that_lacks_items_or_never_changes_is_named():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    x[[1, 4]] = np.nan
    told = _gaps(pair({"a": x, "same": np.ones((6, 2), np.float32), "word": ["it"] * 5 + [None], "b": np.eye(6)}))
    assert told == [
        "a: missing in 2 of 6 items.",
        "same: the same in all items, so that nothing can be told by it.",
        "word: missing in 1 of 6 items.",
        "word: the same in all items, so that nothing can be told by it.",
    ]


def test_what_a_tokenizer_loses_is_counted():
    known = ["a red cat", "a blue cat", "the red dog"] * 20
    encoder = build_text_encoder("transformer", known, width=8, depth=1, heads=1, length=6)
    method = SimpleNamespace(encoder=MultimodalEncoder({"text": encoder}))
    fine = pair({"text": known[:4]})
    assert _cut_texts(method, fine, np.arange(4)) == []
    odd = pair({"text": ["a red cat", "ж ж", "a red cat " * 9, "the dog"]})
    cut, unknown = _cut_texts(method, odd, np.arange(4))
    assert cut == "text: 1 of 4 test texts are longer than 6 tokens and were cut."
    assert "of the tokens of test texts are not in the vocabulary" in unknown


def test_candidates_are_scored_whatever_their_floats():
    """Vectors of classes are means in double precision, those of items are not."""
    made = np.random.default_rng(0)
    candidates, queries = made.normal(size=(4, 3)), {name: made.normal(size=(5, 3)).astype(np.float32) for name in "ab"}
    score = _score_of(SimpleNamespace(device="cpu", candidate_scores=lambda c, q: mip_scores(c, q.values())))
    found = score(candidates, queries)
    np.testing.assert_allclose(found, score(candidates.astype(np.float32), queries))
    assert found.shape == (5, 4)
