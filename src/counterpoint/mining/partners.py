"""Target classes for anchors whose positives may be of any class (Wu et al., arXiv 2410.18200)."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("arbitrary", "identical", "distinct")


def partner_classes(
    labels: Tensor, mode: str = "arbitrary", classes: int | None = None, weights: Tensor | None = None
) -> Tensor:
    """Draw a class for each item, the one whose items are its positives; by torch's global generator.

    Args:
        labels: integers (B,), from 0 up.
        mode: ``"arbitrary"``: the labels in another order, so that every target is there and the own class may be one;
            ``"identical"``: the own class, as in supervised contrast; ``"distinct"``: any class but the own, which need
            not be there.
        classes: C, needed for ``"distinct"``.
        weights: (C, C), not negative: draws target b for an item of class a in proportion to ``weights[a, b]`` in place
            of ``mode``, such as a table of distances between the meanings of classes.

    Returns:
        (B,), of the type of ``labels``.

    Raises:
        ValueError: an unknown mode, classes below 2 for ``"distinct"``, labels that are no classes, or weights of which
            a row that is needed has none above 0.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if labels.ndim != 1 or labels.is_floating_point() or (len(labels) and int(labels.min()) < 0):
        raise ValueError(f"labels: expected integers (B,) from 0 up, got {tuple(labels.shape)} {labels.dtype}")
    if weights is not None:
        return _weighted(labels, weights)
    if mode == "identical":
        return labels.clone()
    if mode == "arbitrary":
        return labels[torch.randperm(len(labels), device=labels.device)]
    if classes is None or classes < 2:
        raise ValueError(f"classes: expected at least 2 for mode='distinct', got {classes}")
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(f"labels: expected classes 0 to {classes - 1}, got {int(labels.max())}")
    return (labels + torch.randint(1, classes, labels.shape, device=labels.device)).remainder(classes).to(labels.dtype)


def _weighted(labels: Tensor, weights: Tensor) -> Tensor:
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not weights.is_floating_point():
        raise ValueError(f"weights: expected floating point (C, C), got {tuple(weights.shape)} {weights.dtype}")
    if len(labels) and int(labels.max()) >= len(weights):
        raise ValueError(f"labels: expected classes 0 to {len(weights) - 1}, got {int(labels.max())}")
    rows = weights.to(labels.device)[labels]
    if not bool((torch.isfinite(rows) & (rows >= 0)).all()) or not bool((rows.sum(1) > 0).all()):
        raise ValueError("weights: expected finite numbers of at least 0, some of them above 0 in each row")
    return torch.multinomial(rows, 1)[:, 0].to(labels.dtype)
