"""Exact log-sum-exp over all pairs, in tiles: memory linear in the rows, value and gradient those of the matrix.

The gradient of ``sum_i g_i r_i + sum_j h_j c_j``, where ``r`` and ``c`` are the row and column partitions, is

    dL/dq_i = sum_j W_ij k_j,   dL/dk_j = sum_i W_ij q_i,   W_ij = g_i exp(s_ij - r_i) + h_j exp(s_ij - c_j)

so one matrix product forward and, backward, one to recompute a tile and two to spend it. Where the rows are their own
keys, ``s`` is symmetric: the upper half of the tiles serves both halves, and ``4 * N * N * D`` flops remain in all.

Scores that cannot exceed a bound known from the norms (unit vectors at any usual temperature) are exponentiated
directly, which saves the pass that looks for each row's maximum; larger ones take the running-maximum path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Without a maximum, exp(s) and sums of it over 2^31 pairs stay within the normal range of the type for |s| up to here.
_DIRECT_BOUND = {torch.float32: 40.0, torch.float64: 300.0}


def log_partition(
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    exclude: Tensor | None = None,
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
        exclude: (N,) integers; the pair (i, j) is left out when ``exclude[i] == exclude_keys[j]``.
        exclude_keys: (M,) integers; default ``exclude``, for keys that are the queries.
        log_weights: (M,) added to the scores of each key, e.g. ``log w_j``; ``-inf`` removes a key.
        tile: rows and columns of a tile, 1 or more; default by shape.

    Returns:
        (N,) float32 (float64 for float64 input); ``-inf`` for a query with no pair left.

    Raises:
        ValueError: on shapes that do not match, naming the argument.
        RuntimeError: on a second derivative, which the recomputing backward does not provide.

    Relations: :func:`log_partitions` also gives the partition of every key, in the same pass.
    """
    return _partitions(queries, keys, scale, exclude, exclude_keys, log_weights, tile, columns=False)[0]


def log_partitions(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | Tensor = 1.0,
    exclude: Tensor | None = None,
    exclude_keys: Tensor | None = None,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log partitions of every query over the keys (N,) and of every key over the queries (M,), in one pass.

    Arguments as for :func:`log_partition`. This is what a loss in two directions needs (CLIP): the tiles, which are
    the expensive part, are computed once for both.
    """
    return _partitions(queries, keys, scale, exclude, exclude_keys, None, tile, columns=True)


def _partitions(
    queries: Tensor,
    keys: Tensor | None,
    scale: float | Tensor,
    exclude: Tensor | None,
    exclude_keys: Tensor | None,
    log_weights: Tensor | None,
    tile: int | None,
    columns: bool,
) -> tuple[Tensor, Tensor]:
    own = keys is None
    other = queries if keys is None else keys
    _check(queries, other, scale, exclude, exclude_keys, log_weights, own)
    if tile is not None and tile < 1:
        raise ValueError(f"tile: expected at least 1, got {tile}")
    dtype = torch.promote_types(queries.dtype, other.dtype)
    dtype = dtype if dtype in _DIRECT_BOUND else torch.float32
    scale = torch.as_tensor(scale, dtype=dtype, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        if own and log_weights is None and (exclude_keys is None or exclude_keys is exclude):
            # s_ij = <sqrt(t) x_i, sqrt(t) x_j> keeps the symmetry that halves the work
            left = right = queries.to(dtype) * scale.sqrt()
        else:
            left = queries.to(dtype) * (scale[:, None] if scale.ndim else scale)
            right = other.to(dtype)
        if exclude is not None and exclude_keys is None:
            exclude_keys = exclude
        if log_weights is not None:
            log_weights = log_weights.to(dtype)
        rows, cols = _Partition.apply(
            left, None if left is right else right, log_weights, exclude, exclude_keys, columns, tile
        )
    return rows, cols


def _check(
    queries: Tensor,
    keys: Tensor,
    scale: float | Tensor,
    exclude: Tensor | None,
    exclude_keys: Tensor | None,
    log_weights: Tensor | None,
    own: bool,
) -> None:
    for name, value in (("queries", queries), ("keys", keys)):
        if value.ndim != 2 or not value.is_floating_point() or value.shape[0] == 0:
            raise ValueError(f"{name}: expected (rows >= 1, D) floating point, got {tuple(value.shape)} {value.dtype}")
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"keys: expected D = {queries.shape[1]} as in queries, got {keys.shape[1]}")
    n, m = queries.shape[0], keys.shape[0]
    if isinstance(scale, Tensor) and scale.ndim and (own or scale.shape != (n,)):
        expected = "a number (one scale a row would break the symmetry; pass keys=queries)" if own else f"() or ({n},)"
        raise ValueError(f"scale: expected {expected}, got shape {tuple(scale.shape)}")
    if own and float(torch.as_tensor(scale).detach()) < 0:
        raise ValueError("scale: negative; pass keys=queries for scores that repel")
    per_row = (("exclude", exclude, n), ("exclude_keys", exclude_keys, m), ("log_weights", log_weights, m))
    for name, groups, length in per_row:
        if groups is not None and groups.shape != (length,):
            raise ValueError(f"{name}: expected ({length},), got {tuple(groups.shape)}")
        if groups is not None and groups.is_floating_point() != (name == "log_weights"):
            kind = "floating point" if name == "log_weights" else "integers"
            raise ValueError(f"{name}: expected {kind}, got {groups.dtype}")
    if exclude is None and exclude_keys is not None:
        raise ValueError("exclude_keys: given without exclude")
    if exclude is not None and exclude_keys is None and n != m:
        raise ValueError(f"exclude_keys: needed, since there are {n} queries and {m} keys")


def _tile_size(n: int, m: int, d: int) -> int:
    """Rows of a tile: the fastest of 256..2048 on two AVX-512 cores was 512 up to D = 256 and 1024 above."""
    return min(max(n, m), 512 if d <= 256 else 1024)


class _Tiles:
    """The tiles of a score matrix: each is computed into one reused buffer, with its exclusions applied."""

    def __init__(
        self,
        left: Tensor,
        right: Tensor | None,
        log_weights: Tensor | None,
        groups: Tensor | None,
        key_groups: Tensor | None,
        tile: int | None,
    ) -> None:
        self.left, self.right, self.own = left, left if right is None else right, right is None
        self.log_weights = log_weights
        size = tile or _tile_size(len(self.left), len(self.right), left.shape[1])
        self.rows, self.cols = left.split(size), self.right.split(size)
        self.weights = log_weights.split(size) if log_weights is not None else None
        self.row_groups = groups.split(size) if groups is not None else None
        self.col_groups = key_groups.split(size) if key_groups is not None else None
        if self.row_groups is not None and self.col_groups is not None:
            row_range = torch.stack([torch.stack(part.aminmax()) for part in self.row_groups])
            col_range = torch.stack([torch.stack(part.aminmax()) for part in self.col_groups])
            meets = (row_range[:, None, 0] <= col_range[None, :, 1]) & (col_range[None, :, 0] <= row_range[:, None, 1])
            self.meets = meets.tolist()  # groups of a tile can only coincide where their ranges overlap
        self.buffer = left.new_empty(min(size, len(self.left)) * min(size, len(self.right)))
        self.limit = self._bound()
        self.direct = self.limit <= _DIRECT_BOUND[left.dtype]

    def _bound(self) -> float:
        """No score exceeds this (Cauchy-Schwarz); infinite or NaN norms give infinity."""
        norm = torch.linalg.vector_norm
        bound = norm(self.left, dim=1).max() * norm(self.right, dim=1).max()
        if self.log_weights is not None:
            finite = self.log_weights[self.log_weights > float("-inf")]
            bound = bound + (finite.abs().max() if finite.numel() else 0.0)
        value = float(bound)
        return value if value == value else float("inf")

    def __iter__(self) -> Any:
        """Yields (row tile number, column tile number) in an order that reuses what is in cache."""
        for i in range(len(self.rows)):
            for j in range(i if self.own else 0, len(self.cols)):
                yield i, j

    def scores(self, i: int, j: int) -> Tensor:
        q, k = self.rows[i], self.cols[j]
        out = self.buffer[: len(q) * len(k)].view(len(q), len(k))
        torch.mm(q, k.T, out=out)
        if self.weights is not None:
            out += self.weights[j]
        if self.row_groups is not None and self.col_groups is not None and self.meets[i][j]:
            out.masked_fill_(self.row_groups[i][:, None] == self.col_groups[j][None, :], float("-inf"))
        return out


class _Partition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor | None,
        log_weights: Tensor | None,
        groups: Tensor | None,
        key_groups: Tensor | None,
        columns: bool,
        tile: int | None,
    ) -> tuple[Tensor, Tensor]:
        tiles = _Tiles(left, right, log_weights, groups, key_groups, tile)
        start = 0.0 if tiles.direct else float("-inf")
        rows = left.new_full((len(left),), start)
        cols = rows if tiles.own else left.new_full((len(tiles.right),), start)
        size = len(tiles.rows[0]), len(tiles.cols[0])
        row_parts, col_parts = rows.split(size[0]), cols.split(size[1])
        for i, j in tiles:
            scores = tiles.scores(i, j)
            both = columns or (tiles.own and i != j)
            if tiles.direct:
                scores.exp_()
                row_parts[i].add_(scores.sum(1))
                if both:
                    col_parts[j].add_(scores.sum(0))
            else:
                row_parts[i].copy_(torch.logaddexp(row_parts[i], scores.logsumexp(1)))
                if both:
                    col_parts[j].copy_(torch.logaddexp(col_parts[j], scores.logsumexp(0)))
        if tiles.direct:
            rows.log_()
            if columns and not tiles.own:
                cols.log_()
        if tiles.own or not columns:
            cols = rows.new_empty(0)
            ctx.mark_non_differentiable(cols)
        ctx.save_for_backward(left, right, log_weights, groups, key_groups, rows, cols)
        ctx.columns, ctx.tile = columns and not tiles.own, tile
        return rows, cols

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_cols: Tensor) -> tuple[Tensor | None, ...]:
        left, right, log_weights, groups, key_groups, rows, cols = ctx.saved_tensors
        tiles = _Tiles(left, right, log_weights, groups, key_groups, ctx.tile)
        grad_left, grad_right = torch.zeros_like(left), None if tiles.own else torch.zeros_like(tiles.right)
        target = grad_left if grad_right is None else grad_right
        grad_weights = torch.zeros_like(log_weights) if log_weights is not None else None
        size = len(tiles.rows[0]), len(tiles.cols[0])
        weigh = _Weigher(tiles, size, grad_rows, rows, grad_cols if ctx.columns else None, cols)
        left_parts, right_parts = grad_left.split(size[0]), target.split(size[1])
        weight_parts = grad_weights.split(size[1]) if grad_weights is not None else None
        for i, j in tiles:
            weights = weigh(tiles.scores(i, j), i, j)
            left_parts[i].addmm_(weights, tiles.cols[j])
            if not (tiles.own and i == j):
                right_parts[j].addmm_(weights.T, tiles.rows[i])
            if weight_parts is not None:
                weight_parts[j].add_(weights.sum(0))
        return grad_left, grad_right, grad_weights, None, None, None, None


class _Weigher:
    """Turns a tile of scores into the weights ``W_ij`` of the module's docstring."""

    def __init__(
        self,
        tiles: _Tiles,
        size: tuple[int, int],
        grad_rows: Tensor,
        rows: Tensor,
        grad_cols: Tensor | None,
        cols: Tensor,
    ) -> None:
        self.direct = tiles.direct
        if tiles.own:  # the transposed pair has the same score and its own row's weight
            grad_cols, cols = grad_rows, rows
        self.rows = self._side(grad_rows, rows, size[0])
        self.cols = self._side(grad_cols, cols, size[1]) if grad_cols is not None else None

    def _side(self, grad: Tensor, partition: Tensor, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        empty = partition == float("-inf")
        if self.direct:
            grad, partition = torch.where(empty, 0.0, grad * torch.exp(-partition)), partition
        else:
            grad, partition = torch.where(empty, 0.0, grad), torch.where(empty, 0.0, partition)
        return grad.split(size), partition.split(size)

    def __call__(self, scores: Tensor, i: int, j: int) -> Tensor:
        grad, partition = self.rows[0][i][:, None], self.rows[1][i][:, None]
        if self.direct:
            factor = grad if self.cols is None else grad + self.cols[0][j]
            return scores.exp_().mul_(factor)
        weights = (scores - partition).exp_().mul_(grad)
        if self.cols is not None:
            weights += scores.sub_(self.cols[1][j]).exp_().mul_(self.cols[0][j])
        return weights
