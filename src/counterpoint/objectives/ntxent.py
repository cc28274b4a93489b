"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR (Chen et al., ICML 2020, arXiv 2002.05709)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, ordinary_length, positive
from counterpoint.pairwise import gather, log_partition
from counterpoint.pairwise.distributed import is_distributed
from counterpoint.pairwise.partition import LOG2E, exponentials

_SMALL = 512  # rows; one tile, where calls cost more than arithmetic


class NTXent(nn.Module):
    """Each of the 2B embeddings must find the other view of its item among the 2B - 1 others.

    With unit vectors ``z`` and positive ``p(i)``::

        l_i = - <z_i, z_p(i)> / temperature + log sum_{j != i} exp(<z_i, z_j> / temperature),    loss = mean_i l_i

    The positive is one of the ``j`` (it stays in the denominator), the anchor itself is not.

    Args:
        temperature: 0.5, the paper's optimum for CIFAR-10 (section B.9); 0.1 for its long ImageNet training.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the 2B terms, view 1 first.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw, B >= 2 over all processes. Memory O(B D): no 2B x 2B matrix is made.

    Raises:
        ValueError: on B = 1 (no negatives), shapes that differ, non-finite values, temperature <= 0.

    Relations: :class:`SupCon` without labels is this loss; with the positive taken out of the denominator it is DCL.
    """

    def __init__(self, temperature: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        z = torch.cat(embeddings(z1=z1, z2=z2))
        if self._is_small(z):
            length = ordinary_length(z)
            if length is not None:
                total: Tensor = _Small.apply(z, length, 1 / self.temperature)
                return total / len(z) if self.reduction == "mean" else total
        z = normalize(z)
        first, second = (gather(part) for part in z.split(len(z1)))
        if len(first) < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        z = z if len(first) == len(z1) else torch.cat([first, second])
        partition = log_partition(z, scale=1 / self.temperature, exclude="self")
        if self.reduction == "none":
            attraction = (first * second).sum(1) / self.temperature
            return partition - torch.cat([attraction, attraction])
        attraction = torch.dot(first.flatten(), second.flatten()) * (2 / self.temperature)
        total = partition.sum() - attraction
        return total / len(partition) if self.reduction == "mean" else total

    def _is_small(self, z: Tensor) -> bool:
        return 2 < len(z) <= _SMALL and self.reduction != "none" and not is_distributed()


class _Small(torch.autograd.Function):
    """The sum of the terms of a small batch, normalisation included: all of it in one step each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: Tensor, scale: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            z = x / length
            scores = (z @ z.T).mul_(scale * LOG2E)
            attraction = scores.diagonal(len(z) // 2).sum() / LOG2E
            partition, shares, total = exponentials(scores.fill_diagonal_(-torch.inf), 1)
            ctx.scale = scale
            ctx.save_for_backward(x, z, length, shares, total)
            return partition.sum() - 2 * attraction

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        x, z, length, shares, total = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be derived again: the same by operations that autograd knows
            z1, z2 = normalize(x).chunk(2)
            again = NTXent(1 / ctx.scale, "none")(z1, z2).sum()
            return torch.autograd.grad(again, x, grad, create_graph=True)[0], None, None
        weights, items = shares / total, len(z) // 2
        weights = weights + weights.T
        weights.diagonal(items).sub_(2)
        weights.diagonal(-items).sub_(2)
        change = weights.mm(z).mul_(grad * ctx.scale)
        return change.addcmul_(z, (change * z).sum(1, keepdim=True), value=-1).div_(length), None, None
