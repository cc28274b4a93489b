"""The keys that score highest with each query, in blocks: hard negatives, neighbours, thresholds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoint.pairwise.tiles import Groups, check_pairs, computing_dtype

_BLOCK = 1 << 21  # scores at a time: 8 MB of float32
_FEW = 256  # below, torch keeps a heap of the largest, which is as fast as looking at a sample first
_STRIDE = 17  # every so many scores are a sample of all; a prime, as keys of a queue come in batches and epochs


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
        ordered: ``False`` gives the same k in any order, which takes half the time where k is hundreds or more.
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
    block = columns.new_empty(min(rows, len(queries)), len(other))
    scores = block.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=scores.device)
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            some, asked = block[: len(scores[part])], queries[part].to(columns.dtype)
            torch.mm(asked, columns, out=some)
            if exclude is not None and exclude_keys is not None:
                some.masked_fill_(exclude[part, None] == exclude_keys, float("-inf"))
            if ordered or k < _FEW or some.shape[1] < 8 * k or some.device.type != "cpu":
                torch.topk(some, k, dim=1, sorted=ordered, out=(scores[part], index[part]))
            else:
                _largest(some, k, scores[part], index[part])
            if bool((scores[part] == float("-inf")).any()):
                left = int((some > float("-inf")).sum(1).min())
                raise ValueError(f"k: expected at most {left}, the keys that are left for some query, got {k}")
    return scores.to(dtype), index


def _largest(scores: Tensor, k: int, values: Tensor, index: Tensor) -> None:
    """The k largest of each row (B, M), in any order, into ``values`` and ``index`` (B, k): ``topk`` in half the time.

    A bound that a sample of the row says lies a little below the k-th largest leaves few scores to select from. Where
    the sample was wrong about a row, fewer than k are left, and that row is selected from whole: the result is exact.
    """
    among = k // _STRIDE + 4 * math.isqrt(k // _STRIDE) + 1  # four standard deviations above the expected rank
    sample = scores[:, ::_STRIDE].contiguous()
    bound = sample.topk(min(among, sample.shape[1]), dim=1, sorted=False).values.amin(1, keepdim=True)
    kept = (~(scores < bound)).view(-1).nonzero().view(-1)  # in order of rows; what is no number counts as large
    rows, width = scores.shape
    starts = torch.searchsorted(kept, torch.arange(rows + 1) * width)
    counts, starts = starts.diff()[:, None], starts[:-1, None]
    most = int(counts.max())
    places = torch.arange(most)
    chosen = kept.index_select(0, (starts + places).clamp_(max=len(kept) - 1).view(-1))
    found = scores.view(-1).index_select(0, chosen).view(rows, most).masked_fill_(places >= counts, -math.inf)
    if most >= k:
        torch.topk(found, k, dim=1, sorted=False, out=(values, index))
        index.copy_(chosen.view(rows, most).gather(1, index).remainder_(width))
    for row in (counts[:, 0] < k).nonzero()[:, 0].tolist():
        torch.topk(scores[row], k, sorted=False, out=(values[row], index[row]))
