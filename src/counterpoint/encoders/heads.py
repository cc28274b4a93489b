"""Projection and prediction heads."""

from __future__ import annotations

from torch import nn


def mlp_head(inputs: int, hidden: int, outputs: int, *, layers: int = 2, last_norm: bool = False) -> nn.Sequential:
    """A head as contrastive papers draw it: (linear, batch norm, ReLU) repeated, then linear.

    Args:
        inputs, hidden, outputs: dimensions.
        layers: linear layers in all; 1 is a linear head.
        last_norm: batch norm without affine parameters after the last layer (SimSiam's projector).

    Returns:
        a module (B, inputs) -> (B, outputs).
    """
    if layers < 1:
        raise ValueError(f"layers: expected at least 1, got {layers}")
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        inputs = hidden
    parts.append(nn.Linear(inputs, outputs, bias=not last_norm))
    if last_norm:
        parts.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*parts)
