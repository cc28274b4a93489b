"""What goes on around a Lightning training: randomness by step, safe checkpoints, records.

A resumed run equals an uninterrupted one because nothing random is carried along: before every step the generators are
seeded from ``(seed, step)``, and the order of the data is a function of ``(seed, epoch)``. So a checkpoint needs only
weights, optimiser and counters, and it may be taken anywhere between two steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from counterpoint.data import GroupSampler
from counterpoint.experiments.run import read_lines
from counterpoint.files import atomic
from counterpoint.mining import Grouping


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and that are read without unpickling objects."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic(path) as file:
            torch.save(checkpoint, file)


class Batches:
    """A loader that can go on within an epoch; what Lightning iterates over.

    The epoch and the batches to skip are read when the first batch is asked for: Lightning makes its iterator before it
    says which epoch begins.

    Args:
        loader: of an ordinary epoch.
        grouping: asked before each epoch: groups from one of which each of its batches is to be drawn, or ``None``.
            Epochs of groups have as many batches as ordinary ones, and their batches say which group they are of,
            ``batch["group"]`` (B,).

    Attributes:
        facts: of the epoch, where its batches are drawn from groups: how many ``groups`` there are and, unless it is
            none, how many ``small_groups`` of those asked for were too small for a batch and how many ``unseen_items``
            are therefore left out.
    """

    def __init__(self, loader: DataLoader[Any], grouping: Callable[[], Grouping | None] = lambda: None) -> None:
        self.loader, self.grouping, self.epoch, self.skip = loader, grouping, 0, 0
        self.length = len(loader)  # of a whole epoch, also while a part of one is skipped
        self.facts: dict[str, int] = {}

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        grouping = self.grouping()
        if grouping is None:
            self.facts = {}
            self.loader.sampler.set_epoch(self.epoch, skip=self.skip)  # type: ignore[attr-defined]
            yield from self.loader
        else:
            yield from self._of_groups(grouping)

    def _of_groups(self, grouping: Grouping) -> Iterator[Any]:
        plain: Any = self.loader.sampler
        groups = grouping.labels.cpu().numpy()[plain.indices]
        sampler = GroupSampler(
            plain.indices,
            groups,
            plain.batch_size,
            least=grouping.smallest(plain.batch_size),
            small=grouping.small,
            order=grouping.order,
            weights=grouping.weights,
            length=self.length,
            seed=plain.seed,
            rank=plain.rank,
            world=plain.world,
        )
        facts = {"groups": len(sampler.sizes), "small_groups": sampler.small, "unseen_items": sampler.unseen}
        self.facts = {name: count for name, count in facts.items() if count}
        sampler.set_epoch(self.epoch, skip=self.skip)
        pool = torch.zeros(len(grouping.labels), dtype=torch.int64)
        pool[torch.from_numpy(plain.indices)] = torch.from_numpy(sampler.pool)
        dataset: Any = self.loader.dataset
        for indices in sampler:
            batch = dataset[indices]
            yield {**batch, "group": pool[batch["index"]]}

    def items(self, batch_size: int = 512) -> Iterator[Any]:
        """This process's share of all the items, each once and as they are, in batches."""
        plain: Any = self.loader.sampler
        dataset: Any = self.loader.dataset
        mine = plain.indices[plain.rank :: plain.world]
        for start in range(0, len(mine), batch_size):
            yield dataset[mine[start : start + batch_size]]


class SeedSteps(Callback):
    """Seeds torch's generators from ``(seed, step)`` before each step, and the data's order from the epoch."""

    def __init__(self, seed: int, batches: Batches) -> None:
        self.seed, self.batches = seed, batches

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        within = trainer.fit_loop.restarted_mid_epoch
        self.batches.epoch = trainer.current_epoch
        self.batches.skip = trainer.fit_loop.epoch_loop.batch_progress.current.completed if within else 0

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.batches.epoch, self.batches.skip = trainer.current_epoch, 0

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        words = np.random.SeedSequence([self.seed, trainer.global_step, trainer.global_rank]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))


class Checkpointer(Callback):
    """Writes ``checkpoint/last.ckpt`` when ``seconds`` have gone by since the last time.

    It does so at the start of a step, where all of the step before is done and counted: after a batch, Lightning has
    not counted it yet, and would train on it again.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.path, self.seconds, self.last = folder / "checkpoint" / "last.ckpt", seconds, time.monotonic()

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        due = torch.tensor(time.monotonic() - self.last >= self.seconds)
        if trainer.strategy.broadcast(bool(due)):  # saving is collective: all processes, or none
            trainer.save_checkpoint(self.path)
            self.last = time.monotonic()


class Recorder(Callback):
    """A line per epoch in ``metrics.jsonl``; on resume, lines of epochs that are done again are dropped.

    A line holds the mean loss and the means of what the method told of its steps
    (:meth:`~counterpoint.methods.base.Method.tell`), each over the steps in which it was told; and what ``facts`` says
    at the end of an epoch, such as those of :class:`Batches`.
    """

    def __init__(
        self,
        folder: Path,
        watch: Callable[[lightning.LightningModule, int], dict[str, Any]] | None,
        facts: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.path, self.watch, self.facts = folder / "metrics.jsonl", watch, facts
        self.total, self.batches, self.started = 0.0, 0, time.monotonic()
        self.told: dict[str, tuple[Any, int]] = {}  # sum and number of steps

    def state_dict(self) -> dict[str, Any]:
        told = {name: [float(total), steps] for name, (total, steps) in self.told.items()}
        return {"total": self.total, "batches": self.batches, "told": told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.batches = state["total"], state["batches"]
        self.told = {name: (total, steps) for name, (total, steps) in state.get("told", {}).items()}

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        kept = [row for row in read_lines(self.path) if row["epoch"] < trainer.current_epoch]
        self.before = kept[-1]["seconds"] if kept else 0.0
        self.started = time.monotonic()
        if trainer.is_global_zero:
            with atomic(self.path, "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in kept)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        value = outputs["loss"].detach() if isinstance(outputs, dict) else outputs.detach()
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"the loss is {float(value)} in epoch {trainer.current_epoch}, step {trainer.global_step}: "
                "lower lr, or look for outliers in the data"
            )
        self.total, self.batches = self.total + float(value), self.batches + 1
        for name, figure in getattr(module, "told", {}).items():  # a generator tells nothing
            total, steps = self.told.get(name, (0.0, 0))
            self.told[name] = total + figure.float(), steps + 1

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "loss": self.total / max(1, self.batches),
            **{name: float(total) / steps for name, (total, steps) in self.told.items()},
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **self.facts(),
        }
        self.total, self.batches, self.told = 0.0, 0, {}
        if trainer.is_global_zero:
            if self.watch is not None:
                row |= self.watch(module, trainer.current_epoch)
            row["seconds"] = round(self.before + time.monotonic() - self.started, 3)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def group_notes(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each stretch of epochs in which groups were too small for a batch.

    Args:
        rows: of ``metrics.jsonl``, of all epochs, those before a resumption included.
    """
    notes = []
    with_small = (row for row in rows if "small_groups" in row)
    for facts, stretch in groupby(with_small, key=lambda row: (row["groups"], row["small_groups"])):
        found = list(stretch)
        unseen = found[0].get("unseen_items", 0)
        what = f"left out with {unseen} items" if unseen else "merged with their neighbours"
        notes.append(
            f"epochs {found[0]['epoch']} to {found[-1]['epoch']}: each batch is of one of {facts[0]} groups; too small "
            f"for a batch: {facts[1]} groups, {what}"
        )
    return notes


class Progress(Callback):
    """Calls ``tell(share done, loss, items per second)`` a few times a second."""

    def __init__(self, tell: Callable[[float, float, float], None]) -> None:
        self.tell, self.seen, self.started = tell, 0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.started, self.told = time.monotonic(), 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: dict[str, Any], *_: Any
    ) -> None:
        self.seen += len(batch["index"]) if "index" in batch else 0
        clock = time.monotonic()
        if clock - self.told < 0.2:
            return
        self.told = clock
        done = trainer.global_step / max(1, trainer.estimated_stepping_batches)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.tell(min(1.0, done), float(loss), self.seen / max(1e-9, clock - self.started))


def quiet() -> None:
    """Keep Lightning's notices and the warnings that a small run cannot act on out of the user's terminal."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*GPU available but not used.*",
        ".*module\\(s\\) in eval mode at the start of training.*",  # what is frozen, and momentum teachers
        ".*your dataloader is not resumable.*",  # Batches is, by epoch and step
    ):
        warnings.filterwarnings("ignore", message)


def keep_memory() -> None:
    """Let the C library keep freed memory instead of handing it back to the system after every step.

    A step frees and takes the same hundreds of megabytes again, and glibc would have each page faulted in anew: a small
    ConvNet trained a quarter faster without. For the rest of the process; elsewhere than on glibc it does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def same_threads() -> contextlib.AbstractContextManager[Any]:
    """Hold what scikit-learn computes with to as many threads as torch has, to which it does not listen.

    Threads of several fits that share the cores wait for each other: two fits side by side, told to take one thread
    each, spent 90 seconds on an evaluation that takes 3.
    """
    import sklearn.linear_model  # noqa: F401  its libraries have to be there to be told
    from threadpoolctl import threadpool_limits

    return threadpool_limits(torch.get_num_threads())


def fast_precision() -> str:
    """The precision that this machine computes fastest without hurting: bfloat16 where the hardware has it."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    has = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return "bf16-mixed" if has else "32-true"
