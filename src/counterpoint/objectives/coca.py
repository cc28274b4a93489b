"""CoCa: Contrastive Captioners are Image-Text Foundation Models (Yu et al., TMLR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.objectives.groups import GroupInfoNCE
from counterpoint.objectives.inputs import embeddings, known_reduction
from counterpoint.objectives.likelihoods import TokenLikelihood
from counterpoint.pairwise import gather, gather_labels

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class CaptionLoss(nn.Module):
    """How improbable texts are under a decoder: cross entropy of each token, averaged over those that are no padding.

    ``- 1/T sum_{i,t} log softmax(logits_it)_{w_it}`` over the T tokens of the whole batch, so that long texts count
    for more.

    Args:
        pad: label of places that do not count. It must be a token that means nothing else, or -100 as in Hugging Face's
            models: where a word has this number, it is never learned (in CLIP's vocabulary 0 is "!").
        reduction: ``"mean"`` over tokens, ``"sum"``, or ``"none"``: (B, L), 0 where there is padding.

    Shapes:
        ``loss(logits, labels)``: (B, L, V) and (B, L) integers, **already aligned**: the logits at a place are of the
        label at this place. :func:`~counterpoint.encoders.captioning.shifted` makes such labels; nothing is shifted
        here. A batch with nothing but padding costs 0 and moves nothing.

    Raises:
        ValueError: on shapes that do not match, labels outside the vocabulary, non-finite logits.

    Relations: minus the mean of :class:`TokenLikelihood` over what is no padding.
    """

    def __init__(self, pad: int = 0, reduction: str = "mean") -> None:
        super().__init__()
        self.pad, self.reduction = int(pad), known_reduction(reduction)
        self.likelihood = TokenLikelihood()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        (logits,) = embeddings((3,), logits=logits)
        if not isinstance(labels, Tensor) or labels.shape != logits.shape[:2] or labels.dtype not in _INTEGERS:
            got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"labels: expected {tuple(logits.shape[:2])} integers, one for each of logits, got {got}")
        counts = labels != self.pad
        wanted = labels.where(counts, 0)
        low, high = int(wanted.min()), int(wanted.max())
        if low < 0 or high >= logits.shape[2]:
            raise ValueError(f"labels: expected 0 to {logits.shape[2] - 1}, or {self.pad} to skip, got {low} to {high}")
        terms = torch.where(counts, -self.likelihood(logits, wanted), 0.0)
        if self.reduction == "none":
            return terms
        total, number = gather(terms.sum(1)).sum(), gather_labels(counts.sum(1))
        assert number is not None
        return total / number.sum().clamp(min=1) if self.reduction == "mean" else total


class CoCaLoss(nn.Module):
    """Contrast of images with texts, and captioning: ``w_contrastive * CLIP + w_caption * captions``.

    Args:
        w_caption: 2, the paper's and open_clip's; 0 leaves the captions out, and fine-tuning for captioning has 1.
        w_contrastive: 1; 0 leaves the contrast out, so that a learned scale has no gradient.
        pad: see :class:`CaptionLoss`.
        temperature: of the contrast, where no ``scale`` is given; 0.07, at which the paper's learned one starts.

    Shapes:
        ``loss(image, text, logits, labels, scale)``: image and text (B, D), raw; logits (B, L, V) and labels (B, L) as
        for :class:`CaptionLoss`, **aligned by the caller**; scale, in place of ``1/temperature``, a 0-d tensor that may
        require a gradient. What a weight of 0 leaves out may be ``None``. A single pair has nothing to be told from:
        its contrast is 0.

    The two directions of the contrast are averaged, as re-implementations do; the paper writes their sum, which is
    ``w_contrastive=2``.

    Raises:
        ValueError: on shapes that differ, another number of texts than images, non-finite values, weights that are
            below 0 or both 0, and as :class:`GroupInfoNCE` and :class:`CaptionLoss`.

    Reference: arXiv 2205.01917, equations 1 to 4; the paper released no code, figures are checked against open_clip's.

    Relations: with ``w_caption=0`` CLIP's loss, :class:`GroupInfoNCE`; with ``w_contrastive=0`` :class:`CaptionLoss`.
    """

    def __init__(
        self, w_caption: float = 2.0, w_contrastive: float = 1.0, pad: int = 0, temperature: float = 0.07
    ) -> None:
        super().__init__()
        for name, weight in (("w_caption", w_caption), ("w_contrastive", w_contrastive)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {weight}")
        if not w_caption + w_contrastive:
            raise ValueError("w_caption, w_contrastive: expected at least one above 0, or nothing is learned")
        self.w_caption, self.w_contrastive = float(w_caption), float(w_contrastive)
        self.contrast, self.caption = GroupInfoNCE(temperature), CaptionLoss(pad)

    def terms(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The two terms, weighted: ``"contrastive"`` and ``"caption"``, without one whose weight is 0."""
        found = {}
        if self.w_contrastive:
            first, second = _given(image=image, text=text)
            found["contrastive"] = self.w_contrastive * self._contrast(first, second, scale)
        if self.w_caption:
            said, right = _given(logits=logits, labels=labels)
            if self.w_contrastive and image is not None and len(said) != len(image):
                raise ValueError(f"logits: expected {len(image)} texts as there are images, got {len(said)}")
            found["caption"] = self.w_caption * self.caption(said, right)
        return found

    def forward(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        return torch.stack(list(self.terms(image, text, logits, labels, scale).values())).sum()

    def _contrast(self, image: Tensor, text: Tensor, scale: Tensor | None) -> Tensor:
        image, text = embeddings(image=image, text=text)
        if len(gather(image.detach())) < 2:
            return (image * 0).sum() + (text * 0).sum()
        loss: Tensor = self.contrast(image, text, None, scale)
        return loss


def _given(**named: Tensor | None) -> list[Tensor]:
    """Tensors by argument name, none of them ``None``."""
    for name, value in named.items():
        if value is None:
            raise ValueError(f"{name}: expected a tensor, since its term has a weight above 0, got None")
    return [value for value in named.values() if value is not None]
