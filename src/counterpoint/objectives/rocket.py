"""CLIP on several views of each pair, and what self-supervision across modalities adds to it (Fini et al., TMLR 2023).

A pair of an image and its caption has one *global* view of each side, hardly changed, and A *local* ones, changed much.
Global views are compared with global ones and local with local, never across. :class:`MultiViewCLIP` is the recipe that
the paper calls CLIP-rocket; the other losses here are added to it: :class:`CrossModalPrediction` (SiamLIP, BYOLIP),
:class:`CrossModalBarlow` (BarLIP) and :class:`CrossModalSwAV` (SwALIP). SwALIP's first form, with prototypes, is
:class:`~counterpoint.objectives.swav.SwAV` with the two modalities in place of two crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.objectives.barlow import off_identity, standardize
from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.predictive import NegativeCosine
from counterpoint.pairwise import gather, log_partitions, sinkhorn

Views = Tensor | Sequence[Tensor]
_DIRECTIONS = {"mean": 1.0, "sum": 2.0}


class MultiViewCLIP(nn.Module):
    """CLIP's loss on the global views of each pair, and on every pair of a local image and a local caption.

    With unit vectors, ``CE(S)`` the mean over the rows of a cross entropy whose target is the diagonal, and ``e`` the
    label smoothing, which local terms alone have::

        G_I = CE(s Z_I Z_T'),   L_I = mean_{a, b} CE_e(s_local H_I^a H_T^b'),   C_I = (G_I + A L_I) / (1 + A)

    and likewise ``C_T`` from text to image; the loss is ``C_I + C_T``, or half of it.

    Args:
        label_smoothing: of local terms, in [0, 1): 0.1, the recipe's. The share of a row that is spread over all B.
        directions: ``"sum"``, the recipe's, adds the two; ``"mean"``, CLIP's, averages them. It matters where something
            else is added to the loss.
        temperature: of global scores, 0.07, and
        local_temperature: of local ones, 0.1: where the authors' learned scales start.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B pairs.

    Shapes:
        ``loss(z_image, z_text, h_image, h_text, scale, local_scale)``: z (B, D), raw; h lists of A tensors (B, D'),
        raw, or stacked (A, B, D'), of another projector and so perhaps of another dimension; B >= 2 over all processes.
        Without local views it is CLIP's loss. The scales, in place of one over the temperatures, are 0-d tensors that
        may require a gradient, clamped by whoever learns them (to at most 100). Memory O(A B D): no B x B matrix.

    Raises:
        ValueError: on B = 1, shapes that differ, unequally many local views, non-finite values, a temperature or scale
            that is not above 0.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket. There the gradient stops at what other
    processes hold; here value and gradient are those of one process with the whole batch.

    Relations: without local views and ``directions="mean"`` this is
    :class:`~counterpoint.objectives.groups.GroupInfoNCE` without groups.
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        directions: str = "sum",
        temperature: float = 0.07,
        local_temperature: float = 0.1,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature, local_temperature=local_temperature)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a number of at least 0 and below 1, got {label_smoothing}")
        if directions not in _DIRECTIONS:
            raise ValueError(f"directions: expected 'sum' or 'mean', got {directions!r}")
        self.label_smoothing, self.directions = label_smoothing, directions
        self.temperature, self.local_temperature = temperature, local_temperature
        self.reduction = known_reduction(reduction)

    def terms(
        self,
        z_image: Tensor,
        z_text: Tensor,
        h_image: Views = (),
        h_text: Views = (),
        scale: Tensor | None = None,
        local_scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The parts, each (B,): ``image_global``, ``text_global`` and with local views ``image_local``, ``text_local``.

        The local ones are means over the A x A pairs of views; ``image`` stands for the direction from image to text.
        """
        z_image, z_text = (gather(normalize(z)) for z in embeddings(z_image=z_image, z_text=z_text))
        if len(z_image) < 2:
            raise ValueError("z_image: expected at least 2 rows, since with 1 there are no negatives")
        images, texts = _locals(h_image, h_text)
        if images and len(images[0]) != len(z_image):
            raise ValueError(f"h_image: expected {len(z_image)} rows as in z_image, got {len(images[0])}")
        s = _scale("scale", scale, self.temperature)
        image, text = _both(z_image, z_text, s, 0.0)
        parts = {"image_global": image, "text_global": text}
        if images:
            s = _scale("local_scale", local_scale, self.local_temperature)
            pairs = [_both(x, y, s, self.label_smoothing) for x, y in product(images, texts)]
            for name, terms in zip(("image_local", "text_local"), zip(*pairs, strict=True), strict=True):
                parts[name] = torch.stack(terms).mean(0)
        return parts

    def forward(
        self,
        z_image: Tensor,
        z_text: Tensor,
        h_image: Views = (),
        h_text: Views = (),
        scale: Tensor | None = None,
        local_scale: Tensor | None = None,
    ) -> Tensor:
        parts = self.terms(z_image, z_text, h_image, h_text, scale, local_scale)
        total = (parts["image_global"] + parts["text_global"]) / 2
        if "image_local" in parts:
            local = (parts["image_local"] + parts["text_local"]) / 2
            total = (total + len(h_image) * local) / (1 + len(h_image))
        return reduce(total * _DIRECTIONS[self.directions], self.reduction)


class CrossModalPrediction(nn.Module):
    """Each modality predicts the other's projection, which is held constant: SimSiam and BYOL between image and text.

    With ``D(p, v) = 2 - 2 cos(p, v)``, a stop-gradient on ``v``, view 0 the global one and views 1 to A local::

        loss = [ D(pI_0, vT_0) + D(pT_0, vI_0) + sum_{a, b} D(pI_a, vT_b) + sum_{a, b} D(pT_a, vI_b) ] / (2 + 2 A^2)

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B pairs.

    Shapes:
        ``loss(p_image, p_text, v_image, v_text)``: predictions of each modality and projections of each, lists of
        1 + A tensors (B, D), raw, or stacked (1 + A, B, D); a single view may be (B, D). SiamLIP's projections are
        those from which the predictions are made, BYOLIP's a teacher's. In [0, 4].

    Raises:
        ValueError: on shapes that differ, other numbers of projections than of predictions, non-finite values.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket.

    Relations: ``2 + 2`` times :class:`~counterpoint.objectives.predictive.NegativeCosine`, averaged over pairs of
    views; with one view of two crops instead of two modalities it is half of BYOL's loss.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = known_reduction(reduction)
        self.cosine = NegativeCosine("none")

    def forward(self, p_image: Views, p_text: Views, v_image: Views, v_text: Views) -> Tensor:
        images, texts, image_targets, text_targets = _views(
            p_image=p_image, p_text=p_text, v_image=v_image, v_text=v_text
        )
        pairs = _like_with_like(images, text_targets) + _like_with_like(texts, image_targets)
        return reduce(2 + 2 * torch.stack([self.cosine(p, v) for p, v in pairs]).mean(0), self.reduction)


class CrossModalBarlow(nn.Module):
    """The correlation of the dimensions of one modality's projection with the other's should be the identity.

    With ``R = V_I' V_T / B`` (D, D) and ``l = scale * [ sum_i (R_ii - 1)^2 + lambda_ * sum_{i != j} R_ij^2 ]``, the
    loss is the mean of ``l`` over the pair of global views and the A x A pairs of local ones.

    Args:
        lambda_: 5e-3 and
        scale: 0.025, the authors'.
        standardize: bring each dimension to mean 0 and variance 1 over the batch first, which the authors leave to the
            batch norm at the end of their projector. Only what is standardised is a correlation.

    Shapes:
        ``loss(image, text)``: lists of 1 + A tensors (B, D), or stacked (1 + A, B, D), the global view first; a single
        view may be (B, D). Raw and never normalised by row, B >= 2 over all processes. Cost O(A^2 B D^2). It grows with
        the fourth power of what is not standardised.

    Raises:
        ValueError: on B = 1, shapes that differ, non-finite values, projections so long that the loss overflows.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket.

    Relations: with one view, ``standardize=True`` and scale 1 this is
    :class:`~counterpoint.objectives.barlow.BarlowTwins`.
    """

    def __init__(self, lambda_: float = 5e-3, scale: float = 0.025, standardize: bool = False) -> None:
        super().__init__()
        if not lambda_ >= 0:
            raise ValueError(f"lambda_: expected a number of at least 0, got {lambda_}")
        positive(scale=scale)
        self.lambda_, self.scale, self.standardize = lambda_, scale, standardize

    def forward(self, image: Views, text: Views) -> Tensor:
        images, texts = ([self._ready(v) for v in views] for views in _views(image=image, text=text))
        if len(images[0]) < 2:
            raise ValueError("image: expected at least 2 rows, since 1 has no correlation")
        with torch.autocast(images[0].device.type, enabled=False):
            parts = [off_identity(x.T @ y / len(x), self.lambda_) for x, y in _like_with_like(images, texts)]
        loss = self.scale * torch.stack(parts).mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                "image, text: projections are so long that the loss overflows; end the projectors with batch norm, or "
                "take standardize=True"
            )
        return loss

    def _ready(self, v: Tensor) -> Tensor:
        return standardize(gather(v)) if self.standardize else gather(v)


class CrossModalSwAV(nn.Module):
    """Which captions an image goes with, as one pair of views says, is predicted from another: the batch as prototypes.

    With unit vectors, cosines ``S_ab = H_I^a H_T^b'`` of the images of view a and the captions of view b, codes
    ``Q_ab = sinkhorn(S_ab)`` without gradient, and ``H(q, p)`` the mean cross entropy of the rows::

        l_I(a, b) = mean_{a' != a, b' != b} H(Q_a'b', softmax(scale S_ab))

    and likewise ``l_T`` from caption to image; the loss is the mean of ``(l_I + l_T) / 2`` over a and b.

    Args:
        temperature: 0.1, where the authors' learned scale of local views starts.
        epsilon: of Sinkhorn, 0.05, and
        iterations: 3, the authors'.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B pairs.

    The authors have A = 2, where the other pair of views is one. For more, targets are averaged over all pairs that
    share neither view with the prediction; that is ours.

    Shapes:
        ``loss(h_image, h_text, scale)``: lists of A >= 2 tensors (B, D), raw, or stacked (A, B, D); scale, in place of
        ``1/temperature``, a 0-d tensor that may require a gradient. Memory O(A^2 B^2): the codes are matrices.

    Raises:
        ValueError: on fewer than 2 views, unequally many, shapes that differ, non-finite values, a temperature, epsilon
            or scale that is not above 0.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket. It adds 0.2 times this to
    :class:`MultiViewCLIP`, which then has no label smoothing.

    Relations: where codes are the identity this is CLIP's loss; :class:`~counterpoint.objectives.swav.SwAV` has learned
    prototypes in place of the batch.
    """

    def __init__(
        self, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3, reduction: str = "mean"
    ) -> None:
        super().__init__()
        positive(temperature=temperature, epsilon=epsilon)
        if iterations < 0:
            raise ValueError(f"iterations: expected at least 0, got {iterations}")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.reduction = known_reduction(reduction)

    def forward(self, h_image: Views, h_text: Views, scale: Tensor | None = None) -> Tensor:
        images, texts = ([normalize(h) for h in views] for views in _views(h_image=h_image, h_text=h_text))
        if len(images) < 2:
            raise ValueError("h_image: expected at least 2 views, since one has no other to be predicted from")
        s = _scale("scale", scale, self.temperature)
        with torch.autocast(images[0].device.type, enabled=False):
            terms = (self._swap(images, texts, s) + self._swap(texts, images, s)) / 2
        return reduce(gather(terms), self.reduction)

    def _swap(self, queries: list[Tensor], keys: list[Tensor], scale: Tensor | float) -> Tensor:
        """The terms (B,) of this process's queries, whose prototypes are the keys of all processes."""
        whole = [gather(k) for k in keys]
        scores = {(a, b): q @ k.T for (a, q), (b, k) in product(enumerate(queries), enumerate(whole))}
        codes = {views: sinkhorn(score, self.epsilon, self.iterations) for views, score in scores.items()}
        total = queries[0].new_zeros(len(queries[0]))
        for (a, b), score in scores.items():
            others = [code for (i, j), code in codes.items() if i != a and j != b]
            target = sum(others[1:], others[0]) / len(others)
            total = total - (target * (score * scale).log_softmax(1)).sum(1)
        return total / len(scores)


def _both(x: Tensor, y: Tensor, scale: Tensor | float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross entropies (B,) of the rows of ``scale x y'`` and of its columns, the diagonal their smoothed target.

    What smoothing takes from the diagonal it gives to the mean score of a row, which is the score of the mean key.
    """
    rows, columns = log_partitions(x, y, scale=scale)
    attraction = (1 - smoothing) * scale * (x * y).sum(1)
    if not smoothing:
        return rows - attraction, columns - attraction
    even = [smoothing * scale * (q * k.mean(0)).sum(1) for q, k in ((x, y), (y, x))]
    return rows - attraction - even[0], columns - attraction - even[1]


def _scale(name: str, scale: Tensor | None, temperature: float) -> Tensor | float:
    if scale is None:
        return 1 / temperature
    positive(**{name: float(scale.detach())})
    return scale


def _views(**named: Views) -> list[list[Tensor]]:
    """Views of each argument as lists of checked (B, D), all of one shape and equally many."""
    given: dict[str, Tensor] = {}
    first, n = "", 0
    for name, views in named.items():
        listed = isinstance(views, list | tuple) and all(isinstance(view, Tensor) for view in views)
        several = listed or (isinstance(views, Tensor) and views.ndim == 3)
        found: list[Any] = list(views) if several else [views]
        if not found:
            raise ValueError(f"{name}: expected at least 1 view, got none")
        first, n = first or name, n or len(found)
        if len(found) != n:
            raise ValueError(f"{name}: expected {n} views as in {first}, got {len(found)}")
        given |= {f"{name}[{i}]" if several else name: view for i, view in enumerate(found)}
    checked = iter(embeddings((2,), **given))
    return [[next(checked) for _ in range(n)] for _ in named]


def _locals(h_image: Views, h_text: Views) -> tuple[list[Tensor], list[Tensor]]:
    """Unit local views of both modalities and of all processes; none where both are empty."""
    if len(h_image) == len(h_text) == 0:
        return [], []
    images, texts = ([gather(normalize(h)) for h in views] for views in _views(h_image=h_image, h_text=h_text))
    return images, texts


def _like_with_like(first: list[Tensor], second: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The pair of global views, and all pairs of local ones."""
    return [(first[0], second[0]), *product(first[1:], second[1:])]
