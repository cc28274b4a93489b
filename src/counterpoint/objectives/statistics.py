"""What a contrastive loss sees in a step: how positives and negatives score (Zhu et al., ICCV 2021, arXiv 2108.02982).

Curves of these over training show what a change of features, negatives, temperature or momentum does: positives that
are too easy, negatives that lie in one place. The authors choose their feature transformation by them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from counterpoint.objectives.inputs import positive as above_zero


class ScoreStatistics(NamedTuple):
    """Of each anchor's scores, all (B,), float64.

    Attributes:
        positive: score with the positive.
        negative_mean: mean of the scores with the negatives.
        negative_variance: their unbiased variance; 0 for a single negative.
        exp_positive: ``exp(positive / temperature)``; NaN without a temperature.
        exp_negative: mean of ``exp(negative / temperature)``; NaN without a temperature.
        first: 1 where the positive scores higher than every negative, else 0: the proxy task of contrastive learning.
    """

    positive: Tensor
    negative_mean: Tensor
    negative_variance: Tensor
    exp_positive: Tensor
    exp_negative: Tensor
    first: Tensor

    def means(self) -> dict[str, float]:
        """Each statistic averaged over the anchors."""
        return dict(zip(self._fields, torch.stack(self).mean(1).tolist(), strict=True))


@torch.no_grad()
def score_statistics(positive: Tensor, negative: Tensor, temperature: float | None = None) -> ScoreStatistics:
    """Statistics of the scores of anchors, as the visualisation of Feature Transformation keeps them.

    Args:
        positive: (B,), scores before they are divided by the temperature: cosines, as a rule.
        negative: (B, K), likewise.
        temperature: of the loss; ``None`` if it has none.

    Raises:
        ValueError: shapes that do not match, no negatives, a temperature that is not above 0.

    The official tool has the first five; it computes in the precision of the training and gives NaN for one negative.
    """
    if positive.ndim != 1 or negative.ndim != 2 or len(positive) != len(negative) or not negative.numel():
        raise ValueError(
            f"positive, negative: expected (B,) and (B, K), got {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    count = negative.shape[1]
    mean = negative.mean(1)
    variance = (negative - mean[:, None]).square().sum(1) / max(1, count - 1)
    exp_positive = exp_negative = torch.full_like(positive, math.nan, dtype=torch.float64)
    if temperature is not None:
        above_zero(temperature=temperature)
        largest = torch.finfo(torch.float64).max
        exp_positive = (positive.double() / temperature).exp().clamp(max=largest)
        partition = torch.logsumexp(negative / temperature, 1).double()
        exp_negative = (partition - math.log(count)).exp().clamp(max=largest)
    first = positive > negative.amax(1)
    found = (positive, mean, variance, exp_positive, exp_negative, first)
    return ScoreStatistics(*(x.double() for x in found))
