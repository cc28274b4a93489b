"""Words that may stand in the place of another one: those that captions have there themselves."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TypeAlias

from counterpoint.mining.words import ADJECTIVES, GROUP, Reading, alike, plural

_LONG = 64  # from lists of words longer than this as many are drawn
_Slot: TypeAlias = "tuple[str, str, str]"


class Vocabulary:
    """The words of the captions by their part of speech and by the words that they stand beside."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._slots: defaultdict[_Slot, Counter[str]] = defaultdict(Counter)
        self._tables: dict[_Slot, tuple[list[str], list[float]]] = {}
        for reading in readings:
            lower = [word.lower() for word in reading.words]
            for k, (word, part) in enumerate(zip(lower, reading.parts, strict=True)):
                if k:
                    self._spellings[word][reading.words[k]] += 1
                self._slots[part, "", ""][word] += 1
                if part in ("adjective", "noun"):
                    self._slots["group", GROUP.get(word, ""), ""][word] += 1
                    for slot in zip((part, part), ("before", "after"), _around(lower, k), strict=True):
                        self._slots[slot][word] += 1
        for group, words in ADJECTIVES.items():
            self._slots["lexicon", group, ""] = Counter(words.replace("/", " ").split())

    def inside(self, word: str) -> str:
        """How a word that began a caption, maybe for this with a capital, is written elsewhere."""
        spellings = self._spellings.get(word.lower())
        if spellings:
            return spellings.most_common(1)[0][0]
        return word if word.isupper() and len(word) > 1 else word.lower()

    def replacements(self, reading: Reading, k: int, rng: random.Random) -> Iterator[str]:
        """Other words for the k-th: those that fit best first, among those that fit alike in an order that is drawn."""
        lower = [word.lower() for word in reading.words]
        word, part = lower[k], reading.parts[k]
        used = set(lower)
        for other in self._fitting(word, part, *_around(lower, k), rng):
            if other not in used and not alike(word, other) and (part != "noun" or plural(other) == plural(word)):
                used.add(other)
                spellings = self._spellings.get(other)
                yield spellings.most_common(1)[0][0] if spellings else other

    def adjectives(self, noun: str, rng: random.Random) -> Iterator[str]:
        """Adjectives of the captions in an order that is drawn, those before this noun first; then any colour."""
        used: set[str] = set()
        for slot in (("adjective", "after", noun), ("adjective", "", ""), ("lexicon", "colour", "")):
            for word in self._drawn(slot, rng):
                if word not in used:
                    used.add(word)
                    spellings = self._spellings.get(word)
                    yield spellings.most_common(1)[0][0] if spellings else word

    def _fitting(self, word: str, part: str, before: str, after: str, rng: random.Random) -> Iterator[str]:
        if part == "adjective" and word in GROUP:
            yield from self._drawn(("group", GROUP[word], ""), rng)
            yield from self._drawn(("lexicon", GROUP[word], ""), rng)
            return
        if GROUP.get(word) == "number":  # a noun: a photo of a seven
            yield from self._drawn(("group", "number", ""), rng)
        one, other = (part, "before", before), (part, "after", after)
        if len(self._slots.get(one, ())) > len(self._slots.get(other, ())):
            one, other = other, one
        both = self._slots.get(other, Counter())
        yield from (found for found in self._drawn(one, rng) if found in both)
        for slot in (one, other, (part, "", "")):
            yield from self._drawn(slot, rng)

    def _drawn(self, slot: _Slot, rng: random.Random) -> Iterator[str]:
        """Words of a slot, frequent ones sooner: all of them, or of a long list as many draws as may be needed."""
        if slot not in self._tables:
            found = sorted(self._slots.get(slot, Counter()).items())
            self._tables[slot] = [word for word, _ in found], list(accumulate(count**0.5 for _, count in found))
        words, sums = self._tables[slot]
        if len(words) > _LONG:
            yield from rng.choices(words, cum_weights=sums, k=_LONG)
            return
        weights = [end - start for start, end in zip([0.0, *sums], sums, strict=False)]
        keys = {word: rng.random() ** (1 / weight) for word, weight in zip(words, weights, strict=True)}
        yield from sorted(words, key=lambda word: -keys[word])


def _around(lower: list[str], k: int) -> tuple[str, str]:
    """The words on both sides; an article is one, whatever the next word makes of it."""
    before = lower[k - 1] if k else ""
    return "a" if before == "an" else before, lower[k + 1] if k + 1 < len(lower) else ""
