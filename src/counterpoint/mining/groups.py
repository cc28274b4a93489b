"""Groups of items that earlier stages could not tell apart (MCL: Zhang et al., ECCV 2024, arXiv 2402.11816)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grouping:
    """Groups from one of which each batch of an epoch is to be drawn; what a method asks of its data.

    Args:
        labels: int64 (items,), the group of each item of the data set.
        order: ``"round_robin"``, a batch of each group in turn, or ``"random"``.
        small: what becomes of groups of fewer than ``least`` items: ``"drop"`` or ``"merge"`` with their neighbours.
        least: items in the smallest batch or, below 1, their share of a whole one; ``None``: whole batches only.
        weights: group -> of how many batches in every ``sum(weights)`` it is; ``None``: of as many as it fills.

    All but ``labels`` as in :class:`counterpoint.data.GroupSampler`.
    """

    labels: Tensor
    order: str = "round_robin"
    small: str = "drop"
    least: float | None = None
    weights: Mapping[int, int] | None = None

    def smallest(self, batch_size: int) -> int:
        """Items in the smallest batch."""
        if self.least is None:
            return batch_size
        return int(self.least) if self.least >= 1 else min(batch_size, max(2, int(self.least * batch_size)))


def cluster_pseudo_labels(
    stages: Sequence[Tensor], clusters: int | Sequence[int], last_stage_only: bool = False
) -> Tensor:
    """The group of each item: all items that every stage put into the same cluster have the same number.

    The clusters of the stages are the digits of the number, the first stage's in front::

        l = 0;  for each stage s:  l = l * K_s + c_s

    so numbers lie in 0 .. K_1 K_2 ... - 1, neighbours differ in the last stages first, and many may be nobody's.

    Args:
        stages: cluster of each item in each stage so far, int64 (N,) each.
        clusters: K, the number of clusters, of all stages or of each.
        last_stage_only: what the authors' released code makes, which reads the clusters of the last stage in place of
            every other's: the partition of the last stage alone, with gaps in its numbers.

    Returns:
        int64 (N,).

    Raises:
        ValueError: no stage; clusters that are no integers from 0 to K - 1, or not one an item; more groups than int64
            can count.
    """
    if not len(stages):
        raise ValueError("stages: expected the clusters of at least one stage")
    sizes = [clusters] * len(stages) if isinstance(clusters, int) else list(clusters)
    if len(sizes) != len(stages) or min(sizes) < 1:
        raise ValueError(f"clusters: expected a number from 1 for each of {len(stages)} stages, got {clusters}")
    total = 1
    for number, (stage, size) in enumerate(zip(stages, sizes, strict=True)):
        _check(number, stage, stages[0], size)
        total *= size
    if total > torch.iinfo(torch.int64).max:
        raise ValueError(f"clusters: {total} groups are more than int64 can count; take fewer clusters or stages")
    labels = torch.zeros_like(stages[0], dtype=torch.int64)
    for stage, size in zip(stages, sizes, strict=True):
        labels = labels * size + (stages[-1] if last_stage_only else stage)
    return labels


def _check(number: int, stage: Tensor, first: Tensor, size: int) -> None:
    if stage.ndim != 1 or stage.shape != first.shape or stage.is_floating_point() or stage.is_complex():
        raise ValueError(
            f"stages: expected ({len(first)},) integers, got {tuple(stage.shape)} {stage.dtype} in stage {number}"
        )
    if stage.numel() and not 0 <= int(stage.min()) <= int(stage.max()) < size:
        raise ValueError(
            f"stages: expected clusters from 0 to {size - 1}, got {int(stage.min())} to {int(stage.max())} in stage "
            f"{number}"
        )
