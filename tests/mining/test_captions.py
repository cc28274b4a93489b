"""Hard negatives of captions: what each kind does, what is no negative, where they come from, bad input."""

from collections import Counter

import pytest

from counterpoint.mining import CaptionNegatives, Foil
from counterpoint.mining.captions import KINDS, OTHER_KINDS
from counterpoint.mining.words import Reader, article, plural

CAPTIONS = [
    "A red bus parked next to two blue cars.",
    "a man riding a brown horse on the beach",
    "A woman in a white dress holds an umbrella",
    "a cat and a dog sit on a wooden bench",
    "two small children playing with a big ball",
    "an elephant walking through tall grass",
    "the dog is sleeping under the table",
    "a green car near a small tree",
]


def foils(caption, *kinds, captions=CAPTIONS, count=50, **options):
    made = CaptionNegatives(captions, count, kinds or KINDS, **options)(caption)
    return [foil.text for foil in made if foil.kind != "fallback"]


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("A red bus parked next to two blue cars.", "f adj noun verb f f adj adj noun"),
        ("a man riding a brown horse", "f noun verb f adj noun"),
        ("a smiling woman holds an orange", "f adj noun verb f noun"),
        ("a parked car and a fire truck", "f adj noun f f noun noun"),
        ("a three to the left of a seven", "f noun f f rel rel f noun"),
        ("two beautiful dogs are in front of a building", "adj adj noun f rel rel rel f noun"),
        ("a long walk", "f adj noun"),
        ("", ""),
    ],
)
def test_parts_of_speech(caption, parts):
    short = {"f": "function", "adj": "adjective", "rel": "relation"}
    assert list(Reader(CAPTIONS)(caption).parts) == [short.get(part, part) for part in parts.split()]


def test_a_word_before_different_nouns_is_learned_to_be_an_adjective():
    known = Reader(["a fancy hat", "a mottle horse", "the mottle cow", "a fire truck", "the fire"])
    assert known("a mottle dog").parts == ("function", "adjective", "noun")
    assert known("a fire dog").parts == ("function", "noun", "noun")
    assert Reader()("a mottle dog").parts == ("function", "noun", "noun")
    assert Reader(lexicon={"Mottle": "adjective"})("a mottle dog").parts == ("function", "adjective", "noun")


def test_swapped_nouns():
    assert foils("a man riding a brown horse", "swap_nouns") == ["a horse riding a brown man"]
    assert foils("A fire truck behind an old car", "swap_nouns") == ["A car behind an old fire truck"]


@pytest.mark.parametrize(
    "caption", ["a cat and a dog", "a cat next to a dog", "red apples and red pears", "an ox or an ant"]
)
def test_a_swap_that_says_the_same_is_no_negative(caption):
    assert foils(caption, "swap_nouns") == []
    swapped = {"a dog and a cat", "a dog next to a cat", "red pears and red apples", "an ant or an ox"}
    assert swapped.isdisjoint(foils(caption))  # nor does another kind make it


def test_a_singular_and_a_plural_stay():
    assert foils("a man with two dogs", "swap_nouns") == []
    assert foils("the man with the dog", "swap_nouns") == ["the dog with the man"]


def test_swapped_adjectives():
    assert foils("a red bus and a blue car", "swap_adjectives") == ["a blue bus and a red car"]
    assert foils("a big red ball", "swap_adjectives") == []  # of one thing
    assert foils("a red ball and a blue ball", "swap_adjectives") == []  # it says the same
    assert foils("an old man and a young woman", "swap_adjectives") == ["a young man and an old woman"]
    assert foils("two dogs with a red ball", "swap_adjectives") == []  # two is no colour
    assert "a red big ball" not in foils("a big red ball")


def test_replaced_adjectives_come_from_the_captions_and_their_group():
    made = foils("a green car", "replace_adjectives")
    theirs = {f"a {colour} car" for colour in ("red", "blue", "brown", "white")}
    assert set(made[:4]) == theirs
    assert {"a yellow car", "a black car"} <= set(made[4:])  # they have none of these
    assert not any(word in text for text in made for word in ("small", "wooden", "two"))
    assert all(text.split()[1] not in ("large", "huge") for text in foils("a big dog", "replace_adjectives"))
    assert "a small dog" in foils("a big dog", "replace_adjectives")


def test_replaced_nouns_come_from_the_same_place_and_agree_in_number():
    made = foils("a man riding a horse", "replace_nouns", captions=["a girl riding a zebra", "a dog by the trees"])
    assert set(made[:2]) == {"a girl riding a horse", "a man riding a zebra"}
    assert not any("trees" in text for text in made)
    assert all("two" not in text or plural(text.split()[-1]) for text in foils("two cars", "replace_nouns"))


def test_numbers_are_nouns_too():
    digits = [f"a photo of a {word}" for word in ("three", "four", "eight")]
    made = foils("a photo of a three", "replace_nouns", captions=digits)
    assert set(made) == {"a photo of a four", "a photo of an eight", "a four of a three", "an eight of a three"}


def test_relations_are_flipped_where_that_is_asked_for():
    caption = "a three to the left of a seven"
    assert foils(caption, "replace_relations") == ["a three to the right of a seven"]
    assert foils("a dog in front of a cat", "replace_relations") == ["a dog behind a cat"]
    assert not any("right" in text for text in foils(caption))


def test_added_things():
    assert set(foils("a dog near an umbrella", "add_nouns", captions=["a dog", "an umbrella", "an elephant"])) == {
        "a dog and an elephant near an umbrella",
        "a dog near an umbrella and an elephant",
    }
    assert all(text.startswith("the dog is sleeping under the table and the ")
               for text in foils("the dog is sleeping under the table", "add_nouns"))  # fmt: skip
    assert all(text.startswith("A woman holds an umbrella and a") or " and " in text.partition(" holds")[0]
               for text in foils("A woman holds an umbrella", "add_nouns"))  # fmt: skip
    many = foils("two blue cars.", "add_nouns")
    assert many == ["two blue cars and children."] or set(many) == {"two blue cars and children."}
    assert not any(" and " in text for text in foils("a dog"))  # not unless asked for


def test_added_properties():
    known = ["a red bus", "a small cat", "two dogs", "a wooden bench", "a left shoe"]
    assert set(foils("a dog", "add_adjectives", captions=known)) >= {"a red dog", "a small dog", "a wooden dog"}
    made = foils("a red bus", "add_adjectives", captions=known)
    assert set(made) == {"a small red bus", "a red wooden bus"}  # no second colour, and colours next to the noun
    assert set(foils("Two dogs run", "add_adjectives", captions=known)) >= {"Two red dogs run", "Two small dogs run"}
    assert foils("a dog", "add_adjectives", captions=["an old dog", "a red bus"])[0] == "an old dog"
    assert not any("two" in text or "left" in text for text in foils("a dog", "add_adjectives", captions=known))
    assert foils("a three", "add_adjectives", captions=known) == []


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_new_order_has_the_words_of_the_caption(caption):
    def words(text):
        return Counter("a" if word == "an" else word for word in text.lower().strip(".").split())

    made = foils(caption, "reorder")
    assert made
    assert all(words(text) == words(caption) and text != caption for text in made)
    assert all(text.endswith(".") == caption.endswith(".") for text in made)
    assert all(text[0].isupper() == caption[0].isupper() for text in made)
    assert all(text[1:] == text[1:].lower() for text in made)  # a capital for none but the first


def test_articles():
    assert foils("a seven to the left of an eight", "swap_nouns") == ["an eight to the left of a seven"]
    pairs = {"hour": "an", "umbrella": "an", "unicorn": "a", "one": "a", "user": "a", "uninvited guest": "an"}
    assert {word: article("a", word) for word in pairs} == pairs
    assert article("A", "owl") == "An"


@pytest.mark.parametrize("caption", [*CAPTIONS, "dog face", "bacon", "a cat and a dog", "a big red ball"])
def test_negatives_differ_from_the_caption_and_from_each_other(caption):
    made = CaptionNegatives(CAPTIONS, 30, KINDS + OTHER_KINDS)(caption)
    forms = [foil.text.lower().strip(".").replace("an ", "a ") for foil in made]
    assert len({*forms, caption.lower().strip(".")}) == len(forms) + 1


def test_what_is_true_of_the_item_is_no_negative():
    caption = "a red bus and a blue car"
    whole = {foil.text for foil in CaptionNegatives(CAPTIONS, 60)(caption)}
    true = "A blue bus and a red car!"
    assert "a blue bus and a red car" in whole
    rest = {foil.text for foil in CaptionNegatives(CAPTIONS, 60)(caption, true=[true])}
    assert "a blue bus and a red car" not in rest


def test_all_five_kinds_take_turns():
    negatives = CaptionNegatives(CAPTIONS, 5)
    assert sorted(foil.kind for foil in negatives("a red bus and a blue car")) == sorted(KINDS)
    four = CaptionNegatives(CAPTIONS * 3, 4)
    for caption in CAPTIONS:
        assert len(four(caption)) == 4
    assert set(four.made) == set(KINDS)
    assert sum(four.made.values()) == 4 * len(CAPTIONS)


def test_short_captions_fall_back_and_are_counted():
    negatives = CaptionNegatives(CAPTIONS, 4)
    made = negatives("bacon")
    assert [foil.kind for foil in made] == ["replace_nouns"] * 4
    assert negatives.unable == {"reorder": 1, "swap_nouns": 1, "swap_adjectives": 1, "replace_adjectives": 1}
    alone = CaptionNegatives(["bacon"], 4)
    assert alone("bacon") == []
    assert alone.missing == 4
    alone("bacon")
    assert alone.missing == 4  # once a caption
    assert alone("") == []
    verbs = CaptionNegatives(["sit", "stand", "run"], 2, ["swap_nouns"])("sit")
    assert sorted(verbs) == [Foil("run", "fallback"), Foil("stand", "fallback")]


def test_the_same_caption_has_the_same_negatives():
    first, second = CaptionNegatives(CAPTIONS, 4, seed=3), CaptionNegatives(CAPTIONS, 4, seed=3)
    ahead = [second(caption) for caption in reversed(CAPTIONS)]
    assert [first(caption) for caption in CAPTIONS] == ahead[::-1]  # whatever was asked before
    other = CaptionNegatives(CAPTIONS, 4, seed=4)
    assert [other(caption) for caption in CAPTIONS] != ahead[::-1]


def test_a_long_list_of_words_is_drawn_from():
    captions = [f"a thing{k} on a stuff{k}" for k in range(200)]
    made = foils("a thing0 on a stuff0", "replace_nouns", captions=captions, count=20)
    assert len(made) == 20
    assert len({word for text in made for word in text.split()}) > 20


def test_given_ones_come_first_and_functions_are_asked():
    asked = []

    def rewrite(caption):
        asked.append(caption)
        return [caption, "a dog on a mat", "A cat under a mat!"]

    given = {"a cat on a mat": ["a mat on a cat", "a cat under a mat"]}
    negatives = CaptionNegatives(CAPTIONS, 4, given=given, rewrite=rewrite)
    made = negatives("a cat on a mat")
    assert made[:3] == [Foil(t, "given") for t in ("a mat on a cat", "a cat under a mat", "a dog on a mat")]
    assert len(made) == 4
    assert made[3].kind in KINDS
    negatives("a cat on a mat")
    assert asked == ["a cat on a mat"]
    assert len(CaptionNegatives(given=given, count=1)("a cat on a mat")) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"count": 0}, "count"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ["swap"]}, "kinds"),
        ({"captions": [None]}, "captions"),
        ({"lexicon": {"dog": "pronoun"}}, "lexicon"),
    ],
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        CaptionNegatives(**options)
    with pytest.raises(ValueError, match=r"^caption: expected a text, got float"):
        CaptionNegatives()(1.5)
