"""The two-layer networks of the theory of the projection head (Xue et al., ICLR 2024, arXiv 2403.11391).

Small enough to be solved on paper, they show what deeper ones do: their first layer stands for the encoder, their
second for the head. :func:`counterpoint.evaluation.feature_weights.feature_weights` reads how strongly each layer
carries a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.encoders.heads import SymmetricReLU


class LinearTwoLayer(nn.Module):
    """``f(x) = W2 W1 x``, without biases.

    Args:
        inputs, hidden, outputs: dimensions d, h and p.
        scale: standard deviation of the weights at the start. Gradient descent from a small one leaves the layers
            balanced, ``W1 W1' = W2' W2``; from below 1e-2 it first waits at the saddle at zero for tens of thousands of
            steps, and from large ones it does not balance.

    Shapes:
        (B, d) to (B, p); :meth:`pre` gives the first layer's (B, h).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, scale: float = 0.05) -> None:
        super().__init__()
        self.first = nn.Parameter(scale * torch.randn(hidden, inputs))
        self.second = nn.Parameter(scale * torch.randn(outputs, hidden))

    def pre(self, x: Tensor) -> Tensor:
        """What the first layer makes of ``x``: the representation before the head."""
        return x @ self.first.T

    def forward(self, x: Tensor) -> Tensor:
        return self.pre(x) @ self.second.T


class DiagonalTwoLayer(nn.Module):
    """``f_i(x) = w2_i s(w1_i x_i)``, the soft threshold ``s`` of :class:`~counterpoint.encoders.heads.SymmetricReLU`.

    A feature that stays below its threshold is present in the first layer and absent, without a gradient that could
    bring it back, in the second.

    Args:
        inputs: d, the number of features.
        scale: of all weights at the start.
        threshold: of all features at the start.

    Shapes:
        (B, d) to (B, d); :meth:`pre` gives the first layer's, before the threshold.
    """

    def __init__(self, inputs: int, scale: float = 0.05, threshold: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.full((inputs,), scale))
        self.second = nn.Parameter(torch.full((inputs,), scale))
        self.activation = SymmetricReLU(threshold, inputs)

    def pre(self, x: Tensor) -> Tensor:
        """What the first layer makes of ``x``: the representation before threshold and head."""
        return x * self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.pre(x)) * self.second
