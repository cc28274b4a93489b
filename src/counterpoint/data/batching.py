"""Batches in an order that is a pure function of ``(seed, epoch)``.

A run that was killed and resumed must see what it would have seen, and a run on many processes must see what one
process sees. So the order is never a state that advances: it is computed from the seed and the number of the epoch,
cut into global batches, and process ``rank`` of ``world`` takes rows ``rank::world`` of each. The processes' batches
together are the batch of a single process.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from counterpoint.data.dataset import Batch, Dataset


class EpochSampler(Sampler[np.ndarray]):
    """Gives out the indices of whole batches; for ``DataLoader(dataset, sampler=..., batch_size=None)``.

    Args:
        indices: positions in the dataset to draw from, or how many (then ``0 .. indices-1``).
        batch_size: of the *global* batch, over all processes.
        seed: of the order; any integer from 0.
        shuffle: False keeps the order of ``indices`` in every epoch.
        drop_last: leave out a last batch that is not full.
        rank: this process.
        world: how many processes share a batch. A last batch with fewer rows than processes is left out, since a
            process without rows could not take part in the step.

    Raises:
        ValueError: no indices; a batch larger than the data with ``drop_last``; a batch smaller than ``world``; a
            rank outside ``0 .. world-1``.
    """

    def __init__(
        self,
        indices: np.ndarray | int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ):
        self.indices = np.arange(indices) if isinstance(indices, int) else np.asarray(indices, dtype=np.int64)
        size = len(self.indices)
        if not size:
            raise ValueError("indices: there is nothing to draw batches from.")
        if not 0 <= rank < world:
            raise ValueError(f"rank: expected 0 to world-1 = {world - 1}, got {rank}.")
        if batch_size < world:
            raise ValueError(f"batch_size: {batch_size} rows cannot be shared by world={world} processes.")
        if drop_last and batch_size > size:
            raise ValueError(
                f"batch_size: {batch_size} is larger than the {size} items to draw from, and drop_last=True leaves "
                f"nothing. Choose at most {size}."
            )
        if seed < 0:
            raise ValueError(f"seed: expected an integer from 0, got {seed}.")
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.rank, self.world = rank, world
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; ``skip`` leaves out its first batches, to go on from the middle of one."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        return full + int(rest >= self.world and not self.drop_last and rest > 0) - self.skip

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for number in range(self.skip, self.skip + len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[self.rank :: self.world]


def batches(
    dataset: Dataset,
    indices: np.ndarray | None = None,
    batch_size: int = 256,
    *,
    seed: int | None = None,
    epoch: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Read ``dataset`` batch by batch: one pass, in order where ``seed`` is None and shuffled where it is given.

    The arguments are those of :class:`EpochSampler`, which see for errors; :func:`loader` is the same as a DataLoader.
    """
    sampler = _sampler(dataset, indices, batch_size, seed, drop_last, rank, world)
    sampler.set_epoch(epoch)
    for index in sampler:
        yield dataset[index]


def loader(
    dataset: Dataset,
    indices: np.ndarray | None = None,
    batch_size: int = 256,
    *,
    seed: int | None = None,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> DataLoader[Batch]:
    """A DataLoader that yields batches; ``loader.sampler`` is the :class:`EpochSampler`.

    Reading from a memory map takes about a microsecond an image, so the default reads in this process: workers would
    spend more on handing batches over. They pay off where the data lies on slow storage.

    Raises:
        ValueError: as :class:`EpochSampler`.
    """
    sampler = _sampler(dataset, indices, batch_size, seed, drop_last, rank, world)
    return DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers)  # type: ignore[arg-type]


def _sampler(
    dataset: Dataset,
    indices: np.ndarray | None,
    batch_size: int,
    seed: int | None,
    drop_last: bool,
    rank: int,
    world: int,
) -> EpochSampler:
    return EpochSampler(
        len(dataset) if indices is None else indices,
        batch_size,
        seed=seed or 0,
        shuffle=seed is not None,
        drop_last=drop_last,
        rank=rank,
        world=world,
    )
