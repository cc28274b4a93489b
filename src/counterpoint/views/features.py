"""Views of embeddings: points between two others, and beyond one as seen from another.

Interpolation makes what lies between (mixup, Zhang et al., ICLR 2018, applied to features), extrapolation what lies
further away. Both are one formula, ``weight * a + (1 - weight) * b``, with a weight in [0, 1] or above 1. Neither
normalises: a paper that does says so where it calls them. Gradients flow into both points; detach what is constant.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def mix(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    """The point that is ``weight`` of ``a`` and the rest of ``b``: ``weight * a + (1 - weight) * b``.

    Args:
        a: (..., D).
        b: broadcasts with ``a``.
        weight: 1 is ``a``, 0 is ``b``, above 1 lies beyond ``a``. One number; ``(..., 1)``, one for a point; or
            ``(..., D)``, one for an entry. A tensor of two or more dimensions must broadcast with the points.

    Raises:
        ValueError: a weight (N,), which could mean either points or entries; a number that is not finite.
    """
    if isinstance(weight, Tensor):
        if weight.ndim == 1 and weight.numel() > 1:
            raise ValueError(f"weight: expected one number, (..., 1) or (..., D), got {tuple(weight.shape)}")
    elif not math.isfinite(weight):
        raise ValueError(f"weight: expected a finite number, got {weight}")
    return weight * a + (1 - weight) * b


def extrapolate(x: Tensor, away_from: Tensor, amount: Tensor | float) -> Tensor:
    """The point beyond ``x`` as seen from ``away_from``: ``(1 + amount) * x - amount * away_from``.

    Args:
        x: (..., D).
        away_from: broadcasts with ``x``.
        amount: in units of their distance; 0 is ``x`` itself. Shapes as for the weight of :func:`mix`.

    Raises:
        ValueError: as :func:`mix`.
    """
    return mix(x, away_from, 1 + amount)


def beta(shape: tuple[int, ...], a: float, b: float, like: Tensor) -> Tensor:
    """Draws from Beta(a, b) in [0, 1], by torch's global generator, with type and device of ``like``.

    Args:
        shape: of the result; ``()`` for one number.
        a: above 0; together with ``b`` the usual two parameters: the mean is ``a / (a + b)``.
        b: above 0.
        like: a floating-point tensor.

    Raises:
        ValueError: a parameter that is not above 0.
    """
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise ValueError(f"a, b: expected finite numbers above 0, got {a} and {b}")
    return torch.distributions.Beta(a, b).sample(torch.Size(shape)).to(like)


class Mixup(NamedTuple):
    """Rows mixed with others of their batch, and how."""

    mixed: Tensor  # (B, D), lam * x + (1 - lam) * x[perm]
    perm: Tensor  # int64 (B,), the row each is mixed with
    lam: Tensor  # (B,), its own share, in [0, 1]


def mixup_embeddings(
    x: Tensor,
    concentration: float = 0.15,
    select_prob: float = 0.5,
    perm: Tensor | None = None,
    lam: Tensor | None = None,
) -> Mixup:
    """Mix each row, with some probability, with another of its batch: mixup of embeddings, its draws kept.

    Row i becomes ``lam_i x_i + (1 - lam_i) x_perm(i)``, ``perm`` a random permutation and ``lam_i`` from
    Beta(concentration, concentration) where the row is selected, 1 where it is not. ``x`` is not changed, and nothing
    is normalised.

    Args:
        x: (B, D), floating point.
        concentration: 0.15, M3CoL's (arXiv 2409.17777): one of the two mostly has almost all of the weight.
        select_prob: 0.5, M3CoL's.
        perm, lam: to be taken instead of drawn, (B,) each.

    Raises:
        ValueError: a concentration that is not above 0, a probability outside [0, 1], shapes that do not fit.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floating-point (B, D), got {tuple(getattr(x, 'shape', ()))}")
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration: expected a finite number above 0, got {concentration}")
    if not 0 <= select_prob <= 1:
        raise ValueError(f"select_prob: expected a probability, got {select_prob}")
    for name, given in (("perm", perm), ("lam", lam)):
        if given is not None and given.shape != x.shape[:1]:
            raise ValueError(f"{name}: expected ({len(x)},), got {tuple(given.shape)}")
    if perm is None:
        perm = torch.randperm(len(x), device=x.device)
    if lam is None:
        selected = torch.rand(len(x), device=x.device) < select_prob
        share = beta((len(x),), concentration, concentration, x.detach().float())
        lam = torch.where(selected, share, 1.0)
    return Mixup(mix(x, x[perm], lam.to(x)[:, None]), perm, lam)
