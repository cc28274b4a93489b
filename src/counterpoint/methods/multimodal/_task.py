"""What a language model learns from texts that stand for images (CLOSE): stand-ins, targets, questions of a batch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.methods.multimodal._multimodal import Multimodal

CAPTIONS = ("single", "multiple", "mean")
SOURCES = ("text", "image")
_OFTEN = 3
_WORDS, _BLOCK = 8192, 1024


class Examples(NamedTuple):
    """What a batch gives to learn from: B' rows with their stand-ins, targets and task texts."""

    rows: list[int]
    stand_ins: list[tuple[str, ...]]
    targets: list[tuple[str, ...]]
    questions: list[str] | None


@dataclass(frozen=True)
class Task:
    """Which texts stand for images, and what is to be written about them.

    Args:
        text, image: names of the modalities.
        spoken: whether ``text`` holds texts, and not vectors of texts.
        target: ``None``, the text itself; ``"label"``; or the name of a modality of texts.
        question: name of a modality of texts that is read too.
        labels: names of the classes, for ``target="label"``.
        captions: ``"single"``, ``"multiple"`` or ``"mean"``, see :class:`~counterpoint.methods.multimodal.close.CLOSE`.
        source: ``"text"``, or ``"image"`` for the rival.

    Raises:
        ValueError: names that are not known, and options that contradict each other.
    """

    text: str
    image: str
    spoken: bool
    target: str | None = None
    question: str | None = None
    labels: tuple[str, ...] = ()
    captions: str = "single"
    source: str = "text"

    def __post_init__(self) -> None:
        for name, value, known in (("captions", self.captions, CAPTIONS), ("source", self.source, SOURCES)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if self.target is None and self.captions == "mean":
            raise ValueError("captions: 'mean' is for a target of its own; captions of captions are single or multiple")
        if self.target is not None and self.captions == "multiple":
            raise ValueError("captions: 'multiple' has captions for targets; leave target out, or take single or mean")
        if self.target is None and not self.spoken:
            raise ValueError(f"target: {self.text!r} holds no texts; name the modality of texts that are to be written")
        if self.target == "label" and not self.labels:
            raise ValueError("names: the names of the classes are needed for target='label'")

    @property
    def std(self) -> float:
        """Noise of the official training script: of captions by what stands for them, of labels, of answers."""
        if self.target is None:
            return 0.12 if self.captions == "single" else 0.04
        return 0.08 if self.target == "label" else 0.04

    @property
    def written(self) -> str:
        """The modality of texts that what is written stands beside."""
        return self.text if self.target in (None, "label") else str(self.target)

    def examples(self, batch: Mapping[str, Any], drawn: bool = True) -> Examples:
        """The items of a batch that have all that is needed, with what stands for them and what is to be written.

        Args:
            batch: as a multimodal data set gives it.
            drawn: draw captions from torch's global generator; otherwise the first is taken.

        Raises:
            ValueError: the batch lacks the target or the question.
        """
        there = self._there(batch)
        said = [several(value) for value in batch[self.text]] if self.spoken else None
        found = Examples([], [], [], None if self.question is None else [])
        for row in there.nonzero()[:, 0].tolist():
            captions = () if said is None else said[row]
            if self.spoken and not captions and self.source == "text":
                continue
            stand_in, targets = self._split(captions, drawn)
            if self.target is not None:
                targets = self._targets(batch, row)
            question = several(batch[self.question][row])[:1] if self.question is not None else ("",)
            if not targets or not question:
                continue
            found.rows.append(row)
            found.stand_ins.append(stand_in)
            found.targets.append(targets)
            if found.questions is not None:
                found.questions.append(question[0])
        return found

    def _there(self, batch: Mapping[str, Any]) -> Tensor:
        """Bool (B,): the items that have the source, the target and the question."""
        needed = [self.text if self.source == "text" else self.image]
        needed += [name for name in (self.target or self.text, self.question) if name not in (None, "label")]
        for name in needed:
            if name not in batch:
                raise ValueError(f"modalities: this method needs {name!r}, and there are {', '.join(batch)}")
        both = Multimodal.both(batch, *needed)
        there = torch.ones(len(batch["index"]), dtype=torch.bool) if both is None else both.cpu()
        if self.target == "label":
            if "label" not in batch:
                raise ValueError("labels: target='label' needs labels; name their column with labels=")
            there = there & (batch["label"].cpu() >= 0)
        return there

    def _split(self, captions: tuple[str, ...], drawn: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Which captions stand for the image, and which are to be written."""
        if self.captions == "mean" or len(captions) < 1:
            return captions, ()
        at = int(torch.randint(len(captions), ())) if drawn else 0
        if self.source == "image":
            return captions[at : at + 1], captions
        others = captions[:at] + captions[at + 1 :]
        return captions[at : at + 1], captions[at : at + 1] if self.captions == "single" else others

    def _targets(self, batch: Mapping[str, Any], row: int) -> tuple[str, ...]:
        assert self.target is not None
        if self.target == "label":
            return (self.labels[int(batch["label"][row])],)
        return common_answers(several(batch[self.target][row]))


def vocabulary_of(dataset: Any, train: Any, target: str | None, question: str | None) -> list[str]:
    """The words of questions, targets and names of classes, the 8,192 most frequent, sorted."""
    counts: Counter[str] = Counter()
    if target == "label" and dataset.classes is not None:
        counts.update(_words(dataset.classes))
    for name in (target, question):
        if name in getattr(dataset, "kinds", {}) and dataset.kinds[name] == "text":
            for start in range(0, len(train), _BLOCK):
                block = dataset[train[start : start + _BLOCK]][name]
                counts.update(_words(text for value in block for text in several(value)))
    return sorted(word for word, _ in counts.most_common(_WORDS))


def common_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Of the answers that several people gave to a question: those given three times, or as often as the commonest."""
    counts = Counter(answers)
    most = max(counts.values(), default=0)
    return tuple(answer for answer, count in counts.items() if count >= min(_OFTEN, most))


def soft_answers(answers: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> Tensor:
    """What each answer of a vocabulary is worth to each question: ``min(count / 3, 1)``, VQA's soft score; (B, C).

    Args:
        answers: of each of B questions, what people said. Of fewer than three, the count is divided by how many they
            are, so that what all say is worth 1.
        vocabulary: C answers.
    """
    places = {answer: at for at, answer in enumerate(vocabulary)}
    worth = torch.zeros(len(answers), len(vocabulary))
    for row, said in enumerate(answers):
        for answer, count in Counter(said).items():
            if answer in places:
                worth[row, places[answer]] = min(count / min(_OFTEN, len(said)), 1.0)
    return worth


def plain_answer(text: str) -> str:
    """An answer as it is compared with others: in lower case, one space between words, without a full stop."""
    return " ".join(text.lower().split()).rstrip(".")


def several(value: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of an item that hold something."""
    return tuple(text for text in ([value] if isinstance(value, str) else value) if text.strip())


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in re.findall(r"\w+", text.lower())]
