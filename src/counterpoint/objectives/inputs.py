"""What every objective does with its input first: check it, bring it to a computing type, normalise it."""

from __future__ import annotations

import torch
from torch import Tensor


def embeddings(minimum: int = 1, **named: Tensor) -> list[Tensor]:
    """Check embeddings given by argument name and return them in float32 (float64 stays).

    Args:
        minimum: fewest rows that the loss can use.
        named: tensors (..., rows, D) of one shape.

    Raises:
        ValueError: naming the argument: not floating point, fewer than two dimensions, too few rows, non-finite
            values, or a shape other than the first one's.
    """
    first, shape = next(iter(named.items()))
    checked = []
    for name, x in named.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim < 2:
            raise ValueError(f"{name}: expected (rows, D), got {tuple(x.shape)}")
        if x.shape != shape.shape:
            raise ValueError(f"{name}: expected {tuple(shape.shape)} as {first}, got {tuple(x.shape)}")
        if x.shape[-2] < minimum or x.shape[-1] == 0:
            raise ValueError(f"{name}: expected at least {minimum} rows of at least 1 dimension, got {tuple(x.shape)}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name}: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are NaN or infinite")
        checked.append(x if x.dtype in (torch.float32, torch.float64) else x.float())
    return checked


def positive(**named: float) -> None:
    """Check that numbers given by argument name are finite and above zero; ``ValueError`` otherwise."""
    for name, value in named.items():
        if not 0 < float(value) < float("inf"):
            raise ValueError(f"{name}: expected a finite number above 0, got {float(value)}")


def normalize(x: Tensor) -> Tensor:
    """Unit vectors along the last dimension; zero vectors stay zero, and no finite length overflows.

    Rows are divided by their largest entry first: without that, a row of 1e30 has an infinite length in float32.
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    return torch.nn.functional.normalize(x / torch.where(largest > 0, largest, 1.0), dim=-1)


def reduce(terms: Tensor, reduction: str) -> Tensor:
    """``"mean"``, ``"sum"`` or ``"none"`` of the terms of a loss."""
    if reduction == "mean":
        return terms.mean()
    if reduction == "sum":
        return terms.sum()
    if reduction == "none":
        return terms
    raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
