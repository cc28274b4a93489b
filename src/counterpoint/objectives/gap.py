"""Closing the contrastive gap: CLIP with alignment and uniformity (Fahim, Murphy, Fyshe 2024, arXiv 2405.18570).

Two towers trained by CLIP's loss end in two clusters of the sphere, whatever their modalities. The authors blame low
uniformity - each cluster fills few dimensions - and add the terms that ask for the opposite: matched pairs meet
(:class:`AlignmentLoss`), each modality spreads (:class:`UniformityLoss`), and unmatched pairs of both spread too
(:class:`CrossUniformityLoss`). :class:`CLIPUniformAlignLoss` is the sum: CUA, and with the last term CUAXU.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from counterpoint.objectives.groups import GroupInfoNCE
from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, log_mean_kernel, matched_distances


class AlignmentLoss(nn.Module):
    """Mean distance of matched unit vectors, ``|x_i - y_i|^alpha``.

    Args:
        alpha: 2, as in both papers.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(x, y)``: both (B, D), raw.

    Raises:
        ValueError: on shapes that differ, non-finite values, alpha <= 0.

    Reference: Wang & Isola 2020, arXiv 2005.10242.

    Relations: with alpha = 2 it is 2 plus twice :class:`NegativeCosine` without its stopped gradient.
    """

    def __init__(self, alpha: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        positive(alpha=alpha)
        self.alpha, self.reduction = alpha, known_reduction(reduction)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (gather(normalize(z)) for z in embeddings(x=x, y=y))
        return reduce(matched_distances(x, y, alpha=self.alpha), self.reduction)


class UniformityLoss(nn.Module):
    """How unevenly unit vectors cover the sphere: ``log mean exp(-t |x_i - x_j|^2)`` over pairs i < j.

    The log of a mean, over pairs of different rows. It is negative, and 0 only where all rows are one, which is a
    stationary point.

    Args:
        t: 2, as in both papers.

    Shapes:
        ``loss(x)``: (B, D), raw, B >= 2 over all processes. Memory O(B D).

    Raises:
        ValueError: on B = 1 (no pairs), another shape, non-finite values, t <= 0.

    Reference: Wang & Isola 2020, arXiv 2005.10242.
    """

    def __init__(self, t: float = 2.0) -> None:
        super().__init__()
        positive(t=t)
        self.t = t

    def forward(self, x: Tensor) -> Tensor:
        (x,) = embeddings(x=x)
        return log_mean_kernel(_pairs("x", gather(normalize(x))), t=self.t)


class CrossUniformityLoss(nn.Module):
    """How near a modality lies to the unmatched items of the other: ``log mean_{i != j} exp(-t |x_i - y_j|^2)``.

    Args:
        t: 2, the authors'.

    Shapes:
        ``loss(x, y)``: both (B, D), raw, B >= 2 over all processes. Memory O(B D).

    Raises:
        ValueError: on B = 1 (no unmatched pair), shapes that differ, non-finite values, t <= 0.

    Relations: ``loss(x, x)`` is :class:`UniformityLoss`.
    """

    def __init__(self, t: float = 2.0) -> None:
        super().__init__()
        positive(t=t)
        self.t = t

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (gather(normalize(z)) for z in embeddings(x=x, y=y))
        return log_mean_kernel(_pairs("x", x), y, t=self.t)


class CLIPUniformAlignLoss(nn.Module):
    """CLIP's loss with alignment and uniformity: CUA, and CUAXU with ``w_cross=1``.

    ::

        loss = w_clip CLIP(x, y) + w_align mean |x_i - y_i|^2 + w_uniform (U(x) + U(y)) / 2 + w_cross XU(x, y)

        U(x)     = log mean_{i < j}  exp(-t |x_i - x_j|^2)
        XU(x, y) = log mean_{i != j} exp(-t |x_i - y_j|^2)

    on unit vectors. The two uniformities are averaged after their logs. The sum may be negative.

    Args:
        temperature: of CLIP's loss: 0.01, the authors', who do not learn it.
        w_clip, w_align, w_uniform, w_cross: weights; 1, 1, 1 and 0 are CUA, 1, 1, 1, 1 CUAXU. (A switch in the official
            code drops CLIP's term altogether; the paper keeps it.)
        t: of both uniformities; 2.

    Shapes:
        ``loss(image, text, scale)``: both (B, D), raw, B >= 2 over all processes; scale as in :class:`GroupInfoNCE`.
        Memory O(B D).

    Raises:
        ValueError: on B = 1, where uniformity would be the log of nothing, shapes that differ, non-finite values,
            weights below 0 or all 0, temperature or t <= 0.

    Reference: arXiv 2405.18570; official code: abrar-fahim/contrastive-gap.

    Relations: with ``w_clip`` alone this is CLIP's loss, :class:`GroupInfoNCE` with one group.
    """

    def __init__(
        self,
        temperature: float = 0.01,
        w_clip: float = 1.0,
        w_align: float = 1.0,
        w_uniform: float = 1.0,
        w_cross: float = 0.0,
        t: float = 2.0,
    ) -> None:
        super().__init__()
        positive(temperature=temperature, t=t)
        self.weights = {"clip": w_clip, "align": w_align, "uniform": w_uniform, "cross": w_cross}
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"w_{name}: expected a finite number of at least 0, got {weight}")
        if not any(self.weights.values()):
            raise ValueError("w_clip: expected a weight above 0 somewhere, got 0 for all four terms")
        self.temperature, self.t = temperature, t
        self.clip = GroupInfoNCE(temperature)

    def parts(self, image: Tensor, text: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        """The terms before their weights, by name: those whose weight is not 0."""
        image, text = embeddings(image=image, text=text)
        x, y = _pairs("image", gather(normalize(image))), gather(normalize(text))
        parts = {
            "clip": lambda: self.clip(image, text, scale=scale),
            "align": lambda: matched_distances(x, y).mean(),
            "uniform": lambda: (log_mean_kernel(x, t=self.t) + log_mean_kernel(y, t=self.t)) / 2,
            "cross": lambda: log_mean_kernel(x, y, t=self.t),
        }
        return {name: part() for name, part in parts.items() if self.weights[name]}

    def forward(self, image: Tensor, text: Tensor, scale: Tensor | None = None) -> Tensor:
        terms = [self.weights[name] * part for name, part in self.parts(image, text, scale).items()]
        return sum(terms[1:], terms[0])


def _pairs(name: str, x: Tensor) -> Tensor:
    if len(x) < 2:
        raise ValueError(f"{name}: expected at least 2 rows, since with 1 there are no pairs")
    return x
