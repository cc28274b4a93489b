"""Simple and hard simple loss: Understanding the Behaviour of Contrastive Loss (Wang & Liu, CVPR 2021)."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision import hard_contrastive
from counterpoint.objectives.hard import SimpleContrastive as SimpleLoss


class SimpleContrastive(hard_contrastive.HardContrastive):
    """SimCLR or MoCo without a preference for hard negatives: all repel alike, which the paper shows to be weak.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        lambda_: weight of the sum over the negatives; ``None`` is one over their number, the softmax loss's limit at
            high temperatures.
        fraction: of an anchor's negatives that are kept: all. 0.0819 is the paper's hard simple loss for CIFAR, which
            has a preference after all and does as well as the softmax.
        count, queue_size, momentum, dim: see
            :class:`~counterpoint.methods.vision.hard_contrastive.HardContrastive`.

    Reference: arXiv 2012.09740.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        lambda_: float | None = None,
        fraction: float = 1.0,
        count: int | None = None,
        queue_size: int = 0,
        momentum: float = 0.99,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, queue_size=queue_size, momentum=momentum, dim=dim)
        self.objective = SimpleLoss(lambda_, fraction, count)
