"""What every objective does with its input first: check it, bring it to a computing type, normalise it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def embeddings(ndims: tuple[int, ...] = (2,), **named: Tensor) -> list[Tensor]:
    """Check embeddings given by argument name and return them in float32 (float64 stays).

    Args:
        ndims: numbers of dimensions that the loss can use.
        named: tensors (..., rows, D) of one shape.

    Raises:
        ValueError: naming the argument: not floating point, another number of dimensions, no rows, non-finite values,
            or a shape other than the first one's.
    """
    first, shape = next(iter(named.items()))
    checked = []
    for name, x in named.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim not in ndims:
            usual = {2: "(rows, D)", 3: "(V, rows, D)"}
            expected = " or ".join(usual.get(ndim, f"{ndim} dimensions") for ndim in ndims)
            raise ValueError(f"{name}: expected {expected}, got {tuple(x.shape)}")
        if x.shape != shape.shape:
            raise ValueError(f"{name}: expected {tuple(shape.shape)} as {first}, got {tuple(x.shape)}")
        if x.numel() == 0:
            raise ValueError(f"{name}: expected at least 1 row of at least 1 dimension, got {tuple(x.shape)}")
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        # a finite sum has finite terms; only a sum that is not makes it necessary to look at each
        if not math.isfinite(x.detach().sum()) and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name}: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are NaN or infinite")
        checked.append(x)
    return checked


def positive(**named: float) -> None:
    """Check that numbers given by argument name are finite and above zero; ``ValueError`` otherwise."""
    for name, value in named.items():
        if not 0 < float(value) < float("inf"):
            raise ValueError(f"{name}: expected a finite number above 0, got {float(value)}")


def normalize(x: Tensor) -> Tensor:
    """Unit vectors along the last dimension; zero vectors stay zero, and no finite length overflows.

    Where a square would overflow or vanish (a row of 1e30, or of 1e-30, in float32), rows are divided by their largest
    entry first. Then all lengths are at least 1 but those of zero rows, whose gradient ``eps`` keeps from being divided
    by almost zero.
    """
    if not x.numel():
        return x
    length = ordinary_length(x)
    if length is not None:
        return _Normalize.apply(x, length)[0]  # type: ignore[no-any-return]
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    return torch.nn.functional.normalize(x / torch.where(largest > 0, largest, 1.0), dim=-1, eps=0.5)


def ordinary_length(x: Tensor) -> Tensor | None:
    """Lengths (..., 1) of rows whose squares neither overflow nor vanish; ``None`` if there is another one."""
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    low, high = length.aminmax()
    limit = torch.finfo(x.dtype).max ** 0.25
    return length if float(high) < limit and float(low) * limit > 1 else None


class _Normalize(torch.autograd.Function):
    """``x / |x|`` in few operations; the length is an output too, so that the backward pass can be derived again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        z, length = x / length, length.clone()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, length)
        return z, length

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_length: Tensor | None) -> tuple[Tensor | None, None]:
        z, length = ctx.saved_tensors
        total: Tensor | None = None if grad is None else (grad - z * (grad * z).sum(-1, keepdim=True)) / length
        if grad_length is not None:
            total = grad_length * z if total is None else total + grad_length * z
        return total, None


def known_reduction(reduction: str) -> str:
    """``reduction`` itself, if :func:`reduce` knows it; ``ValueError`` otherwise."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def reduce(terms: Tensor, reduction: str) -> Tensor:
    """``"mean"``, ``"sum"`` or ``"none"`` of the terms of a loss."""
    if reduction == "none":
        return terms
    return terms.mean() if reduction == "mean" else terms.sum()
