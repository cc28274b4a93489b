"""Words that text transforms know: English function words, everyday synonyms, and how a thesaurus is read.

Both lists are ours, short, and made for captions; each transform takes another one. A thesaurus is a mapping from words
to what may stand for them, a list of groups of words that may stand for each other, or a path:

- a ``.json`` file of either;
- any other file: a group a line, its words separated by commas or tabs; ``#`` begins a comment;
- a folder that holds WordNet's own database (``data.noun``, ``data.verb``, ``data.adj``, ``data.adv``), whose synsets
  are groups. Counterpoint ships none; Debian has it as ``wordnet-base``, NLTK as ``wordnet``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_FUNCTION_WORDS = """
    a about above across after again against all along also am among an and any are around as at be because been before
    being below beneath beside between both but by can could did do does doing down during each either for from further
    had has have having he her here hers herself him himself his how i if in inside into is it its itself just may me
    might more most my myself near nearby of off on once only onto or other our ours out outside over own same shall she
    should so some such than that the their theirs them themselves then there these they this those through to too
    toward towards under until up upon very was we were what when where which while who whom whose why will with within
    would you your yours yourself
"""
# words that deny, such as "not", "no" and "without", are no stop words: without them a caption says the opposite
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())

_SYNONYMS = """
    photo, photograph, picture, image, snapshot
    drawing, sketch, illustration
    painting, artwork
    big, large, huge
    small, little, tiny
    beautiful, pretty, lovely
    old, aged, ancient
    new, modern, recent
    bright, luminous, vivid
    dark, dim, gloomy
    happy, glad, joyful, cheerful
    sad, unhappy, sorrowful
    angry, furious, mad
    scared, afraid, frightened
    fast, quick, rapid
    slow, sluggish
    road, street
    car, automobile
    bicycle, bike
    motorcycle, motorbike
    airplane, plane, aircraft
    ship, vessel, boat
    truck, lorry
    house, home, dwelling
    shop, store
    forest, woods, woodland
    hill, mound
    mountain, peak, summit
    stone, rock
    sea, ocean
    beach, shore, seaside
    stream, brook, creek
    garden, yard
    flower, blossom, bloom
    dog, hound
    cat, feline
    puppy, whelp
    rabbit, bunny
    pig, hog, swine
    chicken, hen
    frog, toad
    bug, insect
    child, kid
    baby, infant
    boy, lad
    girl, lass
    man, gentleman
    woman, lady
    person, human, individual
    people, folk
    crowd, throng
    face, visage
    smile, grin
    jacket, coat
    trousers, pants
    hat, cap
    cup, mug
    couch, sofa
    rug, carpet
    meal, dish
    sweet, candy
    number, numeral, digit
    zero, nought, 0
    one, 1
    two, 2
    three, 3
    four, 4
    five, 5
    six, 6
    seven, 7
    eight, 8
    nine, 9
    sign, symbol
    handwritten, hand-written
    jump, leap, hop
    run, sprint, dash
    walk, stroll
    speak, talk
    look, gaze, glance
    throw, toss
    hold, grasp, grip
"""
CAPTION_SYNONYMS = tuple(tuple(line.strip().split(", ")) for line in _SYNONYMS.strip().splitlines())

Thesaurus = dict[str, tuple[str, ...]]


def freeze(name: str, table: Any) -> Any:
    """A thesaurus as a configuration can hold it: a path as it is, a mapping or groups as tuples.

    Raises:
        ValueError: naming the argument ``name``, on anything that is neither.
    """
    if isinstance(table, str | os.PathLike):
        return os.fspath(table)
    expected = f"{name}: expected a path, words with their synonyms, or groups of words that may stand for each other"
    if isinstance(table, Mapping):
        table = [(word, [value] if isinstance(value, str) else value) for word, value in table.items()]
    if not isinstance(table, Sequence) or not table:
        raise ValueError(f"{expected}, got {table!r}")
    rows = []
    for row in table:
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) < 2:
            raise ValueError(f"{expected}, got {row!r} among them")
        pair = len(row) == 2 and isinstance(row[0], str) and not isinstance(row[1], str)
        words = (row[0], *row[1]) if pair and isinstance(row[1], Sequence) else tuple(row)
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"{expected}, got {row!r} among them")
        rows.append((row[0], tuple(row[1])) if pair else tuple(row))
    return tuple(rows)


@lru_cache(maxsize=16)
def thesaurus(table: Any) -> Thesaurus:
    """What may stand for each word, in lower case: of a table as :func:`freeze` returns it.

    Raises:
        ValueError: on a path with nothing to read, or a file in which no word has a synonym.
    """
    if not isinstance(table, str):
        return _merged(table)
    path = Path(table)
    if path.is_dir():
        files = [path / f"data.{part}" for part in ("noun", "verb", "adj", "adv")]
        groups = [group for file in files if file.exists() for group in _synsets(file)]
    elif path.suffix == ".json" and path.exists():
        groups = freeze("table", json.loads(path.read_text(encoding="utf-8")))
    elif path.exists():
        lines = (line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        groups = [
            tuple(word for part in line.replace("\t", ",").split(",") if (word := part.strip())) for line in lines
        ]
    else:
        raise ValueError(f"table: there is no file or folder {table!r}; expected a thesaurus")
    found = _merged([group for group in groups if len(group) > 1])
    if not found:
        raise ValueError(f"table: {table!r} names no synonyms; expected groups of words, or WordNet's data.noun")
    return found


def _merged(rows: Iterable[Any]) -> Thesaurus:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if len(row) == 2 and not isinstance(row[1], str):
            pairs = [(row[0], row[1])]
        else:
            pairs = [(word, [other for other in row if other is not word]) for word in row]
        for word, others in pairs:
            known = found.setdefault(word.lower(), {})
            known.update((other, None) for other in others if other.lower() != word.lower())
    return {word: tuple(others) for word, others in found.items() if others}


def _synsets(file: Path) -> Iterable[tuple[str, ...]]:
    """Groups of a file of WordNet's database: ``offset lexicographer type count(hex) word id word id ...`` a line."""
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = line.split(" ")
        if not line.startswith(" ") and len(fields) > 6:  # what is indented is the licence
            count = int(fields[3], 16)
            words = fields[4 : 4 + 2 * count : 2]
            group = tuple(dict.fromkeys(word.split("(")[0].replace("_", " ") for word in words))
            if len(group) > 1:
                yield group
