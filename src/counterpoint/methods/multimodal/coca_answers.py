"""CoCa fine-tuned to answer questions about images (Yu et al., TMLR 2022: the multimodal understanding tasks)."""

from __future__ import annotations

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
from counterpoint.methods.multimodal._multimodal import View
from counterpoint.pairwise import gather

_SHOWN = 12


class CoCaAnswers(CoCaModel):
    """A text about an image, classified: the decoder reads both, and a linear layer its state at the text's last token.

    So CoCa answers questions (the text is the question and the classes are the most frequent answers; 3,129 of them in
    VQA) and judges entailment (the text is the hypothesis). Image, text and labels are named like those of any data;
    ``encoder`` is the folder of a ``coca`` run, whose poolers and both halves of whose decoder go on, all of them
    trained along. Without one it learns from scratch.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C; :func:`counterpoint.fit` knows.
        layout, n_queries, pool_width, depth, freeze, compat: see :class:`~counterpoint.methods.multimodal.coca.CoCa`;
            towers of a run have these already, and ``depth``, if it was given there, is to be given here.

    An item is trained on where it has image, text and label. One that lacks image or text later has a state of zeros,
    and gets the answer that is likely without knowing anything.

    Each item has one right answer here, and cross entropy is its loss; VQA's soft scores, of several people's answers,
    are not there. Pairs of images about one sentence (NLVR2) are not either.

    Raises:
        ValueError: fewer than two classes, and as :class:`~counterpoint.methods.multimodal.coca.CoCa`.

    Reference: arXiv 2205.01917; the paper released no code.

    Relations: ``fusion`` classifies by the vectors of both, which have not seen each other.
    """

    needs_labels = True
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
    ) -> None:
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        dim, head = encoder.dim or 128, encoder.head or "linear"
        super().__init__(
            encoder, views, recipe, dim, head, layout, n_queries, pool_width, depth, freeze, compat
        )  # fmt: skip
        self.classifier = nn.Linear(self.texts.backbone.features, classes)
        self.without_contrast()
        self.projector.output.requires_grad_(False)

    def read(self, images: Tensor, texts: Sequence[Any]) -> Tensor:
        """The decoder's state (M, W) at the last token of each text, with its image in view."""
        half, (ids, mask) = self.texts.backbone, self.texts.tokenize(texts)
        states = self.projector.hidden(half.states(ids, mask), self.see(images).tokens)
        return half.pool(states, mask)

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        images, texts, there = self.whole_pairs(views[0], batch)
        labels = labels_of(batch)
        labels = labels if there is None else labels[there]
        rows = (labels >= 0).nonzero()[:, 0]
        if not self.everywhere(len(rows), self.device):
            return self.nothing({})
        logits = self.classifier(self.read(images[rows], [texts[at] for at in rows.tolist()])).float()
        return gather(nn.functional.cross_entropy(logits, labels[rows], reduction="none")).mean()

    def fused(self, batch: Mapping[str, Any], z: Mapping[str, Tensor]) -> Tensor:
        """(B, W), what the classifier sees of the items of a batch; zeros for those that lack image or text."""
        images, texts, there = self.whole_pairs(batch, batch)
        if there is None:
            return self.read(images, texts)
        found = torch.zeros(len(there), self.texts.backbone.features, device=self.device)
        if len(images):
            found[there] = self.read(images, texts).to(found)
        return found

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (B, C) of a batch as it is, in evaluation mode; the mode is restored."""
        training = self.training
        self.eval()
        try:
            return self.classifier(self.fused(move_data_to_device(batch, self.device), {})).float()
        finally:
            self.train(training)

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        labels = np.zeros(0) if dataset.labels is None else dataset.labels[indices]
        there = dataset.present(self.image)[indices] & dataset.present(self.written)[indices] & (labels >= 0)
        some = np.asarray(indices)[there][:_SHOWN]
        if not len(some) or dataset.classes is None:
            return ()
        batch = dataset[some]
        said = [str(dataset.classes[at]) for at in self.predict(batch).argmax(1).tolist()]
        right = [str(dataset.classes[at]) for at in dataset.labels[some]]
        rows = [[first_text(text), *told] for text, *told in zip(batch[self.written], said, right, strict=True)]
        images = batch[self.image].permute(0, 2, 3, 1).numpy()
        about = f"Test items with their {self.written}, the answer of the model, and the right one."
        shown = images if images.shape[-1] in (1, 3) else None
        return [Captions("Answers", about, rows, [self.written, "answered", "right"], shown)]
