"""MCL on CLIP: Learning the Unlearned (Zhang et al., ECCV 2024), on pairs of two modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder, StagedEncoder, Tower
from counterpoint.findings import Finding
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, some_rows
from counterpoint.methods.stages import Staged, Stages
from counterpoint.objectives import GroupInfoNCE
from counterpoint.objectives.inputs import positive


class MCLCLIP(Staged, Multimodal):
    """CLIP in stages: each new stage must tell apart the pairs that the stages before it put into one cluster.

    Stage 0 is plain CLIP, or a trained run of it. After a stage the images of all training items are embedded and
    clustered; items that all stages so far put together are a group, and each batch of the next stage is drawn from a
    single group, with CLIP's loss as it is. The encoder that results has the embeddings of all stages side by side, of
    both modalities; :meth:`~counterpoint.encoders.StagedEncoder.stage` of it gives one stage.

    The official way is to start from CLIP's own weights, with the text tower locked and the image tower locked but for
    its last layers::

        fit(pairs, "mcl_clip", encoder="runs/clip", options={"first": "given", "stages": 4,
            "freeze": {"text": True, "image": 6}})

    Args:
        encoder, views, recipe, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        dim: D of each stage; ``None``: of the towers where they come with heads, or 128.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        stages: S; 2, ours. The authors have 4, of which the first is not trained.
        first: ``"train"``: stage 0 is trained as the others are; ``"given"``: it is the towers as they come, as in the
            official code. They must come with heads: those of a run.
        by: the modality that is clustered: the first of images, as in the official code, or the first where there are
            none. Items that lack it are a group of their own.
        clusters, space, init, sampling, order, small, least, last_stage_only, stage, iterations: see
            :class:`~counterpoint.methods.vision.mcl.MCL`; the spaces are the common one and the features of the tower.
        normalize_each: bring the embeddings of each stage to length 1 before they are put side by side; the official
            code does not.
        temperature: where the learned one starts, 0.07 (CLIP); that of the run where stage 0 is given. Each stage that
            begins anew begins with it.
        learn_temperature: ``False`` keeps it.

    With more than two modalities the loss is a sum over pairs of them, as of CLIP.

    Reference: arXiv 2402.11816; official code: MajorDavidZhang/MCL.

    Raises:
        ValueError: an option out of range; a modality that is none; a first stage that is given without heads.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str = "linear",
        freeze: Sequence[str] | Mapping[str, bool | int] = (),
        *,
        items: int,
        stages: int = 2,
        clusters: int = 10,
        first: str = "train",
        by: str = "",
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
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        how = Stages(
            stages, clusters, first, space, init, sampling, order, small, least, last_stage_only, stage, iterations
        )
        positive(temperature=temperature)
        done = isinstance(encoder, StagedEncoder)  # a run's, to be used on
        if first == "given" and encoder.dim is None:
            raise ValueError("first: 'given' needs towers that are trained; name the folder of a run as encoder")
        if done or first == "given":
            if dim is not None and not done and dim != encoder.dim:
                raise ValueError(f"dim: expected {encoder.dim}, that of the given towers, got {dim}")
            dim, head = encoder.dim, encoder.head or head
        super().__init__(encoder, views, recipe, dim or encoder.dim or 128, head, freeze)
        if not isinstance(encoder, StagedEncoder):
            self.encoder = StagedEncoder(encoder, 1, normalize_each)
        kinds = {name: tower.kind for name, tower in self.encoder.towers.items()}
        self.by = by or next((name for name, kind in kinds.items() if kind == "image"), self.names[0])
        if self.by not in kinds:
            raise ValueError(f"by: there is no modality {by!r}; there are {', '.join(kinds)}")
        self.objective = GroupInfoNCE(temperature)
        self.scale = LogitScale(1 / temperature, largest=max(100.0, 1 / temperature), learn=learn_temperature)
        if first == "given":
            self.recall(encoder.extra)
        self.begin(how, items, self.reached)

    @property
    def staged(self) -> StagedEncoder:
        """The encoder of all stages."""
        assert isinstance(self.encoder, StagedEncoder)
        return self.encoder

    @property
    def reached(self) -> int:
        return self.staged.stages - 1

    def tower(self, name: str) -> Tower:
        found: Tower = self.encoder.towers[name].last
        return found

    def current(self) -> nn.ModuleDict:
        return nn.ModuleDict({"towers": nn.ModuleDict({n: self.tower(n) for n in self.names}), "scale": self.scale})

    def keep(self) -> None:
        self.staged.keep()

    def take(self, stage: int) -> None:
        self.encoder = StagedEncoder(self.staged.stage(stage), 1, self.staged.normalize_each)

    def vectors(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        index, there, x = self.index(batch), self.both(batch, self.by), batch[self.by]
        tower = self.tower(self.by)
        embed = tower if self.how.space == "projection" else tower.features
        if there is None or bool(there.all()):
            return embed(x), index
        rows = there.nonzero()[:, 0]
        return embed(some_rows(x, rows)) if len(rows) else embed(x)[:0], index[rows]

    def loss(self, views: Sequence[Any], batch: dict[str, Any]) -> Tensor:
        z, groups, scale = self.embed_present(views[0], batch), self.groups(batch), self.scale()
        terms = {}
        for a, b, x, y in self.pairs(z, batch):
            there = self.both(batch, a, b)
            some = groups if groups is None or there is None else groups[there.to(groups.device)]
            terms[f"{a}_{b}"] = self.objective(x, y, some, scale)
        return self.total(**terms) if terms else self.nothing(z)

    def after_step(self) -> None:
        self.scale.clamp()

    @torch.no_grad()
    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        return [*Multimodal.findings(self, dataset, indices), *Staged.findings(self, dataset, indices)]
