"""An encoder that is not trained at all: what the architecture alone gives, before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.methods.base import Method


class Untrained(Method):
    """The encoder as its seed drew it; fit leaves it so, whatever the epochs.

    Random convolutions are a strong baseline: what a method scores is worth the difference to this.
    """

    learns = False

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        raise RuntimeError("untrained: this baseline has no loss; it is evaluated as it is")
