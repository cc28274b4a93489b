"""NegCLIP: CLIP with hard negative captions (Yuksekgonul et al., ICLR 2023), in the form of DeGLA's base loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.data import first_text
from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.mining import CaptionNegatives, read_negatives
from counterpoint.mining.captions import KINDS
from counterpoint.objectives import HardNegativeCLIPLoss
from counterpoint.objectives.inputs import normalize, positive
from counterpoint.pairwise import gather_labels


class Rewritten(NamedTuple):
    """The pairs of a batch: images, B captions, B x K negatives one caption after the other, and which there are."""

    images: Any
    captions: list[str]
    negatives: list[str]
    mask: Tensor  # (B, K)


def start(temperature: float | str, encoder: MultimodalEncoder) -> float:
    """The number that a temperature means: ``"trained"`` is that of the run that left the encoder.

    Raises:
        ValueError: another word, or an encoder that keeps none.
    """
    if not isinstance(temperature, str):
        positive(temperature=temperature)
        return temperature
    if temperature != "trained" or "scale" not in encoder.extra:
        expected = "a number, or 'trained' with an encoder whose run learned one"
        raise ValueError(f"temperature: expected {expected}, got {temperature!r}")
    return max(0.01, 1 / float(encoder.extra["scale"]))


class NegCLIP(Multimodal):
    """An image must find its caption among the captions of the batch and rewrites of them that are not true.

    Meant to go on from a trained CLIP (``fit --encoder runs/clip``), which knows words but hardly their order. Of
    several image or text towers the first is trained, and towers of other kinds stay as they are.

    Args:
        encoder, views, recipe, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`. Views of
            the text must leave strings, of which the negatives are made.
        dim, head: of the common space; by default those of a trained encoder, whose heads are kept, or 128 and linear.
        temperature: where the learned one starts: 0.07, or ``"trained"``, that of the encoder's own run, as the papers
            have it, who go on from CLIP's.
        learn_temperature: ``False`` keeps it.
        negatives: a file of negatives that a language model or a person has written, see
            :func:`~counterpoint.mining.read_negatives`; rules make what it lacks.
        count: K, negatives of a caption: 4, DeGLA's.
        kinds: that the rules make, see :class:`~counterpoint.mining.CaptionNegatives`: the five of DeGLA.

    The rules learn the words of the training captions in :meth:`prepare`, which :func:`counterpoint.fit` calls; without
    it they replace no nouns. NegCLIP's own code makes one negative a caption, by swapping words, and adds similar
    images with theirs to the batch; the form here, with K negatives and no more images, is what DeGLA builds on.

    Logged at each step as ``foil_accuracy``: how often an image scores higher with its caption than with a negative of
    that caption.

    Reference: arXiv 2210.01936, and arXiv 2504.16801 for this form.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str | None = None,
        freeze: Sequence[str] = (),
        temperature: float | str = 0.07,
        learn_temperature: bool = True,
        negatives: str | None = None,
        count: int = 4,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        temperature = start(temperature, encoder)
        dim, head = dim or encoder.dim or 128, head or encoder.head or "linear"
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.image, self.text = encoder.named("image"), encoder.named("text")
        for name, tower in encoder.towers.items():
            if name not in (self.image, self.text):
                tower.freeze(head=True)
        self.scale = LogitScale(1 / temperature, learn=learn_temperature)
        self.objective: Any = HardNegativeCLIPLoss(temperature)
        self.negatives = negatives
        self.foils = CaptionNegatives((), count, kinds)

    def prepare(self, dataset: Any, indices: Any) -> None:
        """Learn from the training captions how words are used and what may replace them; read the file of negatives."""
        given = None if self.negatives is None else read_negatives(self.negatives)
        captions = dataset.subset(indices).all_texts(self.text)
        self.foils = CaptionNegatives(captions, self.foils.count, self.foils.kinds, given=given)

    def rewritten(self, view: View, batch: dict[str, Any]) -> Rewritten | None:
        """The pairs of a view with their negatives; ``None`` where no item has both, of a process or at all."""
        images: Any = view[self.image]
        texts: Any = view[self.text]
        if not all(isinstance(text, str | tuple | list) for text in texts):
            raise ValueError(f"views: {type(self).__name__} makes negatives of texts, and the view holds none")
        there = self.both(batch, self.image, self.text)
        rows = list(range(len(texts))) if there is None else there.nonzero()[:, 0].tolist()
        counts = gather_labels(torch.tensor([len(rows)], device=self.device))
        assert counts is not None
        if not int(counts.min()):
            return None
        captions = [first_text(texts[row]) for row in rows]
        true = [batch.get(self.text, texts)[row] for row in rows]  # of several captions the others are true as well
        made = [
            [foil.text for foil in self.foils(caption, [others] if isinstance(others, str) else others)]
            for caption, others in zip(captions, true, strict=True)
        ]
        count = self.foils.count
        negatives = [
            text
            for caption, some in zip(captions, made, strict=True)
            for text in some + [caption] * (count - len(some))
        ]
        lengths = torch.tensor([len(some) for some in made], device=self.device)
        mask = torch.arange(count, device=self.device) < lengths[:, None]
        return Rewritten(images[rows] if len(rows) < len(texts) else images, captions, negatives, mask)

    def vectors(self, encoder: MultimodalEncoder, pairs: Rewritten) -> tuple[Tensor, Tensor, Tensor]:
        """Of images (B, D), captions (B, D) and negatives (B, K, D), raw."""
        image = encoder.towers[self.image](pairs.images)
        texts = encoder.towers[self.text]([*pairs.captions, *pairs.negatives])
        text, negatives = texts[: len(image)], texts[len(image) :]
        return image, text, negatives.unflatten(0, (len(image), -1))

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        pairs = self.rewritten(views[0], batch)
        if pairs is None:
            return self.nothing({})
        image, text, negatives = self.vectors(self.encoder, pairs)
        self._tell(image, text, negatives, pairs.mask)
        return self.contrast(image, text, negatives, pairs)

    def contrast(self, image: Tensor, text: Tensor, negatives: Tensor, pairs: Rewritten) -> Tensor:
        """The loss of the student's vectors."""
        return self.objective(image, text, negatives, self.scale(), pairs.mask)

    @torch.no_grad()
    def _tell(self, image: Tensor, text: Tensor, negatives: Tensor, mask: Tensor) -> None:
        if self.watching and len(image) > 1:
            self.watch_batch(image, text)
        if not bool(mask.any()):
            return
        v, t, n = (normalize(x.detach().float()) for x in (image, text, negatives))
        right = (v * t).sum(1)[:, None] > (v[:, None] * n).sum(2)
        self.tell(foil_accuracy=right[mask].float().mean())

    def after_step(self) -> None:
        self.scale.clamp()
