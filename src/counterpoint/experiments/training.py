"""What goes on around a Lightning training: randomness by step, safe checkpoints, records, the monitor.

A resumed run equals an uninterrupted one because nothing random is carried along: before every step the generators are
seeded from ``(seed, step)``, and the order of the data is a function of ``(seed, epoch)``. So a checkpoint needs only
weights, optimiser and counters, and it may be taken anywhere between two steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
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
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

from counterpoint.data import GroupSampler
from counterpoint.evaluation.embeddings import Embeddings
from counterpoint.evaluation.geometry import collapse
from counterpoint.evaluation.neighbours import knn
from counterpoint.experiments.run import read_arrays, read_lines, write_arrays
from counterpoint.files import atomic
from counterpoint.mining import Grouping
from counterpoint.objectives.inputs import normalize

EDGES = np.linspace(-1, 1, 81)
_CURVE_POINTS = 2**16  # of the statistics over steps: longer trainings keep every second, fourth, ... step


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


class Monitor:
    """Looks at the embeddings a few times during training: similarities, collapse, kNN accuracy on validation data.

    Args:
        folder: of the run; ``histograms.npz`` is kept in it.
        epochs: numbers of the epochs after which to look.
        items: up to 512 training items, as a batch's tensor, whose views are compared.
        gallery, queries: ``(inputs, labels)`` for kNN accuracy, or ``None``.
        seed: of the views.
        warn: called with one sentence when the embeddings collapse.
    """

    def __init__(
        self,
        folder: Path,
        epochs: set[int],
        items: Tensor,
        gallery: tuple[Tensor, np.ndarray] | None,
        queries: tuple[Tensor, np.ndarray] | None,
        seed: int,
        warn: Callable[[str], None],
    ) -> None:
        self.path, self.epochs, self.items = folder / "histograms.npz", epochs, items
        self.gallery, self.queries, self.seed, self.warn = gallery, queries, seed, warn
        self.collapsed = 0  # looks in a row

    def __call__(self, module: lightning.LightningModule, epoch: int) -> dict[str, Any]:
        if epoch not in self.epochs:
            return {}
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                seen = self._similarities(module, epoch)
                if self.gallery is not None and self.queries is not None:
                    seen["knn"] = self._knn(module)
        finally:
            module.train(training)
        return seen

    def _pairs(self, module: Any) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D) of two views of the items."""
        views = list(module.views(self.items.to(module.device)))
        # of one view, an item's only positive is itself
        first, second = (normalize(module.project(view).float()) for view in (views * 2)[:2])
        return first, second

    def _similarities(self, module: Any, epoch: int) -> dict[str, Any]:
        first, second = self._pairs(module)
        if len(first) < 2:
            return {}
        others = (first @ second.T)[~torch.eye(len(first), dtype=torch.bool, device=first.device)]
        self._append(epoch, (first * second).sum(1), others)
        found = collapse(first)
        settled = epoch > 0.2 * max(self.epochs)  # an untrained network maps everything into a narrow cone
        self.collapsed = self.collapsed + 1 if found and settled else 0
        if self.collapsed == 2:
            self.warn(
                f"epoch {epoch}: {found.kind} collapse: the embeddings spread {found.spread:.2f} of what they could "
                f"and use {found.effective_rank:.1f} of {found.dimensions} dimensions"
            )
        return {
            "positive_similarity": float((first * second).sum(1).mean()),
            "negative_similarity": float(others.mean()),
            "effective_rank": float(found.effective_rank),
            "collapse": str(found.kind) if found else None,
        }

    def _append(self, epoch: int, positive: Tensor, negative: Tensor) -> None:
        old = read_arrays(self.path)
        keep = old["epochs"] < epoch if old else np.zeros(0, bool)
        rows = {"positive": positive, "negative": negative}
        counts = {k: np.histogram(v.cpu().numpy().clip(-1, 1), EDGES)[0][None] for k, v in rows.items()}
        write_arrays(
            self.path,
            edges=EDGES,
            epochs=np.append(old["epochs"][keep], epoch) if old else np.array([epoch]),
            **{k: np.concatenate([old[k][keep], v]) if old else v for k, v in counts.items()},
        )

    def _knn(self, module: Any) -> float:
        assert self.gallery is not None
        assert self.queries is not None
        gallery, queries = (
            Embeddings(_embed(module, inputs).cpu().numpy(), labels) for inputs, labels in (self.gallery, self.queries)
        )
        return float((knn(gallery, queries) == queries.labels).mean())


class PairMonitor(Monitor):
    """The same of items of several modalities: similarities between the first two, and whether one finds the other.

    Args:
        items: a batch of up to 512 validation items.
    """

    items: Any

    def _pairs(self, module: Any) -> tuple[Tensor, Tensor]:
        return module.similar(move_data_to_device(self.items, module.device))

    def _similarities(self, module: Any, epoch: int) -> dict[str, Any]:
        seen = super()._similarities(module, epoch)
        first, second = self._pairs(module)
        if len(first) > 1:
            nearest = (first @ second.T).argmax(1).cpu()
            seen["pair_recall@1"] = float((nearest == torch.arange(len(first))).float().mean())
        return seen


def _embed(module: Any, inputs: Tensor) -> Tensor:
    return torch.cat([module.encoder(part.to(module.device)).float() for part in inputs.split(512)])


class ScoreCurves(Callback):
    """Keeps, for every step, how positives and negatives scored: ``score_curves.npz``.

    A method that contrasts with a queue tells itself (:meth:`~counterpoint.methods.base.Method.watch`). Of any other
    the rows that its projector gave in the step are taken: the first views as queries, the second ones as their keys,
    and a bounded number of the other second views as negatives. Steps of a method that gives no two views are not kept.

    The file is written before each checkpoint, and on resume cut to the steps that the checkpoint knows: as if nothing
    had happened. It holds ``step`` (S,) and float64 (S,) named ``stage/statistic``, NaN where a step has none; stages
    are ``before`` and, of a method that changes scores on the way to its loss, ``after``; statistics are those of
    :class:`~counterpoint.objectives.ScoreStatistics`, averaged over anchors.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "score_curves.npz"
        self.rows: list[dict[str, float]] = []
        self.seen: list[Tensor] = []
        self.module: Any = None
        self.every, self.step = 1, 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.every = 1
        while trainer.estimated_stepping_batches > self.every * _CURVE_POINTS:
            self.every *= 2
        kept = read_arrays(self.path) if trainer.is_global_zero else {}
        rows = [dict(zip(kept, map(float, row), strict=True)) for row in zip(*kept.values(), strict=True)]
        self.rows = [row for row in rows if row["step"] < trainer.global_step]
        self.module, self.hook = module, module.projector.register_forward_hook(self._see)

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        module.watching = trainer.is_global_zero and trainer.global_step % self.every == 0
        self.step = trainer.global_step

    def _see(self, projector: Any, inputs: Any, output: Any) -> None:
        if self.module.watching and isinstance(output, Tensor) and output.ndim == 2:
            self.seen.append(output.detach())

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: dict[str, Any], *_: Any
    ) -> None:
        if not module.watching:
            return
        module.watching = False
        if not module.watched and "index" in batch:
            self._from_batch(module, len(batch["index"]))
        if module.watched:
            told = {f"{stage}/{n}": v for stage, of in module.watched.items() for n, v in of.means().items()}
            self.rows.append({"step": float(self.step), **told})
        module.watched, self.seen = {}, []

    def _from_batch(self, module: Any, items: int) -> None:
        parts = itertools.chain.from_iterable(part.split(items) for part in self.seen)
        views = list(itertools.islice(parts, 2))
        if items > 1 and [view.shape[:1] for view in views] == [(items,)] * 2:
            module.watch_batch(*views)

    def on_save_checkpoint(self, *_: Any) -> None:
        self.write()

    def on_train_end(self, *_: Any) -> None:
        self.hook.remove()
        self.write()

    def write(self) -> None:
        if self.rows:
            names = list(dict.fromkeys(name for row in self.rows for name in row))
            arrays = {name: np.array([row.get(name, np.nan) for row in self.rows]) for name in names}
            write_arrays(self.path, **arrays | {"step": arrays["step"].astype(np.int64)})


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


def fast_precision() -> str:
    """The precision that this machine computes fastest without hurting: bfloat16 where the hardware has it."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    has = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return "bf16-mixed" if has else "32-true"
