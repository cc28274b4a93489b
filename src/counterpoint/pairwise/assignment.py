"""Balanced assignment of rows to columns: Sinkhorn's algorithm, in the log domain, over all processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoint.pairwise.distributed import gather_labels

_LARGEST = 1e30  # sums of such logits stay finite in float32


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3, bank: Tensor | None = None) -> Tensor:
    """Codes: each row's probabilities over the columns, the columns used about equally often.

    They approach the ``Q`` that maximises ``<Q, scores> + epsilon H(Q)`` among those whose rows sum to 1 and whose
    columns all have the same sum (Cuturi 2013). From ``Q = exp(scores / epsilon)``, one iteration divides each column
    by its sum and then each row by its sum; in logarithms, with ``u`` for columns and ``v`` for rows::

        u_k = log sum_b exp(scores_bk / epsilon - v_b),    v_b = log sum_k exp(scores_bk / epsilon - u_k)

    Rows come last, so their sums are exact, and those of the columns as near as the iterations have brought them. No
    exponential is taken of anything but a difference, so that no ``epsilon`` overflows or leaves an empty column.

    Args:
        scores: (B, K), this process's rows; raw similarities, such as cosines.
        epsilon: 0.05, SwAV's; towards 0 each row chooses one column, and a large one makes all codes alike.
        iterations: 3, SwAV's. 0 is a softmax of each row for itself, and balances nothing.
        bank: (L, K), more rows that count for the columns and get no code, such as the scores of a queue. They are
            taken as the same on every process, and count once.

    Returns:
        (B, K) without gradient, rows summing to 1; float64 for float64, otherwise float32. Across processes these are
        the rows that one process with all of them would get; each iteration exchanges K numbers. Where all processes
        hold the same rows, that changes nothing. Memory O((B + L) K).

    Raises:
        ValueError: on anything but finite floating-point matrices with the same columns, epsilon <= 0, iterations < 0.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon: expected a finite number above 0, got {epsilon}")
    if iterations < 0:
        raise ValueError(f"iterations: expected at least 0, got {iterations}")
    logits = _logits("scores", scores, epsilon)
    past = logits[:0] if bank is None else _logits("bank", bank, epsilon).to(logits)
    if past.shape[1] != logits.shape[1]:
        raise ValueError(f"bank: expected (L, {logits.shape[1]}), got {tuple(past.shape)}")
    rows, past_rows = logits.new_zeros(len(logits), 1), past.new_zeros(len(past), 1)
    columns = logits.new_zeros(1, logits.shape[1])
    for _ in range(iterations):
        sums = gather_labels((logits - rows).logsumexp(0, keepdim=True))
        assert sums is not None
        columns = torch.cat([sums, past - past_rows]).logsumexp(0, keepdim=True)
        rows, past_rows = ((x - columns).logsumexp(1, keepdim=True) for x in (logits, past))
    return (logits - columns).softmax(1)


def _logits(name: str, x: Tensor, epsilon: float) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"{name}: expected at least 1 row and 1 column, got {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are NaN or infinite")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return (x / epsilon).clamp(-_LARGEST, _LARGEST)
