"""MCL, multistage contrastive learning: Learning the Unlearned (Zhang et al., ECCV 2024)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder, StageEnsemble, ensemble
from counterpoint.encoders.heads import make_head
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.stages import Staged, Stages
from counterpoint.objectives import GroupNTXent
from counterpoint.objectives.inputs import positive


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


class MCL(Staged):
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
        first: ``"train"``: stage 0 is trained as the others are; ``"given"``: it is the encoder as it comes, such as
            that of a run of SimCLR (``fit --encoder``), from whose weights the others start, as in the official code.
            The head is new then, so that ``space`` must be ``"features"``.
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
        first: str = "train",
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
        positive(dim=dim)
        how = Stages(
            stages, clusters, first, space, init, sampling, order, small, least, last_stage_only, stage, iterations
        )
        if (first, space) == ("given", "projection"):
            raise ValueError("space: expected 'features' where the first stage is given, since its head is new")
        done = isinstance(encoder.backbone, StageEnsemble)  # a run's, to be used on
        members: list[Any] = list(encoder.backbone.members) if done else [encoder]  # type: ignore[arg-type]
        super().__init__(ensemble(members, normalize_each), views, recipe)
        self._set_heads([make_head("mlp", member.features, dim) for member in members])
        self.objective = GroupNTXent(temperature)
        self.normalize_each = normalize_each
        self.begin(how, items, len(members) - 1)

    @property
    def reached(self) -> int:
        return len(self._members) - 1

    @property
    def _members(self) -> list[Encoder]:
        return list(self.encoder.backbone.members)  # type: ignore[arg-type]

    @property
    def _heads(self) -> list[nn.Module]:
        assert isinstance(self.projector, StageHeads)
        return list(self.projector.heads)

    def current(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self._members[-1], "head": self._heads[-1]})

    def _set_heads(self, heads: Sequence[nn.Module]) -> None:
        self.projector = StageHeads(heads, [member.features for member in self._members])

    def keep(self) -> None:
        members, heads = self._members, self._heads
        kept = copy.deepcopy(self.current()).requires_grad_(False)
        mode = self.encoder.training
        self.encoder = ensemble([*members[:-1], kept["encoder"], members[-1]], self.normalize_each)  # type: ignore[list-item]
        self.encoder.to(self.clusters_of.device).train(mode)
        self._set_heads([*heads[:-1], kept["head"], heads[-1]])

    def take(self, stage: int) -> None:
        member, head = self._members[stage], self._heads[stage]
        self.encoder = ensemble([member], self.normalize_each).to(self.device)
        self._set_heads([head])

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = self._embed(torch.cat(list(views))).split([len(view) for view in views])
        return self.objective(z1, z2, self.groups(batch))

    def _embed(self, x: Tensor, space: str = "projection") -> Tensor:
        """``z``, or ``h``, of the stage in training alone."""
        h = self._members[-1](x)
        h = nn.functional.normalize(h, dim=-1) if self.normalize_each else h
        return self._heads[-1](h) if space == "projection" else h

    def vectors(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self._embed(_plain(batch), self.how.space), self.index(batch)


def _plain(batch: dict[str, Any]) -> Tensor:
    """The items of a batch as they are; where there are only views, the first."""
    for modality in ("image", "vector"):
        if modality in batch:
            x: Tensor = batch[modality]
            return x.float() / 255 if x.dtype == torch.uint8 else x
    return batch["views"][0]
