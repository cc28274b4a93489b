"""Captions that differ in one word: what it would take to make one picture the other."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from counterpoint.mining.words import split
from counterpoint.views.words import STOP_WORDS


class Change(NamedTuple):
    """A question about an item: its caption with another word is that of other items.

    Attributes:
        row: of the item.
        before: the word of its caption that goes, in lower case.
        after: the word that comes.
        wanted: row of the first item that has the caption with it.
    """

    row: int
    before: str
    after: str
    wanted: int


def word_changes(captions: Sequence[str], each: int = 4, seed: int = 0) -> list[Change]:
    """Items whose captions differ in one word and share at least one, at the same places: "red heart", "blue heart".

    Case and punctuation do not count. Neither of the two words is a function word ("a cat", "the cat"), and numbers are
    words like others.

    Args:
        captions: of the items; an empty one is left out.
        each: at most so many changes of one item, drawn where there are more.
        seed: of the draw.

    Returns:
        the changes, item after item.
    """
    said = [tuple(word.lower() for word in split(caption)[0]) for caption in captions]
    first: dict[tuple[str, ...], int] = {}
    for row, words in enumerate(said):
        first.setdefault(words, row)
    frames: defaultdict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    for words in first:
        for place in _places(words):
            frames[place, words[:place] + words[place + 1 :]].append(words[place])
    rng, found = random.Random(seed), []
    for row, words in enumerate(said):
        known = [(place, frames[place, words[:place] + words[place + 1 :]]) for place in _places(words)]
        ends = list(accumulate(len(others) for _, others in known))
        count = ends[-1] if ends else 0
        able = []
        for at in sorted(rng.sample(range(count), min(count, each + len(known)))):  # among them its own words
            place, others = known[bisect_right(ends, at)]
            other = others[at - ends[bisect_right(ends, at)]]
            if other != words[place]:
                able.append(Change(row, words[place], other, first[(*words[:place], other, *words[place + 1 :])]))
        found += able if len(able) <= each else [able[k] for k in sorted(rng.sample(range(len(able)), each))]
    return found


def _places(words: tuple[str, ...]) -> list[int]:
    """Where a word may change: none of a single word, which would leave nothing to share."""
    return [place for place, word in enumerate(words) if word not in STOP_WORDS] if len(words) > 1 else []
