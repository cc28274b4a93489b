"""Predicting one view's embedding from the other's (BYOL, Grill et al. 2020; SimSiam, Chen & He 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, reduce
from counterpoint.pairwise import gather


class NegativeCosine(nn.Module):
    """Negative cosine between predictions and targets, the targets held constant.

    ``l_i = - <p_i, z_i> / (|p_i| |z_i|)`` with a stop-gradient on ``z``. SimSiam averages both directions of this;
    BYOL's ``2 - 2 cos`` is ``2 + 2`` times it, added over both directions.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(predictions, targets)``: both (B, D), raw. In [-1, 1].

    Raises:
        ValueError: on shapes that differ or non-finite values.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = known_reduction(reduction)

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        predictions, targets = embeddings(predictions=predictions, targets=targets)
        cosines = (normalize(predictions) * normalize(targets.detach())).sum(1)
        return reduce(-gather(cosines), self.reduction)
