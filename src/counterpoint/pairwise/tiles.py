"""What all walks over tiles share: their size, which pairs are left out, and the check of what is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Groups = Tensor | Literal["self"] | None
_TYPES = (torch.float32, torch.float64)


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where any is, else float32: half precision is for storage, sums over many pairs need more."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype if dtype in _TYPES else torch.float32


def tile_size(n: int, m: int, device: torch.device) -> int:
    """Rows and columns of a tile.

    The fastest of 256..2048 on two AVX-512 cores was 1,024, in float32 by little and in bfloat16 by a fifth, with all
    pairs in one tile up to 320 rows and half the rows in between; a GPU is busy from about 8,192. The rows are cut into
    equal parts, so that no last tile is a sliver.
    """
    rows = max(n, m)
    if rows <= 320:
        return rows
    largest = 1024 if device.type == "cpu" else 8192
    return -(-rows // max(2, -(-rows // largest)))


def check_pairs(queries: Tensor, keys: Tensor, exclude: Groups, exclude_keys: Tensor | None, tile: int | None) -> None:
    """What every function over pairs asks of its input; ``ValueError`` naming the argument otherwise."""
    for name, value in (("queries", queries), ("keys", keys)):
        if value.ndim != 2 or not value.is_floating_point() or value.shape[0] == 0:
            raise ValueError(f"{name}: expected (rows >= 1, D) floating point, got {tuple(value.shape)} {value.dtype}")
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"keys: expected D = {queries.shape[1]} as in queries, got {keys.shape[1]}")
    n, m = len(queries), len(keys)
    if isinstance(exclude, str):
        if exclude != "self" or exclude_keys is not None:
            raise ValueError(f"exclude: expected integers, 'self' alone, or None, got {exclude!r}")
        if n != m:
            raise ValueError(f"exclude: 'self' needs as many keys as queries, got {m} and {n}")
        exclude = None
    for name, groups, length in (("exclude", exclude, n), ("exclude_keys", exclude_keys, m)):
        if groups is not None and groups.shape != (length,):
            raise ValueError(f"{name}: expected ({length},), got {tuple(groups.shape)}")
        if groups is not None and groups.is_floating_point():
            raise ValueError(f"{name}: expected integers, got {groups.dtype}")
    if exclude is None and exclude_keys is not None:
        raise ValueError("exclude_keys: given without exclude")
    if exclude is not None and exclude_keys is None and n != m:
        raise ValueError(f"exclude_keys: needed, since there are {n} queries and {m} keys")
    if tile is not None and tile < 1:
        raise ValueError(f"tile: expected at least 1, got {tile}")


class Exclusion:
    """Which pairs of a tile are left out: those whose groups are equal.

    Args:
        groups: (N,) integers of the queries, ``"self"`` for the diagonal, or ``None``: nothing is left out.
        key_groups: (M,) integers of the keys.
        size: rows and columns of a tile.
    """

    def __init__(self, groups: Groups, key_groups: Tensor | None, size: int) -> None:
        self.diagonal = isinstance(groups, str)
        self.rows: tuple[Tensor, ...] = ()
        if not isinstance(groups, Tensor) or key_groups is None:
            return
        self.rows, self.cols = groups.split(size), key_groups.split(size)
        if len(self.rows) == len(self.cols) == 1:
            self.meets = [[True]]
            return
        (low, high), (key_low, key_high) = _ranges(groups, size), _ranges(key_groups, size)
        # groups of a tile can only coincide where their ranges overlap
        self.meets = ((low[:, None] <= key_high) & (key_low <= high[:, None])).tolist()

    def mask(self, i: int, j: int, tile: Tensor) -> Tensor | None:
        """True where a pair of tile (i, j) is left out; ``None`` where none can be."""
        if self.diagonal and i == j:
            return torch.eye(*tile.shape, dtype=torch.bool, device=tile.device)
        if not self.rows or not self.meets[i][j]:
            return None
        return torch.eq(self.rows[i][:, None], self.cols[j][None, :])

    def fill(self, i: int, j: int, tile: Tensor, value: float = float("-inf")) -> None:
        """Write ``value`` to the pairs of a tile that are left out."""
        if self.diagonal:
            if i == j:
                tile.fill_diagonal_(value)
        elif (mask := self.mask(i, j, tile)) is not None:
            tile.masked_fill_(mask, value)


def _ranges(groups: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest group number of each tile's rows."""
    short = -len(groups) % size
    padded = torch.cat([groups, groups[-1:].expand(short)]) if short else groups
    low, high = padded.view(-1, size).aminmax(dim=1)
    return low, high


def gradients_through(
    function: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of ``function(*inputs)`` that can be differentiated again.

    For backward passes that are asked for a graph (``create_graph=True``, as in meta-learning): ``function`` is the
    reduction written with torch's own operations on the whole matrix, which costs O(N M) memory.
    """
    inputs = [
        x if x is None else x.view_as(x) for x in inputs
    ]  # where queries are their own keys, each side has its own gradient
    asked = [x for x, want in zip(inputs, wanted, strict=True) if want and x is not None]
    pairs = zip(function(*inputs), grads, strict=True)
    outputs = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
    if not outputs:
        return [None] * len(inputs)
    found = iter(
        torch.autograd.grad(
            [out for out, _ in outputs], asked, [grad for _, grad in outputs], create_graph=True, allow_unused=True
        )
    )
    return [next(found) if want else None for want in wanted]
