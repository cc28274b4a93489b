"""Documents with pictures as tokens: golden labels, the form, long texts, equal rows, documents from sentences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.encoders import InterleavedCollator, interleaved_labels
from counterpoint.encoders.interleaved import interleave, row_numbers

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "30-cosmo.npz").items()
    if name.startswith("labels.")
}
PAD, BOS, EOS, VISUAL, END = range(5)


def collator(**options):
    """Every letter is a token, from 10 on; spaces are none."""
    return InterleavedCollator(
        lambda text: [10 + ord(c) - ord("a") for c in text if c != " "],
        **{"visual": VISUAL, "end_of_chunk": END, "bos": BOS, "eos": EOS, "pad": PAD, **options},
    )


def written(row):
    marks = {PAD: "_", BOS: "(", EOS: ")", VISUAL: "*", END: "|"}
    return "".join(marks.get(token, chr(token - 10 + ord("a")) if token >= 10 else "?") for token in row)


@pytest.mark.paper(30, "parity")
def test_golden_labels():
    names = ("media_id", "eoc_id", "pad_id", "bos_id")
    found = interleaved_labels(GOLDEN["labels.input_ids"], *(int(GOLDEN[f"labels.{name}"]) for name in names))
    assert torch.equal(found, GOLDEN["labels.labels"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_labels_are_those_of_a_walk_from_token_to_token(row):
    expected, inside = [], False
    for token in row:
        inside = inside or token == VISUAL
        kept = inside and token not in (VISUAL, BOS, PAD)
        expected.append(token if kept else -100)
        inside = inside and token != END
    assert interleaved_labels(torch.tensor([row]), VISUAL, END, PAD, BOS)[0].tolist() == expected


def test_padding_may_be_a_token_that_is_learned_elsewhere():
    """GPT-2 has one token for beginning, end and padding."""
    ids = torch.tensor([[VISUAL, 10, END, END, END]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    assert interleaved_labels(ids, VISUAL, END, END, BOS, mask)[0].tolist() == [-100, 10, END, -100, -100]


def test_the_form_of_a_document():
    made = collator()(["ab <visual> cd <visual>e", "<visual> f", "gh"])
    assert [written(row) for row in made.input_ids.tolist()] == ["(ab*cd|*e|)", "(*f|)______", "(gh)_______"]
    assert made.attention_mask.sum(1).tolist() == [11, 5, 4]
    assert made.pictures.tolist() == [2, 1, 0]
    assert torch.equal(made.media_locations, made.input_ids == VISUAL)
    learned = [written([t for t in row if t != -100]) for row in made.labels.tolist()]
    assert learned == ["cd|e|", "f|", ""]


def test_a_prompt_leaves_its_last_chunk_open():
    prompts = ["<visual> ab <visual>", "<visual> ab <visual> c", "ab"]
    made = collator()(prompts, complete=False)
    assert [written(row).rstrip("_") for row in made.input_ids.tolist()] == ["(*ab|*", "(*ab|*c", "(ab"]


def test_pictures_beyond_the_last_slot_lose_their_place_and_text():
    made = collator(images=2)(["<visual> a <visual> b <visual> c"])
    assert written(made.input_ids[0].tolist()) == "(*a|*b|)"


def test_a_long_document_keeps_its_pictures():
    made = collator(length=20)([f"{'a' * 50} <visual> bcdefghijk <visual> x <visual> {'z' * 9}"])
    text = written(made.input_ids[0].tolist())
    assert len(text) == 20
    assert text == "(aaaa*bcde|*x|*zzz|)"
    assert made.pictures.tolist() == [3]
    lead = collator(length=11)(["abcdefgh <visual> x"])
    assert written(lead.input_ids[0].tolist()) == "(cdefgh*x|)"  # what is nearest to the picture stays


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc", max_size=40), min_size=1, max_size=6), st.integers(11, 60))
def test_no_document_is_too_long_and_no_place_is_wasted(texts, length):
    document = " <visual> ".join(texts)
    if not document.strip():
        return
    row = collator(length=length).tokens(document)
    whole = collator(length=10_000).tokens(document)
    assert len(row) == min(length, len(whole))
    assert row.count(VISUAL) == whole.count(VISUAL) == row.count(END) == min(3, len(texts) - 1)


@pytest.mark.parametrize("documents", [[], "abc", [""], ["  "]])
def test_documents_without_anything_are_refused(documents):
    with pytest.raises(ValueError, match=r"^documents: "):
        collator()(documents)


def test_lengths_in_which_the_pictures_find_no_place_are_refused():
    collator(length=11)
    with pytest.raises(ValueError, match=r"^length: 3 pictures need 11 tokens at least, got 10"):
        collator(length=10)
    with pytest.raises(ValueError, match=r"^images: expected at least 1"):
        collator(images=0)


def test_equal_rows_have_equal_numbers_and_equal_tokens_do_not():
    """The official check counts distinct tokens: it takes the rows ab, ba for one and ab, cd for four."""
    ids = torch.tensor([[5, 6, 0], [6, 5, 0], [5, 6, 7], [5, 6, 0], [6, 5, 0]])
    numbers = row_numbers(ids)
    assert (numbers[:, None] == numbers).int().tolist() == [
        [1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1],
    ]  # fmt: skip
    assert (numbers >= 0).all()
    wider = torch.nn.functional.pad(ids[:2], (0, 4))
    assert torch.equal(row_numbers(wider, wider > 0), row_numbers(ids[:2], ids[:2] > 0))


def test_a_document_from_sentences_and_the_places_of_pictures():
    text, order = interleave(["one", "two <visual>", "three"], [2, -1, 0])
    assert (text, order) == ("<visual> one two <visual> three", [2, 0])
    assert interleave(["one"], [0, 0]) == ("<visual> <visual> one", [0, 1])
    assert interleave(["one", ""], []) == ("one", [])
    with pytest.raises(ValueError, match=r"^at: expected numbers of 1 sentences or -1, got 1"):
        interleave(["one"], [1])
