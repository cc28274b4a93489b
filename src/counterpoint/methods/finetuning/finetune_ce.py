"""Cross entropy on labelled items: what fine-tuning usually means, and what Core-tuning is compared with."""

from __future__ import annotations

from counterpoint.methods.finetuning._classifying import Classifying


class FinetuneCE(Classifying):
    """Encoder and linear classifier trained together with cross entropy: "CE-tuning".

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C.

    It differs from the baseline ``supervised`` in what it starts from, and in that its classifier has no bias.
    """
