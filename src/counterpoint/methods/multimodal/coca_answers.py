"""CoCa fine-tuned to answer questions about images (Yu et al., TMLR 2022: the multimodal understanding tasks)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from counterpoint.data import first_text
from counterpoint.encoders import MultimodalEncoder
from counterpoint.findings import Captions
from counterpoint.methods.base import Recipe, labels_of
from counterpoint.methods.multimodal._coca import CoCaModel
from counterpoint.methods.multimodal._figures import beside_each_other, pictures_of
from counterpoint.methods.multimodal._multimodal import View, some_rows
from counterpoint.methods.multimodal._task import common_answers, plain_answer, several, soft_answers
from counterpoint.pairwise import gather

_SHOWN = 12
_ANSWERS = 3129
_BLOCK = 1024


class CoCaAnswers(CoCaModel):
    """A text about an image, classified: the decoder reads both, and a linear layer its state at the text's last token.

    So CoCa answers questions (the text is the question and the classes are the most frequent answers), judges
    entailment (the text is the hypothesis), and says whether a sentence is true of two images (NLVR2). Image, text and
    labels are named like those of any data; ``encoder`` is the folder of a ``coca`` run, whose poolers and both halves
    of whose decoder go on, all of them trained along. Without one it learns from scratch.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C; :func:`counterpoint.fit` knows.
        layout, n_queries, pool_width, depth, freeze, compat: see :class:`~counterpoint.methods.multimodal.coca.CoCa`;
            towers of a run have these already, and ``depth``, if it was given there, is to be given here.
        beside: names of further modalities of images, of the shape of the first. The same weights read each with the
            text, and the classifier sees the states of all of them, side by side: two for NLVR2, whose second image is
            read so. By default all images that the data have beside the first.
        answers: name of a modality of texts, what people answered: one answer, or several people's. It takes the place
            of labels: an answer is worth ``min(count / 3, 1)`` of how many gave it, VQA's soft score, and where fewer
            than three people were asked, their share. The loss is then binary cross entropy, summed over the answers,
            as is usual for VQA (Teney et al. 2018), since the paper does not say; and the score is ``vqa``, what the
            answer given is worth. Case, and space around an answer, count for nothing.
        vocabulary: with ``answers``, the C that can be given; by default the most frequent in training, up to 3,129,
            which is VQA's usual number.

    An item is trained on where it has all images, text, and label or an answer. One that lacks an image or the text
    later has a state of zeros, and gets the answer that is likely without knowing anything.

    Raises:
        ValueError: fewer than two classes, neither labels nor ``answers``, ``beside`` or ``answers`` that are no
            modality or of another kind or shape, and as :class:`~counterpoint.methods.multimodal.coca.CoCa`.

    Reference: arXiv 2205.01917; the paper released no code. The loss of soft scores: arXiv 1708.02711, section 3.

    Relations: ``fusion`` classifies by the vectors of both, which have not seen each other.
    """

    labelled_only = True

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        layout: str = "cascade",
        n_queries: int = 16,
        pool_width: int | None = None,
        depth: int | None = None,
        freeze: str | Sequence[str] = (),
        compat: str | None = None,
        beside: str | Sequence[str] = (),
        answers: str | None = None,
        vocabulary: Sequence[str] = (),
    ) -> None:
        self.beside = [beside] if isinstance(beside, str) else list(beside)
        self.answers, self.own_classes = answers, [plain_answer(each) for each in vocabulary]
        if answers is None and vocabulary:
            raise ValueError("vocabulary: it is of answers; name their modality with answers")
        classes = classes if answers is None else len(self.own_classes)
        if classes < 2:
            raise ValueError(f"{'classes' if answers is None else 'vocabulary'}: expected at least 2, got {classes}")
        if len(set(self.own_classes)) < len(self.own_classes):
            raise ValueError("vocabulary: expected different answers, and some are alike in lower case")
        for name in (*self.beside, answers):  # one encoder reads all images, and answers are not read
            if name in encoder.towers:
                del encoder.towers[name]
        dim, head = encoder.dim or 128, encoder.head or "linear"
        super().__init__(
            encoder, views, recipe, dim, head, layout, n_queries, pool_width, depth, freeze, compat
        )  # fmt: skip
        self.classifier = nn.Linear(self.texts.backbone.features * (1 + len(self.beside)), classes)
        self.without_contrast()
        self.projector.output.requires_grad_(False)

    @classmethod
    def options_from(cls, dataset: Any, train: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        kinds, shapes = dataset.kinds, dataset.shapes
        images = [name for name, kind in kinds.items() if kind in ("image", "video")]
        beside = options.get("beside", images[1:])
        beside = [beside] if isinstance(beside, str) else list(beside)
        for name in beside:
            first = next((other for other in images if other not in beside), None)
            if name not in images or first is None or shapes[name] != shapes[first]:
                told = ", ".join(f"{each} of {shapes[each]}" for each in images)
                raise ValueError(
                    f"beside: expected images of the shape of the first, got {name!r}, and there are {told}; "
                    "image_size brings them to one"
                )
        answers = options.get("answers")
        if answers is None:
            if dataset.labels is None:
                raise ValueError(
                    f"labels: 'coca_answers' needs labels, and {dataset.name!r} has none; name their column with "
                    "labels, or a modality of texts with the option answers"
                )
            return {"beside": beside}
        if kinds.get(answers) != "text":
            told = ", ".join(name for name, kind in kinds.items() if kind == "text")
            raise ValueError(f"answers: expected the name of a modality of texts, {told}, got {answers!r}")
        counts: Counter[str] = Counter()
        for start in range(0, len(train), _BLOCK):
            for value in dataset[train[start : start + _BLOCK]][answers]:
                counts.update(plain_answer(each) for each in several(value))
        likely = sorted(counts, key=lambda answer: (-counts[answer], answer))[:_ANSWERS]
        return {"beside": beside, "vocabulary": likely}

    @property
    def viewed(self) -> list[str]:
        return [*self.names, *self.beside]

    def read(self, images: Tensor, texts: Sequence[Any]) -> Tensor:
        """The decoder's state (M, W) at the last token of each text, with its image in view."""
        half, (ids, mask) = self.texts.backbone, self.texts.tokenize(texts)
        states = self.projector.hidden(half.states(ids, mask), self.see(images).tokens)
        return half.pool(states, mask)

    def read_all(self, images: Sequence[Tensor], texts: Sequence[Any]) -> Tensor:
        """The states (M, n * W) of texts with each of their n images, side by side."""
        states = self.read(torch.cat(list(images)), list(texts) * len(images))
        return torch.cat(states.split(len(texts)), 1)

    def whole(self, view: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """Rows (M,) of the items that have the text and all images."""
        needed = [*self.names, *self.beside]
        there = self.both(batch, *(name for name in needed if name in view))
        items = max((len(view[name]) for name in needed if name in view), default=0)
        if not all(name in view for name in needed):
            there = torch.zeros(items, dtype=torch.bool)
        return torch.arange(items) if there is None else there.nonzero()[:, 0].cpu()

    def of_rows(self, view: Mapping[str, Any], rows: Tensor) -> Tensor:
        """The states (M, n * W) of some items of a batch."""
        return self.read_all(
            [view[name][rows] for name in (self.image, *self.beside)], some_rows(view[self.written], rows)
        )

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        rows = self.whole(views[0], batch)
        known = labels_of(batch) >= 0 if self.answers is None else self.worth(batch)[1]
        rows = rows[known.cpu()[rows]]
        if not self.everywhere(len(rows), self.device):
            return self.nothing({})
        logits = self.classifier(self.of_rows(views[0], rows)).float()
        if self.answers is None:
            return gather(nn.functional.cross_entropy(logits, labels_of(batch)[rows], reduction="none")).mean()
        worth = self.worth(batch)[0][rows].to(logits)
        return gather(nn.functional.binary_cross_entropy_with_logits(logits, worth, reduction="none").sum(1)).mean()

    def worth(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What each answer (B, C) is worth, and bool (B,), for which questions anybody answered anything."""
        if self.answers is None or self.answers not in batch:
            raise ValueError(f"answers: there is no modality {self.answers!r}; there are {', '.join(batch)}")
        said = [[plain_answer(each) for each in several(value)] for value in batch[self.answers]]
        return soft_answers(said, self.own_classes), torch.tensor([bool(each) for each in said], dtype=torch.bool)

    def fused(self, batch: Mapping[str, Any], z: Mapping[str, Tensor]) -> Tensor:
        """(B, n * W), what the classifier sees of the items of a batch; zeros for those that lack an image or text."""
        rows = self.whole(batch, batch)
        items = max(len(batch[name]) for name in (*self.names, *self.beside) if name in batch)
        found = torch.zeros(items, self.classifier.in_features, device=self.device)
        if len(rows):
            found[rows] = self.of_rows(batch, rows).to(found)
        return found

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (B, C) of a batch as it is, in evaluation mode; the mode is restored.

        A modality that none of its items has may be absent from the batch.
        """
        training = self.training
        self.eval()
        try:
            return self.classifier(self.fused(move_data_to_device(batch, self.device), {})).float()
        finally:
            self.train(training)

    def answer_scores(self, batch: Mapping[str, Any]) -> Tensor | None:
        """What the answers given to questions are worth, (B,), NaN where nobody answered; ``None`` for labels."""
        if self.answers is None:
            return None
        worth, known = self.worth(batch)
        given = worth.gather(1, self.predict(batch).argmax(1, keepdim=True).cpu())[:, 0]
        return given.masked_fill(~known, torch.nan)

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        there = np.logical_and.reduce([dataset.present(name)[indices] for name in (*self.names, *self.beside)])
        if self.answers is not None:
            there = there & dataset.present(self.answers)[indices]
        elif dataset.labels is None or dataset.classes is None:
            return ()
        else:
            there = there & (dataset.labels[indices] >= 0)
        some = np.asarray(indices)[there][:_SHOWN]
        if not len(some):
            return ()
        batch = dataset[some]
        classes = self.own_classes or list(map(str, dataset.classes))
        said = [classes[at] for at in self.predict(batch).argmax(1).tolist()]
        if self.answers is None:
            right = [classes[at] for at in dataset.labels[some]]
        else:
            every = [[plain_answer(each) for each in several(value)] for value in batch[self.answers]]
            right = [", ".join(common_answers(each)) for each in every]
        rows = [[first_text(text), *told] for text, *told in zip(batch[self.written], said, right, strict=True)]
        about = f"Test items with their {self.written}, the answer of the model, and the right one."
        shown = beside_each_other([pictures_of(batch[name]) for name in (self.image, *self.beside)])
        return [Captions("Answers", about, rows, [self.written, "answered", "right"], shown)]
