"""Exact log-sum-exp over all pairs, in tiles: memory linear in the rows, value and gradient those of the matrix.

The gradient of ``sum_i g_i r_i + sum_j h_j c_j``, where ``r`` and ``c`` are the row and column partitions, is

    dL/dq_i = sum_j W_ij k_j,   dL/dk_j = sum_i W_ij q_i,   W_ij = g_i exp(s_ij - r_i) + h_j exp(s_ij - c_j)

so one matrix product forward and, backward, one to recompute a tile and two to spend it. Where the rows are their own
keys, ``s`` is symmetric: the upper half of the tiles serves both halves, and ``4 * N * N * D`` flops remain in all.
The first tiles, up to a fixed budget of memory, are kept for the backward pass instead of being recomputed.

There are three ways through, chosen by what is given:

* **One tile** holds all pairs of a small batch: no loop, the fewest operations, and nothing is recomputed.
* **Direct**: scores that cannot exceed a bound known from the norms (unit vectors at any usual temperature) are
  exponentiated as they are, once; the weights above are then products of that one exponential.
* **Running maximum**: larger scores (a learned temperature of 1/100) are combined by log-sum-exp, tile after tile.

Under ``torch.autocast`` to bfloat16 the direct way computes tiles in bfloat16; sums are accumulated in float32, and a
tile's sum rounded once. Its partitions are then within ``scale * max|q| * max|k| * 2^-6 + 2^-7`` of the exact ones (two
roundings of the inputs, one of the score, one of its exponential and one of the sum, each at most 2^-8). Elsewhere half
precision is computed in float32.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.pairwise.tiles import (
    Exclusion,
    Groups,
    check_pairs,
    computing_dtype,
    gradients_through,
    tile_size,
)

# Without a maximum, exp(s) and sums of it over 2^31 pairs stay within the normal range of the type for |s| up to here.
_DIRECT_BOUND = {torch.float32: 60.0, torch.float64: 300.0}
_KEPT_BYTES = 144 << 20  # of tiles kept for the backward pass: all those of 8,192 rows that are their own keys
_ONE_PIECE = 16 << 20  # glibc keeps freed blocks of up to 32 MiB
_INF = float("inf")
# Exponentials are taken to base 2, of scores times this: torch's exp is MKL's, three to eight times as slow as its own
# exp2 on processors that are not Intel's, and no faster on those. The factor goes into the scale, and costs nothing.
LOG2E = 1 / math.log(2)


def log_partition(
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    exclude: Groups = None,
    exclude_keys: Tensor | None = None,
    log_weights: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Log of each query's partition function, ``log sum_j w_j exp(scale_i * <q_i, k_j>)``, over the pairs that count.

    Args:
        queries: (N, D), any float type; bfloat16 and float16 are computed in float32.
        keys: (M, D); ``None`` means the queries themselves, which halves the work.
        scale: number, 0-d tensor, or (N,) for one scale a query (not with ``keys=None``); usually one over the
            temperature. May require a gradient.
        exclude: ``"self"`` leaves out the pairs (i, i), which needs as many keys as queries. Or (N,) integers: the pair
            (i, j) is left out when ``exclude[i] == exclude_keys[j]``.
        exclude_keys: (M,) integers; default ``exclude``, for keys that are the queries.
        log_weights: (M,) added to the scores of each key, e.g. ``log w_j``; ``-inf`` removes a key.
        tile: rows and columns of a tile, 1 or more; default by shape.

    Returns:
        (N,) float32 (float64 for float64 input); ``-inf`` for a query with no pair left.

    Raises:
        ValueError: on shapes that do not match, naming the argument.

    Second derivatives (``create_graph=True``) build the whole matrix.

    Relations: :func:`log_partitions` also gives the partition of every key, in the same pass.
    """
    return _partitions(queries, keys, scale, exclude, exclude_keys, log_weights, tile, columns=False)[0]


def log_partitions(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | Tensor = 1.0,
    exclude: Groups = None,
    exclude_keys: Tensor | None = None,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log partitions of every query over the keys (N,) and of every key over the queries (M,), in one pass.

    Arguments as for :func:`log_partition`. This is what a loss in two directions needs (CLIP): the tiles, which are
    the expensive part, are computed once for both.
    """
    rows, cols = _partitions(queries, keys, scale, exclude, exclude_keys, None, tile, columns=True)
    assert cols is not None
    return rows, cols


class _Plan(NamedTuple):
    """What is to be computed, apart from the tensors that carry gradients."""

    scale: float
    groups: Groups
    key_groups: Tensor | None
    columns: bool
    tile: int
    half: bool  # bfloat16 tiles where scores allow it


def _partitions(
    queries: Tensor,
    keys: Tensor | None,
    scale: float | Tensor,
    exclude: Groups,
    exclude_keys: Tensor | None,
    log_weights: Tensor | None,
    tile: int | None,
    columns: bool,
) -> tuple[Tensor, Tensor | None]:
    other = queries if keys is None else keys
    check_pairs(queries, other, exclude, exclude_keys, tile)
    _check(queries, other, scale, log_weights, keys is None)
    own = keys is None and log_weights is None and exclude_keys is None
    if own and isinstance(scale, Tensor) and scale.requires_grad and float(scale.detach()) == 0:
        own = False  # the symmetric way takes the root of a learned scale, which has no slope at 0
    dtype = computing_dtype(queries, other)
    if torch.is_autocast_enabled(queries.device.type):
        half = torch.get_autocast_dtype(queries.device.type) == torch.bfloat16 and dtype == torch.float32
        with torch.autocast(queries.device.type, enabled=False):
            return _apply(queries, other, scale, exclude, exclude_keys, log_weights, tile, columns, own, dtype, half)
    return _apply(queries, other, scale, exclude, exclude_keys, log_weights, tile, columns, own, dtype, half=False)


def _apply(
    queries: Tensor,
    keys: Tensor,
    scale: float | Tensor,
    exclude: Groups,
    exclude_keys: Tensor | None,
    log_weights: Tensor | None,
    tile: int | None,
    columns: bool,
    own: bool,
    dtype: torch.dtype,
    half: bool,
) -> tuple[Tensor, Tensor | None]:
    left, right = queries.to(dtype), None if own else keys.to(dtype)
    if isinstance(scale, Tensor):
        scale = scale.to(left)
        if scale.ndim or (scale.requires_grad and not own):
            left, scale = left * (scale[:, None] if scale.ndim else scale), 1.0
        elif scale.requires_grad:  # <sqrt(t) x_i, sqrt(t) x_j> keeps the symmetry that halves the work
            left, scale = left * scale.sqrt(), 1.0
    n, m = len(queries), len(keys)
    size = tile or tile_size(n, m, left.device)
    if exclude_keys is None and isinstance(exclude, Tensor):
        exclude_keys = exclude
    plan = _Plan(float(scale), exclude, exclude_keys, columns, size, half)
    way = _OneTile if n <= size and m <= size else _Tiled
    return way.apply(plan, left, right, None if log_weights is None else log_weights.to(dtype))  # type: ignore[no-any-return]


def _check(queries: Tensor, keys: Tensor, scale: float | Tensor, log_weights: Tensor | None, own: bool) -> None:
    n, m = len(queries), len(keys)
    if isinstance(scale, Tensor) and scale.ndim and (own or scale.shape != (n,)):
        expected = "a number (one scale a row would break the symmetry; pass keys=queries)" if own else f"() or ({n},)"
        raise ValueError(f"scale: expected {expected}, got shape {tuple(scale.shape)}")
    if own and not float(scale.detach() if isinstance(scale, Tensor) else scale) >= 0:
        raise ValueError("scale: negative; pass keys=queries for scores that repel")
    if log_weights is not None and log_weights.shape != (m,):
        raise ValueError(f"log_weights: expected ({m},), got {tuple(log_weights.shape)}")
    if log_weights is not None and not log_weights.is_floating_point():
        raise ValueError(f"log_weights: expected floating point, got {log_weights.dtype}")


def _whole(plan: _Plan, left: Tensor, right: Tensor | None, log_weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The partitions from one matrix, by operations that autograd knows."""
    scores = left @ (left if right is None else right).T * plan.scale
    if log_weights is not None:
        scores = scores + log_weights
    mask = Exclusion(plan.groups, plan.key_groups, max(scores.shape)).mask(0, 0, scores)
    if mask is not None:
        scores = scores.masked_fill(mask, -_INF)

    def over(dim: int) -> Tensor:
        empty = (scores == -_INF).all(dim, keepdim=True)
        return scores.masked_fill(empty, 0.0).logsumexp(dim).masked_fill(empty.squeeze(dim), -_INF)

    return over(1), over(0) if plan.columns else None


def _again(ctx: Any, inputs: tuple[Tensor | None, ...], grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The backward pass when it is to be differentiated itself."""
    found = gradients_through(partial(_whole, ctx.plan), inputs, grads, ctx.needs_input_grad[1:])
    return None, *found


class _OneTile(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, left: Tensor, right: Tensor | None, log_weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        scores = torch.mm(left, (left if right is None else right).T)
        scores.mul_(plan.scale * LOG2E)
        if log_weights is not None:
            scores.add_(log_weights, alpha=LOG2E)
        if plan.groups is not None:
            Exclusion(plan.groups, plan.key_groups, max(scores.shape)).fill(0, 0, scores)
        cols, *by_column = exponentials(scores, 0) if plan.columns else (None, None, None)
        rows, *by_row = exponentials(scores, 1)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(left, right, log_weights, *by_row, *by_column)
        return rows, cols

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, grad_cols: Tensor | None) -> tuple[Tensor | None, ...]:
        left, right, log_weights, *sides = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _again(ctx, (left, right, log_weights), (grad_rows, grad_cols))
        weights = None
        for dim, grad, exponentials, total in ((1, grad_rows, *sides[:2]), (0, grad_cols, *sides[2:])):
            if grad is not None:
                one = exponentials * (grad.unsqueeze(dim) / total)
                weights = one if weights is None else weights.add_(one)
        if weights is None:
            return None, None, None, None
        by_key = weights.sum(0) if log_weights is not None else None
        if ctx.plan.scale != 1.0:
            weights.mul_(ctx.plan.scale)
        if right is None:
            return None, (weights + weights.T).mm(left), None, None
        return None, weights.mm(right), weights.T.mm(left) if ctx.needs_input_grad[2] else None, by_key


def exponentials(scores: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp along ``dim``, the exponentials relative to its largest score, and their sum (never 0).

    ``scores`` are those of the loss times :data:`LOG2E`.
    """
    largest = scores.amax(dim, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
    exponentials = scores.sub(largest) if dim == 0 else scores.sub_(largest)
    exponentials.exp2_()
    total = exponentials.sum(dim, keepdim=True)
    partition = total.log().add_(largest, alpha=1 / LOG2E).squeeze(dim)
    return partition, exponentials, total.clamp_(min=torch.finfo(scores.dtype).tiny)


class _Tiles:
    """The tiles of a score matrix: rows, columns, exclusions, and the exponentials or scores that are kept."""

    def __init__(
        self, plan: _Plan, left: Tensor, right: Tensor | None, log_weights: Tensor | None, direct: bool | None = None
    ) -> None:
        self.plan, self.own = plan, right is None
        other = left if right is None else right
        self.direct = self._is_direct(left, other, log_weights) if direct is None else direct
        self.dtype = torch.bfloat16 if plan.half and self.direct else left.dtype
        # scaled here, once, instead of tile by tile: by the root where the rows are the keys too
        self.base = LOG2E if self.direct else 1.0
        factor = plan.scale * self.base
        left = (left * (factor**0.5 if self.own else factor)).to(self.dtype)
        other = left if right is None else other.to(self.dtype)
        self.rows: tuple[Tensor, ...] = left.split(plan.tile)
        self.cols: tuple[Tensor, ...] = other.split(plan.tile)
        self.weights = None if log_weights is None else (log_weights * self.base).split(plan.tile)
        self.exclusion = Exclusion(plan.groups, plan.key_groups, plan.tile)
        self.order = [(i, j) for i in range(len(self.rows)) for j in range(i if self.own else 0, len(self.cols))]

    def _is_direct(self, left: Tensor, right: Tensor, log_weights: Tensor | None) -> bool:
        """Whether no score can exceed the bound (Cauchy-Schwarz); infinite or NaN norms answer no."""
        norm = torch.linalg.vector_norm(left, dim=1).max()
        bound = abs(self.plan.scale) * norm * (norm if right is left else torch.linalg.vector_norm(right, dim=1).max())
        if log_weights is not None:
            finite = log_weights[log_weights > -_INF]
            bound = bound + (finite.abs().max() if finite.numel() else 0.0)
        return bool(bound <= _DIRECT_BOUND[left.dtype])

    def empty(self) -> Tensor:
        return self.rows[0].new_empty(len(self.rows[0]) * len(self.cols[0]))

    def empties(self, count: int) -> list[Tensor]:
        """So many; of a small batch in one piece, which the C library, once it is freed, keeps for the next step."""
        one = len(self.rows[0]) * len(self.cols[0])
        if count * one * self.rows[0].element_size() > _ONE_PIECE:
            return [self.empty() for _ in range(count)]
        return list(self.rows[0].new_empty(count * one).split(one)) if count else []

    def shaped(self, buffer: Tensor, i: int, j: int) -> Tensor:
        n, m = len(self.rows[i]), len(self.cols[j])
        return buffer[: n * m].view(n, m)

    def compute(self, i: int, j: int, out: Tensor) -> Tensor:
        """Scores, or in the direct way their exponentials, of tile (i, j)."""
        torch.mm(self.rows[i], self.cols[j].T, out=out)
        if self.weights is not None:
            out.add_(self.weights[j])
        if self.direct:
            out.exp2_()
            self.exclusion.fill(i, j, out, 0.0)
        else:
            self.exclusion.fill(i, j, out)
        return out


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, left: Tensor, right: Tensor | None, log_weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        tiles = _Tiles(plan, left, right, log_weights)
        start = 0.0 if tiles.direct else -_INF
        rows = left.new_full((len(left),), start)
        cols = rows if right is None else left.new_full((len(right) if plan.columns else 0,), start)
        row_parts, col_parts = rows.split(plan.tile), cols.split(plan.tile)
        budget = _KEPT_BYTES // (plan.tile**2 * tiles.rows[0].element_size()) if any(ctx.needs_input_grad) else 0
        kept = tiles.empties(min(budget, len(tiles.order)))
        scratch = tiles.empty() if len(tiles.order) > len(kept) else None
        for number, (i, j) in enumerate(tiles.order):
            buffer = kept[number] if number < len(kept) else scratch
            assert buffer is not None
            scores = tiles.compute(i, j, tiles.shaped(buffer, i, j))
            both = plan.columns or (tiles.own and i != j)
            if tiles.direct:
                row_parts[i].add_(scores.sum(1))
                if both:
                    col_parts[j].add_(scores.sum(0))
            else:
                row_parts[i].copy_(torch.logaddexp(row_parts[i], scores.logsumexp(1)))
                if both:
                    col_parts[j].copy_(torch.logaddexp(col_parts[j], scores.logsumexp(0)))
        if tiles.direct:
            rows.log_()
            if plan.columns:
                cols.log_()
        ctx.plan, ctx.direct = plan, tiles.direct
        ctx.save_for_backward(left, right, log_weights, rows, cols if plan.columns else None, *kept)
        return rows, cols if plan.columns else None

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_cols: Tensor | None) -> tuple[Tensor | None, ...]:
        left, right, log_weights, rows, cols, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _again(ctx, (left, right, log_weights), (grad_rows, grad_cols))
        plan: _Plan = ctx.plan
        tiles = _Tiles(plan, left, right, log_weights, direct=ctx.direct)
        grad_left = torch.zeros_like(left)
        grad_right = grad_left if right is None else torch.zeros_like(right)
        grad_weights = None if log_weights is None else torch.zeros_like(log_weights)
        weigh = _Weigher(tiles, grad_rows, rows, grad_cols, cols)
        left_parts, right_parts = grad_left.split(plan.tile), grad_right.split(plan.tile)
        scratch = tiles.empty() if len(kept) < len(tiles.order) else None
        needs_right = right is None or ctx.needs_input_grad[2]
        for number, (i, j) in enumerate(tiles.order):
            if number < len(kept):
                scores = tiles.shaped(kept[number], i, j)
            else:
                assert scratch is not None
                scores = tiles.compute(i, j, tiles.shaped(scratch, i, j))
            weights = weigh(scores, i, j)
            _spend(left_parts[i], weights, tiles.cols[j])
            if needs_right and not (tiles.own and i == j):
                _spend(right_parts[j], weights.T, tiles.rows[i])
            if grad_weights is not None:
                grad_weights.split(plan.tile)[j].add_(weights.sum(0))
        # what was spent on the rows were keys, scaled only if they are rows too; on the keys, rows that are scaled
        grad_left.mul_((plan.scale / tiles.base) ** 0.5 if right is None else plan.scale)
        if right is not None:
            grad_right.mul_(1 / tiles.base)
        return None, grad_left, None if right is None or not needs_right else grad_right, grad_weights


def _spend(out: Tensor, weights: Tensor, x: Tensor) -> None:
    """``out += weights @ x``, summed in the type of ``out``."""
    if out.dtype == x.dtype:
        out.addmm_(weights, x)
    else:
        out.add_(torch.mm(weights, x))


class _Weigher:
    """Turns a tile into the weights ``W_ij`` of the module's docstring, in a buffer of its own."""

    def __init__(
        self, tiles: _Tiles, grad_rows: Tensor, rows: Tensor, grad_cols: Tensor | None, cols: Tensor | None
    ) -> None:
        self.direct, self.tiles = tiles.direct, tiles
        self.buffer, self.more = tiles.empty(), tiles.empty() if not tiles.direct else None
        if tiles.own:  # the transposed pair has the same score and its own row's weight
            grad_cols, cols = grad_rows, rows
        self.rows = self._side(grad_rows, rows)
        self.cols = None if grad_cols is None or cols is None else self._side(grad_cols, cols)

    def _side(self, grad: Tensor, partition: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        empty = partition == -_INF
        if self.direct:
            grad = torch.where(empty, 0.0, grad * torch.exp(-partition)).to(self.tiles.dtype)
        else:
            grad, partition = torch.where(empty, 0.0, grad), torch.where(empty, 0.0, partition)
        return grad.split(self.tiles.plan.tile), partition.split(self.tiles.plan.tile)

    def __call__(self, scores: Tensor, i: int, j: int) -> Tensor:
        grad, partition = self.rows[0][i][:, None], self.rows[1][i][:, None]
        out = self.tiles.shaped(self.buffer, i, j)
        if self.direct:
            if self.cols is None:
                return torch.mul(scores, grad, out=out)
            return torch.add(grad, self.cols[0][j], out=out).mul_(scores)
        torch.sub(scores, partition, out=out).exp_().mul_(grad)
        if self.cols is not None:
            assert self.more is not None
            more = self.tiles.shaped(self.more, i, j)
            out += torch.sub(scores, self.cols[1][j], out=more).exp_().mul_(self.cols[0][j])
        return out
