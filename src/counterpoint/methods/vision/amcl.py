"""AMCL: Adaptive Multi-head Contrastive Learning (Wang, Koniusz, Gedeon, Zheng, ECCV 2024), on SimCLR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.encoders.multihead import MultiHeadProjector
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._amcl import Adaptive
from counterpoint.objectives.amcl import AMCL as AMCLLoss
from counterpoint.objectives.amcl import PairTemperature


class AMCL(Adaptive):
    """SimCLR with several heads, a temperature for each pair in each head, and the hardest negative alone.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        heads: C, 3, the official code's. Each is a projection head of SimCLR.
        beta: weight of the temperatures' regulariser, 0.1, the code's.
        negative: ``"hardest"``, the paper's, or ``"logsumexp"``, the smooth maximum over all negatives, which computes
            the temperature of every pair.
        positive_in_denominator: the hardest of all others, the positive included: the paper's form for LGP and CAN.
        tau_min, tau_max: bounds of the temperature; 0.05 for safety, where the code has 1e-5, and 2, the code's.
        temperature_hidden: width of the temperature network, 128, the code's.
        clip: norm at which gradients are clipped, those of the temperature network apart; ours. ``None`` leaves them.
        dim: D of each projection, 128, the code's; its hidden layer is as wide as the features.

    The projection of an item is that of all heads, side by side. Heads and temperatures are dropped after training.

    Reference: arXiv 2310.05615.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        heads: int = 3,
        beta: float = 0.1,
        negative: str = "hardest",
        positive_in_denominator: bool = False,
        tau_min: float = 0.05,
        tau_max: float = 2.0,
        temperature_hidden: int = 128,
        clip: float | None = 1.0,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector: MultiHeadProjector = MultiHeadProjector(encoder.features, encoder.features, dim, heads)
        temperature = PairTemperature(dim, heads, temperature_hidden, tau_min, tau_max)
        self.objective = AMCLLoss(temperature, beta, negative, positive_in_denominator)
        self.clip = clip

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*(self.projector.split(z) for z in self.embed_together(views)))
