"""Views of embeddings: points between two others, and beyond one as seen from another.

Interpolation makes what lies between (mixup, Zhang et al., ICLR 2018, applied to features), extrapolation what lies
further away. Both are one formula, ``weight * a + (1 - weight) * b``, with a weight in [0, 1] or above 1. Neither
normalises: a paper that does says so where it calls them. Gradients flow into both points; detach what is constant.
"""

from __future__ import annotations

import math

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
