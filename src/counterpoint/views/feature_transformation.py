"""Features changed between encoder and loss (Zhu et al., ICCV 2021): harder pairs, and negatives of more kinds.

A positive pair is pushed apart along its line, so that the encoder has to align it further; the negatives are mixed
with each other, which makes others of them, as many as before. Nothing is normalised again unless asked for, and what
is changed lives for one step: a queue keeps the keys as they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.views.features import beta, mix

MODES = ("posneg", "pos", "neg")
ELEMENTWISE = ("none", "both", "pos", "neg")
POSITIVES = ("extrapolate", "interpolate")


def extrapolate_positives(
    queries: Tensor,
    keys: Tensor,
    lam: Tensor | float | None = None,
    alpha: float = 2.0,
    elementwise: bool = False,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """Push each pair apart along its line: ``q' = lam q + (1 - lam) k``, ``k' = lam k + (1 - lam) q``.

    With one lam above 1 and unit vectors, ``<q', k'> = s + 2 lam (1 - lam) (1 - s)``, no more than ``s = <q, k>``; the
    two are longer than 1, so that scores with negatives grow too. With a lam in (0, 1) the pair is drawn together: the
    opposite, which the authors find not to help. Gradients flow into all that carries one, so through the query in k'.

    Args:
        queries: (B, D), unit vectors.
        keys: (B, D), unit vectors, usually without a gradient.
        lam: one number, (B, 1) or (B, D); drawn as ``1 + Beta(alpha, alpha)``, between 1 and 2, by default.
        alpha: 2, the authors' recommended setting.
        elementwise: draw one for each entry instead of one for the step.
        renormalize: bring both back to unit length; the formula above then no longer holds.

    Raises:
        ValueError: shapes that differ, a lam that is not finite or fits neither points nor entries.

    Reference: arXiv 2108.02982.
    """
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(f"keys: expected (B, D) as queries, got {tuple(keys.shape)} and {tuple(queries.shape)}")
    if lam is None:
        lam = 1 + beta(tuple(queries.shape) if elementwise else (), alpha, alpha, queries)
    pushed = mix(queries, keys, lam), mix(keys, queries, lam)
    if renormalize:
        pushed = torch.nn.functional.normalize(pushed[0], dim=1), torch.nn.functional.normalize(pushed[1], dim=1)
    return pushed


def interpolate_negatives(
    negatives: Tensor,
    mu: Tensor | float | None = None,
    permutation: Tensor | None = None,
    alpha: float = 1.6,
    elementwise: bool = False,
) -> Tensor:
    """Mix each negative with another: ``mu M + (1 - mu) M[permutation]``, (K, D), as many as before.

    Args:
        negatives: (K, D), unit vectors; the mixtures are shorter.
        mu: one number, (K, 1) or (K, D); drawn from Beta(alpha, alpha) by default.
        permutation: int64 (K,), who is mixed with whom; drawn by default. Some may meet themselves and stay.
        alpha: 1.6, the authors' recommended setting.
        elementwise: draw one mu for each entry instead of one for the step.

    Raises:
        ValueError: a permutation of another length, a mu that is not finite or fits neither points nor entries.

    Reference: arXiv 2108.02982.
    """
    if permutation is None:
        permutation = torch.randperm(len(negatives), device=negatives.device)
    if permutation.shape != negatives.shape[:1]:
        raise ValueError(f"permutation: expected ({len(negatives)},), got {tuple(permutation.shape)}")
    if mu is None:
        mu = beta(tuple(negatives.shape) if elementwise else (), alpha, alpha, negatives)
    return mix(negatives, negatives[permutation], mu)


class FeatureTransformation:
    """Positive extrapolation and negative interpolation: ``(queries, keys, negatives)`` in, the same out, transformed.

    Args:
        mode: ``"posneg"``, both, the authors' recommendation; ``"pos"`` or ``"neg"``, one of them.
        pos_alpha: of the Beta distribution for positives, 2.0, as the authors recommend.
        neg_alpha: of that for negatives, 1.6, likewise.
        elementwise: where every entry has a weight of its own instead of all having one: ``"none"``, the recommended
            setting; ``"both"``, ``"pos"``, ``"neg"``.
        postmix_norm: whether the pushed pair is brought back to unit length; the authors do not.
        positives: ``"extrapolate"``; or ``"interpolate"``, lam from Beta itself: easier positives, for comparison.

    The official code, where asked for one of the two alone, or without its switch ``sep_alpha``, draws element-wise
    from Beta(2, 2) whatever else is said: that is ``mode="pos", elementwise="both"``, or
    ``mode="neg", elementwise="both", neg_alpha=2.0``.

    Raises:
        ValueError: an option that is none of these, an alpha that is not above 0.

    Reference: arXiv 2108.02982.
    """

    def __init__(
        self,
        mode: str = "posneg",
        pos_alpha: float = 2.0,
        neg_alpha: float = 1.6,
        elementwise: str = "none",
        postmix_norm: bool = False,
        positives: str = "extrapolate",
    ) -> None:
        told = {"mode": (mode, MODES), "elementwise": (elementwise, ELEMENTWISE), "positives": (positives, POSITIVES)}
        for name, (value, known) in told.items():
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        for name, alpha in (("pos_alpha", pos_alpha), ("neg_alpha", neg_alpha)):
            if not 0 < alpha < float("inf"):
                raise ValueError(f"{name}: expected a finite number above 0, got {alpha}")
        self.mode, self.pos_alpha, self.neg_alpha = mode, pos_alpha, neg_alpha
        self.elementwise, self.postmix_norm, self.positives = elementwise, postmix_norm, positives

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor,
        lam: Tensor | float | None = None,
        mu: Tensor | float | None = None,
        permutation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform (B, D), (B, D) and (K, D), all unit vectors; ``lam``, ``mu``, ``permutation`` instead of draws."""
        if "pos" in self.mode:
            every = self.elementwise in ("both", "pos")
            if lam is None and self.positives == "interpolate":
                lam = beta(tuple(queries.shape) if every else (), self.pos_alpha, self.pos_alpha, queries)
            queries, keys = extrapolate_positives(queries, keys, lam, self.pos_alpha, every, self.postmix_norm)
        if "neg" in self.mode:
            every = self.elementwise in ("both", "neg")
            negatives = interpolate_negatives(negatives, mu, permutation, self.neg_alpha, every)
        return queries, keys, negatives
