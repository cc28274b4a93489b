"""LARC: gradient descent whose step in each tensor is a share of its own size (You, Gitman, Ginsburg, 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARC(torch.optim.Optimizer):
    """Momentum SGD in which each parameter tensor has a rate of its own, in proportion to its length.

    With ``g`` the gradient of a tensor ``w``, Euclidean norms over all its entries, and momentum ``m``::

        rate = trust |w| / (|g| + weight_decay |w| + 1e-8)
        v   <- m v + rate (g + weight_decay w)
        w   <- w - lr v

    so that large batches, which need large rates, move no layer by more than a share ``lr * trust`` of it. A tensor
    that is zero, or whose gradient is, has rate 1 and no decay.

    Args:
        params: as for any torch optimiser; groups may have ``lr`` and ``weight_decay`` of their own.
        lr: 0.6 for a batch of 256 is SwAV's, 4.8 for one of 4,096.
        momentum: 0.9, SwAV's.
        weight_decay: 1e-6, SwAV's.
        trust: 0.001, SwAV's.

    Raises:
        ValueError: a number that is negative or not finite, momentum of 1 or more.

    This is NVIDIA's LARC without clipping, as SwAV and SimCLR's and GroCo's replications use it; it differs from LARS
    in that ``lr`` stays outside of the momentum, as in torch's SGD.

    Reference: Large Batch Training of Convolutional Networks, arXiv 1708.03888.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.6,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        for name, value in given.items():
            if not 0 <= value < (1 if name == "momentum" else float("inf")):
                limit = "below 1" if name == "momentum" else "finite"
                raise ValueError(f"{name}: expected a number of at least 0 and {limit}, got {value}")
        super().__init__(params, given)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` computes loss and gradients anew, and its result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    state = self.state[w]
                    change = _change(w, w.grad, group["weight_decay"], group["trust"])
                    state["momentum"] = state["momentum"].mul_(group["momentum"]).add_(change) if state else change
                    w.add_(state["momentum"], alpha=-group["lr"])
        return loss


def _change(w: Tensor, grad: Tensor, decay: float, trust: float) -> Tensor:
    size, steep = torch.linalg.vector_norm(w), torch.linalg.vector_norm(grad)
    rate = trust * size / (steep + decay * size + 1e-8)
    # both ways are computed, so that a device need not wait for the answer
    return torch.where((size > 0) & (steep > 0), rate * (grad + decay * w), grad)
