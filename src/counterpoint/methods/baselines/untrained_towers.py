"""Towers that are not trained at all: what several modalities have in common before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.methods.multimodal._multimodal import Multimodal


class UntrainedTowers(Multimodal):
    """Encoders and heads of all modalities as their seed drew them; fit leaves them so, whatever the epochs."""

    learns = False
    paired = False

    def loss(self, views: Sequence[Any], batch: dict[str, Any]) -> Tensor:
        raise RuntimeError("untrained_towers: this baseline has no loss; it is evaluated as it is")
