"""A teacher whose weights are an exponential moving average of the student's (MoCo, BYOL, Mean Teacher)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class EMA(nn.Module):
    """A copy of ``student`` that follows it: ``teacher = m * teacher + (1 - m) * student``.

    The copy starts equal, needs no gradient, and has batch statistics of its own (they follow its own forward passes,
    as in BYOL and MoCo). Call it as the student is called; call :meth:`update` after each optimiser step.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        return self.teacher(*inputs)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """Move towards ``student`` by ``1 - momentum``; 1 leaves the teacher alone, 0 copies the student.

        Raises:
            ValueError: unless 0 <= momentum <= 1.
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        ours = [p.detach() for p in self.teacher.parameters()]
        theirs = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - momentum)


def cosine_momentum(base: float, progress: float) -> float:
    """BYOL's schedule: from ``base`` to 1 as ``progress`` goes from 0 to 1 (Grill et al. 2020, section 3.2)."""
    return 1 - (1 - base) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2
