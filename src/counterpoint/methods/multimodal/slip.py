"""SLIP: Self-supervision meets Language-Image Pre-training (Mu et al., ECCV 2022), with any companion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods import get
from counterpoint.methods.base import Method, Recipe
from counterpoint.methods.multimodal.clip import CLIP

WEIGHTS = {"simclr": 1.0, "byol": 1.0, "simsiam": 1.0, "barlow": 0.025, "vicreg": 0.04}
OPTIONS = {"simclr": {"temperature": 0.1}}
HOOKS = ("prepare", "grouping", "on_train_start", "on_train_epoch_start", "on_train_epoch_end")  # that fit calls


class SLIP(CLIP):
    """CLIP, and a self-supervised method of one modality on two more views of its images.

    What the papers on CLIP-rocket compare with: the companion sees images alone, where SiamLIP, BYOLIP, BarLIP and
    SwALIP work between image and caption. The first view of a pair is CLIP's, the next two are the companion's.

    Args:
        encoder, views, recipe, dim, head, freeze, temperature, learn_temperature: see
            :class:`~counterpoint.methods.multimodal.clip.CLIP`.
        companion: ``"simclr"``, SLIP's; ``"byol"``, ``"simsiam"``, ``"barlow"`` or ``"vicreg"``; or any other method of
            one modality and two views that learns from batches alone.
        companion_options: of that method; SimCLR's temperature is 0.1 here, as in SLIP.
        weight: of the companion's loss. ``None``: 1 for SimCLR, as in SLIP, BYOL and SimSiam; 0.025 for Barlow Twins,
            as in BarLIP; 0.04 for VICReg, whose own weights are 25; 1 for others. But for the first and the fourth
            these are ours.
        modality: which one the companion sees; ``None``: the first image, or the first of all.

    Reference: arXiv 2112.12750.

    Raises:
        ValueError: fewer than three views; a companion that is no method of one modality; a frozen tower for it.
    """

    auto_views = "slip"
    n_views = None
    paired = False

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        temperature: float = 0.07,
        learn_temperature: bool = True,
        companion: str = "simclr",
        companion_options: dict[str, Any] | None = None,
        weight: float | None = None,
        modality: str | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze, temperature, learn_temperature)
        images = [name for name, tower in encoder.towers.items() if tower.kind == "image"]
        self.seen = modality or (images or self.names)[0]
        if self.seen not in self.names:
            raise ValueError(f"modality: there is no {modality!r}; there are {', '.join(self.names)}")
        tower = encoder.towers[self.seen]
        if tower.frozen:
            raise ValueError(f"freeze: the companion trains the encoder of {self.seen!r}, so that it cannot be frozen")
        kind = get(companion)
        if (
            getattr(kind, "multimodal", False)
            or not kind.learns
            or kind.needs_labels
            or kind.needs_target
            or kind.n_views not in (2, None)
            or any(getattr(kind, hook) is not getattr(Method, hook) for hook in HOOKS)
        ):
            raise ValueError(
                f"companion: expected a method of two views of one modality that needs nothing but batches, such as "
                f"simclr, got {companion!r}"
            )
        self.weight = WEIGHTS.get(companion, 1.0) if weight is None else weight
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight: expected a finite number of at least 0, got {self.weight}")
        try:
            self.companion = kind(
                tower.encoder, None, None, **{**OPTIONS.get(companion, {}), **(companion_options or {})}
            )
        except TypeError as error:
            raise ValueError(f"companion_options: {companion} cannot take {companion_options}: {error}") from error

    def loss(self, views: Sequence[Any], batch: dict[str, Any]) -> Tensor:
        if len(views) < 3:
            raise ValueError(
                f"views: SLIP needs 3, one for CLIP and two for its companion, and there are {len(views)}; take slip"
            )
        clip = super().loss(views[:1], batch)
        there = self.both(batch, self.seen)
        pair = [view[self.seen] if there is None else view[self.seen][there] for view in views[1:3]]
        if not self._enough(pair[0]):
            return clip
        own = {name: value if there is None else value[there] for name, value in batch.items() if name == "index"}
        return self.total(clip=clip, companion=self.weight * self.companion.loss(pair, own))

    def after_step(self) -> None:
        super().after_step()
        self.companion.after_step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.companion.on_before_optimizer_step(optimizer)
