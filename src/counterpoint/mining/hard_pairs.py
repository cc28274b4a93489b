"""Hard pairs within a labelled batch, and the points between them (Core-tuning, Zhang et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from counterpoint.views.features import beta, mix

_SCORES = 2**20  # at a time
COMPAT = ("paper", "official")


class HardPairs(NamedTuple):
    """Three blocks of B rows: the items themselves, their semi-hard negatives, their hard positives."""

    features: Tensor  # (3B, D)
    targets: Tensor  # (3B, C), each row sums to 1


@torch.no_grad()
def hardest_pairs(features: Tensor, labels: Tensor, compat: str = "paper") -> tuple[Tensor, Tensor]:
    """For each item, the farthest of its own class and the nearest of the others, by cosine.

    Args:
        features: (B, D) raw. Memory O(B D): a million scores at a time.
        labels: (B,) integers, none of them negative.
        compat: ``"paper"``; or ``"official"``, the released code's search, which multiplies cosines by the 0/1 mask of
            the positives and takes the smallest. The zeros of what is no positive then win wherever features are not
            negative, the first of them; and index 0 is replaced by the item itself.

    Returns:
        positions (B,) of the positives and of the negatives. An item that has none is its own.

    Raises:
        ValueError: labels of another shape or negative, an unknown compat.
    """
    _check(features, labels, compat)
    own = torch.arange(len(features), device=features.device)
    # cosines are compared, so their rounding must not depend on autocast; a row of zeros has cosine 0 to all
    z = torch.nn.functional.normalize(features.float() if features.dtype.itemsize < 4 else features, dim=1)
    positives, negatives = [], []
    for rows in own.split(max(1, _SCORES // len(z))):
        with torch.autocast(z.device.type, enabled=False):
            scores = z[rows] @ z.T
        same = labels[rows, None] == labels
        others = same & (rows[:, None] != own)
        if compat == "official":
            far = (scores * others).argmin(1)
            far = torch.where(far == 0, rows, far)
            near = (scores * ~same).argmax(1)
        else:
            far = torch.where(others.any(1), scores.masked_fill(~others, float("inf")).argmin(1), rows)
            near = scores.masked_fill(same, float("-inf")).argmax(1)
        positives.append(far)
        negatives.append(torch.where(same.all(1), rows, near))
    return torch.cat(positives), torch.cat(negatives)


def random_negatives(labels: Tensor) -> Tensor:
    """A random item of another class for each (B,), by torch's global generator; itself where there is none."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    start, count = (counts.cumsum(0) - counts)[labels], counts[labels]
    others = len(labels) - count
    # in the sorted batch the own class is one stretch: draw from what is left, and step over it
    drawn = torch.minimum((torch.rand(len(labels), device=labels.device) * others).long(), (others - 1).clamp(min=0))
    place = torch.where(drawn < start, drawn, (drawn + count).clamp(max=len(labels) - 1))
    return torch.where(others > 0, order[place], torch.arange(len(labels), device=labels.device))


def generate_hard_pairs(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    alpha: float = 1.0,
    neg_min_lambda: float = 0.8,
    lam_pos: Tensor | None = None,
    lam_neg: Tensor | None = None,
    order: Tensor | None = None,
    compat: str = "paper",
    detach_originals: bool = False,
) -> HardPairs:
    """A batch three times as long: each item, a negative near the boundary, and a positive beyond it.

    With ``hp`` the farthest item of the anchor's class, ``hn`` the nearest of another, ``r`` a random item of another::

        hard positive        lam z_hp + (1 - lam) z_hn        lam ~ Beta(alpha, alpha)
        semi-hard negative   lam z_r  + (1 - lam) z_i         lam = max(draw, neg_min_lambda): it stays near z_r

    Labels are mixed alike. So a "hard positive" whose lam is small is mostly the negative, and says so in its label.

    Args:
        features: (B, D) raw, of any floating type; mixed in float32 at least.
        labels: (B,) integers from 0 to ``classes - 1``.
        classes: C.
        alpha: of the Beta distribution; 1, the official README's: uniform.
        neg_min_lambda: 0.8, the official code's.
        lam_pos, lam_neg: (B,) draws in [0, 1] in place of random ones; ``lam_neg`` is still clipped.
        order: (B,) positions of the ``r``; default random items of another class, the paper's definition.
        compat: ``"paper"``; or ``"official"``: the broken search of :func:`hardest_pairs`, and ``r`` from a random
            permutation of the batch, so that it may be of the anchor's class or the anchor itself.
        detach_originals: the first B rows carry no gradient to the features, as in the released code, where only the
            mixed rows train the encoder.

    Returns:
        :class:`HardPairs`: features (3B, D) and targets (3B, C): items, semi-hard negatives, hard positives.

    A batch of one class has no negatives: the anchor then stands in for them. An item alone in its class is its own
    hardest positive. Draws come from torch's global generator.

    Raises:
        ValueError: labels that are not below ``classes``, draws of another shape or outside [0, 1], alpha <= 0.

    Reference: arXiv 2102.06605; github.com/Vanint/Core-tuning.
    """
    _check(features, labels, compat)
    if int(labels.max()) >= classes:
        raise ValueError(f"labels: expected integers below {classes} classes, got {int(labels.max())}")
    if not 0 <= neg_min_lambda <= 1:
        raise ValueError(f"neg_min_lambda: expected a number from 0 to 1, got {neg_min_lambda}")
    x = features.float() if features.dtype.itemsize < 4 else features
    y = torch.nn.functional.one_hot(labels.long(), classes).to(x)
    far, near = hardest_pairs(x, labels, compat)
    lam_pos = _shares("lam_pos", lam_pos, x, alpha)
    lam_neg = _shares("lam_neg", lam_neg, x, alpha).clamp(min=neg_min_lambda)
    if order is None:
        official = compat == "official"
        order = torch.randperm(len(x), device=x.device) if official else random_negatives(labels.long())
    elif order.shape != labels.shape or order.is_floating_point():
        raise ValueError(f"order: expected ({len(x)},) integers, got {tuple(order.shape)} {order.dtype}")

    def mixed(of: Tensor) -> list[Tensor]:
        return [mix(of[order], of, lam_neg), mix(of[far], of[near], lam_pos)]

    return HardPairs(torch.cat([x.detach() if detach_originals else x, *mixed(x)]), torch.cat([y, *mixed(y)]))


def _shares(name: str, given: Tensor | None, x: Tensor, alpha: float) -> Tensor:
    """Shares (B, 1) of the first point, drawn unless given."""
    if given is None:
        return beta((len(x), 1), alpha, alpha, like=x)
    if given.shape != (len(x),) or not bool(((given >= 0) & (given <= 1)).all()):
        raise ValueError(f"{name}: expected ({len(x)},) numbers from 0 to 1, got {tuple(given.shape)}")
    return given.to(x)[:, None]


def _check(features: Tensor, labels: Tensor, compat: str) -> None:
    if features.ndim != 2 or not features.is_floating_point() or not len(features):
        raise ValueError(f"features: expected (B, D) floating point, got {tuple(features.shape)} {features.dtype}")
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels: expected ({len(features)},) integers, got {tuple(labels.shape)} {labels.dtype}")
    if bool((labels < 0).any()):
        raise ValueError(f"labels: expected no unlabelled items, got {int((labels < 0).sum())}; leave them out")
    if compat not in COMPAT:
        raise ValueError(f"compat: expected one of {', '.join(COMPAT)}, got {compat!r}")
