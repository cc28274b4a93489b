"""MCL, multistage contrastive learning: Learning the Unlearned (Zhang et al., ECCV 2024)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder, StageEnsemble, ensemble
from counterpoint.encoders.heads import make_head
from counterpoint.findings import Finding, Heatmap
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.mining import Grouping, cluster_pseudo_labels, spherical_kmeans
from counterpoint.objectives import GroupNTXent
from counterpoint.objectives.inputs import normalize, positive
from counterpoint.pairwise import gather_labels


class StageHeads(nn.Module):
    """A head for each stage on its own part of the features; their outputs stand side by side.

    Args:
        heads: one a stage.
        widths: features of each stage.
    """

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.widths = nn.ModuleList(heads), list(widths)

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([head(x) for head, x in zip(self.heads, h.split(self.widths, -1), strict=True)], -1)


class MCL(Method):
    """SimCLR in stages: each new stage must tell apart what the stages before it put into one cluster.

    Stage 0 is plain SimCLR. After a stage all items, as they are, are embedded and clustered; items that all stages so
    far put together are a group, and each batch of the next stage is drawn from a single group. What already separates
    the groups is of no use there, so the encoder has to learn what it left aside. The encoder that results has all
    stages side by side: ``counterpoint.load(run).backbone.members[k]`` is stage k.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. The learning rate's schedule is gone
            through once in each stage.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        stages: S, encoders in all. They share the epochs in equal parts, so that MCL takes as many steps as a single
            training of as many epochs. 2, ours; the authors have 4 for CLIP, of which the first is not trained by them.
        clusters: K of each clustering: 10, the official code's.
        temperature: 0.5, that of SimCLR.
        dim: D of each stage's projection, 128, as SimCLR's.
        space: what is clustered: ``"projection"``, on which the loss acts, as it does on the embeddings of CLIP that
            the official code clusters; or ``"features"``. Which of them it is for images alone is not known.
        init: each stage starts from the weights that stage 0 started from, ``"restart"``, as the official first stage
            does from CLIP's; or from the stage before, ``"continue"``. The code leaves open which later stages do.
        sampling: ``"groups"``: batches of one group each, as above. ``"mask"``: ordinary batches, and an anchor's
            negatives are those of its group; the same loss with fewer negatives, but batch norm sees all groups.
        order: of the groups: ``"round_robin"``, the official, or ``"random"``.
        small: groups of fewer than ``least`` items: ``"merge"``, join neighbouring ones, or ``"drop"``, the official:
            they never appear, and the run's notes count them. Merging is ours.
        least: items in the smallest batch or, below 1, their share of a whole one: a quarter, ours, so that data that
            are not millions have groups at all. ``None`` is whole batches only, the official code's.
        last_stage_only: groups of the last clustering alone, as the released code makes them by mistake.
        normalize_each: features of each stage are brought to length 1; the official code leaves them as they are.
        stage: keep the encoder of this stage alone at the end; ``None``, all.
        iterations: of k-means: 100, the official code's.

    The clustering is spherical k-means: centroids are unit vectors, where the official one (mini-batch k-means of
    scikit-learn on unit vectors) leaves them shorter. A vector of zeros stays one, and goes where the first centroid
    is; in the official code it becomes NaN. Clusters that stay empty make no group.

    Fewer epochs than stages give as many stages as there are epochs, with a warning. Outside :func:`counterpoint.fit`,
    whose batches are drawn from groups, batches are mixed and ``"mask"`` is what is done.

    Memory of stages x (encoder + items) numbers. Clusters, the stages done and the first weights belong to the
    checkpoint; clusterings start from the same items in every training of as many.

    Reference: arXiv 2402.11816; official code, for CLIP: MajorDavidZhang/MCL. Its losses for one modality are not
    published: here they are SimCLR's.

    Raises:
        ValueError: an option out of range; fewer items than clusters, or no group that makes a batch, when a stage
            begins.
    """

    clusters_of: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        *,
        items: int,
        stages: int = 2,
        clusters: int = 10,
        temperature: float = 0.5,
        dim: int = 128,
        space: str = "projection",
        init: str = "restart",
        sampling: str = "groups",
        order: str = "round_robin",
        small: str = "merge",
        least: float | None = 0.25,
        last_stage_only: bool = False,
        normalize_each: bool = False,
        stage: int | None = None,
        iterations: int = 100,
    ) -> None:
        positive(items=items, stages=stages, clusters=clusters, dim=dim, iterations=iterations)
        for name, value, known in (
            ("space", space, ("projection", "features")),
            ("init", init, ("restart", "continue")),
            ("sampling", sampling, ("groups", "mask")),
            ("order", order, ("round_robin", "random")),
            ("small", small, ("merge", "drop")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}")
        if stage is not None and not 0 <= stage < stages:
            raise ValueError(f"stage: expected 0 to {stages - 1}, got {stage}")
        if least is not None and not 0 < least < math.inf:
            raise ValueError(f"least: expected a number above 0, got {least}")
        done = isinstance(encoder.backbone, StageEnsemble)  # a run's, to be used on
        members: list[Any] = list(encoder.backbone.members) if done else [encoder]  # type: ignore[arg-type]
        super().__init__(ensemble(members, normalize_each), views, recipe)
        self._set_heads([make_head("mlp", member.features, dim) for member in members])
        self.register_buffer("clusters_of", torch.full((max(1, stages - 1), items), -1))
        # all processes make the same of them: DistributedDataParallel need not send them around before each step
        self._ddp_params_and_buffers_to_ignore = ["clusters_of"]
        self.objective = GroupNTXent(temperature)
        self.stages, self.clusters, self.space, self.init, self.sampling = stages, clusters, space, init, sampling
        self.order, self.small, self.least, self.iterations = order, small, least, iterations
        self.last_stage_only, self.normalize_each, self.stage = last_stage_only, normalize_each, stage
        self.starts = [0]  # the epoch in which each stage begins
        self._first = {} if done else {name: x.clone() for name, x in self._current().state_dict().items()}

    # The stage in training is always the last of the encoders and the last of the heads, the same modules from the
    # first step to the last; a stage that is done leaves a copy before them. So the optimiser, and other processes,
    # see the same parameters throughout.

    @property
    def reached(self) -> int:
        """The number of the stage in training."""
        return len(self._members) - 1

    @property
    def _members(self) -> list[Encoder]:
        return list(self.encoder.backbone.members)  # type: ignore[arg-type]

    @property
    def _heads(self) -> list[nn.Module]:
        assert isinstance(self.projector, StageHeads)
        return list(self.projector.heads)

    def _current(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self._members[-1], "head": self._heads[-1]})

    def _set_heads(self, heads: Sequence[nn.Module]) -> None:
        self.projector = StageHeads(heads, [member.features for member in self._members])

    def _keep(self) -> None:
        """Put a frozen copy of the stage in training before it."""
        members, heads = self._members, self._heads
        kept = copy.deepcopy(self._current()).requires_grad_(False)
        mode = self.encoder.training
        self.encoder = ensemble([*members[:-1], kept["encoder"], members[-1]], self.normalize_each)  # type: ignore[list-item]
        self.encoder.to(self.clusters_of.device).train(mode)
        self._set_heads([*heads[:-1], kept["head"], heads[-1]])

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = self._embed(torch.cat(list(views))).split([len(view) for view in views])
        if self.reached == 0:
            return self.objective(z1, z2)
        if "group" in batch:  # all of one
            return self.objective(z1, z2, batch["group"])
        return self.objective(z1, z2, self._pseudo_labels(self.clusters_of[:, self._index(batch)]))

    def _embed(self, x: Tensor, space: str = "projection") -> Tensor:
        """``z``, or ``h``, of the stage in training alone."""
        h = self._members[-1](x)
        h = nn.functional.normalize(h, dim=-1) if self.normalize_each else h
        return self._heads[-1](h) if space == "projection" else h

    def _index(self, batch: dict[str, Any]) -> Tensor:
        if "index" not in batch:
            raise ValueError("index: this method needs batch['index'], the positions of the items in the data set")
        index: Tensor = batch["index"].to(self.clusters_of.device)
        last = self.clusters_of.shape[1] - 1
        if int(index.min()) < 0 or int(index.max()) > last:
            raise ValueError(f"index: expected 0 to {last}, got {int(index.min())} to {int(index.max())}")
        return index

    def _pseudo_labels(self, clusters: Tensor) -> Tensor:
        """Groups (N,) of items from their clusters (stages, N); those of items that are not trained on are -1."""
        done = clusters[: self.reached]
        labels = cluster_pseudo_labels(list(done.clamp(min=0)), self.clusters, self.last_stage_only)
        return torch.where((done >= 0).all(0), labels, -1)

    def grouping(self) -> Grouping | None:
        if self.reached == 0 or self.sampling == "mask":
            return None
        return Grouping(self._pseudo_labels(self.clusters_of), self.order, self.small, self.least)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        if not math.isfinite(self.trainer.num_training_batches):  # where max_steps alone says how long it takes
            self.trainer.fit_loop.setup_data()
        in_epoch = -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        self._plan(in_epoch)
        optimizer, schedule = self.recipe.optimizers(self, max(1, total), [start * in_epoch for start in self.starts])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _plan(self, in_epoch: int) -> None:
        """Share the epochs, of so many steps each, out to the stages."""
        ways = [self.trainer.max_epochs or -1, -(-self.trainer.max_steps // in_epoch)]
        epochs = min((way for way in ways if way > 0), default=1)
        stages = min(self.stages, epochs)
        if stages < self.stages:
            warnings.warn(f"{epochs} epochs are room for {stages} of {self.stages} stages", stacklevel=2)
            if self.stage is not None and self.stage >= stages:
                raise ValueError(f"stage: there will be none of number {self.stage}: train for more epochs")
        self.starts = [math.ceil(number * epochs / stages) for number in range(stages)]

    def on_train_start(self) -> None:
        if self.reached and not bool((self.clusters_of[: self.reached] >= 0).any()):
            raise ValueError("encoder: its stages are trained already; training begins from an encoder of one stage")

    def on_train_epoch_start(self) -> None:
        while self.reached < sum(start <= self.current_epoch for start in self.starts) - 1:
            self.next_stage()

    @torch.no_grad()
    def next_stage(self) -> None:
        """Cluster what the stage in training makes of all items, keep it, and begin the next."""
        self.cluster(*self._embed_all())
        self._keep()
        if self.init == "restart":
            self._current().load_state_dict(self._first)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()  # no momentum of the stage before

    def _embed_all(self) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) of all training items as they are, and the items' positions (N,)."""
        loader: Any = self.trainer.train_dataloader
        source: Iterable[Any] = loader.items() if hasattr(loader, "items") else loader
        training, vectors, positions = self.training, [], []
        self.eval()
        for batch in source:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            vectors.append(self._embed(_plain(batch), self.space).float())
            positions.append(self._index(batch))
        self.train(training)
        whole, index = gather_labels(torch.cat(vectors)), gather_labels(torch.cat(positions))
        assert whole is not None
        assert index is not None
        order = index.argsort()  # the same on any number of processes
        return whole[order], index[order]

    def cluster(self, vectors: Tensor, index: Tensor) -> None:
        """Note the cluster of each of the items at ``index`` (N,), whose vectors (N, D) the stage in training made."""
        if len(vectors) < self.clusters:
            raise ValueError(f"clusters: expected at most {len(vectors)}, the items to cluster, got {self.clusters}")
        made = torch.Generator().manual_seed(self.reached)  # the same after a kill and a resume
        found = spherical_kmeans(normalize(vectors), self.clusters, self.iterations, made)[1]
        self.clusters_of[self.reached, index] = found

    def on_train_end(self) -> None:
        if self.stage is not None:
            member, head = self._members[self.stage], self._heads[self.stage]
            self.encoder = ensemble([member], self.normalize_each).to(self.device)
            self._set_heads([head])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mcl"] = {"reached": self.reached, "first": self._first}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._first = checkpoint["mcl"]["first"]
        while self.reached < checkpoint["mcl"]["reached"]:
            self._keep()  # room for the weights that are about to be loaded

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
            counts = torch.zeros(len(classes), self.clusters)
            counts.index_put_((known[seen], clusters[seen]), torch.ones(int(seen.sum())), accumulate=True)
            used = int((counts.sum(0) > 0).sum())
            text = (
                f"Share of the training items of each label in each of the {self.clusters} clusters, of which {used} "
                f"are in use. Stage {number + 1} had to tell apart the items of one column"
                + (" that all earlier stages put together too." if number else ".")
            )
            shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
            names = [str(k) for k in range(self.clusters)]
            found.append(Heatmap(f"Labels in the clusters of stage {number}", text, shares, classes, names))
        return found


def _plain(batch: dict[str, Any]) -> Tensor:
    """The items of a batch as they are; where there are only views, the first."""
    for modality in ("image", "vector"):
        if modality in batch:
            x: Tensor = batch[modality]
            return x.float() / 255 if x.dtype == torch.uint8 else x
    return batch["views"][0]
