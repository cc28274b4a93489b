"""NT-Xent of pairs of which one half was invented (Wu, Hobbs, Hovakimyan, ICCV 2023, arXiv 2307.12168)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.ntxent import NTXent
from counterpoint.pairwise import gather, log_partition


class HallucinatedNTXent(nn.Module):
    """NT-Xent of the pairs ``(x_i, k_i)`` and ``(h_i, k_i)``, ``h_i`` a second anchor made from the first.

    The official code hands the keys over twice, ``NTXent([x; h], [k; k])``, 4B points. So the denominator of ``x_i``
    holds the copy of its own positive, which no training can tell from the positive, and that of ``k_i`` its own copy
    at cosine 1: the loss of a perfect embedding is no less than that of two equal choices, log 2.

    Args:
        temperature: 0.5, SimCLR's for CIFAR-10.
        mask_duplicates: leaves those copies out of the denominators; of other items all copies stay.
        copies: whether ``h`` is a mere copy of ``x`` (a control), so that masking leaves it out as well.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the 4B terms: of x, h, k paired with x, k paired with h.

    Shapes:
        ``loss(x, h, k)``: all (B, D), raw. One item is enough. Memory O(B D).

    Raises:
        ValueError: on shapes that differ, non-finite values, temperature <= 0.

    Relations: without ``mask_duplicates`` this *is* :class:`NTXent` of the doubled batch. With ``copies`` and masked it
    is NT-Xent of ``(x, k)`` with every negative counted twice.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        mask_duplicates: bool = False,
        copies: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)
        self.mask_duplicates, self.copies = mask_duplicates, copies

    def forward(self, x: Tensor, h: Tensor, k: Tensor) -> Tensor:
        x, h, k = embeddings(x=x, h=h, k=k)
        if not self.mask_duplicates:
            return NTXent(self.temperature, self.reduction)(torch.cat([x, h]), torch.cat([k, k]))  # type: ignore[no-any-return]
        x, h, k = (gather(normalize(part)) for part in (x, h, k))
        points, items = torch.cat([x, h, k]), len(x)
        own = torch.arange(items, device=x.device).repeat(3)
        twice = points.new_tensor([0.0, 0.0, math.log(2)]).repeat_interleave(items)
        # of other items everything counts, their keys twice; of one's own, what is no copy
        scale = 1 / self.temperature
        other = log_partition(points, points, scale=scale, exclude=own, log_weights=twice)
        of_x, of_h, of_k = other.split(items)
        xk, hk, xh = ((a * b).sum(1) * scale for a, b in ((x, k), (h, k), (x, h)))
        if self.copies:
            parts = [torch.logaddexp(of_x, xk), torch.logaddexp(of_h, hk)]
            parts += [torch.logaddexp(of_k, xk), torch.logaddexp(of_k, hk)]
        else:
            mine = torch.logaddexp(torch.logaddexp(of_k, xk), hk)
            parts = [torch.logaddexp(torch.logaddexp(rest, xh), pair) for rest, pair in ((of_x, xk), (of_h, hk))]
            parts += [mine, mine]
        return reduce(torch.cat(parts) - torch.cat([xk, hk, xk, hk]), self.reduction)
