"""Rows of all processes as one batch.

Under data-parallel training each process averages its gradient with the others'. If every process computes the loss of
the *whole* batch from :func:`gather`-ed embeddings, value and averaged gradient are exactly those of one process with
the whole batch - for every objective, whether it sums over pairs (NT-Xent) or over the batch (Barlow Twins).
Uneven batches, as the last of an epoch may be, are gathered at their own sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """Concatenate ``x`` (n_r, ...) of all processes along the first dimension, in rank order, with gradient.

    Without an initialised process group of two or more this returns ``x`` itself. In the backward pass the gradients
    that all processes hold for a process's rows are added and returned to it.
    """
    if not is_distributed():
        return x
    return _Gather.apply(x)  # type: ignore[no-any-return]


def gather_labels(x: Tensor | None) -> Tensor | None:
    """:func:`gather` for what carries no gradient; ``None`` stays ``None``."""
    return x if x is None or not is_distributed() else _collect(x)[0]


def is_distributed() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _collect(x: Tensor) -> tuple[Tensor, list[int]]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    lengths = [int(size) for size in sizes]
    longest = max(lengths)
    if not longest:  # nobody has any: nothing to send
        return x.detach().clone(), lengths
    padded = x.new_zeros((longest, *x.shape[1:]))
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]), lengths


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole, lengths = _collect(x)
        rank = dist.get_rank()
        ctx.start, ctx.length = sum(lengths[:rank]), lengths[rank]
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        if len(grad):
            dist.all_reduce(grad)
        return grad[ctx.start : ctx.start + ctx.length]
