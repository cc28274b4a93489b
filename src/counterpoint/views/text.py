"""The vocabulary for texts: lists of B strings, each changed by a draw of its own.

What these change is small on purpose: a caption whose articles are gone, or two of whose words have changed places,
still says what is in the picture, and so the picture still goes with it. Words are what stands between spaces;
punctuation at their ends is not part of them when they are looked up. A text that a transform leaves alone comes back
as it was, spaces included, and none becomes empty that was not.

``Synonyms``, ``RandomSwap`` and ``RandomDeletion`` are three of the four operations of EDA (Wei & Zou, EMNLP 2019,
arXiv 1901.11196), as Fini et al. (TMLR 2023, arXiv 2305.08675) use them for captions.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch

from counterpoint.views.transform import Dice, Transform, is_number
from counterpoint.views.words import CAPTION_SYNONYMS, STOP_WORDS, freeze, thesaurus

_WORD = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


@dataclass(frozen=True)
class TextTransform(Transform):
    """A random change of texts: ``transform(["a cat", "a dog"]) -> list of as many texts``."""

    def __call__(self, x: Sequence[str], generator: torch.Generator | None = None) -> list[str]:
        """Return the changed texts, in their order."""
        check_texts(x)
        return self.apply(list(x), Dice(x, generator))

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Change texts that have been checked, with randomness from ``dice``."""
        raise NotImplementedError

    def check_count(self, name: str) -> None:
        """Require the named parameter to be a whole number of at least 1."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(name, "a whole number of at least 1")


@dataclass(frozen=True)
class Caption(TextTransform):
    """Choose one of an item's several captions.

    The only transform that takes them; a pipeline without one begins with ``Caption()`` where there are several. Each
    view of an item has a draw of its own.

    Args:
        which: ``"random"``, or the number of one, 0 for the first and -1 for the last; an item that has fewer gives its
            last, or for a negative number its first. One that has none gives an empty text.
    """

    which: str | int = "random"
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require a number, or ``"random"``."""
        if self.which != "random" and (isinstance(self.which, bool) or not isinstance(self.which, int)):
            raise self.fail("which", "'random' or the number of a caption")

    def __call__(self, x: Sequence[str | Sequence[str]], generator: torch.Generator | None = None) -> list[str]:
        """Return a text of each item."""
        check_texts(x, several=True)
        return self.apply(list(x), Dice(x, generator))

    def apply(self, x: list[Any], dice: Dice) -> list[str]:
        """Choose."""
        if self.which == "random":
            draws = dice.uniform().tolist()
            return [_pick(t, int(u * len(t))) for t, u in zip(x, draws, strict=True)]
        at = int(self.which)
        return [_pick(t, max(-len(t), min(at, len(t) - 1))) for t in x]


@dataclass(frozen=True)
class Clean(TextTransform):
    """Undo HTML escapes, make every run of white space one blank, and write in lower case; not random.

    As the authors prepare the captions of YFCC before they change them, but for ``ftfy``, which repairs wrongly decoded
    text and is a package of its own.

    Args:
        lower: whether to write in lower case. Default ``True``.
    """

    lower: bool = True
    modality: ClassVar[str] = "text"

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Clean."""
        clean = [" ".join(html.unescape(html.unescape(text)).split()) for text in x]
        return [text.lower() for text in clean] if self.lower else clean


@dataclass(frozen=True)
class StopWords(TextTransform):
    """With probability ``p`` remove all function words of a text; one that has no other words stays as it is.

    Args:
        p: of a text, not of a word. Default 0.8, as in the paper; 0.9 for its ResNet-50 on YFCC.
        words: what is removed, in any case; ``None`` is :data:`~counterpoint.views.words.STOP_WORDS`, a list of our own
            (the authors have NLTK's, which also removes "not" and "no").
    """

    p: float = 0.8
    words: tuple[str, ...] | None = None
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require a probability and words."""
        self.check_probability("p")
        if self.words is not None and not (
            isinstance(self.words, tuple) and all(isinstance(word, str) for word in self.words)
        ):
            raise self.fail("words", "a list of words, or nothing for the usual ones")

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Remove the words."""
        words = STOP_WORDS if self.words is None else {word.lower() for word in self.words}
        return [self._without(t, words) if go else t for t, go in zip(x, dice.chance(self.p).tolist(), strict=True)]

    def _without(self, text: str, words: Any) -> str:
        every = text.split()
        kept = [word for word in every if _split(word)[1].lower() not in words]
        return " ".join(kept) if 0 < len(kept) < len(every) else text


@dataclass(frozen=True)
class Synonyms(TextTransform):
    """Replace ``n`` words of a text, where it has so many that have a synonym, each by one drawn from its synonyms.

    Case of the first letter and punctuation stay.

    Args:
        n: words of a text. Default 1, as in the authors' code.
        table: what may stand for what: ``"captions"``, everyday words of captions, some 70 groups of our own; a mapping
            from words to their synonyms; a list of groups of words that may stand for each other; or the path of a file
            of either or of WordNet's folder, see :mod:`~counterpoint.views.words`. The authors have WordNet.
    """

    n: int = 1
    table: Any = "captions"
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require a count, and a table that can be read."""
        self.check_count("n")
        try:
            object.__setattr__(self, "table", freeze("table", self.table))
            self._known()
        except (OSError, ValueError) as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Replace the words."""
        known, draws = self._known(), dice.uniform(0.0, 1.0, 2 * self.n).tolist()
        return [self._replace(text, known, numbers) for text, numbers in zip(x, draws, strict=True)]

    def _known(self) -> dict[str, tuple[str, ...]]:
        return thesaurus(CAPTION_SYNONYMS if self.table == "captions" else self.table)

    def _replace(self, text: str, known: dict[str, tuple[str, ...]], numbers: list[float]) -> str:
        words = text.split()
        able = [i for i, word in enumerate(words) if _split(word)[1].lower() in known]
        if not able:
            return text
        for u, v in zip(numbers[::2], numbers[1::2], strict=True):
            if not able:
                break
            i = able.pop(int(u * len(able)))
            before, word, after = _split(words[i])
            choice = known[word.lower()]
            new = choice[int(v * len(choice))]
            words[i] = before + (new[:1].upper() + new[1:] if word[:1].isupper() else new) + after
        return " ".join(words)


@dataclass(frozen=True)
class RandomSwap(TextTransform):
    """Let two words of a text change places, ``n`` times.

    Args:
        n: times. Default 1, as in the authors' code.
    """

    n: int = 1
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require a count."""
        self.check_count("n")

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Swap."""
        draws = dice.uniform(0.0, 1.0, 2 * self.n).tolist()
        return [self._swap(text, numbers) for text, numbers in zip(x, draws, strict=True)]

    def _swap(self, text: str, numbers: list[float]) -> str:
        words = text.split()
        if len(words) < 2:
            return text
        for u, v in zip(numbers[::2], numbers[1::2], strict=True):
            i, j = int(u * len(words)), int(v * (len(words) - 1))
            j += j >= i  # any but i
            words[i], words[j] = words[j], words[i]
        return " ".join(words)


@dataclass(frozen=True)
class RandomDeletion(TextTransform):
    """Delete each word of a text with probability ``p``; where all would go, one stays.

    Args:
        p: of a word. Default 0.1, as in EDA.
    """

    p: float = 0.1
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require a probability."""
        self.check_probability("p")

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Delete."""
        words = [text.split() for text in x]
        draws = dice.uniform(0.0, 1.0, 1 + max(map(len, words))).tolist()
        return [self._delete(text, w, numbers) for text, w, numbers in zip(x, words, draws, strict=True)]

    def _delete(self, text: str, words: list[str], numbers: list[float]) -> str:
        kept = [word for word, u in zip(words, numbers, strict=False) if u >= self.p]
        if len(kept) == len(words):
            return text
        return " ".join(kept) if kept else words[int(numbers[-1] * len(words))]


@dataclass(frozen=True)
class OneOf(TextTransform):
    """Apply exactly one of several transforms to each text, drawn by their weights.

    Args:
        transforms: at least one.
        weights: one for each, not negative, of any sum above 0; ``None``: all alike.
    """

    transforms: tuple[TextTransform, ...]
    weights: tuple[float, ...] | None = None
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require transforms of texts, and as many weights."""
        usable = isinstance(self.transforms, tuple) and len(self.transforms) > 0
        if not usable or not all(isinstance(t, TextTransform) for t in self.transforms):
            raise self.fail("transforms", "a list of at least one transform of texts")
        if self.weights is None:
            return
        numbers = isinstance(self.weights, tuple) and all(is_number(w) and w >= 0 for w in self.weights)
        if not numbers or len(self.weights) != len(self.transforms) or not sum(self.weights) > 0:
            raise self.fail("weights", f"{len(self.transforms)} numbers of at least 0, not all 0")

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Apply to each text the transform that it drew."""
        ends = list(accumulate(self.weights or [1.0] * len(self.transforms)))
        drawn = (dice.uniform().double() * ends[-1]).tolist()
        choice = [next(k for k, end in enumerate(ends) if u < end) for u in drawn]
        changed = list(x)
        for k, transform in enumerate(self.transforms):
            mine = [i for i, chosen in enumerate(choice) if chosen == k]
            if mine:
                some = [x[i] for i in mine]
                for i, text in zip(mine, transform.apply(some, Dice(some, dice.generator)), strict=True):
                    changed[i] = text
        return changed


@dataclass(frozen=True)
class Prompt(TextTransform):
    """Put each text into a sentence, drawn from several: class names become captions.

    Args:
        templates: each with ``{}`` once, where the text goes. Default ``"a photo of a {}."``, CLIP's.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)
    modality: ClassVar[str] = "text"

    def validate(self) -> None:
        """Require templates with one gap each."""
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        usable = isinstance(self.templates, tuple) and len(self.templates) > 0
        if not usable or not all(isinstance(t, str) and t.count("{}") == 1 for t in self.templates):
            raise self.fail("templates", "sentences with {} once in each, where the text goes")

    def apply(self, x: list[str], dice: Dice) -> list[str]:
        """Fill the gaps."""
        draws = (dice.uniform() * len(self.templates)).tolist()
        return [self.templates[int(u)].replace("{}", text) for text, u in zip(x, draws, strict=True)]


def is_texts(x: object) -> bool:
    """Whether ``x`` is a list of texts, or of several texts each."""
    return isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(text, str | list | tuple) for text in x)


def check_texts(x: object, several: bool = False) -> None:
    """Require a list of at least one text; with ``several``, an item may be a list of them, or of none.

    Raises:
        ValueError: anything else, with the place of what does not fit.
    """
    if isinstance(x, str) or not isinstance(x, list | tuple):
        hint = "; a single text needs [x]" if isinstance(x, str) else ""
        raise ValueError(f"x must be a list of texts, got {type(x).__name__}{hint}.")
    if not x:
        raise ValueError("x must not be empty, got no texts.")
    for i, text in enumerate(x):
        if isinstance(text, str):
            continue
        if not isinstance(text, list | tuple):
            raise ValueError(f"x must hold texts, got {type(text).__name__} at {i}; a text that is missing is ''.")
        if not several:
            raise ValueError(f"x must hold texts, got several at {i}; Caption() chooses one of them.")
        if not all(isinstance(each, str) for each in text):
            raise ValueError(f"x must hold texts, got {text!r} at {i}.")


def _pick(texts: Any, at: int) -> str:
    """The text of an item, or that of its texts, if any."""
    return texts if isinstance(texts, str) else str(texts[at]) if len(texts) else ""


def _split(word: str) -> tuple[str, str, str]:
    """What stands before a word, the word, and what stands after it."""
    found = _WORD.match(word)
    assert found is not None
    before, core, after = found.groups()
    return before, core, after
