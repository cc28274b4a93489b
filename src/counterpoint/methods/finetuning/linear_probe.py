"""A linear classifier on an encoder that stays as it is, trained on augmented views."""

from __future__ import annotations

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.finetuning._classifying import Classifying


class LinearProbe(Classifying):
    """The lower end of fine-tuning: cross entropy trains the classifier alone.

    The encoder has no gradient and keeps its running statistics. It differs from the score ``probe``, a logistic
    regression on the features of the items as they are, in that it sees augmented views, and only the labels of
    training.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C.
    """

    def __init__(
        self, encoder: Encoder, views: Views | None = None, recipe: Recipe | None = None, classes: int = 10
    ) -> None:
        super().__init__(encoder, views, recipe, classes)
        encoder.freeze()
