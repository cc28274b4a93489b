"""Training in stages, each on what the ones before could not tell apart (MCL: Zhang et al., ECCV 2024)."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.findings import Finding, Heatmap
from counterpoint.methods.base import Method
from counterpoint.mining import Grouping, cluster_pseudo_labels, spherical_kmeans
from counterpoint.objectives.inputs import normalize, positive
from counterpoint.pairwise import gather_labels


@dataclass(frozen=True)
class Stages:
    """How a training in stages goes; what each means is said where a method takes it, at :class:`MCL`.

    Raises:
        ValueError: naming what is out of range.
    """

    stages: int = 2
    clusters: int = 10
    first: str = "train"
    space: str = "projection"
    init: str = "restart"
    sampling: str = "groups"
    order: str = "round_robin"
    small: str = "merge"
    least: float | None = 0.25
    last_stage_only: bool = False
    stage: int | None = None
    iterations: int = 100

    def __post_init__(self) -> None:
        positive(stages=self.stages, clusters=self.clusters, iterations=self.iterations)
        for name, value, known in (
            ("first", self.first, ("train", "given")),
            ("space", self.space, ("projection", "features")),
            ("init", self.init, ("restart", "continue")),
            ("sampling", self.sampling, ("groups", "mask")),
            ("order", self.order, ("round_robin", "random")),
            ("small", self.small, ("merge", "drop")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}")
        if self.stage is not None and not 0 <= self.stage < self.stages:
            raise ValueError(f"stage: expected 0 to {self.stages - 1}, got {self.stage}")
        if self.least is not None and not 0 < self.least < math.inf:
            raise ValueError(f"least: expected a number above 0, got {self.least}")
        if self.first == "given" and self.stages < 2:
            raise ValueError("stages: expected at least 2, since the first is not trained")


class Staged(Method):
    """What methods in stages share: clusters, groups, when a stage begins, what a checkpoint holds.

    The stage in training is always the last of the encoders, the same modules from the first step to the last; a stage
    that is done leaves a copy before them. So the optimiser, and other processes, see the same parameters throughout.

    A subclass calls :meth:`begin` at the end of its ``__init__`` and says what is :meth:`current`, how to :meth:`keep`
    it, what of it is clustered (:meth:`vectors`) and how a single stage is taken out (:meth:`take`).
    """

    clusters_of: Tensor
    how: Stages

    def begin(self, how: Stages, items: int, reached: int = 0) -> None:
        """Make room for clusters and note where all stages start.

        Args:
            how: the stages go.
            items: of the data set.
            reached: the number of the encoder's last stage; above 0 it is to be used, not trained.
        """
        positive(items=items)
        self.how = how
        self.register_buffer("clusters_of", torch.full((max(1, how.stages - 1), items), -1))
        # all processes make the same of them: DistributedDataParallel need not send them around before each step
        self._ddp_params_and_buffers_to_ignore = ["clusters_of"]
        self.starts = [0]  # the epoch in which each stage begins
        self._first = {} if reached else {name: x.clone() for name, x in self.current().state_dict().items()}

    @property
    @abstractmethod
    def reached(self) -> int:
        """The number of the stage in training."""

    @abstractmethod
    def current(self) -> nn.ModuleDict:
        """All that is trained in a stage, and that the next begins anew."""

    @abstractmethod
    def keep(self) -> None:
        """Put a frozen copy of the stage in training before it."""

    @abstractmethod
    def take(self, stage: int) -> None:
        """Leave this stage alone."""

    @abstractmethod
    def vectors(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the stage in training makes of items as they are, (N, D) raw, and their positions (N,)."""

    def index(self, batch: dict[str, Any]) -> Tensor:
        """Positions (B,) of the items of a batch in the data set."""
        if "index" not in batch:
            raise ValueError("index: this method needs batch['index'], the positions of the items in the data set")
        index: Tensor = batch["index"].to(self.clusters_of.device)
        last = self.clusters_of.shape[1] - 1
        if int(index.min()) < 0 or int(index.max()) > last:
            raise ValueError(f"index: expected 0 to {last}, got {int(index.min())} to {int(index.max())}")
        return index

    def groups(self, batch: dict[str, Any]) -> Tensor | None:
        """The group of each item of a batch (B,), by which to restrict negatives; ``None`` in the first stage."""
        if self.reached == 0:
            return None
        if "group" in batch:  # all of one
            drawn: Tensor = batch["group"]
            return drawn
        return self._pseudo_labels(self.clusters_of[:, self.index(batch)])

    def _pseudo_labels(self, clusters: Tensor) -> Tensor:
        """Groups (N,) of items from their clusters (stages, N); those of items that were not clustered are -1."""
        done = clusters[: self.reached]
        labels = cluster_pseudo_labels(list(done.clamp(min=0)), self.how.clusters, self.how.last_stage_only)
        return torch.where((done >= 0).all(0), labels, -1)

    def grouping(self) -> Grouping | None:
        if self.reached == 0 or self.how.sampling == "mask":
            return None
        return Grouping(self._pseudo_labels(self.clusters_of), self.how.order, self.how.small, self.how.least)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        if not math.isfinite(self.trainer.num_training_batches):  # where max_steps alone says how long it takes
            self.trainer.fit_loop.setup_data()
        in_epoch = -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        self._plan(in_epoch)
        optimizer, schedule = self.recipe.optimizers(self, max(1, total), [start * in_epoch for start in self.starts])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _plan(self, in_epoch: int) -> None:
        """Share the epochs, of so many steps each, out to the stages that are trained."""
        ways = [self.trainer.max_epochs or -1, -(-self.trainer.max_steps // in_epoch)]
        epochs = min((way for way in ways if way > 0), default=1)
        given = [0] if self.how.first == "given" else []
        wanted = self.how.stages - len(given)
        trained = min(wanted, epochs)
        if trained < wanted:
            warnings.warn(f"{epochs} epochs are room for {trained} of {wanted} stages", stacklevel=2)
            if self.how.stage is not None and self.how.stage >= trained + len(given):
                raise ValueError(f"stage: there will be none of number {self.how.stage}: train for more epochs")
        self.starts = given + [math.ceil(number * epochs / trained) for number in range(trained)]

    def on_train_start(self) -> None:
        if self.reached and not bool((self.clusters_of[: self.reached] >= 0).any()):
            raise ValueError("encoder: its stages are trained already; training begins from an encoder of one stage")

    def on_train_epoch_start(self) -> None:
        while self.reached < sum(start <= self.current_epoch for start in self.starts) - 1:
            self.next_stage()

    @torch.no_grad()
    def next_stage(self) -> None:
        """Cluster what the stage in training makes of all items, keep it, and begin the next."""
        self.cluster(*self._all_vectors())
        self.keep()
        if self.how.init == "restart":
            self.current().load_state_dict(self._first)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()  # no momentum of the stage before

    def _all_vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) of all training items as they are, and the items' positions (N,)."""
        loader: Any = self.trainer.train_dataloader
        source: Iterable[Any] = loader.items() if hasattr(loader, "items") else loader
        training, vectors, positions = self.training, [], []
        self.eval()
        for batch in source:
            found, index = self.vectors(self.transfer_batch_to_device(batch, self.device, 0))
            vectors.append(found.float())
            positions.append(index)
        self.train(training)
        whole, places = gather_labels(torch.cat(vectors)), gather_labels(torch.cat(positions))
        assert whole is not None
        assert places is not None
        order = places.argsort()  # the same on any number of processes
        return whole[order], places[order]

    def cluster(self, vectors: Tensor, index: Tensor) -> None:
        """Note the cluster of each of the items at ``index`` (N,), whose vectors (N, D) the stage in training made."""
        clusters = self.how.clusters
        if len(vectors) < clusters:
            raise ValueError(f"clusters: expected at most {len(vectors)}, the items to cluster, got {clusters}")
        made = torch.Generator().manual_seed(self.reached)  # the same after a kill and a resume
        found = spherical_kmeans(normalize(vectors), clusters, self.how.iterations, made)[1]
        self.clusters_of[self.reached, index] = found

    def on_train_end(self) -> None:
        if self.how.stage is not None:
            self.take(self.how.stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mcl"] = {"reached": self.reached, "first": self._first}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._first = checkpoint["mcl"]["first"]
        while self.reached < checkpoint["mcl"]["reached"]:
            self.keep()  # room for the weights that are about to be loaded

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        """Where each label went in each clustering."""
        labels, classes = getattr(dataset, "labels", None), getattr(dataset, "classes", None)
        if labels is None or classes is None or len(labels) != self.clusters_of.shape[1]:
            return ()
        found, known = [], torch.as_tensor(labels)
        for number, clusters in enumerate(self.clusters_of.cpu()):
            seen = (known >= 0) & (clusters >= 0)
            if not bool(seen.any()):
                continue
            counts = torch.zeros(len(classes), self.how.clusters)
            counts.index_put_((known[seen], clusters[seen]), torch.ones(int(seen.sum())), accumulate=True)
            used = int((counts.sum(0) > 0).sum())
            text = (
                f"Share of the training items of each label in each of the {self.how.clusters} clusters, of which "
                f"{used} are in use. Stage {number + 1} had to tell apart the items of one column"
                + (" that all earlier stages put together too." if number else ".")
            )
            shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
            names = [str(k) for k in range(self.how.clusters)]
            found.append(Heatmap(f"Labels in the clusters of stage {number}", text, shares, classes, names))
        return found
