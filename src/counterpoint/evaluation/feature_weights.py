"""Feature weights: how strongly each layer carries each feature, in theory and in what was trained.

Training with a projection head weights features more unequally in every further layer (Xue et al., "Investigating the
Benefits of Projection Head for Representation Learning", ICLR 2024, arXiv 2403.11391), so that a feature which the
contrastive task has little use for is easier to read before the head than after it.

For a linear network and the spectral contrastive loss that can be computed: :func:`optimum` is the closed form,
:func:`population_loss` what it minimises, :func:`feature_weights` reads a network's weights. For any layer of any
network, :func:`class_weights` takes the classes as features, and :func:`inequality` says in one number how unequal they
are. The paper's own theorems could not be read: the closed form is a reconstruction, derived from the equations and
confirmed by gradient descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from counterpoint.evaluation.embeddings import unit


class TwoLayer(Protocol):
    """A network with a first layer that can be looked at, such as those of :mod:`counterpoint.encoders.two_layer`."""

    def pre(self, x: Tensor) -> Tensor:
        """(B, d) to (B, h): before the head."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d) to (B, p): after it."""


@dataclass(frozen=True)
class Optimum:
    """The best linear network for the spectral contrastive loss.

    Attributes:
        loss: the minimum.
        kept: int64 (k,): the features it keeps, ascending. Where features tie at the cut, another choice is as good.
        product: (d,): the diagonal of ``M = W1' W2' W2 W1``.
        weights: (layers, d): the weight of each feature after each layer, if the layers are balanced; the last row is
            the representation after the head, ``sqrt(product)``.
    """

    loss: float
    kept: Tensor
    product: Tensor
    weights: Tensor


def optimum(sigma: Tensor, sigma_pos: Tensor, width: int, layers: int = 2) -> Optimum:
    """Where training ends, for a linear network of ``layers`` layers and features that are not correlated.

    With ``a_i`` the variance of feature i over augmented views and ``b_i`` its covariance between two views of an item,
    the loss ``-2 tr(M Sigma+) + tr(M Sigma M Sigma)`` keeps the ``width`` features of largest ``b_i / a_i`` and has::

        M_ii = b_i / a_i^2,    loss = - sum over the kept (b_i / a_i)^2

    The whole network weights a kept feature by ``w_i = sqrt(b_i) / a_i``. Gradient descent from small weights, like
    weight decay, shares that evenly between the layers, so that after layer l of L it is ``w_i ** (l / L)``: with two
    layers, ratios between features are squared from before the head to after it.

    Args:
        sigma: (d,) a, positive.
        sigma_pos: (d,) b. A feature with b <= 0 is never kept.
        width: p, the narrowest dimension of the network.
        layers: L.

    Raises:
        ValueError: shapes that differ, variances that are not positive, width or layers below 1.
    """
    if sigma.ndim != 1 or sigma.shape != sigma_pos.shape:
        raise ValueError(f"sigma, sigma_pos: expected (d,) both, got {tuple(sigma.shape)}, {tuple(sigma_pos.shape)}")
    if not bool((sigma > 0).all()):
        raise ValueError("sigma: expected variances above 0; leave out a feature that does not vary")
    if width < 1 or layers < 1:
        raise ValueError(f"width, layers: expected at least 1, got {width} and {layers}")
    share = (sigma_pos / sigma).clamp(min=0)
    kept = share.argsort(descending=True, stable=True)[:width]
    kept = kept[share[kept] > 0].sort().values
    product = torch.zeros_like(sigma)
    product[kept] = share[kept] / sigma[kept]
    depths = torch.arange(1, layers + 1, dtype=sigma.dtype, device=sigma.device)[:, None] / layers
    return Optimum(float(-share[kept].square().sum()), kept, product, product.sqrt() ** depths)


def population_loss(model: TwoLayer, sigma: Tensor, sigma_pos: Tensor) -> Tensor:
    """The spectral contrastive loss of a linear network over a whole population: ``-2 tr(M S+) + tr(M S M S)``.

    It is what :class:`counterpoint.objectives.spectral.SpectralContrastive` estimates from a batch.

    Args:
        model: linear, without bias.
        sigma, sigma_pos: covariance S of views and covariance S+ between two views of an item: (d, d), or (d,) where
            they are diagonal.

    Returns:
        Scalar, differentiable.
    """
    maps = model(torch.eye(len(sigma), dtype=sigma.dtype, device=sigma.device))  # (d, p): a row for each feature
    second, positive = (maps.T * s if s.ndim == 1 else maps.T @ s for s in (sigma, sigma_pos))
    loss: Tensor = (second @ maps).square().sum() - 2 * (positive @ maps).trace()
    return loss


@torch.no_grad()
def feature_weights(model: TwoLayer, basis: Tensor) -> tuple[Tensor, Tensor]:
    """How strongly features come out of the first layer and of the whole network.

    Args:
        model: maps zero to zero.
        basis: (k, d), a feature a row, in the strength in which it occurs. For a linear network and the identity
            matrix, the weights are the lengths of the columns of ``W1`` and ``W2 W1``.

    Returns:
        The lengths before and after the head, (k,) each.
    """
    return model.pre(basis).norm(dim=1), model(basis).norm(dim=1)


def class_weights(x: Tensor, labels: Tensor) -> Tensor:
    """How much of a representation lies along each class: the feature weights of a layer of a deep network.

    The standard deviation along the direction from the mean of all items to the mean of the class, as a share of the
    root of the total variance: indifferent to shifts, rotations and the scale of the representation.

    Args:
        x: (N, D).
        labels: int64 (N,); items labelled -1 count for the variance only.

    Returns:
        float64 (K,), a weight between 0 and 1 for each class that occurs, in the order of the labels; 0 where a class
        lies in the middle of all.

    Raises:
        ValueError: shapes that do not fit, or no label at all.
    """
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"x, labels: expected (N, D) and (N,), got {tuple(x.shape)} and {tuple(labels.shape)}")
    if not bool((labels >= 0).any()):
        raise ValueError("labels: no item has one")
    x = x.detach().double()
    size = x.norm()
    x = x - x.mean(dim=0)
    total = x.norm()
    if total <= 1e-6 * size:  # what float32 cannot tell from a constant
        total = total.new_tensor(torch.inf)
    directions = torch.stack([x[labels == label].mean(dim=0) for label in labels[labels >= 0].unique()])
    weights: Tensor = (x @ unit(directions).T).norm(dim=0) / total
    return weights


def inequality(weights: Tensor) -> float:
    """Standard deviation of the logarithms of feature weights (K,): 0 where all are equal.

    It does not depend on their scale. Where weights are powers of one another from layer to layer, as in
    :func:`optimum`, it grows in proportion to the depth: twice as large after a linear head as before it. Weights of 0
    are left out; fewer than two others are equal.
    """
    logs = weights[weights > 0].double().log()
    return float(logs.std(correction=0)) if len(logs) > 1 else 0.0
