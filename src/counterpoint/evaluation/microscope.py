"""The microscope: what a loss does to each pair of embeddings, from autograd and not from a formula for each loss.

A loss that depends on embeddings through their inner products ``s_ij = <z_i, z_j>`` alone moves every row along the
others: its gradient is ``dL/dz_i = sum_j w_ij z_j``, each pair a *weight* and a *direction*. In a few dimensions the
weights cannot be read off the gradient, since many rows have many ways to sum up to one vector. They can where the rows
are linearly independent, and a loss of inner products does not mind in how many dimensions they live. So each row gets
one more dimension of its own, in which it lies ``h`` times its length away from all the others::

    z_i -> (z_i, h |z_i| e_i),     <z_i, z_j> unchanged for i != j,     dL / d(z_i)_j  =  h |z_j| w_ij

In the dimension of row j nothing lies but row j, and so the gradient of row i in it *is* the weight of the pair. With
``h = 1e-8`` in float64, lengths do not change by as much as a rounding: the weights are exact, and cost one backward
pass. Stop-gradients are seen as they are: where only the anchor moves, ``w_ij`` and ``w_ji`` differ.

Whether a loss is one of inner products is not assumed but measured: the weights must give back the gradient that the
rows really have. Where they do not (Barlow Twins, VICReg: statistics of dimensions), :class:`NotOfPairs` says so, and
:func:`gradient_split` still tells where the gradient points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LIFT = 1e-8  # its square is less than the rounding of 1 in float64
EXACT = 1e-6  # what the sum over pairs may miss of the gradient

Loss = Callable[..., Tensor]


class NotOfPairs(ValueError):
    """The loss is not a function of the inner products of its rows, and so no pair has a weight."""


@dataclass(frozen=True)
class Pairs:
    """A loss at one batch of M rows, pair by pair.

    Attributes:
        loss: its value.
        similarity: (M, M) inner products.
        weight: (M, M), ``w_ij``: how the loss changes with ``s_ij`` through row i. Below zero the pair attracts, above
            it repels. Symmetric but for stop-gradients. The diagonal keeps a row's length as it is.
        gradient: (M, D), what the loss asks of each row; ``weight @ rows`` to rounding.
        groups: (M,) item of each row.
        views: (M,) number of the view, modality or bank of each row.
        anchors: (n,) rows that learn, in order; the others are keys or a bank.
        residual: what the sum over pairs misses of the gradient, relative to the pairs' forces: rounding.
    """

    loss: float
    similarity: Tensor
    weight: Tensor
    gradient: Tensor
    groups: Tensor
    views: Tensor
    anchors: Tensor
    residual: float

    @cached_property
    def positive(self) -> Tensor:
        """(n, M) bool: of one item and not the anchor itself."""
        own = self.anchors[:, None] == torch.arange(len(self.groups), device=self.groups.device)
        return (self.groups[self.anchors, None] == self.groups) & ~own

    @cached_property
    def negative(self) -> Tensor:
        """(n, M) bool: of another item, in a view that the loss holds against the anchor's own.

        A loss of two modalities contrasts an image with texts, and so no image is a negative of another. It does so if
        any two items of the two views have a weight: which of them have none is what a loss selects.
        """
        others = self.groups[self.anchors, None] != self.groups
        weighs = ((self.weight[self.anchors] != 0) & others).double()
        ofs = torch.nn.functional.one_hot(self.views).double()
        met = ofs[self.anchors].T @ weighs @ ofs > 0
        return others & met[self.views[self.anchors]][:, self.views]

    @cached_property
    def forces(self) -> Tensor:
        """(n, M): the anchors' weights times n, so that a mean over anchors does not make them small."""
        return self.weight[self.anchors] * len(self.anchors)

    @property
    def pull(self) -> Tensor:
        """(n,): weight of an anchor's positives together. Above zero where they attract."""
        return -(self.forces * self.positive).sum(1)

    @property
    def push(self) -> Tensor:
        """(n,): weight of an anchor's negatives together. Above zero where they repel."""
        return (self.forces * self.negative).sum(1)

    @property
    def shares(self) -> Tensor:
        """(n, M): each negative's share of an anchor's weight on negatives, by size; 0 where there is none."""
        size = (self.forces * self.negative).abs()
        total = size.sum(1, keepdim=True)
        return size / torch.where(total > 0, total, 1.0)

    @property
    def effective_negatives(self) -> Tensor:
        """(n,): how many negatives share the weight, exp of the entropy of the shares; 0 where none has any."""
        shares = self.shares
        some = shares.sum(1) > 0
        return torch.where(some, torch.special.entr(shares).sum(1).exp(), 0.0)

    def hardest(self, fraction: float) -> Tensor:
        """(n,): the share of the weight on the most similar so many negatives of an anchor, at least one.

        Raises:
            ValueError: a fraction that is not above 0 and up to 1.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a number above 0 and up to 1, got {fraction}")
        order = self.similarity[self.anchors].masked_fill(~self.negative, -torch.inf).argsort(1, descending=True)
        kept = (self.negative.sum(1) * fraction).round().clamp(min=1)
        rank = torch.arange(order.shape[1], device=order.device)
        return (self.shares.gather(1, order) * (rank < kept[:, None])).sum(1)

    @property
    def size(self) -> Tensor:
        """(n,): length of an anchor's gradient, times n."""
        return self.gradient[self.anchors].square().sum(1).sqrt() * len(self.anchors)

    @property
    def direction(self) -> Tensor:
        """(n,): the gradient's length without the weight, ``size / pull``: how far a positive is from what it is held
        against. NaN where nothing pulls."""
        return torch.where(self.pull > 0, self.size / self.pull, torch.nan)


def pair_weights(
    loss: Loss,
    *inputs: Tensor,
    groups: Sequence[Tensor] | None = None,
    anchors: int | None = None,
    term: int | None = None,
    unit: bool = True,
) -> Pairs:
    """The weight that a loss gives to every pair of rows.

    Args:
        loss: any function of embeddings in any number of dimensions, such as an objective.
        inputs: what it is called with, (..., B, D) each, raw; computed in float64.
        groups: item of each row, (..., B) for each input; rows of one item are positives. Default: rows at the same
            place of B are of one item, which is what two views, or views (V, B, D), are.
        anchors: so many of the first inputs hold the rows that learn; default all.
        term: for a loss that returns its terms (``reduction="none"``), the one to look at. The weights of term i of
            NT-Xent are ``softmax / temperature`` for its anchor, row i, minus ``1 / temperature`` for its positive.
        unit: put the rows on the unit sphere first, so that inner products are cosines.

    Returns:
        the :class:`Pairs`. Memory O(M (M + D)), M rows in all.

    Raises:
        NotOfPairs: the loss depends on more than inner products.
        ValueError: inputs without rows, with rows of zeros or of different dimensions, groups that do not fit, a loss
            that is no scalar.
    """
    rows, items, learning = _rows(inputs, groups, anchors, unit)
    value, gradient = _gradients(loss, rows, term)
    z = torch.cat([_flat(x) for x in rows])
    lift = torch.linalg.vector_norm(z, dim=1) * LIFT
    if not bool(lift.all()):
        raise ValueError(f"inputs: {int((lift == 0).sum())} of {len(lift)} rows are zero and have no direction")
    lifted = [
        torch.cat([x, own.view(*x.shape[:-1], len(z))], -1)
        for x, own in zip(rows, torch.diag(lift).split([len(_flat(x)) for x in rows]), strict=True)
    ]
    weight = _gradients(loss, lifted, term)[1][:, z.shape[1] :] / lift
    missing = torch.linalg.matrix_norm(gradient - weight @ z)
    # forces that cancel leave a gradient of rounding alone, which says nothing
    size = torch.maximum(torch.linalg.matrix_norm(gradient), torch.linalg.matrix_norm(weight.abs() @ z.abs()))
    residual = float(missing / size) if size > 0 else float(missing)
    if not residual < EXACT:
        raise NotOfPairs(
            "loss: not a function of the inner products of its rows, so that no pair has a weight; gradient_split() "
            "tells where its gradient points"
        )
    return Pairs(value, z @ z.T, weight, gradient, items, _views(rows), learning, residual)


def gradient_split(
    loss: Loss,
    *inputs: Tensor,
    groups: Sequence[Tensor] | None = None,
    anchors: int | None = None,
    unit: bool = True,
) -> dict[str, float]:
    """Where the gradient of any loss points: shares of its square, summed over the anchors, that add up to 1.

    ``length``: along the anchor itself. ``positives``: along the rest of its positives (their part at right angles to
    the anchor). ``others``: along what else the rows of the batch span. ``nowhere``: at right angles to all rows, where
    no sum over pairs can point; 0 where the rows span all dimensions, as they do from D rows on.

    Args:
        loss, inputs, groups, anchors, unit: as for :func:`pair_weights`.
    """
    rows, items, learning = _rows(inputs, groups, anchors, unit)
    _, gradient = _gradients(loss, rows, None)
    z = torch.cat([_flat(x) for x in rows])
    _, values, axes = torch.linalg.svd(z, full_matrices=False)
    axes = axes[values > 1e-10 * values.max()]
    found = torch.zeros(4, dtype=torch.float64, device=z.device)
    for i in learning.tolist():
        mine = items == items[i]
        mine[i] = False
        left, parts = gradient[i], []
        for basis in (_basis(z[i : i + 1]), _basis(torch.cat([z[i : i + 1], z[mine]])), axes):
            inside = basis.T @ (basis @ left)
            parts.append(inside.square().sum())
            left = left - inside
        found += torch.stack([*parts, left.square().sum()])
    total = found.sum()
    shares = (found / total if total > 0 else found).tolist()
    return dict(zip(("length", "positives", "others", "nowhere"), shares, strict=True))


def _basis(x: Tensor) -> Tensor:
    """Orthonormal rows that span those of ``x``."""
    axes: Tensor
    _, values, axes = torch.linalg.svd(x, full_matrices=False)
    return axes[values > 1e-10]


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _views(rows: Sequence[Tensor]) -> Tensor:
    """A number for each view (B, D) of each input, at its rows."""
    lengths = [x.shape[-2] for x in rows for _ in range(x[..., 0, 0].numel())]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(rows[0].device)


def _rows(
    inputs: Sequence[Tensor], groups: Sequence[Tensor] | None, anchors: int | None, unit: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The inputs in float64, the item of each of their rows, and which of the rows learn."""
    if not inputs or any(x.ndim < 2 or x.numel() == 0 or x.shape[-1] != inputs[0].shape[-1] for x in inputs):
        raise ValueError(f"inputs: expected (..., B, D) of one D, got {[tuple(x.shape) for x in inputs]}")
    if groups is None:
        groups = [torch.arange(x.shape[-2], device=x.device).expand(x.shape[:-1]) for x in inputs]
    if [tuple(group.shape) for group in groups] != [tuple(x.shape[:-1]) for x in inputs]:
        raise ValueError(
            f"groups: expected {[tuple(x.shape[:-1]) for x in inputs]}, got {[tuple(g.shape) for g in groups]}"
        )
    rows = [x.detach().double() for x in inputs]
    rows = [torch.nn.functional.normalize(x, dim=-1) for x in rows] if unit else rows
    learning = sum(x[..., 0].numel() for x in inputs[:anchors])
    items = torch.cat([group.reshape(-1) for group in groups])
    return rows, items, torch.arange(learning, device=items.device)


def _gradients(loss: Loss, rows: Sequence[Tensor], term: int | None) -> tuple[float, Tensor]:
    """Value, and gradient (M, D) of all rows; 0 for those that the loss holds constant."""
    live = [x.detach().clone().requires_grad_() for x in rows]
    with torch.enable_grad():
        value = loss(*live)
        value = value if term is None else value[term]
    if value.ndim:
        raise ValueError(f"loss: expected a scalar, got {tuple(value.shape)}; choose a term, or reduce it")
    if not value.requires_grad:
        return float(value), torch.cat([_flat(torch.zeros_like(x)) for x in live])
    found = torch.autograd.grad(value, live, allow_unused=True, materialize_grads=True)
    return float(value.detach()), torch.cat([_flat(x) for x in found])
