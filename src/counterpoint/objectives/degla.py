"""Captions against hard negatives of their own (DeGLA: Hu et al., ACM MM 2025, on NegCLIP: Yuksekgonul et al. 2023).

To tell a caption from those of other images, its words are enough, in any order; who does what to whom is learned only
where a wrong caption has the same words. Each caption therefore brings K *hard negatives*, rewrites of itself that are
not true any more (:class:`~counterpoint.mining.CaptionNegatives` makes them). With unit vectors ``v`` of images, ``t``
of captions, ``n_ik`` of the negatives of caption i, teacher's vectors starred and a scale ``s``, DeGLA minimises::

    base     1/2 mean_i -log( e^{s v_i.t_i} / (sum_j e^{s v_i.t_j} + sum_jk e^{s v_i.n_jk}) )
           + 1/2 mean_i -log( e^{s v_i.t_i} / sum_j e^{s v_j.t_i} )
    igc      mean_i -log( e^{s v_i.t_i} / (e^{s v_i.t_i} + sum_k e^{s v_i.n_ik}) )
    tgc      mean_i -log( e^{10 t_i.t*_i} / (e^{10 t_i.t*_i} + sum_k e^{10 t_i.n_ik}) )
    distill  sum_i |v_i - v*_i|^2 + sum_i |t_i - t*_i|^2 + sum_ik |n_ik - n*_ik|^2

``base`` is all that NegCLIP has. ``igc`` and ``tgc`` are local: an image, and a caption, against the negatives of one
caption alone. ``distill`` holds the vectors where the teacher, a moving average that began as the pre-trained model,
has them, so that what is learned about order does not cost what was known about the world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition, log_partitions


class HardNegativeCLIPLoss(nn.Module):
    """CLIP's loss, where an image meets the hard negatives of all captions besides the captions: NegCLIP's loss.

    ``base`` of the module's equations. From images to texts there are B (1 + K) candidates, from texts to images B
    anchors and B candidates: a negative describes no image, so it looks for none.

    Args:
        temperature: 0.07, where CLIP's learned one starts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms, each the mean of both directions.

    Shapes:
        ``loss(image, text, neg_text, scale, mask)``: image and text (B, D), neg_text (B, K, D), all raw; ``None`` or
        K = 0: no negatives. scale, in place of ``1/temperature``: a 0-d tensor that may require a gradient, such as
        CLIP's ``exp(logit_scale)``, clamped by whoever learns it (CLIP: at most 100). mask (B, K) bool: which negatives
        there are, where some captions have fewer than K. One pair is enough: its text finds its image at no cost, its
        image still has to find its text among the negatives. Memory O(B (1 + K) D).

    Raises:
        ValueError: on shapes that do not match, non-finite values, a temperature or scale that is not above 0.

    Reference: arXiv 2504.16801, equation of the base loss; official code xiaoxing2001/DeGLA. NegCLIP: arXiv 2210.01936.

    Relations: without negatives, :class:`GroupInfoNCE` of one group, the loss of CLIP.
    """

    def __init__(self, temperature: float = 0.07, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        neg_text: Tensor | None = None,
        scale: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        image, text = embeddings(image=image, text=text)
        negatives, mask = _negatives(neg_text, mask, text)
        s = _scale(scale, self.temperature)
        image, text = gather(normalize(image)), gather(normalize(text))
        by_image, by_text = log_partitions(image, text, scale=s)
        if negatives is not None:
            # positives and negatives are gathered apart: together they would come process by process
            bank, present = gather(negatives).flatten(0, 1), gather_labels(mask)
            weights = (
                None if present is None else torch.zeros_like(bank[:, 0]).masked_fill(~present.flatten(), -math.inf)
            )
            by_image = torch.logaddexp(by_image, log_partition(image, bank, scale=s, log_weights=weights))
        return reduce((by_image + by_text) / 2 - (image * text).sum(1) * s, self.reduction)


class ImageGroundedContrast(nn.Module):
    """IGC: each image against its own caption and the hard negatives of that caption alone.

    ``igc`` of the module's equations, (1 + K)-way. A negative that equals its caption costs at least log 2, whatever
    the image: leave such rewrites out.

    Args:
        temperature, reduction: as for :class:`HardNegativeCLIPLoss`.

    Shapes:
        as for :class:`HardNegativeCLIPLoss`, whose ``scale`` it shares in the paper. Without negatives the terms are 0.

    Raises:
        ValueError: as :class:`HardNegativeCLIPLoss`.

    Reference: arXiv 2504.16801; the official code fills a matrix of all pairs with minus infinity instead.
    """

    def __init__(self, temperature: float = 0.07, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        neg_text: Tensor | None = None,
        scale: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        image, text = embeddings(image=image, text=text)
        negatives, mask = _negatives(neg_text, mask, text)
        s = _scale(scale, self.temperature)
        return reduce(gather(_against_own(normalize(image), normalize(text), negatives, s, mask)), self.reduction)


class TextGroundedContrast(nn.Module):
    """TGC: each caption against the teacher's vector of the same caption and its own hard negatives.

    ``tgc`` of the module's equations. No image is in it: the text encoder alone is to tell a caption from its rewrites.

    Args:
        scale: of the cosines, fixed: 10, a temperature of 0.1. The official code takes another as an argument and
            ignores it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.
        compat: ``"official"`` contrasts caption i with the negatives i, B + i, 2 B + i, ... of the list of all
            negatives, caption after caption, which are mostly those of others: so does the published code, whose mask
            is made for another order. ``None``: with its own, the paper's definition. They agree for K = 1.

    Shapes:
        ``loss(text, teacher_text, neg_text, mask)``: (B, D), (B, D), (B, K, D), raw; the teacher's is held constant,
        neg_text is the student's and takes a gradient. mask (B, K) bool: which negatives there are. Without negatives
        the terms are 0. Memory O(B (1 + K) D).

    Raises:
        ValueError: on shapes that do not match, non-finite values, scale <= 0.

    Reference: arXiv 2504.16801.
    """

    def __init__(self, scale: float = 10.0, reduction: str = "mean", compat: str | None = None) -> None:
        super().__init__()
        positive(scale=scale)
        self.scale, self.reduction, self.compat = scale, known_reduction(reduction), _known_compat(compat)

    def forward(
        self, text: Tensor, teacher_text: Tensor, neg_text: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        text, teacher_text = embeddings(text=text, teacher_text=teacher_text)
        negatives, mask = _negatives(neg_text, mask, text)
        text, teacher_text = normalize(text), normalize(teacher_text.detach())
        if self.compat is None or negatives is None:
            return reduce(gather(_against_own(text, teacher_text, negatives, self.scale, mask)), self.reduction)
        text, teacher_text, negatives, mask = gather(text), gather(teacher_text), gather(negatives), gather_labels(mask)
        tiled, present = (x if x is None else _tiled(x) for x in (negatives, mask))
        return reduce(_against_own(text, teacher_text, tiled, self.scale, present), self.reduction)


class FeatureDistillation(nn.Module):
    """Squared distances of the student's unit vectors to the teacher's, held constant.

    ``distill`` of the module's equations: ``sum |x - x*|^2`` over all vectors of all pairs given.

    Args:
        reduction: ``"sum"`` over vectors and dimensions, the paper's; ``"mean"`` over the vectors; ``"none"`` for the
            term of each vector, pair after pair.
        batch: the sum is multiplied by ``batch / B``, so that it is that of ``batch`` items whatever the batch; B is
            the number of rows of the first pair, over all processes. Beside losses that are means, a sum weighs twice
            as much in a batch twice as large. ``None``: as it stands. It still grows with the number of negatives.

    Shapes:
        ``loss((student, teacher), (student, teacher, mask), ...)``: each (B, D) or (B, K, D), raw, with an optional
        mask (B,) or (B, K) bool of the vectors that count. From 0 to 4 a vector.

    Raises:
        ValueError: on no pair, shapes that differ, non-finite values, a batch below 1.

    Reference: arXiv 2504.16801.

    Relations: ``|x - x*|^2 = 2 - 2 cos``, so on one pair of views this is :class:`NegativeCosine`, doubled and shifted.
    """

    def __init__(self, reduction: str = "sum", batch: int | None = None) -> None:
        super().__init__()
        if batch is not None and batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        self.reduction, self.batch = known_reduction(reduction), batch

    def forward(self, *pairs: Sequence[Tensor | None]) -> Tensor:
        if not pairs:
            raise ValueError("pairs: expected at least one (student, teacher)")
        terms, items = [], 0
        for pair in pairs:
            found = gather(self._distances(*pair))
            items = items or len(found)
            present = gather_labels(pair[2]) if len(pair) > 2 else None
            terms.append(found.flatten() if present is None else found[present])
        whole = torch.cat(terms)
        if self.reduction == "sum" and self.batch is not None:
            return whole.sum() * (self.batch / items)
        return reduce(whole, self.reduction)

    def _distances(self, student: Tensor | None, teacher: Tensor | None, mask: Tensor | None = None) -> Tensor:
        assert student is not None
        assert teacher is not None
        student, teacher = embeddings((2, 3), student=student, teacher=teacher)
        if mask is not None and (mask.shape != student.shape[:-1] or mask.dtype != torch.bool):
            expected = f"{tuple(student.shape[:-1])} torch.bool"
            raise ValueError(f"mask: expected {expected}, got {tuple(mask.shape)} {mask.dtype}")
        return (normalize(student) - normalize(teacher.detach())).square().sum(-1)


class DeGLALoss(nn.Module):
    """DeGLA's loss: ``base + w_igc igc + w_tgc tgc + w_distill distill`` of the module's equations, and its parts.

    Args:
        w_igc, w_tgc: 0.1 each, the official script's.
        w_distill: 0.005 times a sum over the batch; the script has 32 pairs a GPU, 4 negatives each, and does not say
            how many GPUs.
        tgc_scale: 10, see :class:`TextGroundedContrast`.
        distill_batch: the size of the batch to which ``w_distill`` belongs, see :class:`FeatureDistillation`;
            ``None``: whatever the batch is, as in the official code.
        temperature: of ``base`` and ``igc`` where no scale is given; 0.07.
        compat: ``"official"``: see :class:`TextGroundedContrast`.

    Shapes:
        ``loss(image, text, neg_text, teacher_image, teacher_text, teacher_neg_text, scale, mask)``: image and text
        (B, D), neg_text (B, K, D) or ``None``, raw, of the student; the same of the teacher, held constant; scale and
        mask as for :class:`HardNegativeCLIPLoss`.

    Returns:
        ``{"loss": ..., "base": ..., "igc": ..., "tgc": ..., "distill": ...}``, scalars; the parts without weights.

    Raises:
        ValueError: on shapes that do not match, non-finite values, a negative weight, a scale that is not above 0.

    Reference: arXiv 2504.16801; official code xiaoxing2001/DeGLA, ``src/open_clip/loss.py``.
    """

    def __init__(
        self,
        w_igc: float = 0.1,
        w_tgc: float = 0.1,
        w_distill: float = 0.005,
        tgc_scale: float = 10.0,
        distill_batch: int | None = None,
        temperature: float = 0.07,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("w_igc", w_igc), ("w_tgc", w_tgc), ("w_distill", w_distill)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {weight}")
        positive(tgc_scale=tgc_scale)
        self.weights = {"base": 1.0, "igc": w_igc, "tgc": w_tgc, "distill": w_distill}
        self.base, self.igc = HardNegativeCLIPLoss(temperature), ImageGroundedContrast(temperature)
        self.tgc = TextGroundedContrast(tgc_scale, compat=compat)
        self.distill = FeatureDistillation(batch=distill_batch)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        neg_text: Tensor | None,
        teacher_image: Tensor,
        teacher_text: Tensor,
        teacher_neg_text: Tensor | None = None,
        scale: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        embeddings(text=text, image=image, teacher_image=teacher_image, teacher_text=teacher_text)
        pairs: list[Sequence[Tensor | None]] = [(image, teacher_image), (text, teacher_text)]
        if neg_text is not None and neg_text.numel():
            if teacher_neg_text is None:
                raise ValueError("teacher_neg_text: expected the teacher's vectors of the negatives, got None")
            embeddings((3,), neg_text=neg_text, teacher_neg_text=teacher_neg_text)
            pairs.append((neg_text, teacher_neg_text, mask))
        parts = {
            "base": self.base(image, text, neg_text, scale, mask),
            "igc": self.igc(image, text, neg_text, scale, mask),
            "tgc": self.tgc(text, teacher_text, neg_text, mask),
            "distill": self.distill(*pairs),
        }
        return {"loss": torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(), **parts}


def _negatives(neg_text: Tensor | None, mask: Tensor | None, text: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Unit negatives (B, K, D) and which of them there are, checked; ``None`` where there are none, or all of them."""
    if neg_text is None or (neg_text.ndim == 3 and neg_text.shape[1] == 0):
        return None, None
    (neg_text,) = embeddings((3,), neg_text=neg_text)
    if (len(neg_text), neg_text.shape[2]) != tuple(text.shape):
        raise ValueError(f"neg_text: expected ({len(text)}, K, {text.shape[1]}), got {tuple(neg_text.shape)}")
    if mask is not None and (mask.shape != neg_text.shape[:2] or mask.dtype != torch.bool):
        expected = f"{tuple(neg_text.shape[:2])} torch.bool"
        raise ValueError(f"mask: expected {expected}, got {tuple(mask.shape)} {mask.dtype}")
    return normalize(neg_text), mask


def _scale(scale: Tensor | None, temperature: float) -> Tensor | float:
    if scale is None:
        return 1 / temperature
    positive(scale=float(scale.detach() if isinstance(scale, Tensor) else scale))
    return scale


def _against_own(
    anchors: Tensor, positives: Tensor, negatives: Tensor | None, scale: Tensor | float, mask: Tensor | None
) -> Tensor:
    """``log(1 + sum_k exp(scale (<a_i, n_ik> - <a_i, p_i>)))`` (B,) of unit vectors."""
    if negatives is None:
        return 0 * (anchors * positives).sum(1)
    leads = ((negatives * anchors[:, None]).sum(2) - (anchors * positives).sum(1)[:, None]) * scale
    if mask is not None:
        leads = leads.masked_fill(~mask, -math.inf)
    return torch.cat([torch.zeros_like(leads[:, :1]), leads], 1).logsumexp(1)


def _tiled(x: Tensor) -> Tensor:
    """Negatives (B, K, ...) as the official mask hands them out: of the flat list, k B + i to caption i."""
    return x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def _known_compat(compat: str | None) -> str | None:
    if compat not in (None, "official"):
        raise ValueError(f"compat: expected None or 'official', got {compat!r}")
    return compat
