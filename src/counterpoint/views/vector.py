"""The vocabulary for vectors: float32 batches (B, F), each row changed by a draw of its own.

A table's columns have units of their own, so nothing here adds an absolute amount: noise is measured in each feature's
standard deviation within the batch, and corruption takes its values from the feature's own distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from counterpoint.views.transform import Dice, Range, Transform


@dataclass(frozen=True)
class FeatureNoise(Transform):
    """Add normal noise of ``std`` standard deviations of each feature, as found in the batch.

    A feature that is constant in the batch, and so every feature of a batch of one, stays as it is.

    Args:
        std: in units of the feature's (population) standard deviation over the B rows. Default 0.1.
    """

    std: float = 0.1
    modality: ClassVar[str] = "vector"

    def validate(self) -> None:
        """Require a positive deviation."""
        if isinstance(self.std, tuple):
            raise self.fail("std", "one number above 0")
        self.check_positive("std")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Add the noise."""
        return dice.normal(x.shape[1]).mul_(x.std(0, correction=0) * self.std).add_(x)


@dataclass(frozen=True)
class FeatureDropout(Transform):
    """Set each entry to zero with probability ``p`` (default 0.2), without rescaling the rest."""

    p: float = 0.2
    modality: ClassVar[str] = "vector"

    def validate(self) -> None:
        """Require a probability."""
        self.check_probability("p")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Drop entries."""
        return x.masked_fill(dice.chance(self.p, x.shape[1]), 0)


@dataclass(frozen=True)
class FeatureCorruption(Transform):
    """Replace entries by the same feature of another row of the batch: SCARF's view (Bahri et al. 2022).

    In every row exactly ``floor(rate * F)`` features, chosen at random, are replaced, as in the paper's Algorithm 1;
    each takes its value from a row of its own, so the values follow the feature's marginal distribution. (The paper
    draws from the whole training set, of which the batch is a sample.) A batch of one has no other row and stays.

    Args:
        rate: fraction of features replaced. Default 0.6, as in the paper.
    """

    rate: float = 0.6
    modality: ClassVar[str] = "vector"

    def validate(self) -> None:
        """Require a rate in [0, 1]."""
        self.check_probability("rate")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Replace entries."""
        batch, features = x.shape
        order = dice.uniform(0.0, 1.0, features).argsort(1).argsort(1)
        replaced = order < math.floor(self.rate * features)
        if batch == 1:
            return x.clone()
        step = (dice.uniform(0.0, 1.0, features) * (batch - 1)).long() + 1  # 1 .. B-1 rows further: never the own one
        donor = (torch.arange(batch, device=x.device)[:, None] + step) % batch
        return torch.where(replaced, x.gather(0, donor), x)


@dataclass(frozen=True)
class FeatureScale(Transform):
    """Multiply each whole row by one random factor.

    Args:
        scale: range of the factor. Default (0.8, 1.2).
    """

    scale: Range = (0.8, 1.2)
    modality: ClassVar[str] = "vector"

    def validate(self) -> None:
        """Require positive factors in order."""
        self.check_range("scale", low=math.ulp(0.0))

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Scale the rows."""
        return x * dice.uniform(*self.scale).view(-1, 1)
