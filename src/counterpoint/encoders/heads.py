"""Projection and prediction heads, and what may stand in their place."""

from __future__ import annotations

import difflib
import math
import warnings

import torch
from torch import Tensor, nn

HEADS = ("mlp", "mlp-plain", "linear", "identity", "reweighting", "none")


def mlp_head(
    inputs: int,
    hidden: int,
    outputs: int,
    *,
    layers: int = 2,
    last_norm: bool | str = False,
    norm: bool = True,
) -> nn.Sequential:
    """A head as contrastive papers draw it: (linear, batch norm, ReLU) repeated, then linear.

    Args:
        inputs, hidden, outputs: dimensions.
        layers: linear layers in all; 1 is a linear head.
        last_norm: batch norm without affine parameters after the last layer (SimSiam's projector); ``"affine"``: with
            them (BarLIP's).
        norm: batch norm between the layers.

    Returns:
        a module (B, inputs) -> (B, outputs).
    """
    if layers < 1:
        raise ValueError(f"layers: expected at least 1, got {layers}")
    if last_norm not in (False, True, "affine"):
        raise ValueError(f"last_norm: expected a truth value or 'affine', got {last_norm!r}")
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
        inputs = hidden
    parts.append(nn.Linear(inputs, outputs, bias=not last_norm))
    if last_norm:
        parts.append(nn.BatchNorm1d(outputs, affine=last_norm == "affine"))
    return nn.Sequential(*parts)


class ReweightingHead(nn.Module):
    """A fixed head that has nothing to learn: coordinate ``i`` of the features times ``kappa ** -i``.

    Trained heads weight features ever more unequally from layer to layer. This one does so by itself, so that the
    encoder below it learns features of more equal strength, and is dropped after training like any other head. The
    loss normalises what comes out of it; what is used downstream is what goes in.

    Args:
        dim: D.
        kappa: above 1 the weights fall, with an effective number of ``1 / (1 - 1 / kappa)`` coordinates; 1 is no head;
            below 1 they rise. The paper has 1.05 for self-supervised and 1.5 for supervised contrastive training and
            1.2 for cross entropy; its official code 1.05.
        dtype: of the weights, which are computed in float64; default torch's.

    The weights are a buffer, where the official code has a frozen parameter: optimisers do not see them. A weight
    below the normal range of the type is 0, and its coordinate then never learns anything; a warning says from where.
    With ``kappa = 1.5`` that is coordinate 216 in float32.

    Shapes:
        (B, D) to (B, D).

    Raises:
        ValueError: on a kappa that is not above 0, or so small that a weight overflows.

    Reference: Xue et al., "Investigating the Benefits of Projection Head for Representation Learning", ICLR 2024, arXiv
    2403.11391.
    """

    weights: Tensor

    def __init__(self, dim: int, kappa: float = 1.05, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        dtype = dtype or torch.get_default_dtype()
        if not 0 < kappa < math.inf:
            raise ValueError(f"kappa: expected a finite number above 0, got {kappa}")
        limits = torch.finfo(dtype)
        exponents = -math.log(kappa) * torch.arange(dim, dtype=torch.float64)
        if bool((exponents > math.log(limits.max)).any()):
            raise ValueError(f"kappa: {kappa} ** -{dim - 1} overflows {dtype}; take it nearer to 1")
        idle = exponents < math.log(limits.tiny)
        if bool(idle.any()):
            warnings.warn(
                f"kappa: {kappa} ** -i underflows from coordinate {int((~idle).sum())} on: the last {int(idle.sum())} "
                f"of {dim} never learn. Below {limits.tiny ** (-1 / dim):.3f} none would be idle",
                stacklevel=2,
            )
        self.kappa = kappa
        self.register_buffer("weights", torch.where(idle, 0.0, exponents.exp()).to(dtype))

    def forward(self, h: Tensor) -> Tensor:
        return h * self.weights

    def extra_repr(self) -> str:
        return f"{len(self.weights)}, kappa={self.kappa}"


class SymmetricReLU(nn.Module):
    """Soft threshold with a learnable threshold: ``relu(x - b) - relu(-x - b)``.

    What lies between ``-b`` and ``b`` becomes 0 and has no gradient: a feature too weak for this layer stays in the one
    below.

    Args:
        init: ``b`` at the start; 0, the official code's, is the identity.
        dim: a threshold for each of D coordinates; ``None``, the official code's, is one for all.

    Reference: as for :class:`ReweightingHead`.
    """

    def __init__(self, init: float = 0.0, dim: int | None = None) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full(() if dim is None else (dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - self.threshold) - torch.relu(-x - self.threshold)


def identity_head(dim: int) -> nn.Sequential:
    """A trainable head (B, D) -> (B, D) that does nothing yet: linear, :class:`SymmetricReLU`, linear, each identity.

    An option of the official code of :class:`ReweightingHead`'s paper.
    """
    first, second = nn.Linear(dim, dim), nn.Linear(dim, dim)
    for layer in (first, second):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, SymmetricReLU(), second)


def make_head(name: str, features: int, dim: int) -> nn.Module:
    """A projection head by name, what the option ``head`` of a method takes.

    Args:
        name: ``"mlp"``, two layers with batch norm between them, as wide as the features; ``"mlp-plain"``, the same
            without batch norm; ``"linear"``; ``"identity"``, see :func:`identity_head`; ``"reweighting"`` or, with
            another kappa than 1.05, ``"reweighting:1.2"``, see :class:`ReweightingHead`; ``"none"``.
        features: F, what goes in.
        dim: D, what comes out of the first three; the others keep F.

    Raises:
        ValueError: unknown name (with the nearest one), or a kappa that is no usable number.
    """
    kind, given, kappa = name.partition(":")
    if kind == "reweighting":
        try:
            return ReweightingHead(features, float(kappa)) if given else ReweightingHead(features)
        except ValueError as error:
            raise ValueError(f"head: {name!r}: {error}") from None
    if name in ("mlp", "mlp-plain"):
        return mlp_head(features, features, dim, norm=name == "mlp")
    if name == "linear":
        return mlp_head(features, features, dim, layers=1)
    if name == "identity":
        return identity_head(features)
    if name == "none":
        return nn.Identity()
    near = difflib.get_close_matches(kind, HEADS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"head: no head {name!r}; {hint}There are: {', '.join(HEADS)}")
