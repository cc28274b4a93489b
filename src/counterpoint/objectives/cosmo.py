"""CosMo: a language model that writes about pictures, and a contrast of pairs beside it (arXiv 2401.00849)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.objectives.coca import CaptionLoss
from counterpoint.objectives.inputs import embeddings, normalize, positive
from counterpoint.pairwise import gather, gather_labels, log_partitions

IGNORED = -100  # a label that is not learned


class CosMoLoss(nn.Module):
    """Next tokens of all documents, and each caption and its picture finding each other among the pairs::

        L = L_next + weight * 1/2 [ CE(S, diagonal) + CE(S^T, diagonal) ],    S = e^theta <z_text, z_image>

    Only plain pairs are contrasted: a document with several pictures has no single one that is its own. Fewer than two
    pairs have nothing to be told from, and their term is 0.

    Args:
        weight: of the contrast; 1, the official code's. 0 is a captioning model and nothing else.
        theta: the logarithm of the factor of the cosines, where ``scale`` is not given: 0.2, where the official learned
            one starts. It is called a temperature there, and multiplies: ``e^0.2 = 1.22`` is very soft, where CLIP's
            factor starts at 14 and may grow to 100.

    Shapes:
        ``loss(text, image, logits, labels)``: (B, D) and (B, D), raw; (B, L, V) and int64 (B, L), which stand where
        their tokens do, -100 where nothing is learned: the shift is made here. Further, optional: ``scale``, a 0-d
        tensor that may require a gradient, in place of ``e^theta``; ``pairs`` (B,) booleans, the rows that are plain
        pairs, default all; ``captions`` (B,) integers, the same for rows whose captions are the same, which are then no
        negatives of each other. Without it they are, as in the official code. Memory O(B D) and that of the logits.

    Across processes the pairs of all are contrasted with each other, as the official option for all nodes does; value
    and gradient are those of one batch. (The official default contrasts those of each device apart; its option for one
    node divides the gradient by the number of devices.)

    A batch in which nothing is to be learned of any text, such as one without pictures, has a first term of 0, where
    the official code has the mean of nothing, NaN.

    Raises:
        ValueError: on shapes that do not match, non-finite values, a scale that is not above 0, a weight below 0.

    Reference: arXiv 2401.00849; official code: showlab/cosmo.

    Relations: with all rows pairs and no ``captions`` the contrast is :class:`GroupInfoNCE` of one group, CLIP's loss.
    """

    def __init__(self, weight: float = 1.0, theta: float = 0.2) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight: expected a finite number from 0, got {weight}")
        if not math.isfinite(theta):
            raise ValueError(f"theta: expected a finite number, got {theta}")
        self.weight, self.theta = weight, theta
        self.caption = CaptionLoss(IGNORED)

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        logits: Tensor,
        labels: Tensor,
        scale: Tensor | None = None,
        pairs: Tensor | None = None,
        captions: Tensor | None = None,
    ) -> Tensor:
        return torch.stack(list(self.terms(text, image, logits, labels, scale, pairs, captions).values())).sum()

    def terms(
        self,
        text: Tensor,
        image: Tensor,
        logits: Tensor,
        labels: Tensor,
        scale: Tensor | None = None,
        pairs: Tensor | None = None,
        captions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The two terms, weighted: ``"caption"`` and ``"contrast"``, without the latter where its weight is 0."""
        found = {"caption": self.written(logits, labels)}
        if self.weight:
            found["contrast"] = self.weight * self.contrast(text, image, scale, pairs, captions)
        return found

    def written(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The first term: of each token that is learned, under what is put out one place before it."""
        if labels.shape != logits.shape[:2] or logits.ndim != 3 or logits.shape[1] < 2:
            raise ValueError(
                f"logits, labels: expected (B, L, V) and (B, L) with L >= 2, got {tuple(logits.shape)} and "
                f"{tuple(labels.shape)}"
            )
        return self.caption(logits[:, :-1], labels[:, 1:])  # type: ignore[no-any-return]

    def contrast(
        self,
        text: Tensor,
        image: Tensor,
        scale: Tensor | None = None,
        pairs: Tensor | None = None,
        captions: Tensor | None = None,
    ) -> Tensor:
        """The second term, without its weight."""
        text, image = embeddings(text=text, image=image)
        if scale is not None:
            positive(scale=float(scale.detach()))
        pairs = torch.ones(len(text), dtype=torch.bool, device=text.device) if pairs is None else pairs
        _check(text, pairs=pairs, captions=captions)
        kept, same = gather_labels(pairs.bool()), gather_labels(captions)
        text, image = gather(normalize(text))[kept], gather(normalize(image))[kept]
        if len(text) < 2:
            return (text[:, :0] + image[:, :0]).sum()
        s = math.exp(self.theta) if scale is None else scale
        attraction = (text * image).sum(1) * s
        if same is None:
            partitions = log_partitions(text, image, scale=s)
        else:
            others = log_partitions(text, image, scale=s, exclude=same[kept], exclude_keys=same[kept])
            partitions = tuple(torch.logaddexp(attraction, each) for each in others)  # type: ignore[assignment]
        return sum(each - attraction for each in partitions).mean() / 2  # type: ignore[union-attr]


def _check(text: Tensor, **rows: Tensor | None) -> None:
    for name, values in rows.items():
        if values is not None and (values.shape != (len(text),) or values.is_floating_point()):
            kind = "booleans" if name == "pairs" else "integers"
            raise ValueError(f"{name}: expected ({len(text)},) {kind}, got {tuple(values.shape)} {values.dtype}")
