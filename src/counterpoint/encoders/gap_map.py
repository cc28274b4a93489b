"""The rotation that sets how large the gap between two modalities is before training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def gap_map(x: Tensor, y: Tensor, gap: float = 0.0) -> Tensor:
    """The orthogonal ``W`` (D, D) that turns the unit vectors ``y`` towards the matched ``x``, all the way or in part.

    With the gap a contrastive loss starts from under control, one sees which gap the loss makes by itself (Fahim et al.
    2024, arXiv 2405.18570)::

        W = argmin sum_i | x'_i - W y_i |^2 = U V^T,     U S V^T = SVD( sum_i x'_i y_i^T ),
        x'_i = (x_i + gap (mean y - mean x)) / |...|

    0 starts without a gap, as far as a rotation or reflection removes it; 1 with the whole one.

    Args:
        x, y: matched rows (N, D), normalised here; the authors take the first 2,048 of the training set.
        gap: from 0 to 1.

    Raises:
        ValueError: shapes that differ, or a gap out of range.
    """
    if not 0 <= gap <= 1:
        raise ValueError(f"gap: expected a number from 0 to 1, got {gap}")
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x, y: expected matched rows (N, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = (nn.functional.normalize(z.double(), dim=1) for z in (x, y))
    moved = nn.functional.normalize(x + gap * (y.mean(0) - x.mean(0)), dim=1)
    u, _, v = torch.linalg.svd(moved.T @ y)
    return u @ v


@torch.no_grad()
def turn(head: nn.Module, rotation: Tensor) -> None:
    """Turn what comes out of a head by a rotation (D, D), by turning its last layer.

    For unit vectors the turned head is the head with the map behind it, and it is saved and opened like any other.

    Raises:
        ValueError: the head does not end in a linear layer of D outputs.
    """
    last = list(head.modules())[-1]
    if not isinstance(last, nn.Linear) or last.weight.shape[:1] != rotation.shape[:1]:
        raise ValueError(f"head: expected a last linear layer of {len(rotation)} outputs, got {last}")
    for part in (last.weight, *(() if last.bias is None else (last.bias,))):
        part.copy_((rotation @ part.double()).to(part))
