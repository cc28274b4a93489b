"""The keys that score highest with each query, in blocks: hard negatives, neighbours, thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.pairwise.tiles import Groups, check_pairs, computing_dtype

_BLOCK = 1 << 21  # scores at a time: 8 MB of float32


@torch.no_grad()
def nearest(
    queries: Tensor,
    keys: Tensor | None = None,
    k: int = 10,
    *,
    exclude: Groups = None,
    exclude_keys: Tensor | None = None,
    ordered: bool = True,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query with the keys that count, largest first.

    Args:
        queries: (N, D), any float type; bfloat16 and float16 are computed in float32, also under autocast.
        keys: (M, D); ``None`` means the queries themselves.
        k: how many, at least 1.
        exclude, exclude_keys: as for :func:`~counterpoint.pairwise.log_partition`.
        ordered: ``False`` gives the same k in any order, which takes a fifth less time where k is large.
        half: compute the scores in bfloat16, as autocast would, in a third of the time: those of unit vectors are off
            by up to 0.008, and so is the border between what is found and what is not.

    Returns:
        scores (N, k) and the positions (N, k) of their keys. No gradient: recompute the chosen scores from the
        positions where one is needed, ``(queries[:, None] * keys[index]).sum(-1)``.

    Raises:
        ValueError: on shapes that do not match, or where fewer than ``k`` keys are left for a query.
    """
    other = queries if keys is None else keys
    check_pairs(queries, other, exclude, exclude_keys, None)
    if not 1 <= k <= len(other):
        raise ValueError(f"k: expected 1 to {len(other)}, the number of keys, got {k}")
    if isinstance(exclude, str):
        exclude = torch.arange(len(queries), device=queries.device)
    exclude_keys = exclude if exclude_keys is None else exclude_keys
    dtype = computing_dtype(queries, other)
    columns, rows = other.to(torch.bfloat16 if half else dtype).T, max(1, _BLOCK // len(other))
    # all made here: small results between large blocks that go keep glibc from using the blocks' room again
    block = columns.new_empty(min(rows, len(queries)), len(other), dtype=dtype)
    scores = block.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=scores.device)
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            some, asked = block[: len(scores[part])], queries[part].to(columns.dtype)
            if half:
                some.copy_(asked @ columns)
            else:
                torch.mm(asked, columns, out=some)
            if exclude is not None and exclude_keys is not None:
                some.masked_fill_(exclude[part, None] == exclude_keys, float("-inf"))
            torch.topk(some, k, dim=1, sorted=ordered, out=(scores[part], index[part]))
            if bool((scores[part] == float("-inf")).any()):
                left = int((some > float("-inf")).sum(1).min())
                raise ValueError(f"k: expected at most {left}, the keys that are left for some query, got {k}")
    return scores, index
