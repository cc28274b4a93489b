"""Differentiable sorting networks (Petersen et al., ICML 2021, arXiv 2105.04019; ICLR 2022, arXiv 2203.09630)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, positive


class DifferentiableSort(nn.Module):
    """Sort each row in ascending order by a network of soft swaps; the permutation is doubly stochastic.

    A swap of ``a``, whose wire is to get the smaller value, with ``b`` replaces both by mixtures of the two::

        alpha = F(steepness (b - a)),    a' = alpha a + (1 - alpha) b,    b' = (1 - alpha) a + alpha b

    As ``F`` is a distribution function with F(v) + F(-v) = 1, ``alpha`` is the probability that the order was right,
    and a large ``steepness`` sorts exactly.

    Args:
        size: n, values in a row.
        network: ``"odd_even"``, n layers of swaps of neighbours (GroCo's); or ``"bitonic"``, about log2(n)^2 / 2 layers
            of swaps across growing distances. Where n is no power of two, the swaps of the next power that touch a
            missing wire are left out, as in the diffsort package; that sorts up to 21 values, and not 22 or 38.
        relaxation: F, as in the diffsort package. ``"cauchy"`` 1/2 + atan(v)/pi (GroCo's); ``"logistic"``;
            ``"logistic_phi"``, logistic of v / |b - a|^0.25, which tells close values apart; ``"gaussian"``;
            ``"reciprocal"`` 1/2 + v / (4 + 2|v|); ``"optimal"``, v + 1/2 up to |v| = 1/4 and 1/(16 |v|) from 0 or 1
            beyond. Only cauchy, reciprocal and optimal leave every swap monotonic in its inputs.
        steepness: 1, GroCo's; the diffsort package has 10.

    Shapes:
        ``sort(x)``: x (B, n), any float type, computed in float32 at least. Returns the sorted values (B, n) and P
        (B, n, n), where P[b, i, j] is the share of input i in rank j and ``sorted = x P``. Memory O(layers B n^2);
        where only groups of ranks matter, :meth:`lowest` needs O(layers B n).

    Raises:
        ValueError: on a size below 1, a bitonic network of a size that it does not sort, unknown names, steepness <= 0,
            rows of another length, non-finite values.
    """

    partners: Tensor
    directions: Tensor

    def __init__(
        self, size: int, network: str = "odd_even", relaxation: str = "cauchy", steepness: float = 1.0
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        if network not in ("odd_even", "bitonic"):
            raise ValueError(f"network: expected 'odd_even' or 'bitonic', got {network!r}")
        if network == "bitonic" and size > 21 and size.bit_count() > 1:
            raise ValueError(f"network: 'bitonic' sorts up to 21 values or a power of two, got {size}; take 'odd_even'")
        if relaxation not in RELAXATIONS:
            raise ValueError(f"relaxation: expected one of {', '.join(RELAXATIONS)}, got {relaxation!r}")
        positive(steepness=steepness)
        self.size, self.steepness, self.relaxation = size, steepness, relaxation
        partners, directions = _wiring(network, size)
        self.register_buffer("partners", torch.tensor(partners).view(-1, size), persistent=False)
        self.register_buffer("directions", torch.tensor(directions).view(-1, size, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, alphas = self._run(x)
        ranks = torch.eye(self.size, dtype=x.dtype, device=x.device)[:, None].expand(-1, x.shape[1], -1)
        return x.T, self._back(ranks, alphas).transpose(0, 1)

    def lowest(self, x: Tensor, k: int) -> Tensor:
        """Probability (B, n) of each input of being among the ``k`` lowest: the sum of P over its first k columns.

        The product of the layers' matrices is applied to the indicator of these ranks from the right, vector by vector:
        P itself is not made.
        """
        x, alphas = self._run(x)
        ranks = (torch.arange(self.size, device=x.device) < k).to(x.dtype)[:, None, None].expand(-1, x.shape[1], 1)
        return self._back(ranks, alphas)[..., 0].T

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Sorted values (n, B) and the alpha of every wire in every layer, (n, B) each."""
        (x,) = embeddings(x=x)
        if x.shape[1] != self.size:
            raise ValueError(f"x: expected ({len(x)}, {self.size}), got {tuple(x.shape)}")
        x, alphas, soft = x.T.contiguous(), [], RELAXATIONS[self.relaxation]
        for partner, direction in zip(self.partners, self.directions, strict=True):
            other = x.index_select(0, partner)
            alphas.append(soft(direction.to(x.dtype) * (other - x), self.steepness))
            x = torch.lerp(other, x, alphas[-1])
        return x, alphas

    def _back(self, ranks: Tensor, alphas: list[Tensor]) -> Tensor:
        """Bring functions of the rank, (n, B, columns), back to the inputs; a layer's matrix is symmetric."""
        for partner, alpha in zip(self.partners.flip(0), reversed(alphas), strict=True):
            ranks = torch.lerp(ranks.index_select(0, partner), ranks, alpha[..., None])
        return ranks


@cache
def _wiring(network: str, size: int) -> tuple[list[list[int]], list[list[float]]]:
    """For each layer the partner of each wire, itself where there is none; and 1 for a wire that gets the smaller value
    of the two, -1 for one that gets the larger."""
    layers = _bitonic(size) if network == "bitonic" else _odd_even(size)
    partners = [list(range(size)) for _ in layers]
    directions = [[1.0] * size for _ in layers]
    for layer, pairs in enumerate(layers):
        for low, high in pairs:
            partners[layer][low], partners[layer][high], directions[layer][high] = high, low, -1.0
    return partners, directions


def _odd_even(size: int) -> list[list[tuple[int, int]]]:
    return [[(low, low + 1) for low in range(layer % 2, size - 1, 2)] for layer in range(size)]


def _bitonic(size: int) -> list[list[tuple[int, int]]]:
    """Blocks of doubling length are merged, every second one in descending order, as the next merger needs them."""
    blocks = (size - 1).bit_length()
    missing, layers = 2**blocks - size, []
    for block in range(blocks):
        for distance in (2**step for step in range(block, -1, -1)):
            lows = [wire for wire in range(missing, 2**blocks - distance) if not wire & distance]
            pairs = [(wire - missing, wire - missing + distance) for wire in lows]
            layers.append([p[::-1] if (wire >> block + 1) & 1 else p for wire, p in zip(lows, pairs, strict=True)])
    return layers


def _cauchy(difference: Tensor, steepness: float) -> Tensor:
    return torch.atan(difference * steepness) / math.pi + 0.5


def _logistic(difference: Tensor, steepness: float) -> Tensor:
    return torch.sigmoid(difference * steepness)


def _logistic_phi(difference: Tensor, steepness: float) -> Tensor:
    return torch.sigmoid(difference / (difference.abs() + 1e-10).pow(0.25) * steepness)


def _gaussian(difference: Tensor, steepness: float) -> Tensor:
    return torch.erf(difference * (steepness / math.sqrt(2))) / 2 + 0.5


def _reciprocal(difference: Tensor, steepness: float) -> Tensor:
    v = (difference * steepness).clamp(-1e30, 1e30)  # infinity over infinity is no number
    return v / (4 + 2 * v.abs()) + 0.5


def _optimal(difference: Tensor, steepness: float) -> Tensor:
    v = difference * steepness
    return v.clamp(-0.25, 0.25) + 0.5 + v.sign() * (0.25 - 1 / (16 * v.abs().clamp(min=0.25)))


RELAXATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "cauchy": _cauchy,
    "logistic": _logistic,
    "logistic_phi": _logistic_phi,
    "gaussian": _gaussian,
    "reciprocal": _reciprocal,
    "optimal": _optimal,
}
