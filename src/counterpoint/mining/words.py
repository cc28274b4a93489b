"""The parts of a caption: which words are nouns, adjectives, verbs, relations, and how they form phrases.

Captions are short and alike ("a red bus next to two parked cars"), so that little is needed to read them: the
function words of English, the adjectives that say colours, sizes, numbers and the like, a few endings, and the place of
a word in its phrase. The rest is learned from the captions at hand: a word that comes before different nouns and never
ends a phrase is an adjective.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTS = ("noun", "adjective", "verb", "relation", "function")

FUNCTION = _words(
    """
    a an the this that these those my your his her its our their some any no every each another other both all
    several many few in on at by for with without from of to into onto over under above below beneath underneath
    near between among behind beside besides across through along alongside against around inside outside up
    down off out toward towards during before after as like than per via within upon past and or but while nor
    if because so he she it they we you i him them us me himself herself itself themselves who whom whose which
    what where when there here is are was were be been being am has have had having do does did done doing can
    could will would shall should may might must not very too also just only then now together apart away again
    still quite really almost next s t
    """
)
DETERMINERS = _words(
    """
    a an the this that these those my your his her its our their some any no every each
    """
)

# Adjectives by what they say: one of a group is replaced by another of the group. Between slashes those that say much
# the same, which do not replace each other.
ADJECTIVES = {
    "colour": """red / orange / yellow / green / blue / purple violet / pink / brown / black / white / grey gray /
        golden gold / silver / beige tan / turquoise""",
    "brightness": "dark dull / bright light shiny / pale",
    "number": "zero / one / two / three / four / five / six / seven / eight / nine / ten / eleven / twelve",
    "size": "big large huge giant enormous massive / small little tiny miniature",
    "length": "long tall high / short low",
    "width": "wide thick fat / narrow thin slim",
    "age": "young new modern / old ancient elderly vintage",
    "side": "left / right",
    "shape": """round / square / triangular / rectangular / oval / curved / straight / flat / pointed sharp""",
    "pattern": "striped / plaid checkered / spotted dotted / plain / floral",
    "material": """wooden wood / metal metallic steel / plastic / glass / stone / brick / leather / concrete / paper /
        rubber / woolen / ceramic""",
    "temperature": "hot warm / cold cool icy frozen",
    "moisture": "wet / dry",
    "access": "open / closed",
    "content": "full / empty",
    "cleanness": "clean / dirty",
    "taste": "sweet / sour / salty / bitter / spicy",
    "cooking": "raw / cooked",
    "speed": "fast / slow",
    "mood": "happy smiling laughing / sad frowning crying / angry / sleepy / calm",
    "look": "beautiful pretty cute / ugly",
    "texture": "soft fluffy / hard rough",
    "height": "upper / lower",
    "end": "front / rear",
    "gender": "male / female",
    "sound": "loud / quiet silent",
}
GROUP = {word: group for group, words in ADJECTIVES.items() for word in words.replace("/", " ").split()}
_SENSE = {
    word: (group, k)
    for group, words in ADJECTIVES.items()
    for k, alike in enumerate(words.split("/"))
    for word in alike.split()
}

_STEMS = """
    sit stand hold ride eat walk run jump wear fly swim drive lie carry watch lead pull push throw catch hit hang fill
    surround contain feature sleep talk smile pose lean stare follow chase serve use make take
    """
_THIRD = "plays looks covers shows drinks cooks swings crosses cuts"  # without the s they are as often nouns
VERBS = frozenset(f"{stem}{ending}" for stem in _STEMS.split() for ending in ("", "s", "es")) | _words(_THIRD)
ING_NOUNS = _words(
    """
    building painting drawing clothing ring king string wing thing morning evening ceiling wedding railing
    awning sibling pudding topping dressing landing crossing parking spring swing sling lightning stocking
    """
)
ED_NOUNS = _words(
    """
    speed breed steed hundred seaweed reed
    """
)
_ENDINGS = ("ful", "ous", "ive", "able", "ible", "less", "ish", "ic", "al")

# what stands where: each of a pair is replaced by the other; the first of several spellings is what is written
RELATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = tuple(
    (tuple(one.split()), tuple(other.split()))
    for one, other in (
        ("left of", "right of"),
        ("left-of", "right-of"),
        ("in front of", "behind"),
        ("on top of", "underneath"),
        ("in the foreground", "in the background"),
        ("above", "below"),
        ("over", "under"),
        ("inside", "outside"),
        ("into", "out of"),
        ("before", "after"),
        ("with", "without"),
        ("up", "down"),
        ("top of", "bottom of"),
    )
)
_OPPOSITE = {one: other for pair in RELATIONS for one, other in (pair, pair[::-1])}
_LONGEST = max(map(len, _OPPOSITE))
# between two things these say the same whichever comes first
SYMMETRIC = frozenset(["and", "or", "next", "to", "near", "beside", "by", "alongside", "together"])

_WORD = re.compile(r"(\w+(?:['’-]\w+)*)")


@dataclass(frozen=True)
class Phrase:
    """Adjectives and the noun, maybe of several words, that they belong to: positions among the words of a caption."""

    adjectives: tuple[int, ...]
    noun: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Of all its words, in order."""
        return tuple(sorted(self.adjectives + self.noun))


@dataclass(frozen=True)
class Reading:
    """A caption taken apart.

    Attributes:
        words: as written.
        between: what stands before, between and behind them; one more than there are words.
        parts: for each word one of :data:`PARTS`.
        phrases: in order.
        relations: (start, end) of the words that say where something is.
    """

    words: tuple[str, ...]
    between: tuple[str, ...]
    parts: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    relations: tuple[tuple[int, int], ...]

    def at(self, part: str) -> list[int]:
        """Positions of the words of a kind."""
        return [k for k, other in enumerate(self.parts) if other == part]


class Reader:
    """Takes captions apart, with what the captions themselves say about their words.

    Args:
        captions: from which it learns how words are used.
        lexicon: word in lower case -> one of :data:`PARTS`, for what it gets wrong or for other languages than English.

    Raises:
        ValueError: a lexicon with another part of speech.
    """

    def __init__(self, captions: Iterable[str] = (), lexicon: Mapping[str, str] | None = None) -> None:
        self.lexicon = {word.lower(): part for word, part in (lexicon or {}).items()}
        unknown = sorted(set(self.lexicon.values()) - set(PARTS))
        if unknown:
            raise ValueError(f"lexicon: expected words with one of {', '.join(PARTS)}, got {unknown[0]!r}")
        self._ends: Counter[str] = Counter()  # how often a word ends a run of content words
        self._leads: defaultdict[str, set[str]] = defaultdict(set)  # up to two different words it came before
        for caption in captions:
            words, between = split(caption)
            lower = [word.lower() for word in words]
            for run in self._runs(lower, between, self._relations(lower)):
                for k in run:
                    if k == run[-1] or self._says_what_happens(lower[k + 1]):
                        self._ends[lower[k]] += 1
                    elif len(self._leads[lower[k]]) < 2:
                        self._leads[lower[k]].add(lower[k + 1])

    def __call__(self, caption: str) -> Reading:
        words, between = split(caption)
        lower = [word.lower() for word in words]
        relations = self._relations(lower)
        parts = ["function"] * len(words)
        for start, end in relations:
            parts[start:end] = ["relation"] * (end - start)
        for run in self._runs(lower, between, relations):
            self._tag(run, lower, parts)
        phrases = _phrases(parts, between)
        return Reading(tuple(words), tuple(between), tuple(parts), tuple(phrases), tuple(relations))

    def _relations(self, lower: list[str]) -> list[tuple[int, int]]:
        found, k = [], 0
        while k < len(lower):
            length = next((n for n in range(_LONGEST, 0, -1) if tuple(lower[k : k + n]) in _OPPOSITE), 0)
            if length and k + length <= len(lower) and lower[k] not in self.lexicon:
                found.append((k, k + length))
            k += max(1, length)
        return found

    def _runs(self, lower: list[str], between: list[str], relations: list[tuple[int, int]]) -> list[list[int]]:
        """Positions of content words that follow each other with nothing but space between them."""
        related = {k for start, end in relations for k in range(start, end)}
        runs: list[list[int]] = []
        for k, word in enumerate(lower):
            if k in related or self.lexicon.get(word, "function" if word in FUNCTION else "") == "function":
                continue
            if runs and runs[-1][-1] == k - 1 and not between[k].strip():
                runs[-1].append(k)
            else:
                runs.append([k])
        return runs

    def _tag(self, run: list[int], lower: list[str], parts: list[str]) -> None:
        """Say what the words of a run are; what one is depends on the one before."""
        previous = "determiner" if run[0] > 0 and lower[run[0] - 1] in DETERMINERS else ""
        for place, k in enumerate(run):
            after = lower[run[place + 1]] if place < len(run) - 1 else ""
            previous = parts[k] = self._part(lower[k], previous, after)

    def _part(self, word: str, previous: str, after: str) -> str:
        """Of a word behind one of some part of speech and before another word of the run, or none."""
        if word in self.lexicon:
            return self.lexicon[word]
        if word in GROUP:
            alone = previous == "determiner" or GROUP[word] in ("number", "side", "material")  # an orange, a seven
            return "noun" if alone and not after else "adjective"
        last = not after or self._says_what_happens(after)
        if self._says_what_happens(word):
            if last:  # a ride, a long walk
                return "noun" if previous in ("determiner", "adjective") and not word.endswith("ed") else "verb"
            return "verb" if previous == "noun" or word in VERBS else "adjective"  # smiling face, parked car
        return "adjective" if not last and previous != "noun" and self._is_adjective(word) else "noun"

    def _says_what_happens(self, word: str) -> bool:
        """Whether a word is a verb, or made from one: the noun before it has ended."""
        if word in self.lexicon:
            return self.lexicon[word] == "verb"
        if word in GROUP:
            return False
        gerund = word.endswith("ing") and len(word) > 4 and word not in ING_NOUNS
        return gerund or word in VERBS or (word.endswith("ed") and len(word) > 4 and word not in ED_NOUNS)

    def _is_adjective(self, word: str) -> bool:
        """A word before another content word."""
        if self._ends[word]:
            return False
        return word.endswith(_ENDINGS) or word.endswith("y") or len(self._leads[word]) > 1


def split(caption: str) -> tuple[list[str], list[str]]:
    """Words, and what stands before, between and behind them."""
    pieces = _WORD.split(caption)
    return pieces[1::2], pieces[::2]


def joined(words: Iterable[str], between: Iterable[str]) -> str:
    """The caption again."""
    between = iter(between)
    return next(between, "") + "".join(word + space for word, space in zip(words, between, strict=True))


def alike(word: str, other: str) -> bool:
    """Whether two adjectives of a group say much the same."""
    return word in _SENSE and _SENSE[word] == _SENSE.get(other)


def opposite(words: Iterable[str]) -> tuple[str, ...]:
    """Of a relation that a :class:`Reading` found."""
    return _OPPOSITE[tuple(word.lower() for word in words)]


def plural(word: str) -> bool:
    """Whether a noun looks like a plural."""
    return word.lower() in _PLURALS or (word.lower().endswith("s") and not word.lower().endswith(("ss", "us", "is")))


_PLURALS = _words(
    """
    men women people children feet teeth mice geese sheep policemen firemen
    """
)


def article(before: str, word: str) -> str:
    """``a`` or ``an`` as ``word`` wants it, in the case of ``before``."""
    start = word.lower()
    if start.split()[0] in ("a", "an"):
        return before
    vowel = start[:1] in "aeiou" and not re.match(r"uni(?!n)|us[ei]|eu|one\b|once", start)
    chosen = "an" if vowel or re.match(r"hour|honest|heir", start) else "a"
    return chosen.capitalize() if before[:1].isupper() else chosen


def _phrases(parts: list[str], between: list[str]) -> list[Phrase]:
    found: list[Phrase] = []
    adjectives: list[int] = []
    noun: list[int] = []

    def close() -> None:
        if adjectives or noun:
            found.append(Phrase(tuple(adjectives), tuple(noun)))
        adjectives.clear()
        noun.clear()

    for k, part in enumerate(parts):
        if part not in ("adjective", "noun") or (k and between[k].strip()) or (part == "adjective" and noun):
            close()
        if part == "adjective":
            adjectives.append(k)
        elif part == "noun":
            noun.append(k)
    close()
    return found
