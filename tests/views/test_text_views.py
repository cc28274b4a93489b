"""Transforms of texts: what they do, what they leave alone, and how a configuration names them."""

import json
from collections import Counter

import pytest
import torch
import yaml

from counterpoint.views import (
    Caption,
    Clean,
    HorizontalFlip,
    OneOf,
    Pipeline,
    Prompt,
    RandomDeletion,
    RandomSwap,
    StopWords,
    Synonyms,
    Views,
    names,
    resolve,
    resolve_each,
)
from counterpoint.views.words import CAPTION_SYNONYMS, STOP_WORDS, thesaurus

TEXT = "A photo of the big red Dog, sitting on a bench."
TEXTS = [TEXT, "two cats", "  spaces   stay ", "seven", "the", ""]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


ALL = [
    StopWords(1.0),
    Synonyms(),
    RandomSwap(),
    RandomDeletion(0.5),
    OneOf((Synonyms(), RandomSwap(), RandomDeletion())),
    Caption(),
    Prompt(),
    Clean(),
]
every = pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)


@every
def test_as_many_texts_and_the_same_ones_by_the_same_seed(transform):
    found = transform(TEXTS, seeded())
    assert len(found) == len(TEXTS)
    assert all(isinstance(text, str) for text in found)
    assert transform(TEXTS, seeded()) == found
    torch.manual_seed(3)
    drawn = transform(TEXTS)
    torch.manual_seed(3)
    assert transform(TEXTS) == drawn
    assert TEXTS[0] == TEXT


@every
def test_no_text_becomes_empty_and_an_empty_one_is_no_trouble(transform):
    for seed in range(20):
        found = transform(TEXTS, seeded(seed))
        assert all(text.strip() for text in found[:-1])
        assert found[-1] == ("a photo of a ." if isinstance(transform, Prompt) else "")
    transform([""])


@every
@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("a cat", r"x must be a list of texts, got str; a single text needs \[x\]"),
        ([], "x must not be empty"),
        (["a", None], "x must hold texts, got NoneType at 1"),
        (torch.zeros(2, 3), "x must be a list of texts, got Tensor"),
        (["a", 3], "x must hold texts, got int at 1"),
        (["a", (3,)], "x must hold"),
    ],
)
def test_what_is_no_text_is_refused(transform, x, message):
    for refuses in (transform, Pipeline([transform]), Views([Pipeline([transform])])):
        with pytest.raises(ValueError, match=f"^{message}"):
            refuses(x)


def test_stop_words():
    assert StopWords(1.0)([TEXT]) == ["photo big red Dog, sitting bench."]
    assert StopWords(1.0)(["The the THE,", "on it", "not without a hat"]) == [
        "The the THE,",
        "on it",
        "not without hat",
    ]
    assert StopWords(0.0)(TEXTS) == TEXTS
    assert StopWords(1.0, words=("Photo", "bench"))([TEXT]) == ["A of the big red Dog, sitting on a"]
    kept = StopWords(0.8)([TEXT] * 4000, seeded()).count(TEXT)  # of a text, not of a word: all or none
    assert abs(kept / 4000 - 0.2) < 0.03
    assert set(StopWords(0.8)([TEXT] * 100, seeded())) == {TEXT, "photo big red Dog, sitting bench."}
    assert not {"not", "no", "without", "nor", "never"} & STOP_WORDS


def test_synonyms_replace_so_many_words_and_keep_case_and_punctuation():
    table = {"dog": ["hound", "puppy"], "bench": "seat", "Photo": ["picture"]}
    seen = Counter(Synonyms(table=table)([TEXT] * 3000, seeded()))
    assert seen.keys() == {
        TEXT.replace(old, new)
        for old, new in (("Dog", "Hound"), ("Dog", "Puppy"), ("bench", "seat"), ("photo", "picture"))
    }
    dogs = sum(count for text, count in seen.items() if "Dog" not in text)
    assert abs(dogs / 3000 - 1 / 3) < 0.03  # a word is drawn first, then one of its synonyms
    for n in (3, 9):
        assert all(
            ("Hound," in text or "Puppy," in text) and "picture" in text and text.endswith("seat.")
            for text in Synonyms(n, table)([TEXT] * 50, seeded())
        )
    assert Synonyms(2, table)(["no  such words"]) == ["no  such words"]


def test_groups_stand_for_each_other():
    groups = [("seven", "7", "VII"), ("digit", "number")]
    seen = {text for seed in range(40) for text in Synonyms(table=groups)(["digit seven"], seeded(seed))}
    assert seen == {"number seven", "digit 7", "digit VII"}
    assert thesaurus((("a b", "c"), ("c", "d"))) == {"a b": ("c",), "c": ("a b", "d"), "d": ("c",)}


def test_a_thesaurus_in_a_file(tmp_path):
    lines = tmp_path / "mine.txt"
    lines.write_text("seven, 7\tVII  # digits\n\nalone\nphoto,picture\n")
    expected = {"seven": ("7", "VII"), "7": ("seven", "VII"), "vii": ("seven", "7")}
    expected |= {"photo": ("picture",), "picture": ("photo",)}
    assert thesaurus(str(lines)) == expected
    words = tmp_path / "mine.json"
    words.write_text(json.dumps({"seven": ["7"], "photo": "picture"}))
    assert thesaurus(str(words)) == {"seven": ("7",), "photo": ("picture",)}
    assert Synonyms(table=words)(["Seven!"]) == ["7!"]
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    (wordnet / "data.noun").write_text(
        "  1 a line of the licence  \n"
        "02958343 06 n 03 car 0 auto 0 motor_car 0 002 @ 03791235 n 0000 ~ 02701002 n 0000 | a vehicle  \n"
        "02961779 06 n 02 car 1 railcar 0 001 @ 04576211 n 0000 | on rails  \n"
        "00001740 03 n 01 entity 0 000 | what is  \n"
    )
    (wordnet / "data.adj").write_text("00001 00 a 02 big(a) 0 large 0 000 | of size  \n")
    found = thesaurus(str(wordnet))
    assert found["car"] == ("auto", "motor car", "railcar")
    assert found["big"] == ("large",)
    assert "entity" not in found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("no/such.txt", "there is no file or folder"),
        ({}, "expected a path, words with their synonyms"),
        (5, "expected a path"),
        ([("a",)], "expected a path"),
        ([("a", 5)], "expected a path"),
        ({"a": [1]}, "expected a path"),
        (["ab"], "expected a path"),
    ],
)
def test_a_thesaurus_that_is_none(table, message):
    with pytest.raises(ValueError, match=f"^Synonyms: table: {message}"):
        Synonyms(table=table)


def test_a_file_without_synonyms(tmp_path):
    (tmp_path / "empty.txt").write_text("alone\n")
    with pytest.raises(ValueError, match=r"names no synonyms"):
        Synonyms(table=tmp_path / "empty.txt")
    with pytest.raises(ValueError, match=r"names no synonyms"):
        Synonyms(table=tmp_path)


def test_the_words_that_come_along():
    assert all(len(group) > 1 and all(word == word.strip() and word for word in group) for group in CAPTION_SYNONYMS)
    assert not {word for group in CAPTION_SYNONYMS for word in group} & STOP_WORDS
    assert Synonyms()(["seven"]) == ["7"]


def test_swaps():
    text = "one two three four"
    seen = Counter(RandomSwap()([text] * 6000, seeded()))
    assert len(seen) == 6  # any pair
    assert all(sorted(found.split()) == sorted(text.split()) for found in seen)
    assert max(seen.values()) - min(seen.values()) < 250
    assert RandomSwap()(["one two", "one"]) == ["two one", "one"]
    assert RandomSwap(2)(["one two"]) == ["one two"]
    assert len(set(RandomSwap(3)([text] * 2000, seeded()))) == 12  # odd permutations


def test_deletions():
    text = " ".join("abcdefghij")
    found = RandomDeletion(0.3)([text] * 2000, seeded())
    assert abs(sum(len(each.split()) for each in found) / 2000 - 7) < 0.1
    assert all([w for w in text.split() if w in each.split()] == each.split() for each in found)  # in their order
    alone = Counter(RandomDeletion(1.0)([text] * 3000, seeded()))
    assert set(alone) == set(text.split())
    assert max(alone.values()) < 2 * min(alone.values())
    assert RandomDeletion(0.0)(TEXTS) == TEXTS


def test_one_of_is_exactly_one_by_its_weights():
    change = OneOf((Prompt(("A {}",)), Prompt(("B {}",)), Prompt(("C {}",))), (0.4, 0.0, 1.2))
    seen = Counter(text.split()[0] for text in change([str(i) for i in range(4000)], seeded()))
    assert seen.keys() == {"A", "C"}
    assert abs(seen["A"] / 4000 - 0.25) < 0.03
    texts = [str(i) for i in range(50)]
    assert [text.split()[1] for text in change(texts, seeded())] == texts  # in their order


def test_captions():
    items = [("a", "b", "c"), "only", ["d", "e"]]
    seen = {tuple(Caption()(items, seeded(seed))) for seed in range(60)}
    assert {text for text, _, _ in seen} == {"a", "b", "c"}
    assert {text for _, _, text in seen} == {"d", "e"}
    assert {text for _, text, _ in seen} == {"only"}
    assert Caption(0)(items) == ["a", "only", "d"]
    assert Caption(2)(items) == ["c", "only", "e"]
    assert Caption(-1)(items) == ["c", "only", "e"]
    assert Caption(-3)(items) == ["a", "only", "d"]
    assert Caption()([(), ("a",)]) == Caption(0)([(), ("a",)]) == Caption(-1)([[], "a"]) == ["", "a"]


def test_each_view_draws_a_caption_of_its_own():
    items = [("a", "b", "c", "d")] * 200
    for pipeline in (Pipeline(), Pipeline([RandomSwap()])):  # without Caption, one is drawn first
        first, second = Views([pipeline] * 2)(items, seeded())
        assert set(first) == set(second) == {"a", "b", "c", "d"}
        assert 20 < sum(a == b for a, b in zip(first, second, strict=True)) < 80
    assert Pipeline([Caption(1), Prompt()])(items) == ["a photo of a b."] * 200
    with pytest.raises(ValueError, match=r"got several at 0; Caption\(\) chooses"):
        RandomSwap()(items)


def test_cleaning():
    dirty = ["Tom &amp;amp; Jerry\n\tat  HOME ", "caf&eacute;"]
    assert Clean()(dirty) == ["tom & jerry at home", "café"]
    assert Clean(lower=False)(dirty) == ["Tom & Jerry at HOME", "café"]


def test_prompts():
    assert Prompt()(["seven"]) == ["a photo of a seven."]
    assert Prompt("digit {}")(["7"]) == ["digit 7"]
    assert set(Prompt(["{} a", "b {}"])(["x"] * 30, seeded())) == {"x a", "b x"}


def test_configurations_survive_yaml():
    views = Views(
        [
            Pipeline([Caption(), Clean(), StopWords(0.9, ("a", "the"))]),
            Pipeline(
                [OneOf((Synonyms(2, {"dog": ["hound"]}), Synonyms(table=[("a", "b")]), RandomSwap()), (1, 2, 0.5))]
            ),
            Pipeline([Prompt(("a {}", "b {}"))]),
        ]
    )
    again = Views.from_config(yaml.safe_load(yaml.safe_dump(views.to_config())))
    assert again == views
    assert hash(again) == hash(views)
    assert again(TEXTS, seeded()) == views(TEXTS, seeded())


def test_names():
    assert names("text") == ["eda", "identity", "rocket"]
    assert resolve("identity", "text", ()) == Views([Pipeline()])
    assert resolve("auto", "text", ()).n == 2
    eda = resolve({"eda": {"p": 0.9, "count": 3}}, "text", ())
    assert eda.n == 3
    assert eda.pipelines[0].transforms[0] == StopWords(0.9)
    assert eda.pipelines[0].transforms[1].weights == (0.4, 0.4, 0.2)
    first, *others = resolve("rocket", "text", ()).pipelines
    assert first.transforms == (StopWords(0.8),)
    assert others == [eda.pipelines[0].__class__((StopWords(0.8), eda.pipelines[0].transforms[1]))] * 2
    two = resolve([{"StopWords": {"p": 1}}], "text", ())
    assert two(["the cat"]) == [["cat"], ["cat"]]
    one = resolve([[{"StopWords": {"p": 1}}]], "text", ())
    assert one.n == 1
    both = resolve(
        [["Caption"], [{"OneOf": {"transforms": ["RandomSwap", {"RandomDeletion": {"p": 0.2}}]}}]], "text", ()
    )
    assert both.pipelines[1].transforms[0].transforms == (RandomSwap(), RandomDeletion(0.2))


def test_rocket_has_as_many_views_of_each_modality():
    for local in (0, 2, 3):
        spec = {"rocket": {"local": local}}
        x = {"image": torch.rand(4, 3, 40, 40), "vector": torch.rand(4, 6), "text": ["a cat"] * 4}
        shapes = {"image": (3, 40, 40), "vector": (6,), "text": ()}
        for modality, given in x.items():
            assert len(resolve(spec, modality, shapes[modality])(given, seeded())) == 1 + local
    grey = resolve("rocket", "image", (1, 8, 8))
    assert not any(isinstance(t, HorizontalFlip) for pipeline in grey.pipelines for t in pipeline.transforms)
    small = resolve({"rocket": {"local_size": 24}}, "image", (3, 40, 40))
    assert small.sizes == [(40, 40), (24, 24), (24, 24)]
    pair = resolve({"rocket": {"asymmetric": True}}, "image", (3, 40, 40)).pipelines
    assert pair[1] != pair[2]


def test_a_name_for_all_modalities():
    kinds = {"photo": "image", "words": "text", "sound": "audio", "genes": "vector"}
    shapes = {"photo": (3, 40, 40), "words": (), "sound": (1, 80), "genes": (5,)}
    batch = {"photo": torch.rand(4, 3, 40, 40), "words": ["a big cat"] * 4, "genes": torch.rand(4, 5)}
    batch["sound"] = torch.rand(4, 1, 80)
    views = resolve_each("rocket", kinds, shapes)
    assert set(views.to_config()) == {"photo", "words", "genes"}
    made = views(batch, list(kinds))
    assert len(made) == 3
    assert all(view["sound"] is batch["sound"] for view in made)
    assert not torch.equal(made[1]["photo"], made[2]["photo"])
    assert len(resolve_each({"rocket": {"local": 0}}, kinds, shapes)(batch, list(kinds))) == 1
    assert set(resolve_each("eda", kinds, shapes).to_config()) == {"words"}
    assert resolve_each({"words": "eda"}, kinds, shapes)(batch, ["words"])[0]["words"] != batch["words"]
    (one,) = resolve_each({"words": [{"StopWords": {"p": 1}}]}, kinds, shapes)(batch, ["words"])
    assert one["words"] == ["big cat"] * 4
    with pytest.raises(ValueError, match="views: expected auto, none"):
        resolve_each("rockett", kinds, shapes)
    with pytest.raises(ValueError, match="views: there are none for audios"):
        resolve_each({"sound": "rocket"}, kinds, shapes)


def test_modalities_do_not_mix():
    with pytest.raises(ValueError, match="transforms must be of one modality"):
        Pipeline([RandomSwap(), HorizontalFlip()])
    with pytest.raises(ValueError, match="views: these are for texts, and the data are images"):
        resolve([{"RandomSwap": {}}], "image", (3, 8, 8))
    with pytest.raises(ValueError, match=r"x must be a torch\.Tensor"):
        Pipeline([HorizontalFlip()])(["a cat"])
    with pytest.raises(ValueError, match=r"views: unknown name 'edaa' for texts; did you mean 'eda'"):
        resolve("edaa", "text", ())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: StopWords(1.5), "p"),
        (lambda: StopWords(words=("a", 3)), "words"),
        (lambda: Synonyms(0), "n"),
        (lambda: RandomSwap(1.5), "n"),
        (lambda: RandomSwap(True), "n"),
        (lambda: RandomDeletion(-0.1), "p"),
        (lambda: OneOf(()), "transforms"),
        (lambda: OneOf((HorizontalFlip(),)), "transforms"),
        (lambda: OneOf((RandomSwap(),), (1, 2)), "weights"),
        (lambda: OneOf((RandomSwap(),), (0,)), "weights"),
        (lambda: OneOf((RandomSwap(),), (-1,)), "weights"),
        (lambda: Caption("first"), "which"),
        (lambda: Prompt(("no gap",)), "templates"),
        (lambda: Prompt(()), "templates"),
    ],
)
def test_parameters_without_sense_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=f": {name} must be"):
        make()
