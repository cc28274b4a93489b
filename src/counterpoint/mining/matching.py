"""Which of many belongs to which of many others, each at most once: the assignment of greatest total score."""

from __future__ import annotations

import torch
from torch import Tensor


def match(
    scores: Tensor, noise: float = 0.0, least: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """A column for each row, no column twice, so that the sum of their scores is the greatest: the Hungarian method.

    CosMo (arXiv 2401.00849) matches the pictures of a page to its sentences so, by their similarity under CLIP.

    Args:
        scores: (R, C), such as of pictures and sentences.
        noise: standard deviation of normal noise, clipped at twice that, on scores before they are matched, so that a
            page is not always put together in the same way. CosMo's code has 0.02 on cosines; 0 here.
        least: a row whose best score is not above this is not matched; CosMo's code has 0. ``None``: all are.
        generator: of the noise; default torch's global one.

    Returns:
        int64 (R,), -1 for rows that got no column: there are more rows than columns, or their scores are too low.

    Raises:
        ValueError: on scores that are not (R, C) or not finite, or a noise below 0.
    """
    from scipy.optimize import linear_sum_assignment

    if scores.ndim != 2 or not scores.is_floating_point() or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"scores: expected (R, C) finite numbers, got {tuple(scores.shape)} {scores.dtype}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise: expected a number from 0, got {noise}")
    matched = torch.full((len(scores),), -1, dtype=torch.int64)
    if not scores.numel():
        return matched
    table = scores.detach().cpu().double()
    rows = torch.arange(len(table)) if least is None else torch.nonzero(table.amax(1) > least)[:, 0]
    if noise:
        table = table + (noise * torch.randn(table.shape, generator=generator)).clamp(-2 * noise, 2 * noise)
    found, columns = linear_sum_assignment(table[rows].numpy(), maximize=True)
    matched[rows[torch.from_numpy(found)]] = torch.from_numpy(columns)
    return matched
