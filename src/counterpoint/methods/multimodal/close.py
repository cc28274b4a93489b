"""CLOSE: I Can't Believe There's No Images! (Gu, Clark & Kembhavi, ICCV 2023): trained on texts, used on images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
from counterpoint.findings import Finding
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.methods.multimodal._speech import speech
from counterpoint.methods.multimodal._task import Task, several, vocabulary_of
from counterpoint.objectives import CaptionLoss
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather

SMALL = "small"
_PAIRS = 20_000  # from which adapters are estimated: enough for a covariance of 768 dimensions
_IGNORED = -100


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
            estimated before the first step, from up to 20,000 training items (a process) that have both text and image.
        std: ``w`` of the noise. ``None``, the official code's: 0.12 for single captions, 0.04 for multiple ones,
            0.08 for labels, 0.04 for answers. They are for D = 768; in another space noise of ``std * sqrt(D)`` is as
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
    paired = False

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
        self.text, self.image = (self._tower(*of) for of in (("text", text), ("image", image)))
        spoken = encoder.towers[self.text].kind == "text"
        self.task = Task(self.text, self.image, spoken, target, question, tuple(names or ()), captions, source)
        if source == "image" and adapter != "none":
            adapter = "none"  # images are never adapted
        noise = self.task.std if std is None else std
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
        self.objective = CaptionLoss(_IGNORED)
        self.beams, self.length = beams, length

    @classmethod
    def options_from(cls, dataset: Any, train: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Names of the classes, and the words of what is read and written besides the texts of the tower."""
        target, question = options.get("target"), options.get("question")
        chosen: dict[str, Any] = {}
        if target == "label" and dataset.classes is not None:
            chosen["names"] = list(dataset.classes)
        if words := vocabulary_of(dataset, train, target, question):
            chosen["words"] = words
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
        found = self.task.examples(batch)
        if not self.everywhere(len(found.rows), self.device):
            return self.nothing({})
        if self.task.source == "image":
            x = self.of_images(views[0][self.image][found.rows])
        elif self.task.spoken:
            x = self.of_texts(found.stand_ins)
        else:
            x = self.of_texts(views[0][self.text][found.rows])
        return self.objective(*self.writer.scored(x, found.targets, found.questions))

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
        if not self.task.spoken:
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
        question = self.task.question
        if (questions is None) != (question is None):
            asked = "without" if question is None else f"with the question {question!r}"
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
        return self.task.written

    def write(self, batch: Mapping[str, Any]) -> list[str] | None:
        """What it says about the images of a batch, to be scored beside the texts of :attr:`written`.

        ``None`` where there is nothing to compare with: it writes names of classes, or an item lacks a target or a
        question.
        """
        if self.task.target == "label" or self.written not in batch:
            return None
        question = self.task.question
        asked = None if question is None else [several(value)[:1] for value in batch[question]]
        if not all(map(several, batch[self.written])) or (asked is not None and not all(asked)):
            return None
        return self.say(batch[self.image], None if asked is None else [each[0] for each in asked])

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
            if self.task.spoken:
                said = {row: several(batch[self.text][row]) for row in rows.tolist()}
                rows = torch.tensor([row for row in said if said[row]], dtype=torch.int64)
                given: Any = [said[row] if self.task.captions == "mean" else said[row][:1] for row in rows.tolist()]
            else:
                given = batch[self.text][rows]
            if len(rows):
                texts.append(self._raw(given))
                images.append(self.of_images(batch[self.image][rows]))
            if sum(map(len, texts)) >= _PAIRS:
                break
        none = torch.zeros(0, self.encoder.dim or 0, device=self.device)
        seen, read = (gather(torch.cat([none, *parts])) for parts in (images, texts))  # of all processes
        if len(read) < 2:
            raise ValueError(
                f"adapter: it is estimated from training items with both {self.text!r} and {self.image!r}, and there "
                f"are {len(read)}; the noise needs none"
            )
        self.adapter.adopt(fit_adapters(read, seen))

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
        return said, [tuple(map(self.spelled, each)) for each in targets]

    def _whole(self, dataset: Any, indices: Any) -> tuple[Any, Any, list[tuple[str, ...]], list[str] | None]:
        """Images, texts, targets and questions of the items that have all of them."""
        batch = self.transfer_batch_to_device(dataset[indices], self.device, 0)
        both = self.both(batch, self.text, self.image)
        found = self.task.examples(batch, drawn=False)
        kept = [at for at, row in enumerate(found.rows) if both is None or bool(both[row])]
        rows = [found.rows[at] for at in kept]
        texts = [found.stand_ins[at] for at in kept] if self.task.spoken else batch[self.text][rows]
        targets = [found.targets[at] for at in kept]
        if self.task.target is None:  # all of its captions are right for an image
            targets = [several(batch[self.text][row]) for row in rows]
        questions = None if found.questions is None else [found.questions[at] for at in kept]
        return batch[self.image][rows], texts, targets, questions

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        images, texts, targets, questions = self._whole(dataset, indices)
        if not targets:
            return ()
        return speech(self, images, texts, targets, questions)

    def spelled(self, text: str) -> str:
        """A text as the language model would write it, had it learned it by heart."""
        tokenizer = self.writer.tokenizer
        text = text.lower() if self.writer.lowercase else text
        return tokenizer.decode(tokenizer.encode([text]))[0].strip()
