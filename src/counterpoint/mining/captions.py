"""Hard negatives of captions: rewrites with the same words, or all but one, that are not true any more.

DeGLA (Hu et al., ACM MM 2025) has a language model write them, of five kinds. Here rules make them from the captions at
hand, without any model: phrases are found by :class:`~counterpoint.mining.words.Reader`, and what replaces a word comes
from the same captions, where it stands in the same place. What a language model has written is taken from a file, or
from a function, before any rule is tried.

    >>> negatives = CaptionNegatives(["a red bus and a blue car", "a green car near a small tree"])
    >>> sorted({foil.kind for foil in negatives("a red bus and a blue car")})
    ['reorder', 'replace_adjectives', 'replace_nouns', 'swap_adjectives']
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

from counterpoint.mining.substitutes import Vocabulary
from counterpoint.mining.words import (
    GROUP,
    SYMMETRIC,
    VERBS,
    Phrase,
    Reader,
    Reading,
    article,
    joined,
    opposite,
    plural,
    split,
)

KINDS = ("reorder", "swap_nouns", "swap_adjectives", "replace_adjectives", "replace_nouns")
OTHER_KINDS = ("replace_relations", "add_nouns", "add_adjectives")
_INNER = {"colour", "material", "pattern", "shape"}  # of adjectives that stand next to the noun: a small red ball
_TRIES = 8  # orders of the words of a caption that are looked at
_Swap = tuple[Sequence[int], Sequence[int]]


class Foil(NamedTuple):
    """A caption that is not true, and how it was made: one of the kinds, ``"given"``, or ``"fallback"``."""

    text: str
    kind: str


class CaptionNegatives:
    """Up to ``count`` hard negatives of any caption, always the same ones for the same caption.

    The kinds are those of the paper. Each yields as many different rewrites as it can:

    * ``"reorder"``: the content words change places; where there are fewer than three, all words do.
    * ``"swap_nouns"``: two nouns change places. Not where the meaning would be the same ("a cat and a dog"), nor a
      singular with a plural.
    * ``"swap_adjectives"``: of different phrases. Not of one phrase ("a big red ball").
    * ``"replace_adjectives"``: by another of its group, a colour by a colour, but not "big" by "large"; by one that the
      captions have if there is any. An adjective outside the groups: by any that stands in the same place.
    * ``"replace_nouns"``: by a noun that the captions have between the same two words, or next to one of them, or
      anywhere, of the same number.

    Not among the paper's five, and not used unless asked for:

    * ``"replace_relations"``: "left of" becomes "right of", "above" becomes "below".
    * ``"add_nouns"``: a thing more, "a dog" becomes "a dog and a cat", a noun that could also stand in the place of the
      one before it. Not where "is" or another verb in the singular follows, which two things do not have.
    * ``"add_adjectives"``: a property more, "a dog" becomes "a blue dog": an adjective that the captions have, those
      before the same noun first; no number or side, and none of the group of one that the thing has. These two are
      SugarCrepe's, which asks a language model for them (Hsieh et al. 2023, arXiv 2306.14610).

    The kinds take turns, in an order that each caption draws; a kind with nothing to offer for it, such as a swap in a
    caption of one noun, leaves its turn to the others, and that is counted. Where all kinds together yield fewer than
    ``count``, single words are replaced whatever they are (``"fallback"``), and where even that is not enough there are
    fewer. Rewrites with the words of the caption itself, of another true caption of the item, or of an earlier rewrite
    are left out. A replaced word may by chance be true as well ("man" for "woman" in a crowd): no rule can see the
    picture.

    Args:
        captions: all that may be learned from: how words are used, and what may replace them. The training captions.
        count: K, 4: the official loader takes the first four of a caption.
        kinds: of rewrites, of :data:`KINDS` and :data:`OTHER_KINDS`.
        seed: of the draws. What a caption gets depends on nothing but this, the captions, and itself.
        given: caption -> its negatives, such as :func:`read_negatives` reads; they come first.
        rewrite: a function from a caption to negatives, such as a call of a language model; asked once a caption, after
            ``given``.
        lexicon: word -> part of speech, see :class:`~counterpoint.mining.words.Reader`. The rules are made for English;
            in other languages only ``given`` and ``rewrite`` are to be relied on.

    Attributes:
        made: how many negatives of each kind were handed out, over all different captions so far.
        unable: how often a kind had nothing to offer for a caption.
        missing: how many negatives captions have fewer than ``count``.

    Raises:
        ValueError: an unknown kind or none, a count below 1, captions that are no texts.

    Reference: arXiv 2504.16801. The kinds are its; the rules are this library's, since its pipeline (a model writes
    examples, a person chooses, another model follows them) cannot be run by rules.
    """

    def __init__(
        self,
        captions: Iterable[str] = (),
        count: int = 4,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        given: Mapping[str, Sequence[str]] | None = None,
        rewrite: Callable[[str], Sequence[str]] | None = None,
        lexicon: Mapping[str, str] | None = None,
    ) -> None:
        captions = [captions] if isinstance(captions, str) else list(captions)
        odd = [type(text).__name__ for text in captions if not isinstance(text, str)]
        if odd:
            raise ValueError(f"captions: expected texts, got {odd[0]}")
        if count < 1:
            raise ValueError(f"count: expected at least 1, got {count}")
        unknown = [kind for kind in kinds if kind not in KINDS + OTHER_KINDS]
        if unknown or not kinds:
            expected = f"some of {', '.join(KINDS + OTHER_KINDS)}"
            raise ValueError(f"kinds: expected {expected}, got {unknown[0] if unknown else 'none'!r}")
        self.count, self.kinds, self.seed = count, tuple(dict.fromkeys(kinds)), seed
        self.given, self.rewrite = dict(given or {}), rewrite
        self.read = Reader(captions, lexicon)
        self.vocabulary = Vocabulary(map(self.read, captions))
        self.made: Counter[str] = Counter()
        self.unable: Counter[str] = Counter()
        self.missing = 0
        self._known: dict[str, list[Foil]] = {}

    def __call__(self, caption: str, true: Iterable[str] = ()) -> list[Foil]:
        """The negatives of a caption; ``true`` are other true captions of the item, which are no negatives.

        The answer is remembered: ``true`` counts the first time.

        Raises:
            ValueError: a caption that is no text.
        """
        if not isinstance(caption, str):
            raise ValueError(f"caption: expected a text, got {type(caption).__name__}")
        if caption not in self._known:
            foils = self._make(caption, true)
            self.made.update(foil.kind for foil in foils)
            self.missing += self.count - len(foils)
            self._known[caption] = foils
        return self._known[caption]

    def _make(self, caption: str, true: Iterable[str]) -> list[Foil]:
        rng = random.Random(f"{self.seed}\n{caption}")
        reading = self.read(caption)
        same = self._swapped(reading, _swaps(reading)["same"], rng)
        taken = {_canonical(text) for text in (caption, "", *true, *same)}
        foils: list[Foil] = []

        def take(text: str, kind: str) -> bool:
            """Whether it was new."""
            form = _canonical(text)
            if form in taken:
                return False
            taken.add(form)
            foils.append(Foil(text, kind))
            return True

        for text in (*self.given.get(caption, ()), *(self.rewrite(caption) if self.rewrite else ())):
            if len(foils) < self.count:
                take(str(text), "given")
        kinds = rng.sample(self.kinds, len(self.kinds))
        offers = {kind: self._rewrites(kind, reading, rng) for kind in kinds}
        while len(foils) < self.count and offers:
            for kind in list(offers):
                if len(foils) < self.count and not any(take(text, kind) for text in offers[kind]):
                    del offers[kind]
                    self.unable[kind] += not any(foil.kind == kind for foil in foils)
        if len(foils) < self.count:
            for text in self._replaced(reading, _content(reading), rng):
                if len(foils) < self.count:
                    take(text, "fallback")
        return foils

    def _rewrites(self, kind: str, reading: Reading, rng: random.Random) -> Iterator[str]:
        if kind == "reorder":
            return self._reordered(reading, rng)
        if kind == "swap_nouns":
            return self._swapped(reading, _swaps(reading)["nouns"], rng)
        if kind == "swap_adjectives":
            return self._swapped(reading, _swaps(reading)["adjectives"], rng)
        if kind == "replace_adjectives":
            return self._replaced(reading, reading.at("adjective"), rng)
        if kind == "replace_nouns":
            return self._replaced(reading, reading.at("noun"), rng)
        if kind == "add_nouns":
            return self._offered(reading, self._more_nouns(reading, rng), rng)
        if kind == "add_adjectives":
            return self._offered(reading, self._more_adjectives(reading, rng), rng)
        return self._flipped(reading, rng)

    def _reordered(self, reading: Reading, rng: random.Random) -> Iterator[str]:
        content = _content(reading)
        for places in (content, list(range(len(reading.words)))):
            if len(places) < 3 and len(places) < len(reading.words):
                continue
            for _ in range(_TRIES):
                order = rng.sample(places, len(places))
                moved = dict(zip(places, order, strict=True))
                yield self._written(reading, [self._word(reading, moved.get(k, k)) for k in range(len(reading.words))])

    def _swapped(self, reading: Reading, swaps: list[_Swap], rng: random.Random) -> Iterator[str]:
        for first, second in rng.sample(swaps, len(swaps)):
            words: list[str | None] = [self._word(reading, k) for k in range(len(reading.words))]
            one, other = (" ".join(str(words[k]) for k in unit) for unit in (first, second))
            for unit, text in ((first, other), (second, one)):
                words[unit[0]] = text
                for k in unit[1:]:
                    words[k] = None
            yield self._written(reading, words)

    def _replaced(self, reading: Reading, places: Iterable[int], rng: random.Random) -> Iterator[str]:
        """One word at a time."""
        offers = {k: self.vocabulary.replacements(reading, k, rng) for k in places}
        return self._offered(reading, offers, rng)

    def _offered(self, reading: Reading, offers: dict[int, Iterator[str]], rng: random.Random) -> Iterator[str]:
        """With one word other than it was; each place offers one before any offers a second."""
        offers = {k: offers[k] for k in rng.sample(list(offers), len(offers))}
        while offers:
            for k in list(offers):
                word = next(offers[k], None)
                if word is None:
                    del offers[k]
                    continue
                words: list[str | None] = [self._word(reading, n) for n in range(len(reading.words))]
                words[k] = word
                yield self._written(reading, words)

    def _more_nouns(self, reading: Reading, rng: random.Random) -> dict[int, Iterator[str]]:
        """By the last word of a phrase, that word and another thing: "dog and a cat"."""

        def offer(k: int, determiner: str) -> Iterator[str]:
            for noun in self.vocabulary.replacements(reading, k, rng):
                before = article(determiner, noun) if determiner in ("a", "an") else determiner
                yield " ".join(filter(None, (self._word(reading, k), "and", before, noun)))

        found = {}
        for phrase in reading.phrases:
            after = phrase.positions[-1] + 1
            if phrase.noun and not (after < len(reading.words) and _singular(reading.words[after].lower())):
                start = phrase.positions[0]
                before = reading.words[start - 1].lower() if start else ""
                found[phrase.noun[-1]] = offer(phrase.noun[-1], before if before in ("a", "an", "the") else "")
        return found

    def _more_adjectives(self, reading: Reading, rng: random.Random) -> dict[int, Iterator[str]]:
        """By a word of a phrase, an adjective and that word: "blue dog"; what "blue" says stands next to the noun."""

        def offer(k: int, noun: str, never: set[str], inner: tuple[bool, ...]) -> Iterator[str]:
            for adjective in self.vocabulary.adjectives(noun, rng):
                group = GROUP.get(adjective.lower(), "none")
                if adjective.lower() not in said and group not in never and (group in _INNER) in inner:
                    yield f"{adjective} {self._word(reading, k)}"

        said = {word.lower() for word in reading.words}
        found = {}
        for phrase in reading.phrases:
            if phrase.noun and GROUP.get(reading.words[phrase.noun[-1]].lower()) != "number":
                groups = {k: GROUP.get(reading.words[k].lower(), "") for k in phrase.adjectives}
                never = {*groups.values(), "number", "side"}
                last, noun = phrase.noun[0], reading.words[phrase.noun[0]].lower()
                first = next((k for k in phrase.adjectives if groups[k] != "number"), last)
                if first == last:
                    found[last] = offer(last, noun, never, (True, False))
                    continue
                found[last] = offer(last, noun, never, (True,))
                found[first] = offer(first, noun, never, (False,))
        return found

    def _flipped(self, reading: Reading, rng: random.Random) -> Iterator[str]:
        for start, end in rng.sample(reading.relations, len(reading.relations)):
            words: list[str | None] = [self._word(reading, k) for k in range(len(reading.words))]
            words[start:end] = [" ".join(opposite(reading.words[start:end])), *[None] * (end - start - 1)]
            yield self._written(reading, words)

    def _word(self, reading: Reading, k: int) -> str:
        """The k-th word as it is written inside a caption."""
        return self.vocabulary.inside(reading.words[k]) if k == 0 else reading.words[k]

    def _written(self, reading: Reading, words: Sequence[str | None]) -> str:
        """The caption with other words; ``None``: nothing, its place is taken by the word before it."""
        kept, between = [], [reading.between[0]]
        for k, word in enumerate(words):
            if word is None:
                between[-1] = reading.between[k + 1]
            else:
                kept.append(word)
                between.append(reading.between[k + 1])
        for k in range(len(kept) - 1):
            if kept[k].lower() in ("a", "an"):
                kept[k] = article(kept[k], kept[k + 1])
        if kept and reading.words[0][:1].isupper():
            kept[0] = kept[0][:1].upper() + kept[0][1:]
        return joined(kept, between)


def _canonical(caption: str) -> tuple[str, ...]:
    """What is left of a caption when punctuation, case and the form of the article do not count."""
    return tuple("a" if word.lower() == "an" else word.lower() for word in split(caption)[0])


def _content(reading: Reading) -> list[int]:
    return [k for k, part in enumerate(reading.parts) if part in ("noun", "adjective", "verb")]


def _swaps(reading: Reading) -> dict[str, list[_Swap]]:
    """What may change places: ``"nouns"``, ``"adjectives"`` and, where that says the same as before, ``"same"``."""
    nouns: list[_Swap] = []
    adjectives: list[_Swap] = []
    same: list[_Swap] = [((a,), (b,)) for phrase in reading.phrases for a, b in combinations(phrase.adjectives, 2)]
    for first, second in combinations(reading.phrases, 2):
        symmetric = _symmetric(reading, first, second)
        things = [[reading.words[k].lower() for k in phrase.noun] for phrase in (first, second)]
        if all(things):
            as_before = symmetric and _said(reading, first) == _said(reading, second)
            if as_before:
                same.append((first.noun, second.noun))
            elif plural(things[0][-1]) == plural(things[1][-1]):
                nouns.append((first.noun, second.noun))
        every = product(first.adjectives, second.adjectives)
        pairs: list[_Swap] = [((a,), (b,)) for a, b in every if _fit(reading, first, second, a, b)]
        if symmetric and things[0] == things[1] and len(pairs) == 1:
            same += pairs
        else:
            adjectives += pairs
    return {"nouns": nouns, "adjectives": adjectives, "same": same}


def _fit(reading: Reading, first: Phrase, second: Phrase, a: int, b: int) -> bool:
    """Whether two adjectives can stand in each other's place: a number only in that of another one, of as many."""
    numbers = [GROUP.get(reading.words[k].lower()) == "number" for k in (a, b)]
    if not any(numbers):
        return True
    many = [bool(phrase.noun) and plural(reading.words[phrase.noun[-1]]) for phrase in (first, second)]
    return all(numbers) and many[0] == many[1]


def _symmetric(reading: Reading, first: Phrase, second: Phrase) -> bool:
    """Whether what stands between two phrases reads the same from both sides."""
    between = [word.lower() for word in reading.words[first.positions[-1] + 1 : second.positions[0]]]
    return all(word in SYMMETRIC or word in _ARTICLES for word in between)


def _said(reading: Reading, phrase: Phrase) -> tuple[str, ...]:
    """What is said about the noun of a phrase: its adjectives and its article."""
    start = phrase.positions[0]
    before = reading.words[start - 1].lower() if start else ""
    said = [reading.words[k].lower() for k in phrase.adjectives]
    return (_ARTICLES.get(before, ""), *said)


def _singular(word: str) -> bool:
    """Whether a word behind a phrase says that it is of one thing: is, has, sits."""
    return word in ("is", "was", "has", "does") or (word.endswith("s") and word in VERBS)


_ARTICLES = {"a": "a", "an": "a", "the": "the", "some": "some"}
