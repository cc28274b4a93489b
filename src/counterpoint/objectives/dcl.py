"""Decoupled contrastive learning, DCL and its weighted form DCLW (Yeh et al., ECCV 2022, arXiv 2110.06848)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, log_partition


class DCL(nn.Module):
    """NT-Xent with the positive left out of the denominator, which takes the brake off its gradient.

    With unit vectors ``z`` and the other view ``p(i)`` of the same item (equation 6)::

        l_i = - <z_i, z_p(i)> / temperature + log sum_{j not of i's item, both views} exp(<z_i, z_j> / temperature)

    One sum over both views; only the anchor itself and its positive are missing, 2B - 2 terms remain. Duplicates of an
    item count as negatives at full strength. Nothing bounds the loss from below by 0: it may be negative.

    Args:
        temperature: 0.1, the default of the two re-implementations that the figures come from (the authors published
            no code).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the 2B terms, view 1 first. The paper sums.

    Shapes:
        ``loss(z1, z2)``: both (B, D), raw, B >= 2 over all processes. ``loss(z1, z2, negatives)`` is the form for MoCo:
        the B queries ``z1`` against a bank (K, D) that holds all of their negatives; B terms. Memory O((B + K) D).

    Raises:
        ValueError: on B = 1 without a bank (no negatives), shapes that differ, non-finite values, temperature <= 0.

    Relations: :class:`NTXent` has the positive in the denominator too; :func:`npc_multiplier` is what that costs. With
    a bank this is ``InfoNCE(positive_in_denominator=False)``. Two sums, one for each view, would be DHEL-like
    (:class:`MVDHEL`), not DCL.
    """

    def __init__(self, temperature: float = 0.1, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)

    def forward(self, z1: Tensor, z2: Tensor, negatives: Tensor | None = None) -> Tensor:
        z1, z2 = (gather(normalize(z)) for z in embeddings(z1=z1, z2=z2))
        scale, cosines = 1 / self.temperature, (z1 * z2).sum(1)
        attraction = self.weight(cosines) * cosines * scale
        if negatives is not None:
            (negatives,) = embeddings(negatives=negatives)
            if negatives.shape[1:] != z1.shape[1:]:
                raise ValueError(f"negatives: expected (K, {z1.shape[1]}), got {tuple(negatives.shape)}")
            return reduce(log_partition(z1, normalize(negatives), scale=scale) - attraction, self.reduction)
        if len(z1) < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        items = torch.arange(len(z1), device=z1.device).repeat(2)
        partition = log_partition(torch.cat([z1, z2]), scale=scale, exclude=items)
        return reduce(partition - attraction.repeat(2), self.reduction)

    def weight(self, cosines: Tensor) -> Tensor:
        """Weights (B,) of the positive pairs with these cosines (B,): all 1."""
        return torch.ones_like(cosines)


class DCLW(DCL):
    """DCL whose positive terms are weighted so that pairs far apart pull harder.

    ``l_i = - w_i <z_i, z_p(i)> / temperature + ...`` as in :class:`DCL`, with the negative von Mises-Fisher weight::

        w_i = 2 - exp(<z1_i, z2_i> / sigma) / mean_j exp(<z1_j, z2_j> / sigma) = 2 - B softmax_j(<z1_j, z2_j> / sigma)_i

    shared by both directions; its mean is 1. A pair far more similar than the rest of a batch of three or more has a
    negative weight: it is then pushed apart, as the equation says, down to ``2 - B``.

    Args:
        temperature, reduction: as for :class:`DCL`.
        sigma: 0.5, the default of both re-implementations; as it grows, the weights become those of DCL.
        detach_weight: hold the weights constant. The paper does not say; of the re-implementations one does, one not.
        clamp_weight: no weight below 0. Not the paper's; the mean is then no longer 1.

    Shapes and errors: as for :class:`DCL`; ``sigma <= 0`` raises. With a bank, too, the weights are over the B pairs.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        detach_weight: bool = True,
        clamp_weight: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(temperature, reduction)
        positive(sigma=sigma)
        self.sigma, self.detach_weight, self.clamp_weight = sigma, detach_weight, clamp_weight

    def weight(self, cosines: Tensor) -> Tensor:
        """Weights (B,) of the positive pairs with these cosines (B,)."""
        weights = 2 - len(cosines) * (cosines / self.sigma).softmax(0)
        weights = weights.clamp(min=0) if self.clamp_weight else weights
        return weights.detach() if self.detach_weight else weights


@torch.no_grad()
def npc_multiplier(z1: Tensor, z2: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """The negative-positive coupling: the factor ``q_i`` that every gradient of NT-Xent's term i carries.

    ``q_i = 1 -`` the probability that the softmax over the 2B - 1 others gives to the positive: 0 where the positive is
    easy or the negatives are few, and then nothing is learned. DCL's factor is 1. Since a term of DCL is the log of the
    negatives' share against the positive's, ``q`` is its sigmoid.

    Args:
        z1, z2: (B, D), raw, B >= 2.
        temperature: 0.1, as for :class:`DCL`.

    Returns:
        ``q`` (B,) of the anchors of view 1 and of view 2, between 0 and 1; without gradient.

    Raises:
        ValueError: as :class:`DCL`.
    """
    q1, q2 = DCL(temperature, reduction="none")(z1, z2).sigmoid().chunk(2)
    return q1, q2
