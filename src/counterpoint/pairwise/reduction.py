"""Sums over pairs of any function of their score, in tiles: the companion of the log partition for what is no softmax.

Hinges, sigmoids, squared scores, counts above a threshold, softmax-weighted means: whatever is a sum over the keys of a
function of the score and of numbers that belong to the query or to the key. Memory is linear in the rows; the backward
pass recomputes each tile and asks autograd for the derivative of the function on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from counterpoint.pairwise.tiles import Exclusion, Groups, check_pairs, computing_dtype, gradients_through, tile_size

Term = Callable[..., Tensor]


def pair_sum(
    term: Term,
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    rows: Sequence[Tensor] = (),
    columns: Sequence[Tensor] = (),
    exclude: Groups = None,
    exclude_keys: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Sum over the keys that count of ``term(<q_i, k_j>, *rows_i, *columns_j)``, for each query.

    Args:
        term: acts element by element on a tile of scores (n, m), and on the slices of ``rows`` as (n, 1) and of
            ``columns`` as (1, m). It may ``detach`` what should carry no gradient. It is called once more in the
            backward pass, so it must not be random.
        queries: (N, D), any float type; bfloat16 and float16 are computed in float32.
        keys: (M, D); ``None`` means the queries themselves.
        rows: tensors (N,): a temperature, a threshold, a log partition of each query. May require a gradient.
        columns: tensors (M,), likewise for the keys.
        exclude, exclude_keys: as for :func:`~counterpoint.pairwise.log_partition`; pairs left out add 0.
        tile: rows and columns of a tile; default by shape.

    Returns:
        (N,) float32 (float64 for float64 input).

    Raises:
        ValueError: on shapes that do not match, naming the argument, or a ``term`` that changes the shape of a tile.

    Second derivatives (``create_graph=True``) build the whole matrix.

    Relations: ``log(pair_sum(lambda s: exp(t * s), q))`` is :func:`~counterpoint.pairwise.log_partition` with scale t,
    without its care for overflow and without its speed. The mean score under the softmax is
    ``pair_sum(lambda s, r: s * exp(t * s - r), q, rows=(log_partition(q, scale=t),))``.
    """
    other = queries if keys is None else keys
    check_pairs(queries, other, exclude, exclude_keys, tile)
    for name, values, length in (("rows", rows, len(queries)), ("columns", columns, len(other))):
        for value in values:
            if value.shape != (length,) or not value.is_floating_point():
                raise ValueError(f"{name}: expected ({length},) floating point, got {tuple(value.shape)} {value.dtype}")
    dtype = computing_dtype(queries, other)
    with torch.autocast(queries.device.type, enabled=False):
        made = _PairSum.apply(
            term,
            tile or tile_size(len(queries), len(other), queries.device),
            (exclude, exclude if exclude_keys is None and isinstance(exclude, Tensor) else exclude_keys),
            len(rows),
            queries.to(dtype),
            other.to(dtype),
            *(value.to(dtype)[:, None] for value in rows),
            *(value.to(dtype)[None, :] for value in columns),
        )
    return made  # type: ignore[no-any-return]


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        term: Term,
        tile: int,
        groups: tuple[Groups, Tensor | None],
        n_rows: int,
        queries: Tensor,
        keys: Tensor,
        *numbers: Tensor,
    ) -> Tensor:
        ctx.term, ctx.tile, ctx.groups, ctx.n_rows = term, tile, groups, n_rows
        ctx.save_for_backward(queries, keys, *numbers)
        total = queries.new_zeros(len(queries))
        walk = _Walk(ctx, queries, keys, numbers)
        parts = total.split(tile)
        for i, j in walk.tiles():
            parts[i].add_(walk.value(walk.scores(i, j), walk.numbers(i, j), i, j).sum(1))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            return None, None, None, None, *gradients_through(partial(_whole, ctx), inputs, [grad], wanted)
        queries, keys, *numbers = inputs
        walk = _Walk(ctx, queries, keys, numbers)
        gradients = [torch.zeros_like(x) if want else None for x, want in zip(inputs, wanted, strict=True)]
        slots = [walk.cut(x, k) if x is not None else None for k, x in enumerate(gradients)]
        for i, j in walk.tiles():
            with torch.enable_grad():
                scores = walk.scores(i, j).detach().requires_grad_()
                given = [x.detach().requires_grad_(w) for x, w in zip(walk.numbers(i, j), wanted[2:], strict=True)]
                value = walk.value(scores, given, i, j)
            if not value.requires_grad:
                continue
            asked = [scores, *(x for x, want in zip(given, wanted[2:], strict=True) if want)]
            found = iter(
                torch.autograd.grad(
                    value, asked, grad[i * ctx.tile :][: len(scores), None].expand_as(value), allow_unused=True
                )
            )
            change = next(found)
            if change is not None and slots[0] is not None:
                slots[0][i].addmm_(change, walk.cols[j])
            if change is not None and slots[1] is not None:
                slots[1][j].addmm_(change.T, walk.rows[i])
            for k, slot in enumerate(slots[2:]):
                if slot is not None and (more := next(found)) is not None:
                    slot[i if k < ctx.n_rows else j].add_(more)
        return None, None, None, None, *gradients


def _whole(ctx: Any, queries: Tensor, keys: Tensor, *numbers: Tensor) -> tuple[Tensor]:
    """The reduction as one tile, by operations that autograd knows."""
    walk = _Walk(ctx, queries, keys, numbers, size=max(len(queries), len(keys)))
    return (walk.value(walk.scores(0, 0), walk.numbers(0, 0), 0, 0).sum(1),)


class _Walk:
    """The tiles of one reduction: their scores, the numbers that go with them, and what is left out."""

    def __init__(
        self, ctx: Any, queries: Tensor, keys: Tensor, numbers: Sequence[Tensor], size: int | None = None
    ) -> None:
        self.term: Term = ctx.term
        self.size: int = size or ctx.tile
        self.n_rows: int = ctx.n_rows
        self.rows: tuple[Tensor, ...] = queries.split(self.size)
        self.cols: tuple[Tensor, ...] = keys.split(self.size)
        self.given = [self.cut(x, k + 2) for k, x in enumerate(numbers)]
        self.exclusion = Exclusion(ctx.groups[0], ctx.groups[1], self.size)

    def cut(self, x: Tensor, position: int) -> tuple[Tensor, ...]:
        """Parts of an input along its long side: queries, keys, then numbers of rows and of columns."""
        return torch.split(x, self.size, dim=0 if position < 2 + self.n_rows else 1)

    def tiles(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(len(self.rows)) for j in range(len(self.cols))]

    def scores(self, i: int, j: int) -> Tensor:
        scores = self.rows[i] @ self.cols[j].T
        mask = self.exclusion.mask(i, j, scores)
        if mask is None:
            return scores
        # a pair that is left out must not overflow either: it takes the row's smallest score of those that count
        smallest = scores.masked_fill(mask, float("inf")).amin(1, keepdim=True)
        return scores.where(~mask, smallest.where(smallest < float("inf"), torch.zeros_like(smallest)))

    def numbers(self, i: int, j: int) -> list[Tensor]:
        return [parts[i if k < self.n_rows else j] for k, parts in enumerate(self.given)]

    def value(self, scores: Tensor, numbers: Sequence[Tensor], i: int, j: int) -> Tensor:
        value = self.term(scores, *numbers)
        if value.shape != scores.shape:
            raise ValueError(f"term: expected the shape of the tile, {tuple(scores.shape)}, got {tuple(value.shape)}")
        mask = self.exclusion.mask(i, j, scores)
        return value if mask is None else value.masked_fill(mask, 0.0)
