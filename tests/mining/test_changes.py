"""Captions that differ in one word."""

from counterpoint.mining import word_changes

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = [
    "a red heart",
    "A blue heart!",
    "",
    "a blue star",
    "the red heart",
    "heart",
    "a red heart",
    "a sad red heart",
]


def said(changes):
    return {(change.row, change.before, change.after, change.wanted) for change in changes}


def test_all_that_differ_in_one_word_and_nothing_else():
    assert said(word_changes(CAPTIONS)) == {
        (0, "red", "blue", 1),  # case and punctuation do not count
        (6, "red", "blue", 1),
        (1, "blue", "red", 0),
        (1, "heart", "star", 3),
        (3, "star", "heart", 1),  # "the red heart" differs from "a red heart" by no word that matters
    }


def test_single_words_share_nothing():
    assert word_changes(["cat", "dog", "cat"]) == []
    assert word_changes([]) == []


def test_of_many_changes_some_are_drawn():
    captions = [f"a photo of {word}" for word in WORDS] * 3
    found = word_changes(captions, each=4, seed=3)
    assert found == word_changes(captions, each=4, seed=3)
    assert found != word_changes(captions, each=4, seed=4)
    for row, caption in enumerate(captions):
        mine = [change for change in found if change.row == row]
        assert len({change.after for change in mine}) == 4
        for change in mine:
            assert caption.replace(change.before, change.after) == captions[change.wanted]
            assert change.wanted < 10
    assert len(word_changes(captions, each=20)) == 30 * 9


def test_it_is_quick_where_all_captions_share_a_frame():
    captions = [f"the thing {at}x" for at in range(20_000)]
    assert len(word_changes(captions, each=2)) == 40_000
