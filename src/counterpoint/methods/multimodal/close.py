"""CLOSE: I Can't Believe There's No Images! (Gu, Clark & Kembhavi, ICCV 2023): trained on texts, used on images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders import (
    Adapter,
    MultimodalEncoder,
    TextGenerator,
    fit_adapters,
    make_adapter,
    mean_of_texts,
    small_t5,
    with_words,
)
from counterpoint.findings import Captions, Curves, Finding
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.objectives.inputs import normalize

CAPTIONS = ("single", "multiple", "mean")
SOURCES = ("text", "image")
SMALL = "small"
# of the official training script: for captions, for visual questions, for visual entailment
_NOISE = {"single": 0.12, "multiple": 0.04, "mean": 0.04, "answers": 0.08}
_PAIRS = 20_000  # from which adapters are estimated: enough for a covariance of 768 dimensions
_OFTEN = 3
_WORDS, _BLOCK = 8192, 1024
_CURVE = (0.0, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48)
_SHOWN = 16


class Example(NamedTuple):
    """What a batch gives to learn from: B' rows with their stand-ins, targets and task texts."""

    rows: list[int]
    stand_ins: list[tuple[str, ...]]
    targets: list[tuple[str, ...]]
    questions: list[str] | None


class CLOSE(Multimodal):
    """A small language model learns to speak from text vectors of a frozen CLIP, and then speaks about image vectors.

    Stage two: the encoder is that of a finished run of ``clip`` or of a relative, and all of it is frozen. The vector
    of a text stands for the image that it is about; an adapter blurs it or moves it, in training alone. Soft tokens of
    the vector, and the words of a question where there is one, go into an encoder-decoder, which learns to write the
    target. Items need no image for that. When it is used, it is given vectors of images, which no adapter touches.

    What it learns is told by ``target`` and ``question``:

    - *captioning*: neither; the caption itself is the target, or the item's other captions with
      ``captions="multiple"``;
    - *visual entailment*: ``target="label"`` and ``question`` the modality that holds the hypotheses, the premise being
      the text; the name of the class is written;
    - *visual questions*: ``question`` and ``target`` two modalities of texts, ``captions="mean"``; of several answers
      those count that are given three times at least, or as often as the most common one;
    - *news and the like*: captioning with the article as ``question``.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. The paper has AdamW with 3e-4 and
            a linear decay over 8 epochs for a pretrained T5; a small new one learns with the usual 1e-3.
        target: ``None``, the text itself; ``"label"``; or the name of a modality of texts.
        question: name of a modality of texts that the language model reads too.
        names: of the classes, for ``target="label"``; :func:`counterpoint.fit` knows.
        words: of questions, targets and classes, which :func:`counterpoint.fit` knows: what the vocabulary of the text
            tower cannot spell is added to that of the small language model.
        captions: what stands for an image that has several captions: ``"single"``, one of them, drawn anew each time,
            which is its own target; ``"multiple"``, one of them, with the others as targets; ``"mean"``, the mean of
            their raw vectors. The official code passes over all captions of an item in turn.
        source: ``"text"``; or ``"image"``, the rival that is trained on the vectors it is used on.
        adapter: of text vectors, see :func:`~counterpoint.encoders.make_adapter`. Those that need statistics are
            estimated before the first step, from up to 20,000 training items that have both text and image.
        std: ``w`` of the noise. ``None``, the official code's: 0.12 for single captions, 0.04 for multiple and for mean
            ones, 0.08 for labels and answers. They are for D = 768; in another space noise of ``std * sqrt(D)`` is as
            long.
        adapter_options: of the adapter, such as ``{"multiplier": 1}`` of the covariance.
        model: ``"small"``, a new T5 over the vocabulary of the text tower; or the folder of a pretrained
            encoder-decoder, or its name if it is on this machine. A run with one needs it again to be opened.
        width, layers, dropout: of the small one, see :func:`~counterpoint.encoders.small_t5`.
        tokens, constants, lowercase, compat: see :class:`~counterpoint.encoders.TextGenerator`.
        beams, length: of what is written; 5, and 32 tokens, which are the official code's for captions.
        text, image: names of the towers; by default the first of each kind. Vectors of a CLIP elsewhere are towers of
            kind vector.

    Raises:
        ValueError: an encoder that is not trained, towers or modalities that are not there, options that contradict
            each other.

    Reference: arXiv 2211.09778; official code: allenai/close. How its adapters were fitted, and on which pairs, is not
    published.
    """

    auto_views = "identity"

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        target: str | None = None,
        question: str | None = None,
        names: Sequence[str] | None = None,
        words: Sequence[str] = (),
        captions: str = "single",
        source: str = "text",
        adapter: str = "noise",
        std: float | None = None,
        adapter_options: dict[str, Any] | None = None,
        model: str = SMALL,
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.1,
        tokens: int = 4,
        constants: int = 0,
        lowercase: bool = True,
        compat: str | None = None,
        beams: int = 5,
        length: int = 32,
        text: str | None = None,
        image: str | None = None,
    ) -> None:
        if encoder.dim is None or encoder.head is None:
            raise ValueError(
                "encoder: this method writes about vectors of towers that are trained already; fit with clip first, "
                "and give the folder of that run as encoder"
            )
        super().__init__(encoder, views, recipe, encoder.dim, encoder.head, list(encoder.towers))
        encoder.requires_grad_(False)
        for name, value, known in (("captions", captions, CAPTIONS), ("source", source, SOURCES)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        self.text, self.image = (self._tower(*of) for of in (("text", text), ("image", image)))
        self.spoken = encoder.towers[self.text].kind == "text"
        if target is None and captions == "mean":
            raise ValueError("captions: 'mean' is for a target of its own; captions of captions are single or multiple")
        if target is not None and captions == "multiple":
            raise ValueError("captions: 'multiple' has captions for targets; leave target out, or take single or mean")
        if target is None and not self.spoken:
            raise ValueError(f"target: {self.text!r} holds no texts; name the modality of texts that are to be written")
        if target == "label" and not names:
            raise ValueError("names: the names of the classes are needed for target='label'")
        if source == "image" and adapter != "none":
            adapter = "none"  # images are never adapted
        self.target, self.question, self.labels = target, question, list(names or [])
        self.captions, self.source = captions, source
        noise = std if std is not None else _NOISE[captions if target is None or captions == "mean" else "answers"]
        adapted = make_adapter(adapter, encoder.dim, noise, **(adapter_options or {}))
        self.estimated = adapter not in ("none", "noise")
        how: dict[str, Any] = {"tokens": tokens, "constants": constants, "lowercase": lowercase, "compat": compat}
        if model == SMALL:
            tokenizer = with_words(encoder.towers[encoder.named("text")].encoder.tokenizer, words)
            made = small_t5(len(tokenizer), width, layers, dropout=dropout, pad=tokenizer.pad, end=tokenizer.eos)
            writer = TextGenerator(made, tokenizer, encoder.dim, **how)
        else:
            writer = TextGenerator.from_pretrained(model, encoder.dim, **how)
        self.projector = nn.ModuleDict({"adapter": adapted, "writer": writer})  # what is kept with the run
        self.beams, self.length = beams, length

    @classmethod
    def options_from(cls, dataset: Any, train: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Names of the classes, and the words of what is read and written besides the texts of the tower."""
        target, question = options.get("target"), options.get("question")
        chosen: dict[str, Any] = {}
        counts: Counter[str] = Counter()
        if target == "label" and dataset.classes is not None:
            chosen["names"] = list(dataset.classes)
            counts.update(_words(dataset.classes))
        for name in (target, question):
            if name in getattr(dataset, "kinds", {}) and dataset.kinds[name] == "text":
                for start in range(0, len(train), _BLOCK):
                    block = dataset[train[start : start + _BLOCK]][name]
                    counts.update(_words(text for value in block for text in _several(value)))
        if counts:
            chosen["words"] = sorted(word for word, _ in counts.most_common(_WORDS))
        return chosen

    def _tower(self, kind: str, name: str | None) -> str:
        if name is None:
            return self.encoder.named(kind)
        if name not in self.encoder.towers:
            raise ValueError(f"{kind}: there is no modality {name!r}; there are {', '.join(self.encoder.towers)}")
        return name

    @property
    def adapter(self) -> Adapter:
        """Of text vectors."""
        return self.projector["adapter"]  # type: ignore[index]

    @property
    def writer(self) -> TextGenerator:
        """What speaks about vectors."""
        return self.projector["writer"]  # type: ignore[index]

    def project(self, x: Any) -> Any:
        """As :meth:`forward`: a text is nothing that could be compared."""
        return self(x)

    def train(self, mode: bool = True) -> CLOSE:
        """As for any module, but the towers stay in evaluation mode, heads and all."""
        super().train(mode)
        self.encoder.eval()
        return self

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        found = self.examples(batch)
        if not found.rows:
            return torch.stack([p.sum() for p in self.projector.parameters()]).sum() * 0
        if self.source == "image":
            x = self.of_images(views[0][self.image][found.rows])
        elif self.spoken:
            x = self.of_texts(found.stand_ins)
        else:
            x = self.of_texts(views[0][self.text][found.rows])
        return self.writer(x, found.targets, found.questions)

    @torch.no_grad()
    def of_images(self, images: Any) -> Tensor:
        """Unit vectors (B, D) of images, as they are."""
        return normalize(self.encoder.towers[self.image](images).float())

    @torch.no_grad()
    def of_texts(self, texts: Any) -> Tensor:
        """Adapted vectors (B, D) of B texts, of B lists of texts, whose raw vectors are averaged, or of B vectors."""
        return self.adapter(self._raw(texts))

    def _raw(self, texts: Any) -> Tensor:
        tower = self.encoder.towers[self.text]
        if not self.spoken:
            return tower(texts).float()
        lists = [[each] if isinstance(each, str) else list(each) for each in texts]
        vectors = tower([text for some in lists for text in some]).float()
        owner = torch.tensor([item for item, some in enumerate(lists) for _ in some], device=vectors.device)
        return mean_of_texts(vectors, owner, len(lists))

    def say(
        self,
        inputs: Any,
        questions: Sequence[str] | None = None,
        source: str = "image",
        beams: int | None = None,
        length: int | None = None,
        **options: Any,
    ) -> list[str]:
        """What the language model says about images, or about texts.

        Args:
            inputs: B images as the tower takes them, uint8 or [0, 1]; with ``source="text"``, B texts.
            questions: B task texts, where it was trained with a question.
            source: ``"image"`` or ``"text"``.
            beams, length: by default the method's.
            options: see :meth:`~counterpoint.encoders.TextGenerator.generate`.

        Raises:
            ValueError: questions where there were none in training, or none where there were.
        """
        if (questions is None) != (self.question is None):
            asked = "without" if self.question is None else f"with the question {self.question!r}"
            raise ValueError(f"questions: this model was trained {asked}")
        training = self.training
        self.eval()
        try:
            x = self.of_images(inputs) if source == "image" else self.of_texts(inputs)
            return self.writer.generate(x, questions, beams or self.beams, length or self.length, **options)
        finally:
            self.train(training)

    @property
    def written(self) -> str:
        """The modality of texts that what it writes stands beside."""
        return self.text if self.target in (None, "label") else str(self.target)

    def write(self, batch: Mapping[str, Any]) -> list[str] | None:
        """What it says about the images of a batch, to be scored beside the texts of :attr:`written`.

        ``None`` where there is nothing to compare with: it writes names of classes, or an item lacks a target or a
        question.
        """
        if self.target == "label" or self.written not in batch:
            return None
        asked = None if self.question is None else [_several(value)[:1] for value in batch[self.question]]
        if not all(map(_several, batch[self.written])) or (asked is not None and not all(asked)):
            return None
        return self.say(batch[self.image], None if asked is None else [each[0] for each in asked])

    def examples(self, batch: Mapping[str, Any], drawn: bool = True) -> Example:
        """The items of a batch that have all that is needed, with what stands for them and what is to be written.

        Args:
            batch: as a multimodal data set gives it.
            drawn: draw captions from torch's global generator; otherwise the first is taken.

        Raises:
            ValueError: the batch lacks the target or the question.
        """
        there = self._there(batch)
        said = [_several(value) for value in batch[self.text]] if self.spoken else None
        found = Example([], [], [], None if self.question is None else [])
        for row in there.nonzero()[:, 0].tolist():
            captions = () if said is None else said[row]
            if self.spoken and not captions and self.source == "text":
                continue
            stand_in, targets = self._split(captions, drawn)
            if self.target is not None:
                targets = self._targets(batch, row)
            question = _several(batch[self.question][row])[:1] if self.question is not None else ("",)
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
        both = self.both(batch, *needed)
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
        return common_answers(_several(batch[self.target][row]))

    def on_train_start(self) -> None:
        if self.estimated:
            batches: Any = self.trainer.train_dataloader
            self.estimate(batches.items())

    @torch.no_grad()
    def estimate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Estimate the adapter from the items of batches that have both text and image.

        Raises:
            ValueError: fewer than two of them.
        """
        texts: list[Tensor] = []
        images: list[Tensor] = []
        for batch in batches:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            both = self.both(batch, self.text, self.image)
            rows = torch.arange(len(batch["index"])) if both is None else both.nonzero()[:, 0].cpu()
            if self.spoken:
                said = {row: _several(batch[self.text][row]) for row in rows.tolist()}
                rows = torch.tensor([row for row in said if said[row]], dtype=torch.int64)
                given: Any = [said[row] if self.captions == "mean" else said[row][:1] for row in rows.tolist()]
            else:
                given = batch[self.text][rows]
            if len(rows):
                texts.append(self._raw(given))
                images.append(self.of_images(batch[self.image][rows]))
            if sum(map(len, texts)) >= _PAIRS:
                break
        if sum(map(len, texts)) < 2:
            raise ValueError(
                f"adapter: it is estimated from training items with both {self.text!r} and {self.image!r}, and there "
                f"are {sum(map(len, texts))}; the noise needs none"
            )
        self.adapter.adopt(fit_adapters(torch.cat(texts), torch.cat(images)))

    def answers(self, dataset: Any, indices: Any, source: str = "image") -> tuple[list[str], list[tuple[str, ...]]]:
        """What is written about items that have image, text and whatever else is needed, and what should be.

        Args:
            dataset: ``dataset[indices]`` is a batch.
            indices: positions, at most a few hundred, which are read at once.
            source: ``"image"`` or ``"text"``.

        Returns:
            M texts, and for each of them the right ones, as the language model would write them.
        """
        images, texts, targets, questions = self._whole(dataset, indices)
        said = self.say(images if source == "image" else texts, questions, source) if targets else []
        return said, [tuple(map(self._spelled, each)) for each in targets]

    def _whole(self, dataset: Any, indices: Any) -> tuple[Any, Any, list[tuple[str, ...]], list[str] | None]:
        """Images, texts, targets and questions of the items that have all of them."""
        batch = self.transfer_batch_to_device(dataset[indices], self.device, 0)
        both = self.both(batch, self.text, self.image)
        found = self.examples(batch, drawn=False)
        kept = [at for at, row in enumerate(found.rows) if both is None or bool(both[row])]
        rows = [found.rows[at] for at in kept]
        texts = [found.stand_ins[at] for at in kept] if self.spoken else batch[self.text][rows]
        targets = [found.targets[at] for at in kept]
        if self.target is None:  # all of its captions are right for an image
            targets = [_several(batch[self.text][row]) for row in rows]
        questions = None if found.questions is None else [found.questions[at] for at in kept]
        return batch[self.image][rows], texts, targets, questions

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        images, texts, targets, questions = self._whole(dataset, indices)
        if not targets:
            return ()
        return [self._said(images, texts, targets, questions), self._curve(images, texts, targets, questions)]

    def _said(self, images: Any, texts: Any, targets: Any, questions: list[str] | None) -> Captions:
        """What is written about test items, beside what should be."""
        seen, read = self.say(images, questions), self.say(texts, questions, "text")
        right = [set(map(self._spelled, each)) for each in targets]
        shares = [np.mean([text in each for text, each in zip(said, right, strict=True)]) for said in (seen, read)]
        some = np.linspace(0, len(seen) - 1, min(len(seen), _SHOWN)).round().astype(int)
        columns = {"about the image": seen, "about its text": read, "right": [each[0] for each in targets]}
        columns = columns if questions is None else {"question": questions, **columns}
        drawn = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
        return Captions(
            "What it writes",
            f"Test items. The language model was trained on vectors of {self.source}s alone. Word for word right of "
            f"{len(seen)}: {shares[0]:.0%} of what it writes about images, {shares[1]:.0%} about their texts.",
            [[column[at] for column in columns.values()] for at in some],
            list(columns),
            images[some].permute(0, 2, 3, 1).cpu().numpy() if drawn else None,
        )

    def _curve(self, images: Any, texts: Any, targets: Any, questions: list[str] | None) -> Curves:
        """How surprised the language model is by the right words, the more the vector of the text is blurred."""
        unit = normalize(self.of_texts(texts))
        eps = torch.randn_like(unit)
        blurred = [float(self.writer(normalize(unit + w * eps), targets, questions)) for w in _CURVE]
        about = float(self.writer(self.of_images(images), targets, questions))
        return Curves(
            "How much noise it stands",
            "Cross entropy of the right words of test items, in nats a token, when the vector of the text is blurred "
            f"by noise of w in each of its {unit.shape[1]} coordinates, and when it is the vector of the image. Noise "
            f"in training was {self.adapter.std:g}. Where the lines cross, noise is to it as the gap between texts and "
            "images is.",
            np.array(_CURVE),
            {"blurred text": np.array(blurred), "image": np.full(len(_CURVE), about)},
            "noise w",
            "nats a token",
        )

    def _spelled(self, text: str) -> str:
        """A text as the language model would write it, had it learned it by heart."""
        tokenizer = self.writer.tokenizer
        text = text.lower() if self.writer.lowercase else text
        return tokenizer.decode(tokenizer.encode([text]))[0].strip()


def common_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Of the answers that several people gave to a question: those given three times, or as often as the commonest."""
    counts = Counter(answers)
    most = max(counts.values(), default=0)
    return tuple(answer for answer, count in counts.items() if count >= min(_OFTEN, most))


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in re.findall(r"\w+", text.lower())]


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of an item that hold something."""
    return tuple(text for text in ([value] if isinstance(value, str) else value) if text.strip())
