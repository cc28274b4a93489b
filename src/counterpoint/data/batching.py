"""Batches in an order that is a pure function of ``(seed, epoch)``.

A run that was killed and resumed must see what it would have seen, and a run on many processes must see what one
process sees. So the order is never a state that advances: it is computed from the seed and the number of the epoch,
cut into global batches, and process ``rank`` of ``world`` takes rows ``rank::world`` of each. The processes' batches
together are the batch of a single process.

A position that is to be drawn several times an epoch occurs several times; the order keeps its occurrences apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch.utils.data import DataLoader, Sampler

from counterpoint.data.dataset import Batch, Dataset


class EpochSampler(Sampler[np.ndarray]):
    """Gives out the indices of whole batches; for ``DataLoader(dataset, sampler=..., batch_size=None)``.

    Args:
        indices: positions in the dataset to draw from, or how many (then ``0 .. indices-1``). One that occurs c times
            comes once in each of c equal shares of an epoch, so that it hardly meets itself in a batch.
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
        items, times = np.unique(self.indices, return_counts=True)
        self._repeated = (items, times) if len(items) < size else None
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
            rng = np.random.default_rng([self.seed, self.epoch])
            order = rng.permutation(order) if self._repeated is None else _apart(*self._repeated, rng)
        for number in range(self.skip, self.skip + len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[self.rank :: self.world]


class GroupSampler(Sampler[np.ndarray]):
    """Batches that are each drawn from a single group of items (MCL: Zhang et al., ECCV 2024, arXiv 2402.11816).

    A pass takes each group's items in a new order and cuts them into batches; what is left of a group at its end makes
    a smaller batch of at least ``least`` items, or waits for another pass. Groups take turns, those that are through
    being left out. The passes follow each other, and an epoch is the next ``length`` batches of them; so an epoch that
    is shorter than a pass leaves no group out for good.

    The order is a function of ``(seed, epoch)`` and the processes share each batch, as with :class:`EpochSampler`.

    Args:
        indices: as for :class:`EpochSampler`.
        groups: (len(indices),) integers, the group of each.
        batch_size: of the global batch.
        least: items in the smallest batch; default ``batch_size``, as the authors' code has it.
        small: what becomes of a group of fewer items than that. ``"drop"``, the authors' way: they never appear, and
            ``unseen`` counts them. ``"merge"``: small groups are joined, in the order of their numbers, until they
            make a batch; numbers of :func:`counterpoint.mining.cluster_pseudo_labels` are near where the first stages
            agree. What remains joins the group before.
        order: ``"round_robin"``, as the authors' code, or ``"random"``.
        weights: group -> of how many batches in every ``sum(weights)`` of them it is, whatever its size; in every such
            stretch the groups take turns in an order that is drawn. Each group goes through passes of its own, a small
            one more often. Groups without a batch leave their turns to the others. ``None``: each of as many batches
            as it fills. Not with ``small="merge"``.
        length: batches in an epoch; default those of a pass.
        seed, rank, world: as for :class:`EpochSampler`.

    Attributes:
        pool: (len(indices),) the merged group of each item, numbered from 0.
        sizes: items in each of these.
        small: how many of the groups given were too small.
        unseen: items that are never drawn.
        left: items that a pass leaves out, those included.

    Raises:
        ValueError: no indices; groups of another length; ``least`` outside 2 (or ``world``) to ``batch_size``; an
            option that is not known; no group that makes a batch.

    Unlike the authors' code, which takes the permutation from torch's global generator, no process can draw another
    order than the others.
    """

    def __init__(
        self,
        indices: np.ndarray | int,
        groups: np.ndarray,
        batch_size: int,
        *,
        least: int | None = None,
        small: str = "drop",
        order: str = "round_robin",
        weights: Mapping[int, int] | None = None,
        length: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        plain = EpochSampler(indices, batch_size, seed=seed, rank=rank, world=world)  # which checks what they share
        self.indices, self.batch_size = plain.indices, batch_size
        groups = np.asarray(groups)
        if groups.shape != self.indices.shape or groups.dtype.kind not in "iu":
            raise ValueError(
                f"groups: expected ({len(self.indices)},) integers, got {groups.shape} of type {groups.dtype}."
            )
        for name, value, known in (("small", small, ("drop", "merge")), ("order", order, ("round_robin", "random"))):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}.")
        self.least = batch_size if least is None else least
        if not max(world, min(2, batch_size)) <= self.least <= batch_size:
            raise ValueError(
                f"least: expected {max(world, min(2, batch_size))} to batch_size = {batch_size}, got {self.least}."
            )
        if length is not None and length < 1:
            raise ValueError(f"length: expected at least 1 batch, got {length}.")
        self.order, self.seed, self.rank, self.world = order, seed, rank, world
        kinds, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self.small = int((sizes < self.least).sum())
        self.pool = (_merged(sizes, self.least) if small == "merge" else np.arange(len(sizes)))[number]
        self.sizes = np.bincount(self.pool)
        batches_of = self._batches_of(self.sizes)
        self.unseen = int(self.sizes[batches_of == 0].sum())
        full = np.minimum(self.sizes, self.sizes // batch_size * batch_size)
        rest = self.sizes - full
        self.left = int(rest[rest < self.least].sum())
        self.batches_in_pass = int(batches_of.sum())
        if not self.batches_in_pass:
            raise ValueError(
                f"groups: none of the {len(sizes)} groups has the {self.least} items of a batch, the largest has "
                f"{int(sizes.max())}. Choose a smaller batch_size or least, or small='merge'."
            )
        self.turns = None if weights is None else self._turns(weights, kinds, batches_of, small)
        self.length = self.batches_in_pass if length is None else length
        self.epoch, self.skip = 0, 0

    def _batches_of(self, sizes: np.ndarray) -> np.ndarray:
        full, rest = np.divmod(sizes, self.batch_size)
        return full + (rest >= self.least)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; ``skip`` leaves out its first batches, to go on from the middle of one."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return self.length - self.skip

    def __iter__(self) -> Iterator[np.ndarray]:
        at, end = self.epoch * self.length + self.skip, (self.epoch + 1) * self.length
        if self.turns is not None:
            yield from (batch[self.rank :: self.world] for batch in self._weighted(at, end, self.turns))
            return
        while at < end:
            number, first = divmod(at, self.batches_in_pass)
            some = self._pass(number)[first : first + end - at]
            for batch in some:
                yield batch[self.rank :: self.world]
            at += len(some)

    def _turns(self, weights: Mapping[int, int], kinds: np.ndarray, batches_of: np.ndarray, small: str) -> np.ndarray:
        """The groups that have a batch, each as often as it comes in a stretch."""
        if small == "merge":
            raise ValueError("weights: groups that are merged have none; leave small='drop'.")
        shares = [weights.get(int(group), 0) for group in kinds]
        if any(share < 0 or share != int(share) for share in weights.values()):
            raise ValueError(f"weights: expected integers from 0, got {dict(weights)}.")
        turns = np.repeat(np.arange(len(kinds)), np.where(batches_of > 0, shares, 0).astype(np.int64))
        if not len(turns):
            raise ValueError(f"weights: expected one above 0 for a group that makes a batch, got {dict(weights)}.")
        return turns

    def _weighted(self, at: int, end: int, turns: np.ndarray) -> Iterator[np.ndarray]:
        """Batches ``at`` to ``end - 1`` of an endless sequence of stretches."""
        batches_of, shares = self._batches_of(self.sizes), np.bincount(turns, minlength=len(self.sizes))
        passes: dict[int, tuple[int, list[np.ndarray]]] = {}
        while at < end:
            stretch, first = divmod(at, len(turns))
            order = np.random.default_rng([self.seed, stretch]).permutation(turns)
            for place in range(first, min(len(turns), first + end - at)):
                group = int(order[place])
                before = stretch * shares[group] + np.count_nonzero(order[:place] == group)
                number, which = divmod(int(before), int(batches_of[group]))
                if passes.get(group, (-1,))[0] != number:
                    rng = np.random.default_rng([self.seed, number, group])
                    passes[group] = number, self._cut(rng.permutation(self.indices[self.pool == group]))
                yield passes[group][1][which]
            at += len(order[first:])

    def _cut(self, items: np.ndarray) -> list[np.ndarray]:
        """The batches of a group, in order."""
        cut = [items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]
        return [batch for batch in cut if len(batch) >= self.least]

    def _pass(self, number: int) -> list[np.ndarray]:
        """The batches of a pass, in order."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.indices))
        order = order[np.argsort(self.pool[order], kind="stable")]
        turns = [self._cut(pool) for pool in np.split(self.indices[order], np.cumsum(self.sizes)[:-1])]
        rounds = max(map(len, turns))
        batches = [turn[i] for i in range(rounds) for turn in turns if i < len(turn)]
        return [batches[i] for i in rng.permutation(len(batches))] if self.order == "random" else batches


def _merged(sizes: np.ndarray, least: int) -> np.ndarray:
    """The number (from 0) under which each group goes when small ones are joined until they have ``least`` items."""
    pool, made, waiting = np.zeros(len(sizes), dtype=np.int64), 0, 0
    opened: list[int] = []
    for group, size in enumerate(sizes):
        if size >= least:
            pool[group] = made
            made += 1
            continue
        opened.append(group)
        waiting += size
        if waiting >= least:
            pool[opened] = made
            made, opened, waiting = made + 1, [], 0
    if opened:  # to the group before them, to the one after where there is none, or to themselves
        before = [group for group in range(opened[0]) if group not in opened]
        others = [group for group in range(len(sizes)) if group not in opened]
        pool[opened] = pool[before[-1]] if before else pool[others[0]] if others else 0
    return pool


def _apart(items: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each item as often as ``times`` says, in random order, occurrences of one item apart.

    The epoch is as many passes as the most frequent item has occurrences, each shuffled by itself. An item of c
    occurrences cuts the epoch into c equal shares and falls once into each, shifted by a draw of its own.
    """
    passes, number = int(times.max()), np.repeat(times, times)
    turn = np.arange(len(number)) - np.repeat(np.cumsum(times) - times, times)
    shift = np.repeat(rng.random(len(times)), times)
    part = np.floor((turn + shift) * passes / number)
    order: np.ndarray = np.repeat(items, times)[np.argsort(part + rng.random(len(part)))]
    return order


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
