"""What is looked at while an encoder trains: its embeddings a few times, its scores in every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from counterpoint.evaluation.embeddings import Embeddings
from counterpoint.evaluation.geometry import collapse
from counterpoint.evaluation.neighbours import knn
from counterpoint.experiments.run import read_arrays, write_arrays
from counterpoint.objectives.inputs import normalize

EDGES = np.linspace(-1, 1, 81)
_CURVE_POINTS = 2**16  # of the statistics over steps: longer trainings keep every second, fourth, ... step


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
